//! The sender against a model of a cluster that loses streams, moves leaders, refuses and forgets
//! to answer, over many seeds. Then everything heals, and what the producer was told must agree
//! with the log.

use std::collections::{BTreeMap, VecDeque};

use futures::FutureExt;
use ottla_model::batch::{NewRecord, decode_records, validate_batch};
use ottla_model::compression::Compression;
use ottla_model::{PartitionIndex, TopicId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::error::ProduceError;
use crate::producer::accumulator::Accumulator;
use crate::producer::completion::{Delivered, DeliveryFuture};

const PARTITIONS: i32 = 3;
const NODES: i32 = 3;
/// Batches of more records than this are refused as too large.
const RECORDS_MAX: usize = 6;

fn topic() -> TopicId {
    TopicId::from_bytes([9; 16])
}

/// One partition's log as all its leaders share it, with Kafka's rules for sequences.
#[derive(Default)]
struct Log {
    values: Vec<u64>,
    producers: BTreeMap<i64, VecDeque<(i32, i32, i64)>>,
}

impl Log {
    fn append(&mut self, batch: &bytes::Bytes) -> Result<i64, ErrorCode> {
        let header = validate_batch(batch).unwrap();
        let records = decode_records(batch, 1 << 20).unwrap();
        if records.len() > RECORDS_MAX {
            return Err(ErrorCode::MessageTooLarge);
        }
        let (first, last) = (header.base_sequence, header.last_sequence());
        let known = self.producers.entry(header.producer_id.0).or_default();
        if let Some((_, _, base)) = known.iter().find(|(f, l, _)| (*f, *l) == (first, last)) {
            return Ok(*base);
        }
        let expected = known.back().map_or(0, |(_, last, _)| last + 1);
        if first != expected {
            return Err(ErrorCode::OutOfOrderSequenceNumber);
        }
        let base = self.values.len() as i64;
        known.push_back((first, last, base));
        if known.len() > 5 {
            known.pop_front();
        }
        self.values.extend(records.iter().map(|record| {
            u64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap())
        }));
        Ok(base)
    }
}

struct Stream {
    node: i32,
    requests: VecDeque<v1::ProduceRequest>,
    responses: VecDeque<v1::ProduceResponse>,
}

struct World {
    rng: StdRng,
    now: Instant,
    view: ClusterSnapshot,
    /// The leaders as they are; the view lags.
    leaders: Vec<(i32, i32)>,
    logs: Vec<Log>,
    streams: BTreeMap<u64, Stream>,
    /// Requests of broken streams that a broker still carries out later.
    zombies: Vec<(i32, v1::ProduceRequest)>,
    accumulator: Accumulator,
    sender: Sender,
    identities: i64,
    identity_wanted: bool,
    sent: Vec<(i32, u64, DeliveryFuture)>,
    faults: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let ms = Duration::from_millis;
        let mut world = World {
            rng: StdRng::seed_from_u64(seed),
            now: Instant::ZERO,
            view: ClusterSnapshot::default(),
            leaders: (0..PARTITIONS).map(|p| (p % NODES, 0)).collect(),
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            streams: BTreeMap::new(),
            zombies: Vec::new(),
            accumulator: Accumulator::new(ms(5), 600, Compression::None, seed),
            sender: Sender::new(SenderSettings {
                acks: v1::Acks::All,
                idempotent: true,
                window: 5,
                request_bytes: 1_000,
                request_timeout: ms(1_000),
                delivery_timeout: ms(4_000),
                retry_backoff: Backoff::new(ms(20), ms(200)),
                reconnect_backoff: Backoff::new(ms(20), ms(200)),
            }),
            identities: 100,
            identity_wanted: false,
            sent: Vec::new(),
            faults: true,
        };
        world.publish_leaders();
        world
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.faults && self.rng.random_range(0..100) < percent
    }

    fn publish_leaders(&mut self) {
        let broker = |node_id| v1::BrokerView {
            node_id,
            client_endpoint: Some(v1::Endpoint {
                host: "n".to_owned(),
                port: 9_000 + node_id as u32,
            }),
            ..v1::BrokerView::default()
        };
        let partition = |(index, (leader, epoch)): (usize, &(i32, i32))| v1::PartitionView {
            partition: index as i32,
            leader_id: Some(*leader),
            leader_epoch: *epoch,
            ..v1::PartitionView::default()
        };
        self.view.merge_change(
            &v1::ClusterView {
                brokers: (0..NODES).map(broker).collect(),
                topics: vec![v1::TopicView {
                    name: "t".to_owned(),
                    topic_id: topic().as_bytes().to_vec().into(),
                    partitions: self.leaders.iter().enumerate().map(partition).collect(),
                    internal: false,
                }],
                ..v1::ClusterView::default()
            },
            &[],
        );
        self.sender.on_view_changed();
    }

    fn append_record(&mut self, value: u64) {
        let index = self.rng.random_range(0..PARTITIONS);
        let padding = vec![0; self.rng.random_range(0..80)];
        let bytes = value.to_be_bytes();
        let record = NewRecord {
            key: Some(&padding),
            value: Some(&bytes),
            ..NewRecord::default()
        };
        let to = TopicIdPartition::new(topic(), PartitionIndex(index));
        let size = padding.len() + 50;
        let appended = self
            .accumulator
            .append(|| self.now, to, &record, size)
            .unwrap();
        let future = DeliveryFuture::new(appended.completion, appended.index);
        self.sent.push((index, value, future));
    }

    fn drive(&mut self) {
        self.sender.on_ready(self.accumulator.take_ready(self.now));
        let (now, accumulator) = (self.now, &mut self.accumulator);
        self.sender
            .drive(now, &self.view, &mut |p| accumulator.take(now, p));
        for effect in self.sender.take_effects() {
            match effect {
                Effect::Send {
                    stream,
                    endpoint,
                    request,
                } => {
                    let node = endpoint.strip_prefix("n:900").unwrap().parse().unwrap();
                    let new = || Stream {
                        node,
                        requests: VecDeque::new(),
                        responses: VecDeque::new(),
                    };
                    self.streams
                        .entry(stream)
                        .or_insert_with(new)
                        .requests
                        .push_back(request);
                }
                Effect::Close { stream } => self.abandon(stream),
                Effect::TakeIdentity => self.identity_wanted = true,
                Effect::LearnLeader { partition, hint } => {
                    self.view
                        .merge_leader(partition.topic, partition.partition, &hint);
                    self.sender.on_view_changed();
                }
                Effect::SuspectView => self.publish_leaders(),
            }
        }
        for finished in self.sender.take_finished() {
            if let Some(number) = finished.number {
                self.accumulator.on_complete(number);
            }
        }
    }

    /// A stream is gone; what was on its way may still be carried out, now or later.
    fn abandon(&mut self, id: u64) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        let arrived = self.rng.random_range(0..=stream.requests.len());
        for request in stream.requests.into_iter().take(arrived) {
            // A broker that lost the connection finishes soon, long before records are given up.
            self.zombies.push((stream.node, request));
        }
        if self.rng.random_bool(0.7) {
            self.run_zombies();
        }
    }

    fn run_zombies(&mut self) {
        for (node, request) in std::mem::take(&mut self.zombies) {
            self.carry_out(node, request);
        }
    }

    /// What a broker does with a request.
    fn carry_out(&mut self, node: i32, request: v1::ProduceRequest) -> v1::ProduceResponse {
        let mut results = Vec::new();
        for partition in request.partitions {
            let index = partition.partition.as_ref().unwrap().partition as usize;
            let result = self.append(node, index, &partition.batch);
            let (base_offset, error) = match result {
                Ok(base) => (base, None),
                Err(code) => (-1, Some(v1::Error::from(&ApiError::new(code, "injected")))),
            };
            results.push(v1::ProduceResult {
                partition: partition.partition,
                error,
                base_offset,
                ..v1::ProduceResult::default()
            });
        }
        v1::ProduceResponse {
            request_id: request.request_id,
            results,
        }
    }

    fn append(&mut self, node: i32, index: usize, batch: &bytes::Bytes) -> Result<i64, ErrorCode> {
        if self.leaders[index].0 != node {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        if self.chance(5) {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        if self.chance(1) {
            return Err(ErrorCode::InvalidRecord);
        }
        let base = self.logs[index].append(batch)?;
        if self.chance(4) {
            return Err(ErrorCode::RequestTimedOut);
        }
        if self.chance(1) {
            return Err(ErrorCode::UnknownServerError);
        }
        Ok(base)
    }

    fn step(&mut self, value: &mut u64) {
        for _ in 0..self.rng.random_range(0..4) {
            if self.faults {
                self.append_record(*value);
                *value += 1;
            }
        }
        self.drive();
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            self.step_stream(id);
        }
        if self.identity_wanted && !self.chance(50) {
            self.identity_wanted = false;
            self.identities += 1;
            self.sender
                .on_identity(Ok((ProducerId(self.identities), ProducerEpoch(0))));
        }
        if self.chance(3) {
            let index = self.rng.random_range(0..PARTITIONS as usize);
            let (leader, epoch) = self.leaders[index];
            self.leaders[index] = ((leader + 1) % NODES, epoch + 1);
        }
        if !self.faults || self.chance(10) {
            self.publish_leaders();
        }
        // Now and then time jumps, so that requests and records become too old.
        let passed = if self.chance(1) {
            2_000
        } else {
            self.rng.random_range(0..10)
        };
        self.run_zombies();
        self.now = self.now + Duration::from_millis(passed);
        self.sender.on_tick(self.now);
        if let Some(before) = self.now.0.checked_sub(4_000_000_000) {
            for (partition, batch) in self.accumulator.take_expired(Instant(before)) {
                self.sender.expire_pending(partition, &batch);
            }
        }
    }

    fn step_stream(&mut self, id: u64) {
        if self.chance(3) {
            self.abandon(id);
            self.sender.on_stream_closed(self.now, id, true, "injected");
            return;
        }
        let handled = self.rng.random_range(0..4);
        for _ in 0..handled {
            let Some(stream) = self.streams.get_mut(&id) else {
                return;
            };
            let Some(request) = stream.requests.pop_front() else {
                break;
            };
            let node = stream.node;
            let response = self.carry_out(node, request);
            if let Some(stream) = self.streams.get_mut(&id) {
                // Answers need not come in the order of their requests.
                let at = self.rng.random_range(0..=stream.responses.len());
                stream.responses.insert(at, response);
            }
        }
        if self.rng.random_bool(0.7)
            && let Some(response) = self
                .streams
                .get_mut(&id)
                .and_then(|stream| stream.responses.pop_front())
        {
            self.sender.on_response(self.now, response);
        }
    }

    /// Every record's outcome must agree with the log.
    fn check(mut self, seed: u64) -> usize {
        let sent = std::mem::take(&mut self.sent);
        let mut acked = 0;
        let mut last: BTreeMap<i32, i64> = BTreeMap::new();
        for (index, value, future) in sent {
            let log = &self.logs[index as usize].values;
            let copies: Vec<_> = (0..).zip(log).filter(|(_, v)| **v == value).collect();
            let outcome: Result<Delivered, ProduceError> = future
                .now_or_never()
                .unwrap_or_else(|| panic!("seed {seed}: record {value} has no outcome"));
            assert!(
                copies.len() <= 1,
                "seed {seed}: {value} is there {} times",
                copies.len()
            );
            match outcome {
                Ok(delivered) => {
                    acked += 1;
                    let offset = delivered.offset.0;
                    assert_eq!(
                        copies.len(),
                        1,
                        "seed {seed}: {value} was acked and is not there"
                    );
                    assert_eq!(
                        i64::from(copies[0].0),
                        offset,
                        "seed {seed}: offset of {value}"
                    );
                    let previous = last.insert(index, offset).unwrap_or(-1);
                    assert!(
                        offset > previous,
                        "seed {seed}: {value} at {offset} is out of order"
                    );
                }
                Err(error) if error.outcome == Outcome::Definite => {
                    let at = copies.first();
                    assert!(
                        at.is_none(),
                        "seed {seed}: {value} failed ({error}) and is at {at:?}"
                    );
                }
                Err(_) => {}
            }
        }
        acked
    }
}

fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed);
    let mut value = 0;
    for _ in 0..400 {
        world.step(&mut value);
    }
    world.faults = false;
    world.accumulator.flush();
    for _ in 0..2_000 {
        world.step(&mut value);
        if world.accumulator.is_drained() && !world.sender.is_busy() {
            break;
        }
    }
    (world.check(seed), value as usize)
}

#[test]
fn what_the_producer_was_told_agrees_with_the_log_whatever_fails() {
    let (mut acked, mut sent) = (0, 0);
    for seed in 0..150 {
        let (a, s) = run(seed);
        acked += a;
        sent += s;
    }
    // The faults must not be so many that nothing is proved.
    assert!(
        acked * 2 > sent,
        "only {acked} of {sent} records were acknowledged"
    );
}
