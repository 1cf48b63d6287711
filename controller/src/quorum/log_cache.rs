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

/// The log as its frames build it up again.
///
/// They are read from the oldest file that is left. So the first ones may speak of entries whose
/// files are gone: a checkpoint of an early purge, say, and behind it an entry that does not follow
/// it, because those between were purged later. That is right if a checkpoint further on says so,
/// which only the end can tell.
#[derive(Debug, Default)]
pub struct Replay {
    log: LogCache,
    /// Everything before this entry must turn out to be purged.
    gap_before: Option<u64>,
}

impl Replay {
    /// Repeats what a frame did when it was written.
    ///
    /// # Errors
    /// `InvalidData` if an entry comes that is there already.
    pub fn repeat(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Entry(entry) => {
                let index = entry.log_id.index;
                if self.log.next_index().is_some_and(|next| next < index) {
                    self.log.entries = VecDeque::from([entry]);
                    self.gap_before = Some(index);
                } else {
                    self.log.push(entry)?;
                }
            }
            Frame::Vote(vote) => self.log.vote = Some(vote),
            Frame::Committed(log_id) => self.log.committed = log_id,
            Frame::Truncate(log_id) => self.log.truncate_after(log_id.as_ref()),
            Frame::Checkpoint(checkpoint) => {
                self.log.vote = checkpoint.vote;
                self.log.committed = checkpoint.committed;
                if let Some(purged) = checkpoint.purged {
                    self.log.purge(purged);
                }
            }
        }
        Ok(())
    }

    /// The log as far as the frames so far have built it.
    pub fn log(&self) -> &LogCache {
        &self.log
    }

    /// The log, after its last frame.
    ///
    /// # Errors
    /// `InvalidData` if entries are missing.
    pub fn finish(self) -> io::Result<LogCache> {
        let purged = self.log.purged.as_ref().map(|purged| purged.index);
        match self.gap_before {
            Some(gap) if purged.is_none_or(|purged| purged + 1 < gap) => {
                let known = purged.map_or_else(
                    || "none is purged".to_owned(),
                    |purged| format!("the last one that was purged is {purged}"),
                );
                Err(invalid(format!(
                    "the entries before {gap} are missing: {known}"
                )))
            }
            _ => Ok(self.log),
        }
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl LogCache {
    fn next_index(&self) -> Option<u64> {
        self.last_log_id().map(|last| last.index + 1)
    }

    /// Adds the next entry.
    ///
    /// # Errors
    /// `InvalidData` if it would leave a hole.
    pub fn push(&mut self, entry: Entry) -> io::Result<()> {
        let index = entry.log_id.index;
        if let Some(next) = self.next_index().filter(|next| *next != index) {
            return Err(invalid(format!(
                "entry {index} does not continue the log, whose next entry is {next}"
            )));
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

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;
    use openraft::vote::RaftLeaderId as _;

    use super::super::frame::Checkpoint;
    use super::super::types::EntryData;
    use super::*;

    fn log_id(index: u64) -> LogId {
        let leader = openraft::impls::leader_id_std::LeaderId::new(1, 1);
        LogId::new(leader.to_committed(), index)
    }

    fn entry(index: u64) -> Frame {
        let data = EntryData(bytes::Bytes::new());
        let payload = openraft::EntryPayload::Normal(data);
        Frame::Entry(Entry::new(log_id(index), payload))
    }

    fn purged(index: u64) -> Frame {
        Frame::Checkpoint(Checkpoint {
            vote: None,
            committed: None,
            purged: Some(log_id(index)),
        })
    }

    fn replay(frames: Vec<Frame>) -> io::Result<Vec<u64>> {
        let mut replay = Replay::default();
        for frame in frames {
            replay.repeat(frame)?;
        }
        let log = replay.finish()?;
        Ok(log.entries.iter().map(|entry| entry.log_id.index).collect())
    }

    #[test]
    fn a_gap_is_right_only_if_a_later_checkpoint_covers_it() {
        let frames = |last| vec![purged(1), entry(5), entry(6), purged(last)];
        assert_eq!(replay(frames(4)).unwrap(), [5, 6]);
        assert_eq!(replay(frames(5)).unwrap(), [6]);
        let error = replay(frames(3)).unwrap_err().to_string();
        assert_eq!(
            error,
            "the entries before 5 are missing: the last one that was purged is 3"
        );
        let error = replay(vec![entry(2), entry(4)]).unwrap_err().to_string();
        assert_eq!(error, "the entries before 4 are missing: none is purged");
    }

    #[test]
    fn an_entry_that_is_there_already_is_refused() {
        assert!(replay(vec![entry(1), entry(2), entry(2)]).is_err());
        assert!(replay(vec![purged(5), entry(5)]).is_err());
    }
}
