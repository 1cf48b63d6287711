//! One node as a process of its own, with everything it keeps in a directory that goes away with
//! it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
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

/// A port that nobody had a moment ago. Each call looks elsewhere, below the ports that the system
/// gives to whoever wants any: those are taken at any moment.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const PORTS: u32 = 12_000;
    let mine = std::process::id().wrapping_mul(64);
    loop {
        let at = mine.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + (at % PORTS) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The configuration of a node that is a cluster by itself.
pub fn config(id: i32, data_dir: &Path, client: u16, internal: u16) -> String {
    config_among(id, data_dir, client, internal, &[(id, internal)])
}

/// The configuration of a node with these controllers, by id and internal port.
pub fn config_among(
    id: i32,
    data_dir: &Path,
    client: u16,
    internal: u16,
    controllers: &[(i32, u16)],
) -> String {
    let mut text = format!(
        "[node]\nid = {id}\ndata_dir = {data_dir:?}\n\
         [listen]\nclient = \"127.0.0.1:{client}\"\ninternal = \"127.0.0.1:{internal}\"\n"
    );
    for (id, port) in controllers {
        text.push_str(&format!(
            "[[controllers]]\nid = {id}\naddress = \"127.0.0.1:{port}\"\n"
        ));
    }
    text
}

/// How `ottla server` ended.
pub struct Ended {
    pub status: ExitStatus,
    pub said: String,
    pub took: Duration,
    /// What the program takes to say its version: how busy the machine is.
    pub least: Duration,
}

/// Runs `ottla server` with a configuration that it must refuse.
pub fn refused_server(dir: &Path, config: impl AsRef<[u8]>) -> Ended {
    let file = dir.join("refused.toml");
    std::fs::write(&file, config).expect("a configuration file");
    let mut command = Command::new(binary());
    command.args(["server", "--config"]).arg(&file);
    refused(command)
}

/// Runs a command that must end by itself.
pub fn refused(mut command: Command) -> Ended {
    let began = Instant::now();
    let version = Command::new(binary()).arg("--version").output();
    assert!(version.expect("ottla runs").status.success());
    let least = began.elapsed();
    let began = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stderr = child.stderr.take().expect("its standard error");
    let reading = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("text");
        said
    });
    while child.try_wait().expect("its state").is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().expect("it can be killed");
            let said = reading.join().expect("the reader");
            panic!("{command:?} went on:\n{said}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = began.elapsed();
    let status = child.wait().expect("its status");
    let said = reading.join().expect("the reader");
    Ended {
        status,
        said,
        took,
        least,
    }
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
        Node::start_with("").await
    }

    /// Starts a node with more in its configuration.
    pub async fn start_with(more: &str) -> Node {
        Node::start_as(0, more).await
    }

    /// Starts a node with this id and more in its configuration.
    pub async fn start_as(id: i32, more: &str) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let (client, internal) = (free_port(), free_port());
        let text = config(id, &dir.path().join("data"), client, internal) + more;
        let mut node = Node::launch(dir, client, internal, &text);
        node.wait_until_it_serves().await;
        node
    }

    /// Three nodes that are one cluster, once all of them serve.
    pub async fn three() -> Vec<Node> {
        let ports: Vec<_> = (0..3).map(|_| (free_port(), free_port())).collect();
        let controllers: Vec<_> = (0..)
            .zip(&ports)
            .map(|(id, (_, port))| (id, *port))
            .collect();
        let launch = |(id, (client, internal)): (i32, &(u16, u16))| {
            let dir = tempfile::tempdir().expect("a directory");
            let data = dir.path().join("data");
            let text = config_among(id, &data, *client, *internal, &controllers);
            Node::launch(dir, *client, *internal, &text)
        };
        let mut nodes: Vec<_> = (0..).zip(&ports).map(launch).collect();
        for node in &mut nodes {
            node.wait_until(3).await;
        }
        nodes
    }

    fn launch(dir: tempfile::TempDir, client_port: u16, internal_port: u16, text: &str) -> Node {
        let file = dir.path().join("node.toml");
        std::fs::write(&file, text).expect("a configuration file");
        let mut command = Command::new(binary());
        command.args(["server", "--config"]).arg(&file);
        Node::run(command, dir, client_port, internal_port)
    }

    /// The node that this command is.
    pub fn run(
        mut command: Command,
        dir: tempfile::TempDir,
        client_port: u16,
        internal_port: u16,
    ) -> Node {
        let log = std::fs::File::create(dir.path().join("node.log")).expect("a log file");
        let child = command
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("ottla runs");
        Node {
            child,
            client_port,
            internal_port,
            dir,
        }
    }

    pub async fn wait_until_it_serves(&mut self) {
        self.wait_until(1).await;
    }

    /// Waits until this node knows an active controller and so many brokers that serve.
    async fn wait_until(&mut self, brokers: usize) {
        let mut cluster = ClusterServiceClient::new(self.client());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = v1::DescribeClusterRequest::default();
            if let Ok(response) = cluster.describe_cluster(request).await {
                let view = response.into_inner().cluster.unwrap_or_default();
                let serves = |broker: &v1::BrokerView| !broker.fenced;
                if view.active_controller_id.is_some()
                    && view.brokers.iter().filter(|broker| serves(broker)).count() >= brokers
                {
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

    /// The memory that the process has in use, in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
        kib.expect("its resident size") * 1024
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("node.log")).unwrap_or_default()
    }

    /// Waits until the process ends by itself; what it told.
    pub async fn wait_until_it_ends(&mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("its state").is_none() {
            assert!(Instant::now() < deadline, "it goes on: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.log()
    }

    /// The process lives.
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().expect("its state");
        assert!(ended.is_none(), "the node ended: {ended:?}\n{}", self.log());
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
