//! This node's part in the consensus, as its tasks and services share it.

use std::sync::Arc;

use tokio::sync::watch;

use super::QuorumStatus;
use super::guard::Guard;
use super::log_store::LogStore;
use super::network::Peers;
use super::types::Raft;

/// What it takes to take part. Clones are the same member.
#[derive(Clone)]
pub struct Member {
    pub raft: Raft,
    pub store: LogStore,
    pub peers: Peers,
    pub guard: Arc<Guard>,
    pub status: watch::Receiver<QuorumStatus>,
}
