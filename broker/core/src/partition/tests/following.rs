//! What a follower states, cuts, takes and acknowledges.

use super::*;

fn states(log_end: i64, last_epoch: i32) -> Effect {
    Effect::SendState {
        leader: NodeId(2),
        state: FollowerPosition {
            leader_epoch: LeaderEpoch(5),
            log_end: Offset(log_end),
            durable_end: Offset(log_end),
            last_epoch: LeaderEpoch(last_epoch),
            log_start: Offset(0),
        },
    }
}

fn takes(ticket: u64, batches: Bytes) -> Effect {
    Effect::Append {
        ticket,
        batches,
        stamp: None,
    }
}

fn starts(ticket: u64, to: i64) -> Effect {
    Effect::AdvanceLogStart {
        ticket,
        to: Offset(to),
    }
}

fn told(epoch: i32, end_offset: i64) -> Input {
    Input::LeaderDiverged {
        leader_epoch: LeaderEpoch(5),
        epoch: LeaderEpoch(epoch),
        end_offset: Offset(end_offset),
    }
}

#[test]
fn a_follower_states_itself_when_stream_and_assignment_are_there_in_either_order() {
    let leader = NodeId(2);
    let given = || Input::Assignment(assignment(2, 5, 5, &[1, 2, 3]));
    let mut stream_first = Replica::with_log(&[(1, 0)], 10);
    assert_eq!(stream_first.step(Input::LeaderConnected { leader }), vec![]);
    assert_eq!(stream_first.step(given()), vec![states(10, 1)]);
    let mut assignment_first = Replica::with_log(&[(1, 0)], 10);
    assert_eq!(assignment_first.step(given()), vec![]);
    assert_eq!(
        assignment_first.step(Input::LeaderConnected { leader }),
        vec![states(10, 1)]
    );
}

#[test]
fn a_follower_takes_what_continues_its_log_and_acknowledges_what_is_durable() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let data = push(5, &[(10, 4, 2), (12, 5, 3)], 12);
    assert_eq!(
        follower.data(data.clone()),
        vec![takes(1, data.batches), high_watermark(12)]
    );
    assert_eq!(follower.core.log_end(), Offset(15));
    assert_eq!(
        follower.flush(1),
        vec![Effect::SendAck {
            leader: NodeId(2),
            leader_epoch: LeaderEpoch(5),
            durable_end: Offset(15),
            log_start: Offset(0),
        }]
    );
}

#[test]
fn the_high_watermark_of_a_follower_never_exceeds_its_log() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    assert_eq!(follower.data(push(5, &[], 40)), vec![high_watermark(10)]);
}

#[test]
fn batches_that_are_in_the_log_already_are_passed_over() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let data = push(5, &[(8, 1, 2), (10, 5, 3)], 0);
    let new = data.batches.slice(header(&batch(2)).size..);
    assert_eq!(follower.data(data.clone()), vec![takes(1, new)]);
    assert_eq!(follower.data(data), vec![]);
}

#[test]
fn a_gap_makes_a_follower_state_itself_once() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    assert_eq!(
        follower.data(push(5, &[(12, 5, 3)], 0)),
        vec![states(10, 1)]
    );
    assert_eq!(follower.data(push(5, &[(15, 5, 3)], 0)), vec![]);
    assert_eq!(follower.data(push(5, &[(10, 5, 2)], 0)).len(), 1);
    assert_eq!(follower.core.log_end(), Offset(12));
}

/// What continues the log may never come, and nobody else would notice.
#[test]
fn a_follower_whose_leader_goes_on_elsewhere_states_itself_again_and_again() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let elsewhere = || push(5, &[(12, 5, 3)], 0);
    assert_eq!(follower.data(elsewhere()), vec![states(10, 1)]);
    for _ in 0..3 {
        assert_eq!(follower.data(elsewhere()), vec![]);
        let due = follower.core.next_deadline().expect("a time to ask again");
        assert_eq!(
            follower.tick_after(due.since(follower.now)),
            vec![states(10, 1)]
        );
    }
    // It hears that the leader goes on from here.
    let here = LeaderData {
        from: Offset(10),
        to: Offset(10),
        ..push(5, &[], 0)
    };
    assert_eq!(follower.data(here), vec![]);
    assert_eq!(follower.core.next_deadline(), None);
}

/// It led without a record, perhaps because it lost what it wrote. To state that epoch would be to
/// claim records of it, and what the leader has before them would seem to go back.
#[test]
fn an_epoch_led_without_a_record_is_not_stated() {
    let mut replica = Replica::with_log(&[(1, 0), (3, 8)], 10);
    let leads = Input::Assignment(assignment(1, 4, 4, &[1, 2, 3]));
    replica.step(leads);
    assert_eq!(replica.core.role(), Role::Leader);
    let leader = NodeId(2);
    replica.step(Input::LeaderConnected { leader });
    let follows = Input::Assignment(assignment(2, 5, 5, &[1, 2, 3]));
    assert_eq!(replica.step(follows), vec![states(10, 3)]);
    let data = push(5, &[(10, 3, 2)], 0);
    assert_eq!(replica.data(data.clone()), vec![takes(1, data.batches)]);
}

#[test]
fn data_of_another_leader_epoch_is_ignored() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    assert_eq!(follower.data(push(4, &[(10, 4, 1)], 10)), vec![]);
    assert_eq!(follower.data(push(6, &[(10, 6, 1)], 10)), vec![]);
}

#[test]
fn batches_whose_epochs_go_back_are_not_taken() {
    let mut follower = Replica::follower(&[(3, 0)], 10);
    assert_eq!(
        follower.data(push(5, &[(10, 2, 1)], 0)),
        vec![states(10, 3)]
    );
    let mut follower = Replica::follower(&[(3, 0)], 10);
    let data = push(5, &[(10, 5, 1), (11, 4, 1)], 0);
    assert_eq!(follower.data(data), vec![states(10, 3)]);
    let mut follower = Replica::follower(&[(3, 0)], 10);
    let data = push(5, &[(10, 6, 1)], 0);
    assert_eq!(follower.data(data), vec![states(10, 3)]);
}

#[test]
fn a_known_epoch_is_cut_to_the_smaller_of_both_ends() {
    let mut follower = Replica::follower(&[(1, 0), (3, 10)], 20);
    assert_eq!(
        follower.step(told(3, 15)),
        vec![Effect::Truncate { to: Offset(15) }, states(15, 3)]
    );
    let mut follower = Replica::follower(&[(1, 0), (3, 10)], 20);
    assert_eq!(
        follower.step(told(1, 15)),
        vec![Effect::Truncate { to: Offset(10) }, states(10, 1)]
    );
}

#[test]
fn an_unknown_epoch_is_cut_to_the_end_of_the_largest_below_and_asked_about_next() {
    let mut follower = Replica::follower(&[(1, 0), (4, 10)], 20);
    assert_eq!(
        follower.step(told(3, 18)),
        vec![Effect::Truncate { to: Offset(10) }, states(10, 1)]
    );
}

#[test]
fn a_cut_below_the_log_start_restarts_the_log() {
    let mut follower = Replica::follower(&[], 0);
    let ahead = LeaderData {
        log_start: Offset(30),
        ..push(5, &[(30, 4, 2)], 30)
    };
    follower.data(ahead);
    assert_eq!(follower.core.log_start(), Offset(30));
    let effects = follower.step(told(2, 8));
    assert_eq!(effects[0], Effect::RestartAt { offset: Offset(8) });
    assert_eq!(follower.core.high_watermark(), Offset(8));
}

#[test]
fn an_answer_that_cuts_nothing_is_not_asked_for_again_at_once() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    assert_eq!(follower.step(told(1, 10)), vec![]);
    assert!(follower.core.next_deadline().is_some());
}

#[test]
fn a_follower_below_the_leaders_log_start_restarts_there() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let data = LeaderData {
        log_start: Offset(20),
        ..push(5, &[(20, 4, 3)], 22)
    };
    assert_eq!(
        follower.data(data.clone()),
        vec![
            Effect::RestartAt { offset: Offset(20) },
            starts(1, 20),
            takes(2, data.batches),
            high_watermark(22)
        ]
    );
    assert_eq!(follower.core.log_start(), Offset(20));
}

#[test]
fn a_log_that_starts_within_a_batch_is_taken_whole() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let data = LeaderData {
        log_start: Offset(20),
        ..push(5, &[(18, 4, 5)], 23)
    };
    let effects = follower.data(data);
    assert_eq!(effects[0], Effect::RestartAt { offset: Offset(18) });
    // As soon as it may, whether or not the leader says it again.
    let effects = follower.flush(2);
    assert_eq!(effects[0], starts(3, 20));
    assert_eq!(follower.core.log_start(), Offset(20));
    let acked = |effects: &[Effect]| match effects.last() {
        Some(Effect::SendAck { log_start, .. }) => Some(*log_start),
        _ => None,
    };
    assert_eq!(acked(&effects), Some(Offset(18)), "not durable yet");
    assert_eq!(acked(&follower.flush(3)), Some(Offset(20)));
}

#[test]
fn a_push_behind_the_leaders_start_does_not_leave_a_hole() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let data = LeaderData {
        log_start: Offset(20),
        ..push(5, &[(25, 4, 3)], 22)
    };
    assert_eq!(data.from, Offset(25));
    assert_eq!(follower.data(data), vec![states(10, 1)]);
}

#[test]
fn a_refused_follower_states_itself_again_after_a_growing_pause() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let refused = || Input::LeaderRefused {
        leader_epoch: LeaderEpoch(5),
        error: ErrorCode::UnknownLeaderEpoch,
    };
    assert_eq!(follower.step(refused()), vec![]);
    assert_eq!(
        follower.core.next_deadline(),
        Some(follower.now + Duration::from_millis(10))
    );
    assert_eq!(
        follower.tick_after(Duration::from_millis(10)),
        vec![states(10, 1)]
    );
    follower.step(refused());
    assert_eq!(
        follower.core.next_deadline(),
        Some(follower.now + Duration::from_millis(20))
    );
}

#[test]
fn a_follower_without_stream_neither_takes_nor_acknowledges() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    follower.data(push(5, &[(10, 5, 1)], 0));
    let leader = NodeId(2);
    follower.step(Input::LeaderDisconnected { leader });
    assert_eq!(follower.flush(1), vec![]);
    assert_eq!(follower.data(push(5, &[(11, 5, 1)], 0)), vec![]);
}

#[test]
fn a_log_with_nothing_in_common_is_emptied() {
    let mut follower = Replica::follower(&[(1, 0)], 19);
    assert_eq!(
        follower.step(told(-1, 7)),
        vec![Effect::Truncate { to: Offset(0) }, states(0, -1)]
    );
}

/// What a leader pushes that holds nothing else from `from` on.
fn covering(from: i64, batches: &[(i64, i32, i32)]) -> LeaderData {
    LeaderData {
        from: Offset(from),
        ..push(5, batches, 0)
    }
}

#[test]
fn offsets_that_the_leader_does_not_hold_are_passed_over() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let data = covering(10, &[(14, 4, 2), (20, 5, 3)]);
    assert_eq!(follower.data(data.clone()), vec![takes(1, data.batches)]);
    assert_eq!(follower.core.log_end(), Offset(23));
    assert_eq!(
        follower.core.end_offset_for_epoch(LeaderEpoch(4)),
        Some((LeaderEpoch(4), Offset(20)))
    );
}

#[test]
fn a_push_that_was_lost_is_no_gap() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    assert_eq!(
        follower.data(covering(12, &[(14, 5, 2)])),
        vec![states(10, 1)]
    );
    assert_eq!(follower.core.log_end(), Offset(10));
}

#[test]
fn batches_that_overlap_the_log_or_each_other_are_not_taken() {
    for wrong in [
        covering(10, &[(8, 5, 4)]),
        covering(10, &[(10, 5, 4), (12, 5, 1)]),
    ] {
        let mut follower = Replica::follower(&[(1, 0)], 10);
        assert_eq!(follower.data(wrong), vec![states(10, 1)]);
    }
}

#[test]
fn a_range_without_batches_is_passed_over_too() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let nothing = |from, to| LeaderData {
        from: Offset(from),
        to: Offset(to),
        ..push(5, &[], 0)
    };
    assert_eq!(follower.data(nothing(12, 20)), vec![]);
    assert_eq!(
        follower.data(nothing(10, 20)),
        vec![Effect::SkipTo { offset: Offset(20) }]
    );
    assert_eq!(follower.core.durable_end(), Offset(20));
    let data = push(5, &[(20, 5, 1)], 0);
    assert_eq!(follower.data(data.clone()), vec![takes(1, data.batches)]);
}

#[test]
fn a_log_start_within_a_gap_is_where_the_follower_restarts() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let data = LeaderData {
        log_start: Offset(20),
        ..covering(20, &[(26, 4, 3)])
    };
    assert_eq!(
        follower.data(data.clone()),
        vec![
            Effect::RestartAt { offset: Offset(20) },
            starts(1, 20),
            takes(2, data.batches)
        ]
    );
}

#[test]
fn a_cut_keeps_the_start_that_is_not_durable_yet() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    let positions = LeaderData {
        log_start: Offset(4),
        ..push(5, &[], 10)
    };
    assert_eq!(follower.data(positions)[0], starts(1, 4));
    follower.data(push(5, &[(10, 5, 5)], 10));
    follower.step(told(5, 12));
    let effects = follower.flush(2);
    assert!(
        matches!(effects[..], [Effect::SendAck { durable_end, log_start, .. }]
            if durable_end == Offset(12) && log_start == Offset(4)),
        "{effects:?}"
    );
}

#[test]
fn a_follower_whose_disk_is_full_drops_what_retention_allows_below_its_high_watermark() {
    let mut follower = Replica::follower(&[(1, 0)], 10);
    follower.step(Input::LeaderData(push(5, &[(10, 4, 2)], 8)));
    let effects = follower.step(Input::Retain { from: Offset(9) });
    let dropped = effects.iter().find_map(|effect| match effect {
        Effect::AdvanceLogStart { to, .. } => Some(*to),
        _ => None,
    });
    assert_eq!(dropped, Some(Offset(8)), "{effects:?}");
}
