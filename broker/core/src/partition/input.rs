//! Everything that can happen to a partition replica.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::batch::BatchHeader;
use ottla_model::config::TimestampType;
use ottla_model::{
    BrokerEpoch, ErrorCode, Instant, LeaderEpoch, NodeId, Offset, PartitionEpoch, TimestampMs,
    TopicIdPartition,
};

use crate::producers::Producers;

/// What a replica is told once, when it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSetup {
    /// The node this replica is on.
    pub local: NodeId,
    pub id: TopicIdPartition,
    /// How long a follower may lag before it leaves the ISR (`replica.lag.time.max.ms`).
    pub replica_lag_time_max: Duration,
    /// How long a silent producer is remembered (`producer.id.expiration.ms`).
    pub producer_expiration_ms: i64,
}

/// The log as recovery left it. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    pub log_start: Offset,
    pub log_end: Offset,
    /// Each leader epoch found in the log, with the offset of its first record.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// What [`Producers::observe`] gathered from the log's batches.
    pub producers: Producers,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The partition as a metadata image has it. One with a lower partition epoch than the known
    /// is ignored. A node that restarted must not hand in an image from before its current
    /// registration: an earlier leadership of its own could lack records it already pushed.
    Assignment(Assignment),
    Produce(Produce),
    /// Everything appended up to this ticket is on stable storage here.
    Flushed {
        ticket: u64,
    },
    /// A follower's stream states where the follower stands.
    FollowerState(FollowerState),
    FollowerAck(FollowerAck),
    /// A follower's stream closed, and no newer one of it is open.
    FollowerGone {
        follower: NodeId,
    },
    /// The stream to this broker is up. Told for each partition that follows it, or might.
    LeaderConnected {
        leader: NodeId,
    },
    LeaderDisconnected {
        leader: NodeId,
    },
    LeaderData(LeaderData),
    /// The leader's answer to a stated position: the logs part. The largest epoch up to the stated
    /// one that the leader knows, and where it ends there.
    LeaderDiverged {
        leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
        end_offset: Offset,
    },
    /// The leader's answer to a stated position: not now. With the leader epoch that the *other*
    /// side is at, which may be behind or ahead of ours.
    LeaderRefused {
        leader_epoch: LeaderEpoch,
        error: ErrorCode,
    },
    /// The controller's answer to `AlterPartition`. Every request gets one; where none came in
    /// time, the shell says `RequestTimedOut` or `NetworkException`.
    AlterPartitionResult {
        /// The partition epoch that the request carried.
        partition_epoch: PartitionEpoch,
        result: Result<(), ErrorCode>,
    },
    /// Retention keeps nothing below; the log's start rises up to the high watermark at most.
    Retain {
        from: Offset,
    },
    Trim(Trim),
    /// The answer to [`super::Effect::ReloadProducers`].
    ProducersReloaded(Producers),
    /// Time passed: due at [`super::Partition::next_deadline`], harmless at any other time.
    Tick {
        wall_ms: TimestampMs,
    },
}

/// What the metadata says of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// In assignment order, the preferred leader first.
    pub replicas: Vec<NodeId>,
    pub isr: Vec<NodeId>,
    /// `min.insync.replicas`, at most the number of replicas.
    pub min_insync_replicas: usize,
    /// The replicas that are neither fenced nor shutting down, each with its registration.
    pub eligible: BTreeMap<NodeId, BrokerEpoch>,
    pub max_message_bytes: usize,
    pub timestamp_type: TimestampType,
}

/// Names a produce request to the shell that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyId(pub u64);

/// What a producer wants to know before it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Acks {
    /// `acks=0`: nothing.
    None,
    /// `acks=1`: the record is on the leader's stable storage.
    Leader,
    /// `acks=all`: the record is committed.
    All,
}

/// One batch to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Produce {
    pub reply: ReplyId,
    pub acks: Acks,
    /// When the producer stops waiting.
    pub deadline: Instant,
    /// The broker's clock, for topics with append time.
    pub wall_ms: TimestampMs,
    /// The leader epoch the producer believes in, if it says.
    pub expected_leader_epoch: Option<LeaderEpoch>,
    /// The header of `batch`, which the shell has validated.
    pub header: BatchHeader,
    pub batch: Bytes,
}

/// A request to drop the start of the log (KIP-107).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trim {
    pub reply: ReplyId,
    /// Records below go; `None` stands for the high watermark.
    pub to: Option<Offset>,
    /// The leader epoch that the caller believes in, if it says.
    pub expected_leader_epoch: Option<LeaderEpoch>,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// Where a follower stands, as its stream states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerState {
    pub follower: NodeId,
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
    pub log_end: Offset,
    pub durable_end: Offset,
    /// The epoch of the last record, [`LeaderEpoch::NONE`] for a log that never held one.
    pub last_epoch: LeaderEpoch,
    /// Where its log starts, durably.
    pub log_start: Offset,
}

/// How far a follower's log is on its stable storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerAck {
    pub follower: NodeId,
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
    pub durable_end: Offset,
    /// Where its log starts, durably.
    pub log_start: Offset,
}

/// What a leader pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderData {
    pub leader_epoch: LeaderEpoch,
    /// The batches are all that the leader holds at `from` and above and below `to`; a batch may
    /// begin before `from`, and the last ends at `to`.
    pub from: Offset,
    pub to: Offset,
    /// The headers of `batches`, validated. None if there are none in the range.
    pub headers: Vec<BatchHeader>,
    pub batches: Bytes,
    pub high_watermark: Offset,
    pub log_start: Offset,
}
