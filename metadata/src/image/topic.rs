//! One topic as the metadata knows it.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use ottla_model::config::TopicConfig;
use ottla_model::name::TopicName;
use ottla_model::{PartitionIndex, TopicId, TopicIdPartition};

use super::PartitionImage;

/// A topic, its partitions and its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicImage {
    pub id: TopicId,
    pub name: TopicName,
    /// By index; indexes have no gaps.
    pub partitions: Vector<Arc<PartitionImage>>,
    /// The settings given for this topic itself.
    pub configs: OrdMap<String, String>,
    /// The effective settings, over the cluster's and the built-in defaults.
    pub config: Arc<TopicConfig>,
}

impl TopicImage {
    pub fn partition(&self, index: PartitionIndex) -> Option<&PartitionImage> {
        let index = usize::try_from(index.0).ok()?;
        self.partitions.get(index).map(Arc::as_ref)
    }

    /// How many partitions the topic has.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// The partitions with their ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = (TopicIdPartition, &PartitionImage)> {
        let topic = self.id;
        (0..)
            .zip(self.partitions.iter())
            .map(move |(index, partition)| {
                let id = TopicIdPartition::new(topic, PartitionIndex(index));
                (id, partition.as_ref())
            })
    }
}
