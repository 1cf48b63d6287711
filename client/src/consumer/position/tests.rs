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
