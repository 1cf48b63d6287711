//! A controller put together: the one file here that knows all the parts.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ottla_controller_core::{ControllerConfig, RegisterController};
use ottla_metadata::Endpoint;
use ottla_model::NodeId;
use ottla_model::limits::INTERNAL_MESSAGE_BYTES_MAX;
use ottla_proto::v1::controller_service_server::ControllerServiceServer;
use tokio::sync::{oneshot, watch};
use tonic::service::RoutesBuilder;

use crate::active::ActiveController;
use crate::feed::MetadataFeed;
use crate::probe::look_after_activation;
use crate::quorum::{Quorum, QuorumConfig, QuorumStatus, StartError};
use crate::rpc::{ControllerRpc, Pace};
use crate::sessions::ControlStreams;

/// A controller's settings, already checked.
#[derive(Debug, Clone)]
pub struct ControllerNodeConfig {
    pub node_id: NodeId,
    /// The controller's own folder within the node's data directory.
    pub data_dir: PathBuf,
    /// Where other nodes reach this one.
    pub internal_endpoint: Endpoint,
    /// All controllers, this one included, with their internal endpoints.
    pub voters: Vec<(NodeId, Endpoint)>,
    pub heartbeat: Duration,
    pub election_timeout: RangeInclusive<Duration>,
    pub session_timeout: Duration,
    pub beat_interval: Duration,
    pub snapshot_interval_entries: u64,
    pub version: String,
}

/// A running controller.
pub struct ControllerNode {
    quorum: Quorum,
    service: ControllerRpc,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl ControllerNode {
    /// Opens the quorum's store and begins to take part. Decisions run on a thread of their own.
    /// `fatal` hears, in one line, why the node cannot go on.
    pub async fn start(
        config: ControllerNodeConfig,
        fatal: Arc<dyn Fn(String) + Send + Sync>,
    ) -> Result<ControllerNode, StartError> {
        let quorum = Quorum::start(
            QuorumConfig {
                node_id: config.node_id,
                data_dir: config.data_dir,
                voters: config.voters,
                heartbeat: config.heartbeat,
                election_timeout: config.election_timeout,
                snapshot_interval_entries: config.snapshot_interval_entries,
                version: config.version.clone(),
            },
            Arc::clone(&fatal),
        )
        .await?;
        let itself = RegisterController {
            controller: config.node_id,
            directory: quorum.identity().1,
            internal_endpoint: config.internal_endpoint,
            version: config.version,
        };
        let core = ControllerConfig {
            session_timeout: config.session_timeout,
            ..Default::default()
        };
        let (active, inbox) = ActiveController::new(core, quorum.clone(), itself);
        let active = Arc::new(active);
        let feed = Arc::new(MetadataFeed::new());
        let streams = Arc::new(ControlStreams::default());
        let service = ControllerRpc {
            active: Arc::clone(&active),
            feed: Arc::clone(&feed),
            streams: Arc::clone(&streams),
            pace: Pace {
                beat_interval: config.beat_interval,
                session_timeout: config.session_timeout,
            },
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let following = quorum.clone();
        let spawned = std::thread::Builder::new()
            .name("controller".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return fatal(format!("cannot start the controller: {error}")),
                };
                runtime.spawn(Arc::clone(&active).run(inbox));
                runtime.spawn(feed.run(following));
                runtime.spawn(look_after_activation(active, streams));
                // Dropped or sent: either way the controller stops.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            });
        let thread = spawned.map_err(StartError::thread)?;
        Ok(ControllerNode {
            quorum,
            service,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Adds what other nodes may call.
    pub fn add_services(&self, routes: &mut RoutesBuilder) {
        self.quorum.add_services(routes);
        routes.add_service(
            ControllerServiceServer::new(self.service.clone())
                .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX),
        );
    }

    pub fn status(&self) -> watch::Receiver<QuorumStatus> {
        self.quorum.status()
    }

    /// Stops taking part; an active controller hands over first.
    pub async fn shutdown(mut self) {
        self.quorum.shutdown().await;
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if !matches!(joined.await, Ok(Ok(()))) {
                tracing::error!("the controller's thread panicked");
            }
        }
    }
}
