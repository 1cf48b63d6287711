//! A message to a follower in the pieces in which it is sent: large batches are pieces of their
//! own, so that none of their bytes is copied on the way to the connection. Together the pieces are
//! a `ReplicateResponse` with its gRPC prefix, byte for byte.

use bytes::{BufMut as _, Bytes, BytesMut};
use ottla_model::Offset;
use ottla_model::batch::joined;
use ottla_proto::v1;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::replica::end_of;

/// Batches smaller than this are copied: to send each by itself would cost more.
const LARGE_BYTES: usize = 16 * 1024;
/// The numbers of the fields that are encoded here. Batches are a partition's last field.
const PARTITIONS: u32 = 1;
const BATCHES: u32 = 15;
/// Not compressed, and the length.
const PREFIX_BYTES: usize = 5;

/// The pieces of a message of these partitions.
pub(super) fn pieces(partitions: Vec<v1::ReplicaData>) -> Vec<Bytes> {
    let bytes: usize = partitions.iter().map(encoded_len).sum();
    let large: usize = partitions.iter().map(large_bytes).sum();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + bytes - large);
    out.put_u8(0);
    out.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    let mut pieces = Vec::new();
    for mut data in partitions {
        let data_bytes = data.encoded_len() as u64;
        let batches = std::mem::take(&mut data.batches);
        encode_key(PARTITIONS, WireType::LengthDelimited, &mut out);
        encode_varint(data_bytes, &mut out);
        data.encode_raw(&mut out);
        if batches.is_empty() {
            continue;
        }
        encode_key(BATCHES, WireType::LengthDelimited, &mut out);
        encode_varint(batches.len() as u64, &mut out);
        if batches.len() < LARGE_BYTES {
            out.extend_from_slice(&batches);
        } else {
            pieces.push(out.split().freeze());
            pieces.push(batches);
        }
    }
    if !out.is_empty() {
        pieces.push(out.freeze());
    }
    pieces
}

fn encoded_len(data: &v1::ReplicaData) -> usize {
    let bytes = data.encoded_len();
    key_len(PARTITIONS) + encoded_len_varint(bytes as u64) + bytes
}

fn large_bytes(data: &v1::ReplicaData) -> usize {
    match data.batches.len() {
        small if small < LARGE_BYTES => 0,
        large => large,
    }
}

/// A part of what a read found, and the range of offsets that it covers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Portion {
    pub batches: Bytes,
    pub from: Offset,
    pub to: Offset,
}

/// What a read from `from` up to `to` found, with large batches by themselves and small ones
/// joined. At least one portion; together they cover the same range.
pub(super) fn portions(batches: Vec<Bytes>, from: Offset, to: Offset) -> Vec<Portion> {
    let mut grouped: Vec<Vec<Bytes>> = Vec::new();
    let mut group_bytes = usize::MAX;
    for batch in batches {
        match grouped.last_mut() {
            Some(group) if group_bytes.saturating_add(batch.len()) < LARGE_BYTES => {
                group_bytes += batch.len();
                group.push(batch);
            }
            _ => {
                group_bytes = batch.len();
                grouped.push(vec![batch]);
            }
        }
    }
    let mut portions: Vec<Portion> = Vec::with_capacity(grouped.len().max(1));
    let mut at = from;
    for group in grouped {
        let end = end_of(&group).unwrap_or(to);
        let batches = joined(group);
        portions.push(Portion {
            batches,
            from: at,
            to: end,
        });
        at = end;
    }
    match portions.last_mut() {
        Some(last) => last.to = to,
        None => portions.push(Portion {
            batches: Bytes::new(),
            from,
            to,
        }),
    }
    portions
}

#[cfg(test)]
mod tests {
    use ottla_model::TimestampMs;
    use ottla_model::batch::{BatchBuilder, NewRecord, stamp};
    use ottla_model::{LeaderEpoch, compression::Compression};

    use super::*;
    use crate::rpc::encoded;

    fn data(partition: i32, bytes: usize) -> v1::ReplicaData {
        v1::ReplicaData {
            topic_id: Bytes::from_static(&[5; 16]),
            partition,
            leader_epoch: 3,
            high_watermark: 1 << 40,
            to_offset: Some(7),
            batches: Bytes::from(vec![partition as u8; bytes]),
            ..Default::default()
        }
    }

    #[test]
    fn the_pieces_are_the_message() {
        let large = 5 * LARGE_BYTES;
        for sizes in [
            vec![],
            vec![0],
            vec![1, LARGE_BYTES - 1, 0],
            vec![large, LARGE_BYTES, 3, large],
            vec![0, large, 0],
        ] {
            let partitions: Vec<_> = (1..).zip(&sizes).map(|(n, size)| data(n, *size)).collect();
            let pieces = pieces(partitions.clone());
            let whole = encoded(&v1::ReplicateResponse { partitions });
            assert_eq!(pieces.concat(), whole, "{sizes:?}");
            let alone = pieces.iter().filter(|piece| piece.len() >= LARGE_BYTES);
            let large = sizes.iter().filter(|size| **size >= LARGE_BYTES).count();
            assert!(alone.count() >= large);
            assert!(pieces.iter().all(|piece| !piece.is_empty()));
        }
    }

    fn batch(at: i64, bytes: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        let value = vec![1; bytes];
        let record = NewRecord {
            timestamp: TimestampMs(1),
            key: None,
            value: Some(&value),
            headers: &[],
        };
        builder.push(&record).expect("room for a record");
        let mut bytes = builder.build().expect("a batch").to_vec();
        stamp(&mut bytes, Offset(at), LeaderEpoch(1), None);
        Bytes::from(bytes)
    }

    #[test]
    fn large_batches_go_by_themselves_and_small_ones_together() {
        let sizes = [10, 20, LARGE_BYTES, 30, LARGE_BYTES, LARGE_BYTES];
        // With a gap behind each, as compaction leaves them.
        let batches: Vec<_> = (0..)
            .zip(sizes)
            .map(|(n, size)| batch(2 * n, size))
            .collect();
        let portions = portions(batches.clone(), Offset(0), Offset(20));
        let ranges: Vec<_> = portions
            .iter()
            .map(|part| (part.from.0, part.to.0))
            .collect();
        assert_eq!(ranges, [(0, 3), (3, 5), (5, 7), (7, 9), (9, 20)]);
        let bytes: Vec<_> = portions.iter().map(|part| part.batches.clone()).collect();
        assert_eq!(bytes.concat(), batches.concat());
        assert_eq!(bytes[1].as_ptr(), batches[2].as_ptr());
    }

    #[test]
    fn a_range_without_batches_is_one_portion() {
        let expected = Portion {
            batches: Bytes::new(),
            from: Offset(4),
            to: Offset(9),
        };
        assert_eq!(portions(Vec::new(), Offset(4), Offset(9)), [expected]);
    }
}
