//! Fetches that wait until there is something new in a log.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The fetches that wait. One of many logs is with each of them, and may be over long before
/// anything happens here.
#[derive(Debug, Default)]
pub struct Waiters(Mutex<Vec<Weak<Notify>>>);

impl Waiters {
    /// Notifies at the next change, for as long as somebody else holds `waiter`.
    pub fn add(&self, waiter: &Arc<Notify>) {
        let mut waiters = self.0.lock();
        waiters.retain(|known| known.strong_count() > 0);
        let waiter = Arc::downgrade(waiter);
        if !waiters.iter().any(|known| known.ptr_eq(&waiter)) {
            waiters.push(waiter);
        }
    }

    /// Tells all of a change; who waits for the next one says so again.
    pub fn wake(&self) {
        let waiters = std::mem::take(&mut *self.0.lock());
        for waiter in waiters.iter().filter_map(Weak::upgrade) {
            waiter.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They stayed for as long as nothing was written to at least two of their logs: a few bytes
    /// for each long poll, and all of them were gone through at each fetch.
    #[test]
    fn fetches_that_are_over_are_forgotten() {
        let logs = [Waiters::default(), Waiters::default()];
        for _ in 0..100 {
            let fetch = Arc::new(Notify::new());
            logs.iter().for_each(|log| log.add(&fetch));
        }
        let fetch = Arc::new(Notify::new());
        for _ in 0..3 {
            logs.iter().for_each(|log| log.add(&fetch));
        }
        for log in &logs {
            assert_eq!(log.0.lock().len(), 1);
        }
    }

    #[tokio::test]
    async fn a_change_wakes_who_waits() {
        let log = Waiters::default();
        let fetches = [(); 2].map(|()| Arc::new(Notify::new()));
        fetches.iter().for_each(|fetch| log.add(fetch));
        log.wake();
        for fetch in fetches {
            fetch.notified().await;
        }
    }
}
