//! The cluster that a drill works on: its own, or one that `ottla dev --processes` runs. Kills and
//! restarts its nodes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::dev::{self, DevCluster, DevOptions, Manifest, Place, Shape};
use crate::exit::{CommandError, CommandResult};
use crate::observe::Expected;

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
        for node in &manifest.nodes {
            if !node
                .pid
                .is_some_and(|pid| dev::is_node_process(pid, &node.config))
            {
                return Err(CommandError::usage(format_args!(
                    "node {} of the cluster in {} is no process of its own; start the cluster with \
                     ottla dev --processes",
                    node.id,
                    directory.display()
                )));
            }
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

    /// Kills a node without warning and waits until its process is gone.
    pub async fn kill(&mut self, id: i32) -> anyhow::Result<()> {
        match self {
            Victims::Own(cluster) => cluster.kill_node(id).await,
            Victims::Running { manifest, .. } => {
                let node = manifest
                    .node(id)
                    .with_context(|| format!("there is no node {id}"))?;
                let pid = node
                    .pid
                    .filter(|pid| dev::is_node_process(*pid, &node.config));
                let Some(pid) = pid else {
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
