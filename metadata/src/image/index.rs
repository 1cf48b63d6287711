//! Which partitions a broker holds and leads, which have no leader, and which are led by another
//! than the preferred replica: kept with each change, so that nobody scans all partitions.

use imbl::{OrdMap, OrdSet};
use ottla_model::{NodeId, TopicIdPartition};

use super::PartitionImage;

type ByBroker = OrdMap<NodeId, OrdSet<TopicIdPartition>>;

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct PartitionIndexes {
    by_replica: ByBroker,
    by_leader: ByBroker,
    leaderless: OrdSet<TopicIdPartition>,
    imbalanced: OrdSet<TopicIdPartition>,
}

impl PartitionIndexes {
    pub(crate) fn with_replica(
        &self,
        broker: NodeId,
    ) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.by_replica.get(&broker).into_iter().flatten().copied()
    }

    pub(crate) fn led_by(&self, broker: NodeId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.by_leader.get(&broker).into_iter().flatten().copied()
    }

    pub(crate) fn leaderless(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.leaderless.iter().copied()
    }

    pub(crate) fn imbalanced(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.imbalanced.iter().copied()
    }

    pub(crate) fn replica_count(&self, broker: NodeId) -> usize {
        self.by_replica.get(&broker).map_or(0, OrdSet::len)
    }

    pub(crate) fn leader_count(&self, broker: NodeId) -> usize {
        self.by_leader.get(&broker).map_or(0, OrdSet::len)
    }

    /// Notes that a partition went from one state to another; `None` is absence.
    pub(crate) fn change(
        &mut self,
        id: TopicIdPartition,
        before: Option<&PartitionImage>,
        after: Option<&PartitionImage>,
    ) {
        let replicas = |state: Option<&PartitionImage>| {
            state.map_or_else(Vec::new, |state| state.replicas.clone())
        };
        let (old, new) = (replicas(before), replicas(after));
        for broker in old.iter().filter(|broker| !new.contains(broker)) {
            remove(&mut self.by_replica, *broker, id);
        }
        for broker in new.iter().filter(|broker| !old.contains(broker)) {
            self.by_replica.entry(*broker).or_default().insert(id);
        }
        let leader = |state: Option<&PartitionImage>| state.and_then(|state| state.leader);
        if leader(before) != leader(after) {
            if let Some(broker) = leader(before) {
                remove(&mut self.by_leader, broker, id);
            }
            if let Some(broker) = leader(after) {
                self.by_leader.entry(broker).or_default().insert(id);
            }
        }
        let leaderless = |state: &PartitionImage| state.leader.is_none();
        set(&mut self.leaderless, id, after.is_some_and(leaderless));
        let imbalanced = |state: &PartitionImage| {
            state
                .leader
                .is_some_and(|leader| leader != state.preferred_leader())
        };
        set(&mut self.imbalanced, id, after.is_some_and(imbalanced));
    }
}

fn remove(map: &mut ByBroker, broker: NodeId, id: TopicIdPartition) {
    if let Some(partitions) = map.get_mut(&broker) {
        partitions.remove(&id);
        if partitions.is_empty() {
            map.remove(&broker);
        }
    }
}

fn set(members: &mut OrdSet<TopicIdPartition>, id: TopicIdPartition, member: bool) {
    if member {
        members.insert(id);
    } else if members.contains(&id) {
        members.remove(&id);
    }
}
