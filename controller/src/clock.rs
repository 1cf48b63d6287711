//! The clocks and the randomness that the cores are given.

use std::time::{SystemTime, UNIX_EPOCH};

use ottla_model::{Instant, TimestampMs};

/// A monotonic clock and the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock {
            origin: std::time::Instant::now(),
        }
    }

    pub fn now(&self) -> Instant {
        let nanos = u64::try_from(self.origin.elapsed().as_nanos());
        Instant(nanos.unwrap_or(u64::MAX))
    }

    /// When a point of this clock is, for waiting.
    pub fn at(&self, instant: Instant) -> tokio::time::Instant {
        (self.origin + instant.since(Instant::ZERO)).into()
    }

    pub fn wall(&self) -> TimestampMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        TimestampMs(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}
