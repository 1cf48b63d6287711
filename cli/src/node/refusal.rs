//! Why a node cannot have its directory or its ports, and whether that may pass by itself.

use std::time::Duration;

/// How long a node waits for what the threads of a process that was killed a moment ago still hold.
const PATIENCE: Duration = Duration::from_millis(1_000);
const PAUSE: Duration = Duration::from_millis(20);

/// A refusal: one line that names the key at fault and the remedy.
#[derive(Debug)]
pub struct Refusal {
    pub reason: String,
    /// Whether a predecessor of this node may be about to let go of what is wanted.
    may_pass: bool,
}

impl Refusal {
    pub fn passing(reason: String) -> Refusal {
        Refusal {
            reason,
            may_pass: true,
        }
    }

    pub fn lasting(reason: String) -> Refusal {
        Refusal {
            reason,
            may_pass: false,
        }
    }
}

/// Tries until it succeeds, the refusal is one that does not pass, or the patience ends.
pub async fn patiently<T>(mut attempt: impl FnMut() -> Result<T, Refusal>) -> Result<T, String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(refusal) if !refusal.may_pass || tokio::time::Instant::now() >= deadline => {
                return Err(refusal.reason);
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
