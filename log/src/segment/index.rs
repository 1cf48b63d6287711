//! The sparse indexes of a segment, in Kafka's format: from offset to place, and from timestamp to
//! offset, an entry about every 4096 bytes. They only save time: an entry is checked against the
//! segment when it is used, and they are rebuilt when they are missing or wrong.

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
    saved: SavedEntries,
}

/// How many entries of each index its file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SavedEntries {
    offsets: usize,
    times: usize,
}

/// A place to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Floor {
    pub at: u64,
    /// The offset that the batch there starts with, if the index is right. The segment's own where
    /// it begins: the first batch may begin above it.
    pub base: Offset,
}

impl Floor {
    /// Whether the batch that `scanner`, which begins at the floor, comes upon is the right one.
    pub fn holds(&self, scanner: &mut Scanner<'_>) -> Result<bool, ReadError> {
        Ok(self.at == 0 || scanner.is_at(self.base)?)
    }
}

/// An offset to begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeFloor {
    pub offset: Offset,
    /// The largest timestamp of the batch that starts there, if the index is right; `None` at the
    /// segment's beginning.
    pub reached: Option<TimestampMs>,
}

/// Entries that the files lack.
#[derive(Debug)]
pub(crate) struct Unsaved {
    behind: SavedEntries,
    offsets: Vec<(u32, u32)>,
    times: Vec<(i64, u32)>,
}

impl Unsaved {
    /// Adds them to the files, which are made if they are to have nothing yet. They are not synced:
    /// lost, they are rebuilt.
    pub fn write(&self, disk: &dyn Disk, dir: &Path, base: Offset) -> Result<(), LogError> {
        let SavedEntries { offsets, times } = self.behind;
        let at = offsets * OFFSET_ENTRY;
        write_file(
            disk,
            &index_path(dir, base),
            &encode_offsets(&self.offsets),
            at,
        )?;
        let at = times * TIME_ENTRY;
        write_file(
            disk,
            &time_index_path(dir, base),
            &encode_times(&self.times),
            at,
        )
    }

    /// What the files have now; nothing that counts if they could not be written.
    pub fn saved(&self, is_written: bool) -> SavedEntries {
        if !is_written {
            return SavedEntries::default();
        }
        SavedEntries {
            offsets: self.behind.offsets + self.offsets.len(),
            times: self.behind.times + self.times.len(),
        }
    }
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
            saved: SavedEntries::default(),
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
    pub fn floor(&self, offset: Offset) -> Floor {
        let behind = self
            .offsets
            .partition_point(|(relative, _)| self.base + i64::from(*relative) <= offset);
        match behind.checked_sub(1) {
            None => Floor {
                at: 0,
                base: self.base,
            },
            Some(index) => {
                let (relative, at) = self.offsets[index];
                Floor {
                    at: u64::from(at),
                    base: self.base + i64::from(relative),
                }
            }
        }
    }

    /// An offset before which no record has a timestamp of `timestamp` or more.
    pub fn time_floor(&self, timestamp: TimestampMs) -> TimeFloor {
        let behind = self
            .times
            .partition_point(|(reached, _)| *reached < timestamp.0);
        match behind.checked_sub(1) {
            None => TimeFloor {
                offset: self.base,
                reached: None,
            },
            Some(index) => {
                let (reached, relative) = self.times[index];
                TimeFloor {
                    offset: self.base + i64::from(relative),
                    reached: Some(TimestampMs(reached)),
                }
            }
        }
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
        self.saved = SavedEntries::default();
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
        let mut scanner = Scanner::new(file, path, from, to, self.base);
        while let Some((at, header)) = scanner.next()? {
            self.push(&BatchMeta::of(&header), at);
        }
        Ok(())
    }

    /// Writes both files. They are not synced: lost, they are rebuilt.
    pub fn save(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let mut complete = self.clone();
        complete.push_time();
        complete.saved = SavedEntries::default();
        complete.unsaved().write(disk, dir, self.base)
    }

    /// What the files lack.
    pub fn unsaved(&self) -> Unsaved {
        Unsaved {
            behind: self.saved,
            offsets: self.offsets[self.saved.offsets..].to_vec(),
            times: self.times[self.saved.times..].to_vec(),
        }
    }

    /// Notes what the files have.
    pub fn note_saved(&mut self, saved: SavedEntries) {
        self.saved = saved;
    }

    /// The index of the first `bytes` of a segment: from its files as far as they agree with it,
    /// the rest from the segment itself. Also whether the files were of use.
    pub fn build(
        disk: &dyn Disk,
        dir: &Path,
        base: Offset,
        file: &dyn DiskFile,
        bytes: u64,
    ) -> Result<(SparseIndex, bool), ReadError> {
        let path = log_path(dir, base);
        if let Some(mut index) = SparseIndex::load(disk, dir, base, bytes) {
            let last = index.offsets.last().copied().unwrap_or((0, 0));
            let at = index.rewind(bytes);
            let header = Scanner::new(file, &path, at, bytes, base).next();
            let agrees = matches!(
                header,
                Ok(Some((_, header))) if header.base_offset == base + i64::from(last.0)
            );
            if agrees && index.extend(file, &path, at, bytes).is_ok() {
                return Ok((index, true));
            }
        }
        let index = SparseIndex::of_segment(&path, base, file, bytes)?;
        Ok((index, false))
    }

    /// The index of the first `bytes` of a segment, from nothing but the segment.
    pub fn of_segment(
        path: &Path,
        base: Offset,
        file: &dyn DiskFile,
        bytes: u64,
    ) -> Result<SparseIndex, ReadError> {
        let mut index = SparseIndex::new(base);
        index.extend(file, path, 0, bytes)?;
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

fn encode_offsets(entries: &[(u32, u32)]) -> Vec<u8> {
    let fields = entries.iter().flat_map(|(relative, at)| [relative, at]);
    fields.flat_map(|field| field.to_be_bytes()).collect()
}

fn encode_times(entries: &[(i64, u32)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * TIME_ENTRY);
    for (timestamp, relative) in entries {
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend(relative.to_be_bytes());
    }
    bytes
}

/// Writes into a file at `at`; at its beginning into an empty one, made for it.
fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8], at: usize) -> Result<(), LogError> {
    let mode = if at == 0 {
        OpenMode::CreateEmpty
    } else {
        OpenMode::Existing
    };
    let file = disk.open(path, mode).or_log("open", path)?;
    file.write_at(&[IoSlice::new(bytes)], at as u64)
        .or_log("write", path)
}

fn read_file(disk: &dyn Disk, path: &Path) -> Option<Vec<u8>> {
    let file = disk.open(path, OpenMode::Existing).ok()?;
    let mut bytes = vec![0; file.size().ok()? as usize];
    let read = file.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(read);
    Some(bytes)
}
