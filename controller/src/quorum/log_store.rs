//! The consensus' log store: reads come from memory, writes go to one writer thread over the
//! write-ahead log. An append is readable when it returns and reported once it is synced; a vote
//! returns only then.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use ottla_log::wal::{Wal, WalConfig, WalPosition};
use ottla_log::{Disk, LogError};
use parking_lot::RwLock;

use super::frame::{Checkpoint, Frame, encode_entry};
use super::log_cache::{LogCache, Replay};
use super::log_writer::{Change, LogWriter, Waiter};
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::dir_lock::DirLock;

/// The log store. Clones are the same store.
#[derive(Debug, Clone)]
pub struct LogStore {
    cache: Arc<RwLock<LogCache>>,
    writer: LogWriter,
}

impl LogStore {
    /// Opens or creates the log in `dir`. Blocks while it reads what is there.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if what was synced is damaged; the node must then not start.
    pub fn open(
        disk: Arc<dyn Disk>,
        lock: Option<DirLock>,
        dir: &Path,
        config: WalConfig,
    ) -> Result<LogStore, LogError> {
        let mut replay = Replay::default();
        let mut places = VecDeque::new();
        let mut wal = Wal::open_visiting(Arc::clone(&disk), dir, config, &mut |frame| {
            let corrupt = |error| corrupt(dir, frame.position, &error);
            let decoded = Frame::decode(&frame.payload).map_err(corrupt)?;
            let entry = match &decoded {
                Frame::Entry(entry) => Some(entry.log_id.index),
                _ => None,
            };
            replay.repeat(decoded).map_err(corrupt)?;
            let log = replay.log();
            if let Some(index) = entry {
                places.push_back((index, frame.position));
            }
            // What was truncated or purged has no place any more.
            while places.len() > log.len() {
                let first_live = log.first_index();
                let stale_front = places
                    .front()
                    .is_some_and(|(index, _)| first_live.is_none_or(|first| *index < first));
                if stale_front {
                    places.pop_front();
                } else {
                    places.pop_back();
                }
            }
            Ok(())
        })?;
        let cache = replay.finish();
        let cache = cache.map_err(|error| corrupt(dir, wal.end(), &error))?;
        let checkpoint = Checkpoint {
            vote: cache.vote,
            committed: cache.committed,
            purged: cache.purged,
        };
        wal.prepare_ahead(disk)?;
        let first = places.front().map_or(0, |(index, _)| *index);
        let positions = places.into_iter().map(|(_, position)| position).collect();
        let writer = LogWriter::start(wal, lock, checkpoint, first, positions);
        let writer = writer.map_err(|source| LogError::Io {
            action: "start the writer of",
            path: dir.to_owned(),
            source: Arc::new(source),
        })?;
        let cache = Arc::new(RwLock::new(cache));
        Ok(LogStore { cache, writer })
    }

    /// Whether there is no vote, no entry and no marker.
    pub fn is_empty(&self) -> bool {
        self.cache.read().is_empty()
    }

    /// The last entry, whether it is synced or not; or the last one that is gone from the log.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.cache.read().last_log_id()
    }

    /// Every entry up to here is gone from the log.
    pub fn purged(&self) -> Option<LogId> {
        self.cache.read().purged
    }
}

fn corrupt(dir: &Path, position: WalPosition, error: &io::Error) -> LogError {
    LogError::Corrupt {
        path: dir.to_owned(),
        position: position.0,
        what: error.to_string(),
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.cache.read().range(&range))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.cache.read().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let cache = self.cache.read();
        Ok(LogState {
            last_purged_log_id: cache.purged,
            last_log_id: cache.last_log_id(),
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.writer.write(Change::Vote(*vote)).await?;
        self.cache.write().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.cache.write().committed = committed;
        let change = Change::Committed(committed);
        self.writer.enqueue(change, Waiter::Nobody).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.cache.read().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut frames = Vec::new();
        let mut first = None;
        {
            let mut cache = self.cache.write();
            for entry in entries {
                first.get_or_insert(entry.log_id.index);
                frames.push(encode_entry(&entry)?);
                cache.push(entry)?;
            }
        }
        let Some(first) = first else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let change = Change::Append { first, frames };
        self.writer.enqueue(change, Waiter::Raft(callback)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.cache.write().truncate_after(last_log_id.as_ref());
        self.writer.write(Change::Truncate(last_log_id)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.cache.write().purge(log_id);
        self.writer.write(Change::Purge(log_id)).await
    }
}

#[cfg(test)]
mod tests;
