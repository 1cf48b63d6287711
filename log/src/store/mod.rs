//! The store: all logs of one data directory, over one journal.
//!
//! Three threads serve it, besides the one that prepares the journal's files. The *journal* makes
//! what all logs queue durable, many changes with one sync. The *lane* carries it over to the
//! segments. *Maintenance* makes checkpoints, so that the journal can be recycled. A failed write
//! or sync of any of them is final.

mod config;
mod journal;
mod lane;
mod maintenance;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use ottla_model::TopicIdPartition;
use parking_lot::{Mutex, RwLock};

use crate::compaction::Compactor;
use crate::damage::Damage;
use crate::disk::Disk;
use crate::entry::Op;
use crate::error::{IoContext as _, LogError};
use crate::partition::{PartitionLog, Physical};
use crate::recovery::{self, Recovered};
use crate::shared::{Done, Shared};
use crate::wal::{Wal, WalPosition};
pub use config::{CompactionSettings, Flushed, LogSettings, StoreConfig, StoreStats};
use journal::Journal;
use lane::Lane;
use maintenance::Bell;
use ottla_model::Offset;

/// Is told what became durable: once for each group commit, on the journal's thread, without any
/// lock held. Must not block for long: nothing is synced meanwhile.
pub type FlushObserver = Arc<dyn Fn(&[Flushed]) + Send + Sync>;
/// Is told once, on the journal's thread, that storage failed. No [`FlushObserver`] is called after
/// it.
pub type FatalObserver = Arc<dyn Fn(LogError) + Send + Sync>;

/// All logs of one data directory.
pub struct LogStore {
    shared: Arc<Shared>,
    logs: RwLock<HashMap<TopicIdPartition, Arc<PartitionLog>>>,
    bell: Arc<Bell>,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    journal: JoinHandle<Option<Wal>>,
    lane: JoinHandle<()>,
    maintenance: JoinHandle<()>,
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore")
            .field("dir", &self.shared.dirs.root)
            .finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens the store in `dir`, creating what is missing, and recovers every log to what was
    /// durable. Whatever a log holds afterwards is durable.
    ///
    /// # Errors
    /// [`LogError::Newer`] if a later version wrote what is here. Damage is no error: what is
    /// damaged is set aside, a log alone or, if the journal or the checkpoint is, all of them: see
    /// [`LogStore::damage`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: StoreConfig,
        flushed: FlushObserver,
        fatal: FatalObserver,
    ) -> Result<LogStore, LogError> {
        let shared = Arc::new(Shared::new(disk, dir, config));
        let Recovered { mut wal, logs } = recovery::recover(&shared)?;
        wal.prepare_ahead(shared.impatient_disk.clone())?;
        let bell = Arc::new(Bell::default());
        let journal = Journal {
            shared: shared.clone(),
            wal,
            bell: bell.clone(),
            flushed,
            fatal: fatal.clone(),
        };
        let lane = Lane::new(shared.clone(), bell.clone());
        let (for_maintenance, its_bell) = (shared.clone(), bell.clone());
        let watch = |thread, fatal| PanicWatch {
            shared: shared.clone(),
            thread,
            fatal,
        };
        let threads = Threads {
            journal: spawn(dir, watch("log-journal", Some(fatal)), || journal.run())?,
            lane: spawn(dir, watch("log-segments", None), || lane.run())?,
            maintenance: spawn(dir, watch("log-checkpoint", None), move || {
                maintenance::run(&for_maintenance, &its_bell);
            })?,
        };
        Ok(LogStore {
            shared,
            logs: RwLock::new(logs.into_iter().collect()),
            bell,
            threads: Mutex::new(Some(threads)),
        })
    }

    /// The logs that are here, in ascending order.
    pub fn ids(&self) -> Vec<TopicIdPartition> {
        let mut ids: Vec<_> = self.logs.read().keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// What was found damaged, now or in an earlier run, and not yet forgotten. The files were
    /// moved to `quarantine`, and the logs began empty.
    pub fn damage(&self) -> Damage {
        self.shared.damage.current()
    }

    /// Whether a log's damage is not yet forgotten.
    pub fn is_damaged(&self, id: TopicIdPartition) -> bool {
        self.shared.damage.concerns(id)
    }

    /// Forgets damage that others have heard of: nobody counts any more on what these logs held.
    /// Durable when it returns. Blocks.
    pub fn forget_damage(&self, told: &Damage) -> Result<(), LogError> {
        self.shared.damage.forget(&self.shared, told)
    }

    pub fn get(&self, id: TopicIdPartition) -> Option<Arc<PartitionLog>> {
        self.logs.read().get(&id).cloned()
    }

    /// The log, with these settings; an empty one that starts at 0 if there is none.
    pub fn get_or_create(
        &self,
        id: TopicIdPartition,
        settings: LogSettings,
    ) -> Result<Arc<PartitionLog>, LogError> {
        let mut logs = self.logs.write();
        if let Some(log) = logs.get(&id) {
            log.set_settings(settings);
            return Ok(log.clone());
        }
        let log = PartitionLog::new(&self.shared, id, Physical::empty(Offset::ZERO), settings);
        // Under the lock, so that its creation stands before its first append in the journal.
        log.announce()?;
        logs.insert(id, log.clone());
        Ok(log)
    }

    /// Deletes a log, if it is here. Returns when the deletion is durable: no start brings the log
    /// back. Blocks.
    pub fn delete(&self, id: TopicIdPartition) -> Result<(), LogError> {
        self.remove(id, Op::Delete)
    }

    /// Moves a log's files out of the store and keeps them; returns where. The log may be created
    /// again. Blocks.
    pub fn set_aside(&self, id: TopicIdPartition) -> Result<PathBuf, LogError> {
        self.keep_in(&self.shared.dirs.stray, id)
    }

    /// Takes a log out of the store that was found damaged, and keeps its files; returns where.
    /// [`LogStore::damage`] names it from now on, over restarts too. Blocks.
    pub fn quarantine(&self, id: TopicIdPartition, why: &str) -> Result<PathBuf, LogError> {
        self.shared.damage.note(&self.shared, id, why)?;
        self.keep_in(&self.shared.dirs.quarantine, id)
    }

    fn keep_in(&self, dir: &Path, id: TopicIdPartition) -> Result<PathBuf, LogError> {
        let path = recovery::free_name(&self.shared, dir, &id.to_string())?;
        if self.get(id).is_none() {
            return Err(LogError::Gone { id });
        }
        let root = &self.shared.dirs.root;
        let kept = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
        self.remove(id, Op::SetAside(kept.into_owned()))?;
        Ok(path)
    }

    fn remove(&self, id: TopicIdPartition, op: Op) -> Result<(), LogError> {
        let (done, outcome) = Done::new(&self.shared);
        {
            let mut logs = self.logs.write();
            let Some(log) = logs.get(&id) else {
                return Ok(());
            };
            log.leave(op, Some(done))?;
            logs.remove(&id);
        }
        outcome.wait()
    }

    /// Verifies what every segment holds on disk once, whether or not anybody reads it, and names
    /// damaged logs to `found`. `pace` is told the bytes of each read; it may wait, and false ends
    /// the round. What is read does not displace what the operating system has in memory. Blocks.
    pub fn scrub(
        &self,
        pace: &mut dyn FnMut(usize) -> bool,
        found: &mut dyn FnMut(TopicIdPartition, String),
    ) {
        let mut going = true;
        for id in self.ids() {
            let Some(log) = self.get(id) else { continue };
            for written in log.written() {
                if let Some(what) = log.scrub(&written, &mut |bytes| {
                    going = pace(bytes);
                    going
                }) {
                    found(id, what);
                    break;
                }
                if !going {
                    return;
                }
            }
        }
    }

    /// Bytes that can still be written on the store's file system.
    pub fn free_space(&self) -> Result<u64, LogError> {
        let root = &self.shared.dirs.root;
        self.shared.disk.free_space(root).or_log("measure", root)
    }

    /// What compacts this store's logs, on whichever thread it is given to; one at a time.
    pub fn compactor(&self) -> Compactor {
        Compactor::new(self.shared.clone())
    }

    /// Bytes that wait for the journal now.
    pub fn queued_bytes(&self) -> usize {
        self.shared.journal.bytes()
    }

    /// Makes a checkpoint soon, without waiting for it.
    pub fn request_checkpoint(&self) {
        self.bell.request();
    }

    pub fn stats(&self) -> StoreStats {
        let counters = &self.shared.counters;
        let applied = self.shared.applied.load(Ordering::Acquire);
        let journal_end = self.shared.journal_end.load(Ordering::Acquire);
        StoreStats {
            syncs: counters.syncs.load(Ordering::Relaxed),
            appends: counters.appends.load(Ordering::Relaxed),
            appended_bytes: counters.appended_bytes.load(Ordering::Relaxed),
            max_group: counters.max_group.load(Ordering::Relaxed),
            checkpoints: counters.checkpoints.load(Ordering::Relaxed),
            cached_bytes: self.shared.cached_bytes.load(Ordering::Relaxed),
            queued_bytes: self.queued_bytes() as u64,
            backlog_bytes: journal_end.saturating_sub(applied),
            open_files: self.shared.handles.open_files() as u64,
            awaits_room: self.shared.room.is_awaited(),
            awaits_checkpoint: self.shared.awaits_checkpoint.load(Ordering::Relaxed),
            compactions: counters.compactions.load(Ordering::Relaxed),
            compacted_away_bytes: counters.compacted_away_bytes.load(Ordering::Relaxed),
        }
    }

    /// Makes everything that was appended durable, writes a checkpoint and ends the threads. The
    /// next start has nothing to replay. Later calls do nothing.
    pub fn shutdown(&self) -> Result<(), LogError> {
        let Some(threads) = self.threads.lock().take() else {
            return Ok(());
        };
        // What there is no room for now, the next start takes from the journal.
        self.shared.room.close();
        self.shared.journal.close();
        let wal = join(threads.journal);
        self.shared.lane.close();
        join(threads.lane);
        self.bell.stop();
        join(threads.maintenance);
        let (Some(Some(mut wal)), None) = (wal, self.shared.failure()) else {
            return Err(self.shared.why_closed());
        };
        for log in self.shared.catalog.lock().values() {
            log.save_active_index()?;
        }
        maintenance::checkpoint(&self.shared)?;
        self.shared.remove_discarded();
        wal.trim(WalPosition(self.shared.trim_to.load(Ordering::Acquire)))
    }
}

impl Drop for LogStore {
    /// Ends the threads without waiting for what is queued; what was not durable may be lost.
    fn drop(&mut self) {
        if let Some(threads) = self.threads.lock().take() {
            self.shared.room.close();
            drop(self.shared.journal.abort());
            join(threads.journal);
            drop(self.shared.lane.abort());
            join(threads.lane);
            self.bell.stop();
            join(threads.maintenance);
        }
        // The catalog and the logs hold each other.
        self.shared.catalog.lock().clear();
    }
}

/// Has a panic of a thread count as a failure of storage; without that, the others would wait for
/// it for ever.
struct PanicWatch {
    shared: Arc<Shared>,
    thread: &'static str,
    /// Is told if the thread is the one that would tell.
    fatal: Option<FatalObserver>,
}

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let thread = self.thread;
        self.shared.fail(LogError::Panicked { thread });
        if let (Some(fatal), Some(error)) = (&self.fatal, self.shared.failure()) {
            drop(self.shared.journal.abort());
            fatal(error.clone());
        }
    }
}

fn spawn<T: Send + 'static>(
    dir: &Path,
    watch: PanicWatch,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, LogError> {
    thread::Builder::new()
        .name(watch.thread.to_owned())
        .spawn(move || {
            let _watch = watch;
            run()
        })
        .or_log("start a thread for", dir)
}

/// Waits for a thread; `None` if it panicked, which it has told on its way.
fn join<T>(thread: JoinHandle<T>) -> Option<T> {
    thread.join().ok()
}

#[cfg(test)]
mod tests;
