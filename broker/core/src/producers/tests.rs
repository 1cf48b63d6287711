use ottla_model::LeaderEpoch;
use ottla_model::batch::Attributes;

use super::*;

fn header(id: i64, epoch: i16, sequence: i32, count: i32, base_offset: i64) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(base_offset),
        size: 100,
        leader_epoch: LeaderEpoch(0),
        magic: 2,
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: count - 1,
        base_timestamp: TimestampMs(0),
        max_timestamp: TimestampMs(0),
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: sequence,
        record_count: count,
    }
}

/// Producer 1 in epoch 0 with single-record batches of the sequences 0 to `count` - 1, at the
/// same offsets.
fn after(count: i32) -> Producers {
    let mut producers = Producers::new();
    for sequence in 0..count {
        producers.observe(&header(1, 0, sequence, 1, i64::from(sequence)));
    }
    producers
}

fn base_of(result: Result<Sequence, SequenceError>) -> i64 {
    match result {
        Ok(Sequence::Duplicate(batch)) => batch.base_offset.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_of_the_last_five_batches_is_recognised() {
    let producers = after(8);
    for sequence in 3..8 {
        let found = producers.check(&header(1, 0, sequence, 1, 0));
        assert_eq!(base_of(found), i64::from(sequence));
    }
    assert_eq!(
        producers.check(&header(1, 0, 2, 1, 0)),
        Err(SequenceError::OutOfOrder {
            producer: ProducerId(1),
            given: 2,
            expected: 8
        })
    );
}

#[test]
fn a_batch_of_other_length_is_no_repetition() {
    assert!(after(8).check(&header(1, 0, 7, 2, 0)).is_err());
}

#[test]
fn an_older_epoch_is_fenced_and_a_newer_one_starts_at_zero() {
    let mut producers = after(3);
    assert_eq!(producers.check(&header(1, 1, 0, 1, 0)), Ok(Sequence::New));
    assert!(producers.check(&header(1, 1, 3, 1, 0)).is_err());
    producers.observe(&header(1, 1, 0, 1, 3));
    let fenced = producers.check(&header(1, 0, 3, 1, 0)).unwrap_err();
    assert_eq!(fenced.code(), ErrorCode::InvalidProducerEpoch);
}

#[test]
fn sequences_wrap_to_zero() {
    let mut producers = Producers::new();
    producers.observe(&header(1, 0, i32::MAX - 1, 2, 0));
    assert_eq!(producers.check(&header(1, 0, 0, 5, 0)), Ok(Sequence::New));
    let mut producers = Producers::new();
    producers.observe(&header(1, 0, i32::MAX, 3, 0));
    assert_eq!(producers.check(&header(1, 0, 2, 1, 0)), Ok(Sequence::New));
}

#[test]
fn an_unknown_producer_may_begin_anywhere_but_not_below_zero() {
    let producers = Producers::new();
    assert_eq!(producers.check(&header(9, 3, 77, 1, 0)), Ok(Sequence::New));
    let malformed = producers.check(&header(9, 3, -1, 1, 0)).unwrap_err();
    assert_eq!(malformed.code(), ErrorCode::InvalidRecord);
}

#[test]
fn a_cut_within_the_remembered_batches_is_exact() {
    let mut producers = after(8);
    assert!(!producers.truncate(Offset(5)));
    assert_eq!(base_of(producers.check(&header(1, 0, 4, 1, 0))), 4);
    assert_eq!(producers.check(&header(1, 0, 5, 1, 0)), Ok(Sequence::New));
}

#[test]
fn a_cut_below_the_remembered_batches_needs_the_log() {
    assert!(after(8).truncate(Offset(2)));
    let mut fresh = after(3);
    assert!(!fresh.truncate(Offset(0)), "nothing older was ever there");
    assert!(fresh.is_empty());
}

#[test]
fn what_came_while_the_log_was_read_is_added_behind_it() {
    let mut later = Producers::new();
    later.observe(&header(1, 0, 8, 1, 8));
    later.observe(&header(2, 0, 0, 1, 9));
    let mut read = after(8);
    read.absorb(later);
    let mut all = after(9);
    all.observe(&header(2, 0, 0, 1, 9));
    assert_eq!(
        read.check(&header(1, 0, 9, 1, 0)),
        all.check(&header(1, 0, 9, 1, 0))
    );
    assert_eq!(base_of(read.check(&header(1, 0, 4, 1, 0))), 4);
    assert_eq!(base_of(read.check(&header(2, 0, 0, 1, 0))), 9);
}

#[test]
fn a_silent_producer_is_forgotten_by_the_partitions_clock() {
    let mut producers = after(3);
    producers.expire(TimestampMs(1_000), 100);
    assert_eq!(producers.len(), 1, "seen now for the first time");
    producers.expire(TimestampMs(1_099), 100);
    assert_eq!(producers.len(), 1);
    producers.expire(TimestampMs(1_100), 100);
    assert_eq!(producers.len(), 0);
}

#[test]
fn the_producer_that_was_silent_longest_makes_room() {
    let mut producers = Producers::new();
    let most = PRODUCERS_PER_PARTITION_MAX as i64;
    for id in 0..most {
        producers.observe(&header(id, 0, 0, 1, id));
    }
    producers.observe(&header(0, 0, 1, 1, most));
    producers.observe(&header(most, 0, 0, 1, most + 1));
    assert_eq!(producers.len(), PRODUCERS_PER_PARTITION_MAX);
    assert!(producers.check(&header(0, 0, 5, 1, 0)).is_err(), "known");
    assert_eq!(producers.check(&header(1, 0, 5, 1, 0)), Ok(Sequence::New));
}

#[test]
fn the_bytes_of_saved_producers_never_change() {
    let mut producers = after(1);
    producers.observe(&header(7, 3, 2, 4, 10));
    let hex: String = producers
        .encode()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected = [
        "01",
        "00000002",
        "0000000000000001",
        "0000",
        "00",
        "01",
        "0000000000000000",
        "0000000000000000",
        "0000000000000000",
        "0000000000000000",
        "0000000000000007",
        "0003",
        "00",
        "01",
        "0000000200000005",
        "000000000000000a",
        "000000000000000d",
        "0000000000000000",
    ];
    assert_eq!(hex, expected.concat());
}

#[test]
fn bytes_that_are_no_producers_are_refused() {
    let mut producers = after(9);
    producers.observe(&header(7, 3, 2, 4, 10));
    let bytes = producers.encode();
    assert!(Producers::decode(&bytes).is_some());
    for length in 0..bytes.len() {
        assert!(Producers::decode(&bytes[..length]).is_none(), "{length}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(Producers::decode(&longer).is_none());
    let newer = [&[2], &bytes[1..]].concat();
    assert!(Producers::decode(&newer).is_none());
}

/// Whatever was sent, and wherever it was saved: what was saved, and the batches since, come to the
/// same as all of them.
mod saved_in_between {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_gone_on_from(
            sent in prop::collection::vec((0..4_i64, 0..3_i16, 1..4_i32), 0..60),
            at in 0..60_usize,
        ) {
            let mut base = 0;
            let mut all = Producers::new();
            let mut after = Producers::new();
            for (number, (id, epoch, count)) in sent.iter().enumerate() {
                if number == at {
                    after = Producers::decode(&after.encode()).unwrap();
                    prop_assert_eq!(&after, &all);
                }
                let header = header(*id, *epoch, base as i32, *count, base);
                all.observe(&header);
                after.observe(&header);
                base += i64::from(*count);
            }
            prop_assert_eq!(&Producers::decode(&after.encode()).unwrap(), &all);
        }
    }
}
