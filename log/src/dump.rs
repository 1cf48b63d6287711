//! Looking at a segment file, for people and their tools. Changes nothing.

use std::path::Path;

use ottla_model::batch::{BatchError, BatchHeader, HEADER_BYTES, validate_stored_batch};
use ottla_model::{LeaderEpoch, Offset};

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{IoContext as _, LogError};
use crate::segment::base_of;

/// The largest batch that is looked at; a longer one is taken for damage.
const BATCH_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A batch in a segment file.
#[derive(Debug)]
pub struct DumpedBatch {
    /// Where it begins in the file.
    pub position: u64,
    pub header: BatchHeader,
    /// Whether its checksum, its structure and its place are right.
    pub validity: Result<(), BatchFault>,
}

/// What is wrong with a batch in a segment file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchFault {
    #[error(transparent)]
    Content(#[from] BatchError),
    // Offsets and leader epochs stand outside of the checksum.
    #[error("its offset {base} lies before offset {least}, which is next")]
    Offset { base: Offset, least: Offset },
    #[error("its offset {base} lies above offset {next}, the one behind it")]
    TooHigh { base: Offset, next: Offset },
    #[error("its leader epoch {epoch} is higher than {next}, the one behind it")]
    EpochTooHigh {
        epoch: LeaderEpoch,
        next: LeaderEpoch,
    },
    #[error("its leader epoch {epoch} is lower than {last}, the one before it")]
    Epoch {
        epoch: LeaderEpoch,
        last: LeaderEpoch,
    },
}

/// What the batches so far say of the next one in a file.
struct Place {
    least: Offset,
    last_epoch: Option<LeaderEpoch>,
}

impl Place {
    /// A batch that has no place here does not say where the next one belongs. One that does not
    /// follow from those before it must fit to the next one, or it had all behind it taken for
    /// damaged.
    fn take(&mut self, header: &BatchHeader, next: Option<&BatchHeader>) -> Result<(), BatchFault> {
        let (base, epoch) = (header.base_offset, header.leader_epoch);
        let least = self.least;
        if base < least {
            return Err(BatchFault::Offset { base, least });
        }
        if let Some(last) = self.last_epoch.filter(|last| epoch < *last) {
            return Err(BatchFault::Epoch { epoch, last });
        }
        if let Some(next) = next {
            let is_between = (least..header.next_offset()).contains(&next.base_offset);
            if base > least && is_between {
                let next = next.base_offset;
                return Err(BatchFault::TooHigh { base, next });
            }
            let next = next.leader_epoch;
            if epoch > next && self.last_epoch.is_none_or(|last| last == next) {
                return Err(BatchFault::EpochTooHigh { epoch, next });
            }
        }
        self.least = header.next_offset();
        self.last_epoch = Some(epoch);
        Ok(())
    }
}

/// What stood in a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentSummary {
    pub batches: u64,
    pub invalid: u64,
    /// Bytes of whole batches, from the file's start.
    pub bytes: u64,
    /// Bytes behind them, which are no batch.
    pub trailing_bytes: u64,
}

/// Hands each batch of a segment file to `visit`, up to the first bytes that cannot be one.
pub fn dump_segment(
    disk: &dyn Disk,
    path: &Path,
    visit: &mut dyn FnMut(&DumpedBatch),
) -> Result<SegmentSummary, LogError> {
    let file = disk.open(path, OpenMode::Existing).or_log("open", path)?;
    let size = file.size().or_log("measure", path)?;
    let mut summary = SegmentSummary::default();
    let mut place = Place {
        least: base_of(path).unwrap_or(Offset::ZERO),
        last_epoch: None,
    };
    let mut waiting: Option<Read> = None;
    loop {
        let next = read_batch(&*file, path, size, summary.bytes)?;
        if let Some(read) = waiting.take() {
            let behind = next.as_ref().filter(|next| next.content.is_ok());
            let behind = behind.map(|next| &next.header);
            let content = read.content;
            let validity = content.and_then(|()| place.take(&read.header, behind));
            summary.batches += 1;
            summary.invalid += u64::from(validity.is_err());
            visit(&DumpedBatch {
                position: read.position,
                header: read.header,
                validity,
            });
        }
        let Some(next) = next else {
            summary.trailing_bytes = size - summary.bytes;
            return Ok(summary);
        };
        summary.bytes += next.header.size as u64;
        waiting = Some(next);
    }
}

/// A batch that is not yet judged by its place.
struct Read {
    position: u64,
    header: BatchHeader,
    content: Result<(), BatchFault>,
}

/// What stands at a position; `None` if that cannot be a batch.
fn read_batch(
    file: &dyn DiskFile,
    path: &Path,
    file_bytes: u64,
    position: u64,
) -> Result<Option<Read>, LogError> {
    let mut header = [0; HEADER_BYTES];
    let read = file.read_at(&mut header, position).or_log("read", path)?;
    let header = BatchHeader::decode(&header[..read]).filter(|header| {
        header.magic == 2
            && (HEADER_BYTES..=BATCH_BYTES_MAX).contains(&header.size)
            && position + header.size as u64 <= file_bytes
    });
    let Some(header) = header else {
        return Ok(None);
    };
    let mut bytes = vec![0; header.size];
    let read = file.read_at(&mut bytes, position).or_log("read", path)?;
    let content = validate_stored_batch(&bytes[..read]).map(drop);
    Ok(Some(Read {
        position,
        header,
        content: content.map_err(BatchFault::from),
    }))
}

/// Whether a path is named like a segment's file.
pub fn is_segment(path: &Path) -> bool {
    base_of(path).is_some()
}
