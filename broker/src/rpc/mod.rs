//! The broker's gRPC services, one file per call or small group of calls. They check limits, find
//! partitions and convert; what happens is decided in the cores.

mod admin;
mod cluster;
mod delete_records;
mod disk_reads;
mod fetch;
mod held_body;
mod keys;
mod list_offsets;
mod log;
mod produce;
mod publish;
mod replica;
mod subscribe;
pub(crate) mod unread;
pub mod view;
mod watch;

pub use admin::AdminRpc;
pub use cluster::ClusterRpc;
pub use disk_reads::DiskReads;
pub use held_body::HoldUntilSent;
#[cfg(test)]
pub use held_body::encoded;
pub use log::LogRpc;
pub use replica::{ProbeIdentity, ReplicaRpc};
pub use unread::{Unread, UnreadRoom};
pub use watch::Watches;
