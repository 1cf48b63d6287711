//! The sparse indexes of a segment, in Kafka's format: from offset to place, and from timestamp to
//! offset, an entry about every 4096 bytes. They only save time: whatever they say is checked
//! against the segment, and they are rebuilt when they are missing or wrong.

use std::io::IoSlice;
use std::path::Path;

use ottla_model::{Offset, TimestampMs};

use super::{BatchMeta, Scanner, index_path, log_path, time_index_path};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{IoContext as _, LogError, ReadError};

/// Bytes of batches between two entries.
const INTERVAL_BYTES: u64 = 4096;
const OFFSET_ENTRY: usize = 8;
const TIME_ENTRY: usize = 12;

/// Both indexes of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseIndex {
    base: Offset,
    /// Offset relative to the base, and place of the batch that starts with it.
    offsets: Vec<(u32, u32)>,
    /// Largest timestamp so far, and the relative base offset of the first batch that reached it.
    times: Vec<(i64, u32)>,
    since_entry: u64,
    max_timestamp: TimestampMs,
    max_timestamp_at: u32,
}

impl SparseIndex {
    pub fn new(base: Offset) -> SparseIndex {
        SparseIndex {
            base,
            offsets: Vec::new(),
            times: Vec::new(),
            since_entry: 0,
            max_timestamp: TimestampMs::NONE,
            max_timestamp_at: 0,
        }
    }

    /// Notes the batch that stands at `position`, behind those noted before.
    pub fn push(&mut self, meta: &BatchMeta, position: u64) {
        let relative = (meta.base - self.base) as u32;
        if meta.max_timestamp > self.max_timestamp {
            self.max_timestamp = meta.max_timestamp;
            self.max_timestamp_at = relative;
        }
        if self.since_entry > INTERVAL_BYTES {
            self.offsets.push((relative, position as u32));
            self.push_time();
            self.since_entry = 0;
        }
        self.since_entry += meta.size as u64;
    }

    fn push_time(&mut self) {
        let last = self.times.last().map_or(-1, |(timestamp, _)| *timestamp);
        if self.max_timestamp.0 > last {
            self.times
                .push((self.max_timestamp.0, self.max_timestamp_at));
        }
    }

    /// The place of a batch at or before the one that holds `offset`.
    pub fn floor(&self, offset: Offset) -> u64 {
        let behind = self
            .offsets
            .partition_point(|(relative, _)| self.base + i64::from(*relative) <= offset);
        behind
            .checked_sub(1)
            .map_or(0, |index| u64::from(self.offsets[index].1))
    }

    /// An offset before which no record has a timestamp of `timestamp` or more.
    pub fn time_floor(&self, timestamp: TimestampMs) -> Offset {
        let behind = self
            .times
            .partition_point(|(reached, _)| *reached < timestamp.0);
        let relative = behind.checked_sub(1).map_or(0, |index| self.times[index].1);
        self.base + i64::from(relative)
    }

    /// Forgets everything at and behind `position` and the last entry before it, and returns the
    /// place from which batches must be noted again.
    pub fn rewind(&mut self, position: u64) -> u64 {
        self.offsets.retain(|(_, at)| u64::from(*at) < position);
        let (relative, at) = self.offsets.pop().unwrap_or((0, 0));
        self.times.retain(|(_, offset)| *offset < relative);
        let (timestamp, offset) = self.times.last().copied().unwrap_or((-1, 0));
        self.max_timestamp = TimestampMs(timestamp);
        self.max_timestamp_at = offset;
        // The batch at the forgotten entry becomes one again.
        self.since_entry = if at == 0 { 0 } else { INTERVAL_BYTES + 1 };
        u64::from(at)
    }

    /// Notes the batches between two places of the segment.
    pub fn extend(
        &mut self,
        file: &dyn DiskFile,
        path: &Path,
        from: u64,
        to: u64,
    ) -> Result<(), ReadError> {
        let mut scanner = Scanner::new(file, path, from, to);
        while let Some((at, header)) = scanner.next()? {
            self.push(&BatchMeta::of(&header), at);
        }
        Ok(())
    }

    /// Writes both files. They are not synced: lost, they are rebuilt.
    pub fn save(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let mut complete = self.clone();
        complete.push_time();
        let offsets: Vec<u8> = complete
            .offsets
            .iter()
            .flat_map(|(relative, at)| [relative.to_be_bytes(), at.to_be_bytes()])
            .flatten()
            .collect();
        let mut times = Vec::with_capacity(complete.times.len() * TIME_ENTRY);
        for (timestamp, relative) in &complete.times {
            times.extend(timestamp.to_be_bytes());
            times.extend(relative.to_be_bytes());
        }
        write_file(disk, &index_path(dir, self.base), &offsets)?;
        write_file(disk, &time_index_path(dir, self.base), &times)
    }

    /// The index of the first `bytes` of a segment: from its files as far as they agree with it,
    /// the rest from the segment itself.
    pub fn build(
        disk: &dyn Disk,
        dir: &Path,
        base: Offset,
        file: &dyn DiskFile,
        bytes: u64,
    ) -> Result<SparseIndex, ReadError> {
        let path = log_path(dir, base);
        if let Some(mut index) = SparseIndex::load(disk, dir, base, bytes) {
            let last = index.offsets.last().copied().unwrap_or((0, 0));
            let at = index.rewind(bytes);
            let header = Scanner::new(file, &path, at, bytes).next();
            let agrees = matches!(
                header,
                Ok(Some((_, header))) if header.base_offset == base + i64::from(last.0)
            );
            if agrees && index.extend(file, &path, at, bytes).is_ok() {
                return Ok(index);
            }
        }
        let mut index = SparseIndex::new(base);
        index.extend(file, &path, 0, bytes)?;
        Ok(index)
    }

    /// Bytes the index takes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.offsets.len() * 8 + self.times.len() * 16 + 128
    }

    /// Reads both files, for a segment of `bytes`. Entries that cannot be right end the reading;
    /// `None` if a file is missing.
    fn load(disk: &dyn Disk, dir: &Path, base: Offset, bytes: u64) -> Option<SparseIndex> {
        let offsets = read_file(disk, &index_path(dir, base))?;
        let times = read_file(disk, &time_index_path(dir, base))?;
        let mut index = SparseIndex::new(base);
        for entry in offsets.chunks_exact(OFFSET_ENTRY) {
            let relative = u32::from_be_bytes(*entry.first_chunk()?);
            let at = u32::from_be_bytes(*entry.last_chunk()?);
            let last = index.offsets.last().copied().unwrap_or((0, 0));
            if relative <= last.0 || at <= last.1 || u64::from(at) >= bytes {
                break;
            }
            index.offsets.push((relative, at));
        }
        for entry in times.chunks_exact(TIME_ENTRY) {
            let timestamp = i64::from_be_bytes(*entry.first_chunk()?);
            let relative = u32::from_be_bytes(*entry.last_chunk()?);
            let rises = index
                .times
                .last()
                .is_none_or(|last| timestamp > last.0 && relative > last.1);
            if !rises || timestamp < 0 {
                break;
            }
            index.times.push((timestamp, relative));
        }
        Some(index)
    }

    /// The largest timestamp of the batches noted.
    pub fn max_timestamp(&self) -> TimestampMs {
        self.max_timestamp
    }
}

fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let file = disk
        .open(path, OpenMode::CreateEmpty)
        .or_log("create", path)?;
    file.write_at(&[IoSlice::new(bytes)], 0)
        .or_log("write", path)
}

fn read_file(disk: &dyn Disk, path: &Path) -> Option<Vec<u8>> {
    let file = disk.open(path, OpenMode::Existing).ok()?;
    let mut bytes = vec![0; file.size().ok()? as usize];
    let read = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(read);
    Some(bytes)
}
