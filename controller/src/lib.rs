//! The shell of a controller node: the quorum and its storage, the loop of the active controller,
//! liveness of brokers, and the services on the internal port. What is decided, and how a leader
//! or an in-sync replica set is chosen, is the core's.

mod active;
mod aside;
mod config;
mod connection;
mod dir_lock;
mod error;
pub mod feed;
pub mod history;
mod identity;
mod liveness;
mod node;
mod quorum;
mod rpc;

pub use active::{Decided, Decisions};
pub use config::{ControllerNodeConfig, QuorumConfig, Voter};
pub use error::{FatalError, StartError};
pub use node::{ControllerNode, ControllerStatus};
