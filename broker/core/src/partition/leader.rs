//! The leader's side: where each follower stands, what is committed, who is in sync. Decides
//! whether a follower's log is a part of the leader's. Writes are in `produce.rs`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{BrokerEpoch, ErrorCode, Instant, LeaderEpoch, NodeId, Offset, PartitionEpoch};

use super::effect::{Effect, ProduceError, ProduceFault};
use super::high_watermark::{HighWatermarkView, is_eligible};
use super::input::{Assignment, FollowerAck, FollowerState};
use super::isr::Isr;
use super::local_log::LocalLog;
use super::parked::{Parked, WaitFor};
use super::replica_progress::ReplicaProgress;
use super::trim::WaitingTrim;
use super::{Partition, State, UNKNOWN_BROKER_EPOCH};

/// What is known while this replica leads, in one leader epoch.
#[derive(Debug)]
pub(super) struct Leading {
    /// Where the log ended when this leadership began. No record below is of this epoch.
    pub(super) epoch_start: Offset,
    pub(super) followers: BTreeMap<NodeId, ReplicaProgress>,
    pub(super) isr: Isr,
    pub(super) parked: Parked,
    pub(super) trims: Vec<WaitingTrim>,
}

impl Partition {
    pub(super) fn start_leading(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(assignment) = &self.assignment else {
            return;
        };
        let epoch_start = self.log.end();
        self.log.epochs.assign(assignment.leader_epoch, epoch_start);
        let followers = followers_of(assignment, self.setup.local)
            .into_iter()
            .map(|node| {
                let progress = if assignment.isr.contains(&node) {
                    ReplicaProgress::presumed_caught_up(now)
                } else {
                    ReplicaProgress::default()
                };
                (node, progress)
            })
            .collect();
        self.state = State::Leading(Leading {
            epoch_start,
            followers,
            isr: Isr::new(assignment.isr.clone()),
            parked: Parked::default(),
            trims: Vec::new(),
        });
        self.advance(now, effects);
    }

    /// The metadata changed within the leader epoch: replicas, ISR, settings.
    pub(super) fn continue_leading(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let (State::Leading(leading), Some(assignment)) = (&mut self.state, &self.assignment)
        else {
            return;
        };
        let mut known = std::mem::take(&mut leading.followers);
        leading.followers = followers_of(assignment, self.setup.local)
            .into_iter()
            .map(|node| {
                let mut progress = known.remove(&node).unwrap_or_default();
                if assignment.isr.contains(&node) && !leading.isr.is_committed(node) {
                    progress.joined(now);
                }
                (node, progress)
            })
            .collect();
        leading.isr.commit(assignment.isr.clone());
        self.fail_if_under_min_isr(effects);
        self.advance(now, effects);
    }

    /// Ends whatever this replica was. Writes that wait were appended, and their outcome is up to
    /// the next leader.
    pub(super) fn resign(&mut self, effects: &mut Vec<Effect>) {
        self.fail_trims(ErrorCode::NotLeaderOrFollower, effects, |_| true);
        let State::Leading(mut leading) = std::mem::replace(&mut self.state, State::Idle) else {
            return;
        };
        // Without a record of this leadership there is nothing that a follower could state of it.
        self.log.forget_empty_epochs();
        for condition in [WaitFor::HighWatermark, WaitFor::LocalDisk] {
            while let Some(reply) = leading.parked.pop_any(condition) {
                let result = Err(self.produce_error(ProduceFault::LeadershipLost));
                effects.push(Effect::Reply { reply, result });
            }
        }
    }

    pub(super) fn produce_error(&self, fault: ProduceFault) -> ProduceError {
        ProduceError {
            code: fault.code(),
            leader: self.leader(),
            leader_epoch: self.leader_epoch(),
            fault,
        }
    }

    pub(super) fn on_follower_state(
        &mut self,
        now: Instant,
        stated: &FollowerState,
        effects: &mut Vec<Effect>,
    ) {
        let follower = stated.follower;
        let current = self.leader_epoch();
        let refuse = |error| Effect::RefuseFollower { follower, error };
        let State::Leading(leading) = &mut self.state else {
            return effects.push(refuse(ErrorCode::NotLeaderOrFollower));
        };
        match stated.leader_epoch.cmp(&current) {
            Ordering::Less => return effects.push(refuse(ErrorCode::FencedLeaderEpoch)),
            Ordering::Greater => return effects.push(refuse(ErrorCode::UnknownLeaderEpoch)),
            Ordering::Equal => {}
        }
        // A replica that this leader does not know: the follower's metadata is ahead of ours.
        let Some(progress) = leading.followers.get_mut(&follower) else {
            return effects.push(refuse(ErrorCode::UnknownLeaderEpoch));
        };
        if progress.broker_epoch() > Some(stated.broker_epoch) {
            return effects.push(refuse(ErrorCode::StaleBrokerEpoch));
        }
        if stated.durable_end > stated.log_end {
            return effects.push(refuse(ErrorCode::InvalidRequest));
        }
        match compare_logs(&self.log, stated) {
            Comparison::Matches { from } => {
                let leader_end = self.log.end();
                progress.matched(now, stated.broker_epoch, stated.durable_end, leader_end);
                progress.starts_at(stated.log_start);
                effects.push(Effect::StartFollower { follower, from });
            }
            Comparison::Parts { epoch, end_offset } => {
                progress.parted(stated.broker_epoch);
                effects.push(Effect::Diverged {
                    follower,
                    epoch,
                    end_offset,
                });
            }
            Comparison::FromTheFuture => {
                progress.parted(stated.broker_epoch);
                effects.push(refuse(ErrorCode::UnknownLeaderEpoch));
            }
        }
        self.advance(now, effects);
    }

    pub(super) fn on_follower_ack(
        &mut self,
        now: Instant,
        ack: &FollowerAck,
        effects: &mut Vec<Effect>,
    ) {
        let current = self.leader_epoch();
        let log_end = self.log.end();
        let State::Leading(leading) = &mut self.state else {
            return;
        };
        let Some(progress) = leading.followers.get_mut(&ack.follower) else {
            return;
        };
        // Only what was said in this epoch, by this incarnation, about a log that matches, counts.
        let counts = ack.leader_epoch == current
            && progress.broker_epoch() == Some(ack.broker_epoch)
            && progress.durable_end().is_some();
        if !counts {
            return;
        }
        if ack.durable_end > log_end {
            let (follower, error) = (ack.follower, ErrorCode::InvalidRequest);
            return effects.push(Effect::RefuseFollower { follower, error });
        }
        progress.acked(now, ack.durable_end, log_end);
        progress.starts_at(ack.log_start);
        self.advance(now, effects);
    }

    pub(super) fn on_follower_gone(
        &mut self,
        now: Instant,
        follower: NodeId,
        effects: &mut Vec<Effect>,
    ) {
        if let State::Leading(leading) = &mut self.state
            && let Some(progress) = leading.followers.get_mut(&follower)
        {
            progress.gone();
            self.advance(now, effects);
        }
    }

    pub(super) fn on_alter_partition_result(
        &mut self,
        now: Instant,
        partition_epoch: PartitionEpoch,
        result: Result<(), ErrorCode>,
        effects: &mut Vec<Effect>,
    ) {
        if let State::Leading(leading) = &mut self.state {
            leading.isr.answered(now, partition_epoch, result);
            self.advance(now, effects);
        }
    }

    pub(super) fn leader_tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        loop {
            let State::Leading(leading) = &mut self.state else {
                return;
            };
            let Some(reply) = leading.parked.pop_expired(now) else {
                leading.isr.retry_due(now, effects);
                break;
            };
            let result = Err(self.produce_error(ProduceFault::TimedOut));
            effects.push(Effect::Reply { reply, result });
        }
        self.expire_trims(now, effects);
        self.advance(now, effects);
    }

    pub(super) fn leader_deadline(&self) -> Option<Instant> {
        let State::Leading(leading) = &self.state else {
            return None;
        };
        let lag_max = self.setup.replica_lag_time_max;
        let may_shrink = leading.isr.is_settled(self.last_step);
        let lagging = leading
            .followers
            .iter()
            .filter(|(node, _)| may_shrink || !leading.isr.is_committed(**node))
            .filter_map(|(_, progress)| progress.lags_at(self.log.end(), lag_max))
            // What lagged at the last step was dealt with there.
            .filter(|at| *at > self.last_step)
            .min();
        [
            leading.parked.next_deadline(),
            leading.isr.next_deadline(),
            self.next_trim_deadline(),
            lagging,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Draws the conclusions after anything changed: the high watermark, the writes that waited
    /// for it, and the ISR.
    pub(super) fn advance(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let (State::Leading(leading), Some(assignment)) = (&self.state, &self.assignment) else {
            return;
        };
        let view = HighWatermarkView {
            now,
            log_end: self.log.end(),
            durable_end: self.log.durable_end(),
            assignment,
            isr: &leading.isr,
            replica_lag_time_max: self.setup.replica_lag_time_max,
        };
        if let Some(committed) = view.committed_end(leading.followers.iter()) {
            self.raise_high_watermark(committed, effects);
            self.complete_committed(effects);
        }
        self.adopt_log_start(effects);
        self.complete_trims(effects);
        self.maybe_change_isr(now, effects);
    }

    /// Asks for a smaller ISR if a member lags, else for a larger one if a follower caught up.
    /// Shrinking goes first: it must not wait behind an expansion that the controller refuses.
    fn maybe_change_isr(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let (State::Leading(leading), Some(assignment)) = (&mut self.state, &self.assignment)
        else {
            return;
        };
        if !leading.isr.is_settled(now) {
            return;
        }
        let (log_end, lag_max) = (self.log.end(), self.setup.replica_lag_time_max);
        let high_watermark = self.high_watermark;
        let log_start = self.log.start();
        let lags = |node: &NodeId| {
            let progress = leading.followers.get(node);
            progress.is_some_and(|progress| !progress.is_caught_up(now, log_end, lag_max))
        };
        let joins = |node: &NodeId| {
            leading.followers.get(node).is_some_and(|progress| {
                let reached = high_watermark.max(leading.epoch_start);
                // What was trimmed here must not come back with a new leader.
                progress.is_connected()
                    && progress.durable_end().is_some_and(|end| end >= reached)
                    && progress.log_start().is_some_and(|start| start >= log_start)
                    && is_eligible(assignment, *node, progress)
            })
        };
        let committed = leading.isr.committed();
        let mut proposed: Vec<NodeId> = committed
            .iter()
            .copied()
            .filter(|node| !lags(node))
            .collect();
        if proposed.len() == committed.len() {
            let outside = assignment.replicas.iter();
            proposed.extend(outside.filter(|node| !committed.contains(node) && joins(node)));
        }
        if proposed.len() == committed.len() {
            return;
        }
        let with_epochs = proposed
            .into_iter()
            .map(|node| (node, vouched_epoch(assignment, &leading.followers, node)))
            .collect();
        leading.isr.propose(
            assignment.leader_epoch,
            assignment.partition_epoch,
            with_epochs,
            effects,
        );
    }
}

/// The registration under which the leader knows a member: what it stated, or, for the leader
/// itself, what the metadata says.
fn vouched_epoch(
    assignment: &Assignment,
    followers: &BTreeMap<NodeId, ReplicaProgress>,
    node: NodeId,
) -> BrokerEpoch {
    let known = match followers.get(&node) {
        Some(progress) => progress.broker_epoch(),
        None => assignment.eligible.get(&node).copied(),
    };
    known.unwrap_or(UNKNOWN_BROKER_EPOCH)
}

/// Every node whose progress matters, once.
fn followers_of(assignment: &Assignment, local: NodeId) -> BTreeSet<NodeId> {
    let all = assignment.replicas.iter().chain(&assignment.isr).copied();
    all.filter(|node| *node != local).collect()
}

/// How a follower's log stands to the leader's.
enum Comparison {
    /// The follower's log is a part of the leader's, or too old to matter.
    Matches { from: Offset },
    /// The largest epoch up to the follower's last that the leader knows ends here.
    Parts {
        epoch: LeaderEpoch,
        end_offset: Offset,
    },
    /// The follower holds records of an epoch that this leader has not heard of.
    FromTheFuture,
}

fn compare_logs(log: &LocalLog, stated: &FollowerState) -> Comparison {
    if stated.log_end < log.start() {
        // Everything the follower holds was dropped here; it restarts when the first push tells
        // it the log's start.
        return Comparison::Matches { from: log.start() };
    }
    let is_known = |earliest| stated.last_epoch >= earliest;
    if stated.last_epoch != LeaderEpoch::NONE && !log.epochs.earliest().is_some_and(is_known) {
        // The follower's last record is of an epoch of which nothing is left here. Above our start
        // it differs for sure, and below nobody can tell any more, so it starts over.
        return Comparison::Parts {
            epoch: LeaderEpoch::NONE,
            end_offset: log.start(),
        };
    }
    let found = if stated.last_epoch == LeaderEpoch::NONE {
        // A log without records can only be too far.
        Some((log.last_epoch(), log.end()))
    } else {
        log.end_offset_for(stated.last_epoch)
    };
    match found {
        None => Comparison::FromTheFuture,
        Some((epoch, end_offset)) if epoch < stated.last_epoch || end_offset < stated.log_end => {
            Comparison::Parts { epoch, end_offset }
        }
        Some(_) => Comparison::Matches {
            from: stated.log_end,
        },
    }
}
