//! Decides what is fetched from which broker when: the partitions that need data in one request to
//! their leader, at most one fetch of a partition in flight, moved as soon as the leader moves.
//! Knows neither clock nor socket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_model::error::ApiError;
use ottla_model::limits::PARTITIONS_PER_MESSAGE_MAX;
use ottla_model::{
    ErrorCode, Instant, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId, TopicIdPartition,
};
use ottla_proto::v1;

use super::ConsumedRecord;
use super::config::{AutoReset, ConsumerConfig};
use super::position::Position;
use crate::admin::OffsetSpec;
use crate::backoff::Backoff;
use crate::cluster::ClusterSnapshot;
use crate::error::ConsumeError;
use crate::links::{Links, STALL, SUSPICION_AFTER};

/// How many fetches may be in flight to one broker. More than one, so that partitions which got
/// data need not wait for those that have none.
pub(super) const FETCHES_PER_BROKER_MAX: usize = 8;

/// So many partitions of a broker may wait for records in one fetch.
const TOGETHER: usize = 64;
/// More are divided among so many fetches: the first record ends a fetch, and all its partitions
/// are asked for anew.
const SHARES: usize = FETCHES_PER_BROKER_MAX / 2;

/// What the consumer shall do.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    Send {
        stream: u64,
        endpoint: String,
        request: v1::FetchRequest,
    },
    Close {
        stream: u64,
    },
    LearnLeader {
        partition: TopicIdPartition,
        hint: v1::LeaderHint,
    },
    SuspectView,
}

/// What was asked of a partition.
#[derive(Debug, Clone, Copy)]
struct Asked {
    generation: u64,
    epoch: LeaderEpoch,
}

type AskedOf = BTreeMap<TopicIdPartition, Asked>;

/// A request to be sent to a broker.
#[derive(Debug, Default)]
struct Draft {
    request: v1::FetchRequest,
    asked: AskedOf,
    /// There are partitions in it for which nothing is known to be there.
    has_quiet: bool,
    /// There was no room for all that are to be fetched there.
    is_cut: bool,
}

#[derive(Debug)]
pub(super) struct Fetcher {
    config: ConsumerConfig,
    request_timeout: Duration,
    positions: BTreeMap<TopicIdPartition, Position>,
    links: Links<AskedOf>,
    /// The partition to begin with, so that all get their turn.
    first: Option<TopicIdPartition>,
    /// How many partitions each broker led when they were last gone through.
    led: BTreeMap<NodeId, usize>,
    effects: Vec<Effect>,
}

impl Fetcher {
    pub(super) fn new(
        config: ConsumerConfig,
        request_timeout: Duration,
        reconnect_backoff: Backoff,
    ) -> Fetcher {
        Fetcher {
            config,
            request_timeout,
            positions: BTreeMap::new(),
            links: Links::new(reconnect_backoff),
            first: None,
            led: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    pub(super) fn assign(&mut self, id: TopicIdPartition, topic: Arc<str>, at: Offset) {
        let config = &self.config;
        let backoff = Backoff::new(config.retry_backoff_min, config.retry_backoff_max);
        let mut position = Position::new(topic, id.partition, at, backoff);
        // An answer to a fetch before this assignment must not be taken for one of it.
        if let Some(old) = self.positions.get(&id) {
            position.continue_generations(old.generation());
        }
        self.positions.insert(id, position);
    }

    /// Keeps only the partitions for which `keep` holds.
    pub(super) fn retain(&mut self, keep: impl Fn(&TopicIdPartition, &Position) -> bool) {
        self.positions.retain(|id, position| keep(id, position));
    }

    pub(super) fn position(&self, topic: &str, partition: PartitionIndex) -> Option<&Position> {
        let of = |id: &TopicIdPartition, p: &Position| {
            id.partition == partition && **p.topic() == *topic
        };
        self.positions
            .iter()
            .find(|(id, p)| of(id, p))
            .map(|(_, p)| p)
    }

    pub(super) fn position_mut(
        &mut self,
        topic: &str,
        partition: PartitionIndex,
    ) -> Option<&mut Position> {
        let of = |id: &TopicIdPartition, p: &Position| {
            id.partition == partition && **p.topic() == *topic
        };
        self.positions
            .iter_mut()
            .find(|(id, p)| of(id, p))
            .map(|(_, p)| p)
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = (&TopicIdPartition, &Position)> {
        self.positions.iter()
    }

    /// Moves a partition whose position was found anew, unless it was moved meanwhile.
    pub(super) fn on_reset_found(&mut self, id: TopicIdPartition, to: Offset) {
        if let Some(position) = self.positions.get_mut(&id).filter(|p| p.reset().is_some()) {
            position.seek(to);
        }
    }

    /// The first failure that the application must hear of.
    pub(super) fn failure(&self) -> Option<&ConsumeError> {
        self.positions.values().find_map(Position::failure)
    }

    /// Sends what can be sent.
    pub(super) fn drive(&mut self, now: Instant, view: &ClusterSnapshot) {
        for stream in self.links.streams_to_gone(view) {
            self.effects.push(Effect::Close { stream });
            self.on_stream_closed(now, stream, "the broker left the cluster");
        }
        // What is left of a round goes into another fetch, of which there are a few.
        while self.draft_and_send(now, view) {}
    }

    /// Sends a request to each broker that one is due to. Whether there is more to send.
    fn draft_and_send(&mut self, now: Instant, view: &ClusterSnapshot) -> bool {
        let mut held: usize = self.positions.values().map(Position::buffered_bytes).sum();
        let ahead = self.config.partition_max_bytes as usize;
        let mut drafts: BTreeMap<NodeId, Draft> = BTreeMap::new();
        let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
        for id in self.in_turn() {
            let Some(position) = self.positions.get_mut(&id) else {
                continue;
            };
            if view.topic_by_id(id.topic).is_none() {
                let topic = position.topic().to_string();
                position.on_failure(ConsumeError::TopicDeleted { topic });
                continue;
            }
            let Some((broker, epoch)) = view.leader(id.topic, id.partition) else {
                position.on_trouble(now, "there is no leader");
                continue;
            };
            *led.entry(broker.node_id).or_default() += 1;
            if !position.wants_fetch(now, epoch, ahead) {
                continue;
            }
            let draft = drafts.entry(broker.node_id).or_default();
            // What waits for records costs little: an answer ends with the first, and is bounded.
            let cost = match draft.has_quiet && !position.lags() {
                true => 0,
                false => ahead,
            };
            if cost > 0 && held >= self.config.buffer_bytes {
                continue;
            }
            let link = self.links.to(broker);
            let free = FETCHES_PER_BROKER_MAX.saturating_sub(link.in_flight());
            if link.down_until(now).is_some() || free == 0 {
                continue;
            }
            if draft.asked.len() >= room(free, self.led.get(&broker.node_id)) {
                draft.is_cut = true;
                continue;
            }
            held += cost;
            draft.has_quiet |= !position.lags();
            position.on_sent();
            let generation = position.generation();
            let part = fetch_partition(id, position, epoch, ahead);
            draft.request.partitions.push(part);
            draft.asked.insert(id, Asked { generation, epoch });
        }
        self.led = led;
        let mut is_more = false;
        for (node, draft) in drafts {
            if !draft.asked.is_empty() {
                is_more |= draft.is_cut;
                self.first = request_successor(&self.positions, &draft.asked);
                self.send(now, node, draft.request, draft.asked);
            }
        }
        is_more
    }

    /// All partitions, beginning with another one each time.
    fn in_turn(&self) -> Vec<TopicIdPartition> {
        let mut all: Vec<_> = self.positions.keys().copied().collect();
        if let Some(first) = self.first {
            let at = all.partition_point(|id| *id < first);
            all.rotate_left(at);
        }
        all
    }

    fn send(
        &mut self,
        now: Instant,
        node: NodeId,
        mut request: v1::FetchRequest,
        partitions: AskedOf,
    ) {
        request.request_id = self.links.next_request();
        request.max_wait_ms = u32::try_from(self.config.max_wait.as_millis()).unwrap_or(u32::MAX);
        request.min_bytes = self.config.min_bytes;
        request.max_bytes = self.config.max_bytes;
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

    pub(super) fn on_response(&mut self, now: Instant, response: v1::FetchResponse) {
        let Some((partitions, _)) = self.links.on_answer(response.request_id) else {
            return;
        };
        let failed = response.results.iter().filter(|it| it.error.is_some());
        let failed: BTreeSet<_> = failed
            .filter_map(|it| self.identify(it.partition.as_ref(), &partitions))
            .collect();
        for (id, asked) in &partitions {
            if let Some(position) = self.asked(*id, *asked) {
                position.on_answered();
                if !failed.contains(id) {
                    position.on_well();
                }
            }
        }
        for result in response.results {
            let Some(id) = self.identify(result.partition.as_ref(), &partitions) else {
                continue;
            };
            let asked = partitions[&id];
            self.on_result(now, id, asked, result);
        }
    }

    fn on_result(
        &mut self,
        now: Instant,
        id: TopicIdPartition,
        asked: Asked,
        result: v1::FetchResult,
    ) {
        let auto_reset = self.config.auto_reset;
        let Some(position) = self.asked(id, asked) else {
            return;
        };
        let Some(error) = result.error else {
            position.on_batches(Offset(result.high_watermark), &result.batches);
            return;
        };
        let refusal = ApiError::from(&error);
        match refusal.code {
            ErrorCode::OffsetOutOfRange => match auto_reset {
                Some(AutoReset::Earliest) => position.on_reset(OffsetSpec::Earliest),
                Some(AutoReset::Latest) => position.on_reset(OffsetSpec::Latest),
                None => {
                    let failure = ConsumeError::OffsetOutOfRange {
                        topic: position.topic().to_string(),
                        partition: id.partition,
                        offset: position.fetch_next(),
                        log_start_offset: Offset(result.log_start_offset),
                        high_watermark: Offset(result.high_watermark),
                    };
                    position.on_failure(failure);
                }
            },
            code if code.is_retriable() => {
                position.on_retriable(now, asked.epoch);
                position.on_trouble(now, &refusal.to_string());
                let suspicious = position.failed_attempts() >= SUSPICION_AFTER;
                self.suspect_if(suspicious);
                if let Some(hint) = error.leader {
                    let partition = id;
                    self.effects.push(Effect::LearnLeader { partition, hint });
                }
            }
            _ => {
                let failure = ConsumeError::Refused {
                    topic: position.topic().to_string(),
                    partition: id.partition,
                    error: refusal,
                };
                position.on_failure(failure);
            }
        }
    }

    /// A stream ended; nothing on it will be answered.
    pub(super) fn on_stream_closed(&mut self, now: Instant, stream: u64, reason: &str) {
        let Some(lost) = self.links.on_closed(now, stream) else {
            return;
        };
        for (_, partitions) in lost.requests {
            let mut suspicious = false;
            for (id, asked) in &partitions {
                if let Some(position) = self.asked(*id, *asked) {
                    position.on_answered();
                    position.on_retriable(now, asked.epoch);
                    position.on_trouble(now, reason);
                    suspicious |= position.failed_attempts() >= SUSPICION_AFTER;
                }
            }
            self.suspect_if(suspicious);
        }
    }

    /// Gives up streams that do not answer.
    pub(super) fn on_tick(&mut self, now: Instant) {
        let wait = self.config.max_wait + STALL;
        let stalled = self.links.has_stalled(now, wait);
        self.suspect_if(stalled);
        for stream in self.links.late_streams(now, self.answer_limit()) {
            self.effects.push(Effect::Close { stream });
            self.on_stream_closed(now, stream, "the leader does not answer");
        }
    }

    /// Hands out up to the configured number of records, partition after partition.
    pub(super) fn take_records(&mut self) -> Result<Vec<ConsumedRecord>, ConsumeError> {
        let most = self.config.max_poll_records;
        let mut out = Vec::new();
        for id in self.in_turn() {
            let left = most - out.len();
            let Some(position) = self.positions.get_mut(&id).filter(|_| left > 0) else {
                continue;
            };
            match position.take_records(left, &mut out) {
                Ok(()) => {}
                // What was taken before is handed out first; the failure is kept.
                Err(_) if !out.is_empty() => break,
                Err(error) => return Err(error),
            }
            if out.len() == most {
                self.first = Some(id);
            }
        }
        Ok(out)
    }

    /// When something is due without anything happening.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let retries = self.positions.values().filter_map(Position::retry_at);
        retries
            .chain(self.links.deadlines(now, self.answer_limit()))
            .filter(|at| *at > now)
            .min()
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn answer_limit(&self) -> Duration {
        self.config.max_wait + self.request_timeout
    }

    fn suspect_if(&mut self, suspicious: bool) {
        if suspicious && !self.effects.contains(&Effect::SuspectView) {
            self.effects.push(Effect::SuspectView);
        }
    }

    /// The position that a fetch was for, if it is still the same.
    fn asked(&mut self, id: TopicIdPartition, asked: Asked) -> Option<&mut Position> {
        let position = self.positions.get_mut(&id)?;
        (position.generation() == asked.generation).then_some(position)
    }

    /// Which of the partitions asked for a result is about. A broker may answer with the id, the
    /// name, or both.
    fn identify(
        &self,
        partition: Option<&v1::TopicPartition>,
        asked: &AskedOf,
    ) -> Option<TopicIdPartition> {
        let partition = partition?;
        let index = PartitionIndex(partition.partition);
        let found = match TopicId::from_slice(&partition.topic_id) {
            Some(topic) => Some(TopicIdPartition::new(topic, index)),
            None => asked.keys().copied().find(|id| {
                let position = self.positions.get(id);
                id.partition == index && position.is_some_and(|p| **p.topic() == *partition.topic)
            }),
        };
        found.filter(|id| asked.contains_key(id))
    }
}

/// How many partitions a fetch may have where `free` more may be in flight to a broker that leads
/// so many. The last one has all, so that none waits until another ends.
fn room(free: usize, led: Option<&usize>) -> usize {
    match free {
        1 => PARTITIONS_PER_MESSAGE_MAX,
        _ => led.map_or(TOGETHER, |led| TOGETHER.max(led.div_ceil(SHARES))),
    }
}

/// The partition behind the last of a request: next time it is the first.
fn request_successor(
    positions: &BTreeMap<TopicIdPartition, Position>,
    asked: &AskedOf,
) -> Option<TopicIdPartition> {
    let first = asked.keys().next()?;
    let behind = (
        std::ops::Bound::Excluded(*first),
        std::ops::Bound::Unbounded,
    );
    positions.range(behind).next().map(|(id, _)| *id)
}

fn fetch_partition(
    id: TopicIdPartition,
    position: &Position,
    epoch: LeaderEpoch,
    bytes: usize,
) -> v1::FetchPartition {
    v1::FetchPartition {
        partition: Some(v1::TopicPartition {
            topic: position.topic().to_string(),
            topic_id: Bytes::copy_from_slice(id.topic.as_bytes()),
            partition: id.partition.0,
        }),
        offset: position.fetch_next().0,
        max_bytes: bytes as u32,
        leader_epoch: Some(epoch.0),
    }
}

#[cfg(test)]
mod tests;
