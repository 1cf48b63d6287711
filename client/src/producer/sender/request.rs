//! A request that is being put together.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::limits::PARTITIONS_PER_MESSAGE_MAX;
use ottla_model::{LeaderEpoch, NodeId, TopicIdPartition};
use ottla_proto::v1;

#[derive(Debug)]
pub(super) struct Draft {
    node: NodeId,
    request: v1::ProduceRequest,
    partitions: Vec<TopicIdPartition>,
    members: BTreeSet<TopicIdPartition>,
    bytes: usize,
}

impl Draft {
    pub(super) fn new(id: u64, node: NodeId) -> Draft {
        Draft {
            node,
            request: v1::ProduceRequest {
                request_id: id,
                ..v1::ProduceRequest::default()
            },
            partitions: Vec::new(),
            members: BTreeSet::new(),
            bytes: 0,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.request.request_id
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// Whether a batch of this size still belongs into it. A request holds one batch of a
    /// partition.
    pub(super) fn takes(&self, partition: TopicIdPartition, bytes: usize, limit: usize) -> bool {
        !self.members.contains(&partition)
            && self.bytes + bytes <= limit
            && self.partitions.len() < PARTITIONS_PER_MESSAGE_MAX
    }

    pub(super) fn push(
        &mut self,
        partition: TopicIdPartition,
        topic: &str,
        epoch: LeaderEpoch,
        batch: Bytes,
    ) {
        self.members.insert(partition);
        self.partitions.push(partition);
        self.bytes += batch.len();
        self.request.partitions.push(v1::ProducePartition {
            partition: Some(v1::TopicPartition {
                topic: topic.to_owned(),
                topic_id: Bytes::copy_from_slice(partition.topic.as_bytes()),
                partition: partition.partition.0,
            }),
            leader_epoch: Some(epoch.0),
            batch,
        });
    }

    /// The request, and the partitions in it, in its order.
    pub(super) fn finish(
        mut self,
        acks: v1::Acks,
        timeout: Duration,
    ) -> (Vec<TopicIdPartition>, v1::ProduceRequest) {
        self.request.acks = acks.into();
        self.request.timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        (self.partitions, self.request)
    }
}
