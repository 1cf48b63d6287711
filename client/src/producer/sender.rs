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

use self::request::{Draft, SentRequest};
use super::accumulator::PendingBatch;
use super::batch::{Finished, Identity, fail_pending};
use super::partition::{Answer, PartitionSender, Turn, timed_out};
use crate::backoff::Backoff;
use crate::cluster::ClusterSnapshot;
use crate::link::Link;

/// How many requests may be in flight to one broker.
pub(super) const REQUESTS_PER_BROKER_MAX: usize = 64;

/// After so many failures in a row, the view is suspected of being behind.
const SUSPICION_AFTER: u32 = 3;

/// A request without answer for so long may mean that its broker vanished, and if the watch is with
/// the same broker, the view stands still.
const STALL: Duration = Duration::from_secs(1);

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
    links: BTreeMap<NodeId, Link>,
    requests: BTreeMap<u64, SentRequest>,
    identity: Option<Identity>,
    identity_wanted: bool,
    wants_identity: BTreeSet<TopicIdPartition>,
    identity_error: Option<String>,
    next_request: u64,
    next_stream: u64,
    finished: Vec<Finished>,
    effects: Vec<Effect>,
}

impl Sender {
    pub(super) fn new(settings: SenderSettings) -> Sender {
        Sender {
            settings,
            partitions: HashMap::new(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            parked: BTreeSet::new(),
            timers: BTreeSet::new(),
            links: BTreeMap::new(),
            requests: BTreeMap::new(),
            identity: None,
            identity_wanted: false,
            wants_identity: BTreeSet::new(),
            identity_error: None,
            next_request: 1,
            next_stream: 1,
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
        let Some(sent) = self.requests.remove(&response.request_id) else {
            return;
        };
        if let Some(link) = self.links.get_mut(&sent.node) {
            link.on_answer(response.request_id);
            for partition in link.take_waiting() {
                self.enqueue(partition);
            }
        }
        let mut results = response.results.into_iter();
        for partition in sent.partitions {
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
        let Some(link) = self
            .links
            .values_mut()
            .find(|link| link.stream() == Some(stream))
        else {
            return;
        };
        let (lost, waiting) = link.on_closed(now);
        self.on_ready(waiting);
        for request in lost {
            let Some(sent) = self.requests.remove(&request) else {
                continue;
            };
            for partition in sent.partitions {
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
        let mut stalled = false;
        for sent in self
            .requests
            .values_mut()
            .filter(|sent| sent.at + STALL <= now)
        {
            stalled |= !std::mem::replace(&mut sent.suspected, true);
        }
        if stalled {
            self.suspect();
        }
        let limit = self.settings.request_timeout + Duration::from_secs(2);
        let late = self.requests.values().filter(|sent| sent.at + limit <= now);
        let late: BTreeSet<u64> = late.map(|sent| sent.stream).collect();
        for stream in late {
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
        self.leave_fenced(now, view);
        let mut drafts: BTreeMap<NodeId, Draft> = BTreeMap::new();
        while let Some(partition) = self.queue.pop_front() {
            self.queued.remove(&partition);
            self.drive_partition(now, view, partition, take, &mut drafts);
        }
        for draft in drafts.into_values() {
            self.send(now, draft);
        }
    }

    /// Gives up streams to brokers that the cluster has given up. A host that vanished does not
    /// close its connections, and its successor is known long before they time out.
    fn leave_fenced(&mut self, now: Instant, view: &ClusterSnapshot) {
        let gone = |node| view.brokers.get(node).is_none_or(|broker| broker.fenced);
        let left = self
            .links
            .iter()
            .filter(|(node, link)| link.in_flight() > 0 && gone(node));
        let left: Vec<u64> = left.filter_map(|(_, link)| link.stream()).collect();
        for stream in left {
            self.effects.push(Effect::Close { stream });
            self.on_stream_closed(now, stream, true, "the broker was fenced");
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
        let link = self
            .links
            .entry(node)
            .or_insert_with(|| Link::new(self.settings.reconnect_backoff));
        link.set_endpoint(&broker.endpoint);
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
        let next_request = &mut self.next_request;
        let draft = drafts.entry(node).or_insert_with(|| {
            let id = *next_request;
            *next_request += 1;
            Draft::new(id, node)
        });
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
        let Some(link) = self.links.get_mut(&draft.node()) else {
            return;
        };
        let next_stream = &mut self.next_stream;
        let (stream, endpoint) = link.send(draft.id(), || {
            let stream = *next_stream;
            *next_stream += 1;
            stream
        });
        let (sent, request) = draft.finish(
            now,
            stream,
            self.settings.acks,
            self.settings.request_timeout,
        );
        self.requests.insert(request.request_id, sent);
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
        !self.requests.is_empty() || self.partitions.values().any(|sender| !sender.is_empty())
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
