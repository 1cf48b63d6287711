//! A broker left the cluster for good.

use ottla_model::{BrokerEpoch, NodeId};

use super::RecordError;
use super::wire::WireRecord;

/// A broker left the cluster for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUnregistered {
    pub broker: NodeId,
    pub broker_epoch: BrokerEpoch,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(int32, tag = "1")]
    broker: i32,
    #[prost(int64, tag = "2")]
    broker_epoch: i64,
}

impl WireRecord for BrokerUnregistered {
    const ID: u32 = 4;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            broker: self.broker.0,
            broker_epoch: self.broker_epoch.0,
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<BrokerUnregistered, RecordError> {
        Ok(BrokerUnregistered {
            broker: NodeId(wire.broker),
            broker_epoch: BrokerEpoch(wire.broker_epoch),
        })
    }
}
