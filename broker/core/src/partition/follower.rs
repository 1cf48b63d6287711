//! The follower's side: states where the log stands, cuts what the leader does not have, takes
//! what it pushes, and acknowledges what is durable (KIP-101, KIP-279, KIP-320).

use std::time::Duration;

use ottla_model::batch::BatchHeader;
use ottla_model::{ErrorCode, Instant, LeaderEpoch, NodeId, Offset};

use super::effect::{Effect, FollowerPosition};
use super::input::LeaderData;
use super::{Partition, State};

/// How long a follower waits before it states itself again to a leader that refused it; doubled
/// with each refusal. Short at first: during a change of leader the other may hear of it a moment
/// later than we did.
const STATE_RETRY_BACKOFF_MIN: Duration = Duration::from_millis(10);
const STATE_RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No stream to the leader.
    Disconnected,
    /// The leader was told where the log stands; what it pushes is taken.
    Stated,
    /// A push did not continue the log, and the leader was told where it stands again. Pushes
    /// that were under way already are passed over until one continues the log; should none, the
    /// leader is told once more.
    Realigning {
        again_at: Instant,
    },
    RetryAt(Instant),
}

/// What is known while this replica follows a leader, in one leader epoch.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) leader: NodeId,
    phase: Phase,
    refusals: u32,
    /// Where the leader's log starts, as far as it said in this epoch.
    leader_log_start: Offset,
}

impl Following {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::RetryAt(at) | Phase::Realigning { again_at: at } => Some(at),
            _ => None,
        }
    }

    fn is_listening(&self) -> bool {
        matches!(self.phase, Phase::Stated | Phase::Realigning { .. })
    }

    fn retry_later(&mut self, now: Instant) {
        self.phase = Phase::RetryAt(now + self.next_backoff());
    }

    fn next_backoff(&mut self) -> Duration {
        let backoff = STATE_RETRY_BACKOFF_MIN * 2_u32.pow(self.refusals.min(10));
        self.refusals += 1;
        backoff.min(STATE_RETRY_BACKOFF_MAX)
    }
}

/// How a push stands to the log.
enum Fit {
    /// The batches from this one on are new; the bytes before it are in the log already.
    Continues { from: usize, skipped_bytes: usize },
    /// Nothing that is not in the log.
    Nothing,
    /// No batches, but the log goes on behind a gap.
    Skips,
    /// The log must go on at this offset instead, and then takes the whole push.
    RestartAt(Offset),
    /// The push is not for this log.
    Unfit,
}

impl Partition {
    pub(super) fn start_following(&mut self, leader: NodeId, effects: &mut Vec<Effect>) {
        self.state = State::Following(Following {
            leader,
            phase: Phase::Disconnected,
            refusals: 0,
            leader_log_start: Offset::ZERO,
        });
        if self.streams.contains(&leader) {
            self.state_position(Phase::Stated, effects);
        }
    }

    pub(super) fn on_leader_connected(&mut self, leader: NodeId, effects: &mut Vec<Effect>) {
        self.streams.insert(leader);
        if let State::Following(following) = &mut self.state
            && following.leader == leader
        {
            following.refusals = 0;
            self.state_position(Phase::Stated, effects);
        }
    }

    pub(super) fn on_leader_disconnected(&mut self, leader: NodeId) {
        self.streams.remove(&leader);
        if let State::Following(following) = &mut self.state
            && following.leader == leader
        {
            following.phase = Phase::Disconnected;
        }
    }

    fn state_position(&mut self, phase: Phase, effects: &mut Vec<Effect>) {
        let leader_epoch = self.leader_epoch();
        if let State::Following(following) = &mut self.state {
            following.phase = phase;
            effects.push(Effect::SendState {
                leader: following.leader,
                state: FollowerPosition {
                    leader_epoch,
                    log_end: self.log.end(),
                    durable_end: self.log.durable_end(),
                    last_epoch: self.log.last_epoch(),
                    log_start: self.log.durable_start(),
                },
            });
        }
    }

    /// Tells the leader what became durable, if it knows where this log stands.
    pub(super) fn acknowledge(&mut self, effects: &mut Vec<Effect>) {
        if let State::Following(following) = &self.state
            && following.is_listening()
        {
            effects.push(Effect::SendAck {
                leader: following.leader,
                leader_epoch: self.leader_epoch(),
                durable_end: self.log.durable_end(),
                log_start: self.log.durable_start(),
            });
        }
    }

    /// Drops what the leader has dropped, as far as this log is durable.
    pub(super) fn follow_log_start(&mut self, effects: &mut Vec<Effect>) {
        let State::Following(following) = &self.state else {
            return;
        };
        let to = following.leader_log_start;
        if let Some(ticket) = self.log.advance_start(to) {
            let to = self.log.start();
            effects.push(Effect::AdvanceLogStart { ticket, to });
            self.raise_high_watermark(to, effects);
        }
    }

    /// The follower that listens to the leader of this epoch, if this replica is one.
    fn listening_in(&mut self, leader_epoch: LeaderEpoch) -> Option<&mut Following> {
        let current = self.leader_epoch();
        match &mut self.state {
            State::Following(following) if leader_epoch == current && following.is_listening() => {
                Some(following)
            }
            _ => None,
        }
    }

    pub(super) fn on_leader_data(
        &mut self,
        now: Instant,
        data: &LeaderData,
        effects: &mut Vec<Effect>,
    ) {
        let Some(following) = self.listening_in(data.leader_epoch) else {
            return;
        };
        let realigning = matches!(following.phase, Phase::Realigning { .. });
        following.leader_log_start = following.leader_log_start.max(data.log_start);
        let mut fit = self.fit(data);
        if let Fit::RestartAt(offset) = fit {
            self.log.restart_at(offset, effects);
            self.high_watermark = offset;
            let ticket = self.log.confirm_start();
            effects.push(Effect::AdvanceLogStart { ticket, to: offset });
            fit = match data.headers.is_empty() {
                true if data.from <= offset => Fit::Skips,
                true => Fit::Nothing,
                false => Fit::Continues {
                    from: 0,
                    skipped_bytes: 0,
                },
            };
        }
        match fit {
            Fit::Unfit | Fit::RestartAt(_) => {
                if !realigning {
                    self.realign(now, effects);
                }
                return;
            }
            Fit::Nothing if data.from == self.log.end() => self.fits(),
            Fit::Nothing => {}
            Fit::Skips => {
                self.log.skip_to(data.to, effects);
                self.fits();
            }
            Fit::Continues {
                from,
                skipped_bytes,
            } => {
                let ticket = self.log.append(&data.headers[from..]);
                effects.push(Effect::Append {
                    ticket,
                    batches: data.batches.slice(skipped_bytes..),
                    stamp: None,
                });
                self.fits();
            }
        }
        self.follow_log_start(effects);
        self.raise_high_watermark(data.high_watermark, effects);
    }

    /// A push continued the log.
    fn fits(&mut self) {
        if let State::Following(following) = &mut self.state {
            following.phase = Phase::Stated;
            following.refusals = 0;
        }
    }

    /// Tells the leader where the log stands, because its pushes do not continue it.
    fn realign(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let State::Following(following) = &mut self.state {
            let again_at = now + following.next_backoff();
            self.state_position(Phase::Realigning { again_at }, effects);
        }
    }

    /// Compares a push with the log. The shell has validated the batches, not what they mean here.
    fn fit(&self, data: &LeaderData) -> Fit {
        let (start, end) = (self.log.start(), self.log.end());
        let Some(first) = data.headers.first() else {
            let covers = data.from <= end && data.to > end;
            return match data.log_start > end {
                true => Fit::RestartAt(data.log_start),
                false if covers => Fit::Skips,
                false => Fit::Nothing,
            };
        };
        let total: usize = data.headers.iter().map(|header| header.size).sum();
        if total != data.batches.len() || !is_in_order(&data.headers) {
            return Fit::Unfit;
        }
        let last_epoch = data.headers[data.headers.len() - 1].leader_epoch;
        if last_epoch > data.leader_epoch {
            return Fit::Unfit;
        }
        // Everything here was dropped by the leader, and the push begins where its log does now.
        let starts_over = data.log_start > end && data.from <= data.log_start;
        // The leader's log may start within a batch, and an empty log takes that batch whole.
        let takes_straddling = start == end && first.base_offset < end && first.next_offset() > end;
        if starts_over || takes_straddling {
            // Behind the log's start there may be a gap.
            return Fit::RestartAt(match starts_over {
                true => first.base_offset.min(data.log_start),
                false => first.base_offset,
            });
        }
        let Some(from) = data.headers.iter().position(|h| h.next_offset() > end) else {
            return Fit::Nothing;
        };
        let next = &data.headers[from];
        // Between our end and the next batch there may be a gap, if the leader says that it has
        // nothing there; batches never overlap.
        let follows = next.base_offset == end || (data.from <= end && next.base_offset > end);
        match follows && next.leader_epoch >= self.log.last_epoch() {
            false => Fit::Unfit,
            true => Fit::Continues {
                from,
                skipped_bytes: data.headers[..from].iter().map(|header| header.size).sum(),
            },
        }
    }

    pub(super) fn on_leader_diverged(
        &mut self,
        now: Instant,
        leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
        end_offset: Offset,
        effects: &mut Vec<Effect>,
    ) {
        if self.listening_in(leader_epoch).is_none() {
            return;
        }
        let before = (self.log.last_epoch(), self.log.end());
        let to = match self.log.end_offset_for(epoch) {
            Some((known, own_end)) if known == epoch => own_end.min(end_offset),
            // We do not know the leader's epoch: cut to the end of the largest one below it, and
            // ask about that one next.
            Some((_, own_end)) => own_end,
            None => end_offset,
        };
        self.log.truncate(to, effects);
        self.high_watermark = self.high_watermark.clamp(self.log.start(), self.log.end());
        if (self.log.last_epoch(), self.log.end()) == before {
            // The answer cuts nothing, so asking at once would go round in circles.
            if let Some(following) = self.listening_in(leader_epoch) {
                following.retry_later(now);
            }
            return;
        }
        self.state_position(Phase::Stated, effects);
    }

    pub(super) fn on_leader_refused(
        &mut self,
        now: Instant,
        leader_epoch: LeaderEpoch,
        error: ErrorCode,
    ) {
        let is_behind = leader_epoch > self.leader_epoch() || error == ErrorCode::FencedLeaderEpoch;
        if let State::Following(following) = &mut self.state
            && following.is_listening()
        {
            if is_behind {
                // Only newer metadata helps; asking again is a safety net.
                following.refusals = 10;
            }
            following.retry_later(now);
        }
    }

    pub(super) fn follower_tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let State::Following(following) = &self.state else {
            return;
        };
        match following.phase {
            Phase::RetryAt(at) if now >= at => self.state_position(Phase::Stated, effects),
            Phase::Realigning { again_at } if now >= again_at => self.realign(now, effects),
            _ => {}
        }
    }
}

/// Whether each batch begins where the one before it ends, or later, in an epoch that does not go
/// back.
fn is_in_order(headers: &[BatchHeader]) -> bool {
    headers.windows(2).all(|pair| {
        pair[1].base_offset >= pair[0].next_offset() && pair[1].leader_epoch >= pair[0].leader_epoch
    })
}
