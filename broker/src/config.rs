//! What a broker is told at its start.

use std::path::PathBuf;
use std::time::Duration;

use ottla_metadata::Endpoint;
use ottla_model::{IncarnationId, NodeId};

use crate::identity::BrokerIdentity;
use crate::scrubber::ScrubPace;

/// A broker's settings, already checked.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    pub node_id: NodeId,
    /// The broker's own folder within the node's data directory.
    pub data_dir: PathBuf,
    /// Whose directory it is.
    pub identity: BrokerIdentity,
    /// Random for each run of the process.
    pub incarnation: IncarnationId,
    /// Where clients reach this broker.
    pub client_endpoint: Endpoint,
    /// Where other nodes reach it.
    pub internal_endpoint: Endpoint,
    pub rack: Option<String>,
    pub version: String,
    /// The roles of the process, for people.
    pub roles: Vec<String>,
    /// Where the controllers are.
    pub controllers: Vec<(NodeId, Endpoint)>,
    pub replica_lag_time_max: Duration,
    pub producer_expiration_ms: i64,
    /// How often old segments are looked for.
    pub retention_check_interval: Duration,
    /// How often logs to compact are looked for.
    pub compaction_check_interval: Duration,
    /// How many bytes compaction reads and writes in a second, at most.
    pub compaction_bytes_per_second: u64,
    /// The most bytes that compaction's table of keys takes.
    pub compaction_memory_bytes: usize,
    pub journal_file_bytes: u64,
    pub checkpoint_bytes: u64,
    /// How many segments stay open at most.
    pub open_segments_max: usize,
    pub tail_cache_bytes: usize,
    /// With less room than this on the disk, in bytes, nothing more is taken from producers.
    pub disk_reserve_bytes: u64,
    /// How stored data is read again in search of damage.
    pub scrub: ScrubPace,
    /// How long a controlled shutdown waits for its leaders to move.
    pub shutdown_timeout: Duration,
}
