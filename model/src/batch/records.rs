//! Decoding a batch's records, for readers; the write path never needs it.

use bytes::Bytes;

use super::header::{BatchHeader, HEADER_BYTES};
use super::validate::BatchError;
use super::varint::{take_varint, take_varlong};
use crate::compression::{Compression, DecompressError};
use crate::offset::Offset;
use crate::time::TimestampMs;

/// A header of a record. Keys may repeat and their order counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub key: String,
    pub value: Option<Bytes>,
}

/// One record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    pub timestamp: TimestampMs,
    pub key: Option<Bytes>,
    /// `None` is a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// Why a batch's records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    #[error("the batch is not valid")]
    Batch(#[from] BatchError),
    #[error("the records could not be unpacked")]
    Decompress(#[from] DecompressError),
    #[error("record {index} is malformed")]
    Record { index: i32 },
    #[error("record {index} has offset {offset}")]
    Offset { index: i32, offset: Offset },
}

/// The records of a batch whose checksum is right, unpacked into at most `limit` bytes.
pub(super) fn unpack(batch: &Bytes, limit: usize) -> Result<(BatchHeader, Bytes), RecordsError> {
    let header = BatchHeader::decode(batch)
        .filter(|header| header.size == batch.len() && header.size >= HEADER_BYTES)
        .ok_or(BatchError::HeaderCutOff { have: batch.len() })?;
    let compression = header
        .attributes
        .compression()
        .ok_or(BatchError::Compression {
            attributes: header.attributes.0,
        })?;
    let packed = batch.slice(HEADER_BYTES..);
    let records = match compression {
        Compression::None => packed,
        _ if header.record_count == 0 => Bytes::new(),
        other => Bytes::from(other.decompress(&packed, limit)?),
    };
    Ok((header, records))
}

/// Decodes the records of one batch that has been validated. Unpacks at most `limit` bytes.
///
/// The checksum says nothing of what stands compressed in a batch. A record with an offset of
/// another batch would make readers pass over that batch's records, so offsets must rise within
/// what the header spans.
pub fn decode_records(batch: &Bytes, limit: usize) -> Result<Vec<Record>, RecordsError> {
    let (header, records) = unpack(batch, limit)?;
    if header.attributes.is_control() || header.record_count == 0 {
        return Ok(Vec::new());
    }
    let mut reader = Reader {
        all: &records,
        rest: &records,
    };
    // A record has at least seven bytes, so a false count cannot make this reserve much.
    let most = records.len() / 7 + 1;
    let mut out = Vec::with_capacity((header.record_count.max(0) as usize).min(most));
    let mut least = header.base_offset;
    for index in 0..header.record_count {
        let record = reader
            .record(&header)
            .ok_or(RecordsError::Record { index })?;
        let offset = record.offset;
        if offset < least || offset - header.base_offset > i64::from(header.last_offset_delta) {
            return Err(RecordsError::Offset { index, offset });
        }
        least = offset.next();
        out.push(record);
    }
    Ok(out)
}

struct Reader<'a> {
    all: &'a Bytes,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn record(&mut self, header: &BatchHeader) -> Option<Record> {
        let length = usize::try_from(take_varint(&mut self.rest)?).ok()?;
        let behind = self.rest.get(length..)?;
        self.rest = self.rest.get(1..)?;
        let timestamp_delta = take_varlong(&mut self.rest)?;
        let offset_delta = take_varint(&mut self.rest)?;
        let key = self.bytes()?;
        let value = self.bytes()?;
        let header_count = take_varint(&mut self.rest)?;
        let mut headers = Vec::new();
        for _ in 0..header_count {
            let key = String::from_utf8(self.bytes()??.to_vec()).ok()?;
            headers.push(Header {
                key,
                value: self.bytes()?,
            });
        }
        if self.rest.len() != behind.len() {
            return None;
        }
        let timestamp = if header.attributes.is_log_append_time() {
            header.max_timestamp
        } else {
            TimestampMs(header.base_timestamp.0.checked_add(timestamp_delta)?)
        };
        let offset = header.base_offset.0.checked_add(offset_delta.into())?;
        Some(Record {
            offset: Offset(offset),
            timestamp,
            key,
            value,
            headers,
        })
    }

    /// A length and as many bytes; a length of -1 is null.
    fn bytes(&mut self) -> Option<Option<Bytes>> {
        let length = take_varint(&mut self.rest)?;
        if length == -1 {
            return Some(None);
        }
        let length = usize::try_from(length).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(Some(self.all.slice_ref(bytes)))
    }
}
