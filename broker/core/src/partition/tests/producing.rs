//! Which writes are taken, and when their producers hear of it.

use super::*;

fn append(ticket: u64, batches: Bytes, base: i64, epoch: i32) -> Effect {
    Effect::Append {
        ticket,
        batches,
        stamp: Some(Stamp {
            base_offset: Offset(base),
            leader_epoch: LeaderEpoch(epoch),
            append_time: None,
        }),
    }
}

#[test]
fn a_leader_assigns_offsets_at_its_log_end() {
    let mut leader = Replica::leader_with_followers();
    assert_eq!(
        leader.produce(Acks::All, 3),
        vec![append(1, batch(3), 0, 1)]
    );
    assert_eq!(
        leader.produce(Acks::All, 2),
        vec![append(2, batch(2), 3, 1)]
    );
}

#[test]
fn acks_none_is_answered_at_once() {
    let mut leader = Replica::leader_with_followers();
    assert_eq!(
        leader.produce(Acks::None, 1),
        vec![append(1, batch(1), 0, 1), acked(1, 0)]
    );
}

#[test]
fn acks_leader_is_answered_after_the_local_flush() {
    let mut leader = Replica::leader_with_followers();
    assert_eq!(leader.produce(Acks::Leader, 1).len(), 1);
    assert_eq!(leader.flush(1), vec![acked(1, 0)]);
}

#[test]
fn acks_all_is_answered_when_the_high_watermark_passes() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::All, 2);
    leader.produce(Acks::All, 2);
    leader.flush(2);
    leader.ack(2, 4);
    assert_eq!(leader.ack(3, 2), vec![high_watermark(2), acked(1, 0)]);
    assert_eq!(leader.ack(3, 4), vec![high_watermark(4), acked(2, 2)]);
}

#[test]
fn acks_all_is_refused_before_the_append_while_the_isr_is_too_small() {
    let mut leader = Replica::leader(&[1]);
    let effects = leader.produce(Acks::All, 1);
    assert_eq!(effects.len(), 1);
    assert_eq!(failures(&effects), vec![(1, ErrorCode::NotEnoughReplicas)]);
    assert_eq!(leader.core.log_end(), Offset(0));
}

#[test]
fn acks_all_fails_when_the_isr_falls_below_the_minimum_after_the_append() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::All, 1);
    let effects = leader.step(Input::Assignment(assignment(1, 1, 2, &[1])));
    assert_eq!(
        failures(&effects),
        vec![(1, ErrorCode::NotEnoughReplicasAfterAppend)]
    );
    assert_eq!(leader.core.log_end(), Offset(1));
}

#[test]
fn a_write_that_waits_too_long_times_out_and_stays() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::All, 1);
    let deadline = leader.now + Duration::from_secs(30);
    assert!(leader.core.next_deadline() <= Some(deadline));
    let effects = leader.tick_after(Duration::from_secs(30));
    assert_eq!(failures(&effects), vec![(1, ErrorCode::RequestTimedOut)]);
    assert_eq!(leader.core.log_end(), Offset(1));
}

#[test]
fn a_follower_names_the_leader_to_a_producer() {
    let mut follower = Replica::follower(&[], 0);
    let effects = follower.produce(Acks::All, 1);
    assert_eq!(
        effects,
        vec![Effect::Reply {
            reply: ReplyId(1),
            result: Err(ProduceError {
                code: ErrorCode::NotLeaderOrFollower,
                leader: Some(NodeId(2)),
                leader_epoch: LeaderEpoch(5),
                fault: ProduceFault::NotLeader,
            }),
        }]
    );
}

#[test]
fn a_replica_without_assignment_knows_no_such_partition() {
    let mut replica = Replica::with_log(&[], 0);
    assert_eq!(
        failures(&replica.produce(Acks::All, 1)),
        vec![(1, ErrorCode::UnknownTopicOrPartition)]
    );
    assert_eq!(
        replica.core.fetch_bounds(None),
        Err(ErrorCode::UnknownTopicOrPartition)
    );
}

#[test]
fn a_producer_with_another_leader_epoch_is_told_which_side_is_behind() {
    let mut leader = Replica::leader_with_followers();
    for (given, code) in [
        (0, ErrorCode::FencedLeaderEpoch),
        (2, ErrorCode::UnknownLeaderEpoch),
    ] {
        let batch = batch(1);
        let effects = leader.step(Input::Produce(Produce {
            reply: ReplyId(9),
            acks: Acks::All,
            deadline: leader.now,
            wall_ms: WALL,
            expected_leader_epoch: Some(LeaderEpoch(given)),
            header: header(&batch),
            batch,
        }));
        assert_eq!(failures(&effects), vec![(9, code)]);
        let bounds = leader.core.fetch_bounds(Some(LeaderEpoch(given)));
        assert_eq!(bounds, Err(code));
    }
}

#[test]
fn a_batch_that_the_topic_cannot_take_is_refused() {
    let mut leader = Replica::leader_with_followers();
    let mut refused = |attributes: i16, size: usize| {
        let batch = batch(1);
        let mut header = header(&batch);
        header.attributes.0 = attributes;
        header.size = size;
        let effects = leader.step(Input::Produce(Produce {
            reply: ReplyId(9),
            acks: Acks::All,
            deadline: leader.now,
            wall_ms: WALL,
            expected_leader_epoch: None,
            header,
            batch,
        }));
        assert_eq!(effects.len(), 1);
        failures(&effects)[0].1
    };
    assert_eq!(refused(0, 1_001), ErrorCode::MessageTooLarge);
    assert_eq!(refused(1 << 3, 70), ErrorCode::InvalidTimestamp);
    assert_eq!(refused(1 << 4, 70), ErrorCode::UnsupportedVersion);
    assert_eq!(refused(1 << 5, 70), ErrorCode::InvalidRecord);
}

#[test]
fn append_time_is_stamped_and_told() {
    let mut leader = Replica::leader_with_followers();
    let mut given = assignment(1, 1, 1, &[1, 2, 3]);
    given.timestamp_type = TimestampType::LogAppendTime;
    leader.step(Input::Assignment(given));
    let effects = leader.produce_batch(Acks::None, producer_batch(4, 0, 0, 1));
    let Effect::Append {
        stamp: Some(stamp), ..
    } = &effects[0]
    else {
        panic!("{effects:?}");
    };
    assert_eq!(stamp.append_time, Some(WALL));
    let again = leader.produce_batch(Acks::None, producer_batch(4, 0, 0, 1));
    assert_eq!(
        again,
        vec![Effect::Reply {
            reply: ReplyId(2),
            result: Ok(ProduceAck {
                base_offset: Offset(0),
                log_append_time: Some(WALL),
                log_start: Offset(0),
                duplicate: true,
            }),
        }]
    );
}

#[test]
fn a_repeated_batch_waits_for_the_first_one_to_be_committed() {
    let mut leader = Replica::leader_with_followers();
    leader.produce_batch(Acks::All, producer_batch(4, 0, 0, 2));
    assert_eq!(
        leader.produce_batch(Acks::All, producer_batch(4, 0, 0, 2)),
        vec![]
    );
    leader.flush(1);
    leader.ack(2, 2);
    let effects = leader.ack(3, 2);
    let repeated = Effect::Reply {
        reply: ReplyId(2),
        result: Ok(ProduceAck {
            base_offset: Offset(0),
            log_append_time: None,
            log_start: Offset(0),
            duplicate: true,
        }),
    };
    assert_eq!(effects, vec![high_watermark(2), acked(1, 0), repeated]);
}

#[test]
fn a_sequence_gap_is_refused_and_nothing_is_appended() {
    let mut leader = Replica::leader_with_followers();
    leader.produce_batch(Acks::None, producer_batch(4, 0, 0, 2));
    let effects = leader.produce_batch(Acks::None, producer_batch(4, 0, 3, 1));
    assert_eq!(
        failures(&effects),
        vec![(2, ErrorCode::OutOfOrderSequenceNumber)]
    );
    assert_eq!(leader.core.log_end(), Offset(2));
}

#[test]
fn an_idempotent_retry_is_recognised_by_the_next_leader() {
    let mut replica = Replica::follower(&[], 0);
    let written = stamped(&producer_batch(4, 0, 0, 2), 0, 5);
    replica.data(LeaderData {
        headers: vec![header(&written)],
        batches: written,
        ..push(5, &[], 0)
    });
    replica.step(Input::Assignment(assignment(1, 6, 6, &[1, 2])));
    let effects = replica.produce_batch(Acks::All, producer_batch(4, 0, 0, 2));
    assert_eq!(effects, vec![]);
    assert_eq!(replica.core.log_end(), Offset(2));
}

#[test]
fn writes_are_refused_for_a_moment_while_producers_are_read_from_the_log() {
    let mut replica = Replica::follower(&[(1, 0)], 10);
    for sequence in 0..7 {
        let base = 10 + i64::from(sequence);
        let written = stamped(&producer_batch(4, 0, sequence, 1), base, 5);
        replica.data(LeaderData {
            headers: vec![header(&written)],
            batches: written,
            ..push(5, &[], 0)
        });
    }
    let effects = replica.step(Input::LeaderDiverged {
        leader_epoch: LeaderEpoch(5),
        epoch: LeaderEpoch(5),
        end_offset: Offset(11),
    });
    assert_eq!(effects[0], Effect::Truncate { to: Offset(11) });
    assert_eq!(effects[1], Effect::ReloadProducers);
    replica.step(Input::Assignment(assignment(1, 6, 6, &[1, 2])));
    let effects = replica.produce_batch(Acks::All, producer_batch(4, 0, 1, 1));
    assert_eq!(failures(&effects), vec![(1, ErrorCode::LeaderNotAvailable)]);
    let mut read = Producers::new();
    read.observe(&header(&stamped(&producer_batch(4, 0, 0, 1), 10, 5)));
    replica.step(Input::ProducersReloaded(read));
    let effects = replica.produce_batch(Acks::None, producer_batch(4, 0, 1, 1));
    assert_eq!(effects[1], acked(2, 11));
}
