//! Reads stored data again at a steady, low rate, so that damage is found while there are whole
//! copies elsewhere, not when the last of them is needed.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ottla_log::LogStore;
use parking_lot::{Condvar, Mutex};

use crate::damage::DamageFound;

/// A thread that goes over all sealed segments, round after round, until it is dropped.
pub struct Scrubber {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Waits; true if it is time to stop.
    fn wait(&self, how_long: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        let stop = |stopped: &mut bool| !*stopped;
        self.changed.wait_while_for(&mut stopped, stop, how_long);
        *stopped
    }
}

/// How fast and how often.
#[derive(Debug, Clone, Copy)]
pub struct ScrubPace {
    /// Bytes read in a second, on average.
    pub bytes_per_second: u64,
    /// From the beginning of one round to the next, at least.
    pub interval: Duration,
}

impl Scrubber {
    pub fn start(
        store: Arc<LogStore>,
        found: Arc<DamageFound>,
        pace: ScrubPace,
    ) -> std::io::Result<Scrubber> {
        let stop = Arc::new(Stop::default());
        let its_stop = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("log-scrub".to_owned())
            .spawn(move || run(&store, &found, pace, &its_stop))?;
        Ok(Scrubber {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        *self.stop.stopped.lock() = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the scrubber panicked");
        }
    }
}

fn run(store: &LogStore, found: &DamageFound, pace: ScrubPace, stop: &Stop) {
    loop {
        let began = Instant::now();
        let mut going = true;
        store.scrub(
            &mut |bytes| {
                let takes = bytes as f64 / pace.bytes_per_second as f64;
                going = !stop.wait(Duration::from_secs_f64(takes));
                going
            },
            &mut |id, what| found.add(id, what),
        );
        let rest = pace.interval.saturating_sub(began.elapsed());
        if !going || stop.wait(rest) {
            return;
        }
    }
}
