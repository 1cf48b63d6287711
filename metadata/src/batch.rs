//! One committed entry of the metadata log.

use bytes::Bytes;
use ottla_model::{MetadataOffset, TimestampMs};
use prost::Message;

use crate::record::{MetadataRecord, RecordError};

/// Records that were decided together, on the image that ended at `base_offset`. An entry whose
/// base differs from the offset of the image it meets was decided on a stale image, and every
/// node skips it as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataBatch {
    pub base_offset: MetadataOffset,
    pub records: Vec<MetadataRecord>,
    /// The wall clock of the controller that decided, for history. No rule reads it.
    pub wall_ms: TimestampMs,
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(int64, tag = "2")]
    base_offset: i64,
    #[prost(sint64, tag = "3")]
    wall_ms: i64,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    records: Vec<Bytes>,
}

/// The layout of [`Wire`]. 0 is never written, so that empty bytes are no batch.
const VERSION: u32 = 1;

/// The offsets a metadata log can have. Far from the end of the numbers, so that arithmetic on
/// what was read cannot overflow.
pub(crate) const OFFSETS: std::ops::Range<i64> = 0..i64::MAX / 2;

impl MetadataBatch {
    /// The position after the last record.
    pub fn end_offset(&self) -> MetadataOffset {
        self.base_offset + i64::try_from(self.records.len()).unwrap_or(i64::MAX)
    }

    pub fn encode(&self) -> Bytes {
        let wire = Wire {
            version: VERSION,
            base_offset: self.base_offset.0,
            wall_ms: self.wall_ms.0,
            records: self.records.iter().map(MetadataRecord::encode).collect(),
        };
        wire.encode_to_vec().into()
    }

    /// The batch in these bytes; an error if they are damaged or of a newer build.
    pub fn decode(bytes: &[u8]) -> Result<MetadataBatch, RecordError> {
        let damaged = |reason| RecordError::Batch { reason };
        let wire = Wire::decode(bytes).map_err(|_| damaged("its frame cannot be read"))?;
        if wire.version != VERSION {
            return Err(damaged("its version is not one this build reads"));
        }
        if !OFFSETS.contains(&wire.base_offset) {
            return Err(damaged("its base offset is out of bounds"));
        }
        let records = wire.records.iter();
        Ok(MetadataBatch {
            base_offset: MetadataOffset(wire.base_offset),
            records: records
                .map(|bytes| MetadataRecord::decode(bytes))
                .collect::<Result<_, _>>()?,
            wall_ms: TimestampMs(wire.wall_ms),
        })
    }
}
