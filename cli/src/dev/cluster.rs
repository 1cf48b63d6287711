//! A running cluster on this machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::{BoxFuture, FutureExt as _, join_all, select_all};
use ottla_client::{Client, ClientConfig};
use rustix::fs::{FlockOperation, flock};
use tokio::time::{Instant, sleep};

use super::manifest::{Manifest, ManifestNode};
use super::shape::{Shape, config_file, describe};
use super::{ports, process};
use crate::config::{NodeConfig, Overrides};
use crate::exit::{CommandError, CommandResult, Exit};
use crate::node::Node;
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
        let manifest = prepare(&options, &directory)?;
        let running = if options.processes {
            Running::Processes(BTreeMap::new())
        } else {
            Running::Threads(BTreeMap::new())
        };
        let mut cluster = DevCluster {
            directory,
            manifest,
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
                let mut ended = wait_exited(children).await;
                children.remove(&ended.id);
                if let Some(node) = self.manifest.node(ended.id) {
                    ended.reason = format!("{}: {}", ended.reason, process::last_words(node));
                }
                return ended;
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

    /// Stops every node and waits for it. Nodes that others restarted are stopped too.
    pub async fn stop(mut self) {
        match std::mem::replace(&mut self.running, Running::Threads(BTreeMap::new())) {
            Running::Threads(nodes) => {
                join_all(nodes.into_values().map(Node::shutdown)).await;
            }
            Running::Processes(children) => {
                join_all(children.into_values().map(stop_child)).await;
                join_all(self.adopted().into_iter().map(|pid| async move {
                    let _ = process::stop_and_wait(pid, STOP_PATIENCE).await;
                }))
                .await;
            }
        }
    }

    /// Processes that run nodes of this cluster though this process did not start them.
    fn adopted(&self) -> Vec<u32> {
        let Ok(Some(manifest)) = Manifest::load(&self.directory) else {
            return Vec::new();
        };
        let running = |node: &ManifestNode| {
            node.pid.filter(|pid| {
                process::is_node_process(*pid, &node.config) && !process::is_gone(*pid)
            })
        };
        manifest.nodes.iter().filter_map(running).collect()
    }
}

async fn stop_child(mut child: tokio::process::Child) {
    if let Some(pid) = child.id() {
        // A process that cannot be signalled is killed below.
        let _ = process::send(pid, rustix::process::Signal::TERM);
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

async fn wait_exited(children: &mut BTreeMap<i32, tokio::process::Child>) -> Ended {
    if children.is_empty() {
        return std::future::pending().await;
    }
    let exits = children
        .iter_mut()
        .map(|(id, child)| -> BoxFuture<'_, Ended> {
            async move {
                let reason = match child.wait().await {
                    Ok(status) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                Ended { id: *id, reason }
            }
            .boxed()
        });
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

fn open_place(place: &Place) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    match place {
        Place::Temporary => {
            let temporary = tempfile::Builder::new()
                .prefix("ottla-dev-")
                .tempdir()
                .context("cannot make a temporary directory; give one with --data-dir")?;
            Ok((temporary.path().to_owned(), Some(temporary)))
        }
        Place::Directory(directory) => fs::create_dir_all(directory)
            .and_then(|()| fs::canonicalize(directory))
            .map(|directory| (directory, None))
            .with_context(|| format!("cannot make {}", directory.display())),
    }
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("the cluster in {} is already running", directory.display()))?;
    Ok(file)
}

/// Describes the cluster, anew or as it was, and writes the nodes' configuration files, except
/// those that are there already and may have been edited.
fn prepare(options: &DevOptions, directory: &Path) -> CommandResult<Manifest> {
    let manifest = match Manifest::load(directory)? {
        Some(manifest) => {
            reuse(&manifest, options, directory)?;
            manifest
        }
        None => {
            let shape = options.shape.unwrap_or(Shape::Combined { nodes: 3 });
            let ports = ports::choose(shape.count(), options.base_port)?;
            describe(shape, &ports, directory)
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
    Ok(manifest)
}

/// Checks that an existing cluster is what is asked for and can be started again.
fn reuse(manifest: &Manifest, options: &DevOptions, directory: &Path) -> CommandResult {
    let shape = Shape::of(manifest);
    if options.shape.is_some_and(|asked| asked != shape) {
        return Err(CommandError::usage(format_args!(
            "the cluster in {} has other nodes ({shape:?}); leave the numbers out or use another \
             directory",
            directory.display()
        )));
    }
    if options.base_port.is_some() {
        return Err(CommandError::usage(format_args!(
            "the cluster in {} has its ports already; leave --base-port out",
            directory.display()
        )));
    }
    for node in &manifest.nodes {
        if node.is_broker() {
            ports::require_free(node.client.port())?;
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
        let first = prepare(&options(two, directory.path()), directory.path()).unwrap();
        let edited = format!(
            "{}# mine\n",
            fs::read_to_string(&first.nodes[0].config).unwrap()
        );
        fs::write(&first.nodes[0].config, &edited).unwrap();
        let again = prepare(&options(None, directory.path()), directory.path()).unwrap();
        assert_eq!(again, first);
        assert_eq!(fs::read_to_string(&again.nodes[0].config).unwrap(), edited);
        let three = options(Some(Shape::Combined { nodes: 3 }), directory.path());
        assert_eq!(
            prepare(&three, directory.path()).unwrap_err().exit,
            Exit::Usage
        );
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
