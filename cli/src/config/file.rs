//! The configuration file as it is written. Each key's comment is its reference page.

use std::path::PathBuf;

use ottla_model::limits;
use serde::{Deserialize, Serialize};

/// The whole file. Unknown keys are refused, so that a misspelt one is never silently a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    pub node: NodeSection,
    #[serde(default)]
    pub listen: ListenSection,
    #[serde(default)]
    pub advertise: AdvertiseSection,
    /// Every controller of the cluster, the same list on every node, brokers included.
    #[serde(default)]
    pub controllers: Vec<ControllerEntry>,
    #[serde(default)]
    pub controller: ControllerSection,
    #[serde(default)]
    pub broker: BrokerSection,
    #[serde(default)]
    pub log: LogSection,
    #[serde(default)]
    pub limits: LimitsSection,
}

/// `[node]`: who this node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// The node's number, from 0; no other node of the cluster may have it, whatever its role.
    pub id: i32,
    /// What the node does: `controller`, `broker`, or both (the default).
    #[serde(default = "both_roles")]
    pub roles: Vec<RoleName>,
    /// Where the node keeps everything. Required, here or as `--data-dir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// The rack or zone of the machine; replicas of a partition are spread over racks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
}

/// A role of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    Controller,
    Broker,
}

fn both_roles() -> Vec<RoleName> {
    vec![RoleName::Controller, RoleName::Broker]
}

/// `[listen]`: the addresses this node accepts connections on, as `IP:port`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// For clients. Used by brokers only.
    pub client: String,
    /// For the other nodes of the cluster; closed to clients by a firewall if need be.
    pub internal: String,
}

impl Default for ListenSection {
    fn default() -> ListenSection {
        ListenSection {
            client: "0.0.0.0:9092".to_owned(),
            internal: "0.0.0.0:9093".to_owned(),
        }
    }
}

/// `[advertise]`: the addresses, as `host:port`, that others are told to reach this node at. By
/// default what it listens on, unless that is every address (`0.0.0.0`, `[::]`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdvertiseSection {
    /// Told to clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Told to the other nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal: Option<String>,
}

/// `[[controllers]]`: one voter of the quorum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerEntry {
    /// The controller's `node.id`.
    pub id: i32,
    /// Its internal address as the other nodes reach it, `host:port`.
    pub address: String,
}

/// `[controller]`: the quorum. Give every controller the same values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControllerSection {
    /// How often the active controller assures the others that it lives, in milliseconds.
    pub heartbeat_ms: u64,
    /// How long a controller hears nothing before it stands for election: a random time between
    /// these two, in milliseconds. The second is also how long a lease lasts.
    pub election_timeout_ms: [u64; 2],
    /// How long a broker that sends nothing, and whose connection is not seen to close, still
    /// counts as alive, in milliseconds.
    pub session_timeout_ms: u64,
    /// How many entries the Raft log grows by before a snapshot is taken and the log cut.
    pub snapshot_interval_entries: u64,
}

impl Default for ControllerSection {
    fn default() -> ControllerSection {
        ControllerSection {
            heartbeat_ms: 100,
            election_timeout_ms: [400, 600],
            session_timeout_ms: 3_000,
            snapshot_interval_entries: 50_000,
        }
    }
}

/// `[broker]`: partitions and their replication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerSection {
    /// How often the broker beats towards the active controller, in milliseconds.
    pub beat_interval_ms: u64,
    /// How long a follower may lag before it leaves the in-sync replicas, in milliseconds
    /// (Kafka's `replica.lag.time.max.ms`).
    pub replica_lag_time_max_ms: u64,
    /// How many threads serve clients; each accepts its share of the connections.
    pub threads: usize,
    /// How long a partition remembers an idempotent producer that writes nothing, in milliseconds
    /// (Kafka's `producer.id.expiration.ms`).
    pub producer_expiration_ms: u64,
    /// How often old segments are looked for, in milliseconds (Kafka's
    /// `log.retention.check.interval.ms`).
    pub retention_check_interval_ms: u64,
    /// How often partitions to compact are looked for, in milliseconds (Kafka's
    /// `log.cleaner.backoff.ms`).
    pub compaction_check_interval_ms: u64,
}

impl Default for BrokerSection {
    fn default() -> BrokerSection {
        BrokerSection {
            beat_interval_ms: 500,
            replica_lag_time_max_ms: 10_000,
            threads: 2,
            producer_expiration_ms: 86_400_000,
            retention_check_interval_ms: 300_000,
            compaction_check_interval_ms: 15_000,
        }
    }
}

/// `[log]`: the journal and what is kept in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// The size of one journal file, preallocated, in bytes.
    pub journal_file_bytes: u64,
    /// How many journal bytes are written at most before segments are synced and the journal
    /// recycled; half as many are enough if few files were written. If the disk is too slow for
    /// that, the journal grows to eight times as many, and appends wait. More means rarer syncs and
    /// a longer recovery.
    pub checkpoint_bytes: u64,
    /// How many bytes of the newest batches stay in memory for consumers and followers.
    pub tail_cache_bytes: u64,
    /// With less room than this on the file system, in bytes, producers are refused, so that
    /// retention, deletion and metadata go on. Should hold two journal files and 128 MiB.
    pub disk_reserve_bytes: u64,
    /// How many bytes a second are read again from the disk in search of damage.
    pub scrub_bytes_per_second: u64,
    /// How often a round over all data begins, in milliseconds; one that takes longer is finished
    /// first.
    pub scrub_interval_ms: u64,
    /// How many bytes compaction reads and writes in a second, at most, so that producers do not
    /// feel it (Kafka's `log.cleaner.io.max.bytes.per.second`).
    pub compaction_bytes_per_second: u64,
    /// The memory for compaction's table of keys, in bytes; 24 for each key. What does not fit
    /// takes further passes (Kafka's `log.cleaner.dedupe.buffer.size`).
    pub compaction_memory_bytes: u64,
}

impl Default for LogSection {
    fn default() -> LogSection {
        LogSection {
            journal_file_bytes: 64 << 20,
            checkpoint_bytes: 256 << 20,
            tail_cache_bytes: 32 << 20,
            disk_reserve_bytes: 512 << 20,
            scrub_bytes_per_second: 4 << 20,
            scrub_interval_ms: 86_400_000,
            compaction_bytes_per_second: 16 << 20,
            compaction_memory_bytes: 16 << 20,
        }
    }
}

/// `[limits]`: how much clients may ask of the node at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// The most connections on the client port; fewer where the limit of open files is too low for
    /// them.
    pub connections: usize,
    /// The most concurrent calls on one connection.
    pub streams_per_connection: u32,
}

impl Default for LimitsSection {
    fn default() -> LimitsSection {
        LimitsSection {
            connections: limits::CONNECTIONS_MAX,
            streams_per_connection: limits::STREAMS_PER_CONNECTION_MAX,
        }
    }
}

impl ConfigFile {
    /// The file of a node with these facts and defaults for the rest.
    pub fn for_node(node: NodeSection) -> ConfigFile {
        ConfigFile {
            node,
            listen: ListenSection::default(),
            advertise: AdvertiseSection::default(),
            controllers: Vec::new(),
            controller: ControllerSection::default(),
            broker: BrokerSection::default(),
            log: LogSection::default(),
            limits: LimitsSection::default(),
        }
    }
}
