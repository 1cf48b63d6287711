//! What a controller node is started with.

use std::path::PathBuf;
use std::time::Duration;

use ottla_controller_core::ControllerConfig;
use ottla_metadata::Endpoint;
use ottla_model::NodeId;

use crate::error::StartError;

/// One of the configured controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    pub node_id: NodeId,
    /// Where its internal port is reached.
    pub internal_endpoint: Endpoint,
}

/// Settings of the consensus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumConfig {
    /// Every controller of the cluster, this one included. The same on each of them.
    pub voters: Vec<Voter>,
    /// How often the active controller is heard of when nothing happens.
    pub heartbeat_interval: Duration,
    /// With no word from the active controller for `election_timeout_max` plus a random time
    /// between both bounds, the others elect. A closed connection is noticed at once and waits
    /// for neither.
    pub election_timeout_min: Duration,
    /// Also the lease: how long after its last word an active controller that cannot be reached
    /// is still respected.
    pub election_timeout_max: Duration,
    /// For so long the same empty directory must answer in the place of a controller that is not
    /// heard, before it is taken in for the one that was lost. A disk that comes late after a boot
    /// is no disk that is gone.
    pub lost_after: Duration,
    /// A snapshot is made after so many entries.
    pub snapshot_entries: u64,
    /// A snapshot is made after so many bytes of entries.
    pub snapshot_bytes: u64,
    /// The size of one file of the consensus log, in bytes.
    pub log_file_bytes: u64,
}

impl QuorumConfig {
    /// Whether the other controllers are a majority, so that they can go on without this one and
    /// take it in again.
    pub fn can_lose_one(&self) -> bool {
        self.voters.len() > 2
    }

    /// The usual timings, for these controllers.
    pub fn new(voters: Vec<Voter>) -> QuorumConfig {
        QuorumConfig {
            voters,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(400),
            election_timeout_max: Duration::from_millis(600),
            lost_after: Duration::from_secs(10),
            snapshot_entries: 10_000,
            snapshot_bytes: 64 * 1024 * 1024,
            log_file_bytes: 32 * 1024 * 1024,
        }
    }
}

/// Settings of a controller node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerNodeConfig {
    pub node_id: NodeId,
    /// The node's data directory; the controller's part lies in `controller` below it.
    pub data_dir: PathBuf,
    pub quorum: QuorumConfig,
    pub controller: ControllerConfig,
    /// How often brokers are told to beat.
    pub beat_interval: Duration,
    /// How long a probe of a broker whose stream closed waits for an answer.
    pub probe_timeout: Duration,
    /// How much of the recent metadata log is kept in memory for those who watch, in bytes.
    pub watch_bytes: usize,
    /// How long a watcher may take no message before it is dropped.
    pub watch_stall: Duration,
    /// How far back history is kept.
    pub history_retention: Duration,
    /// The version of the software.
    pub version: String,
}

impl ControllerNodeConfig {
    /// The usual settings.
    pub fn new(
        node_id: NodeId,
        data_dir: PathBuf,
        voters: Vec<Voter>,
        version: String,
    ) -> ControllerNodeConfig {
        ControllerNodeConfig {
            node_id,
            data_dir,
            quorum: QuorumConfig::new(voters),
            controller: ControllerConfig::default(),
            beat_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(300),
            watch_bytes: 16 * 1024 * 1024,
            watch_stall: Duration::from_secs(10),
            history_retention: Duration::from_secs(7 * 24 * 3600),
            version,
        }
    }

    /// Where this node's internal port is reached.
    ///
    /// # Errors
    /// [`StartError::Config`] if this node is not among the voters, a voter is named twice, or
    /// the timings do not fit together.
    pub fn validate(&self) -> Result<Endpoint, StartError> {
        let quorum = &self.quorum;
        let mut ids: Vec<_> = quorum.voters.iter().map(|voter| voter.node_id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            let text = format!("controller {} is listed twice", twice[0]);
            return Err(StartError::Config(text));
        }
        if let Some(negative) = ids.iter().find(|id| id.0 < 0) {
            let text = format!("controller {negative} has a negative id");
            return Err(StartError::Config(text));
        }
        if quorum.heartbeat_interval * 2 > quorum.election_timeout_min
            || quorum.election_timeout_min >= quorum.election_timeout_max
        {
            return Err(StartError::Config(format!(
                "the heartbeat interval ({:?}) must be at most half of the shortest election timeout ({:?}), and that below the longest ({:?})",
                quorum.heartbeat_interval, quorum.election_timeout_min, quorum.election_timeout_max
            )));
        }
        let own = quorum.voters.iter().find(|v| v.node_id == self.node_id);
        own.map(|voter| voter.internal_endpoint.clone())
            .ok_or_else(|| {
                let id = self.node_id;
                StartError::Config(format!("node {id} is not among the controllers {ids:?}"))
            })
    }
}
