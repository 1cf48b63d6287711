//! A node's configuration after every check, in the types that the node works with.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ottla_model::NodeId;

use super::endpoint::Endpoint;

/// A checked configuration. Made only by [`NodeConfig::parse`] and [`NodeConfig::load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    pub id: NodeId,
    pub roles: Roles,
    pub data_dir: PathBuf,
    pub rack: Option<String>,
    pub listen: Listen,
    pub advertise: Advertise,
    /// Every voter of the quorum, in ascending order of id.
    pub controllers: Vec<Voter>,
    pub controller: ControllerSettings,
    pub broker: BrokerSettings,
    pub log: LogSettings,
    pub limits: Limits,
}

/// What a node does; at least one is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub controller: bool,
    pub broker: bool,
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.controller, self.broker) {
            (true, true) => "controller,broker",
            (true, false) => "controller",
            (false, _) => "broker",
        })
    }
}

/// What the node's sockets bind to. `client` is used by brokers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    pub client: SocketAddr,
    pub internal: SocketAddr,
}

/// What others are told. `client` is told by brokers only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    pub client: Endpoint,
    pub internal: Endpoint,
}

/// A controller of the quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    pub id: NodeId,
    /// Its internal address.
    pub address: Endpoint,
}

/// The quorum's timing; see `[controller]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerSettings {
    pub heartbeat: Duration,
    pub election_timeout: RangeInclusive<Duration>,
    pub session_timeout: Duration,
    pub snapshot_interval_entries: u64,
}

/// A broker's timing and threads; see `[broker]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerSettings {
    pub beat_interval: Duration,
    pub replica_lag_time_max: Duration,
    pub threads: usize,
    pub producer_expiration: Duration,
    pub retention_check_interval: Duration,
    pub compaction_check_interval: Duration,
}

/// Sizes of the journal and the cache; see `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    pub journal_file_bytes: u64,
    pub checkpoint_bytes: u64,
    pub tail_cache_bytes: u64,
    pub disk_reserve_bytes: u64,
    pub scrub_bytes_per_second: u64,
    pub scrub_interval: Duration,
    pub compaction_bytes_per_second: u64,
    pub compaction_memory_bytes: u64,
}

/// What clients may ask at once; see `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    pub streams_per_connection: u32,
}
