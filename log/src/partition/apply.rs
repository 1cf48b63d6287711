//! The lane's side of a log: carrying what the journal has made durable over to the segments. Only
//! one thread does this for a log at a time, so between two locks nothing else changes the
//! physical log.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::Path;

use bytes::Bytes;
use ottla_model::{Offset, TimestampMs};

use super::{PartitionLog, Physical};
use crate::disk::OpenMode;
use crate::error::{IoContext as _, LogError, ReadError};
use crate::segment::{BatchMeta, Floor, Scanner, Segment, SegmentIndex, SparseIndex, log_path};
use crate::wal::WalPosition;

/// Batches that go to one segment with one write.
#[derive(Default)]
struct Run {
    parts: Vec<Bytes>,
    metas: Vec<BatchMeta>,
    bytes: u64,
}

impl PartitionLog {
    /// Writes batches behind the physical end, beginning new segments where the settings say so,
    /// and where one was `begun` before. Returns the offset behind the last batch.
    pub(crate) fn apply_appends(
        &self,
        appends: &[(Bytes, Vec<BatchMeta>)],
        applied: WalPosition,
        begun: &BTreeSet<Offset>,
    ) -> Result<Offset, LogError> {
        self.ensure_dir()?;
        let mut active = self.active();
        let mut run = Run::default();
        for (bytes, metas) in appends {
            let mut from = 0;
            let mut to = 0;
            for meta in metas {
                let roll = match &active {
                    Some(active) => {
                        let was_rolled = active.bytes > 0 && begun.contains(&meta.base);
                        was_rolled || self.must_roll(active, meta)
                    }
                    None => true,
                };
                if roll {
                    run.take_part(bytes, from, to);
                    from = to;
                    self.write_run(&mut run)?;
                    self.roll(meta.base)?;
                    active = self.active();
                }
                to += meta.size;
                run.metas.push(*meta);
                if let Some(active) = &mut active {
                    active.note(meta);
                }
            }
            run.take_part(bytes, from, to);
        }
        self.write_run(&mut run)?;
        let mut state = self.lock();
        state.physical.applied = applied;
        state.segments_followed();
        Ok(state.physical.end)
    }

    fn must_roll(&self, active: &Active, meta: &BatchMeta) -> bool {
        let settings = self.settings();
        let segment_bytes = settings.segment_bytes.min(i32::MAX as u64);
        let age = meta
            .max_timestamp
            .0
            .saturating_sub(active.first_timestamp.0);
        // Only sealed segments are compacted.
        let segment_ms = match settings.compaction {
            Some(compaction) => settings.segment_ms.min(compaction.max_lag_ms),
            None => settings.segment_ms,
        };
        let too_long = active.first_timestamp != TimestampMs::NONE && age > segment_ms;
        active.bytes > 0
            && (active.bytes + meta.size as u64 > segment_bytes
                || too_long
                || meta.next - active.base > i64::from(i32::MAX))
    }

    fn active(&self) -> Option<Active> {
        let state = self.lock();
        state.physical.segments.last().map(|segment| Active {
            base: segment.base,
            bytes: segment.bytes,
            first_timestamp: segment.first_timestamp,
        })
    }

    fn ensure_dir(&self) -> Result<(), LogError> {
        if self.lock().physical.dir_exists {
            return Ok(());
        }
        let created = self.shared.disk.create_dir_all(&self.dir);
        created.or_log("create", &self.dir)?;
        self.shared.mark_dir(&self.shared.dirs.partitions);
        self.lock().physical.dir_exists = true;
        Ok(())
    }

    fn write_run(&self, run: &mut Run) -> Result<(), LogError> {
        if run.metas.is_empty() {
            return Ok(());
        }
        let (serial, base, at) = {
            let state = self.lock();
            let Some(active) = state.physical.segments.last() else {
                unreachable!("a run of batches without a segment");
            };
            (active.serial, active.base, active.bytes)
        };
        let path = log_path(&self.dir, base);
        let handles = &self.shared.handles;
        let file = handles.file(serial, &path, OpenMode::Existing)?;
        let parts: Vec<_> = run.parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_at(&parts, at).or_log("write", &path)?;
        // Marked behind the write, so that a checkpoint that takes the mark syncs these bytes, and
        // before they are published, so that one that vouches for them finds it.
        let written = at..at + run.bytes;
        self.shared.mark_written(serial, &path, &*file, written)?;
        let mut state = self.lock();
        let physical = &mut state.physical;
        if let Some(active) = physical.segments.last_mut() {
            for meta in &run.metas {
                active.push(meta);
                physical.epochs.note(meta.epoch, meta.base);
                physical.end = meta.next;
            }
        }
        state.segments_followed();
        drop(state);
        *run = Run::default();
        Ok(())
    }

    /// Seals the active segment, if there is one, and begins the next.
    fn roll(&self, base: Offset) -> Result<(), LogError> {
        self.seal()?;
        let serial = self.shared.next_number();
        let path = log_path(&self.dir, base);
        let handles = &self.shared.handles;
        handles.file(serial, &path, OpenMode::CreateEmpty)?;
        self.shared.mark_file(serial, &path);
        self.shared.mark_dir(&self.dir);
        self.lock()
            .physical
            .segments
            .push(Segment::new(serial, base));
        Ok(())
    }

    fn seal(&self) -> Result<(), LogError> {
        let Some(segment) = self.lock().physical.segments.last().cloned() else {
            return Ok(());
        };
        self.save_index(&segment)?;
        let mut state = self.lock();
        if let Some(last) = state.physical.segments.last_mut() {
            last.index = SegmentIndex::Files;
        }
        Ok(())
    }

    pub(super) fn unreadable(&self, source: ReadError) -> LogError {
        LogError::Read {
            id: self.id,
            source: Box::new(source),
        }
    }

    /// Cuts the physical log at a batch boundary. Returns the physical end.
    pub(crate) fn apply_truncate(&self, to: Offset, applied: WalPosition) -> Result<(), LogError> {
        self.keep_saved_producers(Offset::ZERO, to)?;
        let mut physical = self.lock().physical.clone();
        if to < physical.end {
            let first_gone = physical.segments.partition_point(|s| s.base < to);
            let gone = physical.segments.split_off(first_gone);
            let mut cut = None;
            if let Some(last) = physical.segments.last_mut() {
                cut = self.cut_segment(last, to)?;
            }
            physical.end = to;
            physical.epochs.cut(to);
            physical.generation += 1;
            physical.cleaned_to = physical.cleaned_to.min(to);
            let active = physical.segments.last().map_or(Offset::ZERO, |s| s.base);
            {
                let mut state = self.lock();
                state.physical = physical;
                // What is written to again is not what the checkpoint saw.
                state.checkpointed = state.checkpointed.min(active);
            }
            if let Some((serial, base, bytes)) = cut {
                self.shorten(serial, base, bytes)?;
            }
            self.discard_segments(&gone)?;
        }
        let mut state = self.lock();
        state.physical.applied = applied;
        state.cut_arrived();
        Ok(())
    }

    /// Makes `segment` end before `to`. Returns its new length if its file is longer now.
    fn cut_segment(
        &self,
        segment: &mut Segment,
        to: Offset,
    ) -> Result<Option<(u64, Offset, u64)>, LogError> {
        let path = log_path(&self.dir, segment.base);
        let handles = &self.shared.handles;
        let file = handles.file(segment.serial, &path, OpenMode::Existing)?;
        let disk = &*self.shared.disk;
        let unreadable = |source| self.unreadable(source);
        let mut index = match &segment.index {
            SegmentIndex::Memory(index) => index.clone(),
            _ => {
                let built =
                    SparseIndex::build(disk, &self.dir, segment.base, &*file, segment.bytes);
                built.map_err(unreadable)?.0
            }
        };
        let mut floor = index.floor(Offset(to.0 - 1));
        let mut scanner = Scanner::new(&*file, &path, floor.at, segment.bytes, floor.base);
        if !floor.holds(&mut scanner).map_err(unreadable)? {
            let built = SparseIndex::of_segment(&path, segment.base, &*file, segment.bytes);
            index = built.map_err(unreadable)?;
            floor = index.floor(Offset(to.0 - 1));
        }
        let (bytes, last_batch_at) = find_cut(&*file, &path, floor, segment.bytes, to)
            .map_err(|source| self.unreadable(source))?;
        // From now on this is another segment: what others keep of the one before must not be
        // taken for it.
        self.shared.handles.forget(segment.serial);
        segment.serial = self.shared.next_number();
        if bytes == segment.bytes {
            segment.index = SegmentIndex::Memory(index);
            return Ok(None);
        }
        let from = index.rewind(bytes);
        index
            .extend(&*file, &path, from, bytes)
            .map_err(|source| self.unreadable(source))?;
        segment.bytes = bytes;
        segment.indexed_bytes = 0;
        segment.last_batch_at = last_batch_at;
        segment.max_timestamp = index.max_timestamp();
        segment.index = SegmentIndex::Memory(index);
        Ok(Some((segment.serial, segment.base, bytes)))
    }

    fn shorten(&self, serial: u64, base: Offset, bytes: u64) -> Result<(), LogError> {
        let path = log_path(&self.dir, base);
        let handles = &self.shared.handles;
        let file = handles.file(serial, &path, OpenMode::Existing)?;
        file.set_len(bytes).or_log("cut", &path)?;
        self.shared.mark_file(serial, &path);
        self.discard_indexes(base)
    }

    fn discard_segments(&self, segments: &[Segment]) -> Result<(), LogError> {
        for segment in segments {
            self.shared.handles.forget(segment.serial);
            self.shared.discard(&log_path(&self.dir, segment.base))?;
            self.discard_indexes(segment.base)?;
        }
        Ok(())
    }

    /// Empties the physical log; it continues at `at`.
    pub(crate) fn apply_restart(&self, at: Offset, applied: WalPosition) -> Result<(), LogError> {
        self.keep_saved_producers(Offset(i64::MAX), Offset::ZERO)?;
        let gone = {
            let mut state = self.lock();
            let gone = std::mem::take(&mut state.physical.segments);
            state.checkpointed = Offset::ZERO;
            state.physical = Physical {
                applied: state.physical.applied,
                generation: state.physical.generation + 1,
                dir_exists: state.physical.dir_exists,
                ..Physical::empty(at)
            };
            gone
        };
        self.discard_segments(&gone)?;
        let mut state = self.lock();
        state.physical.applied = applied;
        state.cut_arrived();
        Ok(())
    }

    /// Moves the physical log's start; segments wholly below it go.
    pub(crate) fn apply_log_start(&self, to: Offset, applied: WalPosition) -> Result<(), LogError> {
        self.keep_saved_producers(to, Offset(i64::MAX))?;
        let gone = {
            let mut state = self.lock();
            let physical = &mut state.physical;
            physical.log_start = physical.log_start.max(to);
            let start = physical.log_start;
            physical.epochs.trim(start);
            let count = (0..physical.segments.len())
                .take_while(|index| physical.end_of(*index) <= start)
                .count();
            let gone: Vec<Segment> = physical.segments.drain(..count).collect();
            physical.generation += u64::from(!gone.is_empty());
            gone
        };
        self.discard_segments(&gone)?;
        self.lock().physical.applied = applied;
        Ok(())
    }

    /// The physical log goes on at `to`.
    pub(crate) fn apply_skip(&self, to: Offset, applied: WalPosition) {
        let mut state = self.lock();
        state.physical.end = state.physical.end.max(to);
        state.physical.applied = applied;
        state.segments_followed();
    }

    /// The physical log begins: empty, and contained in the next checkpoint.
    pub(crate) fn apply_create(&self, applied: WalPosition) {
        self.lock().physical.applied = applied;
    }

    /// Gives up the directory of a log that was deleted.
    pub(crate) fn apply_delete(&self) -> Result<(), LogError> {
        self.forget_segments();
        // A log of the same name that follows is to find no file of this one's.
        let _files = self.index_files.lock();
        self.shared.discard(&self.dir)
    }

    /// Moves the directory of a log that leaves the store but is kept, with everything in it
    /// durable, as far as it is there: the log may be kept because a file of it is not.
    pub(crate) fn apply_set_aside(&self, target: &Path) -> Result<(), LogError> {
        self.ensure_dir()?;
        let segments = self.lock().physical.segments.clone();
        for segment in &segments {
            let path = log_path(&self.dir, segment.base);
            let handles = &self.shared.handles;
            match handles.file(segment.serial, &path, OpenMode::Existing) {
                Ok(file) => file.sync_data().or_log("sync", &path)?,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        self.forget_segments();
        let _files = self.index_files.lock();
        let disk = &self.shared.disk;
        disk.sync_dir(&self.dir).or_log("sync", &self.dir)?;
        self.shared.move_away(&self.dir, target)?;
        for dir in [self.dir.parent(), target.parent()].into_iter().flatten() {
            disk.sync_dir(dir).or_log("sync", dir)?;
        }
        Ok(())
    }

    fn forget_segments(&self) {
        let serials: Vec<u64> = {
            let state = self.lock();
            state.physical.segments.iter().map(|s| s.serial).collect()
        };
        for serial in serials {
            self.shared.handles.forget(serial);
            self.shared.dirty.lock().files.remove(&serial);
        }
    }
}

/// What decides whether a batch still fits in the segment that is written to.
struct Active {
    base: Offset,
    bytes: u64,
    first_timestamp: TimestampMs,
}

impl Active {
    fn note(&mut self, meta: &BatchMeta) {
        if self.bytes == 0 {
            self.first_timestamp = meta.max_timestamp;
        }
        self.bytes += meta.size as u64;
    }
}

impl Run {
    fn take_part(&mut self, bytes: &Bytes, from: usize, to: usize) {
        if from < to {
            self.bytes += (to - from) as u64;
            self.parts.push(bytes.slice(from..to));
        }
    }
}

/// How long a segment is without the batches at and above `to`, and where its last batch then
/// begins.
fn find_cut(
    file: &dyn crate::disk::DiskFile,
    path: &Path,
    from: Floor,
    bytes: u64,
    to: Offset,
) -> Result<(u64, u64), ReadError> {
    let mut scanner = Scanner::new(file, path, from.at, bytes, from.base);
    let (mut end, mut last) = (from.at, from.at);
    while let Some((at, header)) = scanner.next()? {
        if header.base_offset >= to {
            break;
        }
        last = at;
        end = scanner.position();
    }
    Ok((end, last))
}
