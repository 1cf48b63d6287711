//! Reading records of assigned partitions. Groups are left out.
//!
//! Nothing runs in the background but the streams: each [`Consumer::poll`] takes what came, asks
//! for more, so that it is on its way while the application works, and hands out records. The
//! decisions stand in pure parts: `position` (one partition) and `fetcher` (what is asked of whom).

mod config;
mod fetcher;
mod memory;
mod position;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::error::ApiError;
use ottla_model::{
    ErrorCode, Instant, Offset, PartitionIndex, TimestampMs, TopicId, TopicIdPartition,
};
use ottla_proto::messages::FETCH_PATH;
use ottla_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout_at};

pub use config::{AutoReset, ConsumerConfig};

use self::fetcher::{Effect, FETCHES_PER_BROKER_MAX, Fetcher};
use crate::admin::{ListedOffset, OffsetSpec, list_offsets};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::cluster::{ClusterSnapshot, TopicInfo};
use crate::error::{ClientError, ConsumeError};
use crate::producer::RecordHeader;
use crate::stream::{BidiStream, StreamEvent};

/// How many responses wait for the next poll; streams stop reading beyond.
const EVENTS_MAX: usize = 16;
/// How long a topic may be missing in the view although it exists before the caller is told.
const UNKNOWN_TOPIC_PATIENCE: Duration = Duration::from_secs(2);

/// Where to begin reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPosition {
    /// At the first record that is kept.
    Earliest,
    /// At the next record to become readable, as of the assignment.
    Latest,
    Offset(Offset),
    /// At the first record whose timestamp is not before this; without such a record, like
    /// `Latest`.
    Timestamp(TimestampMs),
}

/// A record as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    pub topic: Arc<str>,
    pub partition: PartitionIndex,
    pub offset: Offset,
    pub timestamp: TimestampMs,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<RecordHeader>,
}

/// A partition that cannot be fetched at present. The consumer goes on trying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub topic: Arc<str>,
    pub partition: PartitionIndex,
    /// Why the last attempt failed, in words.
    pub reason: String,
    /// How long no attempt has succeeded.
    pub lasts: Duration,
}

/// Reads records of the partitions assigned to it.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    fetcher: Fetcher,
    streams: HashMap<u64, BidiStream<v1::FetchRequest>>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    view: watch::Receiver<Arc<ClusterSnapshot>>,
    origin: tokio::time::Instant,
}

type Event = StreamEvent<v1::FetchResponse>;

impl Consumer {
    pub(crate) fn start(client: Client, config: ConsumerConfig) -> Consumer {
        let settings = client.config();
        let backoff = Backoff::new(
            settings.reconnect_backoff_min,
            settings.reconnect_backoff_max,
        );
        let config = config.within_limits();
        memory::keep(config.buffer_bytes);
        let fetcher = Fetcher::new(config, settings.request_timeout, backoff);
        let view = client.view().subscribe();
        Consumer {
            client,
            fetcher,
            streams: HashMap::new(),
            events: mpsc::channel(EVENTS_MAX),
            view,
            origin: tokio::time::Instant::now(),
        }
    }

    /// Reads these partitions of a topic, and no others of it, from the given positions on. Other
    /// topics' assignments stay.
    ///
    /// # Errors
    /// If the topic or a partition does not exist, or a position could not be found in time; then
    /// the assignment stays as it was.
    pub async fn assign(
        &mut self,
        topic: &str,
        partitions: Vec<(PartitionIndex, StartPosition)>,
    ) -> Result<(), ConsumeError> {
        let (info, starts) = self.starts(topic, partitions).await?;
        self.fetcher.retain(|id, position| {
            **position.topic() != *topic
                || (id.topic == info.id && starts.contains_key(&id.partition))
        });
        self.begin(&info, starts);
        Ok(())
    }

    /// Reads these partitions too. What is assigned already goes on as it is, unless it is named
    /// here.
    ///
    /// # Errors
    /// As those of [`Consumer::assign`].
    pub async fn assign_more(
        &mut self,
        topic: &str,
        partitions: Vec<(PartitionIndex, StartPosition)>,
    ) -> Result<(), ConsumeError> {
        let (info, starts) = self.starts(topic, partitions).await?;
        self.begin(&info, starts);
        Ok(())
    }

    /// The topic, and the offsets that these positions stand for.
    async fn starts(
        &self,
        topic: &str,
        partitions: Vec<(PartitionIndex, StartPosition)>,
    ) -> Result<(Arc<TopicInfo>, BTreeMap<PartitionIndex, Offset>), ConsumeError> {
        let wait = UNKNOWN_TOPIC_PATIENCE.min(self.client.config().request_timeout);
        let info = self.client.find_topic(topic, wait).await;
        let info = info.ok_or_else(|| unknown(format!("there is no topic '{topic}'")))?;
        let mut starts = BTreeMap::new();
        let mut asked = Vec::new();
        for (partition, start) in partitions {
            if info.partition(partition).is_none() {
                let message = format!("the topic '{topic}' has no partition {partition}");
                return Err(unknown(message));
            }
            match start {
                StartPosition::Offset(offset) => {
                    starts.insert(partition, offset);
                }
                StartPosition::Earliest => asked.push((partition, OffsetSpec::Earliest)),
                StartPosition::Latest => asked.push((partition, OffsetSpec::Latest)),
                StartPosition::Timestamp(time) => {
                    asked.push((partition, OffsetSpec::Timestamp(time)));
                }
            }
        }
        starts.extend(find_offsets(&self.client, topic, info.id, asked).await?);
        Ok((info, starts))
    }

    fn begin(&mut self, info: &TopicInfo, starts: BTreeMap<PartitionIndex, Offset>) {
        for (partition, offset) in starts {
            let id = TopicIdPartition::new(info.id, partition);
            self.fetcher.assign(id, Arc::clone(&info.name), offset);
        }
        self.drive();
    }

    /// Stops reading a topic.
    pub fn unassign(&mut self, topic: &str) {
        self.fetcher
            .retain(|_, position| **position.topic() != *topic);
    }

    /// Stops reading one partition of a topic; the others go on.
    pub fn unassign_partition(&mut self, topic: &str, partition: PartitionIndex) {
        self.fetcher
            .retain(|id, position| id.partition != partition || **position.topic() != *topic);
    }

    /// The partitions being read.
    pub fn assignment(&self) -> Vec<(Arc<str>, PartitionIndex)> {
        let positions = self.fetcher.positions();
        positions
            .map(|(id, p)| (Arc::clone(p.topic()), id.partition))
            .collect()
    }

    /// Hands out records, waiting up to `limit` for the first. Records of one partition come in
    /// order and without gaps. Cancelling the call loses nothing.
    ///
    /// # Errors
    /// A partition that cannot be read on fails each poll until it is moved by [`Consumer::seek`],
    /// assigned anew, or left by [`Consumer::unassign_partition`]. What came before the failure is
    /// handed out first. [`ConsumeError::next_offset`] says where to go on behind a batch that
    /// cannot be unpacked.
    pub async fn poll(&mut self, limit: Duration) -> Result<Vec<ConsumedRecord>, ConsumeError> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            while let Ok(event) = self.events.1.try_recv() {
                self.on_event(event);
            }
            self.drive();
            if let Some(failure) = self.fetcher.failure() {
                return Err(failure.clone());
            }
            self.find_resets(deadline).await?;
            let records = self.fetcher.take_records()?;
            if !records.is_empty() {
                // What was taken made room; fetch on while the application works.
                self.drive();
                return Ok(records);
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(records);
            }
            self.wait(deadline).await;
        }
    }

    /// The offset of the next record that [`Consumer::poll`] hands out.
    pub fn position(&self, topic: &str, partition: PartitionIndex) -> Option<Offset> {
        self.fetcher
            .position(topic, partition)
            .map(|position| position.next())
    }

    /// The end of what was readable when records of the partition last came; `None` before.
    pub fn high_watermark(&self, topic: &str, partition: PartitionIndex) -> Option<Offset> {
        self.fetcher.position(topic, partition)?.high_watermark()
    }

    /// The partitions that cannot be fetched at present, as of the last poll.
    pub fn troubles(&self) -> Vec<Trouble> {
        let now = self.now();
        let troubled = self.fetcher.positions().filter_map(|(id, position)| {
            let (since, reason) = position.trouble()?;
            Some(Trouble {
                topic: Arc::clone(position.topic()),
                partition: id.partition,
                reason: reason.to_owned(),
                lasts: now.since(since),
            })
        });
        troubled.collect()
    }

    /// Goes on from another offset, and forgets what failed.
    ///
    /// # Errors
    /// If the partition is not assigned.
    pub fn seek(
        &mut self,
        topic: &str,
        partition: PartitionIndex,
        offset: Offset,
    ) -> Result<(), ConsumeError> {
        match self.fetcher.position_mut(topic, partition) {
            Some(position) => {
                position.seek(offset);
                self.drive();
                Ok(())
            }
            None => Err(ConsumeError::NotAssigned {
                topic: topic.to_owned(),
                partition,
            }),
        }
    }

    /// Waits for a response, a change of the cluster, or what is due.
    async fn wait(&mut self, deadline: tokio::time::Instant) {
        let now = self.now();
        let due = self.fetcher.next_deadline(now).map(|at| at.since(now));
        let until_deadline = deadline.saturating_duration_since(tokio::time::Instant::now());
        let pause = due.map_or(until_deadline, |due| due.min(until_deadline));
        tokio::select! {
            event = self.events.1.recv() => {
                if let Some(event) = event {
                    self.on_event(event);
                }
            }
            // The watcher lives as long as the client that is held here.
            _ = self.view.changed() => {}
            () = sleep(pause) => {}
        }
    }

    fn on_event(&mut self, event: Event) {
        let now = self.now();
        match event {
            StreamEvent::Response(response) => self.fetcher.on_response(now, response),
            StreamEvent::Closed { stream, reason, .. } => {
                self.streams.remove(&stream);
                self.fetcher.on_stream_closed(now, stream, &reason);
            }
        }
    }

    fn drive(&mut self) {
        let now = self.now();
        self.fetcher.on_tick(now);
        let view = Arc::clone(&self.view.borrow());
        self.fetcher.drive(now, &view);
        for effect in self.fetcher.take_effects() {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send {
                stream,
                endpoint,
                request,
            } => {
                let opened = self.streams.entry(stream).or_insert_with(|| {
                    let connections = Arc::clone(self.client.connections());
                    let (capacity, events) = (FETCHES_PER_BROKER_MAX * 2, self.events.0.clone());
                    let path = FETCH_PATH;
                    BidiStream::open(connections, path, stream, endpoint, capacity, events)
                });
                if !opened.send(request) {
                    tracing::trace!(stream, "a request met a stream that has just ended");
                }
            }
            Effect::Close { stream } => {
                self.streams.remove(&stream);
            }
            Effect::LearnLeader { partition, hint } => {
                let view = self.client.view();
                view.learn_leader(partition.topic, partition.partition, &hint);
            }
            Effect::SuspectView => self.client.view().suspect(),
        }
    }

    /// Finds the positions of partitions that fell out of their log's range.
    async fn find_resets(&mut self, deadline: tokio::time::Instant) -> Result<(), ConsumeError> {
        let mut topics: BTreeMap<_, Vec<(PartitionIndex, OffsetSpec)>> = BTreeMap::new();
        for (id, position) in self.fetcher.positions() {
            if let Some(spec) = position.reset() {
                let topic = (Arc::clone(position.topic()), id.topic);
                topics.entry(topic).or_default().push((id.partition, spec));
            }
        }
        for ((topic, id), asked) in topics {
            let found = find_offsets(&self.client, &topic, id, asked);
            match timeout_at(deadline, found).await {
                Ok(Ok(found)) => {
                    for (partition, offset) in found {
                        let id = TopicIdPartition::new(id, partition);
                        self.fetcher.on_reset_found(id, offset);
                    }
                }
                Ok(Err(error)) if error.is_retriable() => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {}
            }
        }
        self.drive();
        Ok(())
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.origin.elapsed()
    }
}

/// The offsets asked for. Where no record is at or after a timestamp, the end is meant.
async fn find_offsets(
    client: &Client,
    topic: &str,
    id: TopicId,
    asked: Vec<(PartitionIndex, OffsetSpec)>,
) -> Result<BTreeMap<PartitionIndex, Offset>, ClientError> {
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let listed = list_offsets(client, topic, Some(id), asked).await?;
    let (found, missing): (Vec<ListedOffset>, Vec<_>) = listed
        .into_iter()
        .partition(|listed| listed.offset.is_some());
    let ends = missing
        .iter()
        .map(|listed| (listed.partition, OffsetSpec::Latest))
        .collect();
    let ends = if missing.is_empty() {
        Vec::new()
    } else {
        list_offsets(client, topic, Some(id), ends).await?
    };
    let all = found.into_iter().chain(ends);
    Ok(all
        .filter_map(|listed| Some((listed.partition, listed.offset?)))
        .collect())
}

fn unknown(message: String) -> ConsumeError {
    let error = ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
    ClientError::Api(error).into()
}
