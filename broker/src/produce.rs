//! A produce request under way: it collects one result per partition and answers when the last
//! is there.

use ottla_broker_core::partition::{ProduceAck, ProduceError};
use ottla_model::ErrorCode;
use ottla_proto::v1;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::rpc::Unread;

/// Where the response of a produce request goes.
pub enum Responder {
    /// Onto the stream that the request came on. Its place is freed when the answer leaves the
    /// channel, so the channel has room for every request that may be in flight.
    Stream(mpsc::Sender<Answer>),
    /// To the one caller.
    Once(oneshot::Sender<v1::ProduceResponse>),
}

/// An answer on its way to the stream, with what is held until it leaves.
pub struct Answer {
    pub response: v1::ProduceResponse,
    pub place: Option<Place>,
}

/// What a request on a stream takes until its answer leaves.
pub struct Place {
    /// One of so many on the stream.
    pub permit: OwnedSemaphorePermit,
    /// The memory of the answer.
    pub unread: Unread,
}

/// Completes the error of a result with what only the broker's shell knows: leader hints.
pub type Explain = Arc<dyn Fn(&v1::TopicPartition, &mut v1::Error) + Send + Sync>;

/// One produce request whose partitions are being appended.
pub struct PendingProduce {
    state: Mutex<State>,
    explain: Explain,
}

struct State {
    response: v1::ProduceResponse,
    missing: usize,
    responder: Option<Responder>,
    /// Held until the request is answered: its bytes in flight.
    bytes: Option<OwnedSemaphorePermit>,
    /// Held until the answer leaves.
    place: Option<Place>,
}

impl PendingProduce {
    pub fn new(
        request_id: u64,
        partitions: Vec<v1::TopicPartition>,
        responder: Responder,
        bytes: OwnedSemaphorePermit,
        place: Option<Place>,
        explain: Explain,
    ) -> PendingProduce {
        let missing = partitions.len();
        let results = partitions
            .into_iter()
            .map(|partition| v1::ProduceResult {
                partition: Some(partition),
                base_offset: -1,
                ..Default::default()
            })
            .collect();
        let response = v1::ProduceResponse {
            request_id,
            results,
        };
        let state = State {
            response,
            missing,
            responder: Some(responder),
            bytes: Some(bytes),
            place,
        };
        PendingProduce {
            state: Mutex::new(state),
            explain,
        }
    }

    /// Sets the result of one partition.
    pub fn complete(&self, index: usize, result: Result<ProduceAck, ProduceError>) {
        match result {
            Ok(ack) => self.set(index, |result| {
                result.base_offset = ack.base_offset.0;
                result.log_start_offset = ack.log_start.0;
                result.log_append_time_ms = ack.log_append_time.map(|time| time.0);
            }),
            Err(error) => self.fail(index, error.code, &error.to_string()),
        }
    }

    /// Sets a refusal as the result of one partition.
    pub fn fail(&self, index: usize, code: ErrorCode, message: &str) {
        self.set(index, |result| {
            let mut error = v1::Error {
                code: i32::from(code.number()),
                reason: code.name().to_owned(),
                message: message.to_owned(),
                ..Default::default()
            };
            if let Some(partition) = &result.partition {
                (self.explain)(partition, &mut error);
            }
            result.error = Some(error);
        });
    }

    fn set(&self, index: usize, change: impl FnOnce(&mut v1::ProduceResult)) {
        let mut state = self.state.lock();
        change(&mut state.response.results[index]);
        assert!(state.missing > 0, "result {index} came after the answer");
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        let response = std::mem::take(&mut state.response);
        let responder = state.responder.take();
        let mut place = state.place.take();
        if let Some(place) = &mut place {
            place.unread.answer(place.unread.bytes());
        }
        // The records are taken or refused; that a client does not read its answer is no reason to
        // keep others waiting.
        let bytes = state.bytes.take();
        drop(state);
        drop(bytes);
        // A client that has gone needs no answer.
        match responder {
            Some(Responder::Stream(stream)) => {
                drop(stream.try_send(Answer { response, place }));
            }
            Some(Responder::Once(caller)) => drop(caller.send(response)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::Offset;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::rpc::unread::{CallBudget, UnreadRoom};

    #[tokio::test]
    async fn bytes_are_given_back_with_the_answer_and_the_place_only_when_it_leaves() {
        let budget = CallBudget::of_call(&Arc::new(UnreadRoom::of_answers()), None);
        let unread = budget.reserve_answer(100);
        let (bytes, places) = (Arc::new(Semaphore::new(9)), Arc::new(Semaphore::new(1)));
        let (sender, mut answers) = mpsc::channel(1);
        let pending = PendingProduce::new(
            7,
            vec![v1::TopicPartition::default()],
            Responder::Stream(sender),
            Arc::clone(&bytes).try_acquire_many_owned(9).unwrap(),
            Some(Place {
                permit: Arc::clone(&places).try_acquire_owned().unwrap(),
                unread: unread.await.unwrap(),
            }),
            Arc::new(|_, _| {}),
        );
        let ack = ProduceAck {
            base_offset: Offset(3),
            log_start: Offset(0),
            log_append_time: None,
            duplicate: false,
        };
        assert_eq!(bytes.available_permits(), 0);
        pending.complete(0, Ok(ack));
        assert_eq!(
            (bytes.available_permits(), places.available_permits()),
            (9, 0)
        );
        let answer = answers.try_recv().unwrap();
        assert_eq!(answer.response.request_id, 7);
        drop(answer);
        assert_eq!(places.available_permits(), 1);
    }
}
