//! A batch on its way: its bytes stay the same through all retries, so that a broker recognises
//! it. Only under a new producer id, or when it must be split, is it built anew.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use ottla_model::batch::{BatchBuilder, BatchHeader, BuildError, NewRecord, decode_records};
use ottla_model::error::Outcome;
use ottla_model::limits::BATCH_BYTES_MAX;
use ottla_model::{ErrorCode, Instant, LeaderEpoch, Offset, ProducerEpoch, ProducerId};

use super::accumulator::{DROPPED, PendingBatch};
use super::completion::Completion;
use crate::error::ProduceError;

/// A producer id. A later generation is taken when sequences of an earlier one broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub generation: u64,
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchState {
    /// To be sent, for the first time or again.
    Waiting,
    InFlight {
        request: u64,
        epoch: LeaderEpoch,
    },
}

#[derive(Debug)]
pub(super) struct SealedBatch {
    pub number: u64,
    pub bytes: Bytes,
    pub count: u32,
    /// Its place among the batches of its partition, without holes.
    pub ordinal: u64,
    pub base_sequence: i32,
    pub created: Instant,
    pub reserved: usize,
    pub state: BatchState,
    /// Whether an attempt ended without a definite answer, so that it may be in the log.
    pub unknown: bool,
    /// Whether its records have been told their outcome; then only its end is still awaited.
    pub completed: bool,
    completion: Arc<Completion>,
    /// Which of the completion's records it holds, from here on.
    first: u32,
}

/// A batch's end, for whoever holds the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Finished {
    /// The batch's number, once all its parts are complete.
    pub number: Option<u64>,
    /// The bytes of the buffer that are free again.
    pub reserved: usize,
}

/// Builds the batch. On failure its records are told.
pub(super) fn seal(
    pending: PendingBatch,
    identity: Option<Identity>,
    base_sequence: i32,
    ordinal: u64,
) -> Result<SealedBatch, Finished> {
    let PendingBatch {
        number,
        mut builder,
        created,
        completion,
        reserved,
        ..
    } = pending;
    let count = builder.record_count() as u32;
    completion.set_total(count);
    if let Some(identity) = identity {
        builder.set_producer(identity.id, identity.epoch, base_sequence);
    }
    match builder.build() {
        Ok(bytes) => Ok(SealedBatch {
            number,
            bytes,
            count,
            ordinal,
            base_sequence,
            created,
            reserved,
            state: BatchState::Waiting,
            unknown: false,
            completed: false,
            completion,
            first: 0,
        }),
        Err(error) => {
            let message = format!("the batch could not be built: {error}");
            let error = ProduceError::definite(ErrorCode::InvalidRecord, message);
            completion.complete(0, count, Err(error));
            Err(Finished {
                number: Some(number),
                reserved,
            })
        }
    }
}

/// Tells the records of a batch that was never built that they failed.
pub(super) fn fail_pending(pending: &PendingBatch, error: ProduceError) -> Finished {
    let count = pending.builder.record_count() as u32;
    pending.completion.set_total(count);
    pending.completion.complete(0, count, Err(error));
    Finished {
        number: Some(pending.number),
        reserved: pending.reserved,
    }
}

impl SealedBatch {
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, BatchState::InFlight { .. })
    }

    /// Tells its records their outcome, unless they know it.
    pub(super) fn complete(&mut self, result: Result<Offset, ProduceError>) -> Option<Finished> {
        if std::mem::replace(&mut self.completed, true) {
            return None;
        }
        self.completion.complete(self.first, self.count, result);
        Some(Finished {
            number: self.completion.is_done().then_some(self.number),
            reserved: self.reserved,
        })
    }

    /// What a failure now would mean for its records.
    pub(super) fn outcome(&self) -> Outcome {
        if self.unknown || self.is_in_flight() {
            Outcome::Indefinite
        } else {
            Outcome::Definite
        }
    }

    /// Builds it anew under another producer id. It must surely not be in the log.
    pub(super) fn reseal(&mut self, identity: Identity, base_sequence: i32) -> Result<(), String> {
        let all = 0..self.count as usize;
        self.bytes = rebuild(&self.bytes, all, Some(identity), base_sequence)?;
        self.base_sequence = base_sequence;
        self.unknown = false;
        self.state = BatchState::Waiting;
        Ok(())
    }

    /// Splits off the second half of its records. Sequences go on from the first half to the
    /// second, so those of the batches behind stay right.
    pub(super) fn split(&mut self) -> Result<SealedBatch, String> {
        assert!(
            self.count > 1,
            "a batch of {} records cannot be split",
            self.count
        );
        let header = BatchHeader::decode(&self.bytes).ok_or("its header is cut off")?;
        let identity = header.is_idempotent().then_some(Identity {
            generation: 0,
            id: header.producer_id,
            epoch: header.producer_epoch,
        });
        let (count, half) = (self.count, self.count / 2);
        let second_sequence = match identity {
            Some(_) => add_sequence(self.base_sequence, half),
            None => self.base_sequence,
        };
        let middle = half as usize;
        let first = rebuild(&self.bytes, 0..middle, identity, self.base_sequence)?;
        let second = rebuild(
            &self.bytes,
            middle..count as usize,
            identity,
            second_sequence,
        )?;
        self.bytes = first;
        self.count = half;
        self.state = BatchState::Waiting;
        let reserved = self.reserved / 2;
        self.reserved -= reserved;
        Ok(SealedBatch {
            number: self.number,
            bytes: second,
            count: count - half,
            ordinal: self.ordinal + 1,
            base_sequence: second_sequence,
            created: self.created,
            reserved,
            state: BatchState::Waiting,
            unknown: self.unknown,
            completed: self.completed,
            completion: Arc::clone(&self.completion),
            first: self.first + half,
        })
    }
}

impl Drop for SealedBatch {
    fn drop(&mut self) {
        let outcome = self.outcome();
        self.complete(Err(ProduceError {
            code: ErrorCode::NetworkException,
            outcome,
            message: DROPPED.to_owned(),
        }));
    }
}

/// The sequence `count` records on; sequences wrap from 2³¹−1 to 0.
pub(super) fn add_sequence(sequence: i32, count: u32) -> i32 {
    let sum = i64::from(sequence) + i64::from(count);
    (sum % (i64::from(i32::MAX) + 1)) as i32
}

fn rebuild(
    bytes: &Bytes,
    range: Range<usize>,
    identity: Option<Identity>,
    base_sequence: i32,
) -> Result<Bytes, String> {
    let header = BatchHeader::decode(bytes).ok_or("its header is cut off")?;
    let compression = header
        .attributes
        .compression()
        .ok_or("its compression is unknown")?;
    let records = decode_records(bytes, 2 * BATCH_BYTES_MAX).map_err(|error| error.to_string())?;
    let records = records
        .get(range)
        .ok_or("it has fewer records than counted")?;
    let mut builder = BatchBuilder::new(compression);
    if let Some(identity) = identity {
        builder.set_producer(identity.id, identity.epoch, base_sequence);
    }
    let text = |error: BuildError| error.to_string();
    for record in records {
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|h| (h.key.as_str(), h.value.as_deref()))
            .collect();
        let record = NewRecord {
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        };
        builder.push(&record).map_err(text)?;
    }
    builder.build().map_err(text)
}

#[cfg(test)]
mod tests {
    use ottla_model::batch::validate_batch;
    use ottla_model::{PartitionIndex, TimestampMs};

    use super::*;

    fn pending(values: &[&str]) -> PendingBatch {
        let mut builder = BatchBuilder::new(ottla_model::compression::Compression::Lz4);
        for value in values {
            let record = NewRecord {
                timestamp: TimestampMs(5),
                value: Some(value.as_bytes()),
                ..NewRecord::default()
            };
            builder.push(&record).unwrap();
        }
        PendingBatch::closed(
            3,
            builder,
            Instant::ZERO,
            Completion::new(PartitionIndex(0)),
            100,
        )
    }

    fn identity(id: i64) -> Identity {
        Identity {
            generation: 1,
            id: ProducerId(id),
            epoch: ProducerEpoch(0),
        }
    }

    fn values(batch: &SealedBatch) -> Vec<String> {
        let records = decode_records(&batch.bytes, 1 << 20).unwrap();
        let text = |r: &ottla_model::batch::Record| {
            String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap()
        };
        records.iter().map(text).collect()
    }

    #[test]
    fn a_split_keeps_records_and_sequences_in_line() {
        let mut first = seal(pending(&["a", "b", "c"]), Some(identity(9)), 10, 0).unwrap();
        let mut second = first.split().unwrap();
        assert_eq!(
            (values(&first), values(&second)),
            (vec!["a".into()], vec!["b".into(), "c".into()])
        );
        let sequence = |batch: &SealedBatch| validate_batch(&batch.bytes).unwrap().base_sequence;
        assert_eq!((sequence(&first), sequence(&second)), (10, 11));
        let done = second.complete(Ok(Offset(1))).unwrap();
        assert_eq!((done.number, done.reserved), (None, 50));
        let done = first.complete(Ok(Offset(0))).unwrap();
        assert_eq!((done.number, done.reserved), (Some(3), 50));
    }

    #[test]
    fn a_new_identity_changes_only_the_header() {
        let mut batch = seal(pending(&["a", "b"]), Some(identity(9)), 10, 0).unwrap();
        batch.unknown = true;
        batch.reseal(identity(11), 0).unwrap();
        let header = validate_batch(&batch.bytes).unwrap();
        assert_eq!(
            (header.producer_id, header.base_sequence),
            (ProducerId(11), 0)
        );
        assert_eq!(values(&batch), ["a", "b"]);
        assert!(!batch.unknown);
    }

    #[test]
    fn sequences_wrap() {
        assert_eq!(add_sequence(i32::MAX, 1), 0);
        assert_eq!(add_sequence(i32::MAX - 1, 3), 1);
    }
}
