//! How many nodes a cluster on this machine has, which roles, and their configuration. Pure.

use std::fmt;
use std::path::Path;

use super::manifest::{Manifest, ManifestNode};
use crate::config::{ConfigFile, Endpoint};
use crate::config::{ControllerEntry, NodeSection, RoleName};
use crate::output::counted;

/// Which nodes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nodes that are controller and broker at once.
    Combined { nodes: u16 },
    /// Controllers and brokers apart.
    Isolated { controllers: u16, brokers: u16 },
}

impl Shape {
    /// The ids and roles, brokers and combined nodes first, so that they get the first ports.
    pub fn nodes(self) -> Vec<(i32, Vec<RoleName>)> {
        let ids = |from: u16, count: u16| (from..from + count).map(i32::from);
        match self {
            Shape::Combined { nodes } => ids(1, nodes)
                .map(|id| (id, vec![RoleName::Controller, RoleName::Broker]))
                .collect(),
            Shape::Isolated {
                controllers,
                brokers,
            } => {
                let brokers = ids(controllers + 1, brokers).map(|id| (id, vec![RoleName::Broker]));
                let controllers = ids(1, controllers).map(|id| (id, vec![RoleName::Controller]));
                brokers.chain(controllers).collect()
            }
        }
    }

    /// How many nodes there are.
    pub fn count(self) -> usize {
        match self {
            Shape::Combined { nodes } => usize::from(nodes),
            Shape::Isolated {
                controllers,
                brokers,
            } => usize::from(controllers) + usize::from(brokers),
        }
    }

    /// The shape that a cluster has.
    pub fn of(manifest: &Manifest) -> Shape {
        let count = |wanted: fn(&ManifestNode) -> bool| {
            let count = manifest.nodes.iter().filter(|node| wanted(node)).count();
            u16::try_from(count).unwrap_or(u16::MAX)
        };
        match count(|node| node.is_controller() && node.is_broker()) {
            0 => Shape::Isolated {
                controllers: count(ManifestNode::is_controller),
                brokers: count(ManifestNode::is_broker),
            },
            nodes => Shape::Combined { nodes },
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Shape::Combined { nodes } => f.write_str(&counted(nodes, "node")),
            Shape::Isolated {
                controllers,
                brokers,
            } => {
                let controllers = counted(controllers, "controller");
                write!(f, "{controllers} and {}", counted(brokers, "broker"))
            }
        }
    }
}

/// The cluster's description for a directory, with a client and an internal port for each node.
pub fn describe(shape: Shape, ports: &[(u16, u16)], directory: &Path) -> Manifest {
    let nodes = shape.nodes();
    assert_eq!(nodes.len(), ports.len(), "each node has its pair of ports");
    let node = |((id, roles), (client, internal)): ((i32, Vec<RoleName>), &(u16, u16))| {
        let home = directory.join(format!("node-{id}"));
        let is_broker = roles.contains(&RoleName::Broker);
        ManifestNode {
            id,
            roles,
            pid: None,
            client: is_broker.then(|| Endpoint::loopback(*client)),
            internal: Endpoint::loopback(*internal),
            config: home.join("ottla.toml"),
            data_dir: home.join("data"),
            log: home.join("node.log"),
        }
    };
    let mut nodes: Vec<ManifestNode> = nodes.into_iter().zip(ports).map(node).collect();
    nodes.sort_by_key(|node| node.id);
    Manifest { nodes }
}

/// The configuration file of one node of a cluster.
pub fn config_file(manifest: &Manifest, node: &ManifestNode) -> ConfigFile {
    let mut file = ConfigFile::for_node(NodeSection {
        id: node.id,
        roles: node.roles.clone(),
        data_dir: Some(node.data_dir.clone()),
        rack: None,
    });
    if let Some(client) = &node.client {
        file.listen.client = client.to_string();
    }
    file.listen.internal = node.internal.to_string();
    let controllers = manifest.nodes.iter().filter(|node| node.is_controller());
    file.controllers = controllers
        .map(|node| ControllerEntry {
            id: node.id,
            address: node.internal.to_string(),
        })
        .collect();
    // Several nodes share this machine, so each takes less of it.
    file.log.journal_file_bytes = 32 << 20;
    file.log.checkpoint_bytes = 128 << 20;
    file.log.tail_cache_bytes = 16 << 20;
    // They share a file system, too.
    let journals = manifest.brokers() as u64 * (2 * file.log.journal_file_bytes + (128 << 20));
    file.log.disk_reserve_bytes = journals.max(512 << 20);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NodeConfig, Overrides};

    #[test]
    fn every_node_of_every_shape_gets_a_valid_configuration() {
        let shapes = [
            Shape::Combined { nodes: 1 },
            Shape::Combined { nodes: 3 },
            Shape::Isolated {
                controllers: 3,
                brokers: 4,
            },
        ];
        for shape in shapes {
            let ports: Vec<_> = (0..shape.count() as u16)
                .map(|n| (9092 + 2 * n, 9093 + 2 * n))
                .collect();
            let manifest = describe(shape, &ports, Path::new("/tmp/cluster"));
            assert_eq!(Shape::of(&manifest), shape);
            for node in &manifest.nodes {
                let text = toml::to_string(&config_file(&manifest, node)).unwrap();
                let config = NodeConfig::parse(&node.config, &text, Overrides::default()).unwrap();
                assert_eq!(config.id.0, node.id);
                if let Some(client) = &node.client {
                    assert_eq!(config.advertise.client, *client);
                }
            }
        }
    }

    #[test]
    fn the_sizes_of_a_nodes_log_are_told_where_people_look() {
        let manifest = describe(
            Shape::Combined { nodes: 1 },
            &[(9092, 9093)],
            Path::new("d"),
        );
        let log = config_file(&manifest, &manifest.nodes[0]).log;
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        let page = std::fs::read_to_string(page).unwrap().replace('`', "");
        let program = <crate::args::Cli as clap::CommandFactory>::command();
        let dev = program.find_subcommand("dev").unwrap();
        let help = dev
            .get_long_about()
            .unwrap()
            .to_string()
            .replace(" is ", " ");
        for (key, bytes) in [
            ("journal_file_bytes", log.journal_file_bytes),
            ("checkpoint_bytes", log.checkpoint_bytes),
            ("tail_cache_bytes", log.tail_cache_bytes),
        ] {
            let said = format!("log.{key} {} MiB", bytes >> 20);
            assert!(
                page.contains(&said) && help.contains(&said),
                "{said}: {help}"
            );
        }
    }

    #[test]
    fn the_first_broker_has_the_first_port() {
        let shape = Shape::Isolated {
            controllers: 1,
            brokers: 1,
        };
        let manifest = describe(shape, &[(9092, 9093), (9094, 9095)], Path::new("d"));
        assert_eq!(manifest.bootstrap(), ["127.0.0.1:9092"]);
        assert_eq!(
            manifest.nodes[0].internal.port(),
            9095,
            "node 1 is the controller"
        );
        assert_eq!(manifest.nodes[0].client, None, "clients cannot use it");
        let json = serde_json::to_value(&manifest).unwrap();
        assert!(json["nodes"][0].get("client").is_none(), "{json}");
    }
}
