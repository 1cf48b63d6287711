//! One node as a process of its own, with everything it keeps in a directory that goes away with
//! it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ottla_proto::v1;
use ottla_proto::v1::cluster_service_client::ClusterServiceClient;
use tonic::transport::{Channel, Endpoint};

/// How long anything here may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The `ottla` binary: `OTTLA_BIN`, or one built now. What lies about may be of another time than
/// this test; building what is up to date costs little.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(given) = std::env::var_os("OTTLA_BIN") {
            return PathBuf::from(given);
        }
        let this = std::env::current_exe().expect("the test's own path");
        let target = this.ancestors().nth(3).expect("target/PROFILE/deps/TEST");
        build(target)
    })
}

fn build(target: &Path) -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--package", "ottla-cli", "--bin", "ottla"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(ottla_tests::workspace::root())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo could not build ottla: {status}");
    target.join("debug/ottla")
}

/// A port that nobody had a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// The configuration of a node that is a cluster by itself.
pub fn config(id: i32, data_dir: &Path, client: u16, internal: u16) -> String {
    format!(
        "[node]\nid = {id}\ndata_dir = {data_dir:?}\n\
         [listen]\nclient = \"127.0.0.1:{client}\"\ninternal = \"127.0.0.1:{internal}\"\n\
         [[controllers]]\nid = {id}\naddress = \"127.0.0.1:{internal}\"\n"
    )
}

/// Runs `ottla server` with a configuration that it must refuse, and gives what it said.
pub fn refused_server(dir: &Path, config: &str) -> Output {
    let file = dir.join("refused.toml");
    std::fs::write(&file, config).expect("a configuration file");
    let mut child = Command::new(binary())
        .args(["server", "--config"])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ottla runs");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("its state").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("it can be killed");
            panic!("ottla server went on with this configuration:\n{config}");
        }
        std::thread::yield_now();
    }
    child.wait_with_output().expect("its output")
}

/// A node that serves, until it is dropped.
pub struct Node {
    child: std::process::Child,
    pub client_port: u16,
    pub internal_port: u16,
    dir: tempfile::TempDir,
}

impl Node {
    /// Starts a node and waits until it leads itself.
    pub async fn start() -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let (client_port, internal_port) = (free_port(), free_port());
        let text = config(0, &dir.path().join("data"), client_port, internal_port);
        let file = dir.path().join("node.toml");
        std::fs::write(&file, text).expect("a configuration file");
        let log = std::fs::File::create(dir.path().join("node.log")).expect("a log file");
        let child = Command::new(binary())
            .args(["server", "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("ottla runs");
        let mut node = Node {
            child,
            client_port,
            internal_port,
            dir,
        };
        node.wait_until_it_serves().await;
        node
    }

    async fn wait_until_it_serves(&mut self) {
        let mut cluster = ClusterServiceClient::new(self.client());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = v1::DescribeClusterRequest::default();
            if let Ok(response) = cluster.describe_cluster(request).await {
                let view = response.into_inner().cluster.unwrap_or_default();
                let serves = |broker: &v1::BrokerView| !broker.fenced;
                if view.active_controller_id.is_some() && view.brokers.iter().any(serves) {
                    return;
                }
            }
            self.assert_unharmed();
            assert!(Instant::now() < deadline, "not serving: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A connection to the client port.
    pub fn client(&self) -> Channel {
        channel(self.client_port)
    }

    /// A connection to the internal port.
    pub fn internal(&self) -> Channel {
        channel(self.internal_port)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("node.log")).unwrap_or_default()
    }

    /// The process lives, nothing in it panicked, and it has not begun to give up.
    pub fn assert_unharmed(&mut self) {
        let ended = self.child.try_wait().expect("its state");
        let log = self.log();
        assert!(ended.is_none(), "the node ended: {ended:?}\n{log}");
        let complaint = ["panicked", " ERROR "]
            .iter()
            .find(|word| log.contains(**word));
        assert!(complaint.is_none(), "the node complains:\n{log}");
    }

    /// Stops the process for good; its directory stays until the node is dropped.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn channel(port: u16) -> Channel {
    Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .expect("an address")
        .timeout(PATIENCE)
        .connect_lazy()
}
