//! A topic came to be.

use ottla_model::TopicId;
use ottla_model::name::TopicName;

use super::RecordError;
use super::wire::{WireRecord, bad, uuid};

/// A topic came to be; its partitions follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicCreated {
    pub topic: TopicId,
    pub name: TopicName,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
}

impl WireRecord for TopicCreated {
    const ID: u32 = 5;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            topic: self.topic.as_bytes().to_vec(),
            name: self.name.as_str().to_owned(),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<TopicCreated, RecordError> {
        Ok(TopicCreated {
            topic: uuid(Self::ID, "topic", TopicId::from_slice, &wire.topic)?,
            name: TopicName::new(wire.name).map_err(|_| bad(Self::ID, "name"))?,
        })
    }
}
