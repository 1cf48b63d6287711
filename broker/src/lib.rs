//! The broker node: holds partitions, serves produce and fetch, replicates with other brokers and
//! follows the metadata log. A shell: what ISR, high watermark and sequences mean is decided in
//! `ottla-broker-core`.

pub mod broker;
mod compaction;
mod config;
mod controllers;
mod damage;
mod disk_space;
#[cfg(test)]
mod fixture;
pub mod identity;
mod image;
mod isr;
mod journal_room;
mod manager;
mod net;
mod node;
mod produce;
mod producer_ids;
mod producer_state;
mod registration;
mod replica;
mod replication;
mod rpc;
mod scrubber;
mod stop;
mod watcher;

pub use config::BrokerConfig;
pub use node::{BrokerNode, Fatal};
pub use rpc::ProbeIdentity;
pub use scrubber::ScrubPace;
