//! The outcome of a batch, shared by the futures of its records. A batch that had to be split
//! completes in parts.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ottla_model::{Offset, PartitionIndex};
use parking_lot::Mutex;

use crate::error::ProduceError;

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub partition: PartitionIndex,
    /// -1 if the broker does not tell: without acknowledgement, or for a duplicate so old that only
    /// the fact is known.
    pub offset: Offset,
}

#[derive(Debug)]
pub(super) struct Completion {
    partition: PartitionIndex,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many records there are; unknown while more may be added.
    total: Option<u32>,
    parts: Vec<Part>,
    wakers: Vec<Waker>,
}

impl State {
    fn is_done(&self) -> bool {
        let done: u32 = self.parts.iter().map(|part| part.count).sum();
        self.total.is_some_and(|total| done >= total)
    }

    /// Remembers whom to wake, once per task. Slots are forgotten when a part completes, so an old
    /// number may lie beyond the end or belong to somebody else.
    fn register(&mut self, slot: &mut Option<usize>, cx: &Context<'_>) {
        let known = slot.and_then(|slot| self.wakers.get(slot));
        if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
            *slot = Some(self.wakers.len());
            self.wakers.push(cx.waker().clone());
        }
    }
}

/// The outcome of the records from `first` on, `count` of them.
#[derive(Debug)]
struct Part {
    first: u32,
    count: u32,
    result: Result<Offset, ProduceError>,
}

impl Completion {
    pub(super) fn new(partition: PartitionIndex) -> Arc<Completion> {
        Arc::new(Completion {
            partition,
            state: Mutex::new(State::default()),
        })
    }

    /// Fixes how many records there are.
    pub(super) fn set_total(&self, total: u32) {
        self.state.lock().total = Some(total);
    }

    /// Whether every record has its outcome.
    pub(super) fn is_done(&self) -> bool {
        self.state.lock().is_done()
    }

    /// Waits until every record has its outcome.
    pub(super) async fn done(&self) {
        let mut slot = None;
        std::future::poll_fn(|cx| {
            let mut state = self.state.lock();
            if state.is_done() {
                return Poll::Ready(());
            }
            state.register(&mut slot, cx);
            Poll::Pending
        })
        .await;
    }

    /// Completes some records. `Ok` holds the first one's offset.
    pub(super) fn complete(&self, first: u32, count: u32, result: Result<Offset, ProduceError>) {
        let wakers = {
            let mut state = self.state.lock();
            state.parts.push(Part {
                first,
                count,
                result,
            });
            std::mem::take(&mut state.wakers)
        };
        for waker in wakers {
            waker.wake();
        }
    }

    /// The outcome of one record, if it has one.
    fn get(&self, state: &State, index: u32) -> Option<Result<Delivered, ProduceError>> {
        let covers = |part: &&Part| index >= part.first && index - part.first < part.count;
        let part = state.parts.iter().find(covers)?;
        Some(part.result.clone().map(|base| Delivered {
            partition: self.partition,
            offset: if base.0 < 0 {
                base
            } else {
                base + i64::from(index - part.first)
            },
        }))
    }
}

/// Resolves to where the record went, or why it did not. May be dropped; the record is sent all
/// the same.
#[derive(Debug)]
#[must_use = "a record's failure is only told here"]
pub struct DeliveryFuture {
    completion: Arc<Completion>,
    index: u32,
    slot: Option<usize>,
}

impl DeliveryFuture {
    pub(super) fn new(completion: Arc<Completion>, index: u32) -> DeliveryFuture {
        DeliveryFuture {
            completion,
            index,
            slot: None,
        }
    }
}

impl Future for DeliveryFuture {
    type Output = Result<Delivered, ProduceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let completion = Arc::clone(&self.completion);
        let mut state = completion.state.lock();
        if let Some(result) = completion.get(&state, self.index) {
            return Poll::Ready(result);
        }
        state.register(&mut self.slot, cx);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use ottla_model::ErrorCode;

    use super::*;

    #[test]
    fn a_batch_completes_in_parts() {
        let completion = Completion::new(PartitionIndex(3));
        let future = |index| DeliveryFuture::new(Arc::clone(&completion), index);
        let (mut a, mut b) = (future(0), future(1));
        assert!((&mut a).now_or_never().is_none());
        completion.complete(1, 2, Ok(Offset(40)));
        assert!((&mut a).now_or_never().is_none());
        let partition = PartitionIndex(3);
        let delivered = |offset| {
            Some(Ok(Delivered {
                partition,
                offset: Offset(offset),
            }))
        };
        assert_eq!((&mut b).now_or_never(), delivered(40));
        assert_eq!(future(2).now_or_never(), delivered(41));
        let error = ProduceError::definite(ErrorCode::InvalidRecord, "no");
        completion.complete(0, 1, Err(error.clone()));
        assert_eq!(a.now_or_never(), Some(Err(error)));
    }

    #[tokio::test]
    async fn a_waiting_task_is_woken() {
        let completion = Completion::new(PartitionIndex(0));
        let waiting: Vec<_> = (0..3)
            .map(|index| tokio::spawn(DeliveryFuture::new(Arc::clone(&completion), index)))
            .collect();
        tokio::task::yield_now().await;
        completion.complete(0, 3, Ok(Offset(7)));
        for (index, task) in waiting.into_iter().enumerate() {
            assert_eq!(
                task.await.unwrap().unwrap().offset,
                Offset(7 + index as i64)
            );
        }
    }
}
