//! How a leadership begins and ends, and where a follower's log parts from the leader's.

use super::*;

fn start(follower: i32, from: i64) -> Effect {
    Effect::StartFollower {
        follower: NodeId(follower),
        from: Offset(from),
    }
}

fn diverged(follower: i32, epoch: i32, end_offset: i64) -> Effect {
    Effect::Diverged {
        follower: NodeId(follower),
        epoch: LeaderEpoch(epoch),
        end_offset: Offset(end_offset),
    }
}

/// The leader of epoch 7 over a log of the epochs 1, 3 and 5, ending at 30.
fn seasoned_leader() -> Replica {
    let mut leader = Replica::with_log(&[(1, 0), (3, 10), (5, 20)], 30);
    leader.step(Input::Assignment(assignment(1, 7, 7, &[1, 2, 3])));
    leader
}

#[test]
fn an_epoch_is_remembered_before_its_first_write() {
    let leader = seasoned_leader();
    assert_eq!(
        leader.core.end_offset_for_epoch(LeaderEpoch(5)),
        Some((LeaderEpoch(5), Offset(30)))
    );
    assert_eq!(
        leader.core.end_offset_for_epoch(LeaderEpoch(7)),
        Some((LeaderEpoch(7), Offset(30)))
    );
}

#[test]
fn a_follower_whose_log_is_a_part_of_the_leaders_is_pushed_to_from_its_end() {
    assert_eq!(seasoned_leader().state(2, 25, 5), vec![start(2, 25)]);
    assert_eq!(seasoned_leader().state(2, 15, 3), vec![start(2, 15)]);
    assert_eq!(seasoned_leader().state(2, 0, -1), vec![start(2, 0)]);
}

#[test]
fn a_follower_with_records_beyond_the_end_of_its_epoch_diverged() {
    assert_eq!(seasoned_leader().state(2, 25, 3), vec![diverged(2, 3, 20)]);
    assert_eq!(seasoned_leader().state(2, 35, 5), vec![diverged(2, 5, 30)]);
}

#[test]
fn a_follower_with_an_epoch_the_leader_never_had_is_told_the_one_below() {
    assert_eq!(seasoned_leader().state(2, 15, 4), vec![diverged(2, 3, 20)]);
    assert_eq!(seasoned_leader().state(2, 40, 6), vec![diverged(2, 5, 30)]);
}

#[test]
fn a_diverged_follower_does_not_count_until_its_log_matches() {
    let mut leader = Replica::with_log(&[(1, 0)], 10);
    leader.step(Input::Assignment(assignment(1, 2, 2, &[1, 2])));
    leader.state(2, 20, 1);
    assert_eq!(leader.ack(2, 10), vec![]);
    assert_eq!(leader.core.high_watermark(), Offset(0));
    assert_eq!(
        leader.state(2, 10, 1),
        vec![start(2, 10), high_watermark(10)]
    );
}

#[test]
fn a_follower_below_the_log_start_is_pushed_to_from_there() {
    let mut leader = Replica::with_log(&[(1, 0)], 30);
    let alone = Assignment {
        min_insync_replicas: 1,
        ..assignment(1, 2, 2, &[1])
    };
    leader.step(Input::Assignment(alone));
    leader.step(Input::Retain { from: Offset(20) });
    assert_eq!(leader.state(2, 10, 1)[0], start(2, 20));
}

#[test]
fn an_empty_log_that_goes_on_too_far_is_cut_to_the_leaders_end() {
    assert_eq!(seasoned_leader().state(2, 50, -1), vec![diverged(2, 7, 30)]);
}

#[test]
fn a_follower_of_another_epoch_is_refused() {
    let mut leader = seasoned_leader();
    for (leader_epoch, error) in [
        (6, ErrorCode::FencedLeaderEpoch),
        (8, ErrorCode::UnknownLeaderEpoch),
    ] {
        let stated = FollowerState {
            follower: NodeId(2),
            broker_epoch: broker_epoch(2),
            leader_epoch: LeaderEpoch(leader_epoch),
            log_end: Offset(30),
            durable_end: Offset(30),
            last_epoch: LeaderEpoch(5),
            log_start: Offset(0),
        };
        assert_eq!(
            leader.step(Input::FollowerState(stated)),
            vec![Effect::RefuseFollower {
                follower: NodeId(2),
                error
            }]
        );
    }
}

#[test]
fn a_follower_under_an_older_registration_is_refused() {
    let mut leader = seasoned_leader();
    leader.state(2, 30, 5);
    let stated = FollowerState {
        follower: NodeId(2),
        broker_epoch: BrokerEpoch(50),
        leader_epoch: LeaderEpoch(7),
        log_end: Offset(0),
        durable_end: Offset(0),
        last_epoch: LeaderEpoch::NONE,
        log_start: Offset(0),
    };
    assert_eq!(
        leader.step(Input::FollowerState(stated)),
        vec![Effect::RefuseFollower {
            follower: NodeId(2),
            error: ErrorCode::StaleBrokerEpoch
        }]
    );
}

#[test]
fn a_stranger_is_refused() {
    let mut leader = seasoned_leader();
    assert_eq!(
        leader.state(9, 0, -1),
        vec![Effect::RefuseFollower {
            follower: NodeId(9),
            error: ErrorCode::UnknownLeaderEpoch
        }]
    );
}

#[test]
fn a_leadership_that_ends_answers_the_writes_that_wait() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::All, 1);
    leader.produce(Acks::Leader, 1);
    let effects = leader.step(Input::Assignment(assignment(2, 2, 2, &[1, 2, 3])));
    assert_eq!(
        failures(&effects),
        vec![
            (1, ErrorCode::NotLeaderOrFollower),
            (2, ErrorCode::NotLeaderOrFollower)
        ]
    );
    assert_eq!(leader.core.role(), Role::Follower { leader: NodeId(2) });
}

#[test]
fn a_new_epoch_of_the_same_leader_starts_over() {
    let mut leader = Replica::leader_with_followers();
    leader.produce(Acks::All, 1);
    leader.flush(1);
    leader.ack(2, 1);
    let effects = leader.step(Input::Assignment(assignment(1, 2, 2, &[1, 2, 3])));
    assert_eq!(
        failures(&effects),
        vec![(1, ErrorCode::NotLeaderOrFollower)]
    );
    assert_eq!(leader.core.describe().followers[0].durable_end, None);
}

#[test]
fn a_stale_assignment_is_ignored() {
    let mut leader = Replica::leader_with_followers();
    leader.step(Input::Assignment(assignment(1, 1, 3, &[1, 2])));
    assert_eq!(
        leader.step(Input::Assignment(assignment(2, 1, 2, &[2]))),
        vec![]
    );
    assert_eq!(leader.core.role(), Role::Leader);
    assert_eq!(leader.core.isr(), &[NodeId(1), NodeId(2)]);
}

#[test]
fn a_node_that_holds_the_partition_no_longer_has_no_role() {
    let mut replica = Replica::follower(&[], 0);
    let elsewhere = Assignment {
        replicas: vec![NodeId(2), NodeId(3)],
        ..assignment(2, 5, 6, &[2, 3])
    };
    replica.step(Input::Assignment(elsewhere));
    assert_eq!(replica.core.role(), Role::None);
    assert_eq!(
        failures(&replica.produce(Acks::All, 1)),
        vec![(1, ErrorCode::NotLeaderOrFollower)]
    );
}

#[test]
fn a_follower_of_an_epoch_that_retention_dropped_starts_over() {
    let mut leader = Replica::with_log(&[(1, 0), (4, 5)], 30);
    let alone = Assignment {
        min_insync_replicas: 1,
        ..assignment(1, 5, 5, &[1])
    };
    leader.step(Input::Assignment(alone));
    leader.step(Input::Retain { from: Offset(7) });
    // Its records from 5 on are not the leader's, although the leader cannot show it any more.
    assert_eq!(leader.state(2, 19, 1), vec![diverged(2, -1, 7)]);
}
