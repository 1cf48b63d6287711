//! One replica of one partition: follower or leader, or neither. [`Partition::step`] takes what
//! happened and says what to do; the shell does it, in order.
//!
//! Follows KIP-101, 279 and 320 (leader epochs), KIP-497, 841 and 903 (ISR changes) and KIP-966 (a
//! high watermark that needs enough in-sync replicas), with durable ends in place of log ends.
//! Logs may have gaps where another replica's compaction removed records; a push says what range
//! of offsets it covers, so that a gap is told from a loss.
//! Invariants: log start ≤ high watermark ≤ log end; durable end ≤ log end; a leader's high
//! watermark never falls; at most one ISR change is in flight; a leader is in its ISR.

mod describe;
mod effect;
mod follower;
mod high_watermark;
mod input;
mod isr;
mod leader;
mod local_log;
mod parked;
mod produce;
mod replica_progress;
mod trim;

use std::collections::BTreeSet;
use std::time::Duration;

use ottla_model::{
    BrokerEpoch, ErrorCode, Instant, LeaderEpoch, NodeId, Offset, PartitionEpoch, TimestampMs,
    TopicIdPartition,
};

pub use describe::{FollowerDescription, PartitionDescription};
pub use effect::{Effect, FollowerPosition, ProduceAck, ProduceError, ProduceFault, Stamp};
pub use input::{
    Acks, Assignment, FollowerAck, FollowerState, Input, LeaderData, LogState, PartitionSetup,
    Produce, ReplyId, Trim,
};
pub use parked::PARKED_PRODUCES_MAX;

use follower::Following;
use leader::Leading;
use local_log::LocalLog;

use crate::producers::Producers;

/// Stands in an ISR proposal for the registration of a member that has not stated itself in this
/// leader epoch; the controller does not compare it, as in KIP-903.
pub const UNKNOWN_BROKER_EPOCH: BrokerEpoch = BrokerEpoch(-1);
/// How often silent producers are looked for.
const PRODUCER_EXPIRY_INTERVAL: Duration = Duration::from_secs(600);

/// What this replica is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower {
        leader: NodeId,
    },
    /// The partition has no leader, or this node does not hold it.
    None,
}

/// What a consumer may read from a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchBounds {
    pub log_start: Offset,
    /// Records below are committed: the high watermark.
    pub limit: Offset,
    /// Offsets above are out of range. Between `limit` and here a consumer waits: after a change
    /// of leader it may know more than the new leader's high watermark says.
    pub log_end: Offset,
    pub leader_epoch: LeaderEpoch,
}

#[derive(Debug)]
enum State {
    Idle,
    Leading(Leading),
    Following(Following),
}

/// The state machine of one replica.
#[derive(Debug)]
pub struct Partition {
    setup: PartitionSetup,
    log: LocalLog,
    high_watermark: Offset,
    assignment: Option<Assignment>,
    state: State,
    /// The brokers to which a replication stream is up.
    streams: BTreeSet<NodeId>,
    /// When silent producers are looked for, while any producer is known.
    expiry_due: Option<Instant>,
    /// The time of the last step.
    last_step: Instant,
}

impl Partition {
    /// A replica that has heard of no assignment yet. Its high watermark is at the log's start
    /// until a leader says more, or it leads and derives it.
    pub fn new(setup: PartitionSetup, log: LogState) -> Partition {
        let partition = Partition {
            setup,
            high_watermark: log.log_start,
            log: LocalLog::new(log),
            assignment: None,
            state: State::Idle,
            streams: BTreeSet::new(),
            expiry_due: None,
            last_step: Instant::ZERO,
        };
        partition.check_invariants();
        partition
    }

    /// Takes one input and appends what is to be done to `effects`.
    pub fn step(&mut self, now: Instant, input: Input, effects: &mut Vec<Effect>) {
        let led = self.led_high_watermark();
        self.last_step = self.last_step.max(now);
        match input {
            Input::Assignment(assignment) => self.on_assignment(now, assignment, effects),
            Input::Produce(produce) => self.on_produce(now, produce, effects),
            Input::Flushed { ticket } => self.on_flushed(now, ticket, effects),
            Input::FollowerState(state) => self.on_follower_state(now, &state, effects),
            Input::FollowerAck(ack) => self.on_follower_ack(now, &ack, effects),
            Input::FollowerGone { follower } => self.on_follower_gone(now, follower, effects),
            Input::LeaderConnected { leader } => self.on_leader_connected(leader, effects),
            Input::LeaderDisconnected { leader } => self.on_leader_disconnected(leader),
            Input::LeaderData(data) => self.on_leader_data(now, &data, effects),
            Input::LeaderDiverged {
                leader_epoch,
                epoch,
                end_offset,
            } => self.on_leader_diverged(now, leader_epoch, epoch, end_offset, effects),
            Input::LeaderRefused {
                leader_epoch,
                error,
            } => self.on_leader_refused(now, leader_epoch, error),
            Input::AlterPartitionResult {
                partition_epoch,
                result,
            } => self.on_alter_partition_result(now, partition_epoch, result, effects),
            Input::Retain { from } => self.on_retain(now, from, effects),
            Input::Trim(trim) => self.on_trim(now, trim, effects),
            Input::ProducersReloaded(read) => self.log.producers_reloaded(read, effects),
            Input::Tick { wall_ms } => self.on_tick(now, wall_ms, effects),
        }
        if self.expiry_due.is_none() && self.log.producer_count() > 0 {
            self.expiry_due = Some(now + PRODUCER_EXPIRY_INTERVAL);
        }
        if let (Some((epoch, before)), Some((now_epoch, after))) = (led, self.led_high_watermark())
        {
            assert!(
                epoch != now_epoch || before <= after,
                "the high watermark of leader epoch {epoch} fell from {before} to {after}"
            );
        }
        self.check_invariants();
    }

    /// When to tick next, if nothing else happens.
    pub fn next_deadline(&self) -> Option<Instant> {
        let of_role = match &self.state {
            State::Idle => None,
            State::Leading(_) => self.leader_deadline(),
            State::Following(following) => following.next_deadline(),
        };
        [of_role, self.expiry_due].into_iter().flatten().min()
    }

    /// Asserts what must hold between any two steps.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        let (start, end) = (self.log.start(), self.log.end());
        assert!(
            start <= self.high_watermark,
            "log start {start} above high watermark {}",
            self.high_watermark
        );
        assert!(
            self.high_watermark <= end,
            "high watermark {} above log end {end}",
            self.high_watermark
        );
        if let State::Leading(leading) = &self.state {
            assert!(
                leading.isr.is_committed(self.setup.local),
                "leader {} is not in its ISR {:?}",
                self.setup.local,
                leading.isr.committed()
            );
            assert!(
                leading.epoch_start <= end,
                "leader epoch starts at {} above log end {end}",
                leading.epoch_start
            );
            leading.parked.check_invariants();
        }
    }

    pub fn id(&self) -> TopicIdPartition {
        self.setup.id
    }

    pub fn role(&self) -> Role {
        match &self.state {
            State::Idle => Role::None,
            State::Leading(_) => Role::Leader,
            State::Following(following) => Role::Follower {
                leader: following.leader,
            },
        }
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.assignment.as_ref()?.leader
    }

    /// The leader epoch of the last assignment, [`LeaderEpoch::NONE`] before the first.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.assignment
            .as_ref()
            .map_or(LeaderEpoch::NONE, |assignment| assignment.leader_epoch)
    }

    /// The partition epoch of the last assignment, -1 before the first.
    pub fn partition_epoch(&self) -> PartitionEpoch {
        self.assignment
            .as_ref()
            .map_or(PartitionEpoch(-1), |assignment| assignment.partition_epoch)
    }

    pub fn log_start(&self) -> Offset {
        self.log.start()
    }

    pub fn log_end(&self) -> Offset {
        self.log.end()
    }

    pub fn durable_end(&self) -> Offset {
        self.log.durable_end()
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The ISR as the metadata has it.
    pub fn isr(&self) -> &[NodeId] {
        self.assignment
            .as_ref()
            .map_or(&[], |assignment| &assignment.isr)
    }

    /// The replicas in assignment order.
    pub fn replicas(&self) -> &[NodeId] {
        self.assignment
            .as_ref()
            .map_or(&[], |assignment| &assignment.replicas)
    }

    /// What a consumer may read here. Fails with `UnknownTopicOrPartition` before the first
    /// assignment, `NotLeaderOrFollower`, `FencedLeaderEpoch` or `UnknownLeaderEpoch` (KIP-320).
    pub fn fetch_bounds(
        &self,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<FetchBounds, ErrorCode> {
        let leader_epoch = self.leader_epoch();
        match &self.state {
            State::Leading(_) => {}
            _ if self.assignment.is_none() => return Err(ErrorCode::UnknownTopicOrPartition),
            _ => return Err(ErrorCode::NotLeaderOrFollower),
        }
        match current_leader_epoch {
            Some(given) if given < leader_epoch => Err(ErrorCode::FencedLeaderEpoch),
            Some(given) if given > leader_epoch => Err(ErrorCode::UnknownLeaderEpoch),
            _ => Ok(FetchBounds {
                log_start: self.log.start(),
                limit: self.high_watermark,
                log_end: self.log.end(),
                leader_epoch,
            }),
        }
    }

    /// The offset behind the last committed record. Fails with `OffsetNotAvailable` while a new
    /// leader's high watermark is below the start of its epoch, so that a consumer that asks
    /// for the latest offset is not sent back; otherwise as [`Partition::fetch_bounds`].
    pub fn latest_offset(&self) -> Result<Offset, ErrorCode> {
        let bounds = self.fetch_bounds(None)?;
        match &self.state {
            State::Leading(leading) if bounds.limit < leading.epoch_start => {
                Err(ErrorCode::OffsetNotAvailable)
            }
            _ => Ok(bounds.limit),
        }
    }

    /// The producers by the batches up to the log's end; `None` while they are being read from the
    /// log.
    pub fn producers(&self) -> Option<&Producers> {
        self.log.producers()
    }

    /// The last offsets of the batches by which producers are known, ascending; `None` while they
    /// are being read from the log.
    pub fn remembered_batches(&self) -> Option<Vec<Offset>> {
        self.log.producers().map(Producers::last_offsets)
    }

    /// The largest epoch of this log up to `epoch`, and where it ends; see
    /// [`crate::LeaderEpochs::end_offset_for`].
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.log.end_offset_for(epoch)
    }

    fn led_high_watermark(&self) -> Option<(LeaderEpoch, Offset)> {
        matches!(self.state, State::Leading(_)).then(|| (self.leader_epoch(), self.high_watermark))
    }

    fn on_assignment(&mut self, now: Instant, given: Assignment, effects: &mut Vec<Effect>) {
        if let Some(known) = &self.assignment {
            let stale = given.partition_epoch < known.partition_epoch
                || given.leader_epoch < known.leader_epoch;
            if stale {
                return;
            }
            if given.partition_epoch == known.partition_epoch {
                return self.on_same_assignment(now, given, effects);
            }
        }
        let same_term = given.leader_epoch == self.leader_epoch();
        let role = self.role_in(&given);
        let keeps_role = same_term && role == self.role();
        self.assignment = Some(given);
        if keeps_role {
            if role == Role::Leader {
                self.continue_leading(now, effects);
            }
            return;
        }
        self.resign(effects);
        match role {
            Role::Leader => self.start_leading(now, effects),
            Role::Follower { leader } => self.start_following(leader, effects),
            Role::None => {}
        }
    }

    /// Takes over what changes without a partition epoch: settings, and who is alive.
    fn on_same_assignment(&mut self, now: Instant, given: Assignment, effects: &mut Vec<Effect>) {
        if let Some(known) = &mut self.assignment {
            known.eligible = given.eligible;
            known.min_insync_replicas = given.min_insync_replicas;
            known.max_message_bytes = given.max_message_bytes;
            known.timestamp_type = given.timestamp_type;
        }
        self.fail_if_under_min_isr(effects);
        self.advance(now, effects);
    }

    fn role_in(&self, assignment: &Assignment) -> Role {
        let local = self.setup.local;
        match assignment.leader {
            Some(leader) if leader == local => Role::Leader,
            Some(leader) if assignment.replicas.contains(&local) => Role::Follower { leader },
            _ => Role::None,
        }
    }

    fn on_flushed(&mut self, now: Instant, ticket: u64, effects: &mut Vec<Effect>) {
        if !self.log.flushed(ticket) {
            return;
        }
        match &self.state {
            State::Idle => {}
            State::Leading(_) => {
                self.complete_local(effects);
                self.advance(now, effects);
            }
            State::Following(_) => {
                self.follow_log_start(effects);
                self.acknowledge(effects);
            }
        }
    }

    fn on_tick(&mut self, now: Instant, wall_ms: TimestampMs, effects: &mut Vec<Effect>) {
        if self.expiry_due.is_some_and(|due| now >= due) {
            self.expiry_due = None;
            self.log
                .expire_producers(wall_ms, self.setup.producer_expiration_ms);
        }
        match &self.state {
            State::Idle => {}
            State::Leading(_) => self.leader_tick(now, effects),
            State::Following(_) => self.follower_tick(now, effects),
        }
    }

    /// Raises the high watermark to `to`, as far as the log goes. It never falls here.
    fn raise_high_watermark(&mut self, to: Offset, effects: &mut Vec<Effect>) {
        let to = to.min(self.log.end());
        if to > self.high_watermark {
            self.high_watermark = to;
            effects.push(Effect::HighWatermarkAdvanced { to });
        }
    }
}

#[cfg(test)]
mod tests;
