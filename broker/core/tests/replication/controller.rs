//! A controller that decides at once: fences, elects from the ISR, and applies ISR changes with
//! compare-and-set.

use std::collections::BTreeMap;

use ottla_broker_core::Assignment;
use ottla_model::config::TimestampType;
use ottla_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, PartitionEpoch};

/// An ISR change that a leader asked for.
#[derive(Debug, Clone)]
pub struct AlterRequest {
    pub from: NodeId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub isr: Vec<(NodeId, BrokerEpoch)>,
}

#[derive(Debug)]
pub struct Controller {
    /// Every image, the current one last.
    pub images: Vec<Assignment>,
    registrations: i64,
}

impl Controller {
    /// All replicas registered, the first one leading, in epoch 1.
    pub fn new(replicas: &[i32], isr: &[i32], min_insync_replicas: usize) -> Controller {
        let nodes = |ids: &[i32]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
        let first = Assignment {
            leader: Some(NodeId(isr[0])),
            leader_epoch: LeaderEpoch(1),
            partition_epoch: PartitionEpoch(1),
            replicas: nodes(replicas),
            isr: nodes(isr),
            min_insync_replicas,
            eligible: BTreeMap::new(),
            max_message_bytes: 10_000,
            timestamp_type: TimestampType::CreateTime,
        };
        Controller {
            images: vec![first],
            registrations: 0,
        }
    }

    pub fn image(&self) -> &Assignment {
        &self.images[self.images.len() - 1]
    }

    fn publish(&mut self, mut image: Assignment) {
        let known = self.image();
        let elected = image.leader != known.leader || image.leader_epoch != known.leader_epoch;
        if elected || image.isr != known.isr {
            image.partition_epoch = known.partition_epoch.next();
        }
        self.images.push(image);
    }

    /// The broker starts a new incarnation; the one before is fenced first.
    pub fn register(&mut self, node: NodeId) -> BrokerEpoch {
        self.fence(node);
        self.registrations += 1;
        let epoch = BrokerEpoch(self.registrations);
        let mut image = self.image().clone();
        image.eligible.insert(node, epoch);
        if image.leader.is_none() && image.isr.contains(&node) {
            image.leader = Some(node);
            image.leader_epoch = image.leader_epoch.next();
        }
        self.publish(image);
        epoch
    }

    /// The first registration of a new cluster leaves leadership as it is.
    pub fn register_first(&mut self, node: NodeId) -> BrokerEpoch {
        self.registrations += 1;
        let epoch = BrokerEpoch(self.registrations);
        self.images[0].eligible.insert(node, epoch);
        epoch
    }

    /// The broker is out: it leads nothing and leaves the ISR, unless it is the last.
    pub fn fence(&mut self, node: NodeId) {
        let mut image = self.image().clone();
        if image.eligible.remove(&node).is_none() {
            return;
        }
        if image.isr.len() > 1 {
            image.isr.retain(|member| *member != node);
        }
        if image.leader == Some(node) {
            let alive = |member: &&NodeId| image.eligible.contains_key(member);
            image.leader = image.isr.iter().find(alive).copied();
            image.leader_epoch = image.leader_epoch.next();
        }
        self.publish(image);
    }

    /// Makes `node` the leader. Returns whether it may be: out of the ISR only uncleanly.
    pub fn elect(&mut self, node: NodeId, unclean: bool) -> bool {
        let mut image = self.image().clone();
        let eligible = image.eligible.contains_key(&node);
        if !eligible || !(unclean || image.isr.contains(&node)) {
            return false;
        }
        image.leader = Some(node);
        image.leader_epoch = image.leader_epoch.next();
        if !image.isr.contains(&node) {
            image.isr = vec![node];
        }
        self.publish(image);
        true
    }

    pub fn alter(&mut self, request: &AlterRequest) -> Result<(), ErrorCode> {
        let mut image = self.image().clone();
        if image.leader != Some(request.from) || image.leader_epoch != request.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if image.partition_epoch != request.partition_epoch {
            return Err(ErrorCode::InvalidUpdateVersion);
        }
        for (node, epoch) in &request.isr {
            let known = image.eligible.get(node);
            let vouched = *epoch == BrokerEpoch(-1) || known == Some(epoch);
            if known.is_none() || !vouched {
                return Err(ErrorCode::IneligibleReplica);
            }
        }
        image.isr = request.isr.iter().map(|(node, _)| *node).collect();
        self.publish(image);
        Ok(())
    }
}
