//! A node of the cluster within this process: it is started from a checked configuration, runs on
//! threads of its own, and is shut down.

use std::future::Future;

use crate::config::NodeConfig;

/// A node that could not start. One line that names the file, key or address at fault and the
/// remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(String);

/// What a running node is doing.
#[expect(dead_code, reason = "no node starts in a binary without servers")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    Starting,
    Serving,
    Stopping,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    state: NodeState,
}

impl Node {
    /// Starts a node; it is reachable once this returns, though it may still be recovering.
    pub async fn start(config: NodeConfig) -> Result<Node, NodeError> {
        Err(NodeError(format!(
            "node {} cannot run: servers are not built into this binary",
            config.id
        )))
    }

    /// Waits for a failure that the node cannot survive, and gives its reason.
    pub fn wait_failed(&self) -> impl Future<Output = String> + Send + 'static {
        std::future::pending()
    }

    /// Stops the node: leadership moves first, then everything is closed and synced.
    pub async fn shutdown(self) {}

    /// What the node is doing.
    pub fn state(&self) -> NodeState {
        self.state
    }
}
