//! A batch out of a log, opened for whoever delivers its records: one answer for every reader to
//! what is damage and what its producer wrote so.

use std::error::Error as _;

use bytes::Bytes;

use super::header::BatchHeader;
use super::records::{Record, decode_records};
use super::stored::validate_stored_batch;
use super::validate::BatchError;
use crate::compression::Compression;
use crate::offset::Offset;

/// Why none of a batch's records can be delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredBatchError {
    /// The bytes are no valid batch.
    #[error("the batch is damaged: {0}")]
    Damaged(BatchError),
    /// The checksum is right, and the records cannot be read all the same.
    #[error(transparent)]
    Unpackable(UnpackableBatch),
}

/// A batch whose checksum is right and whose records cannot be read all the same: its producer
/// wrote it so, for a broker does not unpack batches.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the batch with offsets {base_offset} to {}, compressed with {compression}, cannot be unpacked: \
     {reason}; its checksum is right, so its producer wrote it so; reading can go on at offset \
     {next_offset}", next_offset.0 - 1
)]
pub struct UnpackableBatch {
    pub base_offset: Offset,
    /// The first offset behind the batch, where reading can go on.
    pub next_offset: Offset,
    /// What the batch says it is compressed with.
    pub compression: Compression,
    pub reason: String,
}

/// The header and the records of exactly one batch out of a log; unpacks at most `limit` bytes.
/// All of its records, or none if one of them cannot be read or lies outside of the batch.
pub fn read_stored_batch(
    batch: &Bytes,
    limit: usize,
) -> Result<(BatchHeader, Vec<Record>), StoredBatchError> {
    let header = validate_stored_batch(batch).map_err(StoredBatchError::Damaged)?;
    match decode_records(batch, limit) {
        Ok(records) => Ok((header, records)),
        Err(error) => {
            let cause = error.source().map(ToString::to_string);
            Err(StoredBatchError::Unpackable(UnpackableBatch {
                base_offset: header.base_offset,
                next_offset: header.next_offset(),
                compression: header.attributes.compression().unwrap_or_default(),
                reason: cause.unwrap_or_else(|| error.to_string()),
            }))
        }
    }
}
