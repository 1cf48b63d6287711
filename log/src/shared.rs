//! What the logs of a store and its threads have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use ottla_model::TopicIdPartition;
use parking_lot::{Condvar, Mutex};

use crate::contention::CommitTimes;
use crate::damage::DamageNotes;
use crate::disk::{Disk, PatientDisk, Room};
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
    pub files: BTreeMap<u64, PathBuf>,
    pub dirs: BTreeSet<PathBuf>,
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

    pub fn mark_file(&self, serial: u64, path: &Path) {
        let mut dirty = self.dirty.lock();
        dirty.files.entry(serial).or_insert_with(|| path.to_owned());
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
