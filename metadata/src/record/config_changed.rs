//! A setting was given a value or returned to its default.

use ottla_model::TopicId;

use super::RecordError;
use super::wire::{WireRecord, uuid};

/// A setting was given a value, or with `None` returned to its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigChanged {
    pub resource: ConfigResource,
    pub name: String,
    pub value: Option<String>,
}

/// What a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    Topic(TopicId),
    /// The whole cluster: the default of every topic that does not set it.
    Cluster,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Wire {
    /// Absent for the cluster.
    #[prost(bytes = "vec", optional, tag = "1")]
    topic: Option<Vec<u8>>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, optional, tag = "3")]
    value: Option<String>,
}

impl WireRecord for ConfigChanged {
    const ID: u32 = 9;
    const VERSION: u32 = 0;
    type Wire = Wire;

    fn to_wire(&self) -> Wire {
        Wire {
            topic: match self.resource {
                ConfigResource::Topic(topic) => Some(topic.as_bytes().to_vec()),
                ConfigResource::Cluster => None,
            },
            name: self.name.clone(),
            value: self.value.clone(),
        }
    }

    fn from_wire(_version: u32, wire: Wire) -> Result<ConfigChanged, RecordError> {
        let resource = match wire.topic {
            Some(bytes) => {
                ConfigResource::Topic(uuid(Self::ID, "topic", TopicId::from_slice, &bytes)?)
            }
            None => ConfigResource::Cluster,
        };
        Ok(ConfigChanged {
            resource,
            name: wire.name,
            value: wire.value,
        })
    }
}
