//! Why a controller node cannot start, or cannot go on.

use std::path::PathBuf;

use ottla_log::LogError;
use ottla_model::{ClusterId, DirectoryId, NodeId};

/// What to do about a directory that lost a part of what it held, where the node cannot begin anew
/// by itself.
const RESTORE: &str = "restore it; if it is lost and the other controllers are a majority, move the \
     directory `controller` away, and they take this node in anew";

/// Why a controller node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the configuration of the controllers is wrong: {0}")]
    Config(String),
    #[error("could not {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{} belongs to node {found}{of_cluster}, but this is node {expected}; give each node a directory of its own", path.display()
    )]
    OtherNode {
        path: PathBuf,
        found: NodeId,
        /// ` of cluster …`, where it is known.
        of_cluster: String,
        expected: NodeId,
    },
    #[error("{} is damaged: {what}; {RESTORE}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{} is missing although the directory holds a controller's data; {RESTORE}", path.display())]
    NoIdentity {
        path: PathBuf,
        /// Whether it is a log or snapshots that the directory holds.
        lost_state: bool,
    },
    #[error("{} has format {found}, but this build reads {known}; start the build that wrote it", path.display())]
    OtherFormat {
        path: PathBuf,
        found: u32,
        known: u32,
    },
    #[error("{} is in use by another process; stop that one, or give this node a directory of its own", path.display())]
    InUse { path: PathBuf },
    #[error("the consensus log cannot be opened")]
    Log(#[source] LogError),
    #[error("the consensus did not start: {0}")]
    Consensus(String),
}

impl StartError {
    /// Whether the directory does not hold what was written there.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            StartError::Damaged { .. }
                | StartError::NoIdentity {
                    lost_state: true,
                    ..
                }
                | StartError::Log(LogError::Corrupt { .. })
        )
    }
}

/// Why a running controller node must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatalError {
    #[error(
        "controller {node} of cluster {cluster} is registered with directory {registered} by now, which has taken the place of this one ({ours}); start the node with that directory, or move `controller` in its data_dir away to have it taken in anew"
    )]
    ReplacedDirectory {
        node: NodeId,
        cluster: String,
        registered: DirectoryId,
        ours: DirectoryId,
    },
    #[error(
        "this node's directory belongs to cluster {ours}, but most of the configured controllers belong to cluster {theirs}; start this node with its own directory, or configure the controllers of its cluster"
    )]
    ForeignCluster { ours: ClusterId, theirs: String },
    #[error("the consensus has stopped: {0}")]
    Consensus(String),
}
