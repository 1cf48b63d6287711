//! Puts a controller node together: its directory, its threads, the quorum, the decisions and the
//! services. The one file that knows all parts.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ottla_controller_core::ControllerCore;
use ottla_log::{Disk, RealDisk};
use ottla_model::limits::INTERNAL_MESSAGE_BYTES_MAX;
use ottla_model::{ClusterId, DirectoryId, MetadataOffset, NodeId};
use ottla_proto::v1::controller_service_server::ControllerServiceServer;
use ottla_proto::v1::raft_service_server::RaftServiceServer;
use ottla_shell::Clock;
use tokio::sync::{oneshot, watch};
use tonic::service::RoutesBuilder;

use crate::active::{Decisions, Worker};
use crate::aside;
use crate::config::ControllerNodeConfig;
use crate::dir_lock::DirLock;
use crate::error::{FatalError, StartError};
use crate::feed::{Current, Feed};
use crate::history::History;
use crate::identity::Identity;
use crate::liveness;
use crate::quorum::{Guard, OnFatal, Quorum, QuorumParts, QuorumStatus};
use crate::rpc::{ControllerHandler, Timings};

/// How long handing over waits for another controller to take over.
pub(crate) const HAND_OVER_PATIENCE: Duration = Duration::from_secs(1);

/// What a controller node knows of itself and of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ControllerStatus {
    /// The active controller, as far as this node knows.
    pub active_id: Option<NodeId>,
    /// The controllers' epoch.
    pub term: u64,
    /// Whether this node is the active controller.
    pub is_active: bool,
    /// The end of what this node has applied.
    pub applied: MetadataOffset,
    /// `None` until the cluster is founded and this node knows it.
    pub cluster_id: Option<ClusterId>,
}

/// A running controller node.
pub struct ControllerNode {
    handler: ControllerHandler,
    history: History,
    identity: Arc<Identity>,
    status: watch::Receiver<ControllerStatus>,
    runtime: tokio::runtime::Handle,
    /// Ends the threads when it is dropped.
    stop: Vec<oneshot::Sender<()>>,
}

impl ControllerNode {
    /// Opens the node's directory and begins to take part in the quorum. The node's services must
    /// be reachable at its internal endpoint soon after. `fatal` is called, once and from any
    /// thread, if the node must stop.
    ///
    /// # Errors
    /// [`StartError`] if the configuration or the directory cannot be used.
    pub async fn start(
        config: ControllerNodeConfig,
        fatal: impl Fn(FatalError) + Send + Sync + 'static,
    ) -> Result<ControllerNode, StartError> {
        config.validate()?;
        let (raft_runtime, stop_raft) = spawn_runtime("controller-raft")?;
        let (decision_runtime, stop_decisions) = spawn_runtime("controller")?;
        let starting = raft_runtime.spawn(open(config.clone(), Arc::new(fatal)));
        let opened = starting.await;
        let opened = opened.map_err(|error| StartError::Consensus(error.to_string()))??;
        let Opened {
            quorum,
            feed,
            history,
            identity,
        } = opened;
        let core = ControllerCore::new(config.controller.clone());
        let (decisions, worker) = Worker::new(
            core,
            Clock::start(),
            Arc::clone(&quorum),
            Arc::clone(&feed),
            config.version.clone(),
        );
        decision_runtime.spawn(worker.run());
        let unseen = liveness::look_after_unseen(decisions.clone(), config.probe_timeout);
        decision_runtime.spawn(unseen);
        let (sender, status) = watch::channel(ControllerStatus {
            cluster_id: identity.cluster_id(),
            ..ControllerStatus::default()
        });
        let following = follow(
            Arc::clone(&identity),
            Arc::clone(&feed),
            quorum.status(),
            sender,
        );
        raft_runtime.spawn(following);
        let timings = Timings {
            beat_interval: config.beat_interval,
            session_timeout: config.controller.session_timeout,
            probe_timeout: config.probe_timeout,
            watch_stall: config.watch_stall,
        };
        Ok(ControllerNode {
            handler: ControllerHandler {
                decisions,
                quorum,
                feed,
                timings,
            },
            history,
            identity,
            status,
            runtime: raft_runtime,
            stop: vec![stop_decisions, stop_raft],
        })
    }

    /// Adds the node's services to those of its internal port.
    pub fn add_services(&self, routes: &mut RoutesBuilder) {
        let raft = RaftServiceServer::new(self.handler.quorum.handler())
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
        let controller = ControllerServiceServer::new(self.handler.clone())
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
        routes.add_service(raft).add_service(controller);
    }

    /// The consensus' own runtime. Whoever serves the internal port may serve the controllers'
    /// connections there.
    pub fn runtime(&self) -> tokio::runtime::Handle {
        self.runtime.clone()
    }

    /// What the node knows, and every change of it.
    pub fn status(&self) -> watch::Receiver<ControllerStatus> {
        self.status.clone()
    }

    /// What the node has applied.
    pub fn feed(&self) -> Arc<Feed> {
        Arc::clone(&self.handler.feed)
    }

    /// The cluster's history, as far as this node has it.
    pub fn history(&self) -> History {
        self.history.clone()
    }

    /// The way to decisions without the network, for a broker of the same process.
    pub fn decisions(&self) -> Decisions {
        self.handler.decisions.clone()
    }

    /// The id of the node's directory.
    pub fn directory_id(&self) -> DirectoryId {
        self.identity.directory_id
    }

    /// Hands over if this node is active. Its services must be reachable meanwhile: it is the
    /// successor who says that it leads.
    pub async fn hand_over(&self) {
        let quorum = Arc::clone(&self.handler.quorum);
        let handing_over = async move { quorum.hand_over(HAND_OVER_PATIENCE).await };
        if let Err(error) = self.runtime.spawn(handing_over).await {
            tracing::warn!(%error, "the controller did not hand over");
        }
    }

    /// Stops taking part, without handing over.
    pub async fn stop(mut self) {
        let (quorum, history) = (Arc::clone(&self.handler.quorum), self.history.clone());
        let stopping = self.runtime.spawn(async move {
            quorum.shutdown().await;
            let closed = tokio::task::spawn_blocking(move || history.close()).await;
            drop(closed);
        });
        if let Err(error) = stopping.await {
            tracing::warn!(%error, "the controller did not end cleanly");
        }
        self.stop.clear();
    }
}

struct Opened {
    quorum: Arc<Quorum>,
    feed: Arc<Feed>,
    history: History,
    identity: Arc<Identity>,
}

/// Opens everything on disk and joins the quorum, on the consensus' own thread. A damaged directory
/// is kept aside, and the node begins anew, where the other controllers can take it in.
async fn open(config: ControllerNodeConfig, fatal: OnFatal) -> Result<Opened, StartError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let dir = config.data_dir.join("controller");
    make_dir(&disk, &config.data_dir, &dir)?;
    let why = match open_dir(&disk, &dir, config.clone(), Arc::clone(&fatal)).await {
        Err(error) if error.is_damage() && config.quorum.can_lose_one() => error,
        opened => return opened,
    };
    let moved = aside::move_aside(&disk, &config.data_dir, &dir);
    let Some(kept) = moved.unwrap_or_else(|error| {
        tracing::error!(%error, "the damaged directory cannot be kept aside");
        None
    }) else {
        return Err(why);
    };
    tracing::error!(error = &why as &dyn std::error::Error, kept = %kept.display(),
        "this controller's directory is damaged; it is kept aside, and the others are asked to take \
         this node in anew");
    open_dir(&disk, &dir, config, fatal).await
}

async fn open_dir(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    config: ControllerNodeConfig,
    fatal: OnFatal,
) -> Result<Opened, StartError> {
    let (disk, dir) = (Arc::clone(disk), dir.to_owned());
    let lock = DirLock::take(&dir)?;
    let directory_id = DirectoryId::from_random(rand::random());
    let if_new = aside::identity_after(&disk, &config.data_dir, directory_id)?;
    let identity = Identity::open(Arc::clone(&disk), &dir, config.node_id, if_new)?;
    let identity = Arc::new(identity);
    let feed = Arc::new(Feed::new(config.watch_bytes));
    let retention = i64::try_from(config.history_retention.as_millis()).unwrap_or(i64::MAX);
    let history = History::open(&dir.join("history"), retention);
    let guard = Arc::new(Guard::new(Arc::clone(&identity), fatal));
    let quorum = Quorum::open(QuorumParts {
        disk,
        lock,
        dir,
        guard,
        config: config.quorum,
        feed: Arc::clone(&feed),
        history: history.clone(),
        log_id_if_new: rand::random(),
    })
    .await?;
    Ok(Opened {
        quorum: Arc::new(quorum),
        feed,
        history,
        identity,
    })
}

fn make_dir(disk: &Arc<dyn Disk>, data_dir: &Path, dir: &Path) -> Result<(), StartError> {
    let make = || {
        disk.create_dir_all(dir)?;
        disk.sync_dir(data_dir)?;
        match data_dir
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            Some(parent) => disk.sync_dir(parent),
            None => Ok(()),
        }
    };
    make().map_err(|source| StartError::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    })
}

/// A thread with a runtime of its own, which ends when the sender is dropped.
fn spawn_runtime(name: &str) -> Result<(tokio::runtime::Handle, oneshot::Sender<()>), StartError> {
    let failed = |source| StartError::Io {
        action: "start a thread for",
        path: name.into(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = move || {
        // The sender is only ever dropped.
        drop(runtime.block_on(stopped));
        runtime.shutdown_background();
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(failed)?;
    Ok((handle, stop))
}

/// Keeps the node's status up to date, and the cluster id in its directory.
async fn follow(
    identity: Arc<Identity>,
    feed: Arc<Feed>,
    mut quorum: watch::Receiver<QuorumStatus>,
    sender: watch::Sender<ControllerStatus>,
) {
    let mut current: watch::Receiver<Current> = feed.subscribe();
    loop {
        let image = current.borrow_and_update().image.clone();
        let status = *quorum.borrow_and_update();
        if let Some(cluster_id) = image.cluster_id
            && identity.cluster_id() != Some(cluster_id)
        {
            let identity = Arc::clone(&identity);
            let set = move || identity.set_cluster_id(cluster_id);
            match tokio::task::spawn_blocking(set).await {
                Ok(Ok(())) => tracing::info!(%cluster_id, "this node belongs to the cluster"),
                Ok(Err(error)) => tracing::error!(%error, "the cluster id could not be kept"),
                Err(error) => tracing::error!(%error, "the cluster id could not be kept"),
            }
        }
        let status = ControllerStatus {
            active_id: status.leader,
            term: status.term,
            is_active: status.is_leader,
            applied: image.offset,
            // What was applied before a restart may wait for a majority to be applied again.
            cluster_id: image.cluster_id.or_else(|| identity.cluster_id()),
        };
        sender.send_if_modified(|now| std::mem::replace(now, status) != status);
        let changed = tokio::select! {
            changed = quorum.changed() => changed.is_ok(),
            changed = current.changed() => changed.is_ok(),
        };
        if !changed {
            return;
        }
    }
}
