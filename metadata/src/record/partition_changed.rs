//! A partition's leader, replicas or in-sync replicas changed.

use ottla_model::{NodeId, PartitionIndex, TopicId, TopicIdPartition};

use super::wire::{NodeList, WireRecord, node_list, nodes_of, uuid};
use super::{Cause, RecordError};

/// A partition changed; absent fields stay. The partition epoch rises by one always, the leader
/// epoch by one if `leader` is present, even with the same leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionChanged {
    pub topic: TopicId,
    pub partition: PartitionIndex,
    pub isr: Option<Vec<NodeId>>,
    pub leader: Option<LeaderChange>,
    pub replicas: Option<Vec<NodeId>>,
    pub adding: Option<Vec<NodeId>>,
    pub removing: Option<Vec<NodeId>>,
    pub elr: Option<Vec<NodeId>>,
    pub cause: Cause,
}

/// The leadership that a partition change brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderChange {
    /// This replica leads, in a new leader epoch.
    To(NodeId),
    /// No replica can lead.
    None,
}

impl LeaderChange {
    /// The leader after the change.
    pub fn leader(self) -> Option<NodeId> {
        match self {
            LeaderChange::To(leader) => Some(leader),
            LeaderChange::None => None,
        }
    }
}

impl PartitionChanged {
    /// A change of nothing yet.
    pub fn new(id: TopicIdPartition, cause: Cause) -> PartitionChanged {
        PartitionChanged {
            topic: id.topic,
            partition: id.partition,
            isr: None,
            leader: None,
            replicas: None,
            adding: None,
            removing: None,
            elr: None,
            cause,
        }
    }

    pub fn id(&self) -> TopicIdPartition {
        TopicIdPartition::new(self.topic, self.partition)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(int32, tag = "2")]
    partition: i32,
    #[prost(message, optional, tag = "3")]
    isr: Option<NodeList>,
    /// -1 is no leader.
    #[prost(sint32, optional, tag = "4")]
    leader: Option<i32>,
    #[prost(message, optional, tag = "5")]
    replicas: Option<NodeList>,
    #[prost(message, optional, tag = "6")]
    adding: Option<NodeList>,
    #[prost(message, optional, tag = "7")]
    removing: Option<NodeList>,
    #[prost(message, optional, tag = "8")]
    elr: Option<NodeList>,
    #[prost(int32, tag = "9")]
    cause: i32,
}

impl WireRecord for PartitionChanged {
    const ID: u32 = 8;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            topic: self.topic.as_bytes().to_vec(),
            partition: self.partition.0,
            isr: node_list(&self.isr),
            leader: self
                .leader
                .map(|change| change.leader().map_or(-1, |node| node.0)),
            replicas: node_list(&self.replicas),
            adding: node_list(&self.adding),
            removing: node_list(&self.removing),
            elr: node_list(&self.elr),
            cause: self.cause.number(),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<PartitionChanged, RecordError> {
        Ok(PartitionChanged {
            topic: uuid(Self::ID, "topic", TopicId::from_slice, &wire.topic)?,
            partition: PartitionIndex(wire.partition),
            isr: nodes_of(wire.isr),
            leader: wire.leader.map(|leader| match leader {
                -1 => LeaderChange::None,
                node => LeaderChange::To(NodeId(node)),
            }),
            replicas: nodes_of(wire.replicas),
            adding: nodes_of(wire.adding),
            removing: nodes_of(wire.removing),
            elr: nodes_of(wire.elr),
            cause: Cause::from_number(wire.cause),
        })
    }
}
