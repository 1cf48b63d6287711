//! Finding offsets: each partition's leader is asked, those that share a leader in one call. Moves
//! with the leaders until the deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
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

/// How long a topic may be missing in the view although it exists before the caller is told.
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
    let mut asked = Asked::new(client, topic, topic_id, partitions);
    loop {
        let mut changes = client.view().subscribe();
        let left = deadline.saturating_duration_since(Instant::now());
        asked.ask_once(left.min(limit / 3)).await?;
        if let Some(error) = asked.failed.values().find(|error| !error.is_retriable()) {
            return Err(error.clone());
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

/// Asks each leader once, for at most `limit`; the partitions of one that does not answer keep the
/// others from nothing.
pub(super) async fn list_offsets_once(
    client: &Client,
    topic: &str,
    partitions: Vec<(PartitionIndex, OffsetSpec)>,
    limit: Duration,
) -> Result<BTreeMap<PartitionIndex, Result<ListedOffset, ClientError>>, ClientError> {
    let topic_id = find_topic(client, topic).await?;
    let mut asked = Asked::new(client, topic, topic_id, partitions);
    asked.ask_once(limit).await?;
    let unanswered = |index: &PartitionIndex| ClientError::TimedOut {
        what: format!("finding an offset of {topic}-{index}"),
        after: limit,
    };
    let mut all = BTreeMap::new();
    for index in asked.open.keys() {
        let error = asked.failed.remove(index);
        all.insert(*index, Err(error.unwrap_or_else(|| unanswered(index))));
    }
    all.extend(asked.found.into_iter().map(|(index, it)| (index, Ok(it))));
    Ok(all)
}

pub(super) async fn find_topic(client: &Client, topic: &str) -> Result<TopicId, ClientError> {
    let info = client.find_topic(topic, UNKNOWN_TOPIC_PATIENCE).await;
    info.map(|info| info.id).ok_or_else(|| {
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
    /// Why an open partition's offset was not found when it was asked for last.
    failed: BTreeMap<PartitionIndex, ClientError>,
}

impl<'a> Asked<'a> {
    fn new(
        client: &'a Client,
        topic: &'a str,
        topic_id: TopicId,
        partitions: Vec<(PartitionIndex, OffsetSpec)>,
    ) -> Asked<'a> {
        Asked {
            client,
            topic,
            topic_id,
            open: partitions.into_iter().collect(),
            found: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Asks the leaders of all open partitions at the same time, once.
    async fn ask_once(&mut self, limit: Duration) -> Result<(), ClientError> {
        let client = self.client;
        let asking = self.requests()?.into_iter().map(|(endpoint, request)| {
            let indexes: Vec<_> = indexes(&request).collect();
            async move { (indexes, ask(client, endpoint, request, limit).await) }
        });
        for (indexes, answer) in join_all(asking).await {
            match answer {
                Ok(response) => self.take(response),
                Err(error) => {
                    let failed = indexes.into_iter().map(|index| (index, error.clone()));
                    self.failed.extend(failed);
                }
            }
        }
        Ok(())
    }

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
                let error = ApiError::new(ErrorCode::LeaderNotAvailable, message);
                self.failed.insert(*index, ClientError::Api(error));
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

    fn take(&mut self, response: v1::ListOffsetsResponse) {
        for result in response.results {
            let Some(index) = result.partition.map(|p| PartitionIndex(p.partition)) else {
                continue;
            };
            if let Some(error) = &result.error {
                if let Some(hint) = &error.leader {
                    self.client.view().learn_leader(self.topic_id, index, hint);
                }
                let error = ClientError::Api(ApiError::from(error));
                self.failed.insert(index, error);
            } else if self.open.remove(&index).is_some() {
                self.failed.remove(&index);
                let listed = ListedOffset {
                    partition: index,
                    offset: result.offset.map(Offset),
                    timestamp: result.timestamp_ms.map(TimestampMs),
                    leader_epoch: LeaderEpoch(result.leader_epoch),
                };
                self.found.insert(index, listed);
            }
        }
    }

    fn into_error(self, after: Duration) -> ClientError {
        let last = self.failed.into_values().next_back();
        last.unwrap_or_else(|| ClientError::TimedOut {
            what: format!("listing the offsets of {}", self.topic),
            after,
        })
    }
}

/// The partitions that a request is about.
fn indexes(request: &v1::ListOffsetsRequest) -> impl Iterator<Item = PartitionIndex> {
    let partitions = request.partitions.iter();
    let named = partitions.filter_map(|it| it.partition.as_ref());
    named.map(|it| PartitionIndex(it.partition))
}

async fn ask(
    client: &Client,
    endpoint: String,
    request: v1::ListOffsetsRequest,
    limit: Duration,
) -> Result<v1::ListOffsetsResponse, ClientError> {
    let answer = async {
        let mut client = client.connections().log(&endpoint)?;
        let response = client.list_offsets(request).await;
        response.map_err(|status| Failure::classify(&status))
    };
    let failure = match timeout(limit, answer).await {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::Broken("no answer in time".to_owned()),
    };
    Err(ClientError::Api(match failure {
        Failure::Refused(error) => error,
        failure => {
            let message = format!("{endpoint}: {}", failure.reason());
            ApiError::new(ErrorCode::NetworkException, message)
        }
    }))
}
