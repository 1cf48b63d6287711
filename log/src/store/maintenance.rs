//! Checkpoints: makes durable what the lane has written, writes down what that is, and sets the
//! journal before it free. Removes discarded files on the way.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::checkpoint::Checkpoint;
use crate::disk::{DiskFile, OpenMode};
use crate::error::{IoContext as _, LogError};
use crate::partition::PartitionLog;
use crate::planted::{self, Bug};
use crate::shared::{Dirty, DirtyFile, Shared};
use crate::wal::WalPosition;

/// How many files a checkpoint has on their way to the disk at a time. More would be synced a
/// little faster, and would hold the journal up.
const SYNCED_TOGETHER: usize = 64;

/// Wakes the maintenance thread.
#[derive(Debug, Default)]
pub(super) struct Bell {
    state: Mutex<Rung>,
    rung: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Rung {
    due: bool,
    requested: bool,
    stop: bool,
}

impl Bell {
    /// A checkpoint seems due.
    pub fn ring(&self) {
        self.state.lock().due = true;
        self.rung.notify_all();
    }

    /// A checkpoint shall be made, due or not.
    pub fn request(&self) {
        self.state.lock().requested = true;
        self.rung.notify_all();
    }

    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.rung.notify_all();
    }

    /// Waits for a ring or the time.
    fn wait(&self, patience: Duration) -> Woken {
        let mut state = self.state.lock();
        if !state.due && !state.requested && !state.stop {
            self.rung.wait_for(&mut state, patience);
        }
        let rung = std::mem::take(&mut *state);
        state.stop = rung.stop;
        match rung {
            Rung { stop: true, .. } => Woken::ToStop,
            Rung {
                due: true,
                requested: false,
                ..
            } => Woken::ByRing,
            _ => Woken::ToCheckpoint,
        }
    }
}

/// What ended a wait.
enum Woken {
    /// A checkpoint seemed due.
    ByRing,
    /// It was requested, or it is time.
    ToCheckpoint,
    ToStop,
}

/// Runs until the store stops or fails.
pub(super) fn run(shared: &Shared, bell: &Bell) {
    let patience = Duration::from_millis(shared.config.checkpoint_ms);
    loop {
        // A ring may be of the time before the last checkpoint, which covers some of it.
        let due = match bell.wait(patience) {
            Woken::ToStop => return,
            Woken::ByRing => shared.is_checkpoint_due(),
            Woken::ToCheckpoint => true,
        };
        if shared.failure().is_some() {
            return;
        }
        if due && let Err(error) = checkpoint(shared) {
            shared.fail(error);
            return;
        }
        shared.remove_discarded();
    }
}

/// Makes a checkpoint, if anything has changed since the last one.
pub(super) fn checkpoint(shared: &Shared) -> Result<(), LogError> {
    let position = shared.applied.load(Ordering::Acquire);
    if position == shared.trim_to.load(Ordering::Acquire) {
        return Ok(());
    }
    let logs: Vec<_> = shared.catalog.lock().values().cloned().collect();
    let outlines: BTreeMap<_, _> = logs
        .iter()
        .map(|log| (log.id(), log.lock().physical.outline()))
        .collect();
    // Taken after the logs were looked at: whatever they say they hold is marked by now.
    let dirty = std::mem::take(&mut *shared.dirty.lock());
    make_durable(shared, &dirty)?;
    let position = WalPosition(position);
    let checkpoint = Checkpoint {
        position,
        logs: outlines,
    };
    checkpoint.save(&*shared.disk, &shared.dirs.root)?;
    for log in &logs {
        if let Some(outline) = checkpoint.logs.get(&log.id()) {
            log.was_checkpointed(outline);
        }
    }
    save_indexes(&logs);
    shared.trim_to.store(position.0, Ordering::Release);
    shared.counters.checkpoints.fetch_add(1, Ordering::Relaxed);
    shared.journal.wake();
    Ok(())
}

/// Makes files and names durable: each by itself, or, if there are many of them, with all else that
/// the file system holds. Each sync waits for the disk to empty its own cache, and for what the
/// file system notes of that one file.
fn make_durable(shared: &Shared, dirty: &Dirty) -> Result<(), LogError> {
    let count = dirty.files.len() + dirty.dirs.len();
    let whole = shared.file_system.get();
    if let Some(file_system) = whole.filter(|_| count >= shared.config.sync_whole_from) {
        by_portions(shared, &dirty.files, |file| file.wait_for_write_back())?;
        if planted::in_disk(&*shared.disk, Bug::WholeSyncLeftOut) {
            return Ok(());
        }
        return file_system.sync().or_log("sync", &shared.dirs.root);
    }
    by_portions(shared, &dirty.files, |file| file.sync_data())?;
    for dir in &dirty.dirs {
        match shared.disk.sync_dir(dir).or_log("sync", dir) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Has files written to the disk, some at a time: all of a portion are on their way before the
/// first is waited for, so that the file system commits what it notes of them together.
fn by_portions(
    shared: &Shared,
    files: &BTreeMap<u64, DirtyFile>,
    wait: impl Fn(&dyn DiskFile) -> io::Result<()>,
) -> Result<(), LogError> {
    let mut files = files.iter().peekable();
    while files.peek().is_some() {
        let mut portion = Vec::with_capacity(SYNCED_TOGETHER);
        for (serial, DirtyFile { path, .. }) in files.by_ref().take(SYNCED_TOGETHER) {
            // Not through the bounded handles: the file may belong to a segment that is going away.
            let open = shared.handles.open_file(*serial).map(Ok);
            let open = open.unwrap_or_else(|| shared.disk.open(path, OpenMode::Existing));
            match open.or_log("open", path) {
                Ok(file) => {
                    file.start_write_back(0, 0).or_log("write", path)?;
                    portion.push((file, path));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        for (file, path) in portion {
            wait(&*file).or_log("sync", path)?;
        }
    }
    Ok(())
}

/// Brings index files up to date, so that the next start has about as much to look at as it takes
/// from the journal anyway.
fn save_indexes(logs: &[Arc<PartitionLog>]) {
    let (mut failed, mut why) = (0, None);
    for log in logs {
        if let Err(error) = log.save_index_progress() {
            failed += 1;
            why.get_or_insert(error);
        }
    }
    if let Some(error) = why {
        // The next start, or the next reader, reads the segment instead.
        tracing::warn!(
            partitions = failed,
            error = &error as &dyn std::error::Error,
            "indexes could not be saved; the next start takes longer"
        );
    }
}
