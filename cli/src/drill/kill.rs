//! The cluster that a drill works on: its own, or one that `ottla dev --processes` runs. Kills and
//! restarts its nodes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::sleep;

use crate::dev::{self, DevCluster, DevOptions, Manifest, ManifestNode, Place, Shape};
use crate::exit::{CommandError, CommandResult};
use crate::node::holder;
use crate::observe::Expected;
use crate::output::joined;

/// How often it is looked whether every node still runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a cluster may take to become healthy.
pub const HEALTHY_PATIENCE: Duration = Duration::from_secs(60);

/// A cluster whose nodes can be killed one by one.
pub enum Victims {
    /// Started for the drill and removed after it.
    Own(Box<DevCluster>),
    /// Somebody else's, described in this directory.
    Running {
        directory: PathBuf,
        manifest: Manifest,
    },
}

impl Victims {
    /// Starts a cluster for the drill.
    pub async fn own(shape: Shape) -> CommandResult<Victims> {
        let options = DevOptions {
            shape: Some(shape),
            base_port: None,
            place: Place::Temporary,
            processes: true,
        };
        Ok(Victims::Own(Box::new(DevCluster::start(options).await?)))
    }

    /// Takes a cluster that runs.
    pub fn running(directory: &Path) -> CommandResult<Victims> {
        let manifest = Manifest::load(directory)?.ok_or_else(|| {
            CommandError::usage(format_args!(
                "there is no cluster in {}; start one with: ottla dev --processes --data-dir {}",
                directory.display(),
                directory.display()
            ))
        })?;
        if let Some(obstacle) = obstacle_now(directory, &manifest) {
            return Err(CommandError::usage(obstacle));
        }
        Ok(Victims::Running {
            directory: directory.to_owned(),
            manifest,
        })
    }

    pub fn manifest(&self) -> &Manifest {
        match self {
            Victims::Own(cluster) => cluster.manifest(),
            Victims::Running { manifest, .. } => manifest,
        }
    }

    /// How many nodes a healthy cluster has.
    fn expected(&self) -> Expected {
        Expected {
            brokers: self.manifest().brokers(),
            controllers: self.manifest().controllers(),
        }
    }

    /// Waits until every node is there and every replica in sync.
    pub async fn wait_healthy(&self) -> CommandResult<ottla_client::Client> {
        dev::wait_healthy(
            &self.manifest().bootstrap(),
            self.expected(),
            HEALTHY_PATIENCE,
        )
        .await
    }

    /// As [`Victims::wait_healthy`], before anything was killed: a node that turns out to be dead
    /// already ends the wait, since nobody would start it.
    pub async fn wait_ready(&self) -> CommandResult {
        let dead = async {
            let Victims::Running {
                directory,
                manifest,
            } = self
            else {
                return std::future::pending().await;
            };
            loop {
                if let Some(obstacle) = obstacle_now(directory, manifest) {
                    return CommandError::usage(obstacle);
                }
                sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::select! {
            healthy = self.wait_healthy() => healthy.map(drop),
            error = dead => Err(error),
        }
    }

    /// Kills a node without warning and waits until its process is gone.
    pub async fn kill(&mut self, id: i32) -> anyhow::Result<()> {
        match self {
            Victims::Own(cluster) => cluster.kill_node(id).await,
            Victims::Running { manifest, .. } => {
                let node = manifest
                    .node(id)
                    .with_context(|| format!("there is no node {id}"))?;
                let Some(pid) = node.running() else {
                    bail!("node {id} is not running");
                };
                dev::kill_and_wait(pid).await
            }
        }
    }

    /// Starts a killed node again, with the command it was started with.
    pub async fn restart(&mut self, id: i32) -> anyhow::Result<()> {
        match self {
            Victims::Own(cluster) => cluster.start_node(id).await,
            Victims::Running {
                directory,
                manifest,
            } => {
                let node = manifest
                    .node(id)
                    .with_context(|| format!("there is no node {id}"))?;
                let pid = dev::spawn_detached(node)?;
                manifest.set_pid(id, Some(pid));
                manifest.store(directory)
            }
        }
    }

    /// Ends the drill's own cluster; leaves somebody else's alone.
    pub async fn release(self) {
        if let Victims::Own(cluster) = self {
            cluster.stop().await;
        }
    }
}

/// Why no drill can be run on a cluster as it is now.
fn obstacle_now(directory: &Path, manifest: &Manifest) -> Option<String> {
    let running = |node: &ManifestNode| (node.id, node.running());
    let running: Vec<_> = manifest.nodes.iter().map(running).collect();
    obstacle(directory, manifest, &running, holder(directory))
}

/// Why no drill can be run on a cluster, and the remedy. `running` has the process of each node,
/// and `cluster` is the one of `ottla dev`, which runs all nodes itself unless they are processes.
fn obstacle(
    directory: &Path,
    manifest: &Manifest,
    running: &[(i32, Option<u32>)],
    cluster: Option<u32>,
) -> Option<String> {
    let shown = directory.display();
    let dead: Vec<i32> = running
        .iter()
        .filter(|(_, pid)| pid.is_none())
        .map(|(id, _)| *id)
        .collect();
    if dead.len() == running.len() {
        return Some(format!(
            "the cluster in {shown} is not running; start it with: \
             ottla dev --processes --data-dir {shown}"
        ));
    }
    if running
        .iter()
        .any(|(_, pid)| pid.is_some() && *pid == cluster)
    {
        return Some(format!(
            "the nodes of the cluster in {shown} share one process, so none can be killed alone; \
             stop it and start it with: ottla dev --processes --data-dir {shown}"
        ));
    }
    let first = manifest.node(*dead.first()?)?;
    let (noun, verb) = match dead.len() {
        1 => ("node", "is"),
        _ => ("nodes", "are"),
    };
    Some(format!(
        "{noun} {} of the cluster in {shown} {verb} not running, and a drill begins with a \
         healthy cluster; start what is missing with: ottla server --config {}",
        joined(&dead),
        first.config.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[tokio::test]
    async fn a_drill_does_not_wait_for_a_node_that_nobody_starts() {
        let victims = Victims::Running {
            directory: "d".into(),
            manifest: Manifest {
                nodes: vec![node(1), node(2)],
            },
        };
        // Far below the patience with a cluster that becomes healthy.
        let refused = tokio::time::timeout(Duration::from_secs(10), victims.wait_ready());
        let error = refused.await.unwrap().unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.to_string().contains("is not running"), "{error}");
    }

    fn node(id: i32) -> ManifestNode {
        ManifestNode {
            id,
            roles: Vec::new(),
            pid: None,
            client: None,
            internal: crate::config::Endpoint::loopback(9093),
            config: format!("d/node-{id}/ottla.toml").into(),
            data_dir: "d".into(),
            log: "l".into(),
        }
    }

    fn found(running: [Option<u32>; 3], cluster: Option<u32>) -> Option<String> {
        let manifest = Manifest {
            nodes: [1, 2, 3].map(node).to_vec(),
        };
        let running: Vec<_> = (1..).zip(running).collect();
        obstacle(Path::new("d"), &manifest, &running, cluster)
    }

    #[test]
    fn a_cluster_of_processes_that_all_run_can_be_drilled() {
        assert_eq!(found([Some(11), Some(12), Some(13)], Some(10)), None);
        // Its nodes go on when they were restarted by hand and ottla dev has ended.
        assert_eq!(found([Some(11), Some(12), Some(13)], None), None);
    }

    #[test]
    fn a_node_that_is_dead_already_is_named_with_the_remedy() {
        let one = found([Some(11), None, Some(13)], Some(10)).unwrap();
        assert!(
            one.starts_with("node 2 of the cluster in d is not running"),
            "{one}"
        );
        assert!(
            one.ends_with("ottla server --config d/node-2/ottla.toml"),
            "{one}"
        );
        let two = found([None, Some(12), None], Some(10)).unwrap();
        assert!(two.starts_with("nodes 1,3 of the cluster"), "{two}");
    }

    #[test]
    fn a_cluster_that_is_stopped_or_in_one_process_is_told_apart() {
        let stopped = found([None, None, None], None).unwrap();
        assert!(
            stopped.contains("is not running; start it with"),
            "{stopped}"
        );
        let shared = found([Some(10), Some(10), Some(10)], Some(10)).unwrap();
        assert!(shared.contains("share one process"), "{shared}");
    }
}
