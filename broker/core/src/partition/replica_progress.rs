//! What a leader knows of one follower, in the current leader epoch. Decides whether it is caught
//! up: Kafka's `lastCaughtUpTime` rule, with acknowledgements in place of fetches.

use std::time::Duration;

use ottla_model::{BrokerEpoch, Instant, Offset};

/// A follower's progress. Made anew in each leader epoch, so that nothing reported in an earlier
/// one counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ReplicaProgress {
    /// The registration under which the follower stated itself.
    broker_epoch: Option<BrokerEpoch>,
    /// How far its log is durable; known once its log was found to match.
    durable_end: Option<Offset>,
    /// Where its log starts, durably; known from its first statement on.
    log_start: Option<Offset>,
    /// The last time at which it surely held everything the leader held.
    last_caught_up: Option<Instant>,
    /// An earlier end of the leader's log, and when it was the end. A follower that gets there was
    /// caught up then.
    mark: Option<(Offset, Instant)>,
    connected: bool,
}

impl ReplicaProgress {
    /// A member of the ISR at the start of a leadership: caught up until now, as far as lagging
    /// goes. Where it stands is not known.
    pub(super) fn presumed_caught_up(now: Instant) -> ReplicaProgress {
        ReplicaProgress {
            last_caught_up: Some(now),
            ..ReplicaProgress::default()
        }
    }

    /// The follower joined the ISR, for which the high watermark suffices. It has the full lag time
    /// to reach the log's end, or it would leave again at once.
    pub(super) fn joined(&mut self, now: Instant) {
        self.last_caught_up = Some(now);
    }

    pub(super) fn broker_epoch(&self) -> Option<BrokerEpoch> {
        self.broker_epoch
    }

    pub(super) fn durable_end(&self) -> Option<Offset> {
        self.durable_end
    }

    pub(super) fn log_start(&self) -> Option<Offset> {
        self.log_start
    }

    /// The follower's log starts here, durably. It never moves back in a log that matches.
    pub(super) fn starts_at(&mut self, log_start: Offset) {
        self.log_start = Some(log_start);
    }

    pub(super) fn last_caught_up(&self) -> Option<Instant> {
        self.last_caught_up
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// The follower stated itself, and its log does not match yet.
    pub(super) fn parted(&mut self, broker_epoch: BrokerEpoch) {
        self.broker_epoch = Some(broker_epoch);
        self.durable_end = None;
        self.mark = None;
        self.connected = true;
    }

    /// The follower stated itself, and its log is a part of the leader's.
    pub(super) fn matched(
        &mut self,
        now: Instant,
        broker_epoch: BrokerEpoch,
        durable_end: Offset,
        leader_end: Offset,
    ) {
        self.broker_epoch = Some(broker_epoch);
        self.durable_end = Some(durable_end);
        self.mark = None;
        self.connected = true;
        self.note_reached(now, durable_end, leader_end);
    }

    /// The follower's log is durable up to here.
    pub(super) fn acked(&mut self, now: Instant, durable_end: Offset, leader_end: Offset) {
        let durable_end = self.durable_end.map_or(durable_end, |d| d.max(durable_end));
        self.durable_end = Some(durable_end);
        self.connected = true;
        self.note_reached(now, durable_end, leader_end);
    }

    fn note_reached(&mut self, now: Instant, durable_end: Offset, leader_end: Offset) {
        if durable_end >= leader_end {
            self.last_caught_up = Some(now);
            self.mark = None;
            return;
        }
        match self.mark {
            Some((end, at)) if durable_end < end => {
                debug_assert!(at <= now, "a mark set at {at:?} is ahead of {now:?}");
            }
            reached => {
                if let Some((_, at)) = reached {
                    self.last_caught_up = self.last_caught_up.max(Some(at));
                }
                self.mark = Some((leader_end, now));
            }
        }
    }

    /// The leader is about to append behind `leader_end`: whoever held all of it was caught up
    /// until now.
    pub(super) fn before_append(&mut self, now: Instant, leader_end: Offset) {
        if self.durable_end == Some(leader_end) {
            self.last_caught_up = Some(now);
        }
    }

    /// The follower's stream closed. What it acknowledged stays true.
    pub(super) fn gone(&mut self) {
        self.connected = false;
    }

    /// Whether the follower holds everything, or did less than `lag_max` ago.
    pub(super) fn is_caught_up(&self, now: Instant, leader_end: Offset, lag_max: Duration) -> bool {
        self.durable_end == Some(leader_end)
            || self
                .last_caught_up
                .is_some_and(|at| now.since(at) < lag_max)
    }

    /// When the follower stops being caught up, if nothing happens.
    pub(super) fn lags_at(&self, leader_end: Offset, lag_max: Duration) -> Option<Instant> {
        if self.durable_end == Some(leader_end) {
            return None;
        }
        self.last_caught_up.map(|at| at + lag_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG_MAX: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    fn matched_at(durable: i64, end: i64, seconds: u64) -> ReplicaProgress {
        let mut progress = ReplicaProgress::default();
        progress.matched(at(seconds), BrokerEpoch(7), Offset(durable), Offset(end));
        progress
    }

    #[test]
    fn a_follower_level_with_an_idle_leader_is_caught_up_for_ever() {
        let progress = matched_at(5, 5, 0);
        assert!(progress.is_caught_up(at(1_000), Offset(5), LAG_MAX));
        assert_eq!(progress.lags_at(Offset(5), LAG_MAX), None);
    }

    #[test]
    fn the_first_append_after_a_long_idle_time_leaves_a_follower_its_full_time() {
        let mut progress = matched_at(5, 5, 0);
        progress.before_append(at(1_000), Offset(5));
        assert!(progress.is_caught_up(at(1_009), Offset(6), LAG_MAX));
        assert_eq!(progress.lags_at(Offset(6), LAG_MAX), Some(at(1_010)));
        assert!(!progress.is_caught_up(at(1_010), Offset(6), LAG_MAX));
    }

    #[test]
    fn a_follower_always_one_batch_behind_a_busy_leader_stays_caught_up() {
        let mut progress = matched_at(0, 10, 0);
        for second in 1..60 {
            let end = 10 * (second as i64 + 1);
            progress.acked(at(second), Offset(end - 10), Offset(end));
            assert!(progress.is_caught_up(at(second), Offset(end), LAG_MAX));
        }
    }

    #[test]
    fn many_small_acknowledgements_do_not_move_the_mark_out_of_reach() {
        let mut progress = matched_at(0, 100, 0);
        for durable in 1..=100 {
            progress.acked(at(1), Offset(durable), Offset(100 + durable));
        }
        assert_eq!(progress.last_caught_up(), Some(at(0)));
    }

    #[test]
    fn a_follower_that_falls_behind_further_and_further_lags() {
        let mut progress = ReplicaProgress::presumed_caught_up(at(0));
        progress.matched(at(0), BrokerEpoch(7), Offset(0), Offset(1_000));
        for second in 1..=10 {
            let end = Offset(1_000 * (second as i64 + 1));
            progress.acked(at(second), Offset(second as i64), end);
        }
        assert!(!progress.is_caught_up(at(10), Offset(11_000), LAG_MAX));
    }
}
