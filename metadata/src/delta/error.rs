//! Why a record does not fit the state it meets.

use ottla_model::{BrokerEpoch, ClusterId, NodeId, ProducerId, TopicId, TopicIdPartition};

/// A record that contradicts the image. It was decided wrongly or on another image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("the cluster was already founded as {existing}")]
    AlreadyFounded { existing: ClusterId },
    #[error("broker {broker} is not registered with epoch {epoch}")]
    NoSuchBroker { broker: NodeId, epoch: BrokerEpoch },
    #[error("topic {topic} does not exist")]
    NoSuchTopic { topic: TopicId },
    #[error("topic {topic} exists, or its name is taken or collides")]
    TopicExists { topic: TopicId },
    #[error("partition {id} does not exist")]
    NoSuchPartition { id: TopicIdPartition },
    #[error("partition {id} cannot be created: the topic has {partitions} partitions")]
    NotTheNextPartition {
        id: TopicIdPartition,
        partitions: usize,
    },
    #[error("partition {id} would be invalid: {reason}")]
    InvalidPartition {
        id: TopicIdPartition,
        reason: &'static str,
    },
    #[error("the next producer id cannot go from {from} to {to}")]
    ProducerIdsGoBack { from: ProducerId, to: ProducerId },
}
