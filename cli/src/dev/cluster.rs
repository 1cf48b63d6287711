//! A running cluster on this machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::{BoxFuture, FutureExt as _, join_all, select_all};
use ottla_client::{Client, ClientConfig};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::manifest::{Manifest, ManifestNode};
use super::shape::{Shape, config_file, describe};
use super::{ports, process};
use crate::config::{Endpoint, NodeConfig, Overrides};
use crate::exit::{CommandError, CommandResult, Exit};
use crate::logging;
use crate::node::{self, Departure, Node};
use crate::observe::{self, Expected};

/// How long a node's process may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How often a starting cluster is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What to start.
#[derive(Debug, Clone)]
pub struct DevOptions {
    /// `None`: as it was, or three combined nodes.
    pub shape: Option<Shape>,
    pub base_port: Option<u16>,
    pub place: Place,
    /// Whether each node is a process of its own.
    pub processes: bool,
}

/// Where a cluster keeps its files.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a temporary directory that is removed in the end.
    Temporary,
    Directory(PathBuf),
}

/// A node that is no longer running though nobody stopped it.
#[derive(Debug)]
pub struct Ended {
    pub id: i32,
    pub reason: String,
}

/// A running cluster. Dropping it kills its processes; [`DevCluster::stop`] stops them in order.
#[derive(Debug)]
pub struct DevCluster {
    directory: PathBuf,
    manifest: Manifest,
    /// Why the cluster is not where people expect it, if it is not.
    elsewhere: Option<String>,
    running: Running,
    /// Keeps others from starting the same cluster. Released when dropped.
    _lock: File,
    /// Declared last: removed after everything else is closed.
    _temporary: Option<tempfile::TempDir>,
}

#[derive(Debug)]
enum Running {
    Threads(BTreeMap<i32, Node>),
    Processes(BTreeMap<i32, tokio::process::Child>),
}

impl DevCluster {
    /// Starts every node, which may not serve yet.
    pub async fn start(options: DevOptions) -> CommandResult<DevCluster> {
        let (directory, temporary) = open_place(&options.place)?;
        let lock = lock(&directory)?;
        let (manifest, elsewhere) = prepare(&options, &directory)?;
        let running = if options.processes {
            Running::Processes(BTreeMap::new())
        } else {
            Running::Threads(BTreeMap::new())
        };
        let mut cluster = DevCluster {
            directory,
            manifest,
            elsewhere,
            running,
            _lock: lock,
            _temporary: temporary,
        };
        let ids: Vec<i32> = cluster.manifest.nodes.iter().map(|node| node.id).collect();
        for id in ids {
            if let Err(error) = cluster.start_node(id).await {
                cluster.stop().await;
                return Err(error.into());
            }
        }
        Ok(cluster)
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Which ports were taken instead of the default ones, and why, in words.
    pub fn elsewhere(&self) -> Option<&str> {
        self.elsewhere.as_deref()
    }

    /// Whether each node is a process of its own.
    pub fn has_processes(&self) -> bool {
        matches!(self.running, Running::Processes(_))
    }

    /// Starts a node that is not running.
    pub async fn start_node(&mut self, id: i32) -> anyhow::Result<()> {
        let node = self
            .manifest
            .node(id)
            .with_context(|| format!("there is no node {id}"))?;
        let pid = match &mut self.running {
            Running::Threads(nodes) => {
                let config = NodeConfig::load(&node.config, Overrides::default())?;
                nodes.insert(id, Node::start(config).await?);
                Some(std::process::id())
            }
            Running::Processes(children) => {
                let child = process::spawn(node)?;
                let pid = child.id();
                children.insert(id, child);
                pid
            }
        };
        self.manifest.set_pid(id, pid);
        self.manifest.store(&self.directory)
    }

    /// Kills a node's process without warning.
    pub async fn kill_node(&mut self, id: i32) -> anyhow::Result<()> {
        let Running::Processes(children) = &mut self.running else {
            bail!("node {id} shares this process, so it cannot be killed alone");
        };
        let mut child = children
            .remove(&id)
            .with_context(|| format!("node {id} is not running"))?;
        child
            .kill()
            .await
            .with_context(|| format!("cannot kill node {id}"))
    }

    /// Waits until a node ends that nobody stopped. Pending while all run.
    pub async fn wait_ended(&mut self) -> Ended {
        let ended = match &mut self.running {
            Running::Threads(nodes) => wait_failed(nodes).await,
            Running::Processes(children) => {
                let (id, status) = wait_exited(children).await;
                children.remove(&id);
                let log = self.manifest.node(id).map(|node| node.log.as_path());
                let reason = match status {
                    Ok(status) => process::ending(status, log.unwrap_or(Path::new(""))),
                    Err(error) => format!("its process cannot be waited for: {error}"),
                };
                return Ended { id, reason };
            }
        };
        if let Running::Threads(nodes) = &mut self.running {
            nodes.remove(&ended.id);
        }
        ended
    }

    /// Waits until every node is there and well.
    pub async fn wait_healthy(&mut self, at_most: Duration) -> CommandResult<Client> {
        let bootstrap = self.manifest.bootstrap();
        let expected = Expected {
            brokers: self.manifest.brokers(),
            controllers: self.manifest.controllers(),
        };
        tokio::select! {
            client = wait_healthy(&bootstrap, expected, at_most) => client,
            ended = self.wait_ended() => {
                Err(anyhow::anyhow!("node {} ended ({})", ended.id, ended.reason).into())
            }
        }
    }

    /// Stops every node at once and waits for it. Nodes that others restarted are stopped too.
    pub async fn stop(mut self) {
        logging::nodes_stop();
        match std::mem::replace(&mut self.running, Running::Threads(BTreeMap::new())) {
            Running::Threads(nodes) => {
                let nodes = nodes.into_values();
                join_all(nodes.map(|node| node.shutdown(Departure::WithTheCluster))).await;
            }
            Running::Processes(children) => {
                let adopted = adopted(&self.manifest, &children);
                let adopted = join_all(adopted.into_iter().map(|pid| async move {
                    let _ = process::stop_and_wait(pid, STOP_PATIENCE).await;
                }));
                let children = join_all(children.into_values().map(stop_child));
                tokio::join!(adopted, children);
            }
        }
    }
}

/// Processes that run nodes of this cluster though this process did not start them.
fn adopted(manifest: &Manifest, children: &BTreeMap<i32, tokio::process::Child>) -> Vec<u32> {
    let own: Vec<u32> = children.values().filter_map(|child| child.id()).collect();
    let running = manifest.nodes.iter().filter_map(ManifestNode::running);
    let others = running.filter(|pid| !own.contains(pid) && *pid != std::process::id());
    others.collect()
}

async fn stop_child(mut child: tokio::process::Child) {
    if let Some(pid) = child.id() {
        // A process that cannot be signalled is killed below.
        let _ = process::send(pid, process::CLUSTER_STOPS);
    }
    if tokio::time::timeout(STOP_PATIENCE, child.wait())
        .await
        .is_err()
    {
        let _ = child.kill().await;
    }
}

async fn wait_failed(nodes: &BTreeMap<i32, Node>) -> Ended {
    if nodes.is_empty() {
        return std::future::pending().await;
    }
    let failures = nodes.iter().map(|(id, node)| {
        let (id, failed) = (*id, node.wait_failed());
        async move {
            Ended {
                id,
                reason: failed.await,
            }
        }
        .boxed()
    });
    select_all(failures).await.0
}

async fn wait_exited(
    children: &mut BTreeMap<i32, tokio::process::Child>,
) -> (i32, std::io::Result<ExitStatus>) {
    if children.is_empty() {
        return std::future::pending().await;
    }
    let exits = children.iter_mut().map(
        |(id, child)| -> BoxFuture<'_, (i32, std::io::Result<ExitStatus>)> {
            async move { (*id, child.wait().await) }.boxed()
        },
    );
    select_all(exits).await.0
}

/// Waits until the cluster answers and is healthy.
pub async fn wait_healthy(
    bootstrap: &[String],
    expected: Expected,
    at_most: Duration,
) -> CommandResult<Client> {
    let deadline = Instant::now() + at_most;
    let mut client = None;
    loop {
        let problem = match &client {
            None => {
                let config = ClientConfig {
                    request_timeout: Duration::from_secs(2),
                    ..ClientConfig::new(bootstrap)
                };
                match Client::connect(config).await {
                    Ok(connected) => {
                        client = Some(connected);
                        continue;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Some(connected) => match observe::look(connected, expected).await {
                Ok(look) if look.verdict.healthy => return Ok(connected.clone()),
                Ok(look) => {
                    let findings = look
                        .verdict
                        .findings
                        .into_iter()
                        .map(|finding| finding.text);
                    findings.collect::<Vec<_>>().join("; ")
                }
                Err(error) => error.to_string(),
            },
        };
        if Instant::now() >= deadline {
            let waited = crate::duration::show(at_most);
            return Err(CommandError::new(
                Exit::TimedOut,
                anyhow::anyhow!("the cluster did not become healthy within {waited}: {problem}"),
            ));
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn open_place(place: &Place) -> CommandResult<(PathBuf, Option<tempfile::TempDir>)> {
    match place {
        Place::Temporary => {
            let temporary = tempfile::Builder::new()
                .prefix("ottla-dev-")
                .tempdir()
                .context("cannot make a temporary directory; give one with --data-dir")?;
            Ok((temporary.path().to_owned(), Some(temporary)))
        }
        Place::Directory(directory) => {
            refuse_other(directory)?;
            let made = fs::create_dir_all(directory).and_then(|()| fs::canonicalize(directory));
            let directory = made.with_context(|| {
                let directory = directory.display();
                format!("cannot make {directory}; choose a --data-dir that can be made")
            })?;
            Ok((directory, None))
        }
    }
}

/// Refuses a directory in which there is something and no cluster, such as a server's.
fn refuse_other(directory: &Path) -> CommandResult {
    // One that is not there, or is no directory, is left to whoever makes it.
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    if Manifest::path(directory).exists() {
        return Ok(());
    }
    let names = entries.flatten().map(|entry| entry.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut others: Vec<String> = names.filter(|name| !is_left_by_a_start(name)).collect();
    others.sort_unstable();
    let found = match others.as_slice() {
        [] => return Ok(()),
        [only] => only.clone(),
        [one, two] => format!("{one} and {two}"),
        [one, two, more @ ..] => format!("{one}, {two} and {} more", more.len()),
    };
    let is_a_servers = others
        .iter()
        .any(|name| name == "broker" || name == "controller");
    let way_out = match is_a_servers {
        true => "choose another --data-dir, or run the node that it belongs to with `ottla server`",
        false => "choose a --data-dir that is empty or not there yet",
    };
    Err(CommandError::usage(format_args!(
        "{} holds {found} and no cluster of `ottla dev`; {way_out}",
        directory.display()
    )))
}

/// Whether a start that came to nothing leaves something of this name before it describes the
/// cluster. The root of a file system is never quite empty.
fn is_left_by_a_start(name: &str) -> bool {
    let is_a_nodes = |id: &str| id.parse::<u16>().is_ok();
    matches!(name, "lock" | "cluster.json.new" | "lost+found")
        || name.strip_prefix("node-").is_some_and(is_a_nodes)
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let mut open = File::options();
    // Whoever holds it has noted itself in it, so it is not emptied before it is ours.
    let open = open.create(true).truncate(false).write(true).open(&path);
    let file = open.with_context(|| {
        let path = path.display();
        format!("cannot open {path}; choose a --data-dir that this user can write")
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => bail!(
            "the cluster in {} is already running; stop that one, or choose another --data-dir",
            directory.display()
        ),
        taken => taken.with_context(|| format!("cannot lock {}", path.display()))?,
    }
    file.set_len(0)
        .and_then(|()| writeln!(&file, "{}", std::process::id()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

/// Describes the cluster, anew or as it was, and writes the nodes' configuration files, except
/// those that are there already and may have been edited.
fn prepare(options: &DevOptions, directory: &Path) -> CommandResult<(Manifest, Option<String>)> {
    let mut elsewhere = None;
    let manifest = match Manifest::load(directory)? {
        Some(manifest) => {
            reuse(&manifest, options, directory)?;
            manifest
        }
        None => {
            let shape = options.shape.unwrap_or(Shape::Combined { nodes: 3 });
            let chosen = ports::choose(shape.count(), options.base_port)?;
            let manifest = describe(shape, &chosen.ports, directory);
            elsewhere = chosen.taken.map(|port| moved_text(port, &manifest));
            manifest
        }
    };
    for node in &manifest.nodes {
        if node.config.exists() {
            continue;
        }
        let home = node.config.parent().unwrap_or(directory);
        let text = toml::to_string(&config_file(&manifest, node)).context("cannot write TOML")?;
        fs::create_dir_all(home)
            .and_then(|()| fs::write(&node.config, text))
            .with_context(|| format!("cannot write {}", node.config.display()))?;
    }
    manifest.store(directory)?;
    Ok((manifest, elsewhere))
}

/// That the cluster is on other ports than usual because one of them is taken.
fn moved_text(taken: u16, manifest: &Manifest) -> String {
    format!(
        "port {taken} is in use on this machine, so clients connect to {} instead of 127.0.0.1:{}",
        manifest.bootstrap().join(","),
        ports::DEFAULT_BASE,
    )
}

/// Checks that an existing cluster is what is asked for and can be started again.
fn reuse(manifest: &Manifest, options: &DevOptions, directory: &Path) -> CommandResult {
    let shape = Shape::of(manifest);
    if options.shape.is_some_and(|asked| asked != shape) {
        return Err(CommandError::usage(format_args!(
            "the cluster in {} has other nodes ({shape}); leave the numbers out or use another \
             directory",
            directory.display()
        )));
    }
    let first = manifest.nodes.iter().find_map(|node| node.client.as_ref());
    if let (Some(asked), Some(first)) = (options.base_port, first.map(Endpoint::port))
        && asked != first
    {
        return Err(CommandError::usage(format_args!(
            "the first port of the cluster in {} is {first}, not {asked}; leave --base-port out or \
             use another directory",
            directory.display()
        )));
    }
    for node in &manifest.nodes {
        if let Some(process) = node::holder(&node.data_dir) {
            let reason = anyhow::anyhow!(
                "node {} of this cluster already runs as process {process}: stop it, or run \
                 another cluster in another --data-dir",
                node.id
            );
            return Err(reason.into());
        }
        if let Some(client) = &node.client {
            ports::require_free(client.port())?;
        }
        ports::require_free(node.internal.port())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(shape: Option<Shape>, directory: &Path) -> DevOptions {
        DevOptions {
            shape,
            base_port: None,
            place: Place::Directory(directory.to_owned()),
            processes: false,
        }
    }

    #[test]
    fn a_directory_keeps_its_cluster_and_its_edited_files() {
        let directory = tempfile::tempdir().unwrap();
        let two = Some(Shape::Combined { nodes: 2 });
        let (first, _) = prepare(&options(two, directory.path()), directory.path()).unwrap();
        let edited = format!(
            "{}# mine\n",
            fs::read_to_string(&first.nodes[0].config).unwrap()
        );
        fs::write(&first.nodes[0].config, &edited).unwrap();
        let (again, _) = prepare(&options(None, directory.path()), directory.path()).unwrap();
        assert_eq!(again, first);
        assert_eq!(fs::read_to_string(&again.nodes[0].config).unwrap(), edited);
        let three = options(Some(Shape::Combined { nodes: 3 }), directory.path());
        let refused = prepare(&three, directory.path()).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        let refused = refused.to_string();
        assert!(refused.contains("has other nodes (2 nodes)"), "{refused}");
    }

    #[test]
    fn the_port_that_a_cluster_has_may_be_said_again_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let one = options(Some(Shape::Combined { nodes: 1 }), directory.path());
        let (first, _) = prepare(&one, directory.path()).unwrap();
        let port = first.nodes[0].client.as_ref().unwrap().port();
        let at = |port| DevOptions {
            base_port: Some(port),
            ..one.clone()
        };
        let (again, _) = prepare(&at(port), directory.path()).unwrap();
        assert_eq!(again, first);
        let refused = prepare(&at(port - 1), directory.path()).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        let refused = refused.to_string();
        assert!(
            refused.contains(&format!("{port}, not {}", port - 1)),
            "{refused}"
        );
    }

    #[test]
    fn what_belongs_to_something_else_is_refused_before_anything_is_made_there() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::Directory(directory.path().to_owned());
        // What a start leaves that came to nothing.
        fs::write(directory.path().join("lock"), "").unwrap();
        fs::create_dir(directory.path().join("node-1")).unwrap();
        assert!(open_place(&place).is_ok());
        fs::create_dir(directory.path().join("broker")).unwrap();
        fs::create_dir(directory.path().join("controller")).unwrap();
        let refused = open_place(&place).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        let refused = refused.to_string();
        assert!(refused.contains("broker and controller"), "{refused}");
        assert!(refused.contains("ottla server"), "{refused}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
        // Beside a cluster there may be anything.
        fs::write(directory.path().join("cluster.json"), "").unwrap();
        assert!(open_place(&place).is_ok());
    }

    #[test]
    fn a_cluster_that_runs_is_told_without_the_words_of_the_system() {
        let directory = tempfile::tempdir().unwrap();
        let _first = lock(directory.path()).unwrap();
        let refused = CommandError::from(lock(directory.path()).unwrap_err()).to_string();
        assert!(refused.contains("is already running"), "{refused}");
        assert!(!refused.contains("os error"), "{refused}");
    }

    #[test]
    fn a_node_that_still_runs_is_named_before_its_ports() {
        let directory = tempfile::tempdir().unwrap();
        let one = options(Some(Shape::Combined { nodes: 1 }), directory.path());
        let (manifest, _) = prepare(&one, directory.path()).unwrap();
        let node = &manifest.nodes[0];
        let port = node.client.as_ref().unwrap().port();
        let _listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let _lock = node::DirectoryLock::take(&node.data_dir).unwrap();
        let refused = prepare(&one, directory.path()).unwrap_err().to_string();
        let process = std::process::id();
        let said = format!("node 1 of this cluster already runs as process {process}");
        assert!(refused.contains(&said), "{refused}");
    }

    #[tokio::test]
    async fn a_whole_cluster_stops_at_once_and_leaves_its_logs_clean() {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = DevCluster::start(options(None, directory.path()))
            .await
            .unwrap();
        let data = |node: &ManifestNode| node.data_dir.clone();
        let nodes: Vec<PathBuf> = cluster.manifest().nodes.iter().map(data).collect();
        let patience = Duration::from_secs(60);
        drop(cluster.wait_healthy(patience).await.unwrap());
        let began = Instant::now();
        cluster.stop().await;
        // Nodes that wait to be released by each other wait for the session timeout, 3 seconds.
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        for node in nodes {
            assert!(
                node.join("broker/clean-shutdown").is_file(),
                "{}",
                node.display()
            );
        }
    }

    #[test]
    fn a_cluster_that_is_not_on_the_default_port_says_where_it_is_and_why() {
        let shape = Shape::Isolated {
            controllers: 1,
            brokers: 2,
        };
        let ports = [(30_001, 30_002), (30_003, 30_004), (30_005, 30_006)];
        let manifest = describe(shape, &ports, Path::new("d"));
        assert_eq!(
            moved_text(9092, &manifest),
            "port 9092 is in use on this machine, so clients connect to \
             127.0.0.1:30001,127.0.0.1:30003 instead of 127.0.0.1:9092"
        );
    }

    #[test]
    fn a_node_that_somebody_else_runs_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = describe(
            Shape::Combined { nodes: 2 },
            &[(9092, 9093), (9094, 9095)],
            directory.path(),
        );
        let data = &manifest.nodes[1].data_dir;
        fs::create_dir_all(data).unwrap();
        assert_eq!(manifest.nodes[1].running(), None);
        // The other process: it holds the lock and has noted itself, and cluster.json knows it not.
        let lock = data.join("lock");
        let mut other = std::process::Command::new("flock")
            .arg(&lock)
            .args(["sh", "-c", "echo $$ > \"$0\"; echo up; read end"])
            .arg(&lock)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = [0; 2];
        std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut up).unwrap();
        let found = adopted(&manifest, &BTreeMap::new());
        drop(other.stdin.take());
        other.wait().unwrap();
        let pid: u32 = fs::read_to_string(&lock).unwrap().trim().parse().unwrap();
        assert_eq!(found, [pid]);
        assert_eq!(adopted(&manifest, &BTreeMap::new()), [0; 0]);
    }

    #[test]
    fn a_cluster_is_started_once() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path()).unwrap();
        assert!(
            lock(directory.path())
                .unwrap_err()
                .to_string()
                .contains("already running")
        );
        drop(held);
        assert!(lock(directory.path()).is_ok());
    }
}
