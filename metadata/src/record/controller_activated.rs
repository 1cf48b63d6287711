//! A controller began to decide for the cluster.

use ottla_model::NodeId;

use super::RecordError;
use super::wire::WireRecord;

/// A controller began to decide for the cluster: the first record of its time as the active one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerActivated {
    pub controller: NodeId,
    /// Drawn at random each time, so that no two histories of a cluster have it in common unless
    /// they are the same up to here.
    pub activation_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(int32, tag = "1")]
    controller: i32,
    #[prost(fixed64, tag = "2")]
    activation_id: u64,
}

impl WireRecord for ControllerActivated {
    const ID: u32 = 13;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            controller: self.controller.0,
            activation_id: self.activation_id,
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<ControllerActivated, RecordError> {
        Ok(ControllerActivated {
            controller: NodeId(wire.controller),
            activation_id: wire.activation_id,
        })
    }
}
