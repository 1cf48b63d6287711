//! The loop of the active controller. Everything that waits is decided in one round on the scratch
//! image and proposed together; while that is under way, what arrives waits for the next round, so
//! the scratch image never holds more than one round that is not committed.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ottla_controller_core::{ControllerCore, RegisterController, Request};
use ottla_metadata::MetadataBatch;
use ottla_model::error::ApiError;
use ottla_model::limits::{CONTROLLER_QUEUE_MAX, METADATA_RECORDS_PER_ENTRY_MAX};
use ottla_model::{ClusterId, ErrorCode, MetadataOffset};
use ottla_shell::Clock;
use tokio::sync::{mpsc, oneshot, watch};

use super::chunk::{Chunk, Chunks, Parked};
use super::{Ask, Decided, Decisions, Shared, no_quorum, not_active};
use crate::feed::{Current, Feed};
use crate::node::HAND_OVER_PATIENCE;
use crate::quorum::{Applied, ProposeError, Quorum, QuorumStatus};

/// The most bytes of one entry.
const ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The pause after a round that no majority answered.
const NO_QUORUM_PAUSE: Duration = Duration::from_millis(50);

/// A round of proposals under way.
type Round = Pin<Box<dyn Future<Output = Result<(), ProposeError>> + Send>>;

/// What the loop wakes for.
enum Event {
    Finished(Result<(), ProposeError>),
    Asked(Option<Ask>),
    /// The membership is the one of that number now.
    MembersChanged(u64),
    Due,
}

/// The loop's state.
pub struct Worker {
    shared: Arc<Shared>,
    asks: mpsc::Receiver<Ask>,
    waiting: VecDeque<Ask>,
    quorum: Arc<Quorum>,
    feed: Arc<Feed>,
    status: watch::Receiver<QuorumStatus>,
    current: watch::Receiver<Current>,
    version: String,
    /// Names the time for which this controller is the active one.
    activation_id: u64,
}

impl Worker {
    /// The worker, and the way to it.
    pub fn new(
        core: ControllerCore,
        clock: Clock,
        quorum: Arc<Quorum>,
        feed: Arc<Feed>,
        version: String,
    ) -> (Decisions, Worker) {
        let status = quorum.status();
        let (decisions, shared, asks) = Decisions::new(core, clock, status.clone());
        let worker = Worker {
            shared,
            asks,
            waiting: VecDeque::new(),
            current: feed.subscribe(),
            quorum,
            feed,
            status,
            version,
            activation_id: 0,
        };
        (decisions, worker)
    }

    /// Runs until the consensus is gone or nobody can ask any more.
    pub async fn run(mut self) {
        while let Some(term) = self.stand_by().await {
            let image = self.feed.current().image;
            tracing::info!(term, offset = %image.offset, "this controller is active");
            let now = self.shared.clock.now();
            self.shared.beats.lock().clear();
            self.shared.core.lock().activate(now, image);
            self.activation_id = rand::random();
            self.ask_for_itself();
            self.be_active(term).await;
            self.shared.core.lock().deactivate();
            tracing::info!(term, "this controller is not active any more");
        }
    }

    /// Returns the term once this node leads and everything of earlier terms is applied.
    async fn stand_by(&mut self) -> Option<u64> {
        loop {
            // The last word of a consensus that has ended may still be that this node leads.
            self.status.has_changed().ok()?;
            let status = *self.status.borrow_and_update();
            let applied = self.current.borrow_and_update().applied;
            // The first entry of a term is its leader's own, so everything before it is applied.
            let caught_up = applied.is_some_and(|applied| applied.term == status.term);
            if status.is_leader && caught_up {
                return Some(status.term);
            }
            if !status.is_leader {
                for ask in self.waiting.drain(..) {
                    answer(ask.answer, Err(not_active(status)));
                }
            }
            tokio::select! {
                changed = self.status.changed() => changed.ok()?,
                changed = self.current.changed() => changed.ok()?,
                ask = self.asks.recv(), if self.waiting.len() < CONTROLLER_QUEUE_MAX => {
                    self.waiting.push_back(ask?);
                }
            }
        }
    }

    /// What a new active controller asks of itself: that the cluster has an id, that the metadata
    /// say who decides, before anything else is decided, and that each controller stands in them as
    /// the quorum knows it. Returns how much it asks.
    fn ask_for_itself(&mut self) -> usize {
        let image = self.feed.current().image;
        let mut requests = Vec::new();
        if image.cluster_id.is_none() {
            let cluster_id = ClusterId::from_random(rand::random());
            requests.push(Request::Found { cluster_id });
        }
        let me = self.quorum.guard().identity().node_id;
        requests.push(Request::Activate {
            controller: me,
            activation_id: self.activation_id,
        });
        for member in self.quorum.view().voters {
            let known = image.controllers.get(&member.node_id);
            let version = match known {
                _ if member.node_id == me => self.version.clone(),
                Some(known) => known.version.clone(),
                None => String::new(),
            };
            requests.push(Request::RegisterController(RegisterController {
                controller: member.node_id,
                directory: member.directory,
                internal_endpoint: member.endpoint,
                version,
            }));
        }
        let count = requests.len();
        for request in requests.into_iter().rev() {
            // Nobody waits for these answers; a refusal is told when the request is decided.
            let (answer, _) = oneshot::channel();
            self.waiting.push_front(Ask { request, answer });
        }
        count
    }

    async fn be_active(&mut self, term: u64) {
        let mut own = self.waiting.len();
        let mut membership = self.status.borrow().membership;
        let mut round: Option<Round> = None;
        loop {
            if round.is_none() {
                let base_offset = self.shared.core.lock().next_offset();
                let chunks = self.decide_waiting(&mut own);
                if !chunks.is_empty() {
                    round = Some(self.propose(base_offset, chunks));
                }
            }
            let deadline = self.shared.core.lock().next_deadline();
            let deadline = deadline.map(|at| self.shared.clock.at(at));
            let event = tokio::select! {
                biased;
                changed = quorum_changed(&mut self.status, term, membership) => match changed {
                    Some(changed) => Event::MembersChanged(changed),
                    None => return,
                },
                result = finished(&mut round) => Event::Finished(result),
                ask = self.asks.recv(), if self.waiting.len() < CONTROLLER_QUEUE_MAX => {
                    Event::Asked(ask)
                }
                () = self.shared.poke.notified() => Event::Due,
                () = sleep_until(deadline), if round.is_none() => Event::Due,
            };
            match event {
                Event::Due => self.give_way(),
                Event::MembersChanged(changed) => {
                    membership = changed;
                    own += self.ask_for_itself();
                }
                Event::Asked(Some(ask)) => self.waiting.push_back(ask),
                Event::Asked(None) => return,
                Event::Finished(result) => {
                    round = None;
                    if let Err(error) = result {
                        if !self.start_over(error).await {
                            return;
                        }
                        // What it asked of itself may have been lost with the others' questions.
                        own += self.ask_for_itself();
                    }
                }
            }
        }
    }

    /// Has another controller try when this one hears of no broker, beside everything else.
    fn give_way(&self) {
        let now = self.shared.clock.now();
        if self.shared.core.lock().should_give_way(now) {
            tracing::warn!("no broker is heard of here; another controller should try");
            let quorum = Arc::clone(&self.quorum);
            tokio::spawn(async move { quorum.hand_over(HAND_OVER_PATIENCE).await });
        }
    }

    /// Decides everything that waits, and what is due. Decisions that need no records, refusals
    /// among them, are answered with those they rest on.
    fn decide_waiting(&mut self, own: &mut usize) -> Chunks {
        while self.waiting.len() < CONTROLLER_QUEUE_MAX
            && let Ok(ask) = self.asks.try_recv()
        {
            self.waiting.push_back(ask);
        }
        let mut chunks = Chunks::default();
        while chunks.records() < METADATA_RECORDS_PER_ENTRY_MAX
            && let Some(ask) = self.waiting.pop_front()
        {
            let is_own = *own > 0;
            *own = own.saturating_sub(1);
            // Whoever gave up does not want it decided any more.
            if ask.answer.is_closed() && !is_own {
                continue;
            }
            let mut records = Vec::new();
            let now = self.shared.clock.now();
            let mut core = self.shared.core.lock();
            let result = core.decide(now, rand::random(), ask.request, &mut records);
            drop(core);
            if is_own && let Err(error) = &result {
                tracing::debug!(%error, "a request of the controller itself was refused");
            }
            let parked = Parked {
                result,
                answer: ask.answer,
            };
            chunks.add(records, Some(parked));
        }
        self.tick(&mut chunks);
        chunks
    }

    /// Periodic work, after every beat that is known has been taken into account.
    fn tick(&mut self, chunks: &mut Chunks) {
        let now = self.shared.clock.now();
        let mut core = self.shared.core.lock();
        if core.next_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let beats = std::mem::take(&mut *self.shared.beats.lock());
        for (broker, (epoch, at, beat)) in beats {
            // What a beat asks for is asked by the stream that it came on.
            core.on_beat(at, broker, epoch, beat);
        }
        let mut records = Vec::new();
        core.on_tick(now, &mut records);
        drop(core);
        if !records.is_empty() {
            chunks.add(records, None);
        }
    }

    /// Proposes entries one after the other, the first on the image that was decided on, and
    /// releases the answers of each as it is applied.
    fn propose(&self, mut base_offset: MetadataOffset, chunks: Chunks) -> Round {
        let (quorum, feed) = (Arc::clone(&self.quorum), Arc::clone(&self.feed));
        let shared = Arc::clone(&self.shared);
        let mut chunks: VecDeque<Chunk> = chunks.into_vec().into();
        Box::pin(async move {
            while let Some(Chunk { records, parked }) = chunks.pop_front() {
                let batch = MetadataBatch {
                    base_offset,
                    records,
                    wall_ms: shared.clock.wall(),
                };
                match commit(&quorum, &batch).await {
                    Ok(()) => {
                        base_offset = batch.end_offset();
                        shared.core.lock().on_committed(feed.current().image);
                        release(parked, base_offset);
                    }
                    Err(failed) => {
                        refuse(parked, &failed.answer);
                        for chunk in chunks {
                            refuse(chunk.parked, &too_late());
                        }
                        return Err(failed.error);
                    }
                }
            }
            Ok(())
        })
    }

    /// A round failed: the scratch image holds what was never committed, so it begins anew from
    /// what was. Says whether to go on.
    async fn start_over(&mut self, error: ProposeError) -> bool {
        tracing::warn!(%error, "a round of decisions was not committed");
        match error {
            // Whatever comes of it, another controller decides from here on.
            ProposeError::Unknown | ProposeError::Stopped(_) => return false,
            ProposeError::NoQuorum => {
                for ask in self.waiting.drain(..) {
                    answer(ask.answer, Err(refusal(&ProposeError::NoQuorum)));
                }
                tokio::time::sleep(NO_QUORUM_PAUSE).await;
            }
            ProposeError::NotLeader { .. } => {}
        }
        if !self.status.borrow().is_leader {
            return false;
        }
        let (now, image) = (self.shared.clock.now(), self.feed.current().image);
        self.shared.core.lock().activate(now, image);
        true
    }
}

fn answer(to: oneshot::Sender<Result<Decided, ApiError>>, result: Result<Decided, ApiError>) {
    // Whoever went away does not want the answer.
    drop(to.send(result));
}

fn release(parked: Vec<Parked>, offset: MetadataOffset) {
    for parked in parked {
        let decided = parked.result.map(|reply| Decided { reply, offset });
        answer(parked.answer, decided);
    }
}

fn refuse(parked: Vec<Parked>, error: &ApiError) {
    for parked in parked {
        answer(parked.answer, Err(error.clone()));
    }
}

/// Why a batch was not committed, and what those who wait for it are told.
struct Failed {
    error: ProposeError,
    answer: ApiError,
}

/// Has a batch committed and applied. One without records only needs this controller to be the
/// active one still, by the word of a majority.
async fn commit(quorum: &Quorum, batch: &MetadataBatch) -> Result<(), Failed> {
    let failed = |error: ProposeError| Failed {
        answer: refusal(&error),
        error,
    };
    if batch.records.is_empty() {
        return quorum.confirm().await.map_err(failed);
    }
    let entry = batch.encode();
    if entry.len() > ENTRY_BYTES_MAX {
        let bytes = entry.len();
        let message = format!(
            "the request makes {bytes} bytes of metadata, more than {ENTRY_BYTES_MAX}; split it"
        );
        return Err(Failed {
            answer: ApiError::new(ErrorCode::RecordListTooLarge, message),
            error: ProposeError::NotLeader { leader: None },
        });
    }
    match quorum.propose(entry).await.map_err(failed)? {
        Applied::Replayed(_) => Ok(()),
        // Other entries came between: what was decided here was decided on a stale image.
        Applied::Skipped | Applied::Nothing => Err(Failed {
            answer: too_late(),
            error: ProposeError::NotLeader { leader: None },
        }),
    }
}

/// The refusal of decisions that certainly were not proposed.
fn too_late() -> ApiError {
    ApiError::new(
        ErrorCode::NotController,
        "this controller stopped being active before it decided",
    )
}

fn refusal(error: &ProposeError) -> ApiError {
    match error {
        ProposeError::NotLeader { leader } => not_active(QuorumStatus {
            leader: *leader,
            ..QuorumStatus::default()
        }),
        ProposeError::NoQuorum => no_quorum(
            "no decision can be made, because no majority of controllers answers; nothing was changed",
        ),
        ProposeError::Unknown | ProposeError::Stopped(_) => no_quorum(
            "this controller stopped being active before the decision was committed; it may still take effect",
        ),
    }
}

/// Waits until leadership is lost, which gives `None`, or the membership is another.
async fn quorum_changed(
    status: &mut watch::Receiver<QuorumStatus>,
    term: u64,
    membership: u64,
) -> Option<u64> {
    let leads = |now: &QuorumStatus| now.is_leader && now.term == term;
    let changed = status.wait_for(|now| !leads(now) || now.membership != membership);
    // An error means that the consensus is gone, and leadership with it.
    let now = *changed.await.ok()?;
    leads(&now).then_some(now.membership)
}

async fn finished(round: &mut Option<Round>) -> Result<(), ProposeError> {
    match round {
        Some(round) => round.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
