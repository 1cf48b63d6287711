//! What a producer may write: a sound batch whose header says nothing that only a broker may say,
//! nothing that contradicts itself, and no time that the topic does not take. Kafka's rules for
//! batches from clients, and stricter where Kafka passes over what it does not understand.
//! Sequences are not judged here; they need the partition's memory.

use super::header::BatchHeader;
use super::validate::{BatchError, TimeSpan, examine};
use crate::error::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::offset::Offset;
use crate::time::TimestampMs;

/// Why a producer's batch is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProducedError {
    #[error("{0}")]
    Batch(#[from] BatchError),
    #[error("a produced batch begins at offset 0, not {base_offset}; the leader gives offsets")]
    BaseOffset { base_offset: Offset },
    #[error("the batch's attributes {attributes:#06x} have bits that no producer may set")]
    Attributes { attributes: i16 },
    #[error(
        "the batch has producer id {id}, epoch {epoch} and sequence {sequence}; an idempotent \
         batch has all three from 0 up, any other has -1 in each"
    )]
    Producer {
        id: ProducerId,
        epoch: ProducerEpoch,
        sequence: i32,
    },
    #[error(
        "the batch says that its timestamps go from {base} to {max}, but those of its records go \
         from {} to {}", found.earliest, found.latest
    )]
    TimestampsDisagree {
        base: TimestampMs,
        max: TimestampMs,
        found: TimeSpan,
    },
    #[error("timestamp {found} is no time; use milliseconds since 1970, or -1 for none")]
    NoTimestamp { found: TimestampMs },
    #[error(
        "timestamp {found} is more than {after_max_ms} ms ahead of the broker's clock \
         (message.timestamp.after.max.ms)"
    )]
    TooNew {
        found: TimestampMs,
        after_max_ms: i64,
    },
    #[error(
        "timestamp {found} is more than {before_max_ms} ms behind the broker's clock \
         (message.timestamp.before.max.ms)"
    )]
    TooOld {
        found: TimestampMs,
        before_max_ms: i64,
    },
}

impl ProducedError {
    /// The code on the wire; Kafka's, where Kafka refuses the same.
    pub fn code(&self) -> ErrorCode {
        match self {
            ProducedError::Batch(_) => ErrorCode::CorruptMessage,
            ProducedError::BaseOffset { .. }
            | ProducedError::Attributes { .. }
            | ProducedError::Producer { .. } => ErrorCode::InvalidRecord,
            ProducedError::TimestampsDisagree { .. }
            | ProducedError::NoTimestamp { .. }
            | ProducedError::TooNew { .. }
            | ProducedError::TooOld { .. } => ErrorCode::InvalidTimestamp,
        }
    }
}

/// Which times a topic takes (KIP-937).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampWindow {
    /// The broker's clock.
    pub now: TimestampMs,
    /// How far behind the clock a timestamp may be, in milliseconds.
    pub before_max_ms: i64,
    /// How far ahead of the clock a timestamp may be, in milliseconds.
    pub after_max_ms: i64,
}

/// Checks that `bytes` are exactly one batch that a producer may write. Without a window, the
/// topic gives records its own times and those of the producer do not matter.
pub fn validate_produced(
    bytes: &[u8],
    window: Option<TimestampWindow>,
) -> Result<BatchHeader, ProducedError> {
    let (header, found) = examine(bytes)?;
    if header.base_offset != Offset::ZERO {
        let base_offset = header.base_offset;
        return Err(ProducedError::BaseOffset { base_offset });
    }
    if header.attributes.has_reserved() {
        let attributes = header.attributes.0;
        return Err(ProducedError::Attributes { attributes });
    }
    check_producer(&header)?;
    if let Some(window) = window {
        check_times(&header, found, window)?;
    }
    Ok(header)
}

fn check_producer(header: &BatchHeader) -> Result<(), ProducedError> {
    let (id, epoch) = (header.producer_id, header.producer_epoch);
    let sequence = header.base_sequence;
    let is_idempotent = id.0 >= 0 && epoch.0 >= 0 && sequence >= 0;
    let is_plain = id == ProducerId::NONE && epoch == ProducerEpoch::NONE && sequence == -1;
    if is_idempotent || is_plain {
        return Ok(());
    }
    Err(ProducedError::Producer {
        id,
        epoch,
        sequence,
    })
}

/// Compressed records are not unpacked: their header speaks for them.
fn check_times(
    header: &BatchHeader,
    found: Option<TimeSpan>,
    window: TimestampWindow,
) -> Result<(), ProducedError> {
    let (base, max) = (header.base_timestamp, header.max_timestamp);
    let span = found.unwrap_or(TimeSpan {
        earliest: base,
        latest: max,
    });
    if max != span.latest || base < span.earliest || base > span.latest {
        return Err(ProducedError::TimestampsDisagree {
            base,
            max,
            found: span,
        });
    }
    check_time(span.earliest, window)?;
    check_time(span.latest, window)
}

fn check_time(found: TimestampMs, window: TimestampWindow) -> Result<(), ProducedError> {
    let (before_max_ms, after_max_ms) = (window.before_max_ms, window.after_max_ms);
    if found == TimestampMs::NONE {
        return Ok(());
    }
    if found < TimestampMs::NONE {
        return Err(ProducedError::NoTimestamp { found });
    }
    // Neither is negative, so the differences have room.
    let ahead_ms = found.0 - window.now.0.max(0);
    if ahead_ms > after_max_ms {
        return Err(ProducedError::TooNew {
            found,
            after_max_ms,
        });
    }
    if -ahead_ms > before_max_ms {
        return Err(ProducedError::TooOld {
            found,
            before_max_ms,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
