//! The consensus of the controllers: proposing entries, following who leads, snapshots. The only
//! place that names openraft. What the entries mean is not known here beyond replaying them.

mod admission;
#[cfg(test)]
mod crash_matrix;
mod founding;
mod frame;
mod guard;
mod leader_watch;
mod log_cache;
mod log_store;
mod log_writer;
mod member;
mod network;
mod open;
mod service;
mod snapshot_file;
mod snapshots;
mod state_machine;
mod status;
mod types;
mod view;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{
    ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError,
};
use ottla_model::NodeId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use guard::{Guard, OnFatal};
use member::Member;
pub use open::QuorumParts;
pub use service::RaftHandler;
pub use types::Applied;
use types::{EntryData, TypeConfig, node_id, raft_id};
pub use view::{MemberView, QuorumView};

use crate::connection::is_refused;

/// How long it may take to see whether another controller's port is closed.
const LOOK_TIMEOUT: Duration = Duration::from_millis(150);

/// Who leads, as this node knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuorumStatus {
    pub leader: Option<NodeId>,
    pub term: u64,
    /// Whether this node leads, and a majority has followed it lately.
    pub is_leader: bool,
    /// Whether the quorum has been founded, as far as this node knows.
    pub has_members: bool,
    /// One more than the index in the log of the membership that this node goes by; 0 before
    /// founding.
    pub membership: u64,
}

/// Why an entry was not committed, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was not appended: this node does not lead.
    #[error("this controller does not lead the quorum")]
    NotLeader { leader: Option<NodeId> },
    /// It was not appended: no majority has answered for longer than the lease.
    #[error("no majority of controllers answers")]
    NoQuorum,
    /// It was appended, but leadership was lost; nobody knows whether it will be committed.
    #[error("leadership was lost while the entry was not committed yet")]
    Unknown,
    #[error("the consensus has stopped: {0}")]
    Stopped(String),
}

/// The consensus as this node takes part in it.
pub struct Quorum {
    member: Member,
    handler: RaftHandler,
    /// How long a leader that no majority answers may decide.
    lease: Duration,
    tasks: Mutex<JoinSet<()>>,
}

impl Quorum {
    /// Proposes an entry and waits until it is committed and applied here.
    ///
    /// # Errors
    /// See [`ProposeError`]; only [`ProposeError::Unknown`] and [`ProposeError::Stopped`] leave
    /// open whether the entry takes effect.
    pub async fn propose(&self, entry: Bytes) -> Result<Applied, ProposeError> {
        let written = self.member.raft.client_write(EntryData(entry)).await;
        let error = match written {
            Ok(response) => return Ok(response.data),
            Err(error) => error,
        };
        Err(match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => refused(&forward),
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ProposeError::Unknown,
            RaftError::APIError(other) => ProposeError::Stopped(other.to_string()),
            RaftError::Fatal(fatal) => ProposeError::Stopped(fatal.to_string()),
        })
    }

    /// Asks a majority whether this node leads still.
    ///
    /// # Errors
    /// [`ProposeError`] if it does not, or no majority answers.
    pub async fn confirm(&self) -> Result<(), ProposeError> {
        let confirmed = self
            .member
            .raft
            .ensure_linearizable(ReadPolicy::ReadIndex)
            .await;
        let Err(error) = confirmed else {
            return Ok(());
        };
        Err(match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
                refused(&forward)
            }
            RaftError::APIError(_) => ProposeError::NoQuorum,
            RaftError::Fatal(fatal) => ProposeError::Stopped(fatal.to_string()),
        })
    }

    /// Who leads, and every change of it.
    pub fn status(&self) -> watch::Receiver<QuorumStatus> {
        self.member.status.clone()
    }

    /// The service that peers call.
    pub fn handler(&self) -> RaftHandler {
        self.handler.clone()
    }

    pub fn guard(&self) -> &Arc<Guard> {
        &self.member.guard
    }

    /// The quorum as this node sees it.
    pub fn view(&self) -> QuorumView {
        view::view(
            &self.member.raft,
            &self.member.peers,
            self.member.store.last_log_id(),
            self.lease,
        )
    }

    /// Where a controller is reached.
    pub fn endpoint(&self, id: NodeId) -> Option<ottla_metadata::Endpoint> {
        self.member.peers.endpoint(id).cloned()
    }

    /// Hands leadership to the voter that has the most of those that are there, if this node leads.
    /// The successor must be able to reach this node, which learns from it that it leads.
    pub async fn hand_over(&self, patience: Duration) {
        let Some(to) = self.successor().await else {
            return;
        };
        tracing::info!(%to, "handing over the quorum's leadership");
        let trigger = self.member.raft.trigger();
        if trigger.transfer_leader(raft_id(to)).await.is_err() {
            return;
        }
        let me = self.member.guard.identity().node_id;
        let mut status = self.member.status.clone();
        let moved = status.wait_for(|status| {
            !status.is_leader && status.leader.is_some_and(|leader| leader != me)
        });
        let moved = timeout(patience, moved).await;
        match moved.map(|status| status.map(|status| status.leader)) {
            Ok(Ok(Some(leader))) => tracing::info!(%leader, "another controller leads now"),
            // The others elect one.
            _ => tracing::info!("no other controller took over in time"),
        }
    }

    /// Who should lead next, if this node leads.
    async fn successor(&self) -> Option<NodeId> {
        let metrics = self.member.raft.metrics().borrow_watched().clone();
        let me = raft_id(self.member.guard.identity().node_id);
        let leads = self.member.status.borrow().is_leader;
        let replication = metrics.replication.filter(|_| leads)?;
        let voters: BTreeSet<_> = metrics.membership_config.voter_ids().collect();
        let others = replication
            .into_iter()
            .filter(|(id, _)| *id != me && voters.contains(id));
        let mut others: Vec<_> = others.map(|(id, matched)| (matched, id)).collect();
        others.sort_unstable();
        for (_, id) in others.into_iter().rev() {
            let id = node_id(id);
            let endpoint = self.member.peers.endpoint(id);
            // Whoever stops at the same time may be gone, and would be waited for in vain.
            match endpoint {
                Some(endpoint) if !is_refused(endpoint, LOOK_TIMEOUT).await => return Some(id),
                _ => {}
            }
        }
        tracing::info!("no other controller is there to lead the quorum");
        None
    }

    /// Stops taking part.
    pub async fn shutdown(&self) {
        self.tasks.lock().abort_all();
        if let Err(error) = self.member.raft.shutdown().await {
            tracing::warn!(%error, "the consensus did not end cleanly");
        }
    }
}

fn refused(forward: &ForwardToLeader<TypeConfig>) -> ProposeError {
    match forward.reason {
        ForwardReason::LeaseExpired => ProposeError::NoQuorum,
        ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => ProposeError::NotLeader {
            leader: forward.leader_id.map(node_id),
        },
    }
}

#[cfg(test)]
mod tests;
