//! Produce requests that wait: for the high watermark (acks=all) or for the local disk (acks=1).
//! Each leaves once, with an acknowledgement, a failure, or its deadline.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::{Instant, Offset};

use super::effect::ProduceAck;
use super::input::ReplyId;

/// The most produce requests that wait for one partition.
pub const PARKED_PRODUCES_MAX: usize = 65_536;

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum WaitFor {
    HighWatermark,
    LocalDisk,
}

/// Orders the waiting: by condition, then by offset, then by arrival.
type Key = (WaitFor, Offset, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    reply: ReplyId,
    deadline: Instant,
    ack: ProduceAck,
}

#[derive(Debug, Default)]
pub(super) struct Parked {
    waiting: BTreeMap<Key, Waiting>,
    by_deadline: BTreeSet<(Instant, Key)>,
    arrivals: u64,
}

impl Parked {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Lets a request wait until `condition` reaches `end`, the offset behind its last record.
    pub(super) fn park(
        &mut self,
        condition: WaitFor,
        end: Offset,
        reply: ReplyId,
        deadline: Instant,
        ack: ProduceAck,
    ) {
        self.arrivals += 1;
        let key = (condition, end, self.arrivals);
        let waiting = Waiting {
            reply,
            deadline,
            ack,
        };
        self.waiting.insert(key, waiting);
        self.by_deadline.insert((deadline, key));
    }

    /// The next request whose condition holds now that `condition` stands at `reached`.
    pub(super) fn pop_complete(
        &mut self,
        condition: WaitFor,
        reached: Offset,
    ) -> Option<(ReplyId, ProduceAck)> {
        let from = (condition, Offset(i64::MIN), 0);
        let to = (condition, reached, u64::MAX);
        let (key, _) = self.waiting.range(from..=to).next()?;
        self.remove(*key)
    }

    /// The next request that waits for `condition`, whatever it stands at.
    pub(super) fn pop_any(&mut self, condition: WaitFor) -> Option<ReplyId> {
        self.pop_complete(condition, Offset(i64::MAX))
            .map(|(reply, _)| reply)
    }

    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<ReplyId> {
        let (deadline, key) = *self.by_deadline.first()?;
        if deadline > now {
            return None;
        }
        self.remove(key).map(|(reply, _)| reply)
    }

    fn remove(&mut self, key: Key) -> Option<(ReplyId, ProduceAck)> {
        let waiting = self.waiting.remove(&key)?;
        self.by_deadline.remove(&(waiting.deadline, key));
        Some((waiting.reply, waiting.ack))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn check_invariants(&self) {
        assert!(
            self.waiting.len() == self.by_deadline.len(),
            "{} requests wait, {} have a deadline",
            self.waiting.len(),
            self.by_deadline.len()
        );
    }
}
