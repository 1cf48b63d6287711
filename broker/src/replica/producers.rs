//! The producers' state over restarts: read from what the log keeps of it and the batches behind
//! that, and given to the log to keep.

use ottla_broker_core::producers::Producers;
use ottla_log::{LogError, PartitionLog, ReadError};

use super::Replica;

/// The producers' state: what was saved of it, and the batches since; all batches, if nothing that
/// holds was saved.
pub fn load_producers(log: &PartitionLog) -> Result<Producers, ReadError> {
    loop {
        let saved = log.saved_producers();
        let known = saved
            .as_ref()
            .and_then(|saved| Some((saved.upto, Producers::decode(&saved.state)?)));
        let log_start = log.log_start();
        let (from, mut producers) = known.unwrap_or((log_start, Producers::default()));
        log.for_each_header(from.max(log_start), &mut |header| producers.observe(header))?;
        // Compaction may have rewritten what was just read.
        let holds = saved.is_none_or(|saved| log.holds_saved_producers(&saved));
        if holds {
            return Ok(producers);
        }
    }
}

impl Replica {
    /// Whether [`Replica::save_producers`] would spare the next start much.
    pub fn saved_producers_lag(&self) -> bool {
        self.log.saved_producers_lag()
    }

    /// Has the log keep what is known of the producers, unless it does or they are being read from
    /// it. Blocks.
    pub fn save_producers(&self) -> Result<(), LogError> {
        if self.log.has_saved_producers() {
            return Ok(());
        }
        let (moment, state) = {
            // The log and the core are changed together under this lock.
            let inner = self.inner.lock();
            let Some(producers) = inner.core.producers().filter(|_| !inner.broken) else {
                return Ok(());
            };
            (self.log.moment(), producers.encode())
        };
        self.log.save_producers(moment, &state).map(drop)
    }
}

#[cfg(test)]
mod tests;
