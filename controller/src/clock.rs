//! The one place in the controller's shell that reads clocks and draws random numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use ottla_model::{Instant, TimestampMs};

/// Monotonic time since the process's start, and wall-clock time for records.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock {
            origin: std::time::Instant::now(),
        }
    }

    pub fn now(&self) -> Instant {
        Instant(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The time as metadata records carry it. A clock before 1970 reads as 1970.
    pub fn wall(&self) -> TimestampMs {
        let elapsed = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        TimestampMs(i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }

    /// How long from now until `at`; zero if that has passed.
    pub fn until(&self, at: Instant) -> std::time::Duration {
        at.since(self.now())
    }
}

/// Randomness for ids and placement.
pub fn random() -> u128 {
    rand::random()
}
