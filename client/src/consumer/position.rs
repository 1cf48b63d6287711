//! One partition as a consumer reads it: the position of the application, that of the next fetch,
//! and the batches between them. Bytes are checked when they are handed out, batch by batch.
//! Knows neither brokers nor streams.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use ottla_model::batch::{
    BatchHeader, Record, StoredBatchError, UnpackableBatch, next_batch, read_stored_batch,
};
use ottla_model::{Instant, LeaderEpoch, Offset, PartitionIndex};

use super::ConsumedRecord;
use crate::admin::OffsetSpec;
use crate::backoff::Backoff;
use crate::error::ConsumeError;

/// The most bytes that a batch may unpack to.
const UNPACKED_BYTES_MAX: usize = 256 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Position {
    topic: Arc<str>,
    partition: PartitionIndex,
    /// The next record to be handed out.
    next: Offset,
    /// The next record to be fetched.
    fetch_next: Offset,
    batches: VecDeque<Bytes>,
    records: VecDeque<Record>,
    /// Where `next` goes once `records` are handed out.
    behind_records: Offset,
    buffered_bytes: usize,
    /// Rises when the position is set, so that answers to older fetches are told apart.
    generation: u64,
    in_flight: bool,
    high_watermark: Option<Offset>,
    backoff: Backoff,
    retry: Option<(Instant, LeaderEpoch)>,
    failure: Option<ConsumeError>,
    reset: Option<OffsetSpec>,
    /// Since when fetches fail, and why the last one did.
    trouble: Option<(Instant, String)>,
}

impl Position {
    pub(super) fn new(
        topic: Arc<str>,
        partition: PartitionIndex,
        at: Offset,
        backoff: Backoff,
    ) -> Position {
        Position {
            topic,
            partition,
            next: at,
            fetch_next: at,
            batches: VecDeque::new(),
            records: VecDeque::new(),
            behind_records: at,
            buffered_bytes: 0,
            generation: 0,
            in_flight: false,
            high_watermark: None,
            backoff,
            retry: None,
            failure: None,
            reset: None,
            trouble: None,
        }
    }

    /// Goes on counting generations behind those of a position that this one replaces.
    pub(super) fn continue_generations(&mut self, behind: u64) {
        self.generation = behind + 1;
    }

    pub(super) fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    pub(super) fn next(&self) -> Offset {
        self.next
    }

    pub(super) fn fetch_next(&self) -> Offset {
        self.fetch_next
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn high_watermark(&self) -> Option<Offset> {
        self.high_watermark
    }

    /// Whether records are known to be there that were not fetched yet.
    pub(super) fn lags(&self) -> bool {
        self.high_watermark.is_some_and(|end| self.fetch_next < end)
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// What fails the partition, once all that came before it is handed out.
    pub(super) fn failure(&self) -> Option<&ConsumeError> {
        let held = !self.records.is_empty() || !self.batches.is_empty();
        self.failure.as_ref().filter(|_| !held)
    }

    pub(super) fn reset(&self) -> Option<OffsetSpec> {
        self.reset
    }

    /// Goes on from another offset. Forgets what was fetched and what failed.
    pub(super) fn seek(&mut self, to: Offset) {
        self.next = to;
        self.fetch_next = to;
        self.behind_records = to;
        self.batches.clear();
        self.records.clear();
        self.buffered_bytes = 0;
        self.generation += 1;
        self.in_flight = false;
        self.retry = None;
        self.failure = None;
        self.reset = None;
    }

    /// Whether to fetch now from a leader of this epoch, while at most `ahead` bytes are held.
    pub(super) fn wants_fetch(&mut self, now: Instant, epoch: LeaderEpoch, ahead: usize) -> bool {
        if let Some((at, failed_epoch)) = self.retry {
            if epoch > failed_epoch {
                self.backoff.on_success();
            } else if now < at {
                return false;
            }
            self.retry = None;
        }
        !self.in_flight
            && self.failure.is_none()
            && self.reset.is_none()
            && self.buffered_bytes < ahead
    }

    /// When it is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry.map(|(at, _)| at)
    }

    #[cfg(test)]
    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    pub(super) fn on_sent(&mut self) {
        self.in_flight = true;
    }

    /// The fetch was answered, or will not be.
    pub(super) fn on_answered(&mut self) {
        self.in_flight = false;
    }

    /// Waits before the next fetch, unless a newer leader turns up.
    pub(super) fn on_retriable(&mut self, now: Instant, epoch: LeaderEpoch) {
        self.retry = Some((now + self.backoff.on_failure(), epoch));
    }

    /// The partition cannot be fetched, for this reason.
    pub(super) fn on_trouble(&mut self, now: Instant, reason: &str) {
        match &mut self.trouble {
            Some((_, known)) if known == reason => {}
            Some((_, known)) => reason.clone_into(known),
            None => self.trouble = Some((now, reason.to_owned())),
        }
    }

    /// A fetch of the partition succeeded, with or without records.
    pub(super) fn on_well(&mut self) {
        self.trouble = None;
    }

    pub(super) fn trouble(&self) -> Option<(Instant, &str)> {
        let (since, reason) = self.trouble.as_ref()?;
        Some((*since, reason))
    }

    pub(super) fn failed_attempts(&self) -> u32 {
        self.backoff.attempts()
    }

    pub(super) fn on_failure(&mut self, failure: ConsumeError) {
        self.failure = Some(failure);
    }

    /// The position is outside the log; it must be found anew.
    pub(super) fn on_reset(&mut self, to: OffsetSpec) {
        self.reset = Some(to);
    }

    /// Takes what a fetch brought.
    pub(super) fn on_batches(&mut self, high_watermark: Offset, bytes: &Bytes) {
        self.backoff.on_success();
        self.high_watermark = Some(high_watermark);
        let mut rest: &[u8] = bytes;
        while !rest.is_empty() {
            let (header, batch, behind) = match next_batch(rest) {
                Ok(split) => split,
                Err(error) => {
                    self.failure = Some(self.corrupt(self.fetch_next, error.to_string()));
                    return;
                }
            };
            rest = behind;
            if header.next_offset() <= self.fetch_next {
                continue;
            }
            self.fetch_next = header.next_offset();
            self.buffered_bytes += batch.len();
            self.batches.push_back(bytes.slice_ref(batch));
        }
    }

    /// Hands out up to `most` records.
    pub(super) fn take_records(
        &mut self,
        most: usize,
        out: &mut Vec<ConsumedRecord>,
    ) -> Result<(), ConsumeError> {
        let end = out.len() + most;
        while out.len() < end {
            let Some(record) = self.records.pop_front() else {
                self.next = self.next.max(self.behind_records);
                let Some(batch) = self.batches.pop_front() else {
                    return Ok(());
                };
                self.buffered_bytes -= batch.len();
                self.unpack(&batch)?;
                continue;
            };
            if record.offset < self.next {
                continue;
            }
            self.next = record.offset.next();
            out.push(ConsumedRecord {
                topic: Arc::clone(&self.topic),
                partition: self.partition,
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: record.headers,
            });
        }
        Ok(())
    }

    fn unpack(&mut self, batch: &Bytes) -> Result<(), ConsumeError> {
        match read_stored_batch(batch, UNPACKED_BYTES_MAX) {
            Ok((header, records)) => {
                self.records = records.into();
                self.behind_records = header.next_offset();
                Ok(())
            }
            Err(error) => {
                let error = match error {
                    StoredBatchError::Unpackable(batch) => self.unpackable(batch),
                    StoredBatchError::Damaged(error) => {
                        let base =
                            BatchHeader::decode(batch).map_or(self.next, |it| it.base_offset);
                        self.corrupt(base.max(self.next), error.to_string())
                    }
                };
                self.batches.clear();
                self.buffered_bytes = 0;
                self.failure = Some(error.clone());
                Err(error)
            }
        }
    }

    fn unpackable(&self, batch: UnpackableBatch) -> ConsumeError {
        let UnpackableBatch {
            base_offset,
            next_offset,
            compression,
            reason,
        } = batch;
        ConsumeError::Unpackable {
            topic: self.topic.to_string(),
            partition: self.partition,
            base_offset,
            next_offset,
            compression,
            reason,
        }
    }

    fn corrupt(&self, offset: Offset, reason: String) -> ConsumeError {
        ConsumeError::Corrupt {
            topic: self.topic.to_string(),
            partition: self.partition,
            offset,
            reason,
        }
    }
}

#[cfg(test)]
mod tests;
