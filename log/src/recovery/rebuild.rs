//! Bringing one log's files to what the checkpoint and the journal say: bytes behind what the
//! checkpoint vouches for are cut, and the journal's batches are written over them. What the
//! checkpoint vouches for must be there; if it is not, the log is damaged.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ottla_model::batch::{BatchHeader, HEADER_BYTES};
use ottla_model::{Offset, TopicIdPartition};

use super::fold::Folded;
use crate::disk::{DiskFile, OpenMode};
use crate::error::{IoContext as _, LogError, ReadError, is_of_the_file};
use crate::partition::{PartitionLog, Physical};
use crate::segment::{
    Scanner, Segment, SegmentIndex, SparseIndex, base_of, check_batch, index_path, log_path,
    time_index_path,
};
use crate::shared::Shared;
use crate::swap::Swap;

/// Why a log could not be rebuilt.
pub(super) enum Rebuild {
    /// Its files do not hold what they must. Other logs are not concerned.
    Damaged(String),
    /// The disk does not work.
    Failed(LogError),
}

impl From<ReadError> for Rebuild {
    fn from(error: ReadError) -> Rebuild {
        match error {
            ReadError::Io {
                action,
                path,
                source,
            } if !is_of_the_file(&source) => Rebuild::Failed(LogError::Io {
                action,
                path,
                source,
            }),
            other => Rebuild::Damaged(describe(&other)),
        }
    }
}

impl From<LogError> for Rebuild {
    fn from(error: LogError) -> Rebuild {
        Rebuild::Failed(error)
    }
}

fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// The log as the journal leaves it.
pub(super) fn rebuild(
    shared: &Arc<Shared>,
    id: TopicIdPartition,
    folded: Folded,
) -> Result<Arc<PartitionLog>, Rebuild> {
    if let Some(damage) = folded.damage {
        return Err(Rebuild::Damaged(damage));
    }
    let dir = shared.dirs.of(id);
    let begun = match folded.changed {
        true => begun_segments(shared, &dir)?,
        false => BTreeSet::new(),
    };
    let mut physical = match folded.kept {
        None => {
            shared.discard(&dir)?;
            Physical::empty(folded.keep_end)
        }
        Some(mut physical) => {
            finish_swaps(shared, id, &dir, &folded.swaps)?;
            let is_cut = folded.keep_end < physical.end;
            physical.end = folded.keep_end;
            if is_cut {
                // The epoch that an empty log has reached begins at its end, and stays.
                physical.epochs.cut(folded.keep_end);
            }
            physical.cleaned_to = physical.cleaned_to.min(folded.keep_end);
            physical.segments = kept_segments(shared, &dir, &physical, folded.log_start, is_cut)?;
            if folded.changed {
                discard_unknown(shared, &dir, &begun, &physical)?;
                // The active segment's index may have been written for batches that were then cut.
                if is_cut && let Some(active) = physical.segments.last_mut() {
                    active.indexed_bytes = 0;
                    discard_indexes(shared, &dir, active.base)?;
                }
            }
            physical
        }
    };
    physical.applied = folded.applied;
    // What the journal wrote over is not what the checkpoint vouches for.
    let checkpointed = match physical.segments.last() {
        Some(active) if !folded.changed => active.base,
        _ => Offset::ZERO,
    };
    let log = PartitionLog::new(shared, id, physical, shared.config.default_settings);
    log.lock().recovering = true;
    let saved_from = folded.swaps.iter().map(|swap| swap.end);
    let saved_from = saved_from
        .max()
        .map_or(folded.log_start, |end| end.max(folded.log_start));
    let saved_to = folded.cut_to.unwrap_or(folded.log_end).min(folded.log_end);
    log.find_saved_producers(saved_from, saved_to)?;
    if !folded.appends.is_empty() {
        log.apply_appends(&folded.appends, folded.applied, &begun)?;
    }
    log.apply_log_start(folded.log_start, folded.applied)?;
    let mut state = log.lock();
    // Behind the last batch, the log may go on without records.
    state.physical.end = state.physical.end.max(folded.log_end);
    state.checkpointed = checkpointed;
    state.follow_physical();
    state.recovering = false;
    drop(state);
    Ok(log)
}

/// Gives compacted segments their names, where that was not done before the end.
fn finish_swaps(
    shared: &Shared,
    id: TopicIdPartition,
    dir: &Path,
    swaps: &[Swap],
) -> Result<(), LogError> {
    if swaps.is_empty() {
        return Ok(());
    }
    let compacting = &shared.dirs.compacting;
    for swap in swaps {
        discard_indexes(shared, dir, swap.base())?;
        let source = compacting.join(swap.file_name(id));
        shared.move_away(&source, &log_path(dir, swap.base()))?;
    }
    // Before the rest of the directory is cleared away.
    for dir in [dir, compacting] {
        match shared.disk.sync_dir(dir).or_log("sync", dir) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The segments that hold the log from `log_start` to its end, which is lower than when the
/// checkpoint was made if the log was cut since; checked, and with nothing behind the end.
fn kept_segments(
    shared: &Shared,
    dir: &Path,
    physical: &Physical,
    log_start: Offset,
    is_cut: bool,
) -> Result<Vec<Segment>, Rebuild> {
    let mut kept = Vec::new();
    let count = physical.segments.len();
    let last = physical
        .segments
        .partition_point(|segment| segment.base < physical.end);
    for (index, segment) in physical.segments.iter().enumerate() {
        let Some(end) = physical.wanted_end(index, log_start) else {
            discard_segment(shared, dir, segment.base)?;
            continue;
        };
        let mut segment = segment.clone();
        // Only the last batch tells whether a segment ends where it must.
        let is_last = index + 1 == last;
        if is_last {
            cut_behind(shared, dir, &mut segment, end, is_cut)?;
        }
        let was_last = index + 1 == count;
        if is_last || shared.config.verify_all_on_open {
            check_segment(shared, dir, &segment, end)?;
        }
        if is_last && !was_last && !matches!(segment.index, SegmentIndex::Memory(_)) {
            segment.index = SegmentIndex::Unknown;
        }
        kept.push(segment);
    }
    Ok(kept)
}

/// Removes whatever stands behind the last batch that ends at `end`. Unless the log was cut since
/// the checkpoint, that is the batch that the checkpoint names; were another one taken for it, the
/// log would go on behind a hole.
fn cut_behind(
    shared: &Shared,
    dir: &Path,
    segment: &mut Segment,
    end: Offset,
    is_cut: bool,
) -> Result<(), Rebuild> {
    let path = log_path(dir, segment.base);
    let file = open(shared, &path)?;
    let size = file.size().or_read("measure", &path)?;
    let header = read_header(&*file, &path, segment.last_batch_at)?;
    // A segment without a batch may stand for offsets that hold none.
    let untouched = segment.bytes == 0
        || header.is_some_and(|header| {
            header.next_offset() <= end
                && segment.last_batch_at + header.size as u64 == segment.bytes
        });
    if !untouched && !is_cut {
        let what = format!(
            "{} has no batch at byte {} that ends at byte {}, where the last one was synced",
            path.display(),
            segment.last_batch_at,
            segment.bytes
        );
        return Err(Rebuild::Damaged(what));
    }
    if !untouched {
        let known = segment.bytes.min(size);
        let (bytes, last_batch_at) = cut_point(&*file, &path, segment.base, known, end)?;
        discard_indexes(shared, dir, segment.base)?;
        let index = SparseIndex::of_segment(&path, segment.base, &*file, bytes)?;
        segment.bytes = bytes;
        segment.indexed_bytes = 0;
        segment.last_batch_at = last_batch_at;
        segment.max_timestamp = index.max_timestamp();
        segment.index = SegmentIndex::Memory(index);
    }
    if size > segment.bytes {
        file.set_len(segment.bytes).or_log("cut", &path)?;
        shared.mark_file(segment.serial, &path);
    }
    Ok(())
}

/// Checks that a segment has all its bytes, and the checksum of its last batch or of all.
fn check_segment(
    shared: &Shared,
    dir: &Path,
    segment: &Segment,
    end: Offset,
) -> Result<(), Rebuild> {
    let path = log_path(dir, segment.base);
    let file = open(shared, &path)?;
    let size = file.size().or_read("measure", &path)?;
    if size < segment.bytes {
        let what = format!(
            "{} has {size} bytes, but {} were synced",
            path.display(),
            segment.bytes
        );
        return Err(Rebuild::Damaged(what));
    }
    let from = if shared.config.verify_all_on_open {
        0
    } else {
        segment.last_batch_at
    };
    let reached = verify(&*file, &path, from..segment.bytes, segment.base)?;
    // Behind the last batch there may be a gap.
    if reached.is_none_or(|reached| reached > end) {
        let what = format!("{} does not end before offset {end}", path.display());
        return Err(Rebuild::Damaged(what));
    }
    Ok(())
}

fn read_header(
    file: &dyn DiskFile,
    path: &Path,
    at: u64,
) -> Result<Option<BatchHeader>, ReadError> {
    let mut bytes = [0; HEADER_BYTES];
    let read = file.read_at(&mut bytes, at).or_read("read", path)?;
    Ok(BatchHeader::decode(&bytes[..read]))
}

/// Where the batches below `end` end, and where the last of them begins. Behind it, bytes may
/// already be those of a later life.
fn cut_point(
    file: &dyn DiskFile,
    path: &Path,
    base: Offset,
    bytes: u64,
    end: Offset,
) -> Result<(u64, u64), Rebuild> {
    let mut scanner = Scanner::new(file, path, 0, bytes, base);
    let (mut position, mut last, mut next) = (0, 0, base);
    while next < end {
        let Some((at, header)) = scanner.next()? else {
            break;
        };
        if header.base_offset >= end {
            break;
        }
        last = at;
        position = scanner.position();
        next = header.next_offset();
    }
    if next > end {
        let what = format!(
            "{}: the batches below offset {end} end at offset {next}",
            path.display()
        );
        return Err(Rebuild::Damaged(what));
    }
    Ok((position, last))
}

fn open(shared: &Shared, path: &Path) -> Result<Arc<dyn DiskFile>, ReadError> {
    shared
        .disk
        .open(path, OpenMode::Existing)
        .or_read("open", path)
}

/// Verifies the checksums of the batches in a range; returns the offset behind the last.
fn verify(
    file: &dyn DiskFile,
    path: &Path,
    range: Range<u64>,
    lowest: Offset,
) -> Result<Option<Offset>, ReadError> {
    let mut reached = None;
    let mut scanner = Scanner::new(file, path, range.start, range.end, lowest);
    let mut bytes = Vec::new();
    while let Some((at, header)) = scanner.next()? {
        bytes.resize(header.size, 0);
        let read = file.read_at(&mut bytes, at).or_read("read", path)?;
        check_batch(path, at, &bytes[..read])?;
        reached = Some(header.next_offset());
    }
    Ok(reached)
}

fn discard_segment(shared: &Shared, dir: &Path, base: Offset) -> Result<(), LogError> {
    shared.discard(&log_path(dir, base))?;
    discard_indexes(shared, dir, base)
}

fn discard_indexes(shared: &Shared, dir: &Path, base: Offset) -> Result<(), LogError> {
    shared.discard(&index_path(dir, base))?;
    shared.discard(&time_index_path(dir, base))
}

/// The segments that have files. The log's settings are not known yet, so those that were begun
/// after the checkpoint begin again where they did before; otherwise all that the journal has would
/// go into one, which neither retention nor compaction could touch before it is sealed.
fn begun_segments(shared: &Shared, dir: &Path) -> Result<BTreeSet<Offset>, LogError> {
    match shared.disk.list(dir).or_log("list", dir) {
        Ok(entries) => Ok(entries
            .iter()
            .filter_map(|entry| base_of(&dir.join(&entry.name)))
            .collect()),
        Err(error) if error.is_not_found() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Removes segments that were begun after the checkpoint: the journal has their batches.
fn discard_unknown(
    shared: &Shared,
    dir: &Path,
    begun: &BTreeSet<Offset>,
    physical: &Physical,
) -> Result<(), LogError> {
    for base in begun {
        if physical.segments.iter().all(|s| s.base != *base) {
            discard_segment(shared, dir, *base)?;
        }
    }
    Ok(())
}
