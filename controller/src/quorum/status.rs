//! Follows who leads: for the status, for the guard (which voters there are) and for the fatal
//! callback (the consensus stopped).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use openraft::{RaftMetrics, ServerState};
use tokio::sync::watch;

use super::QuorumStatus;
use super::guard::{Guard, Registered};
use super::types::{Raft, TypeConfig, node_id};
use crate::error::FatalError;

/// How often the status is looked at without a change of the consensus.
const INTERVAL: Duration = Duration::from_millis(100);

/// Keeps the status up to date.
pub struct StatusFollower {
    raft: Raft,
    guard: Arc<Guard>,
    /// How long a leader that no majority answers counts as one.
    patience: Duration,
    sender: watch::Sender<QuorumStatus>,
}

impl StatusFollower {
    /// The follower, with the status as it is before the consensus runs.
    pub fn new(
        raft: &Raft,
        guard: Arc<Guard>,
        patience: Duration,
    ) -> (StatusFollower, watch::Receiver<QuorumStatus>) {
        let (sender, status) = watch::channel(QuorumStatus::default());
        let follower = StatusFollower {
            raft: raft.clone(),
            guard,
            patience,
            sender,
        };
        follower.note();
        (follower, status)
    }

    /// Runs until the consensus is gone.
    pub async fn run(self) {
        let mut metrics = self.raft.metrics();
        loop {
            self.note();
            let changed = tokio::time::timeout(INTERVAL, metrics.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                self.note();
                return;
            }
        }
    }

    fn note(&self) {
        let metrics = self.raft.metrics().borrow_watched().clone();
        match &metrics.running_state {
            Ok(()) | Err(Fatal::Stopped) => {}
            Err(error) => self.guard.fatal(FatalError::Consensus(error.to_string())),
        }
        let members = metrics.membership_config.nodes();
        let directories: BTreeMap<_, _> = members
            .map(|(id, node)| (node_id(*id), node.directory_id()))
            .collect();
        let written_at = metrics.membership_config.log_id().as_ref();
        let membership = written_at.map_or(0, |log_id| log_id.index + 1);
        // A leader that no majority answers must not keep the brokers to itself: others may have
        // elected another long since.
        let is_followed = is_followed(&metrics, self.patience);
        let leads = metrics.state == ServerState::Leader;
        let is_running = metrics.running_state.is_ok();
        let leader = metrics.current_leader.map(node_id);
        let status = QuorumStatus {
            leader: leader.filter(|_| is_running && (!leads || is_followed)),
            term: metrics.current_term,
            is_leader: is_running && leads && is_followed,
            has_members: !directories.is_empty(),
            membership,
        };
        self.guard.set_registered(Registered {
            at: membership,
            is_committed: metrics.membership_config == metrics.committed_membership_config,
            directories,
        });
        self.sender
            .send_if_modified(|current| std::mem::replace(current, status) != status);
    }
}

/// Whether a majority has answered a leader within this time.
pub(super) fn is_followed(metrics: &RaftMetrics<TypeConfig>, within: Duration) -> bool {
    // A voter alone is its own majority, and asks nobody.
    let is_alone = metrics.membership_config.voter_ids().count() == 1;
    let acknowledged = metrics.last_quorum_acked;
    is_alone || acknowledged.is_some_and(|at| at.elapsed() < within)
}
