//! A node put together: its directory, its ports, its threads, and the roles that run on them. The
//! one file of the program that knows both a broker's and a controller's parts.

mod directory;
mod files;
mod refusal;
mod threads;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ottla_broker::identity::BrokerIdentity;
use ottla_broker::{BrokerConfig, BrokerNode, ScrubPace};
use ottla_controller::{ControllerNode, ControllerNodeConfig, Voter};
use ottla_metadata::Endpoint;
use ottla_model::{IncarnationId, limits};
use ottla_shell::listener::{self, PortLimits, PortPurpose};
use ottla_shell::told;
use tokio::sync::watch;
use tonic::service::RoutesBuilder;
use uuid::Uuid;

use crate::config::NodeConfig;
pub use directory::{DirectoryLock, holder};
use files::OpenFiles;
use refusal::{Refusal, patiently};
use threads::IoThread;

/// A node that could not start. One line that names the file, key or address at fault and the
/// remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(String);

/// What a running node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    Starting,
    Serving,
    Stopping,
}

/// How a node leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// The others go on: leadership moves to them first.
    FromTheCluster,
    /// The whole cluster stops, so there is nobody to move anything to.
    WithTheCluster,
}

/// A running node.
pub struct Node {
    controller: Option<ControllerNode>,
    broker: Option<Arc<BrokerNode>>,
    stop: watch::Sender<bool>,
    failed: watch::Sender<Option<String>>,
    threads: Vec<IoThread>,
    files: OpenFiles,
    /// Held as long as the node runs.
    lock: DirectoryLock,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// A port that is bound but not yet served.
struct Port {
    listener: std::net::TcpListener,
    purpose: PortPurpose,
}

impl Node {
    /// Starts a node; it is reachable once this returns, though it may still be recovering.
    pub async fn start(config: NodeConfig) -> Result<Node, NodeError> {
        let files = files::divide_open_files(config.limits.connections).map_err(NodeError)?;
        let lock = patiently(|| DirectoryLock::take(&config.data_dir))
            .await
            .map_err(NodeError)?;
        let listen = config.listen;
        let internal = || bind(listen.internal, "listen.internal", internal_purpose());
        let internal = patiently(internal).await.map_err(NodeError)?;
        let client = || bind(listen.client, "listen.client", client_purpose());
        let client = match config.roles.broker {
            true => Some(patiently(client).await.map_err(NodeError)?),
            false => None,
        };
        let failed = watch::channel(None).0;
        let stop = watch::channel(false).0;
        let internal_thread = IoThread::start("internal").map_err(NodeError)?;
        let mut node = Node {
            controller: None,
            broker: None,
            stop,
            failed,
            threads: vec![internal_thread],
            files,
            lock,
        };
        if config.roles.broker {
            node.broker = Some(Arc::new(node.start_broker(&config)?));
        }
        if config.roles.controller {
            let controller = node.start_controller(&config).await?;
            node.check_clusters(&controller, &config)?;
            node.controller = Some(controller);
        }
        node.serve_internal(internal);
        if let Some(client) = client {
            node.serve_clients(client, &config)?;
        }
        Ok(node)
    }

    fn fatal(&self) -> impl Fn(String) + Send + Sync + 'static {
        let failed = self.failed.clone();
        move |reason: String| {
            // The first reason is the cause; later ones follow from it.
            failed.send_if_modified(|first| {
                let is_first = first.is_none();
                if is_first {
                    *first = Some(reason);
                }
                is_first
            });
        }
    }

    fn start_broker(&self, config: &NodeConfig) -> Result<BrokerNode, NodeError> {
        let dir = config.data_dir.join("broker");
        let random = || Uuid::new_v4().as_u128();
        let identity = BrokerIdentity::open(&dir, config.id, random())
            .map_err(|error| NodeError(told(&error)))?;
        let broker = BrokerConfig {
            node_id: config.id,
            data_dir: dir,
            identity,
            incarnation: IncarnationId::from_random(random()),
            client_endpoint: endpoint(&config.advertise.client),
            internal_endpoint: endpoint(&config.advertise.internal),
            rack: config.rack.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: config
                .roles
                .to_string()
                .split(',')
                .map(str::to_owned)
                .collect(),
            controllers: config
                .controllers
                .iter()
                .map(|voter| (voter.id, endpoint(&voter.address)))
                .collect(),
            replica_lag_time_max: config.broker.replica_lag_time_max,
            producer_expiration_ms: millis(config.broker.producer_expiration),
            retention_check_interval: config.broker.retention_check_interval,
            compaction_check_interval: config.broker.compaction_check_interval,
            compaction_bytes_per_second: config.log.compaction_bytes_per_second,
            compaction_memory_bytes: usize::try_from(config.log.compaction_memory_bytes)
                .unwrap_or(usize::MAX),
            journal_file_bytes: config.log.journal_file_bytes,
            checkpoint_bytes: config.log.checkpoint_bytes,
            open_segments_max: self.files.segments,
            tail_cache_bytes: usize::try_from(config.log.tail_cache_bytes).unwrap_or(usize::MAX),
            disk_reserve_bytes: config.log.disk_reserve_bytes,
            scrub: ScrubPace {
                bytes_per_second: config.log.scrub_bytes_per_second,
                interval: config.log.scrub_interval,
            },
            shutdown_timeout: config.controller.session_timeout,
        };
        let runtime = self.threads[0].handle();
        Ok(BrokerNode::start(broker, runtime, Arc::new(self.fatal())))
    }

    async fn start_controller(&self, config: &NodeConfig) -> Result<ControllerNode, NodeError> {
        let voters = config.controllers.iter().map(|voter| Voter {
            node_id: voter.id,
            internal_endpoint: endpoint(&voter.address),
        });
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let settings = &config.controller;
        let mut controller = ControllerNodeConfig::new(
            config.id,
            config.data_dir.clone(),
            voters.collect(),
            version,
        );
        controller.beat_interval = config.broker.beat_interval;
        controller.controller.session_timeout = settings.session_timeout;
        controller.quorum.heartbeat_interval = settings.heartbeat;
        controller.quorum.election_timeout_min = *settings.election_timeout.start();
        controller.quorum.election_timeout_max = *settings.election_timeout.end();
        controller.quorum.snapshot_entries = settings.snapshot_interval_entries;
        let fatal = self.fatal();
        ControllerNode::start(controller, move |error| fatal(error.to_string()))
            .await
            .map_err(|error| NodeError(told(&error)))
    }

    /// Both roles of a node belong to one cluster, or its directory was put together from two.
    fn check_clusters(
        &self,
        controller: &ControllerNode,
        config: &NodeConfig,
    ) -> Result<(), NodeError> {
        let broker = self.broker.as_ref().and_then(|broker| broker.cluster_id());
        let controller = controller.status().borrow().cluster_id;
        match (broker, controller) {
            (Some(broker), Some(controller)) if broker != controller => {
                let dir = config.data_dir.display();
                Err(NodeError(format!(
                    "the data directory {dir} (node.data_dir) is of two clusters: {dir}/broker \
                     belongs to cluster {broker}, {dir}/controller to cluster {controller}; \
                     restore the directory, or give this node its own"
                )))
            }
            _ => Ok(()),
        }
    }

    fn serve_internal(&mut self, port: Port) {
        let mut routes = RoutesBuilder::default();
        if let Some(controller) = &self.controller {
            controller.add_services(&mut routes);
        }
        if let Some(broker) = &self.broker {
            broker.add_internal_services(&mut routes);
        }
        let runtime = self.threads[0].handle().clone();
        // What the other nodes of a cluster may ask of it at once.
        let limits = PortLimits {
            connections: self.files.internal,
            streams_per_connection: limits::STREAMS_PER_CONNECTION_MAX,
        };
        let server = listener::serve_grpc(&runtime, routes.routes(), limits, self.stop.subscribe());
        runtime.spawn(listener::accept(
            port.listener,
            vec![server],
            vec![runtime.clone()],
            port.purpose,
            limits,
            self.stop.subscribe(),
        ));
    }

    fn serve_clients(&mut self, port: Port, config: &NodeConfig) -> Result<(), NodeError> {
        let threads = config.broker.threads;
        let limits = PortLimits {
            connections: self.files.clients,
            streams_per_connection: config.limits.streams_per_connection,
        };
        let Some(broker) = self.broker.clone() else {
            return Ok(());
        };
        let routes = broker.client_routes();
        let mut servers = Vec::new();
        let mut runtimes = Vec::new();
        for index in 0..threads.max(1) {
            let thread = IoThread::start(&format!("client-{index}")).map_err(NodeError)?;
            let runtime = thread.handle().clone();
            servers.push(listener::serve_grpc(
                &runtime,
                routes.clone(),
                limits,
                self.stop.subscribe(),
            ));
            runtimes.push(runtime);
            self.threads.push(thread);
        }
        let accepting = runtimes[0].clone();
        accepting.spawn(listener::accept(
            port.listener,
            servers,
            runtimes,
            port.purpose,
            limits,
            self.stop.subscribe(),
        ));
        Ok(())
    }

    /// Waits for a failure that the node cannot survive, and gives its reason.
    pub fn wait_failed(&self) -> impl Future<Output = String> + Send + 'static {
        let mut failed = self.failed.subscribe();
        async move {
            let reason = match failed.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone(),
                Err(_) => None,
            };
            match reason {
                Some(reason) => reason,
                // The node was shut down.
                None => std::future::pending().await,
            }
        }
    }

    /// Stops the node: leadership moves if there is somebody to move it to, then everything is
    /// closed and synced.
    pub async fn shutdown(self, departure: Departure) {
        match (&self.broker, departure) {
            (Some(broker), Departure::FromTheCluster) => broker.shutdown().await,
            (Some(broker), Departure::WithTheCluster) => broker.stop().await,
            (None, _) => {}
        }
        if let (Some(controller), Departure::FromTheCluster) = (&self.controller, departure) {
            // While the internal port is served: the successor is heard there.
            controller.hand_over().await;
        }
        self.stop.send_replace(true);
        if let Some(controller) = self.controller {
            controller.stop().await;
        }
        for thread in self.threads {
            thread.stop().await;
        }
        drop(self.lock);
    }

    /// What the node is doing.
    pub fn state(&self) -> NodeState {
        if *self.stop.borrow() {
            return NodeState::Stopping;
        }
        match &self.broker {
            Some(broker) if !*broker.recovered().borrow() => NodeState::Starting,
            _ => NodeState::Serving,
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn endpoint(endpoint: &crate::config::Endpoint) -> Endpoint {
    Endpoint {
        host: endpoint.host().to_owned(),
        port: endpoint.port(),
    }
}

fn client_purpose() -> PortPurpose {
    PortPurpose {
        name: "client",
        hint: "It speaks gRPC (package ottla.v1); the Kafka protocol and HTTP/1 are not served in \
               this version."
            .to_owned(),
    }
}

fn internal_purpose() -> PortPurpose {
    PortPurpose {
        name: "internal",
        hint: "It is for the nodes of the cluster; clients use the client port (9092 by default)."
            .to_owned(),
    }
}

fn bind(address: SocketAddr, key: &str, purpose: PortPurpose) -> Result<Port, Refusal> {
    let listener = listener::bind(address).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another process has it: stop that one, or choose another address"
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "this machine does not have that address: choose one that it has"
            }
            std::io::ErrorKind::PermissionDenied => "choose a port above 1023",
            _ => "choose another address",
        };
        let reason = format!("cannot listen on {address} ({key}): {error}; {remedy}");
        match error.kind() {
            std::io::ErrorKind::AddrInUse => Refusal::passing(reason),
            _ => Refusal::lasting(reason),
        }
    })?;
    Ok(Port { listener, purpose })
}
