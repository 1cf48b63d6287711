//! Tells a dead broker from a lost connection: when its control stream closes, its port is asked
//! which process is there. Nobody, or another process: it is gone, and is fenced at once. No
//! answer: the session timeout decides.

use std::sync::Arc;
use std::time::Duration;

use ottla_controller_core::Request;
use ottla_metadata::{Cause, Endpoint};
use ottla_model::{BrokerEpoch, IncarnationId, NodeId};
use ottla_proto::v1;
use ottla_proto::v1::replica_service_client::ReplicaServiceClient;
use tokio::sync::Notify;

use crate::active::Decisions;
use crate::connection::{channel, is_refused};

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

/// Looks after a broker whose stream closed, and has it fenced if its process is gone.
pub async fn look_after(decisions: Decisions, suspect: Suspect, timeout: Duration) {
    for pause in LOOKS {
        tokio::time::sleep(pause).await;
        if fence_if_gone(&decisions, suspect.clone(), timeout).await {
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
        for _ in 0..UNSEEN_LOOKS {
            tokio::time::sleep(UNSEEN_PAUSE).await;
            let unseen = decisions.unseen_brokers().into_iter().map(|broker| {
                let suspect = Suspect {
                    broker: broker.broker,
                    epoch: broker.epoch,
                    incarnation: broker.incarnation,
                    internal_endpoint: broker.internal_endpoint,
                };
                fence_if_gone(&decisions, suspect, timeout)
            });
            futures::future::join_all(unseen).await;
        }
        let over = status
            .wait_for(|now| !now.is_leader || now.term != term)
            .await
            .is_err();
        if over {
            return;
        }
    }
}

/// One look at a broker. True if it is gone, and its fencing was asked for.
async fn fence_if_gone(decisions: &Decisions, suspect: Suspect, timeout: Duration) -> bool {
    if probe(&suspect, timeout).await != Found::Gone {
        return false;
    }
    tracing::info!(broker = %suspect.broker, epoch = %suspect.epoch, "a broker's process is gone");
    let request = Request::Fence {
        broker: suspect.broker,
        broker_epoch: suspect.epoch,
        cause: Cause::ConnectionClosed,
    };
    if let Err(error) = decisions.ask(request, FENCE_TIMEOUT).await {
        tracing::info!(broker = %suspect.broker, %error, "a broker that is gone was not fenced here");
    }
    true
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
