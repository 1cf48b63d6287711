//! Reading for consumers what memory does not hold: few reads at a time, and with pauses when the
//! journal, for which producers wait, has become slow by them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_log::{ReadError, ReadOutcome};
use ottla_model::Offset;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::replica::Replica;

/// Reads from the disk at once: enough to keep one busy, and few enough that the threads that may
/// block are there for others.
const READS_MAX: usize = 4;

/// What consumers' reads from the disk have in common.
#[derive(Debug)]
pub struct DiskReads {
    slots: Semaphore,
    /// Before it none begins.
    next_at: Mutex<Option<Instant>>,
}

impl Default for DiskReads {
    fn default() -> DiskReads {
        DiskReads {
            slots: Semaphore::new(READS_MAX),
            next_at: Mutex::new(None),
        }
    }
}

impl DiskReads {
    /// Whole batches from a replica's log: from memory at once, from disk on a thread that may
    /// block.
    pub async fn read(
        &self,
        replica: &Arc<Replica>,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        match replica.checked(replica.log.read(from, limit, max_bytes))? {
            ReadOutcome::Cached(batches) => return Ok(batches),
            ReadOutcome::OnDisk => {}
        }
        // Never closed.
        let _slot = self.slots.acquire().await;
        let next_at = *self.next_at.lock();
        if let Some(next_at) = next_at {
            sleep_until(next_at).await;
        }
        let replica = Arc::clone(replica);
        let read = move || {
            let began = std::time::Instant::now();
            let read = replica.checked(replica.log.read_blocking(from, limit, max_bytes));
            (read, replica.log.pause_after_read(began.elapsed()))
        };
        match tokio::task::spawn_blocking(read).await {
            Ok((read, pause)) => {
                let next_at = (pause > Duration::ZERO).then(|| Instant::now() + pause);
                *self.next_at.lock() = next_at;
                read
            }
            // The runtime is going down, and the connection with it.
            Err(_) => Ok(Vec::new()),
        }
    }
}
