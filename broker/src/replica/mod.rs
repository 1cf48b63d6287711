//! One partition replica at run time: its core behind a lock, its log, and those who wait on it.
//! Decides nothing: inputs go to the core, effects are carried out in `effects.rs`.

mod alarms;
mod effects;
mod producers;
mod read;
mod waiters;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ottla_broker_core::partition::{
    Acks, Assignment, Effect, FetchBounds, FollowerState, Input, Partition, Produce, ReplyId, Trim,
};
use ottla_log::{PartitionLog, ReadError};
use ottla_model::batch::BatchHeader;
use ottla_model::{ErrorCode, Instant, LeaderEpoch, NodeId, Offset, TopicIdPartition};
use ottla_shell::Clock;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

pub use alarms::Alarms;
use alarms::{Alarm, Rung};
pub use effects::chain;
pub use producers::load_producers;
pub use read::{FollowerRead, end_of};
use waiters::Waiters;

use crate::damage::DamageFound;
use crate::isr::IsrUpdates;
use crate::produce::PendingProduce;
use crate::replication::{FollowerLink, LeaderLinks};

/// What every replica of a broker shares.
pub struct ReplicaContext {
    pub clock: Clock,
    pub isr: Arc<IsrUpdates>,
    pub leader_links: Arc<LeaderLinks>,
    pub damage: Arc<DamageFound>,
    pub alarms: Alarms,
    /// Called once storage failed for good.
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
}

/// A replica of one partition on this broker.
pub struct Replica {
    pub id: TopicIdPartition,
    pub log: Arc<PartitionLog>,
    context: Arc<ReplicaContext>,
    inner: Mutex<Inner>,
    /// Consumers that wait for the high watermark or the leadership to change.
    waiters: Waiters,
    /// Whether this process may append as the leader: only once the controller knows this run of
    /// it. In an epoch that an earlier run led, a record that was replicated but not synced here
    /// may be lost, and writing its offset anew would go unnoticed by a replica that has it.
    writable: AtomicBool,
}

struct Inner {
    core: Partition,
    alarm: Alarm,
    /// The log turned out damaged: core and log may not agree any more, and nothing more happens
    /// here until the replica has begun anew.
    broken: bool,
    replies: HashMap<ReplyId, (Arc<PendingProduce>, usize)>,
    trims: HashMap<ReplyId, oneshot::Sender<Result<Offset, ErrorCode>>>,
    next_reply: u64,
    followers: BTreeMap<NodeId, Arc<FollowerLink>>,
}

/// What a produce request asks of one partition.
pub struct ProduceInput {
    pub acks: Acks,
    pub deadline: Instant,
    pub expected_leader_epoch: Option<LeaderEpoch>,
    pub header: BatchHeader,
    pub batch: Bytes,
}

impl Replica {
    pub fn new(
        id: TopicIdPartition,
        log: Arc<PartitionLog>,
        core: Partition,
        context: Arc<ReplicaContext>,
    ) -> Replica {
        let inner = Inner {
            core,
            alarm: Alarm::default(),
            broken: false,
            replies: HashMap::new(),
            trims: HashMap::new(),
            next_reply: 0,
            followers: BTreeMap::new(),
        };
        Replica {
            id,
            log,
            context,
            inner: Mutex::new(inner),
            waiters: Waiters::default(),
            writable: AtomicBool::new(false),
        }
    }

    /// Hands an input to the core and carries out what it decides.
    pub fn step(&self, input: Input) {
        let now = self.context.clock.now();
        self.step_with(|_, _| Some(input), now);
    }

    /// False if the replica is broken or there is no input after all: nothing happened.
    fn step_with(
        &self,
        input: impl FnOnce(&mut Inner, Instant) -> Option<Input>,
        now: Instant,
    ) -> bool {
        let mut effects = Vec::new();
        let mut inner = self.inner.lock();
        if inner.broken {
            return false;
        }
        let Some(input) = input(&mut inner, now) else {
            return false;
        };
        inner.core.step(now, input, &mut effects);
        self.run_ordered(&mut inner, &mut effects);
        let links = self.links_to_wake(&inner, &effects);
        let replies = Self::take_replies(&mut inner, &effects);
        Self::answer_trims(&mut inner, &effects);
        let wanted = inner.core.next_deadline();
        if let Some(setting) = inner.alarm.want(wanted) {
            self.context.alarms.set(self.id, setting);
        }
        let leader_epoch = inner.core.leader_epoch();
        drop(inner);
        self.run_unordered(effects, replies, &links, leader_epoch);
        true
    }

    /// Appends a batch as the leader; `pending` learns the result.
    pub fn produce(&self, input: ProduceInput, pending: &Arc<PendingProduce>, index: usize) {
        if !self.writable.load(Ordering::Acquire) {
            let error = ErrorCode::NotLeaderOrFollower;
            pending.fail(
                index,
                error,
                "this broker is not registered with the controllers yet",
            );
            return;
        }
        let now = self.context.clock.now();
        let wall_ms = self.context.clock.wall();
        let stepped = self.step_with(
            |inner, _| {
                let reply = ReplyId(inner.next_reply);
                inner.next_reply += 1;
                inner.replies.insert(reply, (Arc::clone(pending), index));
                Some(Input::Produce(Produce {
                    reply,
                    acks: input.acks,
                    deadline: input.deadline,
                    wall_ms,
                    expected_leader_epoch: input.expected_leader_epoch,
                    header: input.header,
                    batch: input.batch,
                }))
            },
            now,
        );
        if !stepped {
            let error = ErrorCode::NotLeaderOrFollower;
            pending.fail(index, error, "this broker's copy is out of use");
        }
    }

    /// Drops the records below an offset, or below the high watermark, as the leader. The answer
    /// comes when no change of leader can bring them back.
    pub fn trim(
        &self,
        to: Option<Offset>,
        expected_leader_epoch: Option<LeaderEpoch>,
        patience: Duration,
    ) -> oneshot::Receiver<Result<Offset, ErrorCode>> {
        let (sender, receiver) = oneshot::channel();
        let now = self.context.clock.now();
        self.step_with(
            |inner, _| {
                let reply = ReplyId(inner.next_reply);
                inner.next_reply += 1;
                inner.trims.insert(reply, sender);
                Some(Input::Trim(Trim {
                    reply,
                    to,
                    expected_leader_epoch,
                    deadline: now + patience,
                }))
            },
            now,
        );
        receiver
    }

    /// Takes over what the metadata says of this partition.
    pub fn assign(&self, assignment: Assignment, writable: bool) {
        self.writable.store(writable, Ordering::Release);
        self.step(Input::Assignment(assignment));
        self.waiters.wake();
    }

    /// A follower's stream states where it stands. The newest stream that does is the follower's;
    /// an older one is refused, for as long as there is a newer.
    pub fn follower_state(&self, link: &Arc<FollowerLink>, state: FollowerState) {
        let now = self.context.clock.now();
        let (follower, leader_epoch) = (state.follower, state.leader_epoch);
        let mut displaced = None;
        self.step_with(
            |inner, _| {
                let known = inner.followers.get(&follower);
                if known.is_some_and(|known| known.is_newer_than(link)) {
                    displaced = Some(Arc::clone(link));
                    return None;
                }
                let before = inner.followers.insert(follower, Arc::clone(link));
                displaced = before.filter(|before| link.is_newer_than(before));
                Some(Input::FollowerState(state))
            },
            now,
        );
        // Should there be somebody at the other end still, they ask again.
        if let Some(other) = displaced {
            other.refused(self.id, leader_epoch, ErrorCode::StaleBrokerEpoch);
        }
    }

    /// A follower's stream ended. Nothing happens if the follower has opened another since.
    pub fn follower_gone(&self, link: &Arc<FollowerLink>) {
        let now = self.context.clock.now();
        let follower = link.follower();
        self.step_with(
            |inner, _| {
                let current = inner.followers.get(&follower)?;
                if !Arc::ptr_eq(current, link) {
                    return None;
                }
                inner.followers.remove(&follower);
                Some(Input::FollowerGone { follower })
            },
            now,
        );
    }

    /// The partition is leaving this broker: whoever waits on it is told.
    pub fn retire(&self) {
        let replies = {
            let mut inner = self.inner.lock();
            inner.broken = true;
            // Dropped without a word: the partition is not here any more.
            inner.trims.clear();
            std::mem::take(&mut inner.replies)
        };
        for (pending, index) in replies.into_values() {
            let error = ErrorCode::NotLeaderOrFollower;
            pending.fail(
                index,
                error,
                "the partition was deleted or moved away from this broker",
            );
        }
        self.writable.store(false, Ordering::Release);
        self.waiters.wake();
    }

    /// The alarm that was set for `at` has gone off: ticks the core if it wants to be by now.
    pub fn tick(&self, at: Instant, now: Instant) {
        let mut inner = self.inner.lock();
        match inner.alarm.rings(at, now) {
            Rung::Tick => {
                drop(inner);
                self.tick_always();
            }
            Rung::Again(setting) => self.context.alarms.set(self.id, setting),
            Rung::Nothing => {}
        }
    }

    /// Lets the core forget what is too old, whether or not it asked to be ticked.
    pub fn tick_always(&self) {
        self.step(Input::Tick {
            wall_ms: self.context.clock.wall(),
        });
    }

    /// Passes on what a read of the log found. If that is damage, the replica goes out of use.
    pub fn checked<T>(&self, read: Result<T, ReadError>) -> Result<T, ReadError> {
        if let Err(error) = &read
            && error.is_damage()
        {
            self.found_damaged(error);
        }
        read
    }

    /// The stored bytes are not those that were written: the replica goes out of use, soon.
    pub fn found_damaged(&self, error: &ReadError) {
        self.context.damage.add(self.id, chain(error));
    }

    /// What a consumer may read now.
    pub fn fetch_bounds(&self, epoch: Option<LeaderEpoch>) -> Result<FetchBounds, ErrorCode> {
        self.inner.lock().core.fetch_bounds(epoch)
    }

    /// Reads the core.
    pub fn with_core<T>(&self, read: impl FnOnce(&Partition) -> T) -> T {
        read(&self.inner.lock().core)
    }

    pub fn high_watermark(&self) -> Offset {
        self.inner.lock().core.high_watermark()
    }

    /// Has `waiter` notified once when the high watermark or the leadership changes.
    pub fn wait_for_change(&self, waiter: &Arc<Notify>) {
        self.waiters.add(waiter);
    }

    /// Those followers' streams that the effects concern.
    fn links_to_wake(&self, inner: &Inner, effects: &[Effect]) -> Vec<Arc<FollowerLink>> {
        let concerns_all = effects.iter().any(|effect| {
            matches!(
                effect,
                Effect::Append { .. }
                    | Effect::HighWatermarkAdvanced { .. }
                    | Effect::LogStartAdvanced { .. }
            )
        });
        if concerns_all {
            return inner.followers.values().cloned().collect();
        }
        effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::StartFollower { follower, .. }
                | Effect::Diverged { follower, .. }
                | Effect::RefuseFollower { follower, .. } => inner.followers.get(follower).cloned(),
                _ => None,
            })
            .collect()
    }
}
