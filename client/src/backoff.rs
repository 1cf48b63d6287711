//! How long to wait before something is tried again: doubling between two bounds. Without jitter,
//! which the callers do not need: each failure is answered for many partitions at once.

use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Backoff {
        Backoff {
            min,
            max,
            attempts: 0,
        }
    }

    /// Counts a failure and gives the wait that follows it.
    pub(crate) fn on_failure(&mut self) -> Duration {
        let factor = 1u32 << self.attempts.min(16);
        self.attempts = self.attempts.saturating_add(1);
        self.min.saturating_mul(factor).min(self.max)
    }

    pub(crate) fn on_success(&mut self) {
        self.attempts = 0;
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_over_after_a_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(20), ms(100));
        let waits: Vec<_> = (0..5).map(|_| backoff.on_failure()).collect();
        assert_eq!(waits, [ms(20), ms(40), ms(80), ms(100), ms(100)]);
        backoff.on_success();
        assert_eq!(backoff.on_failure(), ms(20));
    }
}
