//! `Publish`: plain records in, batches to the partitions' leaders, here or elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_metadata::{MetadataImage, TopicImage};
use ottla_model::batch::{BatchBuilder, HEADER_BYTES, NewRecord};
use ottla_model::compression::Compression;
use ottla_model::error::ApiError;
use ottla_model::limits::RECORDS_PER_BATCH_MAX;
use ottla_model::partitioner::partition_for_key;
use ottla_model::{ErrorCode, NodeId, PartitionIndex, TimestampMs, TopicIdPartition};
use ottla_proto::status::{from_status, to_status};
use ottla_proto::v1;
use ottla_proto::v1::log_service_client::LogServiceClient;
use tonic::{Request, Status};

use super::produce;
use crate::broker::{Broker, time_left};
use crate::net::internal_channel;

const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);
/// Marks a call that another broker forwarded, which is not forwarded again.
const FORWARDED: &str = "ottla-forwarded";

/// The records of one partition, with their places in the request.
type Share<'a> = Vec<(usize, &'a v1::PlainRecord)>;

pub async fn publish(
    broker: &Arc<Broker>,
    request: Request<v1::PublishRequest>,
) -> Result<v1::PublishResponse, Status> {
    let patience = time_left(&request, DEFAULT_PATIENCE);
    let may_forward = request.metadata().get(FORWARDED).is_none();
    let request = request.into_inner();
    let image = broker.image.current();
    let shares = split(&image, &request).map_err(|error| to_status(&error))?;
    let mut placed = vec![None; request.records.len()];
    for (index, share) in shares {
        let one = One {
            broker,
            image: &image,
            request: &request,
            index,
            share: &share,
        };
        let base = one
            .publish(patience, may_forward)
            .await
            .map_err(|error| to_status(&error))?;
        for (offset, (place, _)) in (base..).zip(&share) {
            placed[*place] = Some(v1::PublishedRecord {
                partition: index.0,
                offset,
            });
        }
    }
    Ok(v1::PublishResponse {
        records: placed.into_iter().flatten().collect(),
    })
}

/// Which records go to which partition, in shares that each fit in a batch. Refuses what can be
/// refused by looking at it, before anything is appended.
fn split<'a>(
    image: &MetadataImage,
    request: &'a v1::PublishRequest,
) -> Result<Vec<(PartitionIndex, Share<'a>)>, ApiError> {
    let topic = topic(image, &request.topic)?;
    let count = request.records.len();
    if count == 0 || count > RECORDS_PER_BATCH_MAX {
        let message = format!("1 to {RECORDS_PER_BATCH_MAX} records are published, not {count}");
        return Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field("records"));
    }
    let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    if let Some(index) = request.partition
        && !(0..partitions).contains(&index)
    {
        let message = format!(
            "topic '{}' has no partition {index}; it has {partitions}, counted from 0",
            topic.name
        );
        let error = ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
        return Err(error.in_field("partition"));
    }
    // Records without key stay together, as a producer's batch would.
    let keyless = PartitionIndex(rand::random_range(0..partitions.max(1)));
    let limit = topic.config.max_message_bytes.saturating_sub(HEADER_BYTES);
    let mut shares: BTreeMap<PartitionIndex, Vec<(Share<'_>, usize)>> = BTreeMap::new();
    for (place, record) in request.records.iter().enumerate() {
        let bytes = bytes_at_most(record);
        check(place, record, bytes, limit)?;
        let index = match (request.partition, key_of(record)) {
            (Some(index), _) => PartitionIndex(index),
            (None, Some(key)) => partition_for_key(key, partitions),
            (None, None) => keyless,
        };
        let of_partition = shares.entry(index).or_default();
        match of_partition.last_mut() {
            Some((share, size)) if *size + bytes <= limit => {
                share.push((place, record));
                *size += bytes;
            }
            _ => of_partition.push((vec![(place, record)], bytes)),
        }
    }
    let flat = shares
        .into_iter()
        .flat_map(|(index, shares)| shares.into_iter().map(move |(share, _)| (index, share)));
    Ok(flat.collect())
}

fn check(
    place: usize,
    record: &v1::PlainRecord,
    bytes: usize,
    limit: usize,
) -> Result<(), ApiError> {
    let field = format!("records[{place}]");
    if bytes > limit {
        let message = format!(
            "record {place} takes up to {bytes} bytes in a batch; max.message.bytes leaves room for \
             {limit}"
        );
        return Err(ApiError::new(ErrorCode::MessageTooLarge, message).in_field(field));
    }
    if let Some(timestamp) = record.timestamp_ms.filter(|ms| *ms < 0) {
        let message = format!("record {place} has the negative timestamp {timestamp}");
        return Err(ApiError::new(ErrorCode::InvalidTimestamp, message).in_field(field));
    }
    Ok(())
}

/// The most bytes that a record takes in a batch: its parts, and ten for each number beside them.
fn bytes_at_most(record: &v1::PlainRecord) -> usize {
    let headers = record.headers.iter().map(|header| {
        let value = header
            .value_bytes
            .as_deref()
            .map_or(header.value.len(), <[u8]>::len);
        header.key.len() + value + 20
    });
    let key = key_of(record).map_or(0, <[u8]>::len);
    let value = value_of(record).map_or(0, <[u8]>::len);
    key + value + headers.sum::<usize>() + 70
}

pub(super) fn topic<'a>(image: &'a MetadataImage, name: &str) -> Result<&'a TopicImage, ApiError> {
    image.topic_by_name(name).ok_or_else(|| {
        let message = format!("there is no topic '{name}'");
        ApiError::new(ErrorCode::UnknownTopicOrPartition, message).in_field("topic")
    })
}

fn key_of(record: &v1::PlainRecord) -> Option<&[u8]> {
    match &record.key_bytes {
        Some(key) => Some(key),
        None => Some(record.key.as_bytes()).filter(|key| !key.is_empty()),
    }
}

fn value_of(record: &v1::PlainRecord) -> Option<&[u8]> {
    match &record.value_bytes {
        _ if record.null_value => None,
        Some(value) => Some(value),
        None => Some(record.value.as_bytes()),
    }
}

/// One partition's share of a request.
struct One<'a> {
    broker: &'a Arc<Broker>,
    image: &'a MetadataImage,
    request: &'a v1::PublishRequest,
    index: PartitionIndex,
    share: &'a Share<'a>,
}

impl One<'_> {
    /// Appends the share, and gives the offset of its first record.
    async fn publish(&self, patience: Duration, may_forward: bool) -> Result<i64, ApiError> {
        let topic = topic(self.image, &self.request.topic)?;
        let id = TopicIdPartition::new(topic.id, self.index);
        let leader = self
            .image
            .partition(id)
            .and_then(|partition| partition.leader);
        match leader {
            Some(leader) if leader != self.broker.config.node_id && may_forward => {
                self.forward(leader, patience).await
            }
            Some(_) => self.append(topic, patience).await,
            None => {
                let message = format!(
                    "partition {} of '{}' has no leader now",
                    self.index, topic.name
                );
                Err(ApiError::new(ErrorCode::LeaderNotAvailable, message))
            }
        }
    }

    async fn append(&self, topic: &TopicImage, patience: Duration) -> Result<i64, ApiError> {
        let named = v1::TopicPartition {
            topic: topic.name.to_string(),
            topic_id: Bytes::copy_from_slice(topic.id.as_bytes()),
            partition: self.index.0,
        };
        let timeout_ms = match self.request.timeout_ms {
            0 => u32::try_from(patience.as_millis()).unwrap_or(u32::MAX),
            ms => ms,
        };
        let request = v1::ProduceRequest {
            request_id: 0,
            acks: self.request.acks,
            timeout_ms,
            partitions: vec![v1::ProducePartition {
                partition: Some(named),
                leader_epoch: None,
                batch: self.batch()?,
            }],
        };
        let response = produce::once(self.broker, request).await?;
        match response.results.into_iter().next() {
            Some(v1::ProduceResult {
                error: None,
                base_offset,
                ..
            }) => Ok(base_offset),
            Some(v1::ProduceResult {
                error: Some(error), ..
            }) => Err(ApiError::from(&error)),
            None => Err(ApiError::new(
                ErrorCode::UnknownServerError,
                "no result was given",
            )),
        }
    }

    fn batch(&self) -> Result<Bytes, ApiError> {
        let wall = self.broker.clock.wall();
        let mut builder = BatchBuilder::new(Compression::None);
        let invalid = |message: String| ApiError::new(ErrorCode::InvalidRecord, message);
        for (_, record) in self.share {
            let headers: Vec<_> = record
                .headers
                .iter()
                .map(|header| {
                    let value = header
                        .value_bytes
                        .as_deref()
                        .unwrap_or(header.value.as_bytes());
                    (header.key.as_str(), Some(value))
                })
                .collect();
            let timestamp = record.timestamp_ms.map_or(wall, TimestampMs);
            builder
                .push(&NewRecord {
                    timestamp,
                    key: key_of(record),
                    value: value_of(record),
                    headers: &headers,
                })
                .map_err(|error| invalid(error.to_string()))?;
        }
        builder.build().map_err(|error| invalid(error.to_string()))
    }

    /// Has the leader publish the share.
    async fn forward(&self, leader: NodeId, patience: Duration) -> Result<i64, ApiError> {
        let Some(broker) = self.image.brokers.get(&leader) else {
            let message = format!("the leader, broker {leader}, is not registered");
            return Err(ApiError::new(ErrorCode::LeaderNotAvailable, message));
        };
        let mut request = Request::new(v1::PublishRequest {
            topic: self.request.topic.clone(),
            partition: Some(self.index.0),
            records: self
                .share
                .iter()
                .map(|(_, record)| (*record).clone())
                .collect(),
            acks: self.request.acks,
            timeout_ms: self.request.timeout_ms,
        });
        request.set_timeout(patience);
        request
            .metadata_mut()
            .insert(FORWARDED, tonic::metadata::MetadataValue::from_static("1"));
        let mut client = LogServiceClient::new(internal_channel(&broker.internal_endpoint));
        let response = client.publish(request).await.map_err(|status| {
            from_status(&status).unwrap_or_else(|| {
                let message = format!("the leader, broker {leader}, failed: {}", status.message());
                ApiError::new(ErrorCode::NetworkException, message)
            })
        })?;
        let first = response.into_inner().records.into_iter().next();
        first.map(|record| record.offset).ok_or_else(|| {
            ApiError::new(ErrorCode::UnknownServerError, "the leader gave no offset")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: usize, value: usize) -> v1::PlainRecord {
        v1::PlainRecord {
            key: "k".repeat(key),
            value: "v".repeat(value),
            headers: vec![v1::PlainHeader {
                key: "name".to_owned(),
                value: "text".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_batch_is_never_larger_than_its_records_were_estimated() {
        for (count, key, value) in [(1, 0, 0), (100, 3, 10), (1_000, 0, 1), (3, 500, 100_000)] {
            let mut builder = BatchBuilder::new(Compression::None);
            let records = vec![record(key, value); count];
            for (number, record) in records.iter().enumerate() {
                let headers = [("name", Some(&b"text"[..]))];
                let new = NewRecord {
                    timestamp: TimestampMs(number as i64 * 1_000_000),
                    key: key_of(record),
                    value: value_of(record),
                    headers: &headers,
                };
                builder.push(&new).unwrap();
            }
            let estimated: usize = records.iter().map(bytes_at_most).sum();
            let bytes = builder.build().unwrap().len();
            assert!(bytes <= estimated + HEADER_BYTES, "{bytes} {estimated}");
        }
    }

    #[test]
    fn what_can_never_be_appended_is_refused_by_its_place() {
        let large = record(0, 1_000);
        let refused = check(4, &large, bytes_at_most(&large), 500).unwrap_err();
        assert_eq!(refused.code, ErrorCode::MessageTooLarge);
        assert_eq!(refused.field.as_deref(), Some("records[4]"));
        let early = v1::PlainRecord {
            timestamp_ms: Some(-5),
            ..record(1, 1)
        };
        let refused = check(0, &early, 100, 500).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidTimestamp);
    }
}
