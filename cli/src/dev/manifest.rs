//! `cluster.json`: what a cluster on this machine consists of, for whoever wants to connect to it,
//! kill its nodes or start it again.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::process;
use crate::config::{Endpoint, RoleName};
use crate::node;

/// A cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// In ascending order of id.
    pub nodes: Vec<ManifestNode>,
}

/// A node of a cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestNode {
    pub id: i32,
    pub roles: Vec<RoleName>,
    /// The process that was last started for the node here; absent if none was. Somebody else may
    /// have started another since: [`ManifestNode::running`] knows.
    pub pid: Option<u32>,
    /// Where clients reach it; absent if it is no broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Endpoint>,
    pub internal: Endpoint,
    pub config: PathBuf,
    pub data_dir: PathBuf,
    /// What the node's process tells, where it has one of its own.
    pub log: PathBuf,
}

impl ManifestNode {
    pub fn is_controller(&self) -> bool {
        self.roles.contains(&RoleName::Controller)
    }

    pub fn is_broker(&self) -> bool {
        self.roles.contains(&RoleName::Broker)
    }

    /// The process that runs the node now, whoever started it.
    pub fn running(&self) -> Option<u32> {
        // The threads of a process that was killed hold the lock a moment longer than it lives.
        node::holder(&self.data_dir).filter(|pid| !process::is_gone(*pid))
    }

    /// The node's roles in words.
    pub fn roles_text(&self) -> &'static str {
        match (self.is_controller(), self.is_broker()) {
            (true, true) => "controller,broker",
            (true, false) => "controller",
            (false, _) => "broker",
        }
    }
}

impl Manifest {
    /// Where the description of the cluster in a directory stands.
    pub fn path(directory: &Path) -> PathBuf {
        directory.join("cluster.json")
    }

    /// The cluster in a directory; `None` if there is none.
    pub fn load(directory: &Path) -> anyhow::Result<Option<Manifest>> {
        let path = Manifest::path(directory);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let mut manifest: Manifest = serde_json::from_str(&text)
            .with_context(|| format!("{} does not describe a cluster", path.display()))?;
        // A cluster made by an older version may have one all the same.
        for node in manifest.nodes.iter_mut().filter(|node| !node.is_broker()) {
            node.client = None;
        }
        Ok(Some(manifest))
    }

    /// Writes the description, whole or not at all.
    pub fn store(&self, directory: &Path) -> anyhow::Result<()> {
        let path = Manifest::path(directory);
        let temporary = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The addresses of all brokers for clients, lowest id first.
    pub fn bootstrap(&self) -> Vec<String> {
        let clients = self.nodes.iter().filter_map(|node| node.client.as_ref());
        clients.map(Endpoint::to_string).collect()
    }

    pub fn node(&self, id: i32) -> Option<&ManifestNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Notes which process runs a node.
    pub fn set_pid(&mut self, id: i32, pid: Option<u32>) {
        for node in self.nodes.iter_mut().filter(|node| node.id == id) {
            node.pid = pid;
        }
    }

    pub fn brokers(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_broker()).count()
    }

    pub fn controllers(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.is_controller())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_survives_its_file_and_an_empty_directory_has_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::load(directory.path()).unwrap(), None);
        let mut manifest = Manifest {
            nodes: vec![ManifestNode {
                id: 1,
                roles: vec![RoleName::Broker],
                pid: None,
                client: Some(Endpoint::loopback(9092)),
                internal: Endpoint::loopback(9093),
                config: "c".into(),
                data_dir: "d".into(),
                log: "l".into(),
            }],
        };
        manifest.set_pid(1, Some(42));
        manifest.store(directory.path()).unwrap();
        assert_eq!(Manifest::load(directory.path()).unwrap(), Some(manifest));
    }
}
