//! Which partition a keyed record goes to. The same as in Kafka's Java client, so that producers
//! of both kinds agree.

use crate::ids::PartitionIndex;

/// The 32-bit murmur2 hash with Kafka's seed.
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    let mut hash = SEED ^ (data.len() as u32);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let tail = chunks.remainder();
    for (index, byte) in tail.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * index);
    }
    if !tail.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition, of `partitions`, that records with this key go to.
///
/// # Panics
/// If `partitions` is not positive.
pub fn partition_for_key(key: &[u8], partitions: i32) -> PartitionIndex {
    assert!(
        partitions > 0,
        "a topic has at least one partition, not {partitions}"
    );
    let positive = (murmur2(key) & 0x7fff_ffff) as i32;
    PartitionIndex(positive % partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values published with Kafka's own test of its hash.
    #[test]
    fn the_hash_is_kafkas() {
        let cases: [(&[u8], i32); 5] = [
            (b"21", -973932308),
            (b"foobar", -790332482),
            (b"a-little-bit-long-string", -985981536),
            (b"a-little-bit-longer-string", -1486304829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58897971,
            ),
        ];
        for (key, expected) in cases {
            assert_eq!(murmur2(key) as i32, expected);
        }
    }
}
