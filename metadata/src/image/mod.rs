//! The state of the cluster at one position of its metadata log.
//!
//! An image never changes. Its maps are persistent, so a clone is cheap and a successor shares
//! all that stayed the same. Only `delta` makes successors.

mod activations;
mod broker;
mod index;
mod partition;
mod topic;
mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use ottla_model::config::TopicConfig;
use ottla_model::{BrokerEpoch, ClusterId, MetadataOffset, NodeId, ProducerId};
use ottla_model::{TopicId, TopicIdPartition};

pub use activations::{Activation, Activations};
pub use broker::{BrokerRegistration, ControllerRegistration};
pub(crate) use index::PartitionIndexes;
pub use partition::PartitionImage;
pub use topic::TopicImage;
pub use topics::Topics;

/// The cluster's state after every record before `offset`. The default is the empty cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataImage {
    /// The position of the next record to be replayed.
    pub offset: MetadataOffset,
    /// `None` until the cluster is founded.
    pub cluster_id: Option<ClusterId>,
    pub brokers: OrdMap<NodeId, BrokerRegistration>,
    pub controllers: OrdMap<NodeId, ControllerRegistration>,
    pub topics: Topics,
    /// Settings of the whole cluster: the defaults of every topic.
    pub configs: OrdMap<String, String>,
    pub features: OrdMap<String, u16>,
    /// The lowest producer id that no broker was given.
    pub next_producer_id: ProducerId,
    /// When which controller became the active one: what tells this history from another.
    pub activations: Activations,
    pub(crate) indexes: PartitionIndexes,
}

/// Images go from the thread that replays to every thread that reads.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<MetadataImage>();
};

impl Default for MetadataImage {
    fn default() -> MetadataImage {
        MetadataImage {
            offset: MetadataOffset::ZERO,
            cluster_id: None,
            brokers: OrdMap::new(),
            controllers: OrdMap::new(),
            topics: Topics::default(),
            configs: OrdMap::new(),
            features: OrdMap::new(),
            next_producer_id: ProducerId(0),
            activations: Activations::default(),
            indexes: PartitionIndexes::default(),
        }
    }
}

impl MetadataImage {
    pub fn topic(&self, id: TopicId) -> Option<&TopicImage> {
        self.topics.get(id)
    }

    pub fn topic_by_name(&self, name: &str) -> Option<&TopicImage> {
        self.topics.by_name(name)
    }

    pub fn partition(&self, id: TopicIdPartition) -> Option<&PartitionImage> {
        self.topic(id.topic)?.partition(id.partition)
    }

    pub fn broker(&self, id: NodeId) -> Option<&BrokerRegistration> {
        self.brokers.get(&id)
    }

    /// Whether this broker may lead or join an ISR: registered, unfenced and not shutting down.
    pub fn is_eligible(&self, broker: NodeId) -> bool {
        self.broker(broker)
            .is_some_and(BrokerRegistration::is_eligible)
    }

    /// The partitions that have a replica on this broker, in order; found without a scan.
    pub fn partitions_with_replica(
        &self,
        broker: NodeId,
    ) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.indexes.with_replica(broker)
    }

    /// The partitions that this broker leads, in order; found without a scan.
    pub fn partitions_led_by(&self, broker: NodeId) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.indexes.led_by(broker)
    }

    /// The partitions that have this broker in their ISR, in order. Looks at the broker's
    /// replicas only.
    pub fn partitions_in_isr_of(
        &self,
        broker: NodeId,
    ) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.partitions_with_replica(broker).filter(move |id| {
            self.partition(*id)
                .is_some_and(|partition| partition.isr.contains(&broker))
        })
    }

    /// The partitions without a leader, in order; found without a scan.
    pub fn leaderless_partitions(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.indexes.leaderless()
    }

    /// The partitions led by another than their preferred leader (the first replica), in order;
    /// found without a scan.
    pub fn imbalanced_partitions(&self) -> impl Iterator<Item = TopicIdPartition> + '_ {
        self.indexes.imbalanced()
    }

    /// How many replicas this broker holds.
    pub fn replica_count(&self, broker: NodeId) -> usize {
        self.indexes.replica_count(broker)
    }

    /// How many partitions this broker leads.
    pub fn leader_count(&self, broker: NodeId) -> usize {
        self.indexes.leader_count(broker)
    }

    /// The partition's replicas that may lead or join its ISR, with their current broker epochs:
    /// those on brokers that are unfenced and not shutting down (KIP-841).
    pub fn eligible_replicas(&self, partition: &PartitionImage) -> BTreeMap<NodeId, BrokerEpoch> {
        let brokers = partition.replicas.iter().filter_map(|id| self.broker(*id));
        brokers
            .filter(|broker| broker.is_eligible())
            .map(|broker| (broker.broker, broker.epoch))
            .collect()
    }

    /// The fewest in-sync replicas with which this partition of this topic accepts writes; never
    /// more than it has replicas.
    pub fn min_insync_replicas(&self, topic: &TopicImage, partition: &PartitionImage) -> usize {
        topic
            .config
            .min_insync_replicas_for(partition.replicas.len())
    }

    /// The effective settings of a topic with these overrides, over the cluster's.
    pub fn resolve_config(&self, overrides: &OrdMap<String, String>) -> TopicConfig {
        fn pairs(map: &OrdMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
            map.iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
        }
        TopicConfig::resolve(pairs(&self.configs).chain(pairs(overrides)))
    }
}

impl MetadataImage {
    /// Puts a partition's state in place: an existing one's, or the next one's of its topic.
    pub(crate) fn put_partition(&mut self, id: TopicIdPartition, state: PartitionImage) {
        let Some(topic) = self.topics.get_mut(id.topic) else {
            return;
        };
        let before = topic.partition(id.partition).cloned();
        self.indexes.change(id, before.as_ref(), Some(&state));
        match before {
            Some(_) => {
                topic
                    .partitions
                    .set(id.partition.0 as usize, Arc::new(state));
            }
            None => topic.partitions.push_back(Arc::new(state)),
        }
    }
}
