//! Reading batches: from the tail cache at once, from segments on a thread that may block.
//!
//! A reader of a segment is told its place under the log's lock and reads without it. If the log
//! is cut meanwhile, the generation has changed and the reader begins again, so that bytes which
//! were cut, or half written over, are never returned.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_model::Offset;
use ottla_model::batch::{BatchHeader, next_batch};

use super::PartitionLog;
use super::state::State;
use crate::disk::{DiskFile, OpenMode};
use crate::error::{LogError, ReadError};
use crate::segment::{Floor, Scanner, SegmentIndex, SparseIndex, log_path, read_batches};

/// Headers that are visited between two looks at the generation.
const HEADERS_AT_A_TIME: usize = 1024;

/// What a read that must not block found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Whole batches, each piece one or more of them. Empty if nothing is there below the limit.
    Cached(Vec<Bytes>),
    /// The batches are on disk: use [`PartitionLog::read_blocking`] on a thread that may block.
    OnDisk,
}

/// Where in which segment a reader finds what it looks for.
#[derive(Debug)]
pub(super) struct Place {
    pub serial: u64,
    pub base: Offset,
    pub bytes: u64,
    /// Where to begin, if the index in memory knows.
    pub floor: Option<Floor>,
    pub sealed: bool,
    /// Batches at and above it are not to be read here.
    pub limit: Offset,
    /// What is not here below it is nowhere.
    pub end: Offset,
    pub generation: u64,
}

/// What a reader is pointed to.
enum Plan {
    Memory(Vec<Bytes>),
    Disk(Place),
}

impl PartitionLog {
    /// Whole batches from the one that holds `from` (so the first may begin below it), as long as
    /// they start below `limit`, up to `max_bytes` but at least one. Never blocks.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`] if `from` is below the log's start or above its end.
    pub fn read(
        &self,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
    ) -> Result<ReadOutcome, ReadError> {
        let state = self.state.lock();
        check_range(&state, from)?;
        if from >= limit.min(state.log_end) {
            return Ok(ReadOutcome::Cached(Vec::new()));
        }
        if from < state.tail_start() {
            return Ok(ReadOutcome::OnDisk);
        }
        Ok(ReadOutcome::Cached(state.tail.read(from, limit, max_bytes)))
    }

    /// Like [`PartitionLog::read`], but reads from disk what is not in memory. Every checksum of
    /// bytes from disk is verified. May end before the limits at the end of a segment.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if the bytes on disk are not those that were written.
    pub fn read_blocking(
        &self,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        // Compaction may have removed what was at `from`, up to the end of a segment and beyond.
        let mut at = from;
        loop {
            let plan = {
                let state = self.state.lock();
                check_range(&state, from)?;
                if at >= limit.min(state.log_end) {
                    return Ok(Vec::new());
                }
                plan(&state, at, limit, max_bytes)
            };
            let place = match plan {
                Plan::Memory(batches) => return Ok(batches),
                Plan::Disk(place) => place,
            };
            let reads = &self.shared.disk_reads;
            reads.begun.fetch_add(1, Ordering::AcqRel);
            let read = self.read_at_place(&place, at, max_bytes);
            reads.ended.fetch_add(1, Ordering::AcqRel);
            if !self.is_current(&place)? {
                at = from;
                continue;
            }
            match read? {
                Some(bytes) => return Ok(vec![bytes]),
                None => at = place.end,
            }
        }
    }

    /// How long readers should leave the disk to the journal after a read from the disk that took
    /// so long, because producers wait longer for it than they usually do.
    pub fn pause_after_read(&self, took: Duration) -> Duration {
        let times = self.shared.commit_times.lock();
        times.pause_after_read(took, Instant::now())
    }

    fn read_at_place(
        &self,
        place: &Place,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Option<Bytes>, ReadError> {
        let (file, path) = self.open_place(place)?;
        let mut scanner = self.scan_from(&*file, &path, place, from)?;
        let mut before = None;
        let mut found = None;
        while let Some((at, header)) = scanner.next()? {
            if header.base_offset >= place.limit {
                self.check_header(place, &path, at, &header)?;
                break;
            }
            if header.next_offset() > from {
                found = Some((at, header.base_offset));
                break;
            }
            before = Some((at, header));
        }
        // Compaction may have left nothing at `from`, or the batch before it is damaged and says
        // that it ends earlier than it does.
        if found.is_none_or(|(_, base)| base > from)
            && let Some((at, header)) = before
        {
            let end = at + header.size as u64;
            let limit = Offset(i64::MAX);
            let batch = read_batches(&*file, &path, at..end, header.base_offset, limit, 0)?;
            self.check_headers(place, &path, at, &batch)?;
        }
        let Some((at, base)) = found else {
            return Ok(None);
        };
        let range = at..place.bytes;
        let bytes = read_batches(&*file, &path, range, base, place.limit, max_bytes)?;
        self.check_headers(place, &path, at, &bytes)?;
        Ok(Some(bytes))
    }

    /// Checks the headers of the batches that stand at `at`.
    fn check_headers(
        &self,
        place: &Place,
        path: &std::path::Path,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), ReadError> {
        let mut rest = bytes;
        while let Ok((header, _, behind)) = next_batch(rest) {
            let at = at + (bytes.len() - rest.len()) as u64;
            self.check_header(place, path, at, &header)?;
            rest = behind;
        }
        Ok(())
    }

    /// Compares what no checksum covers, epoch and offset, with what the log knows of them. If the
    /// place is not current any more, what is found does not count.
    fn check_header(
        &self,
        place: &Place,
        path: &std::path::Path,
        at: u64,
        header: &BatchHeader,
    ) -> Result<(), ReadError> {
        let state = self.state.lock();
        let physical = &state.physical;
        let index = physical
            .segments
            .iter()
            .position(|segment| segment.serial == place.serial);
        let Some(index) = index else {
            return Ok(());
        };
        let within = place.base..physical.end_of(index);
        match physical.misplacement(header, within) {
            Some(what) => Err(ReadError::damaged(path, at, what)),
            None => Ok(()),
        }
    }

    /// Hands the headers of all batches, from the one that holds `from` to the log's end, to
    /// `visit`. Blocks.
    pub fn for_each_header(
        &self,
        from: Offset,
        visit: &mut dyn FnMut(&BatchHeader),
    ) -> Result<(), ReadError> {
        self.visit_headers(from, &mut |header| {
            visit(header);
            ControlFlow::Continue(())
        })
    }

    pub(super) fn visit_headers(
        &self,
        from: Offset,
        visit: &mut dyn FnMut(&BatchHeader) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut next = from;
        loop {
            let plan = {
                let state = self.state.lock();
                check_range(&state, next)?;
                if next >= state.log_end {
                    return Ok(());
                }
                plan(&state, next, Offset(i64::MAX), usize::MAX)
            };
            let headers = match plan {
                Plan::Memory(batches) if batches.is_empty() => return Ok(()),
                Plan::Memory(batches) => batches
                    .iter()
                    .filter_map(|batch| BatchHeader::decode(batch))
                    .collect(),
                Plan::Disk(place) => {
                    let headers = self.headers_at_place(&place, next);
                    if !self.is_current(&place)? {
                        continue;
                    }
                    let headers = headers?;
                    if headers.is_empty() {
                        next = place.end;
                    }
                    headers
                }
            };
            for header in &headers {
                next = header.next_offset();
                if visit(header).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn headers_at_place(&self, place: &Place, from: Offset) -> Result<Vec<BatchHeader>, ReadError> {
        let (file, path) = self.open_place(place)?;
        let mut scanner = self.scan_from(&*file, &path, place, from)?;
        let mut headers = Vec::new();
        while headers.len() < HEADERS_AT_A_TIME {
            match scanner.next()? {
                Some((_, header)) if header.base_offset >= place.limit => break,
                Some((_, header)) if header.next_offset() > from => headers.push(header),
                Some(_) => {}
                None => break,
            }
        }
        Ok(headers)
    }

    pub(super) fn open_place(
        &self,
        place: &Place,
    ) -> Result<(Arc<dyn DiskFile>, PathBuf), ReadError> {
        let path = log_path(&self.dir, place.base);
        let opened = self
            .shared
            .handles
            .file(place.serial, &path, OpenMode::Existing);
        match opened {
            Ok(file) => Ok((file, path)),
            Err(LogError::Io {
                action,
                path,
                source,
            }) if source.kind() != std::io::ErrorKind::NotFound => Err(ReadError::Io {
                action,
                path,
                source,
            }),
            Err(_) => Err(ReadError::damaged(&path, 0, "the file is missing")),
        }
    }

    /// A scanner that begins at or before the batch that holds `offset`.
    pub(super) fn scan_from<'a>(
        &self,
        file: &'a dyn DiskFile,
        path: &'a std::path::Path,
        place: &Place,
        offset: Offset,
    ) -> Result<Scanner<'a>, ReadError> {
        let floor = match place.floor {
            Some(floor) => floor,
            None => self.index(file, place)?.floor(offset),
        };
        let mut scanner = Scanner::new(file, path, floor.at, place.bytes, floor.base);
        if floor.holds(&mut scanner)? {
            return Ok(scanner);
        }
        let floor = self.index_anew(file, place)?.floor(offset);
        let (at, base) = (floor.at, floor.base);
        Ok(Scanner::new(file, path, at, place.bytes, base))
    }

    /// The whole index of a segment: kept, read from its files, or built.
    pub(super) fn index(
        &self,
        file: &dyn DiskFile,
        place: &Place,
    ) -> Result<Arc<SparseIndex>, ReadError> {
        if place.sealed {
            if let Some(index) = self.shared.handles.index(place.serial) {
                return Ok(index);
            }
        } else if let Some(index) = self.active_index(place) {
            return Ok(index);
        }
        let disk = &*self.shared.disk;
        let (index, from_files) =
            SparseIndex::build(disk, &self.dir, place.base, file, place.bytes)?;
        if place.sealed && !from_files {
            self.replace_index_files(place, &index);
        }
        self.keep_index(file, place, index, false)
    }

    /// The index that grows with a segment that is written to, if there is one, as far as the
    /// place goes.
    fn active_index(&self, place: &Place) -> Option<Arc<SparseIndex>> {
        let state = self.state.lock();
        let active = state.physical.segments.last()?;
        match &active.index {
            SegmentIndex::Memory(index) if active.serial == place.serial => {
                let mut index = index.clone();
                index.rewind(place.bytes);
                Some(Arc::new(index))
            }
            _ => None,
        }
    }

    /// The index of a segment from nothing but the segment, where what was known was wrong.
    pub(super) fn index_anew(
        &self,
        file: &dyn DiskFile,
        place: &Place,
    ) -> Result<Arc<SparseIndex>, ReadError> {
        let path = log_path(&self.dir, place.base);
        let index = SparseIndex::of_segment(&path, place.base, file, place.bytes)?;
        if self.is_current(place)? {
            tracing::warn!(path = %path.display(), "the index of a segment was wrong; it was built anew");
            self.replace_index_files(place, &index);
        }
        self.keep_index(file, place, index, true)
    }

    /// Keeps an index for those who come later: over one that is kept already, if `anew`.
    fn keep_index(
        &self,
        file: &dyn DiskFile,
        place: &Place,
        mut index: SparseIndex,
        anew: bool,
    ) -> Result<Arc<SparseIndex>, ReadError> {
        let kept = Arc::new(index.clone());
        if place.sealed {
            self.shared.handles.keep_index(place.serial, kept.clone());
            return Ok(kept);
        }
        // What was appended since the place was looked up is few; it is added under the lock, so
        // that from now on the index grows with the segment.
        let mut state = self.state.lock();
        let current = state.physical.generation == place.generation;
        let segment = state.physical.segments.last_mut();
        if current
            && let Some(segment) = segment.filter(|segment| segment.serial == place.serial)
            && (anew || matches!(segment.index, SegmentIndex::Unknown))
        {
            let path = log_path(&self.dir, place.base);
            index.extend(file, &path, place.bytes, segment.bytes)?;
            segment.index = SegmentIndex::Memory(index);
        }
        Ok(kept)
    }

    /// Whether a place still is what it was when it was looked up.
    pub(super) fn is_current(&self, place: &Place) -> Result<bool, ReadError> {
        let state = self.state.lock();
        if state.gone {
            return Err(ReadError::Gone);
        }
        Ok(state.physical.generation == place.generation)
    }
}

pub(super) fn check_range(state: &State, from: Offset) -> Result<(), ReadError> {
    if state.gone {
        return Err(ReadError::Gone);
    }
    if from < state.log_start || from > state.log_end {
        return Err(ReadError::OutOfRange {
            log_start: state.log_start,
            log_end: state.log_end,
        });
    }
    Ok(())
}

/// Where to find the batch that holds `from`, which lies within the log.
fn plan(state: &State, from: Offset, limit: Offset, max_bytes: usize) -> Plan {
    if from >= state.tail_start() {
        return Plan::Memory(state.tail.read(from, limit, max_bytes));
    }
    if state.physical.segments.is_empty() {
        // All there is is in memory; it may begin behind the log's start.
        return Plan::Memory(state.tail.read(from, limit, max_bytes));
    }
    // The first segment may begin behind the log's start, where nothing was between.
    let index = state.physical.segment_of(from).unwrap_or(0);
    Plan::Disk(place(state, index, from, limit))
}

/// The place of `from` in the segment at `index`.
pub(super) fn place(state: &State, index: usize, from: Offset, limit: Offset) -> Place {
    let segment = &state.physical.segments[index];
    let floor = match &segment.index {
        SegmentIndex::Memory(index) => Some(index.floor(from)),
        SegmentIndex::Files | SegmentIndex::Unknown => None,
    };
    Place {
        serial: segment.serial,
        base: segment.base,
        bytes: segment.bytes,
        floor,
        sealed: matches!(segment.index, SegmentIndex::Files),
        limit: limit.min(state.disk_end),
        end: match state.physical.segments.get(index + 1) {
            Some(behind) => behind.base.min(state.disk_end),
            None => state.disk_end,
        },
        generation: state.physical.generation,
    }
}
