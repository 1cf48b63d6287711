//! The loop of the active controller. Requests that wait are decided one after the other and
//! proposed as one entry; while it commits, the next ones gather. A reply is released when its
//! records are committed and replayed.

use std::sync::Arc;

use ottla_controller_core::{
    BeatOutcome, BeatState, ControllerConfig, ControllerCore, RegisterController, Reply, Request,
};
use ottla_metadata::{MetadataBatch, MetadataRecord};
use ottla_model::error::ApiError;
use ottla_model::limits::{CONTROLLER_QUEUE_MAX, METADATA_RECORDS_PER_ENTRY_MAX};
use ottla_model::{BrokerEpoch, ClusterId, ErrorCode, MetadataOffset, NodeId};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::clock::{Clock, random};
use crate::quorum::{ProposeError, Quorum, QuorumStatus};

/// A decision that is committed, and the metadata offset from which on it holds.
pub type Decided = (Reply, MetadataOffset);

/// One request and who waits for its decision.
struct Ask {
    request: Request,
    reply: oneshot::Sender<Result<Decided, ApiError>>,
}

/// A request that was decided, and waits for its records to commit.
struct Waiting {
    reply: Reply,
    end: MetadataOffset,
    to: oneshot::Sender<Result<Decided, ApiError>>,
}

/// The active controller, or a standby that refuses.
pub struct ActiveController {
    pub clock: Clock,
    pub quorum: Quorum,
    core: Mutex<ControllerCore>,
    asks: mpsc::Sender<Ask>,
    status: watch::Receiver<QuorumStatus>,
    /// Who this controller is to others, for its own registration.
    itself: RegisterController,
}

/// The receiving end that [`ActiveController::run`] works from.
pub struct Inbox(mpsc::Receiver<Ask>);

impl ActiveController {
    pub fn new(
        config: ControllerConfig,
        quorum: Quorum,
        itself: RegisterController,
    ) -> (ActiveController, Inbox) {
        let (asks, inbox) = mpsc::channel(CONTROLLER_QUEUE_MAX);
        let controller = ActiveController {
            clock: Clock::start(),
            status: quorum.status(),
            quorum,
            core: Mutex::new(ControllerCore::new(config)),
            asks,
            itself,
        };
        (controller, Inbox(inbox))
    }

    pub fn status(&self) -> watch::Receiver<QuorumStatus> {
        self.status.clone()
    }

    pub fn is_active(&self) -> bool {
        self.status.borrow().active_term.is_some()
    }

    /// Has a request decided, at most until `deadline`. After it the outcome is unknown.
    pub async fn ask(&self, request: Request, deadline: Instant) -> Result<Decided, ApiError> {
        if !self.is_active() {
            return Err(self.not_active());
        }
        let (reply, decided) = oneshot::channel();
        self.asks.try_send(Ask { request, reply }).map_err(|_| {
            let message =
                format!("{CONTROLLER_QUEUE_MAX} requests wait for the controller; try again");
            ApiError::new(ErrorCode::ThrottlingQuotaExceeded, message)
        })?;
        match timeout_at(deadline, decided).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(self.not_active()),
            Err(_) => Err(ApiError::new(
                ErrorCode::NoControllerQuorum,
                "there is no controller quorum: a majority of the controllers did not confirm the \
                 decision in time; it may still take effect",
            )),
        }
    }

    /// Why this controller does not decide.
    fn not_active(&self) -> ApiError {
        match self.status.borrow().leader {
            Some(leader) if leader != self.itself.controller => ApiError::new(
                ErrorCode::NotController,
                format!(
                    "controller {} is not the active one; {leader} is",
                    self.itself.controller
                ),
            ),
            _ => ApiError::new(
                ErrorCode::NoControllerQuorum,
                "there is no controller quorum: no controller is active; check that a majority of \
                 them is running",
            ),
        }
    }

    /// A broker's beat: refreshes its session without waiting behind decisions.
    pub fn beat(&self, broker: NodeId, epoch: BrokerEpoch, beat: BeatState) -> BeatOutcome {
        self.core
            .lock()
            .on_beat(self.clock.now(), broker, epoch, beat)
    }

    pub fn connected(&self, broker: NodeId, epoch: BrokerEpoch) {
        self.core
            .lock()
            .on_connected(self.clock.now(), broker, epoch);
    }

    pub fn disconnected(&self, broker: NodeId, epoch: BrokerEpoch) {
        self.core
            .lock()
            .on_disconnected(self.clock.now(), broker, epoch);
    }

    /// Leads whenever the quorum says so, for the life of the node.
    pub async fn run(self: Arc<Self>, mut inbox: Inbox) {
        let mut status = self.status.clone();
        loop {
            let term = status.borrow_and_update().active_term;
            if let Some(term) = term {
                tracing::info!(controller = %self.itself.controller, term, "is the active controller now");
                self.lead(term, &mut inbox, &mut status).await;
                self.core.lock().deactivate();
                tracing::info!(controller = %self.itself.controller, term, "is no longer the active controller");
                continue;
            }
            tokio::select! {
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                ask = inbox.0.recv() => match ask {
                    // Whoever asked may have gone.
                    Some(ask) => drop(ask.reply.send(Err(self.not_active()))),
                    None => return,
                },
            }
        }
    }

    /// Decides until leadership ends.
    async fn lead(&self, term: u64, inbox: &mut Inbox, status: &mut watch::Receiver<QuorumStatus>) {
        self.core
            .lock()
            .activate(self.clock.now(), self.quorum.image());
        if !self.introduce(status, term).await {
            return;
        }
        while status.borrow().active_term == Some(term) {
            let deadline = self.core.lock().next_deadline();
            let pause = deadline.map(|at| self.clock.until(at));
            let mut records = Vec::new();
            let mut waiting = Vec::new();
            tokio::select! {
                ask = inbox.0.recv() => {
                    let Some(ask) = ask else { return };
                    self.decide(ask, &mut records, &mut waiting);
                    self.decide_more(inbox, &mut records, &mut waiting);
                }
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    self.core.lock().on_tick(self.clock.now(), &mut records);
                }
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
            }
            if !self.commit(records, waiting, status, term).await {
                return;
            }
        }
    }

    /// Founds the cluster if this is its first active controller, and makes sure that the
    /// controllers are registered as they are now.
    async fn introduce(&self, status: &mut watch::Receiver<QuorumStatus>, term: u64) -> bool {
        let mut records = Vec::new();
        {
            let mut core = self.core.lock();
            let now = self.clock.now();
            if core.scratch().cluster_id.is_none() {
                let cluster_id = ClusterId::from_random(random());
                let request = Request::Found { cluster_id };
                if let Err(error) = core.decide(now, random(), request, &mut records) {
                    tracing::error!(%error, "the cluster cannot be founded");
                    return false;
                }
            }
            let mut controllers = vec![self.itself.clone()];
            controllers.extend(self.quorum.greeted().into_iter().map(
                |(controller, directory, internal_endpoint)| RegisterController {
                    controller,
                    directory,
                    internal_endpoint,
                    version: self.itself.version.clone(),
                },
            ));
            for controller in controllers {
                let request = Request::RegisterController(controller);
                if let Err(error) = core.decide(now, random(), request, &mut records) {
                    tracing::warn!(%error, "a controller was not registered");
                }
            }
        }
        self.commit(records, Vec::new(), status, term).await
    }

    /// Decides what else waits, until an entry is full.
    fn decide_more(
        &self,
        inbox: &mut Inbox,
        records: &mut Vec<MetadataRecord>,
        waiting: &mut Vec<Waiting>,
    ) {
        while records.len() < METADATA_RECORDS_PER_ENTRY_MAX / 2 {
            match inbox.0.try_recv() {
                Ok(ask) => self.decide(ask, records, waiting),
                Err(_) => return,
            }
        }
    }

    fn decide(&self, ask: Ask, records: &mut Vec<MetadataRecord>, waiting: &mut Vec<Waiting>) {
        if ask.reply.is_closed() {
            // Nobody waits any more; a decision now would surprise whoever asked again.
            return;
        }
        let mut core = self.core.lock();
        match core.decide(self.clock.now(), random(), ask.request, records) {
            Ok(reply) => {
                let end = core.next_offset();
                waiting.push(Waiting {
                    reply,
                    end,
                    to: ask.reply,
                });
            }
            Err(error) => drop(ask.reply.send(Err(error))),
        }
    }

    /// Commits records, in as many entries as they need, then releases the replies. False if
    /// leadership ended: the replies are then refused, and the outcome of the last entry is
    /// unknown.
    async fn commit(
        &self,
        records: Vec<MetadataRecord>,
        waiting: Vec<Waiting>,
        status: &mut watch::Receiver<QuorumStatus>,
        term: u64,
    ) -> bool {
        let end = self.core.lock().next_offset();
        let count = i64::try_from(records.len()).unwrap_or(i64::MAX);
        let mut base_offset = MetadataOffset(end.0 - count);
        let mut records = records.into_iter().peekable();
        while records.peek().is_some() {
            let entry: Vec<_> = records
                .by_ref()
                .take(METADATA_RECORDS_PER_ENTRY_MAX)
                .collect();
            let next = base_offset + i64::try_from(entry.len()).unwrap_or(i64::MAX);
            let batch = MetadataBatch {
                base_offset,
                records: entry,
                wall_ms: self.clock.wall(),
            };
            if let Err(error) = self.propose(batch, status, term).await {
                tracing::warn!(%error, "a decision was not committed");
                for waiting in waiting {
                    // Whoever asked may have gone.
                    let _ = waiting.to.send(Err(self.not_active_any_more()));
                }
                return false;
            }
            base_offset = next;
        }
        self.core.lock().on_committed(self.quorum.image());
        for waiting in waiting {
            let _ = waiting.to.send(Ok((waiting.reply, waiting.end)));
        }
        true
    }

    fn not_active_any_more(&self) -> ApiError {
        let message = "the controller lost its leadership before the decision was confirmed; it \
                       may still take effect";
        ApiError::new(ErrorCode::NoControllerQuorum, message)
    }

    async fn propose(
        &self,
        batch: MetadataBatch,
        status: &mut watch::Receiver<QuorumStatus>,
        term: u64,
    ) -> Result<(), ProposeError> {
        let ended = async {
            // An ended channel means that the node stops.
            let _ = status
                .wait_for(|status| status.active_term != Some(term))
                .await;
        };
        tokio::select! {
            proposed = self.quorum.propose(batch) => proposed,
            () = ended => Err(ProposeError::NotLeader),
        }
    }
}
