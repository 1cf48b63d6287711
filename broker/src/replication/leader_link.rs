//! The follower's end of the stream to one leading broker: opens it, states where each partition
//! stands, takes in what is pushed, and acknowledges what is on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ottla_broker_core::partition::{FollowerPosition, Input, LeaderData};
use ottla_model::batch::{BatchError, BatchHeader, next_batch, validate_stored_batch};
use ottla_model::limits::{INTERNAL_MESSAGE_BYTES_MAX, REPLICATION_WINDOW_BYTES};
use ottla_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, TopicIdPartition};
use ottla_proto::convert::topic_id_partition;
use ottla_proto::messages::{MessageLimits, Messages, REPLICATE_PATH, open_stream};
use ottla_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tonic::Status;

use crate::disk_space::DiskSpace;
use crate::image::ImageStore;
use crate::manager::ReplicaManager;
use crate::net::internal_channel;
use crate::registration::Registration;

const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long the opening of a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// The leader is told of received bytes at the latest after so many.
const REPORT_BYTES: u64 = (REPLICATION_WINDOW_BYTES / 8) as u64;

/// The stream to one leading broker.
pub struct LeaderLink {
    leader: NodeId,
    partitions: Mutex<BTreeSet<TopicIdPartition>>,
    connected: AtomicBool,
    outbox: Mutex<Outbox>,
    wake: Notify,
    received: AtomicU64,
    stopped: AtomicBool,
    /// Wakes the whole task, to stop it or to cut a reconnection pause short.
    poke: Notify,
}

/// How much of a log is on disk, in a leader epoch.
#[derive(Clone, Copy)]
pub struct Durable {
    pub leader_epoch: LeaderEpoch,
    pub end: Offset,
    pub log_start: Offset,
}

/// What waits to be sent; bounded by the number of partitions.
#[derive(Default)]
struct Outbox {
    states: BTreeMap<TopicIdPartition, FollowerPosition>,
    acks: BTreeMap<TopicIdPartition, Durable>,
    stops: BTreeSet<TopicIdPartition>,
    reported: u64,
    /// Which of this link's streams may take from here. The one before may linger for a moment.
    stream: u64,
}

/// What a link needs of its broker.
pub struct LinkContext {
    pub manager: Arc<ReplicaManager>,
    pub space: Arc<DiskSpace>,
    pub image: Arc<ImageStore>,
    pub registration: Arc<Registration>,
}

impl LinkContext {
    /// The registration under which this broker follows: this run's or, while no controller has
    /// answered this run yet, the last one's. Its log is as durable as it was then, provided that
    /// the directory is the same; a replaced disk must wait for a registration of its own
    /// (KIP-903).
    fn broker_epoch(&self) -> Option<BrokerEpoch> {
        self.registration.epoch().or_else(|| {
            let image = self.image.current();
            let known = image.brokers.get(&self.registration.node_id())?;
            (known.directory == self.registration.directory()).then_some(known.epoch)
        })
    }
}

impl LeaderLink {
    pub fn new(leader: NodeId) -> LeaderLink {
        LeaderLink {
            leader,
            partitions: Mutex::new(BTreeSet::new()),
            connected: AtomicBool::new(false),
            outbox: Mutex::new(Outbox::default()),
            wake: Notify::new(),
            received: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            poke: Notify::new(),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Follows a partition here. True if the stream is up, so that its core can be told.
    pub fn add(&self, id: TopicIdPartition) -> bool {
        self.partitions.lock().insert(id);
        self.outbox.lock().stops.remove(&id);
        self.is_connected()
    }

    /// Follows a partition here no more. True if none is left.
    pub fn remove(&self, id: TopicIdPartition) -> bool {
        let mut outbox = self.outbox.lock();
        outbox.states.remove(&id);
        outbox.acks.remove(&id);
        outbox.stops.insert(id);
        drop(outbox);
        self.wake.notify_one();
        let mut partitions = self.partitions.lock();
        partitions.remove(&id);
        partitions.is_empty()
    }

    pub fn send_state(&self, id: TopicIdPartition, state: FollowerPosition) {
        let mut outbox = self.outbox.lock();
        // Acknowledgements of an earlier position would precede the statement they belong behind.
        outbox.acks.remove(&id);
        outbox.states.insert(id, state);
        drop(outbox);
        self.wake.notify_one();
    }

    pub fn send_ack(&self, id: TopicIdPartition, durable: Durable) {
        self.outbox.lock().acks.insert(id, durable);
        self.wake.notify_one();
    }

    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.poke.notify_one();
        self.wake.notify_one();
    }

    /// Tries again at once, because the leader is known to have changed.
    pub fn poke(&self) {
        if !self.is_connected() {
            self.poke.notify_one();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Keeps the stream up until stopped.
    pub async fn run(self: Arc<Self>, context: Arc<LinkContext>) {
        let mut pause = RECONNECT_PAUSE_MIN;
        while !self.is_stopped() {
            let began = tokio::time::Instant::now();
            match self.stream(&context).await {
                Ok(()) => {}
                Err(status) => {
                    tracing::debug!(leader = %self.leader, error = %status.message(), "the replication stream ended");
                }
            }
            if self.connected.swap(false, Ordering::AcqRel) {
                self.for_each_replica(&context, || Input::LeaderDisconnected {
                    leader: self.leader,
                });
            }
            if self.is_stopped() {
                break;
            }
            if began.elapsed() > RECONNECT_PAUSE_MAX {
                pause = RECONNECT_PAUSE_MIN;
            }
            // Whichever comes first; being poked is as good a reason to try again.
            let _ = tokio::time::timeout(pause, self.poke.notified()).await;
            pause = (pause * 2).min(RECONNECT_PAUSE_MAX);
        }
    }

    fn for_each_replica(&self, context: &LinkContext, input: impl Fn() -> Input) {
        let ids: Vec<_> = self.partitions.lock().iter().copied().collect();
        for id in ids {
            if let Some(replica) = context.manager.get(id) {
                replica.step(input());
            }
        }
    }

    /// Opens one stream and serves it until it breaks.
    async fn stream(self: &Arc<Self>, context: &Arc<LinkContext>) -> Result<(), Status> {
        let image = context.image.current();
        let unavailable = Status::unavailable;
        let broker = image
            .brokers
            .get(&self.leader)
            .ok_or_else(|| unavailable("the leader is unknown"))?;
        let epoch = context
            .broker_epoch()
            .ok_or_else(|| unavailable("not registered yet"))?;
        let hello = v1::ReplicateHello {
            cluster_id: image
                .cluster_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            broker_id: context.registration.node_id().0,
            broker_epoch: epoch.0,
            leader_id: self.leader.0,
        };
        let channel = internal_channel(&broker.internal_endpoint);
        let number = {
            let mut outbox = self.outbox.lock();
            let stream = outbox.stream + 1;
            *outbox = Outbox {
                stream,
                ..Outbox::default()
            };
            stream
        };
        self.received.store(0, Ordering::Release);
        let requests = self.outgoing(hello, number);
        let open = open_stream(
            channel,
            REPLICATE_PATH,
            requests,
            MessageLimits::of_bytes(INTERNAL_MESSAGE_BYTES_MAX),
        );
        let mut incoming: Messages<v1::ReplicateResponse> =
            tokio::time::timeout(OPEN_TIMEOUT, open)
                .await
                .map_err(|_| Status::deadline_exceeded("the leader did not answer"))??;
        self.connected.store(true, Ordering::Release);
        self.for_each_replica(context, || Input::LeaderConnected {
            leader: self.leader,
        });
        let mut standing = context.registration.standing();
        while !self.is_stopped() {
            // A registration anew means a new broker epoch, which the stream must carry.
            if context.broker_epoch() != Some(epoch) {
                return Err(unavailable("registered anew"));
            }
            let message = tokio::select! {
                message = incoming.next() => message?,
                () = self.poke.notified() => continue,
                Ok(()) = standing.changed() => continue,
            };
            let Some(message) = message else {
                return Ok(());
            };
            self.wait_for_room(context).await;
            for data in message.partitions {
                self.take_in(context, data);
            }
        }
        Ok(())
    }

    /// While the disk is full, or the journal behind, nothing more is read from the leader, so its
    /// window fills and it waits.
    async fn wait_for_room(&self, context: &LinkContext) {
        while !self.is_stopped() {
            tokio::select! {
                () = context.space.wait_for_room() => break,
                () = self.poke.notified() => {}
            }
        }
        while !self.is_stopped() {
            tokio::select! {
                () = context.manager.wait_for_journal() => return,
                () = self.poke.notified() => {}
            }
        }
    }

    /// The messages to the leader: first who we are, then whatever gathers in the outbox.
    fn outgoing(
        self: &Arc<Self>,
        hello: v1::ReplicateHello,
        number: u64,
    ) -> impl tokio_stream::Stream<Item = v1::ReplicateRequest> + Send + 'static {
        let link = Arc::clone(self);
        async_stream::stream! {
            yield v1::ReplicateRequest { hello: Some(hello), ..Default::default() };
            while !link.is_stopped() && link.outbox.lock().stream == number {
                match link.next_request(number) {
                    Some(request) => yield request,
                    None => link.wake.notified().await,
                }
            }
            // The wake-up was meant for the stream after this one.
            link.wake.notify_one();
        }
    }

    fn next_request(&self, number: u64) -> Option<v1::ReplicateRequest> {
        let received = self.received.load(Ordering::Acquire);
        let mut outbox = self.outbox.lock();
        if outbox.stream != number {
            return None;
        }
        let must_report = received >= outbox.reported + REPORT_BYTES;
        let is_empty =
            outbox.states.is_empty() && outbox.acks.is_empty() && outbox.stops.is_empty();
        if is_empty && !must_report {
            return None;
        }
        let taken = std::mem::take(&mut *outbox);
        outbox.reported = received;
        outbox.stream = number;
        drop(outbox);
        Some(v1::ReplicateRequest {
            hello: None,
            states: taken
                .states
                .iter()
                .map(|(id, state)| state_message(*id, state))
                .collect(),
            acks: taken
                .acks
                .iter()
                .map(|(id, ack)| ack_message(*id, *ack))
                .collect(),
            stops: taken.stops.iter().map(|id| stop_message(*id)).collect(),
            received_bytes: received,
        })
    }

    /// Hands one partition's part of a message to its core.
    fn take_in(&self, context: &LinkContext, data: v1::ReplicaData) {
        let size = data.batches.len() as u64;
        self.hand_over(context, data);
        let received = self.received.fetch_add(size, Ordering::AcqRel) + size;
        if received >= self.outbox.lock().reported + REPORT_BYTES {
            self.wake.notify_one();
        }
    }

    fn hand_over(&self, context: &LinkContext, data: v1::ReplicaData) {
        let Ok(id) = topic_id_partition(&data.topic_id, data.partition, "partition") else {
            tracing::warn!(leader = %self.leader, "the leader sent a malformed partition id");
            return;
        };
        if !self.partitions.lock().contains(&id) {
            return;
        }
        let Some(replica) = context.manager.get(id) else {
            return;
        };
        let leader_epoch = LeaderEpoch(data.leader_epoch);
        if let Some(divergence) = data.divergence {
            replica.step(Input::LeaderDiverged {
                leader_epoch,
                epoch: LeaderEpoch(divergence.epoch),
                end_offset: Offset(divergence.end_offset),
            });
            return;
        }
        if data.error_code != 0 {
            let code = i16::try_from(data.error_code)
                .ok()
                .and_then(ErrorCode::from_number);
            let error = code.unwrap_or(ErrorCode::UnknownServerError);
            replica.step(Input::LeaderRefused {
                leader_epoch,
                error,
            });
            return;
        }
        match headers_of(&data.batches) {
            Ok(headers) => replica.step(Input::LeaderData(LeaderData {
                leader_epoch,
                from: covered_from(&data, &headers),
                to: covered_to(&data, &headers),
                headers,
                batches: data.batches,
                high_watermark: Offset(data.high_watermark),
                log_start: Offset(data.log_start_offset),
            })),
            Err(error) => {
                // Damage on the way or on the leader's disk. The stream is stated anew, and what
                // is damaged is never appended.
                tracing::error!(partition = %id, leader = %self.leader, %error, "the leader sent a damaged batch");
                replica.step(Input::LeaderRefused {
                    leader_epoch,
                    error: ErrorCode::CorruptMessage,
                });
            }
        }
    }
}

fn headers_of(batches: &Bytes) -> Result<Vec<BatchHeader>, BatchError> {
    let mut rest: &[u8] = batches;
    let mut headers = Vec::new();
    while !rest.is_empty() {
        let (_, batch, behind) = next_batch(rest)?;
        headers.push(validate_stored_batch(batch)?);
        rest = behind;
    }
    Ok(headers)
}

/// From where on the leader holds nothing else than these batches.
fn covered_from(data: &v1::ReplicaData, headers: &[BatchHeader]) -> Offset {
    let first = || headers.first().map_or(0, |header| header.base_offset.0);
    Offset(data.from_offset.unwrap_or_else(first))
}

/// Up to where it holds nothing else.
fn covered_to(data: &v1::ReplicaData, headers: &[BatchHeader]) -> Offset {
    match headers.last() {
        Some(last) => last.next_offset(),
        None => Offset(data.to_offset.unwrap_or(0)),
    }
}

fn id_bytes(id: TopicIdPartition) -> Bytes {
    Bytes::copy_from_slice(id.topic.as_bytes())
}

fn state_message(id: TopicIdPartition, state: &FollowerPosition) -> v1::ReplicaState {
    v1::ReplicaState {
        topic_id: id_bytes(id),
        partition: id.partition.0,
        leader_epoch: state.leader_epoch.0,
        log_end: state.log_end.0,
        durable_end: state.durable_end.0,
        last_epoch: state.last_epoch.0,
        log_start_offset: state.log_start.0,
    }
}

fn ack_message(id: TopicIdPartition, durable: Durable) -> v1::ReplicaAck {
    v1::ReplicaAck {
        topic_id: id_bytes(id),
        partition: id.partition.0,
        leader_epoch: durable.leader_epoch.0,
        durable_end: durable.end.0,
        log_start_offset: durable.log_start.0,
    }
}

fn stop_message(id: TopicIdPartition) -> v1::ReplicaStop {
    v1::ReplicaStop {
        topic_id: id_bytes(id),
        partition: id.partition.0,
    }
}
