//! CRC-32C (Castagnoli), the checksum of Kafka's record batches and of everything that we store.

use crc_fast::{CrcAlgorithm, Digest};

/// The checksum of these bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The checksum of all parts, one after the other.
pub fn crc32c_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4.
    #[test]
    fn it_is_the_checksum_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b""), 0);
    }

    /// The library computes short and long inputs, and their ends, in different ways.
    #[test]
    fn every_length_agrees_with_a_computation_bit_by_bit() {
        let bytes: Vec<u8> = (0..3_000_u32).map(|n| ((n * n) >> 3) as u8).collect();
        let mut slow = !0_u32;
        for length in 0..bytes.len() {
            assert_eq!(crc32c(&bytes[..length]), !slow, "{length} bytes");
            let halves = bytes[..length].split_at(length / 3);
            assert_eq!(crc32c_of([halves.0, halves.1]), !slow, "{length} bytes");
            slow ^= u32::from(bytes[length]);
            for _ in 0..8 {
                slow = (slow >> 1) ^ (0x82f6_3b78 * (slow & 1));
            }
        }
    }
}
