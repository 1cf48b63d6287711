//! A node as the cluster knows it.

use ottla_model::{BrokerEpoch, DirectoryId, IncarnationId, NodeId};

use crate::record::Endpoint;

/// A broker's current registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRegistration {
    pub broker: NodeId,
    /// The metadata offset of the registration record of this incarnation.
    pub epoch: BrokerEpoch,
    pub incarnation: IncarnationId,
    pub directory: DirectoryId,
    pub client_endpoint: Endpoint,
    pub internal_endpoint: Endpoint,
    pub rack: Option<String>,
    pub version: String,
    /// A fenced broker leads nothing and is in no ISR with another member.
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    /// The last epoch under which the broker was unfenced on this directory: what was committed
    /// until then may rest on the directory.
    pub served_epoch: Option<BrokerEpoch>,
}

impl BrokerRegistration {
    /// Whether the broker may lead or join an ISR (KIP-841).
    pub fn is_eligible(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }
}

/// Where a controller can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerRegistration {
    pub controller: NodeId,
    pub directory: DirectoryId,
    pub internal_endpoint: Endpoint,
    pub version: String,
}
