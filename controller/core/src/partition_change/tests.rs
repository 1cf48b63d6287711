//! The rule book of partition changes.

use ottla_model::{LeaderEpoch, PartitionEpoch, PartitionIndex, TopicId};

use super::*;
use crate::fixture::nodes;

/// A partition of replicas 1, 2, 3 with two needed in sync, and who is around.
struct Case {
    partition: PartitionImage,
    alive: Vec<NodeId>,
    stopping: Vec<NodeId>,
    unclean: bool,
}

fn case(isr: &[i32], elr: &[i32], leader: i32, alive: &[i32]) -> Case {
    Case {
        partition: PartitionImage {
            replicas: nodes(&[1, 2, 3]),
            isr: nodes(isr),
            elr: nodes(elr),
            adding: Vec::new(),
            removing: Vec::new(),
            leader: (leader != 0).then_some(NodeId(leader)),
            leader_epoch: LeaderEpoch(4),
            partition_epoch: PartitionEpoch(7),
        },
        alive: nodes(alive),
        stopping: Vec::new(),
        unclean: false,
    }
}

impl Case {
    fn stopping(mut self, stopping: &[i32]) -> Case {
        self.stopping = nodes(stopping);
        self
    }

    fn unclean(mut self) -> Case {
        self.unclean = true;
        self
    }

    fn change(&self, wish: &Wish) -> Option<PartitionChanged> {
        let around = Surroundings {
            min_insync_replicas: 2,
            unclean_allowed: self.unclean,
            eligible: &|node| self.alive.contains(&node) && !self.stopping.contains(&node),
            may_stay: &|node| self.alive.contains(&node),
        };
        let id = TopicIdPartition::new(TopicId::ZERO, PartitionIndex(0));
        decide(id, &self.partition, &around, wish, Cause::Requested)
    }

    /// What the change does, as text: only the fields that it names.
    fn decides(&self, wish: &Wish) -> String {
        let Some(change) = self.change(wish) else {
            return "nothing".to_owned();
        };
        let mut text = Vec::new();
        text.extend(change.isr.map(|isr| format!("isr {isr:?}")));
        text.extend(change.elr.map(|elr| format!("elr {elr:?}")));
        text.extend(change.leader.map(|leader| match leader.leader() {
            Some(leader) => format!("leader {leader}"),
            None => "leader none".to_owned(),
        }));
        text.join(" ")
    }
}

fn nothing() -> Wish {
    Wish::default()
}

fn leaving(node: i32) -> Wish {
    Wish {
        leaving: Some(NodeId(node)),
        ..Wish::default()
    }
}

fn lost(node: i32) -> Wish {
    Wish {
        lost: Some(NodeId(node)),
        ..Wish::default()
    }
}

fn isr(members: &[i32]) -> Wish {
    Wish {
        isr: Some(nodes(members)),
        ..Wish::default()
    }
}

fn preferred() -> Wish {
    Wish {
        preferred: true,
        ..Wish::default()
    }
}

#[test]
fn a_healthy_partition_is_left_alone() {
    let healthy = case(&[1, 2, 3], &[], 2, &[1, 2, 3]);
    assert_eq!(healthy.decides(&nothing()), "nothing");
}

#[test]
fn a_follower_that_leaves_does_not_raise_the_leader_epoch() {
    let case = case(&[1, 2, 3], &[], 1, &[1, 2, 3]);
    assert_eq!(case.decides(&leaving(3)), "isr [1, 2]");
}

#[test]
fn a_leader_that_leaves_is_followed_by_the_first_in_sync_replica_in_assignment_order() {
    let case = case(&[3, 2, 1], &[], 1, &[1, 2, 3]);
    assert_eq!(case.decides(&leaving(1)), "isr [2, 3] leader 2");
}

#[test]
fn a_replica_that_is_not_in_sync_is_passed_over() {
    let case = case(&[1, 3], &[], 1, &[1, 2, 3]);
    assert_eq!(case.decides(&leaving(1)), "isr [3] elr [1] leader 3");
}

#[test]
fn a_fenced_or_stopping_replica_is_not_elected() {
    let dead = case(&[1, 2, 3], &[], 1, &[1, 3]);
    assert_eq!(dead.decides(&leaving(1)), "isr [2, 3] leader 3");
    let stopping = case(&[1, 2, 3], &[], 1, &[1, 2, 3]).stopping(&[2]);
    assert_eq!(stopping.decides(&leaving(1)), "isr [2, 3] leader 3");
}

#[test]
fn a_stopping_leader_keeps_what_it_leads() {
    let case = case(&[1, 2], &[], 1, &[1, 2]).stopping(&[1]);
    assert_eq!(case.decides(&nothing()), "nothing");
    assert_eq!(case.decides(&isr(&[1])), "isr [1] elr [2]");
}

#[test]
fn who_leaves_while_the_isr_is_too_small_is_in_the_elr() {
    let case = case(&[1, 2], &[], 1, &[1, 2, 3]);
    assert_eq!(case.decides(&isr(&[1])), "isr [1] elr [2]");
    assert_eq!(case.decides(&leaving(2)), "isr [1] elr [2]");
}

#[test]
fn who_left_while_the_isr_was_large_enough_is_not_in_the_elr() {
    let case = case(&[1, 2, 3], &[], 1, &[1, 2, 3]);
    assert_eq!(case.decides(&isr(&[1, 2])), "isr [1, 2]");
}

#[test]
fn all_who_leave_at_once_below_the_minimum_are_in_the_elr() {
    let case = case(&[1, 2, 3], &[], 1, &[1, 2, 3]);
    assert_eq!(case.decides(&isr(&[1])), "isr [1] elr [2, 3]");
}

#[test]
fn a_large_enough_isr_empties_the_elr() {
    let case = case(&[1], &[2], 1, &[1, 2, 3]);
    assert_eq!(case.decides(&isr(&[1, 3])), "isr [1, 3] elr []");
    assert_eq!(case.decides(&isr(&[1, 2])), "isr [1, 2] elr []");
}

#[test]
fn the_last_in_sync_replica_stays_in_the_isr_and_nobody_leads() {
    let case = case(&[1], &[], 1, &[1, 2, 3]);
    assert_eq!(case.decides(&leaving(1)), "leader none");
}

#[test]
fn the_elr_leads_when_the_isr_cannot() {
    let alive = case(&[1], &[3], 1, &[1, 2, 3]);
    assert_eq!(alive.decides(&leaving(1)), "isr [3] elr [1] leader 3");
    let dead = case(&[1], &[3], 1, &[1, 2]);
    assert_eq!(dead.decides(&leaving(1)), "leader none");
}

#[test]
fn the_elr_leads_in_assignment_order() {
    let case = case(&[1], &[3, 2], 0, &[2, 3]);
    assert_eq!(case.decides(&nothing()), "isr [2] elr [1, 3] leader 2");
}

#[test]
fn an_in_sync_replica_that_returns_leads_again() {
    let case = case(&[2], &[1], 0, &[2]);
    assert_eq!(case.decides(&nothing()), "leader 2");
}

#[test]
fn the_isr_goes_before_the_elr() {
    let case = case(&[2], &[1], 0, &[1, 2]);
    assert_eq!(case.decides(&nothing()), "leader 2");
}

#[test]
fn no_leader_stays_no_leader_without_a_record() {
    assert_eq!(case(&[1], &[], 0, &[2, 3]).decides(&nothing()), "nothing");
    assert_eq!(case(&[], &[], 0, &[1, 2, 3]).decides(&nothing()), "nothing");
}

#[test]
fn a_lost_replica_leaves_isr_and_elr_and_is_not_elected() {
    let in_isr = case(&[1, 2, 3], &[], 1, &[1, 2, 3]);
    assert_eq!(in_isr.decides(&lost(1)), "isr [2, 3] leader 2");
    let in_elr = case(&[2], &[1], 2, &[1, 2, 3]);
    assert_eq!(in_elr.decides(&lost(1)), "elr []");
}

#[test]
fn the_last_replica_lost_leaves_an_empty_isr_that_nobody_leads() {
    let last = case(&[1], &[], 0, &[1, 2, 3]);
    assert_eq!(last.decides(&lost(1)), "isr []");
    let led = case(&[1], &[], 1, &[1, 2, 3]);
    assert_eq!(led.decides(&lost(1)), "isr [] leader none");
}

#[test]
fn the_last_replica_lost_gives_way_to_the_elr() {
    let alive = case(&[1], &[2], 0, &[1, 2, 3]);
    assert_eq!(alive.decides(&lost(1)), "isr [2] elr [] leader 2");
    let dead = case(&[1], &[2], 0, &[1, 3]);
    assert_eq!(dead.decides(&lost(1)), "isr []");
}

#[test]
fn an_unclean_leader_is_elected_only_where_the_topic_allows_it() {
    let refused = case(&[1], &[], 0, &[3]);
    assert_eq!(refused.decides(&nothing()), "nothing");
    let allowed = case(&[1], &[], 0, &[3]).unclean();
    assert_eq!(allowed.decides(&nothing()), "isr [3] leader 3");
    let change = allowed.change(&nothing()).unwrap();
    assert_eq!(change.cause, Cause::UncleanElection);
}

#[test]
fn an_unclean_election_is_the_last_resort_and_empties_the_elr() {
    let elr = case(&[1], &[3], 0, &[2, 3]).unclean();
    assert_eq!(elr.decides(&nothing()), "isr [3] elr [1] leader 3");
    let none = case(&[1], &[3], 0, &[2]).unclean();
    assert_eq!(none.decides(&nothing()), "isr [2] elr [] leader 2");
}

#[test]
fn leadership_returns_to_the_preferred_replica_only_from_the_isr_and_alive() {
    let able = case(&[1, 2], &[], 2, &[1, 2, 3]);
    assert_eq!(able.decides(&preferred()), "leader 1");
    let lagging = case(&[2, 3], &[], 2, &[1, 2, 3]);
    assert_eq!(lagging.decides(&preferred()), "nothing");
    let fenced = case(&[1, 2, 3], &[], 2, &[2, 3]);
    assert_eq!(fenced.decides(&preferred()), "nothing");
    let stopping = case(&[1, 2, 3], &[], 2, &[1, 2, 3]).stopping(&[1]);
    assert_eq!(stopping.decides(&preferred()), "nothing");
}
