//! Building a batch from records, for producers and for `Publish`.

use bytes::{BufMut, Bytes};

use super::header::{Attributes, BatchHeader, CRC_START, HEADER_BYTES};
use super::varint::{put_varlong, varlong_bytes};
use crate::checksum::crc32c;
use crate::compression::Compression;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use crate::limits::RECORDS_PER_BATCH_MAX;
use crate::offset::Offset;
use crate::time::TimestampMs;

/// A record to be added to a batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    pub timestamp: TimestampMs,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Why a batch could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("a batch needs at least one record")]
    Empty,
    #[error("a batch holds at most {RECORDS_PER_BATCH_MAX} records")]
    TooManyRecords,
    #[error("the batch is larger than 2 GiB")]
    TooLarge,
    #[error("the records could not be compressed")]
    Compress(#[from] std::io::Error),
}

/// Collects records and turns them into a batch.
#[derive(Debug)]
pub struct BatchBuilder {
    compression: Compression,
    /// Room for the header, then the records, uncompressed.
    bytes: Vec<u8>,
    count: i32,
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
}

impl BatchBuilder {
    pub fn new(compression: Compression) -> BatchBuilder {
        BatchBuilder::with_room(compression, HEADER_BYTES)
    }

    /// With memory for a batch of so many bytes, uncompressed, so that it need not grow.
    pub fn with_room(compression: Compression, bytes: usize) -> BatchBuilder {
        let mut room = Vec::with_capacity(bytes.max(HEADER_BYTES));
        room.resize(HEADER_BYTES, 0);
        BatchBuilder {
            compression,
            bytes: room,
            count: 0,
            base_timestamp: TimestampMs::NONE,
            max_timestamp: TimestampMs::NONE,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
        }
    }

    /// Makes the batch idempotent (KIP-98).
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
    }

    pub fn record_count(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The size the batch would have without compression, in bytes.
    pub fn uncompressed_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a record behind those that are there.
    pub fn push(&mut self, record: &NewRecord<'_>) -> Result<(), BuildError> {
        if self.count as usize >= RECORDS_PER_BATCH_MAX {
            return Err(BuildError::TooManyRecords);
        }
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
        }
        let timestamp_delta = record.timestamp.0 - self.base_timestamp.0;
        let offset_delta = i64::from(self.count);
        let length = record_bytes(timestamp_delta, offset_delta, record);
        if self.bytes.len() + length + 10 > i32::MAX as usize {
            return Err(BuildError::TooLarge);
        }
        put_varlong(&mut self.bytes, length as i64);
        self.bytes.put_i8(0);
        put_varlong(&mut self.bytes, timestamp_delta);
        put_varlong(&mut self.bytes, offset_delta);
        put_nullable(&mut self.bytes, record.key);
        put_nullable(&mut self.bytes, record.value);
        put_varlong(&mut self.bytes, record.headers.len() as i64);
        for (key, value) in record.headers {
            put_nullable(&mut self.bytes, Some(key.as_bytes()));
            put_nullable(&mut self.bytes, *value);
        }
        self.count += 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        Ok(())
    }

    /// The finished batch, at base offset 0 and without a leader epoch.
    pub fn build(self) -> Result<Bytes, BuildError> {
        if self.count == 0 {
            return Err(BuildError::Empty);
        }
        let mut bytes = match self.compression {
            Compression::None => self.bytes,
            other => {
                let mut packed = vec![0; HEADER_BYTES];
                other.compress(&self.bytes[HEADER_BYTES..], &mut packed)?;
                packed
            }
        };
        let mut header = BatchHeader {
            base_offset: Offset::ZERO,
            size: bytes.len(),
            leader_epoch: LeaderEpoch::NONE,
            magic: 2,
            crc: 0,
            attributes: Attributes(i16::from(self.compression.id())),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.count,
        };
        header.encode(&mut bytes);
        header.crc = crc32c(&bytes[CRC_START..]);
        header.encode(&mut bytes);
        Ok(Bytes::from(bytes))
    }
}

fn nullable_bytes(value: Option<&[u8]>) -> usize {
    value.map_or(1, |value| varlong_bytes(value.len() as i64) + value.len())
}

fn record_bytes(timestamp_delta: i64, offset_delta: i64, record: &NewRecord<'_>) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(key, value)| nullable_bytes(Some(key.as_bytes())) + nullable_bytes(*value))
        .sum();
    1 + varlong_bytes(timestamp_delta)
        + varlong_bytes(offset_delta)
        + nullable_bytes(record.key)
        + nullable_bytes(record.value)
        + varlong_bytes(record.headers.len() as i64)
        + headers
}

fn put_nullable(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => put_varlong(out, -1),
        Some(value) => {
            put_varlong(out, value.len() as i64);
            out.put_slice(value);
        }
    }
}
