//! One time for all clients of a run, and a thread that tells a writer when its next records are
//! due. The runtime's own timers are a millisecond coarse, which would show in every latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Notify;

use super::schedule::Schedule;

/// The shortest sleep: records due within it are sent together.
const STEP_MIN: Duration = Duration::from_micros(100);
/// The longest sleep, so that an end asked for is noticed.
const STEP_MAX: Duration = Duration::from_millis(50);

/// Time since the start of a run.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock {
            origin: Instant::now(),
        }
    }

    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// Tells one writer how many of its records are due. Ends when dropped.
#[derive(Debug)]
pub struct Pacer {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    due: AtomicU64,
    ended: AtomicBool,
    dropped: AtomicBool,
    wake: Notify,
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.shared.dropped.store(true, Ordering::Release);
    }
}

impl Pacer {
    /// Paces a writer until `end`, or until `stop` is set.
    pub fn start(
        clock: Clock,
        schedule: Schedule,
        end: Duration,
        stop: Arc<AtomicBool>,
    ) -> anyhow::Result<Pacer> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("pacer".to_owned())
            .spawn(move || pace(clock, schedule, end, &stop, &theirs))
            .context("cannot start a thread that keeps the pace")?;
        Ok(Pacer { shared })
    }

    /// Waits until more records are due than were sent, and gives how many; `None` when there will
    /// be no more.
    pub async fn more_than(&self, sent: u64) -> Option<u64> {
        loop {
            // Read before the count: what was due at the end must not be missed.
            let ended = self.shared.ended.load(Ordering::Acquire);
            let due = self.shared.due.load(Ordering::Acquire);
            if due > sent {
                return Some(due);
            }
            if ended {
                return None;
            }
            self.shared.wake.notified().await;
        }
    }
}

fn pace(clock: Clock, schedule: Schedule, end: Duration, stop: &AtomicBool, shared: &Shared) {
    loop {
        let now = clock.now();
        let over = now >= end || stop.load(Ordering::Relaxed);
        let count = schedule.due_within(now, end);
        shared.due.store(count, Ordering::Release);
        if over || shared.dropped.load(Ordering::Acquire) {
            shared.ended.store(true, Ordering::Release);
            shared.wake.notify_one();
            return;
        }
        shared.wake.notify_one();
        let pause = schedule.due(count).saturating_sub(clock.now());
        std::thread::sleep(pause.clamp(STEP_MIN, STEP_MAX));
    }
}
