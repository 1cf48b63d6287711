//! Nodes that can be started, killed and asked.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use ottla_controller::{ControllerNode, ControllerNodeConfig, FatalError, StartError, Voter};
use ottla_metadata::Endpoint;
use ottla_model::NodeId;
use ottla_proto::v1;
use ottla_proto::v1::controller_service_client::ControllerServiceClient;
use parking_lot::Mutex;
use tempfile::TempDir;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};

/// No wait in these tests is longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Ports below the range that the system takes for outgoing connections, so that a closed port
/// stays closed.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

pub fn free_port() -> u16 {
    let start = (std::process::id() % 600) as u16 * 20;
    loop {
        let port = 20_000 + (start + NEXT_PORT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A node that runs.
pub struct Running {
    node: Option<ControllerNode>,
    server: Option<tokio::runtime::Runtime>,
    pub fatal: Arc<Mutex<Option<FatalError>>>,
}

impl Running {
    pub fn start(config: ControllerNodeConfig) -> Result<Running, StartError> {
        let endpoint = config.validate()?;
        let server = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let fatal = Arc::new(Mutex::new(None));
        let note = Arc::clone(&fatal);
        let node = server.block_on(ControllerNode::start(config, move |error| {
            *note.lock() = Some(error);
        }))?;
        let mut routes = tonic::service::Routes::builder();
        node.add_services(&mut routes);
        let address = format!("127.0.0.1:{}", endpoint.port).parse().unwrap();
        let _entered = server.enter();
        // The port of a node that was just killed is closed a moment later.
        let incoming = wait_for("the port", || TcpIncoming::bind(address).ok());
        let incoming = incoming.with_nodelay(Some(true));
        let serving = Server::builder()
            .add_routes(routes.routes())
            .serve_with_incoming(incoming);
        server.spawn(serving);
        drop(_entered);
        Ok(Running {
            node: Some(node),
            server: Some(server),
            fatal,
        })
    }

    pub fn node(&self) -> &ControllerNode {
        self.node.as_ref().unwrap()
    }

    /// Stops in good order.
    pub fn shut_down(mut self) {
        let (node, server) = (self.node.take().unwrap(), self.server.take().unwrap());
        server.block_on(async {
            node.hand_over().await;
            node.stop().await;
        });
        server.shutdown_background();
    }
}

impl Drop for Running {
    /// As if the process were killed: nothing is told to anyone.
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
        self.node.take();
    }
}

/// The configuration of a cluster and the nodes of it that run.
pub struct Cluster {
    pub dir: TempDir,
    pub voters: Vec<Voter>,
    pub running: BTreeMap<i32, Running>,
    pub tune: fn(&mut ControllerNodeConfig),
    pub client: tokio::runtime::Runtime,
}

impl Cluster {
    /// Three controllers, none of which runs yet.
    pub fn of_three() -> Cluster {
        Cluster::of(3)
    }

    /// So many controllers, none of which runs yet.
    pub fn of(count: i32) -> Cluster {
        // `RUST_LOG` shows what the nodes do.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let shown = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_thread_names(true)
            .with_test_writer();
        drop(shown.try_init());
        let voter = |id| Voter {
            node_id: NodeId(id),
            internal_endpoint: Endpoint::new("127.0.0.1", free_port()),
        };
        Cluster {
            dir: tempfile::tempdir().unwrap(),
            voters: (1..=count).map(voter).collect(),
            running: BTreeMap::new(),
            tune: |_| {},
            client: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    /// Three controllers of a cluster that is founded.
    pub fn founded() -> Cluster {
        let mut cluster = Cluster::of_three();
        cluster.start_all();
        cluster.wait_founded();
        cluster
    }

    pub fn data_dir(&self, id: i32) -> PathBuf {
        self.dir.path().join(format!("node-{id}"))
    }

    pub fn config(&self, id: i32) -> ControllerNodeConfig {
        let voters = self.voters.clone();
        let mut config =
            ControllerNodeConfig::new(NodeId(id), self.data_dir(id), voters, "test".to_owned());
        config.quorum.log_file_bytes = 1 << 20;
        config.quorum.lost_after = Duration::from_millis(200);
        (self.tune)(&mut config);
        config
    }

    /// Starts a node; one that was just killed may still hold its directory for a moment.
    pub fn start(&mut self, id: i32) {
        let started = wait_for("the node to start", || {
            match Running::start(self.config(id)) {
                Ok(running) => Some(running),
                Err(StartError::InUse { .. }) => None,
                Err(error) => panic!("node {id} did not start: {error}"),
            }
        });
        self.running.insert(id, started);
    }

    pub fn start_all(&mut self) {
        for id in self.ids() {
            self.start(id);
        }
    }

    /// Every controller's id.
    pub fn ids(&self) -> Vec<i32> {
        self.voters.iter().map(|voter| voter.node_id.0).collect()
    }

    pub fn kill(&mut self, id: i32) {
        self.running.remove(&id).unwrap();
    }

    /// A stopped node's directory is gone; it lies in `lost-<id>`.
    pub fn lose_directory(&self, id: i32) {
        let lost = self.dir.path().join(format!("lost-{id}"));
        wait_for("the directory to be free", || {
            std::fs::rename(self.data_dir(id), &lost).ok()
        });
    }

    /// The directory that was lost is back, in place of the new one of a stopped node.
    pub fn find_directory(&self, id: i32) {
        let lost = self.dir.path().join(format!("lost-{id}"));
        wait_for("the directory to be free", || {
            std::fs::remove_dir_all(self.data_dir(id)).ok()
        });
        std::fs::rename(lost, self.data_dir(id)).unwrap();
    }

    /// Waits until every node that runs knows a node by the directory that it has.
    pub fn wait_registered(&self, id: i32) {
        let directory = self.running[&id].node().directory_id();
        wait_for("the directory to be registered", || {
            let knows = |running: &Running| {
                let image = running.node().feed().current().image;
                let known = image.controllers.get(&NodeId(id));
                known.is_some_and(|known| known.directory == directory)
            };
            self.running.values().all(knows).then_some(())
        });
    }

    pub fn status(&self, id: i32) -> ottla_controller::ControllerStatus {
        *self.running[&id].node().status().borrow()
    }

    /// Waits until every running node belongs to the cluster and knows all controllers.
    pub fn wait_founded(&self) {
        wait_for("the cluster to be founded", || {
            let founded = |running: &Running| {
                let image = running.node().feed().current().image;
                let known = running.node().status().borrow().cluster_id.is_some();
                known && image.controllers.len() == self.voters.len()
            };
            self.running.values().all(founded).then_some(())
        });
    }

    /// The node that is active, as soon as one is.
    pub fn wait_active(&self) -> i32 {
        wait_for("an active controller", || {
            let mut ids = self.running.keys().copied();
            ids.find(|id| self.status(*id).is_active)
        })
    }

    pub fn endpoint(&self, id: i32) -> String {
        let voter = self.voters.iter().find(|v| v.node_id.0 == id).unwrap();
        format!("http://{}", voter.internal_endpoint)
    }

    /// A client of one node.
    pub fn client(&self, id: i32) -> ControllerServiceClient<Channel> {
        let _entered = self.client.enter();
        let endpoint = tonic::transport::Endpoint::from_shared(self.endpoint(id)).unwrap();
        ControllerServiceClient::new(endpoint.connect_lazy())
    }

    /// Asks a node to decide something about topics that needs no broker.
    pub fn delete_missing_topic(
        &self,
        id: i32,
        timeout_ms: u32,
    ) -> Result<v1::DecideResponse, tonic::Status> {
        let delete = v1::DeleteTopicRequest {
            name: "missing".to_owned(),
            ..v1::DeleteTopicRequest::default()
        };
        let request = v1::decide_request::Request::DeleteTopic(delete);
        self.decide(id, timeout_ms, request)
    }

    pub fn decide(
        &self,
        id: i32,
        timeout_ms: u32,
        request: v1::decide_request::Request,
    ) -> Result<v1::DecideResponse, tonic::Status> {
        let mut client = self.client(id);
        let request = v1::DecideRequest {
            timeout_ms,
            request: Some(request),
        };
        let answer = self.client.block_on(client.decide(request));
        answer.map(tonic::Response::into_inner)
    }
}

/// Waits until something is there.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks that something stays true; what must not happen can only be waited for.
pub fn holds_for(duration: Duration, mut check: impl FnMut() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < duration {
        assert!(check(), "it stopped being so after {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(5));
    }
}
