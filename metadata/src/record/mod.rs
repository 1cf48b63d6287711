//! The facts that the cluster's metadata log is made of, and their bytes.
//!
//! A record is framed as two varints, its id and its version, before a protobuf body. Ids are
//! persisted and never reused; a changed body gets a new version. What a record does to the state
//! stands in `delta`, not here.

mod broker_changed;
mod broker_registered;
mod broker_unregistered;
mod cause;
mod cluster_created;
mod config_changed;
mod controller_activated;
mod controller_registered;
mod endpoint;
mod error;
mod feature_level_changed;
mod partition_changed;
mod partition_created;
mod producer_ids_allocated;
mod topic_created;
mod topic_deleted;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use broker_changed::BrokerChanged;
pub use broker_registered::BrokerRegistered;
pub use broker_unregistered::BrokerUnregistered;
pub use cause::Cause;
pub use cluster_created::ClusterCreated;
pub use config_changed::{ConfigChanged, ConfigResource};
pub use controller_activated::ControllerActivated;
pub use controller_registered::ControllerRegistered;
pub use endpoint::Endpoint;
pub use error::RecordError;
pub use feature_level_changed::FeatureLevelChanged;
pub use partition_changed::{LeaderChange, PartitionChanged};
pub use partition_created::PartitionCreated;
pub use producer_ids_allocated::ProducerIdsAllocated;
pub use topic_created::TopicCreated;
pub use topic_deleted::TopicDeleted;
use wire::{WireRecord, frame, open, unframe};

macro_rules! records {
    ($($name:ident),* $(,)?) => {
        /// One fact about the cluster. Nothing is true of the cluster that no record says.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum MetadataRecord {
            $($name($name),)*
        }

        $(impl From<$name> for MetadataRecord {
            fn from(record: $name) -> MetadataRecord {
                MetadataRecord::$name(record)
            }
        })*

        impl MetadataRecord {
            /// The name of the record's kind, for people.
            pub const fn kind(&self) -> &'static str {
                match self {
                    $(MetadataRecord::$name(_) => stringify!($name),)*
                }
            }

            /// The record's bytes, in its newest version.
            pub fn encode(&self) -> Bytes {
                match self {
                    $(MetadataRecord::$name(record) => frame(record),)*
                }
            }

            /// The record in these bytes. A record or version that this build does not know is an
            /// error: skipping it would let this node's state part from the others'.
            pub fn decode(bytes: &[u8]) -> Result<MetadataRecord, RecordError> {
                let (id, version, body) = unframe(bytes)?;
                match id {
                    $($name::ID => open::<$name>(version, body).map(MetadataRecord::$name),)*
                    _ => Err(RecordError::UnknownRecord { id, version }),
                }
            }
        }

        /// The persisted id of every record.
        #[cfg(test)]
        const IDS: &[(u32, &str)] = &[$(($name::ID, stringify!($name)),)*];
    };
}

records! {
    ClusterCreated,
    BrokerRegistered,
    BrokerChanged,
    BrokerUnregistered,
    TopicCreated,
    TopicDeleted,
    PartitionCreated,
    PartitionChanged,
    ConfigChanged,
    FeatureLevelChanged,
    ProducerIdsAllocated,
    ControllerRegistered,
    ControllerActivated,
}
