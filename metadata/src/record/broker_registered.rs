//! A broker process announced itself.

use ottla_model::{DirectoryId, IncarnationId, NodeId};

use super::endpoint::EndpointWire;
use super::wire::{WireRecord, uuid};
use super::{Endpoint, RecordError};

/// A broker process announced itself. A new incarnation starts fenced, and its broker epoch is
/// this record's metadata offset; the same incarnation again amends endpoints, rack and version
/// and keeps epoch and state (KIP-631).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRegistered {
    pub broker: NodeId,
    pub incarnation: IncarnationId,
    pub directory: DirectoryId,
    /// Where clients reach the broker.
    pub client_endpoint: Endpoint,
    /// Where other nodes reach the broker.
    pub internal_endpoint: Endpoint,
    pub rack: Option<String>,
    /// The version of the software.
    pub version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(int32, tag = "1")]
    broker: i32,
    #[prost(bytes = "vec", tag = "2")]
    incarnation: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    directory: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    client_endpoint: Option<EndpointWire>,
    #[prost(message, optional, tag = "5")]
    internal_endpoint: Option<EndpointWire>,
    #[prost(string, optional, tag = "6")]
    rack: Option<String>,
    #[prost(string, tag = "7")]
    version: String,
}

impl WireRecord for BrokerRegistered {
    const ID: u32 = 2;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            broker: self.broker.0,
            incarnation: self.incarnation.as_bytes().to_vec(),
            directory: self.directory.as_bytes().to_vec(),
            client_endpoint: EndpointWire::of(&self.client_endpoint),
            internal_endpoint: EndpointWire::of(&self.internal_endpoint),
            rack: self.rack.clone(),
            version: self.version.clone(),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<BrokerRegistered, RecordError> {
        Ok(BrokerRegistered {
            broker: NodeId(wire.broker),
            incarnation: uuid(
                Self::ID,
                "incarnation",
                IncarnationId::from_slice,
                &wire.incarnation,
            )?,
            directory: uuid(
                Self::ID,
                "directory",
                DirectoryId::from_slice,
                &wire.directory,
            )?,
            client_endpoint: EndpointWire::open(wire.client_endpoint, Self::ID, "client_endpoint")?,
            internal_endpoint: EndpointWire::open(
                wire.internal_endpoint,
                Self::ID,
                "internal_endpoint",
            )?,
            rack: wire.rack,
            version: wire.version,
        })
    }
}
