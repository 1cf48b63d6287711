//! Segments: a partition's log on disk, in pieces. A segment is a file of whole batches in Kafka's
//! format, named by the offset of its first batch, with sparse indexes beside it that can always
//! be rebuilt from it.

mod index;
mod scan;

use std::path::{Path, PathBuf};

use ottla_model::batch::{BatchError, BatchHeader, HEADER_BYTES, next_batch};
use ottla_model::{LeaderEpoch, Offset, TimestampMs};

pub(crate) use index::{Floor, SparseIndex, TimeFloor};
pub(crate) use scan::{Scanner, check_batch, read_batches};

/// What the log keeps in mind of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchMeta {
    pub base: Offset,
    pub next: Offset,
    pub size: usize,
    pub epoch: LeaderEpoch,
    pub max_timestamp: TimestampMs,
}

impl BatchMeta {
    pub fn of(header: &BatchHeader) -> BatchMeta {
        BatchMeta {
            base: header.base_offset,
            next: header.next_offset(),
            size: header.size,
            epoch: header.leader_epoch,
            max_timestamp: header.max_timestamp,
        }
    }
}

/// Splits bytes into the batches they consist of, looking at lengths, versions and offsets only.
pub(crate) fn split_batches(mut bytes: &[u8]) -> Result<Vec<BatchMeta>, (Offset, BatchError)> {
    let mut metas = Vec::new();
    while !bytes.is_empty() {
        let at = BatchHeader::decode(bytes).map_or(Offset(-1), |header| header.base_offset);
        let (header, _, rest) = next_batch(bytes).map_err(|error| (at, error))?;
        check_header(&header).map_err(|error| (at, error))?;
        metas.push(BatchMeta::of(&header));
        bytes = rest;
    }
    Ok(metas)
}

/// Refuses a header that cannot be a stored batch's, without a look at what it covers.
pub(crate) fn check_header(header: &BatchHeader) -> Result<(), BatchError> {
    if header.magic != 2 {
        return Err(BatchError::Magic {
            magic: header.magic,
        });
    }
    let counts = header.last_offset_delta >= 0 && header.record_count >= 0;
    let offsets =
        header.base_offset.0 >= 0 && header.base_offset.0 < i64::MAX - i64::from(i32::MAX);
    if !counts || !offsets {
        return Err(BatchError::Count {
            count: header.record_count,
            last_offset_delta: header.last_offset_delta,
        });
    }
    if header.size < HEADER_BYTES {
        return Err(BatchError::Length {
            size: header.size,
            have: HEADER_BYTES,
        });
    }
    Ok(())
}

/// Where a segment's indexes are.
#[derive(Debug, Clone)]
pub(crate) enum SegmentIndex {
    /// In memory, complete: a segment that is written to.
    Memory(SparseIndex),
    /// In files beside the segment: one that is sealed.
    Files,
    /// To be built when somebody asks: a segment that was written to before the last start.
    Unknown,
}

/// One segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// Names this segment's life in this process; another file of the same name has another one.
    pub serial: u64,
    pub base: Offset,
    /// Bytes of whole batches. The file may be longer while it is written to.
    pub bytes: u64,
    /// Where the last batch begins.
    pub last_batch_at: u64,
    /// The largest timestamp of the first batch that has one.
    pub first_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    pub index: SegmentIndex,
    /// Up to where the index files are thought to know the batches. Says only whether it is worth
    /// while to add to them.
    pub indexed_bytes: u64,
}

impl Segment {
    pub fn new(serial: u64, base: Offset) -> Segment {
        Segment {
            serial,
            base,
            bytes: 0,
            last_batch_at: 0,
            first_timestamp: TimestampMs::NONE,
            max_timestamp: TimestampMs::NONE,
            index: SegmentIndex::Memory(SparseIndex::new(base)),
            indexed_bytes: 0,
        }
    }

    /// Notes a batch that was written at the end.
    pub fn push(&mut self, meta: &BatchMeta) {
        if self.first_timestamp == TimestampMs::NONE {
            self.first_timestamp = meta.max_timestamp;
        }
        if let SegmentIndex::Memory(index) = &mut self.index {
            index.push(meta, self.bytes);
        }
        self.max_timestamp = self.max_timestamp.max(meta.max_timestamp);
        self.last_batch_at = self.bytes;
        self.bytes += meta.size as u64;
    }
}

/// The file of the segment that starts at `base`.
pub(crate) fn log_path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

pub(crate) fn index_path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(format!("{base:020}.index"))
}

pub(crate) fn time_index_path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(format!("{base:020}.timeindex"))
}

/// The base offset in the name of a segment's file.
pub(crate) fn base_of(path: &Path) -> Option<Offset> {
    let name = path.file_name()?.to_str()?;
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20)
        .then(|| digits.parse().ok().map(Offset))
        .flatten()
}
