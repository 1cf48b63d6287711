//! Everything that a partition replica asks of its shell. Effects are carried out in their order.

use bytes::Bytes;
use ottla_model::{
    BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, PartitionEpoch, TimestampMs,
};

use super::input::ReplyId;
use crate::producers::SequenceError;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Append at the log's end, and say [`super::Input::Flushed`] once it is on stable storage.
    /// Tickets rise within the life of a [`super::Partition`].
    Append {
        ticket: u64,
        batches: Bytes,
        /// What to write into the one batch a leader accepted; a follower takes bytes as they are.
        stamp: Option<Stamp>,
    },
    /// Cut the log's end.
    Truncate { to: Offset },
    /// Drop the whole log and go on, empty, at this offset.
    RestartAt { offset: Offset },
    /// Drop the records below, and say [`super::Input::Flushed`] once that is durable.
    AdvanceLogStart { ticket: u64, to: Offset },
    /// Go on at this offset: the leader holds nothing between the log's end and there.
    SkipTo { offset: Offset },
    /// The log starts later now; a leader tells its followers with its next push.
    LogStartAdvanced { to: Offset },
    /// The answer to a trim: the lowest log start of the replicas that may be elected.
    TrimReply {
        reply: ReplyId,
        result: Result<Offset, ErrorCode>,
    },
    /// Read the producers from the log, as the effects before this one left it, and say
    /// [`super::Input::ProducersReloaded`].
    ReloadProducers,
    Reply {
        reply: ReplyId,
        result: Result<ProduceAck, ProduceError>,
    },
    /// Consumers may read up to here; a leader tells its followers with its next push.
    HighWatermarkAdvanced { to: Offset },
    /// Ask the controller for this ISR, if the partition is still at this partition epoch. A
    /// broker epoch of [`super::UNKNOWN_BROKER_EPOCH`] is one the leader cannot vouch for.
    AlterPartition {
        leader_epoch: LeaderEpoch,
        partition_epoch: PartitionEpoch,
        isr: Vec<(NodeId, BrokerEpoch)>,
    },
    /// The logs agree up to `from`: push from there, or from the log's start if that has passed it.
    StartFollower { follower: NodeId, from: Offset },
    /// The logs part: the follower truncates and states itself again. An epoch of
    /// [`LeaderEpoch::NONE`] says that they have nothing in common.
    Diverged {
        follower: NodeId,
        epoch: LeaderEpoch,
        end_offset: Offset,
    },
    /// Tell a follower why it is not served.
    RefuseFollower { follower: NodeId, error: ErrorCode },
    /// Tell the leader where this replica stands, if the stream to it is up.
    SendState {
        leader: NodeId,
        state: FollowerPosition,
    },
    /// Tell the leader how far this replica's log is on stable storage.
    SendAck {
        leader: NodeId,
        leader_epoch: LeaderEpoch,
        durable_end: Offset,
        log_start: Offset,
    },
}

/// Where this replica stands: a [`super::FollowerState`] without the sender, whom the shell knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerPosition {
    pub leader_epoch: LeaderEpoch,
    pub log_end: Offset,
    pub durable_end: Offset,
    pub last_epoch: LeaderEpoch,
    pub log_start: Offset,
}

/// What a leader writes into an accepted batch's header (`ottla_model::batch::stamp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub base_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    /// For topics with append time.
    pub append_time: Option<TimestampMs>,
}

/// A write that is as safe as its producer asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceAck {
    pub base_offset: Offset,
    pub log_append_time: Option<TimestampMs>,
    pub log_start: Offset,
    /// Whether the batch was in the log already, from an earlier attempt.
    pub duplicate: bool,
}

/// A write that was refused, or whose outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct ProduceError {
    /// What clients see; always that of `fault`.
    pub code: ErrorCode,
    /// Who leads the partition, as far as this replica knows.
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
    pub fault: ProduceFault,
}

/// Why a write failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProduceFault {
    #[error("the metadata has not named this broker as a replica of the partition yet")]
    NotAssigned,
    #[error("this broker does not lead the partition")]
    NotLeader,
    #[error("leadership moved before the batch was committed; whether it survives is unknown")]
    LeadershipLost,
    #[error("leader epoch {given} is over; the partition is at {current}")]
    FencedLeaderEpoch {
        given: LeaderEpoch,
        current: LeaderEpoch,
    },
    #[error("leader epoch {given} is not known here yet; the partition is at {current}")]
    UnknownLeaderEpoch {
        given: LeaderEpoch,
        current: LeaderEpoch,
    },
    #[error("the partition is reading its producers from the log again; try in a moment")]
    ProducersLoading,
    #[error("{waiting} writes to the partition wait already; try again after a pause")]
    TooManyWaiting { waiting: usize },
    #[error("the batch has {bytes} bytes; max.message.bytes allows {limit}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("control batches are written by brokers only")]
    ControlBatch,
    #[error("transactional batches are not supported")]
    Transactional,
    #[error("the batch claims append time, which only a broker sets")]
    AppendTimeClaimed,
    #[error("the batch claims a delete horizon, which only compaction sets")]
    DeleteHorizonClaimed,
    #[error(
        "in-sync replicas: {have}, but min.insync.replicas asks for {need}; nothing was written"
    )]
    NotEnoughReplicas { have: usize, need: usize },
    #[error(
        "the batch was written, but in-sync replicas are left: {have}, and min.insync.replicas asks for {need}"
    )]
    NotEnoughReplicasAfterAppend { have: usize, need: usize },
    #[error("the batch was written, but not acknowledged by all in-sync replicas in time")]
    TimedOut,
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

impl ProduceFault {
    /// The code on the wire. Its table says which faults leave the outcome unknown.
    pub fn code(self) -> ErrorCode {
        match self {
            ProduceFault::NotAssigned => ErrorCode::UnknownTopicOrPartition,
            ProduceFault::NotLeader | ProduceFault::LeadershipLost => {
                ErrorCode::NotLeaderOrFollower
            }
            ProduceFault::FencedLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            ProduceFault::UnknownLeaderEpoch { .. } => ErrorCode::UnknownLeaderEpoch,
            ProduceFault::ProducersLoading => ErrorCode::LeaderNotAvailable,
            ProduceFault::TooManyWaiting { .. } => ErrorCode::ThrottlingQuotaExceeded,
            ProduceFault::TooLarge { .. } => ErrorCode::MessageTooLarge,
            ProduceFault::ControlBatch | ProduceFault::DeleteHorizonClaimed => {
                ErrorCode::InvalidRecord
            }
            ProduceFault::Transactional => ErrorCode::UnsupportedVersion,
            ProduceFault::AppendTimeClaimed => ErrorCode::InvalidTimestamp,
            ProduceFault::NotEnoughReplicas { .. } => ErrorCode::NotEnoughReplicas,
            ProduceFault::NotEnoughReplicasAfterAppend { .. } => {
                ErrorCode::NotEnoughReplicasAfterAppend
            }
            ProduceFault::TimedOut => ErrorCode::RequestTimedOut,
            ProduceFault::Sequence(error) => error.code(),
        }
    }
}
