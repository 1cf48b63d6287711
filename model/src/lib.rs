//! The words every part of Ottla shares: ids, epochs, offsets, names, limits, error codes and the
//! record batch. Knows nothing of sockets, files, clocks or configuration.

pub mod batch;
pub mod checksum;
pub mod compression;
pub mod config;
pub mod error;
pub mod ids;
pub mod limits;
pub mod name;
pub mod offset;
pub mod partitioner;
pub mod time;

pub use error::ErrorCode;
pub use ids::{
    BrokerEpoch, ClusterId, DirectoryId, IncarnationId, LeaderEpoch, NodeId, PartitionEpoch,
    PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicIdPartition,
};
pub use name::TopicName;
pub use offset::{MetadataOffset, Offset};
pub use time::{Instant, TimestampMs};
