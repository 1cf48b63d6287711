//! A whole cluster on this machine: its shape, its ports, its files, and its nodes, in one process
//! or each in its own.

mod cluster;
mod manifest;
mod ports;
mod process;
mod shape;

pub use cluster::{DevCluster, DevOptions, Place, wait_healthy};
pub use manifest::{Manifest, ManifestNode};
pub use process::{kill_and_wait, spawn_detached};
pub use shape::Shape;
