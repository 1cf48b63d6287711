//! A broker was given a block of producer ids.

use ottla_model::{BrokerEpoch, NodeId, ProducerId};

use super::RecordError;
use super::wire::WireRecord;

/// A broker was given every producer id from the previous `next_producer_id` up to this one,
/// exclusive (KIP-730).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerIdsAllocated {
    pub broker: NodeId,
    pub broker_epoch: BrokerEpoch,
    pub next_producer_id: ProducerId,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(int32, tag = "1")]
    broker: i32,
    #[prost(int64, tag = "2")]
    broker_epoch: i64,
    #[prost(int64, tag = "3")]
    next_producer_id: i64,
}

impl WireRecord for ProducerIdsAllocated {
    const ID: u32 = 11;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            broker: self.broker.0,
            broker_epoch: self.broker_epoch.0,
            next_producer_id: self.next_producer_id.0,
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<ProducerIdsAllocated, RecordError> {
        Ok(ProducerIdsAllocated {
            broker: NodeId(wire.broker),
            broker_epoch: BrokerEpoch(wire.broker_epoch),
            next_producer_id: ProducerId(wire.next_producer_id),
        })
    }
}
