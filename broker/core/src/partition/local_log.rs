//! What a replica knows of its own log: where it starts and ends, how much of it is durable, whose
//! epochs and producers it holds. The bytes are the shell's.
//! Invariant: start ≤ durable end ≤ end.

use std::collections::VecDeque;

use ottla_model::batch::BatchHeader;
use ottla_model::{LeaderEpoch, Offset};

use super::effect::Effect;
use super::input::LogState;
use crate::leader_epochs::LeaderEpochs;
use crate::producers::Producers;

/// Whether the producers can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loading {
    Done,
    /// The shell reads them from the log; `again` if the log was cut since it was asked to.
    Running {
        again: bool,
    },
}

/// An append, or a move of the log's start, that is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Unflushed {
    ticket: u64,
    end: Offset,
    /// The log's start that becomes durable with it.
    start: Option<Offset>,
}

#[derive(Debug)]
pub(super) struct LocalLog {
    start: Offset,
    end: Offset,
    durable_end: Offset,
    /// What a restart of this node would find as the log's start, at least.
    durable_start: Offset,
    /// Oldest first; tickets rise strictly, ends too but where only the start moves.
    unflushed: VecDeque<Unflushed>,
    next_ticket: u64,
    pub(super) epochs: LeaderEpochs,
    producers: Producers,
    loading: Loading,
}

impl LocalLog {
    pub(super) fn new(state: LogState) -> LocalLog {
        LocalLog {
            start: state.log_start,
            end: state.log_end,
            durable_end: state.log_end,
            durable_start: state.log_start,
            unflushed: VecDeque::new(),
            next_ticket: 1,
            epochs: LeaderEpochs::new(state.epochs),
            producers: state.producers,
            loading: Loading::Done,
        }
    }

    pub(super) fn start(&self) -> Offset {
        self.start
    }

    pub(super) fn end(&self) -> Offset {
        self.end
    }

    pub(super) fn durable_end(&self) -> Offset {
        self.durable_end
    }

    pub(super) fn durable_start(&self) -> Offset {
        self.durable_start
    }

    pub(super) fn last_epoch(&self) -> LeaderEpoch {
        self.epochs.latest()
    }

    pub(super) fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        self.epochs.end_offset_for(epoch, self.end)
    }

    /// The producers, unless they are being read from the log.
    pub(super) fn producers(&self) -> Option<&Producers> {
        (self.loading == Loading::Done).then_some(&self.producers)
    }

    pub(super) fn producer_count(&self) -> usize {
        self.producers.len()
    }

    pub(super) fn expire_producers(&mut self, wall_ms: ottla_model::TimestampMs, after_ms: i64) {
        self.producers.expire(wall_ms, after_ms);
    }

    /// Takes batches behind the end, with or without a gap, and returns the ticket under which they
    /// become durable.
    pub(super) fn append(&mut self, headers: &[BatchHeader]) -> u64 {
        for header in headers {
            assert!(
                header.base_offset >= self.end,
                "batch at {} appended to a log that ends at {}",
                header.base_offset,
                self.end
            );
            self.epochs.assign(header.leader_epoch, header.base_offset);
            self.producers.observe(header);
            self.end = header.next_offset();
        }
        self.ticket(None)
    }

    fn ticket(&mut self, start: Option<Offset>) -> u64 {
        let (ticket, end) = (self.next_ticket, self.end);
        self.next_ticket += 1;
        self.unflushed.push_back(Unflushed { ticket, end, start });
        ticket
    }

    /// Goes on at `to`; there is nothing between the end and there.
    pub(super) fn skip_to(&mut self, to: Offset, effects: &mut Vec<Effect>) {
        if to <= self.end {
            return;
        }
        self.end = to;
        match self.unflushed.back_mut() {
            Some(last) => last.end = to,
            None => self.durable_end = to,
        }
        effects.push(Effect::SkipTo { offset: to });
    }

    /// Notes that appends up to `ticket` are durable. Those that were truncated meanwhile are no
    /// longer in the queue and do not count. Returns whether the durable end or start moved.
    pub(super) fn flushed(&mut self, ticket: u64) -> bool {
        let before = (self.durable_end, self.durable_start);
        while let Some(append) = self.unflushed.front()
            && append.ticket <= ticket
        {
            self.durable_end = append.end;
            if let Some(start) = append.start {
                self.durable_start = self.durable_start.max(start);
            }
            self.unflushed.pop_front();
        }
        (self.durable_end, self.durable_start) != before
    }

    /// Cuts the end to `to`. Below the start nothing is left, so the log restarts there.
    pub(super) fn truncate(&mut self, to: Offset, effects: &mut Vec<Effect>) {
        if to < self.start {
            return self.restart_at(to, effects);
        }
        self.epochs.truncate_end(to);
        if to >= self.end {
            return;
        }
        self.end = to;
        self.durable_end = self.durable_end.min(to);
        // The front of an append may survive; it is durable once the whole would have been.
        let mut floor = self.durable_end;
        self.unflushed.retain_mut(|append| {
            append.end = append.end.min(to);
            let counts = append.end > floor || append.start.is_some();
            floor = floor.max(append.end);
            counts
        });
        effects.push(Effect::Truncate { to });
        let must_reload = self.producers.truncate(to);
        self.loading = match self.loading {
            Loading::Running { .. } => Loading::Running { again: true },
            Loading::Done if must_reload => {
                effects.push(Effect::ReloadProducers);
                Loading::Running { again: false }
            }
            Loading::Done => Loading::Done,
        };
    }

    /// Forgets the epochs that began at the log's end.
    pub(super) fn forget_empty_epochs(&mut self) {
        self.epochs.truncate_end(self.end);
    }

    /// Drops everything and goes on at `offset`.
    pub(super) fn restart_at(&mut self, offset: Offset, effects: &mut Vec<Effect>) {
        self.start = offset;
        self.end = offset;
        self.durable_end = offset;
        // Until something behind it is durable, a restart of the node finds what was before.
        self.durable_start = self.durable_start.min(offset);
        self.unflushed.clear();
        self.epochs.clear();
        self.producers = Producers::new();
        if self.loading != Loading::Done {
            self.loading = Loading::Running { again: true };
        }
        effects.push(Effect::RestartAt { offset });
    }

    /// Drops what is below `to`, as far as the log is durable; returns the ticket under which that
    /// becomes durable, if the start moved or was not durable.
    pub(super) fn advance_start(&mut self, to: Offset) -> Option<u64> {
        let to = to.min(self.durable_end);
        if to <= self.start {
            return None;
        }
        self.start = to;
        self.epochs.truncate_start(to);
        Some(self.ticket(Some(to)))
    }

    /// The ticket under which the start becomes durable after [`LocalLog::restart_at`].
    pub(super) fn confirm_start(&mut self) -> u64 {
        self.ticket(Some(self.start))
    }

    pub(super) fn producers_reloaded(&mut self, read: Producers, effects: &mut Vec<Effect>) {
        match self.loading {
            Loading::Done => {}
            Loading::Running { again: true } => {
                self.loading = Loading::Running { again: false };
                effects.push(Effect::ReloadProducers);
            }
            Loading::Running { again: false } => {
                let observed_meanwhile = std::mem::replace(&mut self.producers, read);
                self.producers.absorb(observed_meanwhile);
                self.loading = Loading::Done;
            }
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(
            self.start <= self.durable_end,
            "log start {} above durable end {}",
            self.start,
            self.durable_end
        );
        assert!(
            self.durable_end <= self.end,
            "durable end {} above log end {}",
            self.durable_end,
            self.end
        );
        let last = self.unflushed.back().map_or(self.durable_end, |a| a.end);
        assert!(
            last == self.end,
            "the last append ends at {last}, the log at {}",
            self.end
        );
    }
}
