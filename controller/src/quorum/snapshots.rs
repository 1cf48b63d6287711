//! When a snapshot is made and what of the log may go: a snapshot after so many entries or bytes,
//! and everything that the snapshot *before* the newest covers, so that either of them and the log
//! make the state.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver as _;

use super::log_store::LogStore;
use super::snapshot_file::SnapshotDir;
use super::state_machine::SinceSnapshot;
use super::types::{LogId, Raft};

/// Keeps the log short.
pub struct SnapshotKeeper {
    pub raft: Raft,
    pub store: LogStore,
    pub snapshots: SnapshotDir,
    pub since: Arc<SinceSnapshot>,
}

impl SnapshotKeeper {
    /// Runs until the consensus is gone.
    pub async fn run(self) {
        let mut metrics = self.raft.data_metrics();
        let mut purged_for = None;
        loop {
            tokio::select! {
                () = self.since.due.notified() => {
                    if self.raft.trigger().snapshot().await.is_err() {
                        return;
                    }
                }
                changed = metrics.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let newest = metrics.borrow_watched().snapshot;
                    if newest != purged_for && self.purge(newest).await {
                        purged_for = newest;
                    }
                }
            }
        }
    }

    /// Gives up what the snapshot before the newest covers. Says whether that is settled.
    async fn purge(&self, newest: Option<LogId>) -> bool {
        let kept = match self.snapshots.oldest_kept_index() {
            Ok(kept) => kept,
            Err(error) => {
                tracing::warn!(%error, "the snapshots cannot be listed");
                return false;
            }
        };
        let Some(index) = kept.filter(|index| newest.is_some_and(|newest| *index < newest.index))
        else {
            return true;
        };
        let is_new = self.store.purged().is_none_or(|log| log.index < index);
        !is_new || self.raft.trigger().purge_log(index).await.is_ok()
    }
}
