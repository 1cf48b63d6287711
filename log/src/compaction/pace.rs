//! Keeps compaction from taking the disk and the processor away from everybody else: so many bytes
//! a second, in small portions.

use std::time::{Duration, Instant};

use crate::error::LogError;
use crate::shared::Shared;

/// How far compaction may run ahead of its pace.
const BURST: Duration = Duration::from_millis(20);
/// How long it sleeps at a time, before it looks whether the store is still open.
const NAP: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When what was spent so far is paid for.
    paid_at: Option<Instant>,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace {
            bytes_per_second: bytes_per_second.max(1),
            paid_at: None,
        }
    }

    /// Accounts for bytes that were read or written, and sleeps until they are due.
    ///
    /// # Errors
    /// Once the store is closed.
    pub fn spend(&mut self, shared: &Shared, bytes: u64) -> Result<(), LogError> {
        if self.bytes_per_second < u64::MAX {
            let cost = bytes as f64 / self.bytes_per_second as f64;
            let now = Instant::now();
            let paid_at = self.paid_at.map_or(now, |at| at.max(now));
            self.paid_at = Some(paid_at + Duration::from_secs_f64(cost));
        }
        loop {
            if shared.journal.is_closed() {
                return Err(shared.why_closed());
            }
            let ahead = self
                .paid_at
                .map(|at| at.saturating_duration_since(Instant::now()));
            match ahead {
                Some(ahead) if ahead > BURST => std::thread::sleep(ahead.min(NAP)),
                _ => return Ok(()),
            }
        }
    }
}
