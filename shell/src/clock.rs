//! The one place that reads clocks. Everything else is given the time.

use std::time::{SystemTime, UNIX_EPOCH};

use ottla_model::{Instant, TimestampMs};

/// Monotonic time since the clock was started, and wall-clock time for records.
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
        Instant(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// When a point of this clock is, for waiting.
    pub fn at(&self, instant: Instant) -> tokio::time::Instant {
        (self.origin + instant.since(Instant::ZERO)).into()
    }

    /// The time as records carry it. A clock before 1970 reads as 1970.
    pub fn wall(&self) -> TimestampMs {
        let elapsed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        TimestampMs(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }
}
