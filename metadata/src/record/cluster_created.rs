//! The cluster was founded.

use ottla_model::ClusterId;

use super::RecordError;
use super::wire::{WireRecord, uuid};

/// The cluster was founded. The very first record of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterCreated {
    pub cluster_id: ClusterId,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    cluster_id: Vec<u8>,
}

impl WireRecord for ClusterCreated {
    const ID: u32 = 1;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            cluster_id: self.cluster_id.as_bytes().to_vec(),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<ClusterCreated, RecordError> {
        Ok(ClusterCreated {
            cluster_id: uuid(
                Self::ID,
                "cluster_id",
                ClusterId::from_slice,
                &wire.cluster_id,
            )?,
        })
    }
}
