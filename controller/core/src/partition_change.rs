//! The one place that decides leader, ISR and ELR of a changed partition.
//!
//! Fencing, registration, shutdown, ISR proposals, elections and changed settings all state a wish
//! and go through [`decide`]. Its rules, after KIP-966 and Kafka's controller:
//!
//! - A leader stays while it is in the ISR and unfenced. Else the first replica in assignment
//!   order that is in the ISR and eligible leads; else the first eligible one of the ELR, alone in
//!   the ISR; else, only where the topic allows it, any eligible replica, alone in the ISR; else
//!   nobody.
//! - The last in-sync replica stays in the ISR without leading, unless its data is gone.
//! - Replicas that leave the ISR while it is smaller than `min.insync.replicas` are in the ELR:
//!   nothing is committed without them from then on. A large enough ISR empties the ELR.
//!
//! Why an in-sync replica that crashed may lead again: a broker syncs before it acknowledges, so
//! only a lost directory loses what was committed. Epochs follow from the record: the partition
//! epoch rises with each one, the leader epoch with each that names a leader.

use ottla_metadata::{Cause, LeaderChange, PartitionChanged, PartitionImage};
use ottla_model::{NodeId, TopicIdPartition};

#[cfg(test)]
mod tests;

/// What is true around the partition.
pub(crate) struct Surroundings<'a> {
    pub min_insync_replicas: usize,
    pub unclean_allowed: bool,
    /// Whether a broker may be given a leadership.
    pub eligible: &'a dyn Fn(NodeId) -> bool,
    /// Whether a broker may keep a leadership it has: unfenced, even if shutting down.
    pub may_stay: &'a dyn Fn(NodeId) -> bool,
}

/// What a change is to bring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The replicas to be in sync; absent, those that are.
    pub isr: Option<Vec<NodeId>>,
    /// A replica that must neither lead nor stay in the ISR with others.
    pub leaving: Option<NodeId>,
    /// A replica whose data is gone: out of ISR and ELR in any case.
    pub lost: Option<NodeId>,
    /// Whether the preferred replica is to lead if it can.
    pub preferred: bool,
}

/// The record that fulfils the wish, or `None` if nothing changes.
pub(crate) fn decide(
    id: TopicIdPartition,
    partition: &PartitionImage,
    around: &Surroundings<'_>,
    wish: &Wish,
    cause: Cause,
) -> Option<PartitionChanged> {
    let outcome = Outcome::of(partition, around, wish);
    let mut change = PartitionChanged::new(id, cause);
    if outcome.unclean {
        change.cause = Cause::UncleanElection;
    }
    if !same_members(&outcome.isr, &partition.isr) {
        change.isr = Some(outcome.isr);
    }
    if !same_members(&outcome.elr, &partition.elr) {
        change.elr = Some(outcome.elr);
    }
    if outcome.leader != partition.leader {
        change.leader = Some(outcome.leader.map_or(LeaderChange::None, LeaderChange::To));
    }
    let changed = change.isr.is_some() || change.elr.is_some() || change.leader.is_some();
    changed.then_some(change)
}

struct Outcome {
    isr: Vec<NodeId>,
    elr: Vec<NodeId>,
    leader: Option<NodeId>,
    unclean: bool,
}

impl Outcome {
    fn of(partition: &PartitionImage, around: &Surroundings<'_>, wish: &Wish) -> Outcome {
        let isr = wished_isr(partition, wish);
        let usable = |node: NodeId| {
            wish.leaving != Some(node) && wish.lost != Some(node) && (around.eligible)(node)
        };
        if let Some(leader) = leader_within(partition, around, wish, &isr, &usable) {
            return Outcome::clean(partition, around, wish, isr, Some(leader));
        }
        let of_elr = |node: &NodeId| partition.elr.contains(node) && usable(*node);
        if let Some(leader) = partition.replicas.iter().copied().find(of_elr) {
            return Outcome::clean(partition, around, wish, vec![leader], Some(leader));
        }
        let any = |node: &NodeId| around.unclean_allowed && usable(*node);
        if let Some(leader) = partition.replicas.iter().copied().find(any) {
            return Outcome {
                isr: vec![leader],
                elr: Vec::new(),
                leader: Some(leader),
                unclean: true,
            };
        }
        Outcome::clean(partition, around, wish, isr, None)
    }

    fn clean(
        partition: &PartitionImage,
        around: &Surroundings<'_>,
        wish: &Wish,
        isr: Vec<NodeId>,
        leader: Option<NodeId>,
    ) -> Outcome {
        let holds_all = |node: &NodeId| {
            let held = partition.isr.contains(node) || partition.elr.contains(node);
            held && !isr.contains(node) && wish.lost != Some(*node)
        };
        let elr = if isr.len() >= around.min_insync_replicas {
            Vec::new()
        } else {
            let replicas = partition.replicas.iter().copied();
            replicas.filter(holds_all).collect()
        };
        Outcome {
            isr,
            elr,
            leader,
            unclean: false,
        }
    }
}

/// The ISR that the wish asks for, in assignment order. Only data that is gone empties it.
fn wished_isr(partition: &PartitionImage, wish: &Wish) -> Vec<NodeId> {
    let wished = wish.isr.as_ref().unwrap_or(&partition.isr);
    let present = |node: &NodeId| wished.contains(node) && wish.lost != Some(*node);
    let replicas = partition.replicas.iter().copied();
    let isr: Vec<NodeId> = replicas.filter(present).collect();
    let staying = isr.iter().copied();
    let staying: Vec<NodeId> = staying.filter(|node| wish.leaving != Some(*node)).collect();
    if staying.is_empty() { isr } else { staying }
}

/// The leader, if the ISR offers one.
fn leader_within(
    partition: &PartitionImage,
    around: &Surroundings<'_>,
    wish: &Wish,
    isr: &[NodeId],
    usable: &dyn Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let preferred = partition.preferred_leader();
    if wish.preferred && isr.contains(&preferred) && usable(preferred) {
        return Some(preferred);
    }
    let stays = |node: &NodeId| {
        let wanted = wish.leaving != Some(*node) && wish.lost != Some(*node);
        wanted && isr.contains(node) && (around.may_stay)(*node)
    };
    let in_sync = |node: &NodeId| isr.contains(node) && usable(*node);
    let next = || partition.replicas.iter().copied().find(in_sync);
    partition.leader.filter(stays).or_else(next)
}

fn same_members(one: &[NodeId], other: &[NodeId]) -> bool {
    one.len() == other.len() && one.iter().all(|node| other.contains(node))
}
