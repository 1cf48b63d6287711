//! Looking at a segment file, for people and their tools. Changes nothing.

use std::path::Path;

use ottla_model::batch::{BatchError, BatchHeader, validate_stored_batch};
use ottla_model::{LeaderEpoch, Offset};

use crate::disk::{Disk, OpenMode};
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
    /// A batch that has no place here does not say where the next one belongs.
    fn take(&mut self, header: &BatchHeader) -> Result<(), BatchFault> {
        let (base, epoch) = (header.base_offset, header.leader_epoch);
        let least = self.least;
        if base < least {
            return Err(BatchFault::Offset { base, least });
        }
        if let Some(last) = self.last_epoch.filter(|last| epoch < *last) {
            return Err(BatchFault::Epoch { epoch, last });
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
    let mut header = [0; ottla_model::batch::HEADER_BYTES];
    loop {
        let position = summary.bytes;
        let read = file.read_at(&mut header, position).or_log("read", path)?;
        let decoded = BatchHeader::decode(&header[..read]).filter(|header| {
            header.magic == 2
                && header.size >= ottla_model::batch::HEADER_BYTES
                && header.size <= BATCH_BYTES_MAX
                && position + header.size as u64 <= size
        });
        let Some(header) = decoded else {
            summary.trailing_bytes = size - position;
            return Ok(summary);
        };
        let mut bytes = vec![0; header.size];
        let read = file.read_at(&mut bytes, position).or_log("read", path)?;
        let content = validate_stored_batch(&bytes[..read]).map_err(BatchFault::from);
        let validity = content.and_then(|_| place.take(&header));
        summary.batches += 1;
        summary.invalid += u64::from(validity.is_err());
        summary.bytes += header.size as u64;
        visit(&DumpedBatch {
            position,
            header,
            validity,
        });
    }
}

/// Whether a path is named like a segment's file.
pub fn is_segment(path: &Path) -> bool {
    base_of(path).is_some()
}
