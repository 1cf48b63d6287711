//! Dropping the start of partitions: each partition's leader is asked, those that share a leader in
//! one call. Moves with the leaders until the deadline; asking twice does no harm, because every
//! offset is settled before the first time.

use std::collections::BTreeMap;
use std::time::Duration;

use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, Offset, PartitionIndex, TopicId};
use ottla_proto::v1;
use tokio::time::{Instant, timeout};

use super::offsets::{OffsetSpec, find_topic, list_offsets};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::ClientError;
use crate::failure::Failure;

/// How much longer than the leader the client waits.
const MARGIN: Duration = Duration::from_millis(500);

/// A partition whose start was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trimmed {
    pub partition: PartitionIndex,
    /// No replica that could lead has records before it.
    pub low_watermark: Offset,
}

pub(super) async fn delete_records(
    client: &Client,
    topic: &str,
    partitions: Vec<(PartitionIndex, Option<Offset>)>,
) -> Result<Vec<Trimmed>, ClientError> {
    let config = client.config();
    let limit = config.request_timeout;
    let deadline = Instant::now() + limit;
    let topic_id = find_topic(client, topic).await?;
    let mut backoff = Backoff::new(config.reconnect_backoff_min, config.reconnect_backoff_max);
    let mut asked = Asked {
        client,
        topic,
        topic_id,
        open: settle(client, topic, topic_id, partitions).await?,
        done: BTreeMap::new(),
        last_error: None,
    };
    loop {
        let mut changes = client.view().subscribe();
        for (endpoint, request) in asked.requests(deadline)? {
            asked.ask(endpoint, request, deadline).await?;
        }
        if asked.open.is_empty() {
            return Ok(asked.done.into_values().collect());
        }
        if Instant::now() >= deadline {
            return Err(asked.into_error(limit));
        }
        // Whichever is first: news of the leaders, or the wait after a failure.
        let _ = timeout(backoff.on_failure(), changes.changed()).await;
    }
}

/// Puts the high watermarks of now where no offset was given.
async fn settle(
    client: &Client,
    topic: &str,
    topic_id: TopicId,
    partitions: Vec<(PartitionIndex, Option<Offset>)>,
) -> Result<BTreeMap<PartitionIndex, Offset>, ClientError> {
    let mut settled = BTreeMap::new();
    let mut open = Vec::new();
    for (index, before) in partitions {
        match before {
            Some(offset) => drop(settled.insert(index, offset)),
            None => open.push((index, OffsetSpec::Latest)),
        }
    }
    if !open.is_empty() {
        for listed in list_offsets(client, topic, Some(topic_id), open).await? {
            settled.insert(listed.partition, listed.offset.unwrap_or(Offset::ZERO));
        }
    }
    Ok(settled)
}

struct Asked<'a> {
    client: &'a Client,
    topic: &'a str,
    topic_id: TopicId,
    open: BTreeMap<PartitionIndex, Offset>,
    done: BTreeMap<PartitionIndex, Trimmed>,
    last_error: Option<ApiError>,
}

impl Asked<'_> {
    /// One request for each leader of open partitions. Partitions without leader wait.
    fn requests(
        &mut self,
        deadline: Instant,
    ) -> Result<BTreeMap<String, v1::DeleteRecordsRequest>, ClientError> {
        let cluster = self.client.cluster();
        let left = deadline
            .saturating_duration_since(Instant::now())
            .saturating_sub(MARGIN)
            .max(MARGIN);
        let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        let mut requests: BTreeMap<String, v1::DeleteRecordsRequest> = BTreeMap::new();
        for (index, before) in &self.open {
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
            let request = requests.entry(leader.endpoint.clone()).or_default();
            request.timeout_ms = timeout_ms;
            request.partitions.push(v1::DeleteRecordsPartition {
                partition: Some(v1::TopicPartition {
                    topic: self.topic.to_owned(),
                    topic_id: self.topic_id.as_bytes().to_vec().into(),
                    partition: index.0,
                }),
                before_offset: before.0,
                leader_epoch: Some(epoch.0),
            });
        }
        Ok(requests)
    }

    async fn ask(
        &mut self,
        endpoint: String,
        request: v1::DeleteRecordsRequest,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = async {
            let mut client = self.client.connections().log(&endpoint)?;
            let response = client.delete_records(request).await;
            response.map_err(|status| Failure::classify(&status))
        };
        let failure = match timeout(left + MARGIN, answer).await {
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

    fn take(&mut self, response: v1::DeleteRecordsResponse) -> Result<(), ClientError> {
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
                let trimmed = Trimmed {
                    partition: index,
                    low_watermark: Offset(result.low_watermark),
                };
                self.done.insert(index, trimmed);
            }
        }
        Ok(())
    }

    fn into_error(self, after: Duration) -> ClientError {
        self.last_error.map_or(
            ClientError::TimedOut {
                what: format!("deleting records of {}", self.topic),
                after,
            },
            ClientError::Api,
        )
    }
}
