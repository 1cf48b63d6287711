//! What moves the high watermark.

use super::*;

#[test]
fn the_high_watermark_is_the_smallest_durable_end_of_the_isr() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::None, 5);
    assert_eq!(leader.flush(1), vec![]);
    assert_eq!(leader.ack(2, 5), vec![]);
    assert_eq!(leader.ack(3, 5), vec![high_watermark(5)]);
}

#[test]
fn the_leader_counts_with_its_own_durable_end() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::None, 5);
    leader.ack(2, 5);
    assert_eq!(leader.ack(3, 5), vec![]);
    assert_eq!(leader.flush(1), vec![high_watermark(5)]);
}

#[test]
fn an_isr_member_that_did_not_state_itself_in_this_epoch_holds_the_high_watermark() {
    let mut leader = Replica::leader(&[1, 2, 3]);
    leader.produce(Acks::None, 5);
    leader.flush(1);
    leader.state(2, 5, 1);
    assert_eq!(leader.core.high_watermark(), Offset(0));
    let effects = leader.state(3, 5, 1);
    assert_eq!(effects[1], high_watermark(5));
}

#[test]
fn an_ack_of_an_earlier_leader_epoch_does_not_count() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::None, 5);
    leader.flush(1);
    leader.ack(3, 5);
    let late = FollowerAck {
        follower: NodeId(2),
        broker_epoch: broker_epoch(2),
        leader_epoch: LeaderEpoch(0),
        durable_end: Offset(5),
        log_start: Offset(0),
    };
    assert_eq!(leader.step(Input::FollowerAck(late)), vec![]);
    assert_eq!(leader.core.high_watermark(), Offset(0));
}

#[test]
fn an_ack_of_an_earlier_incarnation_does_not_count() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::None, 5);
    leader.flush(1);
    leader.ack(3, 5);
    let late = FollowerAck {
        follower: NodeId(2),
        broker_epoch: BrokerEpoch(50),
        leader_epoch: LeaderEpoch(1),
        durable_end: Offset(5),
        log_start: Offset(0),
    };
    assert_eq!(leader.step(Input::FollowerAck(late)), vec![]);
}

#[test]
fn an_ack_above_the_log_end_is_refused() {
    let mut leader = Replica::leader_with_followers();
    assert_eq!(
        leader.ack(2, 9),
        vec![Effect::RefuseFollower {
            follower: NodeId(2),
            error: ErrorCode::InvalidRequest,
        }]
    );
}

#[test]
fn the_high_watermark_is_frozen_while_the_isr_is_too_small() {
    let mut leader = Replica::leader(&[1]);
    leader.produce(Acks::Leader, 5);
    assert_eq!(leader.flush(1), vec![acked(1, 0)]);
    assert_eq!(leader.core.high_watermark(), Offset(0));
    leader.state(2, 5, 1);
    assert_eq!(leader.core.high_watermark(), Offset(0));
    let effects = leader.step(Input::Assignment(assignment(1, 1, 2, &[1, 2])));
    assert_eq!(effects, vec![high_watermark(5)]);
}

#[test]
fn a_pending_expansion_already_counts_the_new_member() {
    let mut leader = Replica::leader(&[1, 2]);
    leader.state(2, 0, -1);
    let effects = leader.state(3, 0, -1);
    assert_eq!(effects[1], alter(1, 1, &[1, 2, 3]));
    leader.produce(Acks::None, 5);
    leader.flush(1);
    assert_eq!(leader.ack(2, 5), vec![]);
    assert_eq!(leader.ack(3, 5), vec![high_watermark(5)]);
}

#[test]
fn a_pending_shrink_still_counts_the_old_member() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::None, 5);
    leader.flush(1);
    leader.ack(2, 5);
    let effects = leader.tick_after(LAG_MAX);
    assert_eq!(effects, vec![alter(1, 1, &[1, 2])]);
    assert_eq!(leader.core.high_watermark(), Offset(0));
    let effects = leader.step(Input::Assignment(assignment(1, 1, 2, &[1, 2])));
    assert_eq!(effects, vec![high_watermark(5)]);
}

#[test]
fn a_caught_up_follower_that_may_join_holds_the_high_watermark_back() {
    let mut leader = Replica::leader(&[1, 2]);
    leader.state(2, 0, -1);
    leader.state(3, 0, -1);
    // The expansion is refused for now, yet the follower will ask again.
    let refused = Input::AlterPartitionResult {
        partition_epoch: PartitionEpoch(1),
        result: Err(ErrorCode::IneligibleReplica),
    };
    leader.step(refused);
    leader.produce(Acks::None, 5);
    leader.flush(1);
    assert_eq!(leader.ack(2, 5), vec![]);
    let gone = NodeId(3);
    assert_eq!(
        leader.step(Input::FollowerGone { follower: gone }),
        vec![high_watermark(5)]
    );
}

#[test]
fn a_flush_of_a_truncated_append_never_counts() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    follower.data(push(5, &[(10, 4, 5)], 0));
    follower.step(Input::LeaderDiverged {
        leader_epoch: LeaderEpoch(5),
        epoch: LeaderEpoch(3),
        end_offset: Offset(10),
    });
    assert_eq!(follower.core.log_end(), Offset(10));
    assert_eq!(follower.flush(1), vec![]);
    follower.data(push(5, &[(10, 5, 5)], 0));
    assert_eq!(follower.flush(1), vec![]);
    assert_eq!(follower.core.durable_end(), Offset(10));
    assert_eq!(follower.flush(2).len(), 1);
    assert_eq!(follower.core.durable_end(), Offset(15));
}

#[test]
fn a_new_leader_knows_no_latest_offset_until_its_epoch_is_committed() {
    let mut leader = Replica::with_log(&[(1, 0)], 10);
    leader.step(Input::Assignment(assignment(1, 2, 2, &[1, 2])));
    assert_eq!(
        leader.core.latest_offset(),
        Err(ErrorCode::OffsetNotAvailable)
    );
    let effects = leader.state(2, 10, 1);
    assert_eq!(effects[1], high_watermark(10));
    assert_eq!(leader.core.latest_offset(), Ok(Offset(10)));
}

#[test]
fn retention_stops_at_the_high_watermark() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::None, 5);
    leader.step(Input::Retain { from: Offset(3) });
    assert_eq!(leader.core.log_start(), Offset(0));
    leader.flush(1);
    leader.ack(2, 5);
    leader.ack(3, 5);
    leader.step(Input::Retain { from: Offset(3) });
    assert_eq!(leader.core.log_start(), Offset(3));
}
