//! One partition as the metadata knows it.

use ottla_model::{LeaderEpoch, NodeId, PartitionEpoch};

/// Who holds, follows and leads a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionImage {
    /// In assignment order: the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    /// The replicas that hold everything committed and follow in time.
    pub isr: Vec<NodeId>,
    /// The replicas outside the ISR that still hold everything committed, because the ISR has
    /// been smaller than `min.insync.replicas` since they left (KIP-966).
    pub elr: Vec<NodeId>,
    /// Replicas that a reassignment under way adds.
    pub adding: Vec<NodeId>,
    /// Replicas that a reassignment under way removes.
    pub removing: Vec<NodeId>,
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
}

impl PartitionImage {
    /// The replica that leads while nothing is wrong: the first one.
    pub fn preferred_leader(&self) -> NodeId {
        self.replicas[0]
    }

    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// What is wrong with this state, if anything: the always-true facts about a partition.
    pub fn violation(&self) -> Option<&'static str> {
        let subset = |part: &[NodeId]| part.iter().all(|node| self.replicas.contains(node));
        let distinct = |list: &[NodeId]| {
            let repeated = |(at, node): (usize, &NodeId)| list[..at].contains(node);
            !list.iter().enumerate().any(repeated)
        };
        let led = |leader: NodeId| self.isr.contains(&leader);
        match () {
            () if self.replicas.is_empty() => Some("it has no replicas"),
            () if !distinct(&self.replicas) => Some("a replica is listed twice"),
            () if !distinct(&self.isr) => Some("an in-sync replica is listed twice"),
            () if !subset(&self.isr) => Some("the ISR is not within the replicas"),
            () if !distinct(&self.elr) => Some("an eligible leader replica is listed twice"),
            () if !subset(&self.elr) => Some("the ELR is not within the replicas"),
            () if self.elr.iter().any(|node| self.isr.contains(node)) => {
                Some("the ELR overlaps the ISR")
            }
            () if !subset(&self.adding) => Some("an adding replica is no replica"),
            () if !subset(&self.removing) => Some("a removing replica is no replica"),
            () if !self.leader.is_none_or(led) => Some("the leader is not in the ISR"),
            () => None,
        }
    }
}
