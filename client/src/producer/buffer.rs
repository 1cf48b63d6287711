//! The accumulator as shared by those who send and the driver, with the room that its records may
//! take and the clock that both go by.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use ottla_model::{Instant, TopicIdPartition};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::accumulator::{Accumulator, PendingBatch};
use super::batch::Finished;

#[derive(Debug)]
pub(super) struct Buffer {
    accumulator: Mutex<Accumulator>,
    /// Bytes that are free.
    room: Semaphore,
    work: Notify,
    closed: AtomicBool,
    origin: tokio::time::Instant,
}

impl Buffer {
    pub(super) fn new(accumulator: Accumulator, bytes: usize) -> Buffer {
        Buffer {
            accumulator: Mutex::new(accumulator),
            room: Semaphore::new(bytes),
            work: Notify::new(),
            closed: AtomicBool::new(false),
            origin: tokio::time::Instant::now(),
        }
    }

    pub(super) fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }

    /// Takes room for a record, waiting for it. False if the producer is closed.
    pub(super) async fn reserve(&self, bytes: usize) -> bool {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.room.acquire_many(permits).await {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Takes room for a record if there is some. False as well if the producer is closed.
    pub(super) fn try_reserve(&self, bytes: usize) -> bool {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = self.room.try_acquire_many(permits);
        permit.map(|permit| permit.forget()).is_ok()
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.room.add_permits(bytes);
    }

    pub(super) fn with<T>(&self, use_it: impl FnOnce(&mut Accumulator) -> T) -> T {
        use_it(&mut self.accumulator.lock())
    }

    /// Tells the driver to look.
    pub(super) fn wake(&self) {
        self.work.notify_one();
    }

    pub(super) async fn wait_for_work(&self) {
        self.work.notified().await;
    }

    pub(super) fn take_ready(&self, now: Instant) -> BTreeSet<TopicIdPartition> {
        self.accumulator.lock().take_ready(now)
    }

    pub(super) fn take(&self, now: Instant, partition: TopicIdPartition) -> Option<PendingBatch> {
        self.accumulator.lock().take(now, partition)
    }

    pub(super) fn take_expired(&self, before: Instant) -> Vec<(TopicIdPartition, PendingBatch)> {
        self.accumulator.lock().take_expired(before)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.accumulator.lock().next_deadline()
    }

    /// Frees the room of batches that are done.
    pub(super) fn release(&self, finished: Vec<Finished>) {
        if finished.is_empty() {
            return;
        }
        let mut freed = 0;
        let mut accumulator = self.accumulator.lock();
        for batch in finished {
            freed += batch.reserved;
            if let Some(number) = batch.number {
                accumulator.on_complete(number);
            }
        }
        drop(accumulator);
        self.room.add_permits(freed);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.room.close();
        self.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether every batch is complete.
    pub(super) fn is_drained(&self) -> bool {
        self.accumulator.lock().is_drained()
    }
}
