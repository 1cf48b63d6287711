//! The record batch, version 2: the unit that is produced, checked once, stored, replicated and
//! fetched as the same bytes. Byte for byte Kafka's (KIP-98): big endian, a 61-byte header, a
//! CRC-32C over everything behind the checksum field. Base offset, length and leader epoch stand
//! before it, so a leader writes them without touching the checksum.

mod builder;
mod header;
mod produced;
mod read;
mod records;
mod rewrite;
mod stored;
mod validate;
mod varint;

pub use builder::{BatchBuilder, BuildError, NewRecord};
pub use header::{Attributes, BatchHeader, HEADER_BYTES, LENGTH_PREFIX_BYTES, stamp};
pub use produced::{ProducedError, TimestampWindow, validate_produced};
pub use read::{StoredBatchError, UnpackableBatch, read_stored_batch};
pub use records::{Header, Record, RecordsError, decode_records};
pub use rewrite::{RecordView, UnpackedBatch, empty_batches};
pub use stored::validate_stored_batch;
pub use validate::{BatchError, TimeSpan, next_batch, validate_batch};

use bytes::{Bytes, BytesMut};

/// Batches behind each other, as they travel together. One alone is not copied.
pub fn joined(batches: Vec<Bytes>) -> Bytes {
    if batches.len() <= 1 {
        return batches.into_iter().next().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(batches.iter().map(Bytes::len).sum());
    batches
        .iter()
        .for_each(|batch| all.extend_from_slice(batch));
    all.freeze()
}

#[cfg(test)]
mod tests;
