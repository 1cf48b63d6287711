//! Compaction: rewrites the sealed segments of a log so that of each key only the last record
//! stays (Kafka's `cleanup.policy=compact`, KIP-58, KIP-534). Offsets never change.
//!
//! A pass first reads what was not compacted yet and notes the last offset of each key, as far as
//! the table has room; then it rewrites the log's sealed segments from the start, neighbours
//! together, and swaps each rewritten piece in through the journal. What stays: every record that
//! no later one of its key replaces; tombstones for a time; and, if only as headers, the batches by
//! which producers are remembered, the first of each leader epoch, so that logs that part are still
//! found to part (also by a replica that was refilled from this one), and the last of each piece,
//! so that segments end where they ended. A batch that cannot be unpacked stays as it is.
//!
//! Knows nothing of high watermarks or topics: the caller says below which offset all is committed.

mod clean;
mod key_table;
mod pace;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ottla_model::batch::{BatchHeader, UnpackedBatch, next_batch};
use ottla_model::limits::COMPACTED_UNPACKED_BYTES_MAX;
use ottla_model::{LeaderEpoch, Offset, TimestampMs};

use crate::disk::OpenMode;
use crate::error::{LogError, ReadError};
use crate::partition::{Cleanable, PartitionLog};
use crate::segment::{Segment, log_path, read_batches};
use crate::shared::Shared;
use key_table::KeyTable;
use pace::Pace;

/// How many bytes of batches are read at a time; a larger batch is read whole.
const READ_BYTES: usize = 256 * 1024;

/// How much there is to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CompactionNeed {
    /// Whether a record waits longer than `max.compaction.lag.ms` allows.
    pub is_overdue: bool,
    /// The part of the bytes that was not compacted yet, in thousandths.
    pub dirty_permille: u32,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Segments that were replaced, and by how many.
    pub replaced: usize,
    pub by: usize,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Batches that could not be unpacked and stayed as they are.
    pub unreadable_batches: u64,
    /// Whether all that could be compacted was; otherwise the table of keys was too small for it,
    /// and the next pass goes on.
    pub is_complete: bool,
    /// The log was cut or its start moved meanwhile, and the pass was given up.
    pub is_cancelled: bool,
}

/// Compacts the logs of one store, one at a time.
#[derive(Debug)]
pub struct Compactor {
    shared: Arc<Shared>,
    pace: Pace,
}

/// What a pass over one log needs to know.
#[derive(Debug)]
struct Pass<'a> {
    log: &'a PartitionLog,
    seen: Cleanable,
    keys: KeyTable,
    /// The keys' last offsets are known up to here.
    known_to: Offset,
    now: TimestampMs,
    delete_retention_ms: i64,
    /// Where leader epochs begin, ascending.
    epochs: Vec<(LeaderEpoch, Offset)>,
    /// The last offsets of batches by which producers are remembered, ascending.
    remembered: &'a [Offset],
}

impl PartitionLog {
    /// How much of this log there is to compact below `bound`; `None` if it is not worth a pass
    /// after the log's settings. What no checkpoint contains yet counts, though a pass leaves it
    /// out.
    pub fn compaction_need(
        &self,
        now: TimestampMs,
        bound: Offset,
    ) -> Result<Option<CompactionNeed>, LogError> {
        let Some(settings) = self.settings().compaction else {
            return Ok(None);
        };
        let Some(found) = self.cleanable(now, bound, false)? else {
            return Ok(None);
        };
        let (mut clean, mut dirty) = (0u64, 0u64);
        let mut oldest = None;
        for (index, segment) in found.segments.iter().enumerate() {
            if found.end_of(index) <= found.dirty_from {
                clean += segment.bytes;
            } else {
                dirty += segment.bytes;
                let first = Some(segment.first_timestamp);
                oldest = oldest.or(first.filter(|first| *first != TimestampMs::NONE));
            }
        }
        let is_overdue =
            oldest.is_some_and(|oldest| now.0.saturating_sub(oldest.0) > settings.max_lag_ms);
        let need = CompactionNeed {
            is_overdue,
            dirty_permille: (dirty.saturating_mul(1000) / (clean + dirty).max(1)) as u32,
        };
        let is_due = is_overdue || need.dirty_permille > settings.min_dirty_permille;
        Ok((dirty > 0 && is_due).then_some(need))
    }
}

impl Compactor {
    pub(crate) fn new(shared: Arc<Shared>) -> Compactor {
        let pace = Pace::new(shared.config.compaction_bytes_per_second);
        Compactor { shared, pace }
    }

    /// Makes one pass over a log, below `bound`, where everything is committed. `remembered` are
    /// the last offsets of the batches by which producers are known, ascending. Blocks, for long,
    /// at the configured pace. `None` if there is nothing new that may be compacted; what is sealed
    /// may have to wait for a checkpoint.
    ///
    /// # Errors
    /// The log stays as it is if its segments cannot be read or there is no room for the rewritten
    /// ones. Once the store is closed, [`LogError::Closed`] or [`LogError::Failed`].
    pub fn compact(
        &mut self,
        log: &PartitionLog,
        now: TimestampMs,
        bound: Offset,
        remembered: &[Offset],
    ) -> Result<Option<Compacted>, LogError> {
        let Some(settings) = log.settings().compaction else {
            return Ok(None);
        };
        let Some(seen) = log.cleanable(now, bound, true)? else {
            return Ok(None);
        };
        if seen.end <= seen.dirty_from {
            return Ok(None);
        }
        let span = seen.end.0.saturating_sub(seen.dirty_from.0);
        let bytes = self.shared.config.compaction_memory_bytes;
        let mut pass = Pass {
            log,
            known_to: seen.dirty_from,
            seen,
            keys: KeyTable::new(bytes, usize::try_from(span).unwrap_or(0)),
            now,
            delete_retention_ms: settings.delete_retention_ms,
            epochs: log.epochs(),
            remembered,
        };
        let mut done = Compacted::default();
        self.learn_keys(&mut pass)?;
        done.is_complete = pass.known_to >= pass.seen.end;
        for group in self.groups(&pass) {
            if !self.clean_group(&pass, group, &mut done)? {
                done.is_cancelled = true;
                return Ok(Some(done));
            }
        }
        log.note_cleaned(&pass.seen, pass.known_to);
        let counters = &self.shared.counters;
        counters.compactions.fetch_add(1, Ordering::Relaxed);
        let saved = done.bytes_before.saturating_sub(done.bytes_after);
        counters
            .compacted_away_bytes
            .fetch_add(saved, Ordering::Relaxed);
        Ok(Some(done))
    }

    /// Notes the last offset of each key in what was not compacted yet, until all is read or the
    /// table is full.
    fn learn_keys(&mut self, pass: &mut Pass<'_>) -> Result<(), LogError> {
        let from = pass.seen.dirty_from;
        for index in 0..pass.seen.segments.len() {
            let end = pass.seen.end_of(index);
            if end <= from {
                continue;
            }
            let segment = pass.seen.segments[index].clone();
            let mut full_at = None;
            let keys = &mut pass.keys;
            let end = pass.seen.end_of(index);
            self.read_segment(pass.log, &segment, end, &mut |header, batch| {
                if full_at.is_none() && header.next_offset() > from {
                    full_at = learn_batch(keys, header, batch, from);
                }
                Ok(full_at.is_none())
            })?;
            if let Some(at) = full_at {
                pass.known_to = at;
                return Ok(());
            }
            pass.known_to = end;
        }
        Ok(())
    }

    /// Neighbouring segments that become one: no larger than a segment may be. Those above what
    /// the table knows stay out.
    fn groups(&self, pass: &Pass<'_>) -> Vec<std::ops::Range<usize>> {
        let most = pass.log.settings().segment_bytes.min(i32::MAX as u64);
        let mut groups: Vec<std::ops::Range<usize>> = Vec::new();
        let mut bytes = 0;
        for (index, segment) in pass.seen.segments.iter().enumerate() {
            if segment.base >= pass.known_to {
                break;
            }
            bytes += segment.bytes;
            let joins = groups.last().is_some_and(|group| {
                let base = pass.seen.segments[group.start].base;
                bytes <= most && pass.seen.end_of(index) - base <= i64::from(i32::MAX)
            });
            match groups.last_mut() {
                Some(group) if joins => group.end = index + 1,
                _ => {
                    bytes = segment.bytes;
                    groups.push(index..index + 1);
                }
            }
        }
        groups
    }

    /// Hands the batches of a segment, which ends at `end` at most, to `visit`, checked, until it
    /// says to stop.
    fn read_segment(
        &mut self,
        log: &PartitionLog,
        segment: &Segment,
        end: Offset,
        visit: &mut dyn FnMut(&BatchHeader, &bytes::Bytes) -> Result<bool, LogError>,
    ) -> Result<(), LogError> {
        let path = log_path(log.dir(), segment.base);
        let unreadable = |source: ReadError| LogError::Read {
            id: log.id(),
            source: Box::new(source),
        };
        let handles = &self.shared.handles;
        let file = handles.file(segment.serial, &path, OpenMode::Existing)?;
        let (mut position, mut next) = (0, segment.base);
        while position < segment.bytes {
            let (range, all) = (position..segment.bytes, Offset(i64::MAX));
            let chunk = read_batches(&*file, &path, range, next, all, READ_BYTES);
            let chunk = chunk.map_err(unreadable)?;
            self.pace.spend(&self.shared, chunk.len() as u64)?;
            let mut rest: &[u8] = &chunk;
            while let Ok((header, batch, behind)) = next_batch(rest) {
                let place = log.check_place(&path, position, &header, next..end);
                place.map_err(unreadable)?;
                next = header.next_offset();
                position += batch.len() as u64;
                if !visit(&header, &chunk.slice_ref(batch))? {
                    return Ok(());
                }
                rest = behind;
            }
        }
        Ok(())
    }
}

/// Notes a batch's keys. Returns the offset of the first record for which there was no room.
fn learn_batch(
    keys: &mut KeyTable,
    header: &BatchHeader,
    batch: &bytes::Bytes,
    from: Offset,
) -> Option<Offset> {
    if header.attributes.is_control() {
        return None;
    }
    // Whoever cannot read its records keeps the batch, and so the older records of its keys.
    let unpacked = UnpackedBatch::open(batch, COMPACTED_UNPACKED_BYTES_MAX).ok()?;
    unpacked.for_each(&mut |_| {}).ok()?;
    let mut full_at = None;
    let walked = unpacked.for_each(&mut |record| {
        if let (None, Some(key)) = (full_at, record.key)
            && record.offset >= from
            && !keys.put(key, record.offset)
        {
            full_at = Some(record.offset);
        }
    });
    debug_assert!(walked.is_ok(), "the batch was walked before");
    full_at
}
