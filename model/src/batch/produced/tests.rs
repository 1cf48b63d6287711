use bytes::Bytes;

use super::*;
use crate::batch::{BatchBuilder, NewRecord};
use crate::checksum::crc32c;
use crate::compression::Compression;

const NOW: i64 = 1_700_000_000_000;
const WINDOW: TimestampWindow = TimestampWindow {
    now: TimestampMs(NOW),
    before_max_ms: i64::MAX,
    after_max_ms: 3_600_000,
};

const ATTRIBUTES: usize = 21;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;

fn batch(compression: Compression, times: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for time in times {
        let record = NewRecord {
            timestamp: TimestampMs(*time),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build().unwrap()
}

/// The batch with other bytes at a place, and the checksum of what it is then.
fn resealed(batch: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = crc32c(&bytes[ATTRIBUTES..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn judged(batch: &Bytes) -> Result<(), ErrorCode> {
    let judged = validate_produced(batch, Some(WINDOW)).map(drop);
    judged.map_err(|error| error.code())
}

#[test]
fn what_producers_write_is_taken() {
    for compression in Compression::ALL {
        for times in [&[NOW][..], &[NOW, NOW + 5, NOW - 9], &[-1, -1], &[0]] {
            assert_eq!(judged(&batch(compression, times)), Ok(()), "{times:?}");
        }
    }
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(ProducerId(0), ProducerEpoch(0), 0);
    builder.push(&NewRecord::default()).unwrap();
    assert_eq!(judged(&builder.build().unwrap()), Ok(()));
}

#[test]
fn a_base_offset_is_the_leaders_to_give() {
    for offset in [1i64, -1, i64::MAX, i64::MIN] {
        let batch = resealed(&batch(Compression::None, &[NOW]), 0, &offset.to_be_bytes());
        assert_eq!(judged(&batch), Err(ErrorCode::InvalidRecord), "{offset}");
    }
}

#[test]
fn attributes_that_nobody_assigned_are_refused() {
    for bit in 6..16u32 {
        let attributes = (1u16 << bit).to_be_bytes();
        let batch = resealed(&batch(Compression::None, &[NOW]), ATTRIBUTES, &attributes);
        assert_eq!(judged(&batch), Err(ErrorCode::InvalidRecord), "bit {bit}");
    }
}

#[test]
fn producer_fields_are_all_there_or_all_absent() {
    let plain = batch(Compression::None, &[NOW]);
    let with = |id: i64, epoch: i16, sequence: i32| {
        let batch = resealed(&plain, PRODUCER_ID, &id.to_be_bytes());
        let batch = resealed(&batch, PRODUCER_EPOCH, &epoch.to_be_bytes());
        judged(&resealed(&batch, BASE_SEQUENCE, &sequence.to_be_bytes()))
    };
    assert_eq!(with(7, 0, 0), Ok(()));
    for (id, epoch, sequence) in [
        (-1, 0, -1),
        (-1, -1, 0),
        (-1, 3, 3),
        (7, -1, -1),
        (7, -1, 0),
        (7, 0, -1),
        (-2, 0, 0),
        (i64::MIN, -1, -1),
        (-1, -2, -1),
        (-1, -1, i32::MIN),
    ] {
        let judged = with(id, epoch, sequence);
        let refused = Err(ErrorCode::InvalidRecord);
        assert_eq!(judged, refused, "{id} {epoch} {sequence}");
    }
}

#[test]
fn a_header_agrees_with_the_times_of_its_records() {
    let plain = batch(Compression::None, &[NOW, NOW + 10]);
    for max in [NOW + 9, NOW + 11, -1, i64::MAX, i64::MIN] {
        let batch = resealed(&plain, MAX_TIMESTAMP, &max.to_be_bytes());
        assert_eq!(judged(&batch), Err(ErrorCode::InvalidTimestamp), "{max}");
    }
    // Moves the records along: they then end where the header does not.
    let batch_of_base = resealed(&plain, BASE_TIMESTAMP, &(NOW - 1).to_be_bytes());
    assert_eq!(judged(&batch_of_base), Err(ErrorCode::InvalidTimestamp));
    let packed = batch(Compression::Lz4, &[NOW, NOW + 10]);
    let before_base = resealed(&packed, MAX_TIMESTAMP, &(NOW - 1).to_be_bytes());
    assert_eq!(judged(&before_base), Err(ErrorCode::InvalidTimestamp));
}

#[test]
fn times_outside_the_window_are_refused() {
    for compression in [Compression::None, Compression::Zstd] {
        let of = |time| judged(&batch(compression, &[time]));
        let refused = Err(ErrorCode::InvalidTimestamp);
        assert_eq!(of(NOW + 3_600_000), Ok(()));
        assert_eq!(of(NOW + 3_600_001), refused);
        for time in [i64::MAX, i64::MIN, -2] {
            assert_eq!(of(time), refused, "{time}");
        }
        let narrow = TimestampWindow {
            before_max_ms: 1_000,
            ..WINDOW
        };
        let at = |time| validate_produced(&batch(compression, &[time]), Some(narrow)).is_ok();
        assert!(at(NOW - 1_000) && !at(NOW - 1_001) && at(-1));
    }
    // One record among good ones.
    let hidden = batch(Compression::None, &[NOW, -2, NOW]);
    assert_eq!(judged(&hidden), Err(ErrorCode::InvalidTimestamp));
}

#[test]
fn a_topic_with_append_time_does_not_look_at_the_producers() {
    for time in [NOW + 3_600_001, -2, i64::MAX] {
        let batch = batch(Compression::None, &[time]);
        assert!(validate_produced(&batch, None).is_ok(), "{time}");
    }
}
