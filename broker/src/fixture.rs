//! What tests of several modules need.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ottla_metadata::Endpoint;
use ottla_model::{IncarnationId, NodeId};

use crate::config::BrokerConfig;
use crate::identity::BrokerIdentity;
use crate::scrubber::ScrubPace;

/// Broker 1 of a cluster with one controller.
pub(crate) fn config(dir: &Path, identity: BrokerIdentity, controller: SocketAddr) -> BrokerConfig {
    let here = Endpoint::new("127.0.0.1", 1);
    BrokerConfig {
        node_id: NodeId(1),
        data_dir: dir.to_owned(),
        identity,
        incarnation: IncarnationId::from_bytes([1; 16]),
        client_endpoint: here.clone(),
        internal_endpoint: here,
        rack: None,
        version: "0".to_owned(),
        roles: Vec::new(),
        controllers: vec![(NodeId(9), Endpoint::new("127.0.0.1", controller.port()))],
        replica_lag_time_max: Duration::from_secs(10),
        producer_expiration_ms: 1_000,
        retention_check_interval: Duration::from_secs(300),
        compaction_check_interval: Duration::from_secs(15),
        compaction_bytes_per_second: 1 << 20,
        compaction_memory_bytes: 1 << 20,
        journal_file_bytes: 1 << 20,
        checkpoint_bytes: 1 << 20,
        open_segments_max: 64,
        tail_cache_bytes: 1 << 20,
        disk_reserve_bytes: 0,
        scrub: ScrubPace {
            bytes_per_second: 1 << 20,
            interval: Duration::from_secs(3_600),
        },
        shutdown_timeout: Duration::from_secs(1),
    }
}
