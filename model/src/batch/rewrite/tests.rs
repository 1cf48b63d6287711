use proptest::prelude::*;

use super::*;
use crate::batch::validate::BatchError;
use crate::batch::{
    BatchBuilder, NewRecord, Record, decode_records, stamp, validate_batch, validate_stored_batch,
};
use crate::checksum::crc32c;
use crate::compression::Compression;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};

fn batch(compression: Compression, count: i64) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    builder.set_producer(ProducerId(3), ProducerEpoch(1), 40);
    for index in 0..count {
        let key = format!("k{index}");
        let value = format!("v{index}");
        let record = NewRecord {
            timestamp: TimestampMs(1_000 + 10 * index),
            key: Some(key.as_bytes()),
            value: (index % 3 != 2).then_some(value.as_bytes()),
            headers: &[("h", Some(b"x"))],
        };
        builder.push(&record).unwrap();
    }
    let mut bytes = builder.build().unwrap().to_vec();
    stamp(&mut bytes, Offset(100), LeaderEpoch(7), None);
    Bytes::from(bytes)
}

fn retained(
    batch: &Bytes,
    horizon: Option<i64>,
    keep: impl Fn(i64) -> bool,
) -> (BatchHeader, Vec<Record>) {
    let unpacked = UnpackedBatch::open(batch, 1 << 20).unwrap();
    let kept = unpacked
        .retain(horizon.map(TimestampMs), &mut |record| {
            keep(record.offset.0)
        })
        .unwrap();
    let header = validate_stored_batch(&kept).unwrap();
    (header, decode_records(&Bytes::from(kept), 1 << 20).unwrap())
}

#[test]
fn what_is_kept_of_a_batch_keeps_its_place_and_its_producer() {
    for compression in Compression::ALL {
        let whole = batch(compression, 6);
        let before = validate_batch(&whole).unwrap();
        let all = decode_records(&whole, 1 << 20).unwrap();
        let (header, records) = retained(&whole, None, |offset| offset % 2 == 1);
        assert_eq!(records, [all[1].clone(), all[3].clone(), all[5].clone()]);
        assert_eq!(
            (
                header.base_offset,
                header.last_offset(),
                header.last_sequence()
            ),
            (
                before.base_offset,
                before.last_offset(),
                before.last_sequence()
            )
        );
        assert_eq!(header.leader_epoch, LeaderEpoch(7));
        assert_eq!(header.producer_id, ProducerId(3));
        assert_eq!(header.max_timestamp, TimestampMs(1_050));
        assert_eq!(header.attributes.compression(), Some(compression));
        assert!(validate_batch(&whole).is_ok());
    }
}

#[test]
fn an_emptied_batch_is_a_header_that_can_be_read() {
    for compression in Compression::ALL {
        let whole = batch(compression, 3);
        let (header, records) = retained(&whole, None, |_| false);
        assert_eq!((header.size, header.record_count), (HEADER_BYTES, 0));
        assert_eq!(header.last_offset(), Offset(102));
        assert_eq!(header.max_timestamp, TimestampMs(1_020));
        assert!(records.is_empty());
    }
}

#[test]
fn a_delete_horizon_changes_no_timestamp() {
    for horizon in [5_000, 0, 1_000] {
        let whole = batch(Compression::None, 4);
        let all = decode_records(&whole, 1 << 20).unwrap();
        let (header, records) = retained(&whole, Some(horizon), |_| true);
        assert_eq!(records, all);
        assert_eq!(header.delete_horizon(), Some(TimestampMs(horizon)));
    }
    let (header, _) = retained(&batch(Compression::None, 4), None, |_| true);
    assert_eq!(header.delete_horizon(), None);
}

#[test]
fn a_tombstone_is_seen_as_one() {
    let unpacked = UnpackedBatch::open(&batch(Compression::Lz4, 3), 1 << 20).unwrap();
    let mut seen = Vec::new();
    unpacked
        .for_each(&mut |record| seen.push((record.offset.0, record.is_tombstone)))
        .unwrap();
    assert_eq!(seen, [(100, false), (101, false), (102, true)]);
}

#[test]
fn a_batch_that_lies_about_its_records_is_refused() {
    let mut kept = UnpackedBatch::open(&batch(Compression::None, 4), 1 << 20)
        .unwrap()
        .retain(None, &mut |record| record.offset.0 != 101)
        .unwrap();
    validate_stored_batch(&kept).unwrap();
    // One record fewer than there are, under a right checksum.
    kept[60] = 2;
    let crc = crc32c(&kept[CRC_START..]);
    kept[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(
        validate_stored_batch(&kept),
        Err(BatchError::Record { index: 2 })
    );
    kept[60] = 3;
    assert!(matches!(
        validate_stored_batch(&kept),
        Err(BatchError::Checksum { .. })
    ));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = validate_stored_batch(&bytes);
        if let Ok(unpacked) = UnpackedBatch::open(&Bytes::from(bytes), 1 << 16) {
            let _ = unpacked.retain(Some(TimestampMs(1)), &mut |_| true);
        }
    }
}
