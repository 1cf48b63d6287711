//! A topic went.

use ottla_model::TopicId;

use super::RecordError;
use super::wire::{WireRecord, uuid};

/// A topic went, with its partitions and settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDeleted {
    pub topic: TopicId,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
}

impl WireRecord for TopicDeleted {
    const ID: u32 = 6;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            topic: self.topic.as_bytes().to_vec(),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<TopicDeleted, RecordError> {
        Ok(TopicDeleted {
            topic: uuid(Self::ID, "topic", TopicId::from_slice, &wire.topic)?,
        })
    }
}
