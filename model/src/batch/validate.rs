//! The check of a batch where it enters a node: from a producer, from a leader, from a disk.

use super::header::{BatchHeader, CRC_START, HEADER_BYTES};
use super::varint::{take_varint, take_varlong};
use crate::checksum::crc32c;
use crate::compression::Compression;
use crate::limits::RECORDS_PER_BATCH_MAX;
use crate::time::TimestampMs;

/// Why bytes are no valid batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("the batch ends after {have} bytes; its header needs {HEADER_BYTES}")]
    HeaderCutOff { have: usize },
    #[error("the batch says it has {size} bytes, but {have} are there")]
    Length { size: usize, have: usize },
    #[error("the batch has magic {magic}; only version 2 is accepted")]
    Magic { magic: i8 },
    #[error("the batch's checksum is {stored:#010x}, but its bytes give {computed:#010x}")]
    Checksum { stored: u32, computed: u32 },
    #[error(
        "the batch says it has {count} records, but its last offset delta is {last_offset_delta}"
    )]
    Count { count: i32, last_offset_delta: i32 },
    #[error("the batch's attributes {attributes:#06x} name no known compression")]
    Compression { attributes: i16 },
    #[error("record {index} of the batch is malformed")]
    Record { index: i32 },
    #[error("{bytes} bytes stand behind the batch's last record")]
    TrailingBytes { bytes: usize },
}

impl BatchError {
    /// Whether the bytes may be the start of a batch whose end is missing: a torn tail rather
    /// than damage.
    pub fn is_cut_off(&self) -> bool {
        match self {
            BatchError::HeaderCutOff { .. } => true,
            BatchError::Length { size, have } => size > have,
            _ => false,
        }
    }
}

/// Splits the first batch off `bytes` by its length alone. The batch is not checked further.
pub fn next_batch(bytes: &[u8]) -> Result<(BatchHeader, &[u8], &[u8]), BatchError> {
    let header =
        BatchHeader::decode(bytes).ok_or(BatchError::HeaderCutOff { have: bytes.len() })?;
    if header.size < HEADER_BYTES || header.size > bytes.len() {
        return Err(BatchError::Length {
            size: header.size,
            have: bytes.len(),
        });
    }
    let (batch, rest) = bytes.split_at(header.size);
    Ok((header, batch, rest))
}

/// The earliest and the latest time of a batch's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan {
    pub earliest: TimestampMs,
    pub latest: TimestampMs,
}

impl TimeSpan {
    fn including(self, time: TimestampMs) -> TimeSpan {
        TimeSpan {
            earliest: self.earliest.min(time),
            latest: self.latest.max(time),
        }
    }
}

/// Checks that `bytes` are exactly one valid batch: length, version, checksum, compression, count,
/// and for uncompressed records the shape of each. Compressed records are not unpacked.
pub fn validate_batch(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    examine(bytes).map(|(header, _)| header)
}

/// Checks length, version, checksum and codec: all but the records. Gives the codec.
pub(super) fn is_whole(bytes: &[u8], header: &BatchHeader) -> Result<Compression, BatchError> {
    if header.size != bytes.len() || header.size < HEADER_BYTES {
        return Err(BatchError::Length {
            size: header.size,
            have: bytes.len(),
        });
    }
    if header.magic != 2 {
        return Err(BatchError::Magic {
            magic: header.magic,
        });
    }
    let computed = crc32c(&bytes[CRC_START..]);
    if computed != header.crc {
        return Err(BatchError::Checksum {
            stored: header.crc,
            computed,
        });
    }
    header
        .attributes
        .compression()
        .ok_or(BatchError::Compression {
            attributes: header.attributes.0,
        })
}

/// [`validate_batch`], and the times of the records where they are not compressed.
pub(super) fn examine(bytes: &[u8]) -> Result<(BatchHeader, Option<TimeSpan>), BatchError> {
    let header =
        BatchHeader::decode(bytes).ok_or(BatchError::HeaderCutOff { have: bytes.len() })?;
    let compression = is_whole(bytes, &header)?;
    let count = header.record_count;
    let plausible = count >= 1
        && count as usize <= RECORDS_PER_BATCH_MAX
        && count - 1 == header.last_offset_delta;
    if !plausible {
        return Err(BatchError::Count {
            count,
            last_offset_delta: header.last_offset_delta,
        });
    }
    let times = match compression {
        Compression::None => Some(walk_records(&bytes[HEADER_BYTES..], &header)?),
        _ => None,
    };
    Ok((header, times))
}

/// Steps over each record, checking its shape: whoever reads it later can decode it.
fn walk_records(mut bytes: &[u8], header: &BatchHeader) -> Result<TimeSpan, BatchError> {
    let mut span: Option<TimeSpan> = None;
    for index in 0..header.record_count {
        let malformed = BatchError::Record { index };
        let length = take_varint(&mut bytes).and_then(|n| usize::try_from(n).ok());
        let Some(mut body) = length.and_then(|length| bytes.get(..length)) else {
            return Err(malformed);
        };
        bytes = &bytes[body.len()..];
        let time = walk_record(&mut body, header.base_timestamp, index);
        let Some(time) = time.filter(|_| body.is_empty()) else {
            return Err(malformed);
        };
        let alone = TimeSpan {
            earliest: time,
            latest: time,
        };
        span = Some(span.map_or(alone, |span| span.including(time)));
    }
    if !bytes.is_empty() {
        return Err(BatchError::TrailingBytes { bytes: bytes.len() });
    }
    let none = BatchError::Count {
        count: header.record_count,
        last_offset_delta: header.last_offset_delta,
    };
    span.ok_or(none)
}

/// Steps over a record with this offset delta, and gives its time.
fn walk_record(
    body: &mut &[u8],
    base_timestamp: TimestampMs,
    expected: i32,
) -> Option<TimestampMs> {
    *body = body.get(1..)?;
    let timestamp = base_timestamp.0.checked_add(take_varlong(body)?)?;
    if take_varint(body)? != expected {
        return None;
    }
    skip_nullable(body)?;
    skip_nullable(body)?;
    for _ in 0..u32::try_from(take_varint(body)?).ok()? {
        // A header has a key, so at least a byte of length.
        let key = usize::try_from(take_varint(body)?).ok()?;
        std::str::from_utf8(body.get(..key)?).ok()?;
        *body = &body[key..];
        skip_nullable(body)?;
    }
    Some(TimestampMs(timestamp))
}

/// Steps over a length and as many bytes; a length of -1 is null.
fn skip_nullable(body: &mut &[u8]) -> Option<()> {
    match take_varint(body)? {
        -1 => {}
        length => *body = body.get(usize::try_from(length).ok()?..)?,
    }
    Some(())
}
