//! The active controller: requests in, decisions of the core, entries to the quorum, replies once
//! they are applied. Beats take another way, past the decisions.

mod chunk;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_controller_core::{BeatOutcome, BeatState, ControllerCore, Reply, Request};
use ottla_metadata::BrokerRegistration;
use ottla_model::error::ApiError;
use ottla_model::limits::CONTROLLER_QUEUE_MAX;
use ottla_model::{BrokerEpoch, ErrorCode, Instant, MetadataOffset, NodeId};
use ottla_shell::Clock;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::quorum::QuorumStatus;

pub use worker::Worker;

/// A reply, and the metadata offset at which it is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub reply: Reply,
    pub offset: MetadataOffset,
}

/// A request that waits for its decision.
struct Ask {
    request: Request,
    answer: oneshot::Sender<Result<Decided, ApiError>>,
}

/// The newest beat of each broker: noted before the core is asked for, so that a decision under
/// way never makes a broker look silent.
type Beats = BTreeMap<NodeId, (BrokerEpoch, Instant, BeatState)>;

/// What the worker and the handlers share.
struct Shared {
    core: Mutex<ControllerCore>,
    beats: Mutex<Beats>,
    clock: Clock,
    /// Wakes the worker when its next deadline may have changed.
    poke: Notify,
}

/// The way to the active controller's decisions. Clones lead to the same one.
#[derive(Clone)]
pub struct Decisions {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
    status: watch::Receiver<QuorumStatus>,
}

impl Decisions {
    fn new(
        core: ControllerCore,
        clock: Clock,
        status: watch::Receiver<QuorumStatus>,
    ) -> (Decisions, Arc<Shared>, mpsc::Receiver<Ask>) {
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            beats: Mutex::default(),
            clock,
            poke: Notify::new(),
        });
        let (asks, receiver) = mpsc::channel(CONTROLLER_QUEUE_MAX);
        let decisions = Decisions {
            shared: Arc::clone(&shared),
            asks,
            status,
        };
        (decisions, shared, receiver)
    }

    /// Has a request decided, and waits until its records are applied here.
    ///
    /// # Errors
    /// The core's refusal; `NotController` if another controller is active;
    /// `NoControllerQuorum` if none is, or no majority answered in time.
    pub async fn ask(&self, request: Request, timeout: Duration) -> Result<Decided, ApiError> {
        let status = *self.status.borrow();
        if !status.is_leader {
            return Err(not_active(status));
        }
        let (answer, decided) = oneshot::channel();
        if self.asks.try_send(Ask { request, answer }).is_err() {
            let message = format!(
                "the active controller already has {CONTROLLER_QUEUE_MAX} requests waiting; try again after a pause"
            );
            return Err(ApiError::new(ErrorCode::ThrottlingQuotaExceeded, message));
        }
        match tokio::time::timeout(timeout, decided).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(no_quorum(
                "this controller stopped being active before the decision was committed; it may still take effect",
            )),
            Err(_) => Err(no_quorum(&format!(
                "the decision was not committed within {timeout:?}, because no majority of controllers answered; it may still take effect"
            ))),
        }
    }

    /// A broker beat.
    pub fn on_beat(&self, broker: NodeId, epoch: BrokerEpoch, beat: BeatState) -> BeatOutcome {
        let now = self.shared.clock.now();
        self.shared.beats.lock().insert(broker, (epoch, now, beat));
        self.shared.core.lock().on_beat(now, broker, epoch, beat)
    }

    /// A control stream of a registered broker opened.
    pub fn on_connected(&self, broker: NodeId, epoch: BrokerEpoch) {
        let now = self.shared.clock.now();
        self.shared.core.lock().on_connected(now, broker, epoch);
        self.shared.poke.notify_one();
    }

    /// A control stream of a registered broker closed.
    pub fn on_disconnected(&self, broker: NodeId, epoch: BrokerEpoch) {
        let now = self.shared.clock.now();
        self.shared.core.lock().on_disconnected(now, broker, epoch);
        self.shared.poke.notify_one();
    }

    /// Unfenced brokers that have not connected since this controller became active.
    pub fn unseen_brokers(&self) -> Vec<BrokerRegistration> {
        self.shared.core.lock().unseen_brokers()
    }

    /// Who leads, and every change of it.
    pub fn status(&self) -> watch::Receiver<QuorumStatus> {
        self.status.clone()
    }
}

/// The refusal of a controller that is not active.
pub fn not_active(status: QuorumStatus) -> ApiError {
    match status.leader {
        Some(leader) if !status.is_leader => {
            let message = format!("this controller is not active; controller {leader} is");
            ApiError::new(ErrorCode::NotController, message)
        }
        _ => no_quorum("no controller is active, because no majority of controllers answers"),
    }
}

fn no_quorum(message: &str) -> ApiError {
    ApiError::new(ErrorCode::NoControllerQuorum, message)
}
