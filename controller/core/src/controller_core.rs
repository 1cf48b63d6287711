//! The active controller's state and its entry points: decisions, beats and periodic work.

use std::collections::BTreeSet;
use std::sync::Arc;

use ottla_metadata::{BrokerRegistration, Cause, MetadataImage, MetadataRecord};
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, ErrorCode, Instant, MetadataOffset, NodeId, TopicIdPartition};

use crate::alter_partition::alter_partitions;
use crate::beat::{BeatOutcome, BeatState, judge};
use crate::config::ControllerConfig;
use crate::damage::report_damage;
use crate::draft::Draft;
use crate::election::{elect_leaderless, elect_preferred, elect_requested};
use crate::request::{RegisterBroker, Reply, Request};
use crate::session::{Sessions, cut_off_after};
use crate::{fencing, producer_ids, registration, topic, topic_config, unregistration};

#[cfg(test)]
mod tests;

/// Decides for the cluster while this node is the active controller.
#[derive(Debug, Default)]
pub struct ControllerCore {
    config: ControllerConfig,
    active: Option<Active>,
    /// The scratch image while not active.
    empty: MetadataImage,
}

/// What exists only while active.
#[derive(Debug)]
struct Active {
    committed: Arc<MetadataImage>,
    /// Everything committed and proposed.
    scratch: Arc<MetadataImage>,
    sessions: Sessions,
    /// When leaderless partitions and preferred leaders are looked at next.
    next_pass: Instant,
    /// The latest time that any input told.
    latest: Instant,
    /// When another controller may be asked to take over, if no broker is heard of.
    may_give_way: Instant,
}

impl ControllerCore {
    pub fn new(config: ControllerConfig) -> ControllerCore {
        ControllerCore {
            config,
            active: None,
            empty: MetadataImage::default(),
        }
    }

    /// Leadership was gained: `image` is everything committed. Every registered broker gets a
    /// fresh session (KAFKA-18138). Also called to start over after a proposal failed.
    pub fn activate(&mut self, now: Instant, image: Arc<MetadataImage>) {
        self.active = Some(Active {
            sessions: Sessions::seeded(self.config.session_timeout, now, &image),
            scratch: Arc::clone(&image),
            committed: image,
            next_pass: now + self.config.preferred_leader_interval,
            latest: now,
            may_give_way: now,
        });
    }

    /// Leadership was lost: everything proposed and not committed is forgotten.
    pub fn deactivate(&mut self) {
        self.active = None;
    }

    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// Decides a request on the scratch image. Its records are appended to `out` and already part
    /// of the scratch image; a refusal leaves both as they were. `random` makes ids and spreads
    /// replicas, and must be fresh each time.
    ///
    /// The records of fencing, unfencing, registering, unregistering and shutting down may be cut
    /// into several entries at any point; those of every other request fit one entry and belong
    /// together.
    pub fn decide(
        &mut self,
        now: Instant,
        random: u128,
        request: Request,
        out: &mut Vec<MetadataRecord>,
    ) -> Result<Reply, ApiError> {
        let Some(active) = &mut self.active else {
            let message = "this controller is not the active one";
            return Err(ApiError::new(ErrorCode::NotController, message));
        };
        active.latest = active.latest.max(now);
        let mut draft = Draft::new(Arc::clone(&active.scratch));
        let reply = active.answer(&self.config, now, random, request, &mut draft)?;
        active.adopt(draft, out);
        active.after(now, &reply);
        Ok(reply.reply)
    }

    /// The scratch image's end: the base offset of the next batch.
    pub fn next_offset(&self) -> MetadataOffset {
        self.scratch().offset
    }

    /// Everything committed and proposed; the empty image while not active.
    pub fn scratch(&self) -> &MetadataImage {
        let active = self.active.as_ref();
        active.map_or(&self.empty, |active| &active.scratch)
    }

    /// Committed and replayed up to this image. If it is ahead of the scratch image, others
    /// decided, and the scratch image starts from it again.
    pub fn on_committed(&mut self, image: Arc<MetadataImage>) {
        if let Some(active) = &mut self.active {
            if image.offset > active.scratch.offset {
                active.sessions.seed(active.latest, &image);
                active.scratch = Arc::clone(&image);
            }
            active.committed = image;
        }
    }

    /// A broker beat. Refreshes its session at once; what should be decided is handed back.
    pub fn on_beat(
        &mut self,
        now: Instant,
        broker: NodeId,
        epoch: BrokerEpoch,
        beat: BeatState,
    ) -> BeatOutcome {
        let unknown = BeatOutcome {
            registered: false,
            fenced: true,
            may_shut_down: false,
            ahead: false,
            needs_decision: None,
        };
        let Some(active) = &mut self.active else {
            return unknown;
        };
        let registration = active.scratch.broker(broker);
        let Some(registration) = registration.filter(|known| known.epoch == epoch) else {
            return unknown;
        };
        active.latest = active.latest.max(now);
        // Nobody has applied what was never proposed: such a beat shows that its sender lives, and
        // no more. What is proposed is the bound, and not what is committed, because another
        // controller may have shown the broker a commit of which this core is only about to hear.
        let ahead = beat.applied > active.scratch.offset;
        let beat = match ahead {
            true => BeatState {
                applied: MetadataOffset::ZERO,
                ..beat
            },
            false => beat,
        };
        active.sessions.beat(now, broker, epoch, beat.applied);
        let gone = active.sessions.expired(now, &active.scratch);
        let outcome = judge(
            &active.committed,
            &active.scratch,
            &active.sessions,
            &gone,
            registration,
            beat,
        );
        BeatOutcome { ahead, ..outcome }
    }

    /// A control stream of this registration opened.
    pub fn on_connected(&mut self, now: Instant, broker: NodeId, epoch: BrokerEpoch) {
        if let Some(active) = &mut self.active {
            active.sessions.connected(now, broker, epoch);
        }
    }

    /// A control stream of this registration closed. A closed stream does not fence: the shell
    /// probes the broker and asks for [`Request::Fence`], or the session timeout decides. But it
    /// lets a new process of the broker register at once.
    pub fn on_disconnected(&mut self, _now: Instant, broker: NodeId, epoch: BrokerEpoch) {
        if let Some(active) = &mut self.active {
            active.sessions.disconnected(broker, epoch);
        }
    }

    /// Unfenced brokers that have not connected to this controller. They may have died while
    /// nobody was active; the shell looks after them.
    pub fn unseen_brokers(&self) -> Vec<BrokerRegistration> {
        let Some(active) = &self.active else {
            return Vec::new();
        };
        let current = |(broker, epoch): (NodeId, BrokerEpoch)| {
            let known = active.scratch.broker(broker)?;
            (known.epoch == epoch && !known.fenced).then(|| known.clone())
        };
        active.sessions.unseen().filter_map(current).collect()
    }

    /// Periodic work that is due: fences one broker whose session ended (the next deadline comes
    /// at once if there are more), elects leaders where there are none, and gives leadership back
    /// to preferred replicas.
    pub fn on_tick(&mut self, now: Instant, out: &mut Vec<MetadataRecord>) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.latest = active.latest.max(now);
        active.fence_expired(now, out);
        if active.next_pass <= now {
            let more = active.pass(now, self.config.leader_changes_per_pass, out);
            active.next_pass = now
                + match more {
                    true => self.config.preferred_leader_pause,
                    false => self.config.preferred_leader_interval,
                };
        }
    }

    /// Whether this controller should hand over now: it hears of no broker for so long that
    /// another one, which may hear them, should be the active one. Says so once in that time.
    pub fn should_give_way(&mut self, now: Instant) -> bool {
        let Some(active) = &mut self.active else {
            return false;
        };
        let gives_way =
            now >= active.may_give_way && active.sessions.is_cut_off(now, &active.scratch);
        if gives_way {
            active.may_give_way = now + cut_off_after(self.config.session_timeout);
        }
        gives_way
    }

    /// When `on_tick` has work again; `None` while not active.
    pub fn next_deadline(&self) -> Option<Instant> {
        let active = self.active.as_ref()?;
        let expiry = active.sessions.next_expiry(active.latest, &active.scratch);
        Some(expiry.map_or(active.next_pass, |expiry| expiry.min(active.next_pass)))
    }
}

/// A reply, and what it means for the soft state.
struct Answer {
    reply: Reply,
    note: Note,
}

enum Note {
    Nothing,
    Registered(NodeId, BrokerEpoch),
    ShuttingDown(NodeId),
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer {
            reply,
            note: Note::Nothing,
        }
    }
}

impl Active {
    fn answer(
        &self,
        config: &ControllerConfig,
        now: Instant,
        random: u128,
        request: Request,
        draft: &mut Draft,
    ) -> Result<Answer, ApiError> {
        let gone = &self.sessions.expired(now, &self.scratch);
        let done = |()| Answer::from(Reply::Done);
        match request {
            Request::Found { cluster_id } => {
                registration::found(draft, cluster_id).map(Answer::from)
            }
            Request::Activate {
                controller,
                activation_id,
            } => registration::activate(draft, controller, activation_id).map(Answer::from),
            Request::RegisterController(request) => {
                registration::register_controller(draft, request).map(Answer::from)
            }
            Request::RegisterBroker(request) => self.register(now, gone, request, draft),
            Request::Fence {
                broker,
                broker_epoch,
                cause,
            } => fencing::fence(draft, gone, broker, broker_epoch, cause).map(done),
            // Asked by a beat that was still on its way when the stream closed.
            Request::Unfence {
                broker,
                broker_epoch,
            } if self.sessions.is_closed(broker, broker_epoch) => Ok(done(())),
            Request::Unfence {
                broker,
                broker_epoch,
            } => fencing::unfence(draft, gone, broker, broker_epoch).map(done),
            Request::BeginControlledShutdown {
                broker,
                broker_epoch,
            } => {
                fencing::begin_controlled_shutdown(draft, gone, broker, broker_epoch)?;
                let note = Note::ShuttingDown(broker);
                Ok(Answer {
                    reply: Reply::Done,
                    note,
                })
            }
            Request::UnregisterBroker(request) => {
                let sessions = &self.sessions;
                unregistration::unregister_broker(draft, sessions, now, gone, &request)
                    .map(Answer::from)
            }
            Request::CreateTopic(request) => {
                topic::create_topic(draft, config, random, request).map(Answer::from)
            }
            Request::AlterTopic(request) => {
                topic_config::alter_topic(draft, gone, request).map(Answer::from)
            }
            Request::CreatePartitions(request) => {
                topic::create_partitions(draft, random, request).map(Answer::from)
            }
            Request::DeleteTopic(request) => topic::delete_topic(draft, request).map(Answer::from),
            Request::ElectLeaders { partitions } => {
                elect_requested(draft, gone, partitions).map(Answer::from)
            }
            Request::AlterPartitions(request) => {
                alter_partitions(draft, gone, &request).map(Answer::from)
            }
            Request::ReportDamage(request) => {
                report_damage(draft, gone, &request).map(Answer::from)
            }
            Request::AllocateProducerIds {
                broker,
                broker_epoch,
            } => producer_ids::allocate(draft, broker, broker_epoch).map(Answer::from),
        }
    }

    fn register(
        &self,
        now: Instant,
        gone: &BTreeSet<NodeId>,
        request: RegisterBroker,
        draft: &mut Draft,
    ) -> Result<Answer, ApiError> {
        let broker = request.broker;
        let sessions = &self.sessions;
        let (broker_epoch, outdated) =
            registration::register_broker(draft, sessions, now, gone, request)?;
        let reply = Reply::BrokerRegistered {
            broker_epoch,
            outdated,
        };
        let note = Note::Registered(broker, broker_epoch);
        Ok(Answer { reply, note })
    }

    /// Makes a decision part of the scratch image.
    fn adopt(&mut self, draft: Draft, out: &mut Vec<MetadataRecord>) {
        if draft.record_count() > 0 {
            let (records, image) = draft.finish();
            self.scratch = Arc::new(image);
            out.extend(records);
        }
    }

    fn after(&mut self, now: Instant, answer: &Answer) {
        match answer.note {
            Note::Nothing => {}
            Note::Registered(broker, epoch) => self.sessions.begin(now, broker, epoch),
            Note::ShuttingDown(broker) => {
                let end = self.scratch.offset;
                self.sessions.set_shutdown_offset(broker, end);
            }
        }
    }

    /// Fences one broker, electing none of the others that are about to be fenced.
    fn fence_expired(&mut self, now: Instant, out: &mut Vec<MetadataRecord>) {
        let gone = self.sessions.expired(now, &self.scratch);
        let Some(registration) = gone.first().and_then(|id| self.scratch.broker(*id)) else {
            return;
        };
        let (broker, epoch) = (registration.broker, registration.epoch);
        let mut draft = Draft::new(Arc::clone(&self.scratch));
        let fenced = fencing::fence(&mut draft, &gone, broker, epoch, Cause::SessionTimeout);
        self.adopt_if(draft, fenced, out);
    }

    /// Elects where nobody leads and returns leadership to preferred replicas, a bounded number
    /// of each. Says whether that number was reached.
    fn pass(&mut self, now: Instant, count: usize, out: &mut Vec<MetadataRecord>) -> bool {
        let gone = self.sessions.expired(now, &self.scratch);
        let leaderless: Vec<_> = self.scratch.leaderless_partitions().collect();
        let imbalanced: Vec<_> = self.scratch.imbalanced_partitions().collect();
        let mut draft = Draft::new(Arc::clone(&self.scratch));
        let moved = pass_over(&mut draft, &gone, [&leaderless, &imbalanced], count);
        let full = moved.as_ref().is_ok_and(|moved| *moved >= count);
        self.adopt_if(draft, moved.map(drop), out);
        full
    }

    fn adopt_if(
        &mut self,
        draft: Draft,
        decided: Result<(), ApiError>,
        out: &mut Vec<MetadataRecord>,
    ) {
        match decided {
            Ok(()) => self.adopt(draft, out),
            // Nobody asked, so nobody can be told; the next tick tries again.
            Err(error) => debug_assert!(false, "periodic work was refused: {error}"),
        }
    }
}

fn pass_over(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    [leaderless, imbalanced]: [&[TopicIdPartition]; 2],
    count: usize,
) -> Result<usize, ApiError> {
    let elected = elect_leaderless(draft, gone, leaderless, count, Cause::LeaderElection)?;
    let moved = elect_preferred(draft, gone, imbalanced, count, Cause::PreferredLeader)?;
    Ok(elected.max(moved))
}
