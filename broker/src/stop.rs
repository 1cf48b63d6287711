//! Ending the threads that work in the background.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Told once, heard by every thread that waits or asks.
#[derive(Debug, Default)]
pub struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        *self.stopped.lock()
    }

    /// Waits for so long, or until it is time to stop; true then.
    pub fn wait(&self, how_long: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        let goes_on = |stopped: &mut bool| !*stopped;
        self.changed.wait_while_for(&mut stopped, goes_on, how_long);
        *stopped
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn whoever_waits_hears_of_it_at_once_and_whoever_asks_later_too() {
        let stop = Stop::default();
        assert!(!stop.wait(Duration::ZERO));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| stop.wait(Duration::from_secs(60)));
            let began = Instant::now();
            stop.stop();
            assert!(waiting.join().unwrap());
            assert!(began.elapsed() < Duration::from_secs(60));
        });
        assert!(stop.is_stopped() && stop.wait(Duration::from_secs(60)));
    }
}
