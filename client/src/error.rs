//! How calls of this crate fail. Each error says what was wrong, where, and what it means for the
//! caller; producers also learn whether a failed record may be in the log all the same.

use std::fmt;
use std::time::Duration;

use ottla_model::compression::Compression;
use ottla_model::error::{ApiError, Outcome};
use ottla_model::{ErrorCode, Offset, PartitionIndex};

/// One broker that was asked in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The address asked, as `host:port`.
    pub endpoint: String,
    /// Why it did not answer, in words.
    pub reason: String,
}

impl fmt::Display for FailedAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.endpoint, self.reason)
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// A setting that cannot be used.
    #[error("{0}")]
    Config(String),
    /// None of the bootstrap addresses answered.
    #[error("no bootstrap address answered: {}", list(tried))]
    Bootstrap { tried: Vec<FailedAttempt> },
    /// The cluster refused.
    #[error("{0}")]
    Api(ApiError),
    /// No broker answered until the deadline.
    #[error(
        "{what} found no broker that answers within {after:?}: {}",
        list(tried)
    )]
    Unavailable {
        what: &'static str,
        after: Duration,
        tried: Vec<FailedAttempt>,
    },
    /// What was waited for did not come about.
    #[error("{what} did not happen within {after:?}")]
    TimedOut { what: String, after: Duration },
}

impl ClientError {
    /// The refusal's code; `None` if the cluster did not answer.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Api(error) => Some(error.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retriable(&self) -> bool {
        match self {
            ClientError::Api(error) => error.code.is_retriable(),
            ClientError::Config(_) => false,
            _ => true,
        }
    }
}

impl From<ApiError> for ClientError {
    fn from(error: ApiError) -> ClientError {
        ClientError::Api(error)
    }
}

fn list(tried: &[FailedAttempt]) -> String {
    if tried.is_empty() {
        return "no address is known".to_owned();
    }
    let tried: Vec<_> = tried.iter().map(ToString::to_string).collect();
    tried.join("; ")
}

/// Why a record was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProduceError {
    pub code: ErrorCode,
    /// [`Outcome::Definite`]: the record is surely not in the log. [`Outcome::Indefinite`]: it may
    /// be, so sending it again may duplicate it.
    pub outcome: Outcome,
    pub message: String,
}

impl ProduceError {
    pub(crate) fn definite(code: ErrorCode, message: impl Into<String>) -> ProduceError {
        ProduceError {
            code,
            outcome: Outcome::Definite,
            message: message.into(),
        }
    }
}

/// Which offsets a partition holds, in words. `end` is the first that is not readable yet.
fn extent(first: Offset, end: Offset) -> String {
    match end.0 - 1 {
        last if last >= first.0 => format!("the partition holds offsets {first} to {last}"),
        _ => format!("the partition is empty; the next record gets offset {end}"),
    }
}

/// Why a poll or a change of position failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsumeError {
    /// The position lies outside the log. Seek, or set [`crate::ConsumerConfig::auto_reset`].
    #[error(
        "offset {offset} of {topic}-{partition} is out of range: {}", extent(*log_start_offset, *high_watermark)
    )]
    OffsetOutOfRange {
        topic: String,
        partition: PartitionIndex,
        offset: Offset,
        log_start_offset: Offset,
        /// The first offset that is not readable yet.
        high_watermark: Offset,
    },
    /// The bytes at this position are no valid batch.
    #[error("the records at offset {offset} of {topic}-{partition} are damaged: {reason}")]
    Corrupt {
        topic: String,
        partition: PartitionIndex,
        offset: Offset,
        reason: String,
    },
    /// A batch whose checksum is right and whose records cannot be read all the same: its producer
    /// wrote it so, and a broker does not unpack batches. Seek to `next_offset` to go on behind it.
    #[error(
        "the batch with offsets {base_offset} to {} of {topic}-{partition}, compressed with \
         {compression}, cannot be unpacked: {reason}; its checksum is right, so its producer wrote \
         it so; reading can go on at offset {next_offset}", next_offset.0 - 1
    )]
    Unpackable {
        topic: String,
        partition: PartitionIndex,
        base_offset: Offset,
        /// The first offset behind the batch.
        next_offset: Offset,
        /// What the batch says it is compressed with.
        compression: Compression,
        reason: String,
    },
    /// The broker refused for a reason that waiting does not cure.
    #[error("fetching {topic}-{partition} was refused: {error}")]
    Refused {
        topic: String,
        partition: PartitionIndex,
        error: ApiError,
    },
    /// The topic was deleted while it was being read.
    #[error("the topic {topic} was deleted")]
    TopicDeleted { topic: String },
    /// The consumer has no such partition; assign it first.
    #[error("{topic}-{partition} is not assigned to this consumer")]
    NotAssigned {
        topic: String,
        partition: PartitionIndex,
    },
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ConsumeError {
    /// The refusal's code, where one stands behind the error.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ConsumeError::OffsetOutOfRange { .. } => Some(ErrorCode::OffsetOutOfRange),
            ConsumeError::Corrupt { .. } | ConsumeError::Unpackable { .. } => {
                Some(ErrorCode::CorruptMessage)
            }
            ConsumeError::Refused { error, .. } => Some(error.code),
            ConsumeError::TopicDeleted { .. } => Some(ErrorCode::UnknownTopicOrPartition),
            ConsumeError::NotAssigned { .. } => None,
            ConsumeError::Client(error) => error.code(),
        }
    }

    /// The partition that cannot be read on, where the failure is that of one partition whose
    /// bytes are at fault; other partitions can be read.
    pub fn unreadable_partition(&self) -> Option<PartitionIndex> {
        match self {
            ConsumeError::Corrupt { partition, .. }
            | ConsumeError::Unpackable { partition, .. } => Some(*partition),
            _ => None,
        }
    }

    /// Where reading can go on behind what cannot be read; `None` if that is not known, or if the
    /// failure is of another kind.
    pub fn next_offset(&self) -> Option<Offset> {
        match self {
            ConsumeError::Unpackable { next_offset, .. } => Some(*next_offset),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_that_is_named_is_one_that_can_be_read() {
        let holds = |first, end| extent(Offset(first), Offset(end));
        assert_eq!(holds(0, 101), "the partition holds offsets 0 to 100");
        assert_eq!(holds(7, 8), "the partition holds offsets 7 to 7");
        assert_eq!(
            holds(102, 102),
            "the partition is empty; the next record gets offset 102"
        );
    }
}
