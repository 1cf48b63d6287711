//! What happens when a store is opened: the checkpoint is read, the journal summed up over it, and
//! each log brought to what they say, several at a time.

mod fold;
mod journal_end;
mod rebuild;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ottla_model::{Offset, TopicIdPartition};
use parking_lot::Mutex;

use crate::checkpoint::Checkpoint;
use crate::disk::{Disk, create_dir_durably};
use crate::entry::{Op, decode, encode};
use crate::error::{IoContext as _, LogError};
use crate::partition::{PartitionLog, Physical};
use crate::shared::{Dirs, Shared};
use crate::wal::{Wal, WalConfig, WalFrame, WalPosition, WalReach};
pub(crate) use fold::{Fold, Folded};
use rebuild::{Rebuild, rebuild};

/// What recovery found.
pub(crate) struct Recovered {
    pub wal: Wal,
    pub logs: BTreeMap<TopicIdPartition, Arc<PartitionLog>>,
}

/// Brings every log to what was durable. What is damaged is noted and set aside: a log alone, or
/// the whole store if it cannot be told any more what its logs hold.
pub(crate) fn recover(shared: &Arc<Shared>) -> Result<Recovered, LogError> {
    let journal_id = Wal::id_path(&shared.dirs.journal);
    let was_there = shared.disk.exists(&journal_id);
    let was_there = was_there.or_log("look for", &journal_id)?;
    prepare_directories(shared)?;
    shared.damage.load(shared)?;
    if shared.config.must_exist && !was_there {
        let why = format!("{} is missing", journal_id.display());
        set_store_aside(shared, &why)?;
    }
    match recover_logs(shared) {
        Err(damage @ LogError::Corrupt { .. }) => {
            set_store_aside(shared, &damage.to_string())?;
            recover_logs(shared)
        }
        recovered => recovered,
    }
}

/// Notes that everything is lost, and moves the whole store into the quarantine, so that recovery
/// finds an empty one.
fn set_store_aside(shared: &Shared, why: &str) -> Result<(), LogError> {
    let dirs = &shared.dirs;
    shared.damage.note_all(shared, why)?;
    let target = free_name(shared, &dirs.quarantine, "store")?;
    create_dir_durably(&*shared.disk, &target)?;
    tracing::error!(why, kept = %target.display(), "the store is damaged; every log begins empty");
    let checkpoint = Checkpoint::path(&dirs.root);
    for path in [&checkpoint, &dirs.journal, &dirs.partitions] {
        let name = path.file_name().unwrap_or_default();
        shared.move_away(path, &target.join(name))?;
    }
    for dir in [&target, &dirs.root] {
        shared.disk.sync_dir(dir).or_log("sync", dir)?;
    }
    create_dir_durably(&*shared.disk, &dirs.partitions)
}

fn recover_logs(shared: &Arc<Shared>) -> Result<Recovered, LogError> {
    let root = &shared.dirs.root;
    let checkpoint = Checkpoint::load(&*shared.disk, root, &mut || shared.next_number())?;
    let checkpoint = checkpoint.unwrap_or_default();
    let position = checkpoint.position;
    let mut fold = Fold::new(checkpoint);
    let mut wal = replay_journal(shared, &mut fold)?;
    open_file_system(shared)?;
    let reach = wal.reach();
    check_reach(&shared.dirs, position, &reach)?;
    shared.trim_to.store(position.0, Ordering::Release);
    let threads = shared.config.recovery_threads;
    journal_end::check(&*shared.disk, &shared.dirs, &fold.logs, &reach, threads)?;
    for (id, folded) in std::mem::take(&mut fold.ended) {
        end_log(shared, id, folded)?;
    }
    let (logs, damaged) = rebuild_all(shared, std::mem::take(&mut fold.logs))?;
    quarantine(shared, &damaged)?;
    set_strays_aside(shared, &logs)?;
    tell_what_is_kept(shared)?;
    clear_compacting(shared)?;
    restart_damaged(&mut wal, &damaged)?;
    let mut recovered = Recovered { wal, logs };
    add_empty(shared, &mut recovered, &damaged);
    let end = recovered.wal.end().0;
    shared.journal_end.store(end, Ordering::Release);
    shared.applied.store(end, Ordering::Release);
    let catalog = recovered.logs.clone();
    *shared.catalog.lock() = catalog;
    Ok(recovered)
}

fn prepare_directories(shared: &Shared) -> Result<(), LogError> {
    let dirs = &shared.dirs;
    let disk = &shared.disk;
    if disk
        .exists(&dirs.discarded)
        .or_log("look for", &dirs.discarded)?
    {
        disk.remove_dir_all(&dirs.discarded)
            .or_log("remove", &dirs.discarded)?;
    }
    for dir in dirs.all() {
        create_dir_durably(&**disk, dir)?;
    }
    Ok(())
}

/// Before any log is written to, so that it tells of all that is lost of them.
fn open_file_system(shared: &Shared) -> Result<(), LogError> {
    let file = Wal::id_path(&shared.dirs.journal);
    match shared.disk.file_system(&file, &shared.dirs.all()) {
        // If the store was set aside, there is one already: the same.
        Ok(found) => drop(shared.file_system.set(found)),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
        failed => drop(failed.or_log("open", &file)?),
    }
    Ok(())
}

fn replay_journal(shared: &Shared, fold: &mut Fold) -> Result<Wal, LogError> {
    let config = WalConfig {
        file_bytes: shared.config.journal_file_bytes,
        spare_files: shared.config.journal_spare_files,
        preparing: shared.config.journal_preparing,
        ..WalConfig::new(shared.config.journal_id_if_new)
    };
    let disk: Arc<dyn Disk> = shared.disk.clone();
    let dir = &shared.dirs.journal;
    Wal::open_visiting(disk, dir, config, &mut |frame| replay(dir, fold, &frame))
}

/// Takes in what the journal says, without opening it for what comes. Nothing is changed.
///
/// # Errors
/// [`LogError::Corrupt`] if it is damaged, does not hold what the checkpoint needs, or has lost its
/// end.
pub(crate) fn look_at_journal(
    disk: &dyn Disk,
    dirs: &Dirs,
    fold: &mut Fold,
) -> Result<(), LogError> {
    let dir = &dirs.journal;
    let needed = fold.needed_from();
    let there = match disk.exists(dir).or_log("look for", dir)? {
        true => Wal::look(disk, dir, &mut |frame| replay(dir, fold, &frame))?,
        false => WalReach::none(dir),
    };
    check_reach(dirs, needed, &there)?;
    journal_end::check(disk, dirs, &fold.logs, &there, 1)
}

fn replay(journal: &Path, fold: &mut Fold, frame: &WalFrame) -> Result<(), LogError> {
    let behind = Wal::position_after(frame.position, frame.payload.len());
    let Some((id, entry)) = decode(&frame.payload) else {
        // The frame's checksum is right, so these are the bytes that were written.
        let what = format!(
            "an entry at position {} of an unknown kind",
            frame.position.0
        );
        let path = journal.to_owned();
        return Err(LogError::Newer { path, what });
    };
    fold.replay(id, entry, behind);
    Ok(())
}

/// Whether the journal goes on where the checkpoint ends.
fn check_reach(dirs: &Dirs, checkpoint: WalPosition, journal: &WalReach) -> Result<(), LogError> {
    let Range { start, end } = journal.positions;
    if start <= checkpoint && checkpoint <= end {
        return Ok(());
    }
    // The one that a store without a checkpoint begins with.
    if checkpoint == WalPosition::default() {
        let what = format!(
            "it is missing, and the journal begins at position {} only",
            start.0
        );
        return Err(LogError::corrupt(&Checkpoint::path(&dirs.root), 0, what));
    }
    if checkpoint < start {
        let what = format!(
            "it begins at position {} only, but the checkpoint needs it from {} on",
            start.0, checkpoint.0
        );
        return Err(LogError::corrupt(&dirs.journal, 0, what));
    }
    let what = format!(
        "the journal ends here, at position {}, but the checkpoint has what came up to position {}",
        end.0, checkpoint.0
    );
    Err(LogError::corrupt(&journal.end_file, journal.end_byte, what))
}

/// Carries out the end of a log that the journal has, if that has not been done.
fn end_log(shared: &Arc<Shared>, id: TopicIdPartition, folded: Folded) -> Result<(), LogError> {
    let dir = shared.dirs.of(id);
    let Some(kept) = folded.set_aside.clone() else {
        return shared.discard(&dir);
    };
    let target = shared.dirs.root.join(kept);
    if shared.disk.exists(&target).or_log("look for", &target)? {
        return Ok(());
    }
    match rebuild(shared, id, folded) {
        Ok(log) => log.apply_set_aside(&target),
        Err(Rebuild::Damaged(why)) => {
            tracing::warn!(%id, why, "a log that was set aside is damaged");
            shared.move_away(&dir, &target).map(|_| ())
        }
        Err(Rebuild::Failed(error)) => Err(error),
    }
}

type Damaged = Vec<(TopicIdPartition, String)>;
type Logs = BTreeMap<TopicIdPartition, Arc<PartitionLog>>;

fn rebuild_all(
    shared: &Arc<Shared>,
    folded: BTreeMap<TopicIdPartition, Folded>,
) -> Result<(Logs, Damaged), LogError> {
    let threads = shared.config.recovery_threads.clamp(1, folded.len().max(1));
    let work = Mutex::new(folded.into_iter());
    let results = Mutex::new((Logs::new(), Damaged::new(), None));
    let run = || {
        loop {
            let Some((id, folded)) = work.lock().next() else {
                return;
            };
            let rebuilt = rebuild(shared, id, folded);
            let mut results = results.lock();
            match rebuilt {
                Ok(log) => drop(results.0.insert(id, log)),
                Err(Rebuild::Damaged(why)) => results.1.push((id, why)),
                Err(Rebuild::Failed(error)) => {
                    results.2.get_or_insert(error);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    let (logs, mut damaged, failed) = results.into_inner();
    damaged.sort();
    match failed {
        Some(error) => Err(error),
        None => Ok((logs, damaged)),
    }
}

/// Removes compacted files that the journal says nothing of: they were not finished.
fn clear_compacting(shared: &Shared) -> Result<(), LogError> {
    let dir = &shared.dirs.compacting;
    for entry in shared.disk.list(dir).or_log("list", dir)? {
        let path = dir.join(&entry.name);
        shared.disk.unlink(&path).or_log("remove", &path)?;
    }
    Ok(())
}

/// Notes damaged logs, and then moves their files aside, durably: what begins in their place must
/// not be taken for them.
fn quarantine(shared: &Shared, damaged: &Damaged) -> Result<(), LogError> {
    if damaged.is_empty() {
        return Ok(());
    }
    let dirs = &shared.dirs;
    for (id, why) in damaged {
        let target = free_name(shared, &dirs.quarantine, &id.to_string())?;
        shared.damage.note(shared, *id, why)?;
        shared.move_away(&dirs.of(*id), &target)?;
        tracing::error!(%id, why, kept = %target.display(), "a log is damaged; it begins empty");
    }
    for dir in [&dirs.quarantine, &dirs.partitions] {
        shared.disk.sync_dir(dir).or_log("sync", dir)?;
    }
    Ok(())
}

/// Notes in the journal that damaged logs begin anew, before anything is appended to them.
fn restart_damaged(wal: &mut Wal, damaged: &Damaged) -> Result<(), LogError> {
    for (id, _) in damaged {
        let payload: Vec<Bytes> = encode(*id, &Op::Restart(Offset::ZERO));
        wal.append(&[&payload])?;
    }
    wal.sync()
}

/// Puts an empty log in the place of each damaged one.
fn add_empty(shared: &Arc<Shared>, recovered: &mut Recovered, damaged: &Damaged) {
    for (id, _) in damaged {
        let mut physical = Physical::empty(Offset::ZERO);
        physical.applied = recovered.wal.end();
        let settings = shared.config.default_settings;
        let log = PartitionLog::new(shared, *id, physical, settings);
        recovered.logs.insert(*id, log);
    }
}

/// Moves directories aside that neither the checkpoint nor the journal knows.
fn set_strays_aside(shared: &Arc<Shared>, logs: &Logs) -> Result<(), LogError> {
    let dir = &shared.dirs.partitions;
    let known: std::collections::BTreeSet<String> =
        logs.keys().map(TopicIdPartition::to_string).collect();
    for entry in shared.disk.list(dir).or_log("list", dir)? {
        let name = entry.name.to_string_lossy();
        if known.contains(&*name) {
            continue;
        }
        let target = free_name(shared, &shared.dirs.stray, &name)?;
        let path = dir.join(&entry.name);
        tracing::warn!(path = %path.display(), kept = %target.display(), "a directory that no log here has is set aside");
        shared.move_away(&path, &target)?;
    }
    Ok(())
}

/// Nothing removes what was set aside, so that somebody must know of it.
fn tell_what_is_kept(shared: &Arc<Shared>) -> Result<(), LogError> {
    for dir in [&shared.dirs.stray, &shared.dirs.quarantine] {
        let kept = shared.disk.list(dir).or_log("list", dir)?.len();
        if kept > 0 {
            tracing::warn!(path = %dir.display(), kept, "what was set aside here takes room until somebody removes it");
        }
    }
    Ok(())
}

/// A path in `dir` that begins with `name` and is not taken.
pub(crate) fn free_name(
    shared: &Shared,
    dir: &std::path::Path,
    name: &str,
) -> Result<std::path::PathBuf, LogError> {
    let mut number = 0u64;
    loop {
        let path = dir.join(format!("{name}.{number}"));
        if !shared.disk.exists(&path).or_log("look for", &path)? {
            return Ok(path);
        }
        number += 1;
    }
}
