//! The check of a batch that comes out of a log: as where it entered, but compaction may have taken
//! records out of it, even all of them. What is left keeps its offsets.

use bytes::Bytes;

use super::header::{BatchHeader, HEADER_BYTES};
use super::rewrite::UnpackedBatch;
use super::validate::{BatchError, is_whole, validate_batch};
use crate::compression::Compression;
use crate::limits::RECORDS_PER_BATCH_MAX;

/// Checks that `bytes` are exactly one batch that a log may hold. A batch with all its records is
/// checked by [`validate_batch`]; one that was compacted may have fewer records than its offsets
/// span, with offsets that rise within the span.
pub fn validate_stored_batch(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let compacted = BatchHeader::decode(bytes).filter(|header| {
        let count = i64::from(header.record_count);
        count >= 0 && count <= i64::from(header.last_offset_delta)
    });
    let Some(header) = compacted else {
        return validate_batch(bytes);
    };
    is_whole(bytes, &header)?;
    let count = header.record_count;
    if header.last_offset_delta as usize >= RECORDS_PER_BATCH_MAX {
        return Err(BatchError::Count {
            count,
            last_offset_delta: header.last_offset_delta,
        });
    }
    check_records(bytes, &header)?;
    Ok(header)
}

/// Walks the records of a batch that is not compressed.
fn check_records(bytes: &[u8], header: &BatchHeader) -> Result<(), BatchError> {
    if header.attributes.compression() != Some(Compression::None) {
        return Ok(());
    }
    if header.record_count == 0 {
        let trailing = bytes.len() - HEADER_BYTES;
        return match trailing {
            0 => Ok(()),
            bytes => Err(BatchError::TrailingBytes { bytes }),
        };
    }
    let records = Bytes::copy_from_slice(&bytes[HEADER_BYTES..]);
    UnpackedBatch::of(*header, records)
        .for_each(&mut |_| {})
        .map_err(|index| BatchError::Record { index })
}
