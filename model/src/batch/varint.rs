//! Variable-length numbers: seven bits a byte, low ones first, zigzag for signs.

use bytes::BufMut;

pub(super) fn put_varlong(out: &mut impl BufMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.put_u8((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// The encoded size of a number, in bytes.
pub(super) fn varlong_bytes(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - zigzag.leading_zeros() as usize).max(1).div_ceil(7)
}

/// Takes a number off the front of `bytes`; `None` if they end within it or it has over 64 bits.
pub(super) fn take_varlong(bytes: &mut &[u8]) -> Option<i64> {
    let mut value: u64 = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(((value >> 1) as i64) ^ -((value & 1) as i64));
        }
    }
    None
}

/// Takes a number that must fit 32 bits.
pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<i32> {
    take_varlong(bytes)?.try_into().ok()
}
