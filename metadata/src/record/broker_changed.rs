//! A registered broker changed its state.

use ottla_model::{BrokerEpoch, NodeId};

use super::wire::WireRecord;
use super::{Cause, RecordError};

/// A registered broker was fenced or unfenced, or began its controlled shutdown. Absent fields
/// stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerChanged {
    pub broker: NodeId,
    pub broker_epoch: BrokerEpoch,
    pub fenced: Option<bool>,
    pub in_controlled_shutdown: Option<bool>,
    pub cause: Cause,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(int32, tag = "1")]
    broker: i32,
    #[prost(int64, tag = "2")]
    broker_epoch: i64,
    #[prost(bool, optional, tag = "3")]
    fenced: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    in_controlled_shutdown: Option<bool>,
    #[prost(int32, tag = "5")]
    cause: i32,
}

impl WireRecord for BrokerChanged {
    const ID: u32 = 3;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            broker: self.broker.0,
            broker_epoch: self.broker_epoch.0,
            fenced: self.fenced,
            in_controlled_shutdown: self.in_controlled_shutdown,
            cause: self.cause.number(),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<BrokerChanged, RecordError> {
        Ok(BrokerChanged {
            broker: NodeId(wire.broker),
            broker_epoch: BrokerEpoch(wire.broker_epoch),
            fenced: wire.fenced,
            in_controlled_shutdown: wire.in_controlled_shutdown,
            cause: Cause::from_number(wire.cause),
        })
    }
}
