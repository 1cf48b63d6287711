//! Dropping the start of the log: by retention, and on request (KIP-107). Decides when a trim is
//! safe to be reported: once every replica that could be elected has made it durable, so that no
//! failover brings the records back.
//!
//! The log's start only rises, whoever decided it. So a leader also takes over a start that one of
//! its followers has from an earlier leader; after an unclean election that may be all that is
//! left of a trim.

use std::collections::BTreeMap;

use ottla_model::{ErrorCode, Instant, NodeId, Offset};

use super::effect::Effect;
use super::input::{ReplyId, Trim};
use super::isr::Isr;
use super::replica_progress::ReplicaProgress;
use super::{Partition, State};

/// The most trims that wait for followers; more are refused for a while.
const TRIMS_WAITING_MAX: usize = 1_000;

/// A trim that is carried out here, but not yet by all who must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WaitingTrim {
    reply: ReplyId,
    to: Offset,
    deadline: Instant,
}

impl Partition {
    /// Retention has found that nothing below `from` need be kept. A follower is only asked where
    /// its disk is full; its leader takes over the start that it then tells.
    pub(super) fn on_retain(&mut self, now: Instant, from: Offset, effects: &mut Vec<Effect>) {
        match self.state {
            State::Idle => {}
            State::Leading(_) => {
                self.raise_log_start(from.min(self.high_watermark), effects);
                self.advance(now, effects);
            }
            State::Following(_) => self.raise_log_start(from.min(self.high_watermark), effects),
        }
    }

    pub(super) fn on_trim(&mut self, now: Instant, trim: Trim, effects: &mut Vec<Effect>) {
        let reply = trim.reply;
        match self.accept_trim(&trim, effects) {
            Ok(to) => {
                if let State::Leading(leading) = &mut self.state {
                    leading.trims.push(WaitingTrim {
                        reply,
                        to,
                        deadline: trim.deadline,
                    });
                }
                self.advance(now, effects);
            }
            Err(error) => effects.push(Effect::TrimReply {
                reply,
                result: Err(error),
            }),
        }
    }

    fn accept_trim(&mut self, trim: &Trim, effects: &mut Vec<Effect>) -> Result<Offset, ErrorCode> {
        let committed = self.latest_offset()?;
        let (State::Leading(leading), Some(assignment)) = (&self.state, &self.assignment) else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        match trim.expected_leader_epoch {
            Some(given) if given < assignment.leader_epoch => {
                return Err(ErrorCode::FencedLeaderEpoch);
            }
            Some(given) if given > assignment.leader_epoch => {
                return Err(ErrorCode::UnknownLeaderEpoch);
            }
            _ => {}
        }
        let to = trim.to.unwrap_or(committed);
        if to < Offset::ZERO || to > committed {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        // Replicas outside a small ISR could still be elected.
        if leading.isr.committed().len() < assignment.min_insync_replicas {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        if leading.trims.len() >= TRIMS_WAITING_MAX {
            return Err(ErrorCode::ThrottlingQuotaExceeded);
        }
        if to > self.log.durable_end() {
            return Err(ErrorCode::OffsetNotAvailable);
        }
        self.raise_log_start(to, effects);
        Ok(to)
    }

    /// Drops what is below `to` here, and lets the followers know.
    fn raise_log_start(&mut self, to: Offset, effects: &mut Vec<Effect>) {
        if let Some(ticket) = self.log.advance_start(to) {
            let to = self.log.start();
            effects.push(Effect::AdvanceLogStart { ticket, to });
            effects.push(Effect::LogStartAdvanced { to });
        }
    }

    /// Takes over the highest log start that a follower with a matching log has.
    pub(super) fn adopt_log_start(&mut self, effects: &mut Vec<Effect>) {
        let State::Leading(leading) = &self.state else {
            return;
        };
        let theirs = leading.followers.values().filter_map(|progress| {
            progress.durable_end()?;
            progress.log_start()
        });
        if let Some(highest) = theirs.max() {
            self.raise_log_start(highest.min(self.high_watermark), effects);
        }
    }

    /// Answers the trims that no election can undo any more.
    pub(super) fn complete_trims(&mut self, effects: &mut Vec<Effect>) {
        let own = self.log.durable_start();
        let (State::Leading(leading), Some(assignment)) = (&mut self.state, &self.assignment)
        else {
            return;
        };
        if leading.trims.is_empty()
            || leading.isr.committed().len() < assignment.min_insync_replicas
        {
            return;
        }
        let Some(low) = low_watermark(own, &leading.isr, &leading.followers) else {
            return;
        };
        leading.trims.retain(|trim| {
            let waits = trim.to > low;
            if !waits {
                let (reply, result) = (trim.reply, Ok(low));
                effects.push(Effect::TrimReply { reply, result });
            }
            waits
        });
    }

    /// Gives up on the trims whose callers stop waiting. What was dropped here stays dropped.
    pub(super) fn expire_trims(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.fail_trims(ErrorCode::RequestTimedOut, effects, |trim| {
            trim.deadline <= now
        });
    }

    pub(super) fn fail_trims(
        &mut self,
        error: ErrorCode,
        effects: &mut Vec<Effect>,
        which: impl Fn(&WaitingTrim) -> bool,
    ) {
        if let State::Leading(leading) = &mut self.state {
            leading.trims.retain(|trim| {
                let fails = which(trim);
                if fails {
                    let (reply, result) = (trim.reply, Err(error));
                    effects.push(Effect::TrimReply { reply, result });
                }
                !fails
            });
        }
    }

    pub(super) fn next_trim_deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Leading(leading) => leading.trims.iter().map(|trim| trim.deadline).min(),
            _ => None,
        }
    }
}

/// The lowest durable log start among the leader and everybody in the maximal ISR; `None` while
/// one of them has not said.
fn low_watermark(
    own: Offset,
    isr: &Isr,
    followers: &BTreeMap<NodeId, ReplicaProgress>,
) -> Option<Offset> {
    followers
        .iter()
        .filter(|(node, _)| isr.is_maximal(**node))
        .try_fold(own, |low, (_, progress)| {
            progress.durable_end()?;
            progress.log_start().map(|start| low.min(start))
        })
}
