use std::time::Duration;

use ottla_model::batch::{BatchBuilder, NewRecord, stamp};
use ottla_model::compression::Compression;

use super::*;

fn batch(base: i64, count: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    for n in 0..count {
        let value = (base + n as i64).to_string();
        let record = NewRecord {
            value: Some(value.as_bytes()),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    let mut bytes = builder.build().unwrap().to_vec();
    stamp(&mut bytes, Offset(base), LeaderEpoch(0), None);
    bytes
}

fn position(at: i64) -> Position {
    let ms = Duration::from_millis;
    let backoff = Backoff::new(ms(20), ms(100));
    Position::new(Arc::from("t"), PartitionIndex(0), Offset(at), backoff)
}

fn take(position: &mut Position, most: usize) -> Vec<i64> {
    let mut out = Vec::new();
    position.take_records(most, &mut out).unwrap();
    out.iter().map(|record| record.offset.0).collect()
}

#[test]
fn records_below_the_position_are_skipped() {
    let mut position = position(3);
    position.on_batches(Offset(8), &[batch(0, 5), batch(5, 3)].concat().into());
    assert_eq!(position.fetch_next(), Offset(8));
    assert_eq!(take(&mut position, 2), [3, 4]);
    assert_eq!(position.next(), Offset(5));
    assert_eq!(take(&mut position, 10), [5, 6, 7]);
    assert_eq!((position.next(), position.buffered_bytes()), (Offset(8), 0));
}

#[test]
fn batches_that_are_held_already_are_not_taken_twice() {
    let mut position = position(0);
    position.on_batches(Offset(5), &batch(0, 5).into());
    position.on_batches(Offset(8), &[batch(0, 5), batch(5, 3)].concat().into());
    assert_eq!(take(&mut position, 100), (0..8).collect::<Vec<_>>());
}

#[test]
fn control_batches_are_passed_over() {
    let mut control = batch(0, 1);
    control[22] |= 1 << 5;
    let crc = crc_of(&control);
    control[17..21].copy_from_slice(&crc.to_be_bytes());
    let mut position = position(0);
    position.on_batches(Offset(3), &[control, batch(1, 2)].concat().into());
    assert_eq!(take(&mut position, 100), [1, 2]);
}

/// CRC-32C, bit by bit.
fn crc_of(batch: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 {
            (crc >> 1) ^ 0x82f6_3b78
        } else {
            crc >> 1
        }
    };
    !batch[21..]
        .iter()
        .fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[test]
fn damage_is_an_error_and_stays_one_until_a_seek() {
    let mut bad = batch(2, 2);
    *bad.last_mut().unwrap() ^= 1;
    let mut position = position(0);
    position.on_batches(Offset(4), &[batch(0, 2), bad].concat().into());
    assert_eq!(take(&mut position, 2), [0, 1]);
    let error = position.take_records(2, &mut Vec::new()).unwrap_err();
    assert!(
        matches!(
            &error,
            ConsumeError::Corrupt {
                offset: Offset(2),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(position.failure(), Some(&error));
    assert!(!position.wants_fetch(Instant::ZERO, LeaderEpoch(0), 100));
    position.seek(Offset(4));
    assert!(position.failure().is_none());
    assert!(position.wants_fetch(Instant::ZERO, LeaderEpoch(0), 100));
}

/// A batch with a right checksum whose compressed part is garbage.
fn unpackable(base: i64, count: usize) -> Vec<u8> {
    let mut bytes = batch(base, count);
    bytes[22] |= Compression::Gzip.id();
    with_crc(bytes)
}

fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc_of(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[test]
fn a_batch_that_cannot_be_unpacked_is_laid_to_its_producer_and_says_where_to_go_on() {
    let mut position = position(0);
    let bytes = [batch(0, 2), unpackable(2, 3), batch(5, 1)].concat();
    position.on_batches(Offset(6), &bytes.into());
    assert_eq!(take(&mut position, 2), [0, 1]);
    let error = position.take_records(9, &mut Vec::new()).unwrap_err();
    let text = error.to_string();
    for part in ["offsets 2 to 4 of t-0", "gzip", "producer", "offset 5"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert!(!text.contains("damaged at"), "{text}");
    assert_eq!(error.unreadable_partition(), Some(PartitionIndex(0)));
    assert_eq!(position.failure(), Some(&error));
    position.seek(error.next_offset().unwrap());
    position.on_batches(Offset(6), &batch(5, 1).into());
    assert_eq!(take(&mut position, 9), [5]);
}

#[test]
fn a_batch_whose_records_claim_other_offsets_hides_none_behind_it() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&NewRecord::default()).unwrap();
    let mut bytes = builder.build().unwrap().to_vec();
    // Length, attributes, timestamp delta; then the offset delta: 5 in zigzag.
    bytes[61 + 3] = 10;
    let records = bytes.split_off(61);
    Compression::Gzip.compress(&records, &mut bytes).unwrap();
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] |= Compression::Gzip.id();
    let mut position = position(0);
    position.on_batches(Offset(2), &[with_crc(bytes), batch(1, 1)].concat().into());
    let error = position.take_records(9, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("has offset 5"), "{error}");
    assert_eq!(error.next_offset(), Some(Offset(1)));
}

#[test]
fn what_came_before_a_failure_is_handed_out_first() {
    let mut position = position(0);
    let cut_off = &batch(2, 2)[..30];
    position.on_batches(Offset(4), &[&batch(0, 2), cut_off].concat().into());
    assert_eq!(position.failure(), None);
    assert_eq!(take(&mut position, 9), [0, 1]);
    assert!(position.failure().is_some());
}

#[test]
fn a_cut_off_batch_is_an_error() {
    let bytes = batch(0, 2);
    let mut position = position(0);
    position.on_batches(Offset(2), &bytes[..bytes.len() - 1].to_vec().into());
    assert!(matches!(
        position.failure(),
        Some(ConsumeError::Corrupt { .. })
    ));
}

#[test]
fn a_newer_leader_ends_the_wait() {
    let mut position = position(0);
    position.on_retriable(Instant::ZERO, LeaderEpoch(3));
    assert!(!position.wants_fetch(Instant::ZERO, LeaderEpoch(3), 100));
    assert!(position.wants_fetch(Instant::ZERO, LeaderEpoch(4), 100));
}
