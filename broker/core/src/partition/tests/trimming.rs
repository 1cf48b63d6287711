//! Dropping the start of the log on request: who must have done it before it is reported.

use super::*;

/// The leader with ten committed records, all its followers in sync.
fn leader() -> Replica {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::None, 10);
    leader.flush(1);
    leader.ack(2, 10);
    leader.ack(3, 10);
    assert_eq!(leader.core.high_watermark(), Offset(10));
    leader
}

fn trim(leader: &mut Replica, to: Option<i64>) -> Vec<Effect> {
    let trim = Trim {
        reply: ReplyId(70),
        to: to.map(Offset),
        expected_leader_epoch: None,
        deadline: leader.now + Duration::from_secs(5),
    };
    leader.step(Input::Trim(trim))
}

fn starts_at(leader: &mut Replica, follower: i32, log_start: i64) -> Vec<Effect> {
    leader.step(Input::FollowerAck(FollowerAck {
        follower: NodeId(follower),
        broker_epoch: broker_epoch(follower),
        leader_epoch: leader.core.leader_epoch(),
        durable_end: Offset(10),
        log_start: Offset(log_start),
    }))
}

fn trimmed(low: i64) -> Effect {
    Effect::TrimReply {
        reply: ReplyId(70),
        result: Ok(Offset(low)),
    }
}

fn refused(error: ErrorCode) -> Vec<Effect> {
    vec![Effect::TrimReply {
        reply: ReplyId(70),
        result: Err(error),
    }]
}

fn drops(ticket: u64, to: i64) -> Vec<Effect> {
    let to = Offset(to);
    vec![
        Effect::AdvanceLogStart { ticket, to },
        Effect::LogStartAdvanced { to },
    ]
}

#[test]
fn a_trim_is_reported_once_nobody_who_may_be_elected_has_the_records() {
    let mut leader = leader();
    assert_eq!(trim(&mut leader, Some(6)), drops(2, 6));
    assert_eq!(leader.core.log_start(), Offset(6));
    assert_eq!(starts_at(&mut leader, 2, 6), vec![]);
    assert_eq!(leader.flush(2), vec![]);
    assert_eq!(starts_at(&mut leader, 3, 6), vec![trimmed(6)]);
}

#[test]
fn a_trim_waits_for_the_leaders_own_disk() {
    let mut leader = leader();
    trim(&mut leader, Some(6));
    starts_at(&mut leader, 2, 6);
    assert_eq!(starts_at(&mut leader, 3, 6), vec![]);
    assert_eq!(leader.flush(2), vec![trimmed(6)]);
}

#[test]
fn a_trim_without_offset_goes_to_the_high_watermark() {
    let mut leader = leader();
    leader.produce(Acks::None, 5);
    assert_eq!(trim(&mut leader, None), drops(3, 10));
}

#[test]
fn what_is_trimmed_already_is_reported_at_once() {
    let mut leader = leader();
    trim(&mut leader, Some(6));
    leader.flush(2);
    starts_at(&mut leader, 2, 6);
    starts_at(&mut leader, 3, 6);
    assert_eq!(trim(&mut leader, Some(4)), vec![trimmed(6)]);
}

#[test]
fn nothing_above_the_high_watermark_is_trimmed() {
    let mut leader = leader();
    leader.produce(Acks::None, 5);
    assert_eq!(
        trim(&mut leader, Some(11)),
        refused(ErrorCode::OffsetOutOfRange)
    );
    assert_eq!(
        trim(&mut leader, Some(-1)),
        refused(ErrorCode::OffsetOutOfRange)
    );
}

#[test]
fn only_a_leader_trims() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    assert_eq!(
        trim(&mut follower, Some(1)),
        refused(ErrorCode::NotLeaderOrFollower)
    );
}

#[test]
fn nothing_is_trimmed_while_others_than_the_isr_may_be_elected() {
    let mut leader = leader();
    leader.step(Input::Assignment(assignment(1, 1, 2, &[1])));
    assert_eq!(
        trim(&mut leader, Some(1)),
        refused(ErrorCode::NotEnoughReplicas)
    );
}

#[test]
fn a_member_that_left_the_isr_need_not_trim() {
    let mut leader = leader();
    trim(&mut leader, Some(6));
    leader.flush(2);
    starts_at(&mut leader, 2, 6);
    let effects = leader.step(Input::Assignment(assignment(1, 1, 2, &[1, 2])));
    assert_eq!(effects[0], trimmed(6));
}

#[test]
fn a_follower_that_has_not_trimmed_does_not_join_the_isr() {
    let mut leader = leader();
    leader.step(Input::Assignment(assignment(1, 1, 2, &[1, 2])));
    leader.step(Input::AlterPartitionResult {
        partition_epoch: PartitionEpoch(2),
        result: Err(ErrorCode::IneligibleReplica),
    });
    trim(&mut leader, Some(6));
    leader.flush(2);
    leader.tick_after(Duration::from_secs(1));
    assert_eq!(starts_at(&mut leader, 3, 0), vec![]);
    assert_eq!(starts_at(&mut leader, 3, 6), vec![alter(1, 2, &[1, 2, 3])]);
}

#[test]
fn a_trim_that_takes_too_long_is_given_up_but_not_undone() {
    let mut leader = leader();
    trim(&mut leader, Some(6));
    let effects = leader.tick_after(Duration::from_secs(5));
    assert_eq!(effects, refused(ErrorCode::RequestTimedOut));
    assert_eq!(leader.core.log_start(), Offset(6));
}

#[test]
fn a_trim_ends_with_the_leadership() {
    let mut leader = leader();
    trim(&mut leader, Some(6));
    let effects = leader.step(Input::Assignment(assignment(2, 2, 2, &[1, 2, 3])));
    assert_eq!(effects[..1], refused(ErrorCode::NotLeaderOrFollower));
}

#[test]
fn a_leader_takes_over_a_trim_that_only_a_follower_has() {
    let mut leader = leader();
    assert_eq!(starts_at(&mut leader, 2, 7), drops(2, 7));
    assert_eq!(leader.core.log_start(), Offset(7));
}
