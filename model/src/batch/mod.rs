//! The record batch, version 2: the unit that is produced, checked once, stored, replicated and
//! fetched as the same bytes. Byte for byte Kafka's (KIP-98): big endian, a 61-byte header, a
//! CRC-32C over everything behind the checksum field. Base offset, length and leader epoch stand
//! before it, so a leader writes them without touching the checksum.

mod builder;
mod header;
mod records;
mod rewrite;
mod stored;
mod validate;
mod varint;

pub use builder::{BatchBuilder, BuildError, NewRecord};
pub use header::{Attributes, BatchHeader, HEADER_BYTES, LENGTH_PREFIX_BYTES, stamp};
pub use records::{Header, Record, RecordsError, decode_records};
pub use rewrite::{RecordView, UnpackedBatch};
pub use stored::validate_stored_batch;
pub use validate::{BatchError, next_batch, validate_batch};

#[cfg(test)]
mod tests;
