//! What a partition remembers of its idempotent producers: enough to recognise a repeated batch
//! and to refuse one out of order (KIP-98, KIP-360). Rebuilt from the log, so it can be lost.
//! Knows nothing of transactions.

use std::collections::{BTreeMap, VecDeque};

use ottla_model::batch::BatchHeader;
use ottla_model::limits::{PRODUCER_BATCHES, PRODUCERS_PER_PARTITION_MAX};
use ottla_model::{ErrorCode, Offset, ProducerEpoch, ProducerId, TimestampMs};

/// What a batch is to the producer's earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// To be appended.
    New,
    /// Already in the log, there.
    Duplicate(RememberedBatch),
}

/// Why a batch does not continue what its producer wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    #[error(
        "producer {producer} sent a batch with sequence {sequence}; an idempotent batch needs a sequence and an epoch from 0 up"
    )]
    Malformed { producer: ProducerId, sequence: i32 },
    #[error("producer {producer} is at epoch {known}; a newer instance has fenced epoch {given}")]
    Fenced {
        producer: ProducerId,
        given: ProducerEpoch,
        known: ProducerEpoch,
    },
    #[error("producer {producer} sent sequence {given} where {expected} was next")]
    OutOfOrder {
        producer: ProducerId,
        given: i32,
        expected: i32,
    },
}

impl SequenceError {
    /// The code on the wire.
    pub fn code(self) -> ErrorCode {
        match self {
            SequenceError::Malformed { .. } => ErrorCode::InvalidRecord,
            SequenceError::Fenced { .. } => ErrorCode::InvalidProducerEpoch,
            SequenceError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequenceNumber,
        }
    }
}

/// One of a producer's last batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RememberedBatch {
    pub base_sequence: i32,
    pub last_sequence: i32,
    pub base_offset: Offset,
    pub last_offset: Offset,
    /// The batch's greatest timestamp: the append time, where the topic has it.
    pub timestamp: TimestampMs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    /// The last batches of this epoch, oldest first, never empty.
    batches: VecDeque<RememberedBatch>,
    /// Whether the log held batches of this producer before the remembered ones.
    has_earlier: bool,
    /// When the partition's clock first stood at or behind the last batch. `None` until the next
    /// [`Producers::expire`].
    seen: Option<TimestampMs>,
}

impl Producer {
    fn last(&self) -> &RememberedBatch {
        self.batches
            .back()
            .expect("a known producer has at least one batch")
    }
}

/// The idempotent producers of one partition, at most
/// [`PRODUCERS_PER_PARTITION_MAX`]; the one that was silent longest makes room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
    /// Each producer under its last offset, which also orders them by activity.
    by_last_offset: BTreeMap<Offset, ProducerId>,
}

/// The sequence number behind `sequence`; 2³¹−1 is followed by 0.
fn next_sequence(sequence: i32) -> i32 {
    sequence.checked_add(1).unwrap_or(0)
}

impl Producers {
    pub fn new() -> Producers {
        Producers::default()
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Says whether a producer's batch continues what it wrote. A producer that is not known (new,
    /// expired, or without records left) may continue anywhere.
    pub fn check(&self, header: &BatchHeader) -> Result<Sequence, SequenceError> {
        if !header.is_idempotent() {
            return Ok(Sequence::New);
        }
        let producer = header.producer_id;
        if header.base_sequence < 0 || header.producer_epoch.0 < 0 {
            let sequence = header.base_sequence;
            return Err(SequenceError::Malformed { producer, sequence });
        }
        let Some(known) = self.by_id.get(&producer) else {
            return Ok(Sequence::New);
        };
        if header.producer_epoch < known.epoch {
            return Err(SequenceError::Fenced {
                producer,
                given: header.producer_epoch,
                known: known.epoch,
            });
        }
        let expected = if header.producer_epoch > known.epoch {
            0
        } else {
            let (first, last) = (header.base_sequence, header.last_sequence());
            let same = |batch: &&RememberedBatch| {
                batch.base_sequence == first && batch.last_sequence == last
            };
            if let Some(batch) = known.batches.iter().find(same) {
                return Ok(Sequence::Duplicate(*batch));
            }
            next_sequence(known.last().last_sequence)
        };
        if header.base_sequence != expected {
            return Err(SequenceError::OutOfOrder {
                producer,
                given: header.base_sequence,
                expected,
            });
        }
        Ok(Sequence::New)
    }

    /// Remembers a batch that is in the log, at its final offset. Batches come in the log's order;
    /// one that was observed before changes nothing.
    pub fn observe(&mut self, header: &BatchHeader) {
        if !header.is_idempotent() || header.attributes.is_control() {
            return;
        }
        let batch = RememberedBatch {
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            timestamp: header.max_timestamp,
        };
        self.remember(header.producer_id, header.producer_epoch, batch);
    }

    fn remember(&mut self, id: ProducerId, epoch: ProducerEpoch, batch: RememberedBatch) {
        match self.by_id.get_mut(&id) {
            Some(known) => {
                let previous = known.last().last_offset;
                if epoch < known.epoch || batch.last_offset <= previous {
                    return;
                }
                if epoch > known.epoch {
                    known.epoch = epoch;
                    known.batches.clear();
                    known.has_earlier = true;
                }
                if known.batches.len() == PRODUCER_BATCHES {
                    known.batches.pop_front();
                    known.has_earlier = true;
                }
                known.batches.push_back(batch);
                known.seen = None;
                self.by_last_offset.remove(&previous);
            }
            None => {
                if self.by_id.len() == PRODUCERS_PER_PARTITION_MAX
                    && let Some((_, silent)) = self.by_last_offset.pop_first()
                {
                    self.by_id.remove(&silent);
                }
                let producer = Producer {
                    epoch,
                    batches: VecDeque::from([batch]),
                    has_earlier: false,
                    seen: None,
                };
                self.by_id.insert(id, producer);
            }
        }
        self.by_last_offset.insert(batch.last_offset, id);
    }

    /// Forgets the batches from `to` up: the log's end was cut there. Returns whether a producer
    /// lost all that was remembered of it while the log may still hold older batches of it, so
    /// that the producers must be read from the log again.
    #[must_use]
    pub fn truncate(&mut self, to: Offset) -> bool {
        let mut must_reload = false;
        for (_, id) in self.by_last_offset.split_off(&to) {
            let Some(producer) = self.by_id.get_mut(&id) else {
                continue;
            };
            producer.batches.retain(|batch| batch.last_offset < to);
            match producer.batches.back() {
                Some(batch) => {
                    self.by_last_offset.insert(batch.last_offset, id);
                }
                None => {
                    must_reload |= producer.has_earlier;
                    self.by_id.remove(&id);
                }
            }
        }
        must_reload
    }

    /// The last offsets of all remembered batches, ascending.
    pub fn last_offsets(&self) -> Vec<Offset> {
        let batches = self.by_id.values().flat_map(|producer| &producer.batches);
        let mut offsets: Vec<_> = batches.map(|batch| batch.last_offset).collect();
        offsets.sort_unstable();
        offsets
    }

    /// Forgets the producers that were silent for `expiration_ms`, by the partition's own clock
    /// and not by the timestamps that clients give. A producer read from the log counts as seen at
    /// the first call after that.
    pub fn expire(&mut self, wall_ms: TimestampMs, expiration_ms: i64) {
        let by_last_offset = &mut self.by_last_offset;
        self.by_id.retain(|_, producer| {
            let seen = *producer.seen.get_or_insert(wall_ms);
            let keep = wall_ms.0.saturating_sub(seen.0) < expiration_ms;
            if !keep {
                by_last_offset.remove(&producer.last().last_offset);
            }
            keep
        });
    }

    /// Adds what was observed while these producers were read from the log.
    pub fn absorb(&mut self, later: Producers) {
        for id in later.by_last_offset.into_values() {
            let Some(producer) = later.by_id.get(&id) else {
                continue;
            };
            for batch in &producer.batches {
                self.remember(id, producer.epoch, *batch);
            }
        }
    }
}

mod saved;
#[cfg(test)]
mod tests;
