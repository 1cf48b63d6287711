//! The rule book of one replica: each test's name is a rule, and what it compares is the exact
//! list of effects.

mod committing;
mod following;
mod in_sync;
mod leading;
mod producing;
mod trimming;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::batch::{BatchBuilder, BatchHeader, NewRecord, stamp, validate_batch};
use ottla_model::compression::Compression;
use ottla_model::config::TimestampType;
use ottla_model::{
    BrokerEpoch, ErrorCode, Instant, LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex,
    ProducerEpoch, ProducerId, TimestampMs, TopicId, TopicIdPartition,
};

use super::*;
use crate::producers::Producers;

pub(super) const LAG_MAX: Duration = Duration::from_secs(10);
const WALL: TimestampMs = TimestampMs(1_700_000_000_000);

/// Broker epoch of node n: 100 + n.
pub(super) fn broker_epoch(node: i32) -> BrokerEpoch {
    BrokerEpoch(100 + i64::from(node))
}

pub(super) fn batch(records: i32) -> Bytes {
    producer_batch(-1, -1, -1, records)
}

pub(super) fn producer_batch(id: i64, epoch: i16, sequence: i32, records: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    for _ in 0..records {
        let record = NewRecord {
            timestamp: TimestampMs(5),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    builder.build().unwrap()
}

pub(super) fn header(batch: &Bytes) -> BatchHeader {
    validate_batch(batch).unwrap()
}

/// A batch as a leader wrote it.
pub(super) fn stamped(batch: &Bytes, base: i64, epoch: i32) -> Bytes {
    let mut bytes = batch.to_vec();
    stamp(&mut bytes, Offset(base), LeaderEpoch(epoch), None);
    Bytes::from(bytes)
}

/// What a leader pushes: one batch of each (base, epoch, records).
pub(super) fn push(leader_epoch: i32, batches: &[(i64, i32, i32)], hw: i64) -> LeaderData {
    let batches: Vec<Bytes> = batches
        .iter()
        .map(|(base, epoch, records)| stamped(&batch(*records), *base, *epoch))
        .collect();
    let headers: Vec<BatchHeader> = batches.iter().map(header).collect();
    LeaderData {
        leader_epoch: LeaderEpoch(leader_epoch),
        from: headers.first().map_or(Offset(0), |first| first.base_offset),
        to: headers.last().map_or(Offset(0), BatchHeader::next_offset),
        headers,
        batches: batches.concat().into(),
        high_watermark: Offset(hw),
        log_start: Offset(0),
    }
}

/// Node 1's replica of a partition on nodes 1, 2 and 3, with min.insync.replicas 2.
pub(super) struct Replica {
    pub(super) core: Partition,
    pub(super) now: Instant,
    replies: u64,
}

impl Replica {
    /// A log with one epoch that holds all of it.
    pub(super) fn with_log(epochs: &[(i32, i64)], log_end: i64) -> Replica {
        let epochs = epochs.iter().map(|(e, o)| (LeaderEpoch(*e), Offset(*o)));
        let setup = PartitionSetup {
            local: NodeId(1),
            id: TopicIdPartition::new(TopicId::ZERO, PartitionIndex(0)),
            replica_lag_time_max: LAG_MAX,
            producer_expiration_ms: 86_400_000,
        };
        let log = LogState {
            log_start: Offset(0),
            log_end: Offset(log_end),
            epochs: epochs.collect(),
            producers: Producers::new(),
        };
        Replica {
            core: Partition::new(setup, log),
            now: Instant(1_000_000_000),
            replies: 0,
        }
    }

    /// The leader in epoch 1, log empty, with this ISR.
    pub(super) fn leader(isr: &[i32]) -> Replica {
        let mut replica = Replica::with_log(&[], 0);
        replica.step(Input::Assignment(assignment(1, 1, 1, isr)));
        replica
    }

    /// The leader in epoch 1, with followers 2 and 3 in sync and matched at 0.
    pub(super) fn leader_with_followers() -> Replica {
        let mut replica = Replica::leader(&[1, 2, 3]);
        replica.state(2, 0, -1);
        replica.state(3, 0, -1);
        replica
    }

    /// A follower of node 2 in epoch 5, stream up.
    pub(super) fn follower(epochs: &[(i32, i64)], log_end: i64) -> Replica {
        let mut replica = Replica::with_log(epochs, log_end);
        let leader = NodeId(2);
        replica.step(Input::LeaderConnected { leader });
        replica.step(Input::Assignment(assignment(2, 5, 5, &[1, 2, 3])));
        replica
    }

    pub(super) fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.step(self.now, input, &mut effects);
        effects
    }

    pub(super) fn produce_batch(&mut self, acks: Acks, batch: Bytes) -> Vec<Effect> {
        self.replies += 1;
        let produce = Produce {
            reply: ReplyId(self.replies),
            acks,
            deadline: self.now + Duration::from_secs(30),
            wall_ms: WALL,
            expected_leader_epoch: None,
            header: header(&batch),
            batch,
        };
        self.step(Input::Produce(produce))
    }

    pub(super) fn produce(&mut self, acks: Acks, records: i32) -> Vec<Effect> {
        self.produce_batch(acks, batch(records))
    }

    pub(super) fn flush(&mut self, ticket: u64) -> Vec<Effect> {
        self.step(Input::Flushed { ticket })
    }

    /// A follower states that its whole log is durable up to `end`.
    pub(super) fn state(&mut self, follower: i32, end: i64, last_epoch: i32) -> Vec<Effect> {
        self.step(Input::FollowerState(FollowerState {
            follower: NodeId(follower),
            broker_epoch: broker_epoch(follower),
            leader_epoch: self.core.leader_epoch(),
            log_end: Offset(end),
            durable_end: Offset(end),
            last_epoch: LeaderEpoch(last_epoch),
            log_start: Offset(0),
        }))
    }

    pub(super) fn ack(&mut self, follower: i32, durable_end: i64) -> Vec<Effect> {
        self.step(Input::FollowerAck(FollowerAck {
            follower: NodeId(follower),
            broker_epoch: broker_epoch(follower),
            leader_epoch: self.core.leader_epoch(),
            durable_end: Offset(durable_end),
            log_start: Offset(0),
        }))
    }

    pub(super) fn tick_after(&mut self, time: Duration) -> Vec<Effect> {
        self.now = self.now + time;
        self.step(Input::Tick { wall_ms: WALL })
    }

    pub(super) fn data(&mut self, data: LeaderData) -> Vec<Effect> {
        self.step(Input::LeaderData(data))
    }
}

pub(super) fn assignment(leader: i32, epoch: i32, version: i32, isr: &[i32]) -> Assignment {
    Assignment {
        leader: (leader > 0).then_some(NodeId(leader)),
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(version),
        replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        isr: isr.iter().map(|node| NodeId(*node)).collect(),
        min_insync_replicas: 2,
        eligible: (1..=3)
            .map(|node| (NodeId(node), broker_epoch(node)))
            .collect::<BTreeMap<_, _>>(),
        max_message_bytes: 1_000,
        timestamp_type: TimestampType::CreateTime,
    }
}

pub(super) fn high_watermark(to: i64) -> Effect {
    Effect::HighWatermarkAdvanced { to: Offset(to) }
}

pub(super) fn acked(reply: u64, base_offset: i64) -> Effect {
    Effect::Reply {
        reply: ReplyId(reply),
        result: Ok(ProduceAck {
            base_offset: Offset(base_offset),
            log_append_time: None,
            log_start: Offset(0),
            duplicate: false,
        }),
    }
}

/// The codes with which produce requests failed, in order.
pub(super) fn failures(effects: &[Effect]) -> Vec<(u64, ErrorCode)> {
    let failed = |effect: &Effect| match effect {
        Effect::Reply {
            reply,
            result: Err(error),
        } => Some((reply.0, error.code)),
        _ => None,
    };
    effects.iter().filter_map(failed).collect()
}

/// A request for this ISR, each member under its current registration.
pub(super) fn alter(epoch: i32, version: i32, isr: &[i32]) -> Effect {
    Effect::AlterPartition {
        leader_epoch: LeaderEpoch(epoch),
        partition_epoch: PartitionEpoch(version),
        isr: isr
            .iter()
            .map(|node| (NodeId(*node), broker_epoch(*node)))
            .collect(),
    }
}
