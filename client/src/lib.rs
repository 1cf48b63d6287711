//! Rust client: admin, producer, consumer. Knows of the servers only what `ottla-proto` says on
//! the wire and what `ottla-model` calls it.
//!
//! A [`Client`] owns the connections and follows the cluster through `WatchCluster`, so that a
//! producer or consumer moves to a new leader when the cluster says so, not when a timer fires.
//! Groups and transactions are left out.

mod admin;
mod backoff;
mod client;
mod cluster;
mod config;
mod connection;
mod consumer;
mod error;
mod failure;
mod link;
mod links;
mod producer;
mod retry;
mod stream;

pub use admin::{Admin, BrokerTarget, ListedOffset, NewTopic, OffsetSpec, Trimmed};
pub use client::Client;
pub use cluster::{BrokerInfo, ClusterSnapshot, ControllerInfo, PartitionInfo, TopicInfo};
pub use config::ClientConfig;
pub use consumer::{AutoReset, ConsumedRecord, Consumer, ConsumerConfig, StartPosition, Trouble};
pub use error::{ClientError, ConsumeError, FailedAttempt, ProduceError};
pub use ottla_model::compression::Compression;
pub use ottla_model::error::Outcome;
pub use ottla_proto::v1;
pub use producer::{
    Acks, Delivered, DeliveryFuture, Producer, ProducerConfig, ProducerRecord, RecordHeader,
};
