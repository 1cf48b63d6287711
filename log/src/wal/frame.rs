//! The frame: what one payload looks like in a file. Persisted; its layout never changes under
//! the same magic.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic |
//! | 4 | 4 | CRC-32C over everything behind this field |
//! | 8 | 4 | payload length |
//! | 12 | 4 | CRC of the frame before, so that a frame belongs to one history only |
//! | 16 | 8 | id of the log |
//! | 24 | 8 | position of the frame |
//! | 32 | 8 | position up to which everything was synced when the frame was written |
//! | 40 | | payload, then zeros up to a multiple of 8 |
//!
//! Id and position expose frames of an earlier life of a recycled file. The chain of CRCs exposes
//! frames that a crash left behind a torn one and that newer frames now lead up to. The synced
//! position tells a torn tail from damage: a valid frame that was written when a bad one was
//! already synced proves damage.

use std::iter;

use bytes::Bytes;
use ottla_model::checksum::{crc32c, crc32c_of};

pub(super) const FRAME_HEADER_BYTES: usize = 40;
pub(super) const ALIGNMENT: usize = 8;
const MAGIC: u32 = 0x4f54_5731;
const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// The fields of a frame that its place and its log decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub crc: u32,
    pub length: u32,
    pub previous: u32,
    pub wal_id: u64,
    pub position: u64,
    pub synced: u64,
}

/// The bytes a frame with such a payload takes in a file.
pub(super) fn frame_bytes(payload: usize) -> u64 {
    (FRAME_HEADER_BYTES + payload).next_multiple_of(ALIGNMENT) as u64
}

/// The zeros behind a payload of so many bytes.
pub(super) fn padding(payload: usize) -> &'static [u8] {
    let bytes = frame_bytes(payload) as usize - FRAME_HEADER_BYTES - payload;
    &ZEROS[..bytes]
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl FrameHeader {
    /// Encodes the header of a frame with this payload, with its CRC.
    pub fn encode(&mut self, payload: &[Bytes]) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.length.to_be_bytes());
        out[12..16].copy_from_slice(&self.previous.to_be_bytes());
        out[16..24].copy_from_slice(&self.wal_id.to_be_bytes());
        out[24..32].copy_from_slice(&self.position.to_be_bytes());
        out[32..40].copy_from_slice(&self.synced.to_be_bytes());
        let parts = payload.iter().map(|part| &part[..]);
        self.crc = crc32c_of(iter::once(&out[8..]).chain(parts));
        out[4..8].copy_from_slice(&self.crc.to_be_bytes());
        out
    }

    /// The frame of log `wal_id` at `position` that starts at `at` in `bytes`, if it is whole and
    /// its checksum is right.
    pub fn decode(bytes: &[u8], at: usize, wal_id: u64, position: u64) -> Option<FrameHeader> {
        FrameHeader::decode_any(bytes, at)
            .filter(|header| header.wal_id == wal_id && header.position == position)
    }

    /// The frame of any log at any position that starts at `at` in `bytes`.
    pub fn decode_any(bytes: &[u8], at: usize) -> Option<FrameHeader> {
        FrameHeader::peek(bytes, at).filter(|header| header.is_whole(bytes, at))
    }

    /// What stands where the header of a frame would, without a look at its checksum.
    pub fn peek(bytes: &[u8], at: usize) -> Option<FrameHeader> {
        let bytes = bytes.get(at..)?;
        if u32::from_be_bytes(field(bytes, 0)?) != MAGIC {
            return None;
        }
        Some(FrameHeader {
            crc: u32::from_be_bytes(field(bytes, 4)?),
            length: u32::from_be_bytes(field(bytes, 8)?),
            previous: u32::from_be_bytes(field(bytes, 12)?),
            wal_id: u64::from_be_bytes(field(bytes, 16)?),
            position: u64::from_be_bytes(field(bytes, 24)?),
            synced: u64::from_be_bytes(field(bytes, 32)?),
        })
    }

    /// Whether the frame that starts at `at` with this header is all there, and its checksum right.
    pub fn is_whole(&self, bytes: &[u8], at: usize) -> bool {
        let end = (at + FRAME_HEADER_BYTES).checked_add(self.length as usize);
        let covered = end.and_then(|end| bytes.get(at + 8..end));
        covered.is_some_and(|covered| crc32c(covered) == self.crc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_frame_never_change() {
        let mut header = FrameHeader {
            crc: 0,
            length: 3,
            previous: 0x0a0b_0c0d,
            wal_id: 0x1122_3344_5566_7788,
            position: 64,
            synced: 56,
        };
        let bytes = header.encode(&[Bytes::from_static(b"abc")]);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "4f54573134698810000000030a0b0c0d112233445566778800000000000000400000000000000038"
        );
    }

    #[test]
    fn a_frame_with_any_bit_flipped_is_no_frame() {
        let mut header = FrameHeader {
            crc: 0,
            length: 5,
            previous: 7,
            wal_id: 9,
            position: 0,
            synced: 0,
        };
        let mut bytes = header.encode(&[Bytes::from_static(b"hello")]).to_vec();
        bytes.extend(b"hello");
        assert_eq!(FrameHeader::decode(&bytes, 0, 9, 0), Some(header));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&bytes, 0, 9, 0), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
