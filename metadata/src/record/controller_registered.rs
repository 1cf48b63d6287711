//! A controller announced where it can be reached.

use ottla_model::{DirectoryId, NodeId};

use super::endpoint::EndpointWire;
use super::wire::{WireRecord, uuid};
use super::{Endpoint, RecordError};

/// A controller announced where it can be reached (KIP-919).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerRegistered {
    pub controller: NodeId,
    pub directory: DirectoryId,
    pub internal_endpoint: Endpoint,
    /// The version of the software.
    pub version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(int32, tag = "1")]
    controller: i32,
    #[prost(bytes = "vec", tag = "2")]
    directory: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    internal_endpoint: Option<EndpointWire>,
    #[prost(string, tag = "4")]
    version: String,
}

impl WireRecord for ControllerRegistered {
    const ID: u32 = 12;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            controller: self.controller.0,
            directory: self.directory.as_bytes().to_vec(),
            internal_endpoint: EndpointWire::of(&self.internal_endpoint),
            version: self.version.clone(),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<ControllerRegistered, RecordError> {
        Ok(ControllerRegistered {
            controller: NodeId(wire.controller),
            directory: uuid(
                Self::ID,
                "directory",
                DirectoryId::from_slice,
                &wire.directory,
            )?,
            internal_endpoint: EndpointWire::open(
                wire.internal_endpoint,
                Self::ID,
                "internal_endpoint",
            )?,
            version: wire.version,
        })
    }
}
