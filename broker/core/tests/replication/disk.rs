//! A replica's log in memory. What was not flushed is gone after a crash.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use ottla_broker_core::{LogState, Producers, Stamp};
use ottla_model::batch::{BatchHeader, next_batch, stamp, validate_batch};
use ottla_model::{LeaderEpoch, Offset};

/// Whole batches; where compaction removed some, with holes.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub start: Offset,
    pub end: Offset,
    pub batches: Vec<(BatchHeader, Bytes)>,
}

impl Log {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Append { batches, .. } => {
                for (header, bytes) in batches {
                    assert!(
                        header.base_offset >= self.end,
                        "a batch at {} was appended at {}",
                        header.base_offset,
                        self.end
                    );
                    self.batches.push((*header, bytes.clone()));
                    self.end = header.next_offset();
                }
            }
            Change::Truncate(to) => {
                self.batches.retain(|(header, _)| header.base_offset < *to);
                let end = self.batches.last().map(|(header, _)| header.next_offset());
                self.end = *to;
                assert!(
                    end.is_none_or(|end| end <= *to),
                    "a cut at {to} within a batch"
                );
            }
            Change::RestartAt(offset) => {
                *self = Log {
                    start: *offset,
                    end: *offset,
                    batches: Vec::new(),
                };
            }
            Change::SkipTo(to) => self.end = *to,
            Change::Remove(bases) => self
                .batches
                .retain(|(header, _)| !bases.contains(&header.base_offset)),
            Change::AdvanceStart { to, .. } => {
                self.start = self.start.max(*to);
                self.batches
                    .retain(|(header, _)| header.next_offset() > *to);
            }
        }
    }

    /// The batches from the one that holds `from` on, as one push.
    pub fn read(&self, from: Offset, most: usize) -> (Vec<BatchHeader>, Bytes) {
        let found = self
            .batches
            .iter()
            .filter(|(header, _)| header.next_offset() > from)
            .take(most);
        let (headers, bytes): (Vec<_>, Vec<_>) = found
            .map(|(header, bytes)| (*header, bytes.clone()))
            .unzip();
        (headers, bytes.concat().into())
    }

    pub fn producers(&self) -> Producers {
        let mut producers = Producers::new();
        for (header, _) in &self.batches {
            producers.observe(header);
        }
        producers
    }

    /// The leader epochs, each with its first batch.
    pub fn epochs(&self) -> Vec<(LeaderEpoch, Offset)> {
        let mut epochs: Vec<(LeaderEpoch, Offset)> = Vec::new();
        for (header, _) in &self.batches {
            if epochs
                .last()
                .is_none_or(|(epoch, _)| *epoch != header.leader_epoch)
            {
                epochs.push((header.leader_epoch, header.base_offset));
            }
        }
        epochs
    }

    fn state(&self) -> LogState {
        LogState {
            log_start: self.start,
            log_end: self.end,
            epochs: self.epochs(),
            producers: self.producers(),
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Append {
        ticket: u64,
        batches: Vec<(BatchHeader, Bytes)>,
    },
    Truncate(Offset),
    RestartAt(Offset),
    SkipTo(Offset),
    /// Compaction removed the batches with these bases.
    Remove(BTreeSet<Offset>),
    AdvanceStart {
        ticket: u64,
        to: Offset,
    },
}

/// The log as it was written, and as a crash would leave it.
#[derive(Debug, Default)]
pub struct Disk {
    pub written: Log,
    pub durable: Log,
    unflushed: VecDeque<Change>,
}

impl Disk {
    fn write(&mut self, change: Change) {
        self.written.apply(&change);
        self.unflushed.push_back(change);
    }

    pub fn append(&mut self, ticket: u64, bytes: &Bytes, stamped: Option<Stamp>) {
        let mut bytes = bytes.to_vec();
        if let Some(s) = stamped {
            stamp(&mut bytes, s.base_offset, s.leader_epoch, s.append_time);
        }
        let mut batches = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (_, batch, behind) = next_batch(rest).expect("whole batches");
            let header = validate_batch(batch).expect("a valid batch");
            batches.push((header, Bytes::copy_from_slice(batch)));
            rest = behind;
        }
        self.write(Change::Append { ticket, batches });
    }

    pub fn truncate(&mut self, to: Offset) {
        self.write(Change::Truncate(to));
    }

    pub fn restart_at(&mut self, offset: Offset) {
        self.write(Change::RestartAt(offset));
    }

    pub fn advance_start(&mut self, ticket: u64, to: Offset) {
        self.write(Change::AdvanceStart { ticket, to });
    }

    pub fn skip_to(&mut self, to: Offset) {
        self.write(Change::SkipTo(to));
    }

    /// A swap is durable before it is carried out.
    pub fn remove(&mut self, bases: BTreeSet<Offset>) {
        self.written.apply(&Change::Remove(bases.clone()));
        self.durable.apply(&Change::Remove(bases));
    }

    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }

    /// Makes the next `count` changes durable and returns the last ticket among them.
    pub fn flush(&mut self, count: usize) -> Option<u64> {
        let mut last = None;
        for change in self.unflushed.drain(..count.min(self.unflushed.len())) {
            self.durable.apply(&change);
            if let Change::Append { ticket, .. } | Change::AdvanceStart { ticket, .. } = change {
                last = Some(ticket);
            }
        }
        last
    }

    /// Forgets what was not durable, and says what recovery finds.
    pub fn recover(&mut self) -> LogState {
        self.unflushed.clear();
        self.written = self.durable.clone();
        self.durable.state()
    }
}
