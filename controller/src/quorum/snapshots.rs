//! When a snapshot is made and what of the log may go: a snapshot after so many entries or bytes,
//! and everything that the snapshot *before* the newest covers, so that either of them and the log
//! make the state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;

use super::log_store::LogStore;
use super::snapshot_file::SnapshotDir;
use super::state_machine::SinceSnapshot;
use super::types::Raft;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// Keeps the log short.
pub struct SnapshotKeeper {
    pub raft: Raft,
    pub store: LogStore,
    pub snapshots: SnapshotDir,
    pub since: Arc<SinceSnapshot>,
    pub entries_max: u64,
    pub bytes_max: u64,
}

impl SnapshotKeeper {
    /// Runs until the consensus is gone.
    pub async fn run(self) {
        let mut interval = tokio::time::interval(INTERVAL);
        let mut purged_for = None;
        loop {
            interval.tick().await;
            let due = self.since.entries.load(Ordering::Relaxed) >= self.entries_max
                || self.since.bytes.load(Ordering::Relaxed) >= self.bytes_max;
            if due && self.raft.trigger().snapshot().await.is_err() {
                return;
            }
            let newest = self.raft.metrics().borrow_watched().snapshot;
            if newest == purged_for {
                continue;
            }
            match self.snapshots.oldest_kept_index() {
                Ok(Some(index)) if self.store.purged().is_none_or(|log| log.index < index) => {
                    if self.raft.trigger().purge_log(index).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the snapshots cannot be listed");
                    continue;
                }
            }
            purged_for = newest;
        }
    }
}
