//! What a replica shows of itself to people.

use ottla_model::{Instant, LeaderEpoch, NodeId, Offset, PartitionEpoch};

use super::{Partition, Role, State};

/// A replica as admin output shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDescription {
    pub role: Role,
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub log_start: Offset,
    pub high_watermark: Offset,
    pub durable_end: Offset,
    pub log_end: Offset,
    pub replicas: Vec<NodeId>,
    pub isr: Vec<NodeId>,
    /// The ISR that the controller was asked for, while it has not answered.
    pub proposed_isr: Option<Vec<NodeId>>,
    pub min_insync_replicas: usize,
    /// Empty unless this replica leads.
    pub followers: Vec<FollowerDescription>,
    /// Produce requests that wait.
    pub parked_produces: usize,
    pub producers: usize,
}

/// A follower as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerDescription {
    pub node: NodeId,
    pub in_isr: bool,
    pub is_connected: bool,
    /// `None` until it stated itself in this leader epoch, with a log that matches.
    pub durable_end: Option<Offset>,
    /// The records it has still to make durable.
    pub lag: Option<i64>,
    /// The last time at which it surely held everything.
    pub last_caught_up: Option<Instant>,
}

impl Partition {
    /// This replica for people; not for decisions.
    pub fn describe(&self) -> PartitionDescription {
        let leading = match &self.state {
            State::Leading(leading) => Some(leading),
            _ => None,
        };
        PartitionDescription {
            role: self.role(),
            leader: self.leader(),
            leader_epoch: self.leader_epoch(),
            partition_epoch: self.partition_epoch(),
            log_start: self.log.start(),
            high_watermark: self.high_watermark,
            durable_end: self.log.durable_end(),
            log_end: self.log.end(),
            replicas: self.replicas().to_vec(),
            isr: self.isr().to_vec(),
            proposed_isr: leading.and_then(|leading| leading.isr.proposed()),
            min_insync_replicas: self
                .assignment
                .as_ref()
                .map_or(0, |assignment| assignment.min_insync_replicas),
            followers: self.describe_followers(),
            parked_produces: leading.map_or(0, |leading| leading.parked.len()),
            producers: self.log.producer_count(),
        }
    }

    fn describe_followers(&self) -> Vec<FollowerDescription> {
        let State::Leading(leading) = &self.state else {
            return Vec::new();
        };
        let describe = |(node, progress): (&NodeId, &super::replica_progress::ReplicaProgress)| {
            FollowerDescription {
                node: *node,
                in_isr: leading.isr.is_committed(*node),
                is_connected: progress.is_connected(),
                durable_end: progress.durable_end(),
                lag: progress.durable_end().map(|end| self.log.end() - end),
                last_caught_up: progress.last_caught_up(),
            }
        };
        leading.followers.iter().map(describe).collect()
    }
}
