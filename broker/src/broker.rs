//! What the services of a running broker share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ottla_metadata::MetadataImage;
use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, LeaderEpoch, NodeId, PartitionIndex, TopicId, TopicIdPartition};
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_shell::Clock;
use tokio::sync::Semaphore;
use tonic::Status;

use crate::config::BrokerConfig;
use crate::controllers::Controllers;
use crate::disk_space::DiskSpace;
use crate::image::ImageStore;
use crate::manager::ReplicaManager;
use crate::producer_ids::ProducerIds;
use crate::registration::Registration;
use crate::replica::Replica;
use crate::replication::LeaderLinks;
use crate::rpc::{DiskReads, UnreadRoom, Watches};

/// The most bytes of batches whose producers wait for an answer.
pub const PRODUCE_BYTES_IN_FLIGHT: usize = 64 * 1024 * 1024;

/// How long a write waits for its replicas unless it says otherwise, and at most.
const WRITE_PATIENCE_DEFAULT: Duration = Duration::from_secs(30);
const WRITE_PATIENCE_MAX: Duration = Duration::from_secs(300);

/// How long a write waits for its replicas. Zero leaves it to the broker.
pub fn write_patience(timeout_ms: u32) -> Duration {
    match timeout_ms {
        0 => WRITE_PATIENCE_DEFAULT,
        ms => Duration::from_millis(u64::from(ms)).min(WRITE_PATIENCE_MAX),
    }
}

/// A broker that has recovered its logs.
pub struct Broker {
    pub config: BrokerConfig,
    pub clock: Clock,
    pub image: Arc<ImageStore>,
    pub manager: Arc<ReplicaManager>,
    pub controllers: Arc<Controllers>,
    pub registration: Arc<Registration>,
    pub leader_links: Arc<LeaderLinks>,
    pub space: Arc<DiskSpace>,
    pub producer_ids: ProducerIds,
    /// What was read for consumers and not taken by them yet.
    pub unread: Arc<UnreadRoom>,
    /// Room for requests of producers that are on their way.
    pub incoming: Arc<UnreadRoom>,
    /// Room for answers that producers have not taken.
    pub answers: Arc<UnreadRoom>,
    pub disk_reads: DiskReads,
    /// Who is told how the cluster changes.
    pub watches: Arc<Watches>,
    /// Bytes that producers may still have in flight.
    pub produce_bytes: Arc<Semaphore>,
}

/// The broker once it has recovered. The ports are open before, and say so.
#[derive(Clone, Default)]
pub struct BrokerCell(Arc<OnceLock<Arc<Broker>>>);

impl BrokerCell {
    pub fn set(&self, broker: Arc<Broker>) {
        // Set once, where the broker is put together.
        let _ = self.0.set(broker);
    }

    pub fn ready(&self) -> Option<&Arc<Broker>> {
        self.0.get()
    }

    /// The broker, or the refusal of a node that is still starting.
    pub fn get(&self) -> Result<&Arc<Broker>, Status> {
        let starting = |message| to_status(&ApiError::new(ErrorCode::NodeStarting, message));
        let Some(broker) = self.0.get() else {
            let message = "the node is starting: it recovers its logs; try again in a moment";
            return Err(starting(message));
        };
        // Without a copy of the metadata, nothing can be said of any topic, least of all that it
        // does not exist.
        if broker.image.current().cluster_id.is_none() {
            let message = "this broker knows nothing of its cluster yet, because no controller has \
                           answered it; check that a majority of the controllers is running";
            return Err(starting(message));
        }
        Ok(broker)
    }
}

/// A partition that a request names, found in the metadata.
pub struct Found {
    pub id: TopicIdPartition,
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
}

impl Broker {
    /// Finds the partition that a request names, by id where one is given.
    pub fn find(
        &self,
        image: &MetadataImage,
        named: &v1::TopicPartition,
    ) -> Result<Found, ApiError> {
        let unknown = |code, message: String| Err(ApiError::new(code, message));
        let topic = if named.topic_id.is_empty() {
            match image.topic_by_name(&named.topic) {
                Some(topic) => topic,
                None => {
                    let message = format!("there is no topic '{}'", named.topic);
                    return unknown(ErrorCode::UnknownTopicOrPartition, message);
                }
            }
        } else {
            let id = TopicId::from_slice(&named.topic_id);
            match id.and_then(|id| image.topic(id)) {
                Some(topic) => topic,
                None => {
                    let message =
                        format!("there is no topic with the id given for '{}'", named.topic);
                    return unknown(ErrorCode::UnknownTopicId, message);
                }
            }
        };
        let id = TopicIdPartition::new(topic.id, PartitionIndex(named.partition));
        match image.partition(id) {
            Some(partition) => Ok(Found {
                id,
                leader: partition.leader,
                leader_epoch: partition.leader_epoch,
            }),
            None => unknown(
                ErrorCode::UnknownTopicOrPartition,
                format!(
                    "topic '{}' has no partition {}; it has {} partitions, counted from 0",
                    topic.name,
                    named.partition,
                    topic.partitions.len()
                ),
            ),
        }
    }

    /// The replica here of a partition that a request names.
    pub fn replica(
        &self,
        image: &MetadataImage,
        named: &v1::TopicPartition,
    ) -> Result<Arc<Replica>, ApiError> {
        let found = self.find(image, named)?;
        self.manager.get(found.id).ok_or_else(|| {
            let message = match found.leader {
                Some(leader) => {
                    format!(
                        "broker {} leads {}-{}",
                        leader, named.topic, named.partition
                    )
                }
                None => format!("{}-{} has no leader now", named.topic, named.partition),
            };
            ApiError::new(ErrorCode::NotLeaderOrFollower, message)
        })
    }

    /// Adds to an error about leadership who leads now and where.
    pub fn add_leader_hint(&self, partition: &v1::TopicPartition, error: &mut v1::Error) {
        let about_leadership = [
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::FencedLeaderEpoch,
            ErrorCode::UnknownLeaderEpoch,
        ];
        if !about_leadership
            .iter()
            .any(|code| i32::from(code.number()) == error.code)
        {
            return;
        }
        let image = self.image.current();
        let Ok(found) = self.find(&image, partition) else {
            return;
        };
        error.leader = found.leader.and_then(|leader| {
            let broker = image.brokers.get(&leader)?;
            Some(v1::LeaderHint {
                node_id: leader.0,
                leader_epoch: found.leader_epoch.0,
                endpoint: Some(endpoint(&broker.client_endpoint)),
            })
        });
    }
}

/// An endpoint on the wire.
pub fn endpoint(endpoint: &ottla_metadata::Endpoint) -> v1::Endpoint {
    v1::Endpoint {
        host: endpoint.host.clone(),
        port: u32::from(endpoint.port),
    }
}

/// The time that a call may still take: its own `grpc-timeout`, or a default.
pub fn time_left<T>(request: &tonic::Request<T>, default: Duration) -> Duration {
    let header = request.metadata().get("grpc-timeout");
    let parsed = header.and_then(|value| parse_timeout(value.to_str().ok()?));
    parsed.unwrap_or(default).min(Duration::from_secs(120))
}

/// A gRPC timeout: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3_600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("3S"), Some(Duration::from_secs(3)));
        for text in ["", "S", "1x", "-1S"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }
}
