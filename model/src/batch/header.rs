//! The fixed part of a batch.

use crate::checksum::crc32c;
use crate::compression::Compression;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use crate::offset::Offset;
use crate::time::TimestampMs;

/// The size of a batch's header, in bytes.
pub const HEADER_BYTES: usize = 61;
/// The bytes before and including the length field, which the length does not count.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// Where the checksummed part begins.
pub(super) const CRC_START: usize = 21;

/// The flags of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    /// The base timestamp is the delete horizon (KIP-534).
    pub(super) const DELETE_HORIZON: i16 = 1 << 6;

    /// The compression, or `None` for a number that no compression has.
    pub fn compression(self) -> Option<Compression> {
        Compression::from_id((self.0 & 0b111) as u8)
    }

    pub fn is_log_append_time(self) -> bool {
        self.0 & (1 << 3) != 0
    }

    pub fn is_transactional(self) -> bool {
        self.0 & (1 << 4) != 0
    }

    pub fn is_control(self) -> bool {
        self.0 & (1 << 5) != 0
    }

    /// Whether bits are set that no producer gives a meaning to: the delete horizon, which is
    /// compaction's, and those that Kafka has not assigned.
    pub fn has_reserved(self) -> bool {
        self.0 & !0b11_1111 != 0
    }
}

/// A batch's header, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// The whole batch's size, header included, in bytes. On disk and wire it is stored less the
    /// first twelve.
    pub size: usize,
    pub leader_epoch: LeaderEpoch,
    pub magic: i8,
    pub crc: u32,
    pub attributes: Attributes,
    pub last_offset_delta: i32,
    pub base_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    pub record_count: i32,
}

fn array<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Whether it stands for offsets alone, as [`super::empty_batches`] do.
    pub fn is_filler(&self) -> bool {
        self.record_count == 0 && !self.is_idempotent() && !self.attributes.is_control()
    }

    /// Decodes the header at the start of `bytes`, or `None` if they are too few. Checks nothing:
    /// see [`super::validate_batch`].
    pub fn decode(bytes: &[u8]) -> Option<BatchHeader> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let length = i32::from_be_bytes(array(bytes, 8));
        Some(BatchHeader {
            base_offset: Offset(i64::from_be_bytes(array(bytes, 0))),
            size: usize::try_from(length)
                .ok()?
                .checked_add(LENGTH_PREFIX_BYTES)?,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(array(bytes, 12))),
            magic: bytes[16] as i8,
            crc: u32::from_be_bytes(array(bytes, 17)),
            attributes: Attributes(i16::from_be_bytes(array(bytes, 21))),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23)),
            base_timestamp: TimestampMs(i64::from_be_bytes(array(bytes, 27))),
            max_timestamp: TimestampMs(i64::from_be_bytes(array(bytes, 35))),
            producer_id: ProducerId(i64::from_be_bytes(array(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(array(bytes, 51))),
            base_sequence: i32::from_be_bytes(array(bytes, 53)),
            record_count: i32::from_be_bytes(array(bytes, 57)),
        })
    }

    /// Encodes the header into the first 61 bytes of `out`.
    ///
    /// # Panics
    /// If `out` is shorter than a header.
    pub(super) fn encode(&self, out: &mut [u8]) {
        let length = (self.size - LENGTH_PREFIX_BYTES) as i32;
        out[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        out[8..12].copy_from_slice(&length.to_be_bytes());
        out[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        out[16] = self.magic as u8;
        out[17..21].copy_from_slice(&self.crc.to_be_bytes());
        out[21..23].copy_from_slice(&self.attributes.0.to_be_bytes());
        out[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        out[27..35].copy_from_slice(&self.base_timestamp.0.to_be_bytes());
        out[35..43].copy_from_slice(&self.max_timestamp.0.to_be_bytes());
        out[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        out[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        out[53..57].copy_from_slice(&self.base_sequence.to_be_bytes());
        out[57..61].copy_from_slice(&self.record_count.to_be_bytes());
    }

    /// The offset of the batch's last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// When the tombstones of this batch may go; set by compaction (KIP-534).
    pub fn delete_horizon(&self) -> Option<TimestampMs> {
        (self.attributes.0 & Attributes::DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// The offset behind the batch's last record.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().next()
    }

    /// The sequence number of the batch's last record; sequences wrap from 2³¹−1 to 0.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last % (i64::from(i32::MAX) + 1)) as i32
    }

    pub fn is_idempotent(&self) -> bool {
        self.producer_id != ProducerId::NONE
    }
}

/// What a leader writes into the header of a batch that it accepted: the place in its log and,
/// for topics with append time, the time (which changes the checksum).
///
/// # Panics
/// If `batch` is shorter than a header; only validated batches come here.
pub fn stamp(
    batch: &mut [u8],
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    append_time: Option<TimestampMs>,
) {
    batch[0..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
    if let Some(time) = append_time {
        batch[22] |= 1 << 3;
        batch[35..43].copy_from_slice(&time.0.to_be_bytes());
        let crc = crc32c(&batch[CRC_START..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}
