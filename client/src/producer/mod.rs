//! Writing records: batches per partition, pipelined to the leaders, retried without duplicates.
//!
//! [`Producer::send`] puts a record into its partition's batch; a task of its own, the driver,
//! sends
//! what is ready. The decisions stand in pure parts: `accumulator` (what is ready), `partition`
//! (what an answer means) and `sender` (what goes where).

mod accumulator;
mod batch;
mod buffer;
mod completion;
mod config;
mod driver;
mod partition;
mod sender;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ottla_model::batch::NewRecord;
use ottla_model::limits::BATCH_BYTES_MAX;
use ottla_model::partitioner::partition_for_key;
use ottla_model::{ErrorCode, PartitionIndex, TimestampMs, TopicIdPartition};
use ottla_proto::v1;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use completion::{Delivered, DeliveryFuture};
pub use config::{Acks, ProducerConfig};

use self::accumulator::Accumulator;
use self::buffer::Buffer;
use self::driver::Driver;
use self::sender::SenderSettings;
use crate::backoff::Backoff;
use crate::client::Client;
use crate::cluster::TopicInfo;
use crate::error::ProduceError;

/// What a record's framing takes at most: length, attributes, deltas, lengths of key, value and
/// header list.
const RECORD_OVERHEAD: usize = 36;
/// What a header's framing takes at most.
const HEADER_OVERHEAD: usize = 10;

/// A header of a record. Keys may repeat and their order counts.
pub type RecordHeader = ottla_model::batch::Header;

/// A record to be written.
#[derive(Debug, Clone, Default)]
pub struct ProducerRecord {
    /// The name. Shared, so that many records of one topic can be made without a copy of it.
    pub topic: Arc<str>,
    /// `None`: by key as Kafka's clients do, and without key whichever suits.
    pub partition: Option<PartitionIndex>,
    pub key: Option<Bytes>,
    /// `None` is a tombstone on a compacted topic.
    pub value: Option<Bytes>,
    pub headers: Vec<RecordHeader>,
    /// `None`: now.
    pub timestamp: Option<TimestampMs>,
}

impl ProducerRecord {
    pub fn new(topic: impl Into<Arc<str>>, value: impl Into<Bytes>) -> ProducerRecord {
        ProducerRecord {
            topic: topic.into(),
            value: Some(value.into()),
            ..ProducerRecord::default()
        }
    }

    #[must_use]
    pub fn with_key(mut self, key: impl Into<Bytes>) -> ProducerRecord {
        self.key = Some(key.into());
        self
    }

    #[must_use]
    pub fn to_partition(mut self, partition: PartitionIndex) -> ProducerRecord {
        self.partition = Some(partition);
        self
    }

    /// About what it takes in a batch, never less.
    fn bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let header = |h: &RecordHeader| HEADER_OVERHEAD + h.key.len() + length(&h.value);
        let headers: usize = self.headers.iter().map(header).sum();
        RECORD_OVERHEAD + length(&self.key) + length(&self.value) + headers
    }
}

/// Writes records. Cheap to clone; records of all clones share batches. When the last clone is
/// dropped without [`Producer::close`], what is not acknowledged by then fails.
#[derive(Debug, Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    config: ProducerConfig,
    buffer: Arc<Buffer>,
    driver: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Producer {
    pub(crate) fn start(client: Client, config: ProducerConfig) -> Producer {
        let config = config.within_limits();
        let accumulator = Accumulator::new(
            config.linger,
            config.batch_bytes,
            config.compression,
            rand::random(),
        );
        let buffer = Arc::new(Buffer::new(accumulator, config.buffer_bytes));
        let client_config = client.config();
        let settings = SenderSettings {
            acks: match config.acks {
                Acks::None => v1::Acks::None,
                Acks::Leader => v1::Acks::Leader,
                Acks::All => v1::Acks::All,
            },
            idempotent: config.idempotent,
            window: config.max_in_flight,
            request_bytes: config.request_bytes,
            request_timeout: client_config.request_timeout,
            delivery_timeout: config.delivery_timeout,
            retry_backoff: Backoff::new(config.retry_backoff_min, config.retry_backoff_max),
            reconnect_backoff: Backoff::new(
                client_config.reconnect_backoff_min,
                client_config.reconnect_backoff_max,
            ),
        };
        let driver = Driver::new(client.clone(), Arc::clone(&buffer), settings);
        let driver = tokio::spawn(driver.run(config.delivery_timeout));
        Producer {
            shared: Arc::new(Shared {
                client,
                config,
                buffer,
                driver,
            }),
        }
    }

    /// Hands a record over. Waits only for the topic to be known and for room in the buffer; the
    /// future returned tells what became of the record. Records of one partition are written in
    /// the order in which they were handed over.
    ///
    /// # Errors
    /// Always definite: the record was not taken.
    pub async fn send(&self, record: ProducerRecord) -> Result<DeliveryFuture, ProduceError> {
        let size = record.bytes();
        self.check(&record, size)?;
        let topic = self.topic(&record.topic).await?;
        self.reserve(size).await?;
        let appended = self.append(&topic, &record, size);
        if appended.is_err() {
            self.shared.buffer.give_back(size);
        }
        appended
    }

    fn check(&self, record: &ProducerRecord, size: usize) -> Result<(), ProduceError> {
        let most = BATCH_BYTES_MAX.min(self.shared.config.buffer_bytes);
        if size > most {
            let message = format!("the record has about {size} bytes; at most {most} are allowed");
            return Err(ProduceError::definite(ErrorCode::MessageTooLarge, message));
        }
        match record.timestamp {
            Some(time) if time.0 < 0 => {
                let message = format!("the timestamp {time} is before 1970");
                Err(ProduceError::definite(ErrorCode::InvalidTimestamp, message))
            }
            _ => Ok(()),
        }
    }

    async fn topic(&self, name: &str) -> Result<Arc<TopicInfo>, ProduceError> {
        let client = &self.shared.client;
        let topic = client.find_topic(name, self.shared.config.topic_wait).await;
        topic.ok_or_else(|| {
            let message = format!("there is no topic '{name}'; create it first");
            ProduceError::definite(ErrorCode::UnknownTopicOrPartition, message)
        })
    }

    async fn reserve(&self, size: usize) -> Result<(), ProduceError> {
        // Almost always there is room, and no clock to be asked.
        if self.shared.buffer.try_reserve(size) {
            return Ok(());
        }
        let limit = self.shared.config.delivery_timeout;
        match timeout(limit, self.shared.buffer.reserve(size)).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let message = "the producer is closed";
                Err(ProduceError::definite(ErrorCode::InvalidRequest, message))
            }
            Err(_) => {
                let message = format!("no room in the producer's buffer within {limit:?}");
                Err(ProduceError::definite(ErrorCode::RequestTimedOut, message))
            }
        }
    }

    fn append(
        &self,
        topic: &TopicInfo,
        record: &ProducerRecord,
        size: usize,
    ) -> Result<DeliveryFuture, ProduceError> {
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|h| (h.key.as_str(), h.value.as_deref()))
            .collect();
        let new = NewRecord {
            timestamp: record.timestamp.unwrap_or_else(wall_clock),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        };
        let buffer = &self.shared.buffer;
        let now = || buffer.now();
        let appended = buffer.with(|accumulator| {
            let partition = choose_partition(accumulator, topic, record, size)?;
            let to = TopicIdPartition::new(topic.id, partition);
            accumulator.append(now, to, &new, size).map_err(|error| {
                let message = format!("the record does not fit a batch: {error}");
                ProduceError::definite(ErrorCode::InvalidRecord, message)
            })
        })?;
        if appended.wake {
            buffer.wake();
        }
        Ok(DeliveryFuture::new(appended.completion, appended.index))
    }

    /// Sends all open batches now and waits until every record handed over before has its outcome,
    /// which the delivery timeout bounds.
    pub async fn flush(&self) {
        let incomplete = self.shared.buffer.with(Accumulator::flush);
        self.shared.buffer.wake();
        for completion in incomplete {
            completion.done().await;
        }
    }

    /// Takes no more records, of any clone, and waits for the outcome of those it has.
    pub async fn close(self) {
        self.shared.buffer.close();
        self.flush().await;
    }

    /// The settings in force.
    pub fn config(&self) -> &ProducerConfig {
        &self.shared.config
    }
}

fn choose_partition(
    accumulator: &mut Accumulator,
    topic: &TopicInfo,
    record: &ProducerRecord,
    size: usize,
) -> Result<PartitionIndex, ProduceError> {
    let count = topic.partition_count();
    let unknown = |message: String| {
        Err(ProduceError::definite(
            ErrorCode::UnknownTopicOrPartition,
            message,
        ))
    };
    if count == 0 {
        return unknown(format!("the topic '{}' has no partitions", topic.name));
    }
    if let Some(partition) = record.partition {
        if topic.partition(partition).is_none() {
            let name = &topic.name;
            return unknown(format!("the topic '{name}' has no partition {partition}"));
        }
        return Ok(partition);
    }
    if let Some(key) = &record.key {
        return Ok(partition_for_key(key, count));
    }
    // Partitions with a leader, as long as there are any.
    let led = |index| topic.partition(index).is_some_and(|p| p.leader.is_some());
    let picked = accumulator.sticky_partition(topic.id, size, count, led);
    Ok(picked.unwrap_or(topic.partitions[0].partition))
}

fn wall_clock() -> TimestampMs {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
