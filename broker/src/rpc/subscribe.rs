//! `Subscribe`: plain records out, of all partitions of a topic, wherever they are led.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::batch::{Record, StoredBatchError, next_batch, read_stored_batch};
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
use super::unread::{CallBudget, Unread};
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
    budget: CallBudget,
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
    budget: CallBudget,
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
            let decoded = decode(&self.topic, self.id.partition, &result.batches, next, end);
            if !decoded.records.is_empty() {
                let Some(unread) = self.unread(&decoded.records, sender).await? else {
                    return Ok(());
                };
                if sender.send(Ok((decoded.records, unread))).await.is_err() {
                    return Ok(());
                }
            }
            if let Some(error) = decoded.failure {
                return Err(error);
            }
            next = decoded.next;
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
                let budget = CallBudget::of_call(&self.broker.unread, None);
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
}

/// What fetched batches give.
#[derive(Debug)]
struct Decoded {
    records: Vec<v1::SubscribedRecord>,
    /// Where to go on.
    next: Offset,
    /// Why nothing behind the records can be read.
    failure: Option<ApiError>,
}

/// The records from `from` on and below `end`, up to the first batch that gives none because of
/// what it is. Nothing at or behind the end is looked at.
fn decode(
    topic: &str,
    partition: PartitionIndex,
    batches: &Bytes,
    from: Offset,
    end: Option<Offset>,
) -> Decoded {
    let mut decoded = Decoded {
        records: Vec::new(),
        next: from,
        failure: None,
    };
    let corrupt = |error: &dyn std::fmt::Display| {
        let message = format!("cannot read {topic}-{partition} on: {error}");
        Some(ApiError::new(ErrorCode::CorruptMessage, message))
    };
    let damaged = |at: Offset, error: &dyn std::fmt::Display| {
        corrupt(&format!("the records at offset {at} are damaged: {error}"))
    };
    let mut rest: &[u8] = batches;
    while !rest.is_empty() && end.is_none_or(|end| decoded.next < end) {
        let (header, batch, behind) = match next_batch(rest) {
            Ok(split) => split,
            Err(error) => {
                decoded.failure = damaged(decoded.next, &error);
                return decoded;
            }
        };
        rest = behind;
        if header.next_offset() <= decoded.next {
            continue;
        }
        let records = match read_stored_batch(&batches.slice_ref(batch), UNPACKED_MAX) {
            Ok((_, records)) => records,
            Err(error) => {
                decoded.failure = match error {
                    StoredBatchError::Unpackable(batch) => corrupt(&batch),
                    StoredBatchError::Damaged(error) => damaged(decoded.next, &error),
                };
                return decoded;
            }
        };
        let wanted =
            |record: &Record| record.offset >= from && end.is_none_or(|end| record.offset < end);
        let records = records.into_iter().filter(wanted);
        let records = records.map(|record| plain(partition, record));
        decoded.records.extend(records);
        decoded.next = header.next_offset();
    }
    decoded
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

#[cfg(test)]
mod tests {
    use ottla_model::LeaderEpoch;
    use ottla_model::batch::{BatchBuilder, NewRecord, stamp};
    use ottla_model::compression::Compression;

    use super::*;

    /// A batch of so many records at this offset.
    fn batch(base: i64, count: usize, compression: Compression) -> Vec<u8> {
        let mut builder = BatchBuilder::new(compression);
        for _ in 0..count {
            builder.push(&NewRecord::default()).expect("room");
        }
        let mut batch = builder.build().expect("a batch").to_vec();
        stamp(&mut batch, Offset(base), LeaderEpoch(0), None);
        batch
    }

    fn sealed(mut batch: Vec<u8>) -> Vec<u8> {
        let length = i32::try_from(batch.len() - 12).expect("a size");
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc_of(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    fn crc_of(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
            })
        })
    }

    /// Three records at this offset, the compressed part of which is garbage.
    fn unpackable(base: i64) -> Vec<u8> {
        let mut batch = batch(base, 3, Compression::Gzip);
        batch[61..].fill(7);
        sealed(batch)
    }

    /// One record at this offset that claims the one which is so much further.
    fn claiming(base: i64, offset_delta: u8) -> Vec<u8> {
        let mut bytes = batch(base, 1, Compression::None);
        // Length, attributes, timestamp delta; then the offset delta in zigzag.
        bytes[61 + 3] = 2 * offset_delta;
        let records = bytes.split_off(61);
        Compression::Gzip
            .compress(&records, &mut bytes)
            .expect("packed");
        bytes[22] |= Compression::Gzip.id();
        sealed(bytes)
    }

    fn read(batches: Vec<u8>, from: i64, end: Option<i64>) -> (Vec<i64>, i64, Option<String>) {
        let batches = Bytes::from(batches);
        let decoded = decode(
            "t",
            PartitionIndex(4),
            &batches,
            Offset(from),
            end.map(Offset),
        );
        let offsets = decoded.records.iter().map(|it| it.offset).collect();
        let failure = decoded.failure.map(|error| error.message);
        (offsets, decoded.next.0, failure)
    }

    #[test]
    fn what_stands_before_a_batch_that_cannot_be_unpacked_comes_first_then_what_is_wrong() {
        let batches = [batch(0, 2, Compression::None), unpackable(2)].concat();
        let (offsets, _, failure) = read(batches.clone(), 1, None);
        assert_eq!(offsets, [1]);
        let failure = failure.expect("a failure");
        for part in ["t-4", "offsets 2 to 4", "gzip", "go on at offset 5"] {
            assert!(failure.contains(part), "no {part:?} in {failure}");
        }
        // Nothing behind the end is looked at, nor anything before the beginning.
        assert_eq!(read(batches.clone(), 0, Some(2)), (vec![0, 1], 2, None));
        let batches = [unpackable(2), batch(5, 1, Compression::None)].concat();
        assert_eq!(read(batches, 5, None), (vec![5], 6, None));
    }

    #[test]
    fn a_record_that_claims_an_offset_of_another_batch_is_not_delivered() {
        let batches = [claiming(0, 5), batch(1, 1, Compression::None)].concat();
        let (offsets, next, failure) = read(batches, 0, None);
        assert_eq!((offsets, next), (Vec::new(), 0));
        let failure = failure.expect("a failure");
        assert!(failure.contains("record 0 has offset 5"), "{failure}");
        assert!(failure.contains("go on at offset 1"), "{failure}");
    }
}
