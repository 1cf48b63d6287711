//! `Subscribe`: plain records out, of all partitions of a topic, wherever they are led.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::batch::{Record, decode_records, next_batch, validate_stored_batch};
use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, Offset, PartitionIndex, TopicId, TopicIdPartition};
use ottla_proto::status::{from_status, to_status};
use ottla_proto::v1;
use ottla_proto::v1::list_offsets_partition::Position;
use ottla_proto::v1::log_service_client::LogServiceClient;
use ottla_proto::v1::subscribe_request::From as Begin;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;
use tonic::transport::Channel;

use super::held_body::Held;
use super::publish::topic;
use super::unread::{FetchBudget, Unread};
use super::{fetch, list_offsets};
use crate::broker::Broker;
use crate::net::internal_channel;

/// The most bytes that one batch of records may unpack to.
const UNPACKED_MAX: usize = 64 * 1024 * 1024;
/// One partition's records read at a time, in bytes.
const READ_BYTES: u32 = 256 * 1024;
const MAX_WAIT_MS: u32 = 1_000;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Begins a subscription; the stream ends when the request says, or with the first error that
/// waiting does not mend.
pub fn subscribe(
    broker: Arc<Broker>,
    budget: FetchBudget,
    held: Held,
    request: v1::SubscribeRequest,
) -> Result<impl Stream<Item = Result<v1::SubscribeResponse, Status>> + Send + 'static, Status> {
    let (id, partitions) = check(&broker, &request).map_err(|error| to_status(&error))?;
    let (sender, mut receiver) = mpsc::channel(4);
    for index in partitions {
        let reader = Reader {
            broker: Arc::clone(&broker),
            topic: request.topic.clone(),
            id: TopicIdPartition::new(id, index),
            until_end: request.until_end,
            budget: budget.clone(),
        };
        tokio::spawn(reader.run(request.from, sender.clone()));
    }
    drop(sender);
    let mut left = match request.max_records {
        0 => u64::MAX,
        most => most,
    };
    Ok(async_stream::stream! {
        while left > 0 {
            match receiver.recv().await {
                Some(Ok((mut records, unread))) => {
                    records.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    left -= records.len() as u64;
                    held.hold(unread);
                    yield Ok(v1::SubscribeResponse { records });
                }
                Some(Err(error)) => {
                    yield Err(to_status(&error));
                    return;
                }
                None => return,
            }
        }
    })
}

fn check(
    broker: &Broker,
    request: &v1::SubscribeRequest,
) -> Result<(TopicId, Vec<PartitionIndex>), ApiError> {
    let image = broker.image.current();
    let topic = topic(&image, &request.topic)?;
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    let mut partitions: Vec<i32> = match request.partitions.is_empty() {
        true => (0..count).collect(),
        false => request.partitions.clone(),
    };
    partitions.sort_unstable();
    partitions.dedup();
    if let Some(index) = partitions.iter().find(|index| !(0..count).contains(*index)) {
        let message = format!(
            "topic '{}' has no partition {index}; it has {count}, counted from 0",
            topic.name
        );
        let error = ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
        return Err(error.in_field("partitions"));
    }
    Ok((
        topic.id,
        partitions.into_iter().map(PartitionIndex).collect(),
    ))
}

/// Reads one partition from its leader, following it when it moves.
struct Reader {
    broker: Arc<Broker>,
    topic: String,
    id: TopicIdPartition,
    until_end: bool,
    budget: FetchBudget,
}

type Records = Result<(Vec<v1::SubscribedRecord>, Unread), ApiError>;

impl Reader {
    async fn run(self, begin: Option<Begin>, sender: mpsc::Sender<Records>) {
        if let Err(error) = self.read(begin, &sender).await {
            // Nobody may be listening any more.
            let _ = sender.send(Err(error)).await;
        }
    }

    async fn read(
        &self,
        begin: Option<Begin>,
        sender: &mpsc::Sender<Records>,
    ) -> Result<(), ApiError> {
        let end = match self.until_end {
            true => Some(self.offset_at(Position::Latest(true), sender).await?),
            false => None,
        };
        let mut next = match begin {
            Some(Begin::Earliest(_)) => self.offset_at(Position::Earliest(true), sender).await?,
            Some(Begin::Offset(offset)) => Offset(offset),
            Some(Begin::TimestampMs(time)) => {
                self.offset_at(Position::TimestampMs(time), sender).await?
            }
            Some(Begin::Latest(_)) | None => self.offset_at(Position::Latest(true), sender).await?,
        };
        let mut clients = BTreeMap::new();
        while end.is_none_or(|end| next < end) && !sender.is_closed() {
            let result = match self.fetch(next, &mut clients).await {
                Ok(result) => result,
                Err(error) if error.code.is_retriable() => {
                    self.gone_or_pause().await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (records, after) = self.decode(&result.batches, next, end)?;
            if !records.is_empty() {
                let Some(unread) = self.unread(&records, sender).await? else {
                    return Ok(());
                };
                if sender.send(Ok((records, unread))).await.is_err() {
                    return Ok(());
                }
            }
            next = after;
        }
        Ok(())
    }

    /// The room that records take until their reader has them; waits for it. `None` if the reader
    /// is gone.
    async fn unread(
        &self,
        records: &[v1::SubscribedRecord],
        sender: &mpsc::Sender<Records>,
    ) -> Result<Option<Unread>, ApiError> {
        let bytes = records.iter().map(prost::Message::encoded_len).sum();
        loop {
            let reserved = tokio::select! {
                reserved = self.budget.reserve(bytes) => reserved,
                () = sender.closed() => return Ok(None),
            };
            match reserved {
                Ok(mut unread) => {
                    unread.answer(bytes);
                    return Ok(Some(unread));
                }
                Err(error) if error.code.is_retriable() => self.gone_or_pause().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the reading if the topic is gone; otherwise pauses before another try.
    async fn gone_or_pause(&self) -> Result<(), ApiError> {
        if self.broker.image.current().partition(self.id).is_none() {
            let message = format!("the topic '{}' was deleted", self.topic);
            return Err(ApiError::new(ErrorCode::UnknownTopicId, message));
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        Ok(())
    }

    fn named(&self) -> v1::TopicPartition {
        v1::TopicPartition {
            topic: self.topic.clone(),
            topic_id: Bytes::copy_from_slice(self.id.topic.as_bytes()),
            partition: self.id.partition.0,
        }
    }

    /// A client of the partition's leader, or `None` if that is this broker.
    fn leader(
        &self,
        clients: &mut BTreeMap<String, LogServiceClient<Channel>>,
    ) -> Result<Option<LogServiceClient<Channel>>, ApiError> {
        let image = self.broker.image.current();
        let leader = image
            .partition(self.id)
            .and_then(|partition| partition.leader);
        if leader == Some(self.broker.config.node_id) {
            return Ok(None);
        }
        let Some(broker) = leader.and_then(|leader| image.brokers.get(&leader)) else {
            let message = format!("partition {} has no leader now", self.id.partition);
            return Err(ApiError::new(ErrorCode::LeaderNotAvailable, message));
        };
        let endpoint = &broker.internal_endpoint;
        let client = clients
            .entry(endpoint.to_string())
            .or_insert_with(|| {
                LogServiceClient::new(internal_channel(endpoint))
                    .max_decoding_message_size(ottla_model::limits::CLIENT_MESSAGE_BYTES_MAX)
            })
            .clone();
        Ok(Some(client))
    }

    /// The offset of a position; waits while there is no leader that knows.
    async fn offset_at(
        &self,
        position: Position,
        sender: &mpsc::Sender<Records>,
    ) -> Result<Offset, ApiError> {
        let mut clients = BTreeMap::new();
        while !sender.is_closed() {
            let request = v1::ListOffsetsRequest {
                partitions: vec![v1::ListOffsetsPartition {
                    partition: Some(self.named()),
                    position: Some(position),
                    leader_epoch: None,
                }],
            };
            match self.list_offset(request, &mut clients).await {
                Ok(Some(offset)) => return Ok(offset),
                // No record is that young: begin at the next one to come.
                Ok(None) => return Box::pin(self.offset_at(Position::Latest(true), sender)).await,
                Err(error) if error.code.is_retriable() => self.gone_or_pause().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(Offset::ZERO)
    }

    async fn list_offset(
        &self,
        request: v1::ListOffsetsRequest,
        clients: &mut BTreeMap<String, LogServiceClient<Channel>>,
    ) -> Result<Option<Offset>, ApiError> {
        let response = match self.leader(clients)? {
            None => list_offsets::list_offsets(&self.broker, request).await,
            Some(mut client) => client.list_offsets(request).await.map(|r| r.into_inner()),
        };
        let response = response.map_err(|status| api_error(&status))?;
        match response.results.into_iter().next() {
            Some(v1::ListOffsetsResult {
                error: Some(error), ..
            }) => Err(ApiError::from(&error)),
            Some(result) => Ok(result.offset.map(Offset)),
            None => Err(ApiError::new(
                ErrorCode::UnknownServerError,
                "no result was given",
            )),
        }
    }

    async fn fetch(
        &self,
        from: Offset,
        clients: &mut BTreeMap<String, LogServiceClient<Channel>>,
    ) -> Result<v1::FetchResult, ApiError> {
        let request = v1::FetchRequest {
            request_id: 0,
            max_wait_ms: MAX_WAIT_MS,
            min_bytes: 1,
            max_bytes: READ_BYTES,
            partitions: vec![v1::FetchPartition {
                partition: Some(self.named()),
                offset: from.0,
                max_bytes: 0,
                leader_epoch: None,
            }],
        };
        let response = match self.leader(clients)? {
            None => {
                let budget = FetchBudget::of_call(&self.broker.unread, None);
                fetch::fetch(&self.broker, &request, &budget)
                    .await
                    .map(|fetched| fetched.response)
            }
            Some(mut client) => client
                .fetch_once(v1::FetchOnceRequest {
                    fetch: Some(request),
                })
                .await
                .map(|response| response.into_inner().fetch.unwrap_or_default()),
        };
        let response = response.map_err(|status| api_error(&status))?;
        match response.results.into_iter().next() {
            Some(v1::FetchResult {
                error: Some(error), ..
            }) => Err(ApiError::from(&error)),
            Some(result) => Ok(result),
            None => Ok(v1::FetchResult::default()),
        }
    }

    /// The records from `from` on and below `end`, and where to go on.
    fn decode(
        &self,
        batches: &Bytes,
        from: Offset,
        end: Option<Offset>,
    ) -> Result<(Vec<v1::SubscribedRecord>, Offset), ApiError> {
        let corrupt = |error: &dyn std::fmt::Display| {
            let message = format!(
                "partition {} behind offset {from}: {error}",
                self.id.partition
            );
            ApiError::new(ErrorCode::CorruptMessage, message)
        };
        let mut out = Vec::new();
        let mut next = from;
        let mut rest: &[u8] = batches;
        while !rest.is_empty() {
            let (header, batch, behind) = next_batch(rest).map_err(|error| corrupt(&error))?;
            validate_stored_batch(batch).map_err(|error| corrupt(&error))?;
            let batch = batches.slice_ref(batch);
            let records = decode_records(&batch, UNPACKED_MAX).map_err(|error| corrupt(&error))?;
            let wanted =
                |record: &Record| record.offset >= from && end.is_none_or(|e| record.offset < e);
            out.extend(
                records
                    .into_iter()
                    .filter(wanted)
                    .map(|record| plain(self.id.partition, record)),
            );
            next = next.max(header.next_offset());
            rest = behind;
        }
        Ok((out, next))
    }
}

fn api_error(status: &Status) -> ApiError {
    from_status(status)
        .unwrap_or_else(|| ApiError::new(ErrorCode::NetworkException, status.message()))
}

fn plain(partition: PartitionIndex, record: Record) -> v1::SubscribedRecord {
    let text = |bytes: &Option<Bytes>| {
        bytes
            .as_ref()
            .and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
    };
    let (key, value) = (text(&record.key), text(&record.value));
    v1::SubscribedRecord {
        partition: partition.0,
        offset: record.offset.0,
        timestamp_ms: record.timestamp.0,
        key_bytes: record.key.filter(|_| key.is_none()),
        key,
        value_bytes: record.value.filter(|_| value.is_none()),
        value,
        headers: record
            .headers
            .into_iter()
            .map(|header| {
                let value = text(&header.value);
                v1::PlainHeader {
                    key: header.key,
                    value_bytes: header.value.filter(|_| value.is_none()),
                    value: value.unwrap_or_default(),
                }
            })
            .collect(),
    }
}
