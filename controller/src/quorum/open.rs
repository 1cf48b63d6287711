//! Puts the consensus together from its log, snapshots, network and tasks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;
use ottla_log::Disk;
use ottla_log::wal::WalConfig;
use ottla_metadata::Endpoint;
use ottla_model::NodeId;
use tokio::task::JoinSet;

use super::Quorum;
use super::admission::Admission;
use super::founding::Founding;
use super::guard::Guard;
use super::leader_watch::LeaderWatch;
use super::log_store::LogStore;
use super::member::Member;
use super::network::Peers;
use super::service::RaftHandler;
use super::snapshot_file::{SnapshotDir, StoredSnapshot};
use super::snapshots::SnapshotKeeper;
use super::state_machine::{SinceSnapshot, StateMachine};
use super::status::StatusFollower;
use super::types::{Raft, raft_id};
use crate::config::QuorumConfig;
use crate::dir_lock::DirLock;
use crate::error::StartError;
use crate::feed::Feed;
use crate::history::History;

/// What the consensus is made of.
pub struct QuorumParts {
    pub disk: Arc<dyn Disk>,
    pub lock: DirLock,
    /// The controller's directory.
    pub dir: PathBuf,
    pub guard: Arc<Guard>,
    pub config: QuorumConfig,
    pub feed: Arc<Feed>,
    pub history: History,
    /// The identity of a log that is created.
    pub log_id_if_new: u64,
}

impl Quorum {
    /// Opens the log and the snapshots and begins to take part. To be called on the thread that
    /// is to run the consensus.
    ///
    /// # Errors
    /// [`StartError`] if something on disk cannot be used.
    pub async fn open(parts: QuorumParts) -> Result<Quorum, StartError> {
        let QuorumParts {
            disk,
            lock,
            dir,
            guard,
            config,
            feed,
            history,
            log_id_if_new,
        } = parts;
        let wal = WalConfig {
            file_bytes: config.log_file_bytes,
            notes_synced: true,
            ..WalConfig::new(log_id_if_new)
        };
        let store = LogStore::open(Arc::clone(&disk), Some(lock), &dir.join("log"), wal);
        let store = store.map_err(StartError::Log)?;
        check_not_lost(&guard, &store, &dir)?;
        let (snapshots, newest) = open_snapshots(disk, dir.join("snapshots"), &store)?;
        let damaged = |error: std::io::Error| StartError::Damaged {
            path: dir.join("snapshots"),
            what: error.to_string(),
        };
        let since = SinceSnapshot::new(config.snapshot_entries, config.snapshot_bytes);
        let since = Arc::new(since);
        let machine =
            StateMachine::open(snapshots.clone(), newest, feed, history, Arc::clone(&since));
        let machine = machine.map_err(damaged)?;
        let peers = Peers::new(Arc::clone(&guard), endpoints(&config));
        let me = raft_id(guard.identity().node_id);
        let raft_config = Arc::new(raft_config(&config)?);
        let raft = Raft::build(me, raft_config, peers.clone(), store.clone(), machine).await;
        let raft = raft.map_err(|error| StartError::Consensus(error.to_string()))?;
        let keeper = SnapshotKeeper {
            raft: raft.clone(),
            store: store.clone(),
            snapshots,
            since,
        };
        let (follower, status) =
            StatusFollower::new(&raft, Arc::clone(&guard), config.election_timeout_max * 2);
        raft.run();
        let member = Member {
            raft,
            store,
            peers,
            guard,
            status,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(follower.run());
        tasks.spawn(keeper.run());
        let watch = LeaderWatch {
            member: member.clone(),
        };
        tasks.spawn(watch.run());
        let founding = Founding {
            member: member.clone(),
        };
        tasks.spawn(founding.run());
        let patience = config.election_timeout_max * 2;
        tasks.spawn(Admission::new(&member, patience, config.lost_after).run());
        Ok(Quorum {
            handler: RaftHandler::new(member.clone()),
            member,
            lease: config.election_timeout_max,
            tasks: tasks.into(),
        })
    }
}

/// A controller of a cluster has a log. Without it, it could vote again where it has voted, or
/// found the cluster anew.
fn check_not_lost(guard: &Guard, store: &LogStore, dir: &Path) -> Result<(), StartError> {
    match guard.identity().cluster_id() {
        Some(cluster) if store.is_empty() => Err(StartError::Damaged {
            path: dir.join("log"),
            what: format!("it is empty, but this controller belongs to cluster {cluster}"),
        }),
        _ => Ok(()),
    }
}

/// The newest whole snapshot, unless the log does not reach back to it.
pub(super) fn open_snapshots(
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store: &LogStore,
) -> Result<(SnapshotDir, Option<StoredSnapshot>), StartError> {
    let io = |source| StartError::Io {
        action: "read the snapshots in",
        path: dir.clone(),
        source,
    };
    let snapshots = SnapshotDir::open(disk, dir.clone()).map_err(io)?;
    let (newest, damaged) = snapshots.load().map_err(io)?;
    let reached = newest.as_ref().and_then(|newest| newest.meta.last_log_id);
    if store.purged() > reached {
        return Err(StartError::Damaged {
            path: dir,
            what: format!(
                "{damaged} snapshots are damaged, and the log does not reach back to a whole one"
            ),
        });
    }
    Ok((snapshots, newest))
}

fn endpoints(config: &QuorumConfig) -> BTreeMap<NodeId, Endpoint> {
    let voters = config.voters.iter();
    voters
        .map(|voter| (voter.node_id, voter.internal_endpoint.clone()))
        .collect()
}

fn raft_config(config: &QuorumConfig) -> Result<openraft::Config, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let raft = openraft::Config {
        cluster_name: "ottla".to_owned(),
        heartbeat_interval: millis(config.heartbeat_interval),
        election_timeout_min: millis(config.election_timeout_min),
        election_timeout_max: millis(config.election_timeout_max),
        enable_pre_vote: Some(true),
        // One that lost the end of its log, which can look like a crash, is filled again. Otherwise
        // its leader would ask for ever for what it knows to be there.
        allow_log_reversion: Some(true),
        // A leader that comes back asks for votes again: others may lead by now.
        enable_leader_restore: Some(false),
        // Snapshots and purging are decided in `snapshots`, by bytes too, and keep what the
        // snapshot before the newest needs.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        replication_lag_threshold: u64::MAX,
        max_payload_entries: 64,
        ..openraft::Config::default()
    };
    raft.validate()
        .map_err(|error| StartError::Config(error.to_string()))
}
