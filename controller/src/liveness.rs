//! Tells a dead broker from a lost connection: when its control stream closes, its port is asked
//! which process is there. Nobody, or another process: it is gone, and is fenced at once. No
//! answer: the session timeout decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ottla_controller_core::Request;
use ottla_metadata::{Cause, Endpoint};
use ottla_model::{BrokerEpoch, IncarnationId, NodeId};
use ottla_proto::v1;
use ottla_proto::v1::replica_service_client::ReplicaServiceClient;
use tokio::sync::Notify;

use crate::active::Decisions;
use crate::connection::{channel, is_refused};
use crate::quorum::QuorumStatus;

/// A dying process closes its sockets one by one, so its port is looked at more than once.
const LOOKS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(30),
    Duration::from_millis(150),
];
/// How long the fencing may take before the session timeout is left to do it.
const FENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often, and how long after becoming active, brokers that do not connect are looked at. After
/// that their session timeout decides.
const UNSEEN_PAUSE: Duration = Duration::from_millis(100);
const UNSEEN_LOOKS: usize = 20;

/// A broker whose control stream closed.
#[derive(Debug, Clone)]
pub struct Suspect {
    pub broker: NodeId,
    pub epoch: BrokerEpoch,
    pub incarnation: IncarnationId,
    pub internal_endpoint: Endpoint,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Gone,
    Alive,
    Unknown,
}

/// What was told of brokers that are gone, so that it is not told at each look.
#[derive(Debug, Default)]
struct Told(BTreeSet<(NodeId, BrokerEpoch)>);

impl Told {
    fn is_news(&mut self, suspect: &Suspect) -> bool {
        self.0.insert((suspect.broker, suspect.epoch))
    }
}

/// Looks after a broker whose stream closed, and has it fenced if its process is gone.
pub async fn look_after(decisions: Decisions, suspect: Suspect, timeout: Duration) {
    for pause in LOOKS {
        tokio::time::sleep(pause).await;
        if is_gone(&suspect, timeout).await {
            fence(&decisions, &suspect, true).await;
            return;
        }
    }
    tracing::info!(broker = %suspect.broker, "a broker's stream closed, but its process was not found gone; its session goes on");
}

/// Whenever this controller becomes active, looks after the brokers that do not connect to it:
/// they may have died while nobody was active, and no stream of theirs will close here.
pub async fn look_after_unseen(decisions: Decisions, timeout: Duration) {
    let mut status = decisions.status();
    loop {
        // An error means that the consensus is gone.
        let Ok(term) = status
            .wait_for(|now| now.is_leader)
            .await
            .map(|now| now.term)
        else {
            return;
        };
        let is_over = |now: &QuorumStatus| !now.is_leader || now.term != term;
        let mut told = Told::default();
        for _ in 0..UNSEEN_LOOKS {
            tokio::time::sleep(UNSEEN_PAUSE).await;
            if is_over(&status.borrow()) {
                break;
            }
            look_at_unseen(&decisions, timeout, &mut told).await;
        }
        if status.wait_for(is_over).await.is_err() {
            return;
        }
    }
}

/// One look at every broker that has not connected.
async fn look_at_unseen(decisions: &Decisions, timeout: Duration, told: &mut Told) {
    let unseen = decisions.unseen_brokers().into_iter().map(|broker| {
        let suspect = Suspect {
            broker: broker.broker,
            epoch: broker.epoch,
            incarnation: broker.incarnation,
            internal_endpoint: broker.internal_endpoint,
        };
        async move { is_gone(&suspect, timeout).await.then_some(suspect) }
    });
    let gone = join_all(unseen).await.into_iter().flatten();
    let fencing = gone.map(|suspect| {
        let is_news = told.is_news(&suspect);
        async move { fence(decisions, &suspect, is_news).await }
    });
    join_all(fencing).await;
}

async fn is_gone(suspect: &Suspect, timeout: Duration) -> bool {
    probe(suspect, timeout).await == Found::Gone
}

/// Has a broker fenced whose process is gone.
async fn fence(decisions: &Decisions, suspect: &Suspect, is_news: bool) {
    if is_news {
        tracing::info!(broker = %suspect.broker, epoch = %suspect.epoch, "a broker's process is gone");
    }
    let request = Request::Fence {
        broker: suspect.broker,
        broker_epoch: suspect.epoch,
        cause: Cause::ConnectionClosed,
    };
    match decisions.ask(request, FENCE_TIMEOUT).await {
        Err(error) if is_news => {
            tracing::info!(broker = %suspect.broker, %error, "a broker that is gone was not fenced here");
        }
        _ => {}
    }
}

async fn probe(suspect: &Suspect, timeout: Duration) -> Found {
    if is_refused(&suspect.internal_endpoint, timeout).await {
        return Found::Gone;
    }
    let channel = channel(&suspect.internal_endpoint, Arc::new(Notify::new()));
    let mut client = ReplicaServiceClient::new(channel);
    let probed = tokio::time::timeout(timeout, client.probe(v1::ProbeRequest {})).await;
    let Ok(Ok(answer)) = probed else {
        return Found::Unknown;
    };
    match IncarnationId::from_slice(&answer.into_inner().incarnation_id) {
        Some(incarnation) if incarnation == suspect.incarnation => Found::Alive,
        _ => Found::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_stays_gone_is_told_of_once() {
        let suspect = |broker, epoch| Suspect {
            broker: NodeId(broker),
            epoch: BrokerEpoch(epoch),
            incarnation: IncarnationId::from_random(1),
            internal_endpoint: Endpoint::new("127.0.0.1", 1),
        };
        let mut told = Told::default();
        assert!(told.is_news(&suspect(1, 5)));
        assert!(!told.is_news(&suspect(1, 5)));
        assert!(told.is_news(&suspect(2, 5)));
        // Another run of it.
        assert!(told.is_news(&suspect(1, 8)));
    }
}
