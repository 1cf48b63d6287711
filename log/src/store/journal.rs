//! The journal's thread: takes what all logs have queued, writes it with one write, syncs it once,
//! tells the observer, and hands it to the lane. While it syncs, the next group gathers, so groups
//! grow with the load and an idle store adds no wait. It alone calls the observers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_model::{Offset, TopicIdPartition};

use super::maintenance::Bell;
use super::{FatalObserver, FlushObserver, Flushed};
use crate::entry::{Op, encode, encoded_bytes};
use crate::error::LogError;
use crate::planted::{self, Bug};
use crate::queue::Taken;
use crate::shared::{Group, Queued, Shared};
use crate::wal::{Wal, WalPosition};

/// After so long without a change the journal gives back the memory that it writes from.
const IDLE: Duration = Duration::from_secs(1);

pub(super) struct Journal {
    pub shared: Arc<Shared>,
    pub wal: Wal,
    /// Rung when nothing more can be written without a checkpoint.
    pub bell: Arc<Bell>,
    pub flushed: FlushObserver,
    pub fatal: FatalObserver,
}

impl Journal {
    /// Runs until the store closes or fails. Gives the write-ahead log back if it is intact.
    pub fn run(mut self) -> Option<Wal> {
        loop {
            if self.must_wait_for_checkpoint() {
                // It may have been found so, with nothing on its way that would ring.
                self.bell.request();
                self.shared.journal.rest();
                if let Err(error) = self.trim() {
                    self.shared.fail(error);
                }
                continue;
            }
            let patience = self.wal.has_memory_to_give().then_some(IDLE);
            let group_bytes_max = self.shared.config.group_bytes_max;
            let taken = self.shared.journal.take(group_bytes_max, patience);
            if self.shared.failure().is_some() {
                return self.tell_failure();
            }
            let done = match taken {
                Taken::Closed => return Some(self.wal),
                Taken::Nothing => {
                    self.wal.give_memory_back();
                    self.trim()
                }
                Taken::Items(items) => self.trim().and_then(|()| self.commit(items)),
            };
            if let Err(error) = done {
                self.shared.fail(error);
                return self.tell_failure();
            }
        }
    }

    /// Whether no more is written before the next checkpoint, which is told when it begins. What is
    /// queued when the store closes is little, and no longer waits.
    fn must_wait_for_checkpoint(&self) -> bool {
        let trimmed = self.shared.trim_to.load(Ordering::Acquire);
        let since = self.wal.end().0.saturating_sub(trimmed);
        let full = since >= self.shared.config.journal_bytes_max();
        let waits = full && !self.shared.journal.is_closed();
        let waited = &self.shared.awaits_checkpoint;
        if waited.swap(waits, Ordering::Relaxed) != waits && waits {
            tracing::warn!(
                journal_bytes = since,
                "the disk is slow with segments: appends wait for a checkpoint"
            );
        }
        waits
    }

    fn tell_failure(self) -> Option<Wal> {
        drop(self.shared.journal.abort());
        if let Some(error) = self.shared.failure() {
            // Whoever opened the store tells why the node ends.
            tracing::debug!(%error, "storage failed; nothing more is acknowledged");
            (self.fatal)(error.clone());
        }
        None
    }

    fn trim(&mut self) -> Result<(), LogError> {
        let to = self.shared.trim_to.load(Ordering::Acquire);
        self.wal.trim(WalPosition(to))
    }

    fn commit(&mut self, items: Vec<Queued>) -> Result<(), LogError> {
        let mut position = match self.write(&items) {
            Ok(position) => position,
            Err(error) => {
                // Before the changes are dropped: whoever waits for one is told the reason.
                self.shared.fail(error.clone());
                return Err(error);
            }
        };
        let end = self.wal.end();
        self.shared.journal_end.store(end.0, Ordering::Release);
        self.count(&items);
        let flushed = tickets(&items);
        if !flushed.is_empty() && self.shared.failure().is_none() {
            (self.flushed)(&flushed);
        }
        let mut bytes = 0;
        let ops = items
            .into_iter()
            .map(|item| {
                let payload = encoded_bytes(&item.op);
                bytes += payload;
                position = Wal::position_after(position, payload);
                (position, item)
            })
            .collect();
        assert_eq!(position, end, "the group's positions have a gap");
        // A lane that was closed has failed; the next look at the failure tells.
        let limit = self.shared.config.segment_backlog_bytes;
        let group = Group { ops, end };
        drop(self.shared.lane.push_when_below(limit, group, bytes));
        Ok(())
    }

    /// Writes and syncs the entries of the changes; returns the place of the first.
    fn write(&mut self, items: &[Queued]) -> Result<WalPosition, LogError> {
        let payloads: Vec<Vec<Bytes>> = items
            .iter()
            .map(|item| match &item.op {
                Op::Truncate(_)
                    if planted::in_disk(&*self.shared.disk, Bug::TruncationNotJournaled) =>
                {
                    encode(item.log.id(), &Op::Truncate(Offset(i64::MAX)))
                }
                op => encode(item.log.id(), op),
            })
            .collect();
        let parts: Vec<&[Bytes]> = payloads.iter().map(Vec::as_slice).collect();
        let (reads, disturbed) = self.shared.disk_reads.look();
        let began = Instant::now();
        let first = self.wal.append(&parts)?;
        if planted::in_disk(&*self.shared.disk, Bug::AcknowledgeBeforeSync) {
            (self.flushed)(&tickets(items));
        }
        self.wal.sync()?;
        let now = Instant::now();
        let disturbed = disturbed || self.shared.disk_reads.look().0 != reads;
        let mut times = self.shared.commit_times.lock();
        times.note(now - began, disturbed, now);
        Ok(first)
    }

    fn count(&self, items: &[Queued]) {
        let (mut appends, mut appended) = (0, 0);
        for item in items {
            if let Op::Append { bytes, .. } = &item.op {
                appends += 1;
                appended += bytes.len() as u64;
            }
        }
        let counters = &self.shared.counters;
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        counters.appends.fetch_add(appends, Ordering::Relaxed);
        counters
            .appended_bytes
            .fetch_add(appended, Ordering::Relaxed);
        counters.max_group.fetch_max(appends, Ordering::Relaxed);
    }
}

/// The highest ticket of each log in the group.
fn tickets(items: &[Queued]) -> Vec<Flushed> {
    let mut highest: BTreeMap<TopicIdPartition, u64> = BTreeMap::new();
    for item in items {
        let ticket = match item.op {
            Op::Append { ticket, .. } => Some(ticket),
            Op::LogStart { ticket, .. } => ticket,
            _ => None,
        };
        if let Some(ticket) = ticket {
            let seen = highest.entry(item.log.id()).or_insert(ticket);
            *seen = ticket.max(*seen);
        }
    }
    highest
        .into_iter()
        .map(|(id, ticket)| Flushed { id, ticket })
        .collect()
}
