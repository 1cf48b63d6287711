//! Finding offsets: each partition's leader is asked, those that share a leader in one call. Moves
//! with the leaders until the deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId};
use ottla_proto::v1;
use ottla_proto::v1::list_offsets_partition::Position;
use tokio::time::{Instant, timeout};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::ClientError;
use crate::failure::Failure;

/// Which offset of a partition is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first that is kept.
    Earliest,
    /// That of the next record to become readable.
    Latest,
    /// That of the first record whose timestamp is not before this.
    Timestamp(TimestampMs),
}

/// An offset that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    pub partition: PartitionIndex,
    /// `None` if no record is at or after the timestamp.
    pub offset: Option<Offset>,
    pub timestamp: Option<TimestampMs>,
    pub leader_epoch: LeaderEpoch,
}

/// How long a topic may be unknown to the view before the caller is told.
const UNKNOWN_TOPIC_PATIENCE: Duration = Duration::from_millis(500);

pub(crate) async fn list_offsets(
    client: &Client,
    topic: &str,
    topic_id: Option<TopicId>,
    partitions: Vec<(PartitionIndex, OffsetSpec)>,
) -> Result<Vec<ListedOffset>, ClientError> {
    let config = client.config();
    let limit = config.request_timeout;
    let deadline = Instant::now() + limit;
    let topic_id = match topic_id {
        Some(id) => id,
        None => find_topic(client, topic).await?,
    };
    let mut backoff = Backoff::new(config.reconnect_backoff_min, config.reconnect_backoff_max);
    let mut asked = Asked {
        client,
        topic,
        topic_id,
        open: partitions.into_iter().collect(),
        found: BTreeMap::new(),
        last_error: None,
    };
    loop {
        let mut changes = client.view().subscribe();
        for (endpoint, request) in asked.requests()? {
            asked.ask(endpoint, request, deadline).await?;
        }
        if asked.open.is_empty() {
            return Ok(asked.found.into_values().collect());
        }
        if Instant::now() >= deadline {
            return Err(asked.into_error(limit));
        }
        // Whichever is first: news of the leaders, or the wait after a failure.
        let _ = timeout(backoff.on_failure(), changes.changed()).await;
    }
}

pub(super) async fn find_topic(client: &Client, topic: &str) -> Result<TopicId, ClientError> {
    let known = client.wait_for(
        |cluster| cluster.topic(topic).is_some(),
        UNKNOWN_TOPIC_PATIENCE,
    );
    let cluster = known.await.unwrap_or_else(|_| client.cluster());
    cluster.topic(topic).map(|info| info.id).ok_or_else(|| {
        let message = format!("there is no topic '{topic}'");
        ClientError::Api(ApiError::new(ErrorCode::UnknownTopicOrPartition, message))
    })
}

struct Asked<'a> {
    client: &'a Client,
    topic: &'a str,
    topic_id: TopicId,
    open: BTreeMap<PartitionIndex, OffsetSpec>,
    found: BTreeMap<PartitionIndex, ListedOffset>,
    last_error: Option<ApiError>,
}

impl Asked<'_> {
    /// One request for each leader of open partitions. Partitions without leader wait.
    fn requests(&mut self) -> Result<BTreeMap<String, v1::ListOffsetsRequest>, ClientError> {
        let cluster = self.client.cluster();
        let mut requests: BTreeMap<String, v1::ListOffsetsRequest> = BTreeMap::new();
        for (index, spec) in &self.open {
            if cluster.partition(self.topic_id, *index).is_none() {
                let message = format!("the topic '{}' has no partition {index}", self.topic);
                let error = ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
                return Err(ClientError::Api(error));
            }
            let Some((leader, epoch)) = cluster.leader(self.topic_id, *index) else {
                let message = format!("{}-{index} has no leader", self.topic);
                self.last_error = Some(ApiError::new(ErrorCode::LeaderNotAvailable, message));
                continue;
            };
            let partition = v1::ListOffsetsPartition {
                partition: Some(v1::TopicPartition {
                    topic: self.topic.to_owned(),
                    topic_id: self.topic_id.as_bytes().to_vec().into(),
                    partition: index.0,
                }),
                leader_epoch: Some(epoch.0),
                position: Some(match spec {
                    OffsetSpec::Earliest => Position::Earliest(true),
                    OffsetSpec::Latest => Position::Latest(true),
                    OffsetSpec::Timestamp(time) => Position::TimestampMs(time.0),
                }),
            };
            let request = requests.entry(leader.endpoint.clone()).or_default();
            request.partitions.push(partition);
        }
        Ok(requests)
    }

    async fn ask(
        &mut self,
        endpoint: String,
        request: v1::ListOffsetsRequest,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let limit = self.client.config().request_timeout / 3;
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = async {
            let mut client = self.client.connections().log(&endpoint)?;
            let response = client.list_offsets(request).await;
            response.map_err(|status| Failure::classify(&status))
        };
        let failure = match timeout(left.min(limit), answer).await {
            Ok(Ok(response)) => return self.take(response.into_inner()),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Broken(format!("{endpoint}: no answer in time")),
        };
        match failure {
            Failure::Refused(error) if !error.code.is_retriable() => Err(ClientError::Api(error)),
            Failure::Refused(error) => {
                self.last_error = Some(error);
                Ok(())
            }
            failure => {
                let message = format!("{endpoint}: {}", failure.reason());
                self.last_error = Some(ApiError::new(ErrorCode::NetworkException, message));
                Ok(())
            }
        }
    }

    fn take(&mut self, response: v1::ListOffsetsResponse) -> Result<(), ClientError> {
        for result in response.results {
            let Some(index) = result.partition.map(|p| PartitionIndex(p.partition)) else {
                continue;
            };
            if let Some(error) = &result.error {
                if let Some(hint) = &error.leader {
                    self.client.view().learn_leader(self.topic_id, index, hint);
                }
                let error = ApiError::from(error);
                if !error.code.is_retriable() {
                    return Err(ClientError::Api(error));
                }
                self.last_error = Some(error);
            } else if self.open.remove(&index).is_some() {
                let listed = ListedOffset {
                    partition: index,
                    offset: result.offset.map(Offset),
                    timestamp: result.timestamp_ms.map(TimestampMs),
                    leader_epoch: LeaderEpoch(result.leader_epoch),
                };
                self.found.insert(index, listed);
            }
        }
        Ok(())
    }

    fn into_error(self, after: Duration) -> ClientError {
        self.last_error.map_or(
            ClientError::TimedOut {
                what: format!("listing the offsets of {}", self.topic),
                after,
            },
            ClientError::Api,
        )
    }
}
