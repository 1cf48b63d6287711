//! What the cluster is: the records of its metadata log, the image they add up to, what a delta
//! changed, and the snapshot an image is kept as. Pure: it knows no time, no quorum, no file and
//! not which node it runs on.

pub mod batch;
pub mod delta;
pub mod image;
pub mod record;
pub mod snapshot;

#[cfg(test)]
mod properties;

pub use batch::MetadataBatch;
pub use delta::{MetadataDelta, ReplayError};
pub use image::{
    Activation, Activations, BrokerRegistration, ControllerRegistration, MetadataImage,
    PartitionImage, TopicImage, Topics,
};
pub use record::{
    BrokerChanged, BrokerRegistered, BrokerUnregistered, Cause, ClusterCreated, ConfigChanged,
    ConfigResource, ControllerActivated, ControllerRegistered, Endpoint, FeatureLevelChanged,
    LeaderChange, MetadataRecord, PartitionChanged, PartitionCreated, ProducerIdsAllocated,
    RecordError, TopicCreated, TopicDeleted,
};
pub use snapshot::{decode_snapshot, encode_snapshot, snapshot_from_bytes, snapshot_to_bytes};
