//! What the logs of a store and its threads have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ottla_model::TopicIdPartition;
use parking_lot::{Condvar, Mutex};

use crate::contention::CommitTimes;
use crate::damage::DamageNotes;
use crate::disk::{Disk, DiskFile, FileSystem, PatientDisk, Room};
use crate::entry::Op;
use crate::error::{IoContext as _, LogError};
use crate::handles::Handles;
use crate::partition::PartitionLog;
use crate::queue::Queue;
use crate::store::StoreConfig;
use crate::wal::WalPosition;

/// A change on its way to the journal and then to the segments.
#[derive(Debug)]
pub(crate) struct Queued {
    pub log: Arc<PartitionLog>,
    pub op: Op,
    pub done: Option<Done>,
}

/// Changes that one sync made durable.
#[derive(Debug)]
pub(crate) struct Group {
    /// Each with the position behind it.
    pub ops: Vec<(WalPosition, Queued)>,
    pub end: WalPosition,
}

/// Segment files and directories that the next checkpoint must sync.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub files: BTreeMap<u64, DirtyFile>,
    pub dirs: BTreeSet<PathBuf>,
}

/// A file that was written since the last checkpoint.
#[derive(Debug)]
pub(crate) struct DirtyFile {
    pub path: PathBuf,
    /// What was written up to here is on its way to the disk already; `None` before anything was
    /// written behind the file's end.
    sent_to: Option<u64>,
}

/// So many new bytes of a file are sent to the disk while its checkpoint is still to come: a large
/// batch at once. All of them with the checkpoint, of all files, would hold the journal's syncs up;
/// fewer at a time, in logs that grow slowly, would have the disk write the same page again and
/// again.
const SENT_BYTES: u64 = 96 * 1024;
/// Only whole pages are: the rest of one is likely to be written soon.
const PAGE_BYTES: u64 = 4096;

impl Dirty {
    /// Notes that a file was written from `from` to `to`, behind what it held. Returns what of it
    /// should go to the disk now, if it is enough.
    fn note_written(
        &mut self,
        serial: u64,
        path: &Path,
        written: Range<u64>,
    ) -> Option<Range<u64>> {
        let file = self.files.entry(serial).or_insert_with(|| DirtyFile {
            path: path.to_owned(),
            sent_to: None,
        });
        let from = *file.sent_to.get_or_insert(written.start);
        let to = written.end / PAGE_BYTES * PAGE_BYTES;
        if to < from + SENT_BYTES {
            return None;
        }
        file.sent_to = Some(to);
        Some(from..to)
    }
}

/// The directories of a store.
#[derive(Debug)]
pub(crate) struct Dirs {
    pub root: PathBuf,
    pub journal: PathBuf,
    pub partitions: PathBuf,
    pub stray: PathBuf,
    pub quarantine: PathBuf,
    pub damaged: PathBuf,
    pub discarded: PathBuf,
    /// Compacted segments on their way to their place.
    pub compacting: PathBuf,
}

impl Dirs {
    pub fn new(root: &Path) -> Dirs {
        Dirs {
            root: root.to_owned(),
            journal: root.join("journal"),
            partitions: root.join("partitions"),
            stray: root.join("stray"),
            quarantine: root.join("quarantine"),
            damaged: root.join("damaged"),
            discarded: root.join("discarded"),
            compacting: root.join("compacting"),
        }
    }

    /// All that hold files, but the journal's.
    pub fn all(&self) -> [&Path; 7] {
        [
            &self.root,
            &self.partitions,
            &self.stray,
            &self.quarantine,
            &self.damaged,
            &self.discarded,
            &self.compacting,
        ]
    }

    pub fn of(&self, id: TopicIdPartition) -> PathBuf {
        self.partitions.join(id.to_string())
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    /// The same disk, for writes that need not be done: without room, they fail at once.
    pub impatient_disk: Arc<dyn Disk>,
    pub room: Arc<Room>,
    /// What holds it all, where it can be synced whole.
    pub file_system: OnceLock<Arc<dyn FileSystem>>,
    pub dirs: Dirs,
    pub config: StoreConfig,
    pub journal: Queue<Queued>,
    pub lane: Queue<Group>,
    pub handles: Handles,
    pub dirty: Mutex<Dirty>,
    /// Files and directories under `discarded` that wait to be removed.
    pub discards: Mutex<Vec<PathBuf>>,
    /// The logs as far as the segments have followed the journal.
    pub catalog: Mutex<BTreeMap<TopicIdPartition, Arc<PartitionLog>>>,
    /// Everything before it in the journal is durable and was told.
    pub journal_end: AtomicU64,
    /// Everything before it in the journal is in the segments.
    pub applied: AtomicU64,
    /// The journal may be trimmed up to here.
    pub trim_to: AtomicU64,
    /// The journal waits until it may be trimmed further.
    pub awaits_checkpoint: AtomicBool,
    pub cached_bytes: AtomicU64,
    /// Reads for consumers from the disk that were begun, and those that have ended.
    pub disk_reads: ReadCount,
    pub commit_times: Mutex<CommitTimes>,
    pub damage: DamageNotes,
    pub counters: Counters,
    failure: OnceLock<LogError>,
    next_number: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub syncs: AtomicU64,
    pub appends: AtomicU64,
    pub appended_bytes: AtomicU64,
    pub max_group: AtomicU64,
    pub checkpoints: AtomicU64,
    pub compactions: AtomicU64,
    pub compacted_away_bytes: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct ReadCount {
    pub begun: AtomicU64,
    pub ended: AtomicU64,
}

impl ReadCount {
    /// How many were begun, and whether one is under way.
    pub fn look(&self) -> (u64, bool) {
        // In this order, one that ends between is taken to be under way.
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        (begun, begun != ended)
    }
}

impl Shared {
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, config: StoreConfig) -> Shared {
        let room = Arc::new(Room::default());
        let impatient_disk = disk;
        let disk = PatientDisk::new(Arc::clone(&impatient_disk), Arc::clone(&room));
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let handles = Handles::new(
            disk.clone(),
            config.open_files_max,
            config.index_cache_bytes,
        );
        Shared {
            disk,
            impatient_disk,
            room,
            file_system: OnceLock::new(),
            dirs: Dirs::new(dir),
            config,
            journal: Queue::new(),
            lane: Queue::new(),
            handles,
            dirty: Mutex::default(),
            discards: Mutex::default(),
            catalog: Mutex::default(),
            journal_end: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            trim_to: AtomicU64::new(0),
            awaits_checkpoint: AtomicBool::new(false),
            cached_bytes: AtomicU64::new(0),
            disk_reads: ReadCount::default(),
            commit_times: Mutex::default(),
            damage: DamageNotes::default(),
            counters: Counters::default(),
            failure: OnceLock::new(),
            next_number: AtomicU64::new(1),
        }
    }

    /// A number that this process has not used yet.
    pub fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Storage failed for good: nothing more is taken, and the journal's thread tells.
    pub fn fail(&self, error: LogError) {
        let _ = self.failure.set(error);
        self.journal.close();
        self.journal.wake();
        drop(self.lane.abort());
    }

    pub fn failure(&self) -> Option<&LogError> {
        self.failure.get()
    }

    /// Why nothing is taken any more.
    pub fn why_closed(&self) -> LogError {
        match self.failure.get() {
            Some(cause) => LogError::Failed {
                cause: Arc::new(cause.clone()),
            },
            None => LogError::Closed,
        }
    }

    /// Whether what the segments took over since the last checkpoint is worth another.
    pub fn is_checkpoint_due(&self) -> bool {
        let applied = self.applied.load(Ordering::Acquire);
        let since = applied.saturating_sub(self.trim_to.load(Ordering::Acquire));
        let dirty = self.dirty.lock().files.len();
        self.config.is_checkpoint_due(since, dirty)
    }

    pub fn mark_file(&self, serial: u64, path: &Path) {
        let mut dirty = self.dirty.lock();
        dirty.files.entry(serial).or_insert_with(|| DirtyFile {
            path: path.to_owned(),
            sent_to: None,
        });
    }

    /// Marks a file that was written behind its end, and has the disk begin with it, some at a
    /// time.
    pub fn mark_written(
        &self,
        serial: u64,
        path: &Path,
        file: &dyn DiskFile,
        written: Range<u64>,
    ) -> Result<(), LogError> {
        let due = self.dirty.lock().note_written(serial, path, written);
        match due {
            Some(due) => file
                .start_write_back(due.start, due.end - due.start)
                .or_log("write", path),
            None => Ok(()),
        }
    }

    pub fn mark_dir(&self, dir: &Path) {
        let mut dirty = self.dirty.lock();
        if !dirty.dirs.contains(dir) {
            dirty.dirs.insert(dir.to_owned());
        }
    }

    /// Moves a file or a directory out of the way, to be removed later. Nothing is done if it is
    /// not there.
    pub fn discard(&self, path: &Path) -> Result<(), LogError> {
        let name = self.next_number().to_string();
        let target = self.dirs.discarded.join(name);
        if self.move_away(path, &target)? {
            self.discards.lock().push(target);
        }
        Ok(())
    }

    /// Gives a file or a directory a name elsewhere; false if it is not there.
    pub fn move_away(&self, path: &Path, target: &Path) -> Result<bool, LogError> {
        match self.disk.rename(path, target).or_log("move", path) {
            Ok(()) => {
                for dir in [path.parent(), target.parent()].into_iter().flatten() {
                    self.mark_dir(dir);
                }
                Ok(true)
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub fn remove_discarded(&self) {
        let discards = std::mem::take(&mut *self.discards.lock());
        for path in discards {
            let removed = match self.disk.unlink(&path) {
                Err(_) => self.disk.remove_dir_all(&path),
                removed => removed,
            };
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "could not remove a discarded file; the next start tries again");
            }
        }
    }
}

/// Tells one waiting thread how a change went. Dropped without a word, it says that the store
/// closed.
#[derive(Debug)]
pub(crate) struct Done {
    shared: Arc<Shared>,
    outcome: Arc<Outcome>,
}

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    result: Mutex<Option<Result<(), LogError>>>,
    told: Condvar,
}

impl Done {
    pub fn new(shared: &Arc<Shared>) -> (Done, Arc<Outcome>) {
        let outcome = Arc::new(Outcome::default());
        let done = Done {
            shared: shared.clone(),
            outcome: outcome.clone(),
        };
        (done, outcome)
    }

    pub fn tell(self, result: Result<(), LogError>) {
        self.outcome.tell(result);
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.outcome.tell(Err(self.shared.why_closed()));
    }
}

impl Outcome {
    fn tell(&self, result: Result<(), LogError>) {
        self.result.lock().get_or_insert(result);
        self.told.notify_all();
    }

    pub fn wait(&self) -> Result<(), LogError> {
        let mut result = self.result.lock();
        loop {
            match &*result {
                Some(result) => return result.clone(),
                None => self.told.wait(&mut result),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    #[test]
    fn a_file_that_grows_fast_is_sent_to_the_disk_bit_by_bit() {
        let mut dirty = Dirty::default();
        let mut write = |from, to| dirty.note_written(1, Path::new("/a"), from..to);
        assert_eq!(write(1_000, 80 * KIB), None);
        let due = write(80 * KIB, 120 * KIB + 5);
        assert_eq!(due, Some(1_000..120 * KIB));
        // The page that was not whole goes with the next ones.
        assert_eq!(write(120 * KIB + 5, 200 * KIB), None);
        let due = write(200 * KIB, 240 * KIB);
        assert_eq!(due, Some(120 * KIB..240 * KIB));
    }

    #[test]
    fn each_checkpoint_takes_what_was_not_sent_before() {
        let mut dirty = Dirty::default();
        for file in 0..100 {
            let path = PathBuf::from(format!("/{file}"));
            assert_eq!(dirty.note_written(file, &path, 0..SENT_BYTES - 1), None);
        }
        let taken = std::mem::take(&mut dirty);
        assert_eq!(taken.files.len(), 100);
        // What the checkpoint syncs counts no more.
        let next = SENT_BYTES - 1..SENT_BYTES + 1;
        assert_eq!(dirty.note_written(1, Path::new("/1"), next), None);
    }
}
