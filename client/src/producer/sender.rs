//! Decides what is sent to which broker when: ready batches of many partitions in one request to
//! their leader, requests pipelined, partitions parked while they have no leader, wait for a retry,
//! or for a producer id. Knows neither clock nor socket; its driver carries out the effects.

mod request;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use ottla_model::error::{ApiError, Outcome};
use ottla_model::{
    ErrorCode, Instant, LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, TopicIdPartition,
};
use ottla_proto::v1;

use self::request::Draft;
use super::accumulator::PendingBatch;
use super::batch::{Finished, Identity, fail_pending};
use super::partition::{Answer, PartitionSender, Turn, timed_out};
use crate::backoff::Backoff;
use crate::cluster::ClusterSnapshot;
use crate::links::{Links, STALL, SUSPICION_AFTER};

/// How many requests may be in flight to one broker.
pub(super) const REQUESTS_PER_BROKER_MAX: usize = 64;

/// What the sender is told once.
#[derive(Debug, Clone)]
pub(super) struct SenderSettings {
    pub acks: v1::Acks,
    pub idempotent: bool,
    pub window: usize,
    pub request_bytes: usize,
    /// How long a broker may take to answer, and what it is told it may.
    pub request_timeout: Duration,
    pub delivery_timeout: Duration,
    pub retry_backoff: Backoff,
    pub reconnect_backoff: Backoff,
}

/// What the driver shall do.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Send on this stream, opening it if need be.
    Send {
        stream: u64,
        endpoint: String,
        request: v1::ProduceRequest,
    },
    /// Give the stream up.
    Close { stream: u64 },
    /// Take a producer id.
    TakeIdentity,
    /// A broker named a partition's leader.
    LearnLeader {
        partition: TopicIdPartition,
        hint: v1::LeaderHint,
    },
    /// The view may be behind.
    SuspectView,
}

/// Where the next batch of a partition comes from.
pub(super) type TakeBatch<'a> = &'a mut dyn FnMut(TopicIdPartition) -> Option<PendingBatch>;

#[derive(Debug)]
pub(super) struct Sender {
    settings: SenderSettings,
    partitions: HashMap<TopicIdPartition, PartitionSender>,
    /// Partitions to look at, in the order in which they got something to do.
    queue: VecDeque<TopicIdPartition>,
    queued: BTreeSet<TopicIdPartition>,
    /// Partitions to look at when the view of the cluster changes.
    parked: BTreeSet<TopicIdPartition>,
    timers: BTreeSet<(Instant, TopicIdPartition)>,
    /// Remembers the partitions of each request, in its order.
    links: Links<Vec<TopicIdPartition>>,
    identity: Option<Identity>,
    identity_wanted: bool,
    wants_identity: BTreeSet<TopicIdPartition>,
    identity_error: Option<String>,
    finished: Vec<Finished>,
    effects: Vec<Effect>,
}

impl Sender {
    pub(super) fn new(settings: SenderSettings) -> Sender {
        Sender {
            links: Links::new(settings.reconnect_backoff),
            settings,
            partitions: HashMap::new(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            parked: BTreeSet::new(),
            timers: BTreeSet::new(),
            identity: None,
            identity_wanted: false,
            wants_identity: BTreeSet::new(),
            identity_error: None,
            finished: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// These partitions have something new to send.
    pub(super) fn on_ready(&mut self, partitions: impl IntoIterator<Item = TopicIdPartition>) {
        for partition in partitions {
            self.enqueue(partition);
        }
    }

    pub(super) fn on_view_changed(&mut self) {
        for partition in std::mem::take(&mut self.parked) {
            self.enqueue(partition);
        }
    }

    /// A producer id came, or did not; then the driver asks again when it sees fit.
    pub(super) fn on_identity(&mut self, result: Result<(ProducerId, ProducerEpoch), String>) {
        match result {
            Ok((id, epoch)) => {
                let generation = self.identity.map_or(1, |identity| identity.generation + 1);
                self.identity = Some(Identity {
                    generation,
                    id,
                    epoch,
                });
                self.identity_error = None;
                self.identity_wanted = false;
                for partition in std::mem::take(&mut self.wants_identity) {
                    self.enqueue(partition);
                }
            }
            Err(reason) => {
                self.identity_error = Some(format!("no producer id: {reason}"));
                self.effects.push(Effect::TakeIdentity);
            }
        }
    }

    pub(super) fn on_response(&mut self, now: Instant, response: v1::ProduceResponse) {
        let Some((partitions, waiting)) = self.links.on_answer(response.request_id) else {
            return;
        };
        self.on_ready(waiting);
        let mut results = response.results.into_iter();
        for partition in partitions {
            let answer = match results.next() {
                Some(result) => self.read_result(partition, result),
                None => Answer::Lost {
                    may_have_arrived: true,
                    reason: "the response has no result for the partition".to_owned(),
                },
            };
            self.on_answer(now, response.request_id, partition, answer);
        }
    }

    fn read_result(&mut self, partition: TopicIdPartition, result: v1::ProduceResult) -> Answer {
        let Some(error) = result.error else {
            return Answer::Acked(Offset(result.base_offset));
        };
        let refusal = ApiError::from(&error);
        if let Some(hint) = error.leader {
            self.effects.push(Effect::LearnLeader { partition, hint });
        }
        Answer::Refused(refusal)
    }

    /// A stream ended; nothing on it will be answered.
    pub(super) fn on_stream_closed(
        &mut self,
        now: Instant,
        stream: u64,
        may_have_arrived: bool,
        reason: &str,
    ) {
        let Some(lost) = self.links.on_closed(now, stream) else {
            return;
        };
        self.on_ready(lost.waiting);
        for (request, partitions) in lost.requests {
            for partition in partitions {
                let reason = reason.to_owned();
                let answer = Answer::Lost {
                    may_have_arrived,
                    reason,
                };
                self.on_answer(now, request, partition, answer);
            }
        }
    }

    fn on_answer(
        &mut self,
        now: Instant,
        request: u64,
        partition: TopicIdPartition,
        answer: Answer,
    ) {
        let Some(sender) = self.partitions.get_mut(&partition) else {
            return;
        };
        sender.on_answer(now, request, answer, &mut self.finished);
        if sender.failed_attempts() >= SUSPICION_AFTER {
            self.suspect();
        }
        self.enqueue(partition);
    }

    fn suspect(&mut self) {
        if !self.effects.contains(&Effect::SuspectView) {
            self.effects.push(Effect::SuspectView);
        }
    }

    /// Gives up what took too long: streams that do not answer, records that are too old.
    pub(super) fn on_tick(&mut self, now: Instant) {
        if self.links.has_stalled(now, STALL) {
            self.suspect();
        }
        let limit = self.settings.request_timeout + Duration::from_secs(2);
        for stream in self.links.late_streams(now, limit) {
            self.effects.push(Effect::Close { stream });
            let reason = format!("the broker did not answer within {limit:?}");
            self.on_stream_closed(now, stream, true, &reason);
        }
        let timeout = self.settings.delivery_timeout;
        let mut touched = Vec::new();
        for (partition, sender) in &mut self.partitions {
            if !sender.is_empty() {
                sender.expire(now, timeout, &mut self.finished);
                touched.push(*partition);
            }
        }
        // In a fixed order, whatever the map's.
        touched.sort_unstable();
        self.on_ready(touched);
    }

    /// Fails a batch that became too old before it was ever sent.
    pub(super) fn expire_pending(&mut self, partition: TopicIdPartition, batch: &PendingBatch) {
        let timeout = self.settings.delivery_timeout;
        let sender = self.partitions.get(&partition);
        let because = sender
            .and_then(PartitionSender::last_error)
            .or(self.identity_error.as_deref())
            .or((sender.is_none()).then_some("the partition had no leader that could be reached"));
        let error = timed_out(timeout, Outcome::Definite, because);
        self.finished.push(fail_pending(batch, error));
    }

    /// Sends what can be sent.
    pub(super) fn drive(&mut self, now: Instant, view: &ClusterSnapshot, take: TakeBatch<'_>) {
        while let Some((at, partition)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, partition));
            self.enqueue(partition);
        }
        for stream in self.links.streams_to_gone(view) {
            self.effects.push(Effect::Close { stream });
            self.on_stream_closed(now, stream, true, "the broker was fenced");
        }
        let mut drafts: BTreeMap<NodeId, Draft> = BTreeMap::new();
        while let Some(partition) = self.queue.pop_front() {
            self.queued.remove(&partition);
            self.drive_partition(now, view, partition, take, &mut drafts);
        }
        for draft in drafts.into_values() {
            self.send(now, draft);
        }
    }

    fn drive_partition(
        &mut self,
        now: Instant,
        view: &ClusterSnapshot,
        partition: TopicIdPartition,
        take: TakeBatch<'_>,
        drafts: &mut BTreeMap<NodeId, Draft>,
    ) {
        let Some(topic) = view.topic_by_id(partition.topic) else {
            self.on_topic_gone(partition, take);
            return;
        };
        let Some((broker, epoch)) = view.leader(partition.topic, partition.partition) else {
            self.parked.insert(partition);
            return;
        };
        let node = broker.node_id;
        let link = self.links.to(broker);
        if let Some(until) = link.down_until(now) {
            self.parked.insert(partition);
            self.timers.insert((until, partition));
            return;
        }
        if link.in_flight() >= REQUESTS_PER_BROKER_MAX {
            link.wait(partition);
            return;
        }
        let Some(at) = self.next_batch(now, epoch, partition, take) else {
            return;
        };
        let Some(sender) = self.partitions.get_mut(&partition) else {
            return;
        };
        let bytes = sender.batch(at).bytes.clone();
        let full = drafts
            .get(&node)
            .is_some_and(|draft| !draft.takes(partition, bytes.len(), self.settings.request_bytes));
        if full && let Some(draft) = drafts.remove(&node) {
            self.send(now, draft);
        }
        let links = &mut self.links;
        let draft = drafts
            .entry(node)
            .or_insert_with(|| Draft::new(links.next_request(), node));
        if let Some(sender) = self.partitions.get_mut(&partition) {
            sender.on_sent(at, draft.id(), epoch);
        }
        draft.push(partition, &topic.name, epoch, bytes);
        // There may be another batch, after the other partitions had their turn.
        self.enqueue(partition);
    }

    /// The place of the batch to send now, if there is one. Otherwise whatever comes next for the
    /// partition is arranged.
    fn next_batch(
        &mut self,
        now: Instant,
        epoch: LeaderEpoch,
        partition: TopicIdPartition,
        take: TakeBatch<'_>,
    ) -> Option<usize> {
        let settings = &self.settings;
        let sender = self.partitions.entry(partition).or_insert_with(|| {
            let (idempotent, window) = (settings.idempotent, settings.window);
            PartitionSender::new(idempotent, window, settings.retry_backoff)
        });
        match sender.turn(now, epoch, self.identity, &mut self.finished) {
            Turn::Idle => None,
            Turn::Send(at) => Some(at),
            Turn::Wait(until) => {
                self.parked.insert(partition);
                self.timers.insert((until, partition));
                None
            }
            Turn::NeedIdentity { after } => {
                self.wants_identity.insert(partition);
                let newest = self.identity.map_or(0, |identity| identity.generation);
                if newest <= after && !self.identity_wanted {
                    self.identity_wanted = true;
                    self.effects.push(Effect::TakeIdentity);
                }
                None
            }
            Turn::SealNext => {
                let pending = take(partition)?;
                let at = sender.seal_next(pending, &mut self.finished);
                if at.is_none() {
                    self.enqueue(partition);
                }
                at
            }
        }
    }

    /// The topic was deleted: what is left of it fails.
    fn on_topic_gone(&mut self, partition: TopicIdPartition, take: TakeBatch<'_>) {
        let message = format!("the topic of {partition} does not exist any more");
        let error = ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
        if let Some(mut sender) = self.partitions.remove(&partition) {
            sender.fail_all(&error, &mut self.finished);
        }
        let mut left = false;
        while let Some(pending) = take(partition) {
            left = true;
            let error = crate::error::ProduceError::definite(error.code, error.message.clone());
            self.finished.push(fail_pending(&pending, error));
        }
        if left {
            self.parked.remove(&partition);
        }
    }

    fn send(&mut self, now: Instant, draft: Draft) {
        let node = draft.node();
        let (acks, timeout) = (self.settings.acks, self.settings.request_timeout);
        let (partitions, request) = draft.finish(acks, timeout);
        let sent = self.links.send(now, node, request.request_id, partitions);
        // The draft was begun because there is a way to its broker.
        let Some((stream, endpoint)) = sent else {
            return;
        };
        self.effects.push(Effect::Send {
            stream,
            endpoint,
            request,
        });
    }

    fn enqueue(&mut self, partition: TopicIdPartition) {
        if self.queued.insert(partition) {
            self.queue.push_back(partition);
        }
    }

    /// When something is due without anything happening.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether anything is on its way or waits to be.
    pub(super) fn is_busy(&self) -> bool {
        self.links.is_busy() || self.partitions.values().any(|sender| !sender.is_empty())
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub(super) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
