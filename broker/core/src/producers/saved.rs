//! The producers of a partition as bytes, so that a restart need not read them from all of the log.
//! Persisted beside the log, which checks that the bytes are whole.
//!
//! Big endian: version; number of producers; for each its id, its epoch, whether the log held
//! earlier batches of it, and its batches, each with its first and last sequence and offset and its
//! timestamp.

use std::collections::VecDeque;

use ottla_model::limits::{PRODUCER_BATCHES, PRODUCERS_PER_PARTITION_MAX};
use ottla_model::{Offset, ProducerEpoch, ProducerId, TimestampMs};

use super::{Producer, Producers, RememberedBatch};

const VERSION: u8 = 1;
const PRODUCER_BYTES: usize = 12;
const BATCH_BYTES: usize = 32;

impl Producers {
    /// The producers without when they were seen, as if they had been read from the log.
    pub fn encode(&self) -> Vec<u8> {
        let one = PRODUCER_BYTES + PRODUCER_BATCHES * BATCH_BYTES;
        let mut out = Vec::with_capacity(5 + self.by_id.len() * one);
        out.push(VERSION);
        out.extend((self.by_id.len() as u32).to_be_bytes());
        for (id, producer) in &self.by_id {
            out.extend(id.0.to_be_bytes());
            out.extend(producer.epoch.0.to_be_bytes());
            out.push(u8::from(producer.has_earlier));
            out.push(producer.batches.len() as u8);
            for batch in &producer.batches {
                out.extend(batch.base_sequence.to_be_bytes());
                out.extend(batch.last_sequence.to_be_bytes());
                out.extend(batch.base_offset.0.to_be_bytes());
                out.extend(batch.last_offset.0.to_be_bytes());
                out.extend(batch.timestamp.0.to_be_bytes());
            }
        }
        out
    }

    /// What [`Producers::encode`] wrote; `None` for bytes that it cannot have written, or that
    /// another version has.
    pub fn decode(bytes: &[u8]) -> Option<Producers> {
        let mut reader = Reader { rest: bytes };
        let [version] = reader.take()?;
        let count = u32::from_be_bytes(reader.take()?) as usize;
        if version != VERSION || count > PRODUCERS_PER_PARTITION_MAX {
            return None;
        }
        let mut producers = Producers::default();
        for _ in 0..count {
            let id = ProducerId(i64::from_be_bytes(reader.take()?));
            let producer = reader.producer()?;
            let last = producer.last().last_offset;
            let is_new = producers.by_id.insert(id, producer).is_none();
            if !is_new || producers.by_last_offset.insert(last, id).is_some() {
                return None;
            }
        }
        reader.rest.is_empty().then_some(producers)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    fn producer(&mut self) -> Option<Producer> {
        let epoch = ProducerEpoch(i16::from_be_bytes(self.take()?));
        let [has_earlier] = self.take()?;
        let [count] = self.take()?;
        let mut batches: VecDeque<RememberedBatch> = VecDeque::new();
        for _ in 0..count {
            let batch = RememberedBatch {
                base_sequence: i32::from_be_bytes(self.take()?),
                last_sequence: i32::from_be_bytes(self.take()?),
                base_offset: Offset(i64::from_be_bytes(self.take()?)),
                last_offset: Offset(i64::from_be_bytes(self.take()?)),
                timestamp: TimestampMs(i64::from_be_bytes(self.take()?)),
            };
            let goes_on = batches
                .back()
                .is_none_or(|last| last.last_offset < batch.base_offset);
            if !goes_on || batch.last_offset < batch.base_offset {
                return None;
            }
            batches.push_back(batch);
        }
        let is_known = (1..=PRODUCER_BATCHES).contains(&batches.len());
        is_known.then_some(Producer {
            epoch,
            batches,
            has_earlier: has_earlier != 0,
            seen: None,
        })
    }
}
