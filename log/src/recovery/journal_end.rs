//! Whether the journal still has its end. A write that a crash tore and damage to the last writes
//! look the same in it; but the segments are written only from what was durable in it. Batches in
//! them that go on where it ends were in it once, so it lost them, and with them, it may be,
//! what this broker alone has acknowledged of other logs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ottla_model::batch::{BatchHeader, HEADER_BYTES, validate_stored_batch};
use ottla_model::{Offset, TopicIdPartition};
use parking_lot::Mutex;

use super::fold::Folded;
use crate::disk::{Disk, OpenMode};
use crate::error::{IoContext as _, LogError, is_of_the_file};
use crate::segment::{base_of, log_path};
use crate::shared::Dirs;
use crate::wal::WalReach;

/// The largest batch that is looked at.
const BATCH_BYTES_MAX: usize = ottla_model::limits::BATCH_BYTES_MAX + HEADER_BYTES;

/// Looks for batches that the journal has lost, on several threads. Changes nothing.
///
/// # Errors
/// [`LogError::Corrupt`] if there are any.
pub(super) fn check(
    disk: &dyn Disk,
    dirs: &Dirs,
    logs: &BTreeMap<TopicIdPartition, Folded>,
    journal: &WalReach,
    threads: usize,
) -> Result<(), LogError> {
    let work = Mutex::new(logs.iter());
    let ended = Mutex::new(Ok(()));
    let run = || {
        while ended.lock().is_ok() {
            let Some((id, log)) = work.lock().next() else {
                return;
            };
            if let Err(error) = check_log(disk, dirs, *id, log, journal) {
                *ended.lock() = Err(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.clamp(1, logs.len().max(1)) {
            scope.spawn(run);
        }
        run();
    });
    ended.into_inner()
}

/// A log of which the journal says nothing is looked at as well: it may have lost all of it.
fn check_log(
    disk: &dyn Disk,
    dirs: &Dirs,
    id: TopicIdPartition,
    log: &Folded,
    journal: &WalReach,
) -> Result<(), LogError> {
    // Behind a cut, bytes may be of an earlier life.
    if log.has_past || log.damage.is_some() {
        return Ok(());
    }
    let (path, at) = match find_lost(disk, &dirs.of(id), log) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(()),
        // If the log needs that file, it counts as damaged, and no other does.
        Err(LogError::Io { source, .. }) if is_of_the_file(&source) => return Ok(()),
        Err(error) => return Err(error),
    };
    let what = format!(
        "the journal has lost its end: a batch of {id} that it brought to byte {at} of {} is not in it",
        path.display()
    );
    Err(LogError::corrupt(&journal.end_file, journal.end_byte, what))
}

/// The batch that comes next in the log, and where it stands. Others that do not belong behind its
/// end are no news of the journal: a file may be in the wrong place.
fn find_lost(
    disk: &dyn Disk,
    dir: &Path,
    log: &Folded,
) -> Result<Option<(PathBuf, u64)>, LogError> {
    let bases = disk.list(dir).or_log("list", dir)?;
    let bases = bases
        .iter()
        .filter_map(|entry| base_of(&dir.join(&entry.name)));
    let Some(base) = bases.filter(|base| *base <= log.log_end).max() else {
        return Ok(None);
    };
    let path = log_path(dir, base);
    let at = explained_bytes(log, base);
    let file = disk.open(&path, OpenMode::Existing);
    let file = file.or_log("open", &path)?;
    if file.size().or_log("measure", &path)? <= at {
        return Ok(None);
    }
    let mut header = [0; HEADER_BYTES];
    let read = file.read_at(&mut header, at).or_log("read", &path)?;
    let Some(header) = BatchHeader::decode(&header[..read]) else {
        return Ok(None);
    };
    if header.size > BATCH_BYTES_MAX || header.base_offset != log.log_end {
        return Ok(None);
    }
    let mut bytes = vec![0; header.size];
    let read = file.read_at(&mut bytes, at).or_log("read", &path)?;
    let is_whole = read == bytes.len() && validate_stored_batch(&bytes).is_ok();
    Ok(is_whole.then_some((path, at)))
}

/// How many bytes the checkpoint and the journal have for the last segment, if it begins at `base`.
fn explained_bytes(log: &Folded, base: Offset) -> u64 {
    let kept = log.kept.as_ref().and_then(|kept| {
        let segment = kept.segments.last()?;
        (segment.base == base).then_some(segment.bytes)
    });
    let appended = log.appends.iter().flat_map(|(_, metas)| metas);
    let appended = appended
        .filter(|meta| meta.base >= base)
        .map(|meta| meta.size as u64);
    kept.unwrap_or(0) + appended.sum::<u64>()
}
