//! A cluster in a process of its own, and the `ottla` program run against it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use ottla_proto::v1;
use ottla_proto::v1::log_service_client::LogServiceClient;

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs `ottla` with these arguments, split at spaces, and this standard input.
pub fn ottla(bootstrap: &str, args: &str, input: &[u8]) -> Ran {
    let mut child = program()
        .env("OTTLA_BOOTSTRAP", bootstrap)
        .args(args.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A command that ends before it has read everything breaks the pipe.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    let ended = child.wait_with_output().expect("the program ends");
    Ran {
        code: ended.status.code(),
        out: String::from_utf8_lossy(&ended.stdout).into_owned(),
        err: String::from_utf8_lossy(&ended.stderr).into_owned(),
    }
}

pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
    command.env_remove("OTTLA_BOOTSTRAP").env_remove("RUST_LOG");
    command
}

/// The first of `count` ports in a row that nobody listens on. Each call looks elsewhere, below the
/// ports that the system gives to whoever wants any: those are taken at any moment.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const PORTS: u32 = 12_000;
    let mine = std::process::id().wrapping_mul(64);
    loop {
        let at = NEXT.fetch_add(u32::from(count), Ordering::Relaxed);
        let first = 20_000 + (mine.wrapping_add(at) % PORTS) as u16;
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}

/// A running `ottla dev`, ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    pub bootstrap: String,
    child: Child,
    errors: tempfile::NamedTempFile,
}

impl Cluster {
    /// Starts one node and waits until it serves.
    pub fn start() -> Cluster {
        Cluster::of(1, "")
    }

    /// Starts so many nodes as these arguments ask for and waits until they serve.
    pub fn of(nodes: u16, args: &str) -> Cluster {
        Cluster::shaped(nodes, &format!("--nodes {nodes} {args}"))
    }

    /// Starts the nodes, so many in all, that these arguments ask for.
    pub fn shaped(nodes: u16, args: &str) -> Cluster {
        let port = free_ports(2 * nodes);
        let errors = tempfile::NamedTempFile::new().expect("a file");
        let mut child = program()
            .args(["dev", "--base-port", &port.to_string()])
            .args(args.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.reopen().expect("the file"))
            .spawn()
            .expect("the program starts");
        // The first line comes once the cluster is healthy.
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("a pipe"))
            .read_line(&mut line)
            .expect("a line");
        let told = std::fs::read_to_string(errors.path()).expect("the file");
        assert!(line.starts_with("NODE"), "{line:?}, and told: {told}");
        Cluster {
            bootstrap: format!("127.0.0.1:{port}"),
            child,
            errors,
        }
    }

    /// What it told on standard error.
    pub fn told(&self) -> String {
        std::fs::read_to_string(self.errors.path()).expect("the file")
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn ok(&self, args: &str, input: &str) -> Ran {
        let ran = self.run(args, input);
        assert_eq!(ran.code, Some(0), "{args}: {}", ran.err);
        ran
    }

    pub fn run(&self, args: &str, input: &str) -> Ran {
        ottla(&self.bootstrap, args, input.as_bytes())
    }

    /// Starts a command that goes on until it is stopped.
    pub fn spawn(&self, args: &str) -> Running {
        let mut child = program()
            .env("OTTLA_BOOTSTRAP", &self.bootstrap)
            .args(args.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }

    /// Appends a batch as it is, past the client that would never build it.
    pub fn append(&self, topic: &str, partition: i32, batch: Bytes) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let request = v1::ProduceRequest {
            partitions: vec![v1::ProducePartition {
                partition: Some(v1::TopicPartition {
                    topic: topic.to_owned(),
                    partition,
                    ..Default::default()
                }),
                batch,
                ..Default::default()
            }],
            ..Default::default()
        };
        let endpoint = format!("http://{}", self.bootstrap);
        runtime.block_on(async {
            let mut log = LogServiceClient::connect(endpoint).await.expect("a node");
            let answers = log.produce(futures::stream::iter([request])).await;
            let answer = answers.expect("a stream").into_inner().message().await;
            let answer = answer.expect("an answer").expect("an answer");
            assert_eq!(answer.results[0].error, None);
        });
    }

    /// Stops the node as Ctrl-C does.
    pub fn stop(&mut self) -> ExitStatus {
        let pid = i32::try_from(self.child.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // One that has ended already is waited for below.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        self.child.wait().expect("the node ends")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command at work, killed when dropped.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// The next line of its standard output.
    #[track_caller]
    pub fn line(&self) -> String {
        let line = self.lines.recv_timeout(Duration::from_secs(20));
        line.expect("a line in time")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
