//! Changes of in-sync replicas on their way to the controller: collected, one call in flight,
//! every partition's result handed back to its core.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_broker_core::partition::Input;
use ottla_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, PartitionEpoch, TopicIdPartition};
use ottla_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::controllers::Controllers;
use crate::manager::ReplicaManager;
use crate::registration::Registration;

/// How long the controller gets to answer; then the core decides whether to ask again.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// The most partitions in one call.
const PARTITIONS_MAX: usize = 5_000;

/// One partition's wanted change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsrChange {
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the change is based on.
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<(NodeId, BrokerEpoch)>,
}

/// Changes that wait to be sent. Bounded by the number of partitions.
#[derive(Debug, Default)]
pub struct IsrUpdates {
    waiting: Mutex<BTreeMap<TopicIdPartition, IsrChange>>,
    added: Notify,
}

impl IsrUpdates {
    pub fn request(&self, id: TopicIdPartition, change: IsrChange) {
        self.waiting.lock().insert(id, change);
        self.added.notify_one();
    }

    pub(crate) fn take(&self) -> Vec<(TopicIdPartition, IsrChange)> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::new();
        while taken.len() < PARTITIONS_MAX
            && let Some(change) = waiting.pop_first()
        {
            taken.push(change);
        }
        taken
    }

    /// Sends changes as they come, for the life of the broker.
    pub async fn run(
        self: Arc<Self>,
        manager: Arc<ReplicaManager>,
        controllers: Arc<Controllers>,
        registration: Arc<Registration>,
    ) {
        loop {
            let changes = self.take();
            if changes.is_empty() {
                self.added.notified().await;
                continue;
            }
            let results = match registration.epoch() {
                Some(epoch) => send(&changes, &controllers, &registration, epoch).await,
                None => vec![Err(ErrorCode::BrokerIdNotRegistered); changes.len()],
            };
            for ((id, change), result) in changes.into_iter().zip(results) {
                if let Some(replica) = manager.get(id) {
                    let partition_epoch = change.partition_epoch;
                    replica.step(Input::AlterPartitionResult {
                        partition_epoch,
                        result,
                    });
                }
            }
        }
    }
}

async fn send(
    changes: &[(TopicIdPartition, IsrChange)],
    controllers: &Controllers,
    registration: &Registration,
    epoch: BrokerEpoch,
) -> Vec<Result<(), ErrorCode>> {
    let partitions = changes
        .iter()
        .map(|(id, change)| v1::AlterPartition {
            topic_id: id.topic.as_bytes().to_vec().into(),
            partition: id.partition.0,
            leader_epoch: change.leader_epoch.0,
            partition_epoch: change.partition_epoch.0,
            isr: change
                .isr
                .iter()
                .map(|(broker, epoch)| v1::IsrMember {
                    broker_id: broker.0,
                    broker_epoch: epoch.0,
                })
                .collect(),
        })
        .collect();
    let request = v1::AlterPartitionsRequest {
        broker_id: registration.node_id().0,
        broker_epoch: epoch.0,
        partitions,
    };
    let deadline = Instant::now() + CALL_TIMEOUT;
    let answer = controllers
        .call(deadline, |mut client| {
            let request = request.clone();
            async move {
                client
                    .alter_partitions(request)
                    .await
                    .map(tonic::Response::into_inner)
            }
        })
        .await;
    match answer {
        Ok(response) => {
            let mut results = response.results.iter().map(result_of);
            changes
                .iter()
                .map(|_| results.next().unwrap_or(Err(ErrorCode::UnknownServerError)))
                .collect()
        }
        Err(error) => {
            tracing::warn!(%error, partitions = changes.len(), "the controller did not take ISR changes");
            vec![Err(error.code); changes.len()]
        }
    }
}

fn result_of(result: &v1::AlterPartitionResult) -> Result<(), ErrorCode> {
    if result.error_code == 0 {
        return Ok(());
    }
    let code = i16::try_from(result.error_code)
        .ok()
        .and_then(ErrorCode::from_number);
    Err(code.unwrap_or(ErrorCode::UnknownServerError))
}
