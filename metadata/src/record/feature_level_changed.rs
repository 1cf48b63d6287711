//! A cluster-wide feature was set to a level.

use super::RecordError;
use super::wire::{WireRecord, bad};

/// A cluster-wide feature was set to a level; 0 is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureLevelChanged {
    pub name: String,
    pub level: u16,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    level: u32,
}

impl WireRecord for FeatureLevelChanged {
    const ID: u32 = 10;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            name: self.name.clone(),
            level: u32::from(self.level),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<FeatureLevelChanged, RecordError> {
        Ok(FeatureLevelChanged {
            name: wire.name,
            level: u16::try_from(wire.level).map_err(|_| bad(Self::ID, "level"))?,
        })
    }
}
