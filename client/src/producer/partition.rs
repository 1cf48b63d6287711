//! The batches of one partition on their way: which may be sent now, what an answer means, what is
//! tried again and in which order. Knows neither brokers nor streams.
//!
//! Order is kept by sending again only when all answers are in, from the oldest batch on. With
//! idempotence the broker recognises what it has already (KIP-98), as long as no more than five
//! batches are between the oldest unanswered and the newest; the window ensures that.
//!
//! When a batch of a sequence fails for good there is a gap, and the broker refuses what follows.
//! The batches behind get a new producer id, but only those that are surely not in the log: no
//! attempt of theirs, or of a batch before them that is missing, ended without definite answer.

use std::collections::VecDeque;
use std::time::Duration;

use ottla_model::error::{ApiError, Outcome};
use ottla_model::{ErrorCode, Instant, LeaderEpoch, Offset};

use super::accumulator::PendingBatch;
use super::batch::{BatchState, Finished, Identity, SealedBatch, add_sequence, seal};
use crate::backoff::Backoff;
use crate::error::ProduceError;

/// The end of an attempt to send a batch.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Acked(Offset),
    Refused(ApiError),
    /// No answer will come.
    Lost {
        may_have_arrived: bool,
        reason: String,
    },
}

/// What the partition would do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing until an answer comes.
    Idle,
    /// Nothing until then, unless a newer leader turns up.
    Wait(Instant),
    /// Send the sealed batch at this place.
    Send(usize),
    /// Seal the next batch of the accumulator.
    SealNext,
    /// Nothing until there is a producer id of a later generation than this.
    NeedIdentity { after: u64 },
}

/// A break in the sequence of the current producer id.
#[derive(Debug, Clone, Copy, Default)]
struct Gap {
    /// The oldest batch that surely is, and stays, missing: nothing behind it can be in the log.
    missing: Option<u64>,
}

#[derive(Debug)]
pub(super) struct PartitionSender {
    idempotent: bool,
    window: u64,
    sealed: VecDeque<SealedBatch>,
    next_ordinal: u64,
    identity: Option<Identity>,
    next_sequence: i32,
    gap: Option<Gap>,
    /// Whether to wait for all answers before sending again.
    recovering: bool,
    backoff: Backoff,
    retry: Option<Retry>,
    last_error: Option<String>,
}

/// When to try again, and the leader epoch that failed: a newer one is tried at once.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    failed_epoch: LeaderEpoch,
}

impl PartitionSender {
    pub(super) fn new(idempotent: bool, window: usize, backoff: Backoff) -> PartitionSender {
        PartitionSender {
            idempotent,
            window: window as u64,
            sealed: VecDeque::new(),
            next_ordinal: 0,
            identity: None,
            next_sequence: 0,
            gap: None,
            recovering: false,
            backoff,
            retry: None,
            last_error: None,
        }
    }

    pub(super) fn batch(&self, at: usize) -> &SealedBatch {
        &self.sealed[at]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sealed.is_empty()
    }

    /// How many times in a row something was tried in vain.
    pub(super) fn failed_attempts(&self) -> u32 {
        self.backoff.attempts()
    }

    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// What to do now, given the leader epoch and the newest producer id known.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        epoch: LeaderEpoch,
        newest: Option<Identity>,
        finished: &mut Vec<Finished>,
    ) -> Turn {
        if let Some(retry) = self.retry {
            if epoch > retry.failed_epoch {
                self.backoff.on_success();
            } else if now < retry.at {
                return Turn::Wait(retry.at);
            }
            self.retry = None;
        }
        let in_flight = self.sealed.iter().any(SealedBatch::is_in_flight);
        if in_flight && (self.recovering || self.gap.is_some()) {
            return Turn::Idle;
        }
        self.recovering = false;
        if let Some(gap) = self.gap
            && !self.close_gap(gap, newest, finished)
        {
            let resealable = |batch: &SealedBatch| is_surely_missing(batch, gap);
            return match self.identity {
                Some(identity) if self.sealed.iter().all(resealable) => Turn::NeedIdentity {
                    after: identity.generation,
                },
                // Its fate under the old producer id must be known first.
                _ => Turn::Send(0),
            };
        }
        if self.idempotent && self.identity.is_none() {
            match newest {
                Some(identity) => self.adopt(identity),
                None => return Turn::NeedIdentity { after: 0 },
            }
        }
        self.next_within_window()
    }

    fn next_within_window(&self) -> Turn {
        let oldest = self
            .sealed
            .front()
            .map_or(self.next_ordinal, |batch| batch.ordinal);
        let waiting = self.sealed.iter().position(|batch| !batch.is_in_flight());
        match waiting {
            Some(at) if self.sealed[at].ordinal - oldest < self.window => Turn::Send(at),
            None if self.next_ordinal - oldest < self.window => Turn::SealNext,
            _ => Turn::Idle,
        }
    }

    /// Goes on behind a gap under a newer producer id, if there is one and it is safe.
    fn close_gap(
        &mut self,
        gap: Gap,
        newest: Option<Identity>,
        finished: &mut Vec<Finished>,
    ) -> bool {
        if !self
            .sealed
            .iter()
            .all(|batch| is_surely_missing(batch, gap))
        {
            return false;
        }
        let current = self.identity.map_or(0, |identity| identity.generation);
        let Some(identity) = newest.filter(|newest| newest.generation > current) else {
            return false;
        };
        self.adopt(identity);
        let mut kept = VecDeque::with_capacity(self.sealed.len());
        for mut batch in std::mem::take(&mut self.sealed) {
            match batch.reseal(identity, self.next_sequence) {
                Ok(()) => {
                    self.next_sequence = add_sequence(self.next_sequence, batch.count);
                    kept.push_back(batch);
                }
                Err(reason) => {
                    let message = format!("the batch could not be built again: {reason}");
                    let error = ProduceError::definite(ErrorCode::InvalidRecord, message);
                    finished.extend(batch.complete(Err(error)));
                }
            }
        }
        self.sealed = kept;
        true
    }

    fn adopt(&mut self, identity: Identity) {
        self.identity = Some(identity);
        self.next_sequence = 0;
        self.gap = None;
    }

    /// Seals a batch and returns its place; `None` if that failed, of which its records are told.
    pub(super) fn seal_next(
        &mut self,
        pending: PendingBatch,
        finished: &mut Vec<Finished>,
    ) -> Option<usize> {
        let identity = self.identity.filter(|_| self.idempotent);
        let sequence = if identity.is_some() {
            self.next_sequence
        } else {
            -1
        };
        match seal(pending, identity, sequence, self.next_ordinal) {
            Ok(batch) => {
                self.next_ordinal += 1;
                if identity.is_some() {
                    self.next_sequence = add_sequence(self.next_sequence, batch.count);
                }
                self.sealed.push_back(batch);
                Some(self.sealed.len() - 1)
            }
            Err(failed) => {
                finished.push(failed);
                None
            }
        }
    }

    pub(super) fn on_sent(&mut self, at: usize, request: u64, epoch: LeaderEpoch) {
        let batch = &mut self.sealed[at];
        assert!(
            !batch.is_in_flight(),
            "batch {} is in flight already",
            batch.number
        );
        batch.state = BatchState::InFlight { request, epoch };
    }

    /// Takes the end of an attempt. An answer that nobody waits for is ignored.
    pub(super) fn on_answer(
        &mut self,
        now: Instant,
        request: u64,
        answer: Answer,
        finished: &mut Vec<Finished>,
    ) {
        let found = self
            .sealed
            .iter()
            .enumerate()
            .find_map(|(at, batch)| match batch.state {
                BatchState::InFlight { request: r, epoch } if r == request => Some((at, epoch)),
                _ => None,
            });
        let Some((at, epoch)) = found else {
            return;
        };
        self.sealed[at].state = BatchState::Waiting;
        match answer {
            Answer::Acked(offset) => self.on_acked(at, offset, finished),
            Answer::Refused(error) => self.on_refused(now, at, epoch, error, finished),
            Answer::Lost {
                may_have_arrived,
                reason,
            } => {
                self.sealed[at].unknown |= may_have_arrived;
                self.try_again(at);
                self.back_off(now, epoch, reason);
            }
        }
    }

    fn on_acked(&mut self, at: usize, offset: Offset, finished: &mut Vec<Finished>) {
        if let Some(mut batch) = self.sealed.remove(at) {
            finished.extend(batch.complete(Ok(offset)));
        }
        self.backoff.on_success();
        self.last_error = None;
    }

    fn on_refused(
        &mut self,
        now: Instant,
        at: usize,
        epoch: LeaderEpoch,
        error: ApiError,
        finished: &mut Vec<Finished>,
    ) {
        use ErrorCode as E;
        let batch = &mut self.sealed[at];
        batch.unknown |= error.code.outcome() == Outcome::Indefinite;
        let splittable = batch.count > 1 && !batch.unknown && !batch.completed;
        match error.code {
            E::DuplicateSequenceNumber => self.on_acked(at, Offset(-1), finished),
            E::OutOfOrderSequenceNumber | E::UnknownProducerId | E::InvalidProducerEpoch => {
                self.on_sequence_refused(at, error, finished);
            }
            E::MessageTooLarge | E::RecordListTooLarge if splittable => {
                self.split(at, error, finished);
            }
            code if code.is_retriable() => {
                self.try_again(at);
                self.back_off(now, epoch, format!("{code}: {}", error.message));
            }
            _ => self.fail(at, error, finished),
        }
    }

    /// The broker expects another sequence, or does not know the producer.
    fn on_sequence_refused(&mut self, at: usize, error: ApiError, finished: &mut Vec<Finished>) {
        if at > 0 {
            // Because a batch before it was refused; it follows that one.
            self.try_again(at);
            return;
        }
        let batch = &self.sealed[at];
        let (ordinal, completed) = (batch.ordinal, batch.completed);
        match &mut self.gap {
            Some(gap) if is_surely_missing(batch, *gap) && !completed => {
                // Under this producer id it will never be in the log, nor will what follows it.
                gap.missing = Some(gap.missing.map_or(ordinal, |missing| missing.min(ordinal)));
                self.try_again(at);
            }
            _ => self.fail(at, error, finished),
        }
    }

    fn split(&mut self, at: usize, error: ApiError, finished: &mut Vec<Finished>) {
        match self.sealed[at].split() {
            Ok(second) => {
                self.sealed.insert(at + 1, second);
                self.recovering = true;
                self.renumber();
            }
            Err(reason) => {
                let message = format!("{} (and it could not be split: {reason})", error.message);
                self.fail(at, ApiError::new(error.code, message), finished);
            }
        }
    }

    /// Moves the numbers of batches behind a split one up.
    fn renumber(&mut self) {
        let mut least = 0;
        for batch in &mut self.sealed {
            batch.ordinal = batch.ordinal.max(least);
            least = batch.ordinal + 1;
        }
        self.next_ordinal = self.next_ordinal.max(least);
        // The missing batch's number may mean another one now; knowing of none is the safe side.
        if let Some(gap) = &mut self.gap {
            gap.missing = None;
        }
    }

    fn try_again(&mut self, at: usize) {
        if self.sealed[at].completed {
            self.remove_missing(at);
        } else {
            self.recovering = true;
        }
    }

    fn back_off(&mut self, now: Instant, epoch: LeaderEpoch, reason: String) {
        self.last_error = Some(reason);
        // Several batches fail together; that is one failure.
        if self.retry.is_none() {
            let wait = self.backoff.on_failure();
            self.retry = Some(Retry {
                at: now + wait,
                failed_epoch: epoch,
            });
        }
    }

    fn fail(&mut self, at: usize, error: ApiError, finished: &mut Vec<Finished>) {
        let batch = &mut self.sealed[at];
        let error = ProduceError {
            code: error.code,
            outcome: batch.outcome(),
            message: format!("{}: {}", error.code, error.message),
        };
        finished.extend(batch.complete(Err(error)));
        self.remove_missing(at);
    }

    /// Removes a batch that failed for good, which leaves a gap.
    fn remove_missing(&mut self, at: usize) {
        let Some(batch) = self.sealed.remove(at) else {
            return;
        };
        if !self.idempotent {
            return;
        }
        let gap = self.gap.get_or_insert_with(Gap::default);
        if !batch.unknown {
            let missing = gap.missing.map_or(batch.ordinal, |m| m.min(batch.ordinal));
            gap.missing = Some(missing);
        }
    }

    /// Tells the records of batches older than `timeout` that they were not acknowledged in time.
    pub(super) fn expire(&mut self, now: Instant, timeout: Duration, finished: &mut Vec<Finished>) {
        let mut at = 0;
        while at < self.sealed.len() {
            let batch = &mut self.sealed[at];
            if batch.completed || batch.created + timeout > now {
                at += 1;
                continue;
            }
            let error = timed_out(timeout, batch.outcome(), self.last_error.as_deref());
            finished.extend(batch.complete(Err(error)));
            if batch.is_in_flight() {
                at += 1;
            } else {
                self.remove_missing(at);
            }
        }
    }

    /// Fails everything.
    pub(super) fn fail_all(&mut self, error: &ApiError, finished: &mut Vec<Finished>) {
        for mut batch in std::mem::take(&mut self.sealed) {
            let error = ProduceError {
                code: error.code,
                outcome: batch.outcome(),
                message: error.message.clone(),
            };
            finished.extend(batch.complete(Err(error)));
        }
    }
}

/// Whether a batch is surely not in the log and never will be with the bytes it has.
fn is_surely_missing(batch: &SealedBatch, gap: Gap) -> bool {
    !batch.unknown || gap.missing.is_some_and(|missing| batch.ordinal > missing)
}

/// The error of a record that was not acknowledged in time.
pub(super) fn timed_out(
    timeout: Duration,
    outcome: Outcome,
    last_error: Option<&str>,
) -> ProduceError {
    let because = last_error.map_or(String::new(), |error| {
        format!("; the last problem was: {error}")
    });
    ProduceError {
        code: ErrorCode::RequestTimedOut,
        outcome,
        message: format!("not acknowledged within {timeout:?}{because}"),
    }
}

#[cfg(test)]
mod tests;
