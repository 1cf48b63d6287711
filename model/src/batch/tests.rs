use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::checksum::crc32c;
use crate::compression::Compression;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use crate::offset::Offset;
use crate::time::TimestampMs;

fn batch(compression: Compression, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for (index, value) in values.iter().enumerate() {
        let timestamp = TimestampMs(1_000 + index as i64);
        let record = NewRecord {
            timestamp,
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build().unwrap()
}

#[test]
fn every_compression_gives_back_the_records() {
    for compression in Compression::ALL {
        let batch = batch(compression, &["a", "bb", ""]);
        let header = validate_batch(&batch).unwrap();
        assert_eq!(header.record_count, 3);
        assert_eq!(header.max_timestamp, TimestampMs(1_002));
        let records = decode_records(&batch, 1 << 20).unwrap();
        let values: Vec<_> = records.iter().map(|r| r.value.clone().unwrap()).collect();
        assert_eq!(values, ["a", "bb", ""]);
    }
}

/// A batch of two records at offset 10, compressed, whose second record claims this offset delta.
fn claiming(offset_delta: i32) -> Bytes {
    let mut records = batch(Compression::None, &["a", "b"])[HEADER_BYTES..].to_vec();
    let second = 1 + usize::from(records[0] >> 1);
    records.truncate(second);
    let mut body = vec![0];
    varint::put_varlong(&mut body, 1);
    varint::put_varlong(&mut body, offset_delta.into());
    // No key, the value `b`, no headers.
    body.extend_from_slice(&[1, 2, b'b', 0]);
    varint::put_varlong(&mut records, body.len() as i64);
    records.extend_from_slice(&body);
    let mut bytes = batch(Compression::Gzip, &["a", "b"])[..HEADER_BYTES].to_vec();
    Compression::Gzip.compress(&records, &mut bytes).unwrap();
    let length = i32::try_from(bytes.len() - LENGTH_PREFIX_BYTES).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    stamp(&mut bytes, Offset(10), LeaderEpoch(0), None);
    bytes.into()
}

#[test]
fn a_record_outside_of_its_batch_is_not_delivered_and_the_batch_names_what_comes_next() {
    let (_, records) = read_stored_batch(&claiming(1), 1 << 20).unwrap();
    let offsets: Vec<_> = records.iter().map(|record| record.offset.0).collect();
    assert_eq!(offsets, [10, 11]);
    for delta in [i32::MAX, 2, 0, -1] {
        let error = read_stored_batch(&claiming(delta), 1 << 20).unwrap_err();
        let StoredBatchError::Unpackable(batch) = &error else {
            panic!("{delta}: {error}");
        };
        assert_eq!(
            (batch.base_offset, batch.next_offset),
            (Offset(10), Offset(12))
        );
        let text = error.to_string();
        let claimed = format!("record 1 has offset {}", 10 + i64::from(delta));
        for part in ["offsets 10 to 11", "gzip", &claimed, "go on at offset 12"] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
}

#[test]
fn a_stamp_changes_place_but_not_checksum() {
    let mut bytes = batch(Compression::None, &["a", "b"]).to_vec();
    let before = validate_batch(&bytes).unwrap();
    stamp(&mut bytes, Offset(41), LeaderEpoch(7), None);
    let after = validate_batch(&bytes).unwrap();
    assert_eq!(after.crc, before.crc);
    assert_eq!(
        (after.base_offset, after.next_offset()),
        (Offset(41), Offset(43))
    );
    assert_eq!(after.leader_epoch, LeaderEpoch(7));
}

#[test]
fn append_time_is_stamped_and_read_back() {
    let mut bytes = batch(Compression::None, &["a", "b"]).to_vec();
    stamp(
        &mut bytes,
        Offset(0),
        LeaderEpoch(0),
        Some(TimestampMs(9_999)),
    );
    let header = validate_batch(&bytes).unwrap();
    assert!(header.attributes.is_log_append_time());
    let records = decode_records(&Bytes::from(bytes), 1 << 20).unwrap();
    assert!(
        records
            .iter()
            .all(|record| record.timestamp == TimestampMs(9_999))
    );
}

#[test]
fn each_kind_of_damage_is_named() {
    let good = batch(Compression::None, &["a", "b"]);
    let damaged = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        validate_batch(&bytes).unwrap_err()
    };
    assert!(matches!(damaged(11, 0xff), BatchError::Length { .. }));
    assert!(matches!(damaged(8, 0xff), BatchError::HeaderCutOff { .. }));
    assert_eq!(damaged(16, 1), BatchError::Magic { magic: 1 });
    assert!(matches!(damaged(64, 0xff), BatchError::Checksum { .. }));
    assert!(validate_batch(&good[..60]).unwrap_err().is_cut_off());
    assert!(
        validate_batch(&good[..good.len() - 1])
            .unwrap_err()
            .is_cut_off()
    );
}

/// A batch whose checksum is right but whose header lies about its records.
fn resealed(change: impl FnOnce(&mut Vec<u8>)) -> BatchError {
    let mut bytes = batch(Compression::None, &["a", "b"]).to_vec();
    change(&mut bytes);
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    validate_batch(&bytes).unwrap_err()
}

#[test]
fn a_valid_checksum_does_not_excuse_a_false_count() {
    let count = |bytes: &mut Vec<u8>| bytes[60] = 3;
    assert_eq!(
        resealed(count),
        BatchError::Count {
            count: 3,
            last_offset_delta: 1
        }
    );
    let both = |bytes: &mut Vec<u8>| (bytes[60], bytes[26]) = (3, 2);
    assert_eq!(resealed(both), BatchError::Record { index: 2 });
    let fewer = |bytes: &mut Vec<u8>| (bytes[60], bytes[26]) = (1, 0);
    assert!(matches!(resealed(fewer), BatchError::TrailingBytes { .. }));
    let codec = |bytes: &mut Vec<u8>| bytes[22] = 6;
    assert_eq!(resealed(codec), BatchError::Compression { attributes: 6 });
}

#[test]
fn a_record_whose_lengths_lie_is_malformed() {
    // The first record's key length, then its header count.
    assert_eq!(
        resealed(|bytes| bytes[65] = 40),
        BatchError::Record { index: 0 }
    );
    assert_eq!(
        resealed(|bytes| bytes[68] = 2),
        BatchError::Record { index: 0 }
    );
}

#[test]
fn sequences_wrap_to_zero() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(ProducerId(5), ProducerEpoch(1), i32::MAX);
    for _ in 0..2 {
        builder.push(&NewRecord::default()).unwrap();
    }
    let header = validate_batch(&builder.build().unwrap()).unwrap();
    assert_eq!(
        (header.base_sequence, header.last_sequence()),
        (i32::MAX, 0)
    );
}

#[test]
fn batches_are_split_by_their_length() {
    let (one, two) = (
        batch(Compression::None, &["a"]),
        batch(Compression::Zstd, &["b"]),
    );
    let both = [one.clone(), two.clone()].concat();
    let (_, first, rest) = next_batch(&both).unwrap();
    let (_, second, rest) = next_batch(rest).unwrap();
    assert_eq!((first, second, rest.len()), (&one[..], &two[..], 0));
}

type Bytes2 = Option<Vec<u8>>;

fn any_record() -> impl Strategy<Value = (i64, Bytes2, Bytes2, Vec<(String, Bytes2)>)> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let headers = proptest::collection::vec(("[a-z]{0,5}", bytes()), 0..3);
    (0..1_000_000_000_000i64, bytes(), bytes(), headers)
}

proptest! {
    #[test]
    fn any_records_round_trip(records in proptest::collection::vec(any_record(), 1..20)) {
        let mut builder = BatchBuilder::new(Compression::Lz4);
        for (timestamp, key, value, headers) in &records {
            let headers: Vec<_> =
                headers.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            builder.push(&NewRecord {
                timestamp: TimestampMs(*timestamp),
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &headers,
            }).unwrap();
        }
        let batch = builder.build().unwrap();
        validate_batch(&batch).unwrap();
        let decoded = decode_records(&batch, 1 << 20).unwrap();
        prop_assert_eq!(decoded.len(), records.len());
        for (record, (timestamp, key, value, headers)) in decoded.iter().zip(&records) {
            prop_assert_eq!(record.timestamp.0, *timestamp);
            prop_assert_eq!(record.key.as_deref(), key.as_deref());
            prop_assert_eq!(record.value.as_deref(), value.as_deref());
            let read: Vec<_> = record
                .headers
                .iter()
                .map(|h| (h.key.clone(), h.value.as_ref().map(|v| v.to_vec())))
                .collect();
            prop_assert_eq!(&read, headers);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = validate_batch(&bytes);
        let _ = next_batch(&bytes);
        let _ = decode_records(&Bytes::from(bytes), 1 << 16);
    }

    #[test]
    fn a_flipped_bit_behind_the_checksum_is_found(at in 21usize..70, bit in 0u8..8) {
        let mut bytes = batch(Compression::None, &["abc", "def"]).to_vec();
        prop_assume!(at < bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(validate_batch(&bytes).is_err());
    }
}
