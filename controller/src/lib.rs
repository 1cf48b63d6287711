//! The controller node: takes part in the quorum, decides while active, feeds the metadata to
//! watchers, and looks after brokers' liveness. A shell: how a leader or an ISR is chosen is
//! decided in `ottla-controller-core`.

mod active;
mod clock;
mod feed;
mod node;
mod probe;
pub mod quorum;
mod rpc;
mod sessions;

pub use node::{ControllerNode, ControllerNodeConfig};
pub use quorum::StartError;
