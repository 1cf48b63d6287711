//! Who is in sync, and what is asked of the controller.

use super::*;

fn answer(partition_epoch: i32, result: Result<(), ErrorCode>) -> Input {
    Input::AlterPartitionResult {
        partition_epoch: PartitionEpoch(partition_epoch),
        result,
    }
}

/// A leader that waits for the answer to its request to shrink to 1 and 2.
fn shrinking() -> Replica {
    let mut leader = Replica::leader(&[1, 2, 3]);
    leader.state(2, 0, -1);
    assert_eq!(leader.core.next_deadline(), Some(leader.now + LAG_MAX));
    let effects = leader.tick_after(LAG_MAX);
    assert_eq!(effects.len(), 1);
    leader
}

#[test]
fn a_follower_that_never_stated_itself_leaves_after_the_lag_time() {
    let mut leader = Replica::leader(&[1, 2, 3]);
    leader.state(2, 0, -1);
    assert_eq!(leader.tick_after(LAG_MAX - Duration::from_nanos(1)), vec![]);
    let effects = leader.tick_after(Duration::from_nanos(1));
    assert_eq!(effects, vec![alter(1, 1, &[1, 2])]);
}

#[test]
fn a_member_that_did_not_state_itself_is_vouched_for_without_registration() {
    let mut leader = Replica::leader(&[1, 2, 3]);
    leader.step(Input::Assignment(assignment(1, 1, 2, &[1, 2])));
    let effects = leader.state(3, 0, -1);
    assert_eq!(
        effects[1],
        Effect::AlterPartition {
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(2),
            isr: vec![
                (NodeId(1), broker_epoch(1)),
                (NodeId(2), UNKNOWN_BROKER_EPOCH),
                (NodeId(3), broker_epoch(3)),
            ],
        }
    );
}

#[test]
fn only_one_change_is_asked_for_at_a_time() {
    let mut leader = shrinking();
    leader.produce(Acks::None, 1);
    assert_eq!(leader.tick_after(LAG_MAX * 2), vec![]);
}

#[test]
fn a_follower_joins_at_the_high_watermark_and_the_epoch_start() {
    let mut leader = Replica::with_log(&[(1, 0)], 10);
    leader.step(Input::Assignment(assignment(1, 2, 2, &[1, 2])));
    leader.state(2, 10, 1);
    leader.state(3, 5, 1);
    assert_eq!(leader.ack(3, 9), vec![]);
    assert_eq!(leader.ack(3, 10), vec![alter(2, 2, &[1, 2, 3])]);
}

#[test]
fn a_follower_that_is_fenced_or_of_another_registration_does_not_join() {
    for registered in [None, Some(BrokerEpoch(200))] {
        let mut leader = Replica::leader(&[1, 2]);
        let mut given = assignment(1, 1, 1, &[1, 2]);
        given.eligible.remove(&NodeId(3));
        given
            .eligible
            .extend(registered.map(|epoch| (NodeId(3), epoch)));
        leader.step(Input::Assignment(given));
        assert_eq!(leader.state(3, 0, -1).len(), 1, "only told to start");
        // Once the metadata agrees, it joins.
        let effects = leader.step(Input::Assignment(assignment(1, 1, 1, &[1, 2])));
        assert_eq!(effects.len(), 1);
    }
}

#[test]
fn a_member_that_is_no_longer_eligible_is_left_to_the_controller() {
    let mut leader = Replica::leader_with_followers();
    let mut given = assignment(1, 1, 1, &[1, 2, 3]);
    given.eligible.remove(&NodeId(3));
    assert_eq!(leader.step(Input::Assignment(given)), vec![]);
}

#[test]
fn success_waits_for_the_metadata() {
    let mut leader = shrinking();
    assert_eq!(leader.step(answer(1, Ok(()))), vec![]);
    assert!(leader.core.describe().proposed_isr.is_some());
    leader.step(Input::Assignment(assignment(1, 1, 2, &[1, 2])));
    assert_eq!(leader.core.describe().proposed_isr, None);
}

#[test]
fn metadata_may_come_before_the_answer() {
    let mut leader = shrinking();
    leader.step(Input::Assignment(assignment(1, 1, 2, &[1, 2])));
    let effects = leader.state(3, 0, -1);
    assert_eq!(effects[1], alter(1, 2, &[1, 2, 3]));
    assert_eq!(
        leader.step(answer(1, Err(ErrorCode::NotController))),
        vec![]
    );
    assert_eq!(leader.tick_after(LAG_MAX), vec![]);
}

#[test]
fn a_stale_epoch_keeps_waiting_for_metadata() {
    for error in [
        ErrorCode::InvalidUpdateVersion,
        ErrorCode::FencedLeaderEpoch,
    ] {
        let mut leader = shrinking();
        leader.step(answer(1, Err(error)));
        assert_eq!(leader.tick_after(LAG_MAX), vec![]);
        assert!(leader.core.describe().proposed_isr.is_some());
    }
}

#[test]
fn an_unknown_outcome_is_asked_for_again_and_stays_pending() {
    let mut leader = shrinking();
    let timed_out = Err(ErrorCode::RequestTimedOut);
    assert_eq!(leader.step(answer(1, timed_out)), vec![]);
    let retry = leader.now + isr::ISR_RETRY_BACKOFF;
    assert_eq!(leader.core.next_deadline(), Some(retry));
    assert_eq!(
        leader.tick_after(isr::ISR_RETRY_BACKOFF),
        vec![alter(1, 1, &[1, 2])]
    );
}

#[test]
fn an_ineligible_replica_takes_the_change_back() {
    let mut leader = Replica::leader(&[1, 2]);
    leader.state(2, 0, -1);
    leader.state(3, 0, -1);
    leader.step(answer(1, Err(ErrorCode::IneligibleReplica)));
    assert_eq!(leader.core.describe().proposed_isr, None);
    assert_eq!(leader.ack(3, 0), vec![], "not at once");
    assert_eq!(
        leader.tick_after(isr::ISR_RETRY_BACKOFF),
        vec![alter(1, 1, &[1, 2, 3])]
    );
}

#[test]
fn no_deadline_is_left_in_the_past() {
    let mut leader = shrinking();
    assert_eq!(leader.core.next_deadline(), None);
    leader.step(answer(1, Err(ErrorCode::NotController)));
    let due = leader.core.next_deadline().unwrap();
    assert!(due > leader.now);
}

#[test]
fn a_replica_added_again_must_state_itself_again() {
    let mut leader = Replica::leader_with_followers();
    let without = Assignment {
        replicas: vec![NodeId(1), NodeId(2)],
        ..assignment(1, 1, 2, &[1, 2])
    };
    leader.step(Input::Assignment(without));
    assert_eq!(
        leader.step(Input::Assignment(assignment(1, 1, 3, &[1, 2]))),
        vec![]
    );
    assert_eq!(leader.ack(3, 0), vec![]);
    assert_eq!(leader.state(3, 0, -1)[1], alter(1, 3, &[1, 2, 3]));
}

#[test]
fn a_follower_that_joins_at_the_high_watermark_has_the_lag_time_to_reach_the_end() {
    let mut leader = Replica::leader(&[1]);
    leader.produce(Acks::Leader, 5);
    leader.flush(1);
    leader.now = leader.now + LAG_MAX * 2;
    assert_eq!(leader.state(2, 0, -1)[1], alter(1, 1, &[1, 2]));
    let joined = Input::Assignment(assignment(1, 1, 2, &[1, 2]));
    assert_eq!(leader.step(joined), vec![]);
    assert_eq!(leader.tick_after(LAG_MAX), vec![alter(1, 2, &[1])]);
}
