//! Stored data that is not what was written: the replica is taken out of use at once, its files
//! are kept aside, the controller takes it out of the ISR, and only then it begins anew, empty,
//! and refills from its leader. A broker asks to be unfenced only once nothing is left to tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_log::{Damage, LogStore};
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, MetadataOffset, TopicIdPartition};
use ottla_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::controllers::Controllers;
use crate::image::ImageStore;
use crate::manager::ReplicaManager;
use crate::registration::Registration;
use crate::replica::chain;

/// How long the controllers get to take a report before it is made again.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The most partitions in one report.
const PARTITIONS_MAX: usize = 10_000;

/// Damage that readers met, on its way to [`DamageReports`]. Bounded by the number of partitions.
#[derive(Debug, Default)]
pub struct DamageFound {
    found: Mutex<BTreeMap<TopicIdPartition, String>>,
    added: Notify,
}

impl DamageFound {
    /// Never blocks: may be called from anywhere.
    pub fn add(&self, id: TopicIdPartition, why: String) {
        self.found.lock().entry(id).or_insert(why);
        self.added.notify_one();
    }

    fn take(&self) -> BTreeMap<TopicIdPartition, String> {
        std::mem::take(&mut self.found.lock())
    }
}

/// Takes care of damage, for the life of the broker.
pub struct DamageReports {
    pub store: Arc<LogStore>,
    pub manager: Arc<ReplicaManager>,
    pub controllers: Arc<Controllers>,
    pub registration: Arc<Registration>,
    pub image: Arc<ImageStore>,
    pub found: Arc<DamageFound>,
}

impl DamageReports {
    pub async fn run(self: Arc<Self>) {
        loop {
            let found = self.found.take();
            if !found.is_empty() {
                let manager = Arc::clone(&self.manager);
                let quarantine = move || {
                    found
                        .iter()
                        .for_each(|(id, why)| manager.quarantine(*id, why));
                };
                self.blocking(quarantine).await;
            }
            let damage = self.store.damage();
            if damage.is_empty() {
                self.registration.set_ready();
                self.found.added.notified().await;
                continue;
            }
            match self.report(&damage).await {
                Ok(offset) => {
                    self.image.wait_for(offset).await;
                    self.begin_anew(damage).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "damaged replicas could not be reported yet");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Lets the replicas refill that nobody counts on any more.
    async fn begin_anew(&self, damage: Damage) {
        let (store, manager) = (Arc::clone(&self.store), Arc::clone(&self.manager));
        let forget = move || {
            if let Err(error) = store.forget_damage(&damage) {
                let why = chain(&error);
                manager.fail(format!("cannot forget damage that was reported: {why}"));
                return;
            }
            manager.apply_again();
        };
        self.blocking(forget).await;
    }

    async fn blocking(&self, work: impl FnOnce() + Send + 'static) {
        if tokio::task::spawn_blocking(work).await.is_err() {
            tracing::error!("taking care of damaged replicas panicked");
        }
    }

    /// Tells the active controller; returns the metadata offset at which it holds.
    async fn report(&self, damage: &Damage) -> Result<MetadataOffset, ApiError> {
        let mut standing = self.registration.standing();
        // The sender lives as long as this task.
        let _ = standing.wait_for(|standing| standing.epoch.is_some()).await;
        let Some(epoch) = self.registration.epoch() else {
            return Ok(MetadataOffset(0));
        };
        if damage.all.is_some() {
            return self.send(self.request(epoch, None)).await;
        }
        let ids: Vec<_> = damage.logs.keys().copied().collect();
        let mut offset = MetadataOffset(0);
        for some in ids.chunks(PARTITIONS_MAX) {
            offset = self.send(self.request(epoch, Some(some))).await?;
        }
        Ok(offset)
    }

    fn request(
        &self,
        epoch: BrokerEpoch,
        partitions: Option<&[TopicIdPartition]>,
    ) -> v1::ReportDamageRequest {
        let damaged = |id: &TopicIdPartition| v1::DamagedPartition {
            topic_id: Bytes::copy_from_slice(id.topic.as_bytes()),
            partition: id.partition.0,
        };
        v1::ReportDamageRequest {
            broker_id: self.registration.node_id().0,
            broker_epoch: epoch.0,
            all: partitions.is_none(),
            partitions: partitions.unwrap_or_default().iter().map(damaged).collect(),
        }
    }

    async fn send(&self, request: v1::ReportDamageRequest) -> Result<MetadataOffset, ApiError> {
        let deadline = Instant::now() + REPORT_TIMEOUT;
        let answer = self.controllers.call(deadline, |mut client| {
            let request = request.clone();
            async move {
                client
                    .report_damage(request)
                    .await
                    .map(tonic::Response::into_inner)
            }
        });
        Ok(MetadataOffset(answer.await?.metadata_offset))
    }
}
