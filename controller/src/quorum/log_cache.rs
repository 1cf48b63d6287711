//! The log as it is read: every live entry, the vote and the markers, in memory. Between two
//! snapshots the log is small enough; what it holds is bounded by how often snapshots are made.

use std::collections::VecDeque;
use std::io;
use std::ops::{Bound, RangeBounds};

use super::frame::Frame;
use super::types::{Entry, LogId, Vote};

/// The live part of the log.
#[derive(Debug, Default)]
pub struct LogCache {
    entries: VecDeque<Entry>,
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
}

impl LogCache {
    /// Repeats what a frame did when it was written. Frames are read from the oldest file that is
    /// left, so the first ones may speak of entries that are gone.
    ///
    /// # Errors
    /// `InvalidData` if entries do not continue one another.
    pub fn replay(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Entry(entry) => self.push(entry)?,
            Frame::Vote(vote) => self.vote = Some(vote),
            Frame::Committed(log_id) => self.committed = log_id,
            Frame::Truncate(log_id) => self.truncate_after(log_id.as_ref()),
            Frame::Checkpoint(checkpoint) => {
                self.vote = checkpoint.vote;
                self.committed = checkpoint.committed;
                if let Some(purged) = checkpoint.purged {
                    self.purge(purged);
                }
            }
        }
        Ok(())
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// `InvalidData` if it would leave a hole.
    pub fn push(&mut self, entry: Entry) -> io::Result<()> {
        let index = entry.log_id.index;
        let expected = match self.entries.back() {
            Some(last) => Some(last.log_id.index + 1),
            None => self.purged.as_ref().map(|purged| purged.index + 1),
        };
        if let Some(expected) = expected.filter(|expected| *expected != index) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entry {index} does not continue the log, whose next entry is {expected}"),
            ));
        }
        self.entries.push_back(entry);
        Ok(())
    }

    pub fn truncate_after(&mut self, last: Option<&LogId>) {
        let keep_to = last.map(|log_id| log_id.index);
        while self
            .entries
            .back()
            .is_some_and(|entry| keep_to.is_none_or(|keep| entry.log_id.index > keep))
        {
            self.entries.pop_back();
        }
    }

    pub fn purge(&mut self, upto: LogId) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.log_id.index <= upto.index)
        {
            self.entries.pop_front();
        }
        if self.purged.as_ref().is_none_or(|purged| *purged < upto) {
            self.purged = Some(upto);
        }
    }

    pub fn last_log_id(&self) -> Option<LogId> {
        let last = self.entries.back().map(|entry| entry.log_id);
        last.or(self.purged)
    }

    /// The live entries in a range of indexes.
    pub fn range(&self, range: &impl RangeBounds<u64>) -> Vec<Entry> {
        let Some(first) = self.entries.front().map(|entry| entry.log_id.index) else {
            return Vec::new();
        };
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let skip = start.saturating_sub(first) as usize;
        let take = end.saturating_sub(start.max(first)) as usize;
        let entries = self.entries.iter().skip(skip).take(take);
        entries.cloned().collect()
    }

    /// The index of the first live entry.
    pub fn first_index(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.purged.is_none() && self.vote.is_none()
    }

    /// How many entries are live.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}
