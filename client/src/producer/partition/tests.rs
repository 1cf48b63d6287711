use std::sync::Arc;

use futures::FutureExt;
use ottla_model::batch::{BatchBuilder, BatchHeader, NewRecord};
use ottla_model::compression::Compression;
use ottla_model::{PartitionIndex, ProducerEpoch, ProducerId};

use super::*;
use crate::producer::completion::{Completion, Delivered, DeliveryFuture};

const MS: Duration = Duration::from_millis(1);
const EPOCH: LeaderEpoch = LeaderEpoch(1);

fn identity(generation: u64) -> Option<Identity> {
    Some(Identity {
        generation,
        id: ProducerId(100 + generation as i64),
        epoch: ProducerEpoch(0),
    })
}

struct Setup {
    sender: PartitionSender,
    newest: Option<Identity>,
    now: Instant,
    finished: Vec<Finished>,
    numbers: u64,
}

impl Setup {
    fn new() -> Setup {
        Setup {
            sender: PartitionSender::new(true, 5, Backoff::new(MS * 20, MS * 100)),
            newest: identity(1),
            now: Instant::ZERO,
            finished: Vec::new(),
            numbers: 0,
        }
    }

    fn turn(&mut self) -> Turn {
        self.sender
            .turn(self.now, EPOCH, self.newest, &mut self.finished)
    }

    /// Seals a batch of `count` records and sends it as the request with its number.
    fn send(&mut self, count: usize) -> DeliveryFuture {
        assert_eq!(self.turn(), Turn::SealNext);
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..count {
            builder.push(&NewRecord::default()).unwrap();
        }
        let completion = Completion::new(PartitionIndex(0));
        let future = DeliveryFuture::new(Arc::clone(&completion), 0);
        let number = self.numbers;
        self.numbers += 1;
        let pending = PendingBatch::closed(number, builder, self.now, completion, 10);
        let at = self.sender.seal_next(pending, &mut self.finished).unwrap();
        self.sender.on_sent(at, number, EPOCH);
        future
    }

    fn answer(&mut self, request: u64, answer: Answer) {
        self.sender
            .on_answer(self.now, request, answer, &mut self.finished);
    }

    fn refuse(&mut self, request: u64, code: ErrorCode) {
        self.answer(request, Answer::Refused(ApiError::new(code, "no")));
    }

    fn lose(&mut self, request: u64) {
        let reason = "reset".to_owned();
        self.answer(
            request,
            Answer::Lost {
                may_have_arrived: true,
                reason,
            },
        );
    }

    fn wait(&mut self) {
        self.now = self.now + MS * 200;
    }

    /// Producer id and base sequence of the sealed batch at a place.
    fn header(&self, at: usize) -> (i64, i32) {
        let header = BatchHeader::decode(&self.sender.batch(at).bytes).unwrap();
        (header.producer_id.0, header.base_sequence)
    }
}

fn outcome(future: &mut DeliveryFuture) -> Option<Result<Delivered, (ErrorCode, Outcome)>> {
    let outcome = future.now_or_never()?;
    Some(outcome.map_err(|error| (error.code, error.outcome)))
}

#[test]
fn nothing_is_sent_again_before_all_answers_are_in() {
    let mut setup = Setup::new();
    for _ in 0..3 {
        drop(setup.send(1));
    }
    setup.refuse(0, ErrorCode::NotEnoughReplicas);
    setup.wait();
    assert_eq!(setup.turn(), Turn::Idle);
    setup.refuse(1, ErrorCode::OutOfOrderSequenceNumber);
    setup.wait();
    assert_eq!(setup.turn(), Turn::Idle);
    setup.refuse(2, ErrorCode::OutOfOrderSequenceNumber);
    for at in 0..3 {
        assert_eq!(setup.turn(), Turn::Send(at));
        assert_eq!(setup.header(at), (101, at as i32));
        setup.sender.on_sent(at, 10 + at as u64, EPOCH);
    }
}

#[test]
fn a_batch_behind_a_definite_failure_gets_a_new_producer_id() {
    let mut setup = Setup::new();
    let mut first = setup.send(2);
    let _second = setup.send(1);
    setup.refuse(0, ErrorCode::InvalidRecord);
    let failed = (ErrorCode::InvalidRecord, Outcome::Definite);
    assert_eq!(outcome(&mut first), Some(Err(failed)));
    // Even a lost answer does not matter: what follows a missing batch was not appended.
    setup.lose(1);
    setup.wait();
    assert_eq!(setup.turn(), Turn::NeedIdentity { after: 1 });
    setup.newest = identity(2);
    assert_eq!(setup.turn(), Turn::Send(0));
    assert_eq!(setup.header(0), (102, 0));
}

#[test]
fn a_batch_that_may_be_in_the_log_is_never_sent_under_another_producer_id() {
    let mut setup = Setup::new();
    let mut first = setup.send(1);
    let mut second = setup.send(1);
    let _third = setup.send(1);
    setup.refuse(0, ErrorCode::UnknownServerError);
    let unknown = (ErrorCode::UnknownServerError, Outcome::Indefinite);
    assert_eq!(outcome(&mut first), Some(Err(unknown)));
    setup.lose(1);
    setup.refuse(2, ErrorCode::NotEnoughReplicas);
    setup.newest = identity(2);
    setup.wait();
    assert_eq!(setup.turn(), Turn::Send(0));
    assert_eq!(setup.header(0), (101, 1));
    setup.sender.on_sent(0, 11, EPOCH);
    assert_eq!(setup.turn(), Turn::Idle);
    setup.refuse(11, ErrorCode::OutOfOrderSequenceNumber);
    let unknown = (ErrorCode::OutOfOrderSequenceNumber, Outcome::Indefinite);
    assert_eq!(outcome(&mut second), Some(Err(unknown)));
    // The third one was refused each time, so it may.
    setup.wait();
    assert_eq!(setup.turn(), Turn::Send(0));
    assert_eq!(setup.header(0), (102, 0));
}

#[test]
fn a_sequence_refused_without_a_gap_fails_the_batch_and_ends_the_producer_id() {
    let mut setup = Setup::new();
    let mut first = setup.send(1);
    setup.refuse(0, ErrorCode::UnknownProducerId);
    let failed = (ErrorCode::UnknownProducerId, Outcome::Definite);
    assert_eq!(outcome(&mut first), Some(Err(failed)));
    assert_eq!(setup.turn(), Turn::NeedIdentity { after: 1 });
    setup.newest = identity(2);
    let _second = setup.send(1);
    assert_eq!(setup.header(0), (102, 0));
}

#[test]
fn a_duplicate_is_a_success() {
    let mut setup = Setup::new();
    let mut first = setup.send(1);
    setup.lose(0);
    setup.wait();
    assert_eq!(setup.turn(), Turn::Send(0));
    setup.sender.on_sent(0, 10, EPOCH);
    setup.refuse(10, ErrorCode::DuplicateSequenceNumber);
    assert_eq!(outcome(&mut first).unwrap().unwrap().offset, Offset(-1));
}

#[test]
fn a_batch_too_old_is_given_up_even_in_flight_and_its_late_answer_still_counts() {
    let mut setup = Setup::new();
    let mut first = setup.send(1);
    setup.now = setup.now + MS * 500;
    setup
        .sender
        .expire(setup.now, MS * 400, &mut setup.finished);
    let unknown = (ErrorCode::RequestTimedOut, Outcome::Indefinite);
    assert_eq!(outcome(&mut first), Some(Err(unknown)));
    // It was appended after all: the sequence has no gap, and goes on.
    setup.answer(0, Answer::Acked(Offset(0)));
    let _second = setup.send(1);
    assert_eq!(setup.header(0), (101, 1));
}

#[test]
fn a_batch_too_old_that_was_refused_each_time_failed_for_sure() {
    let mut setup = Setup::new();
    let mut first = setup.send(1);
    setup.refuse(0, ErrorCode::NotEnoughReplicas);
    setup.now = setup.now + MS * 500;
    setup
        .sender
        .expire(setup.now, MS * 400, &mut setup.finished);
    let failed = (ErrorCode::RequestTimedOut, Outcome::Definite);
    assert_eq!(outcome(&mut first), Some(Err(failed)));
    assert_eq!(setup.turn(), Turn::NeedIdentity { after: 1 });
}

#[test]
fn a_split_batch_keeps_its_sequences() {
    let mut setup = Setup::new();
    let _first = setup.send(4);
    let _second = setup.send(1);
    setup.refuse(0, ErrorCode::MessageTooLarge);
    setup.refuse(1, ErrorCode::OutOfOrderSequenceNumber);
    for (at, sequence) in [(0, 0), (1, 2), (2, 4)] {
        assert_eq!(setup.turn(), Turn::Send(at));
        assert_eq!(setup.header(at), (101, sequence));
        setup.sender.on_sent(at, 10 + at as u64, EPOCH);
    }
}
