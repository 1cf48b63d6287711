//! A partition came to be.

use ottla_model::{NodeId, PartitionIndex, TopicId};

use super::RecordError;
use super::wire::{WireRecord, nodes, numbers, uuid};

/// A partition came to be, in leader epoch 0 and partition epoch 0. The partitions of a topic are
/// created in order of index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionCreated {
    pub topic: TopicId,
    pub partition: PartitionIndex,
    /// In assignment order: the first is the preferred leader.
    pub replicas: Vec<NodeId>,
    pub isr: Vec<NodeId>,
    pub leader: NodeId,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(int32, tag = "2")]
    partition: i32,
    #[prost(int32, repeated, tag = "3")]
    replicas: Vec<i32>,
    #[prost(int32, repeated, tag = "4")]
    isr: Vec<i32>,
    #[prost(int32, tag = "5")]
    leader: i32,
}

impl WireRecord for PartitionCreated {
    const ID: u32 = 7;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            topic: self.topic.as_bytes().to_vec(),
            partition: self.partition.0,
            replicas: numbers(&self.replicas),
            isr: numbers(&self.isr),
            leader: self.leader.0,
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<PartitionCreated, RecordError> {
        Ok(PartitionCreated {
            topic: uuid(Self::ID, "topic", TopicId::from_slice, &wire.topic)?,
            partition: PartitionIndex(wire.partition),
            replicas: nodes(wire.replicas),
            isr: nodes(wire.isr),
            leader: NodeId(wire.leader),
        })
    }
}
