//! The shell of three cores: carries out effects, moves messages, crashes and restarts nodes. What
//! moves when is decided by the caller.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use ottla_broker_core::{
    Acks, Effect, FollowerAck, FollowerState, Input, LeaderData, Partition, PartitionSetup,
    Produce, ProduceAck, ProduceError, Producers, ReplyId, Role, Trim,
};
use ottla_model::batch::validate_batch;
use ottla_model::{
    BrokerEpoch, ErrorCode, Instant, LeaderEpoch, NodeId, Offset, PartitionEpoch, PartitionIndex,
    TimestampMs, TopicId, TopicIdPartition,
};

use super::checker::Checker;
use super::controller::{AlterRequest, Controller};
use super::disk::Disk;
use super::show::{describe_reply, list};

/// The most inputs of one history; more mean that messages go round in circles.
const STEPS_MAX: u64 = 50_000;
/// The most batches in one push.
const PUSH_BATCHES: usize = 3;

/// What a leader pushes to one follower, and what it told last.
#[derive(Debug, Clone, Copy)]
struct Push {
    next: Offset,
    told: Option<(Offset, Offset)>,
}

#[derive(Debug)]
pub struct Node {
    /// `None` while the node is down.
    pub core: Option<Partition>,
    pub disk: Disk,
    broker_epoch: BrokerEpoch,
    pushes: BTreeMap<NodeId, Push>,
    /// The images delivered so far.
    seen: usize,
    reload: Option<Producers>,
}

/// A follower's stream to a leader: in order, and lost as a whole.
#[derive(Debug, Default)]
struct Stream {
    is_up: bool,
    to_leader: VecDeque<Input>,
    to_follower: VecDeque<Input>,
}

type Answer = (NodeId, PartitionEpoch, Result<(), ErrorCode>);

pub struct Cluster {
    pub now: Instant,
    pub nodes: BTreeMap<NodeId, Node>,
    pub controller: Controller,
    pub checker: Checker,
    /// What people should see, since they last looked.
    pub events: Vec<String>,
    pub replies: Vec<(ReplyId, Result<ProduceAck, ProduceError>)>,
    /// A digest of every input, to compare two runs.
    pub trace: u64,
    pub steps: u64,
    streams: BTreeMap<(NodeId, NodeId), Stream>,
    /// Pairs that do not hear each other; node 0 is the controller.
    cut: BTreeSet<(NodeId, NodeId)>,
    requests: VecDeque<AlterRequest>,
    answers: VecDeque<Answer>,
    next_reply: u64,
}

pub const CONTROLLER: NodeId = NodeId(0);

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Cluster {
    pub fn new(replicas: &[i32], isr: &[i32], min_isr: usize) -> Cluster {
        let mut cluster = Cluster {
            now: Instant(1_000_000_000),
            nodes: BTreeMap::new(),
            controller: Controller::new(replicas, isr, min_isr),
            checker: Checker::default(),
            events: Vec::new(),
            replies: Vec::new(),
            trace: 0,
            steps: 0,
            streams: BTreeMap::new(),
            cut: BTreeSet::new(),
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            next_reply: 1,
        };
        for id in replicas.iter().map(|id| NodeId(*id)) {
            let broker_epoch = cluster.controller.register_first(id);
            let node = Node {
                core: None,
                disk: Disk::default(),
                broker_epoch,
                pushes: BTreeMap::new(),
                seen: 0,
                reload: None,
            };
            cluster.nodes.insert(id, node);
        }
        let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
        for id in ids {
            cluster.boot(id);
        }
        cluster
    }

    pub fn is_up(&self, id: NodeId) -> bool {
        self.nodes[&id].core.is_some()
    }

    fn boot(&mut self, id: NodeId) {
        let node = self.node(id);
        let setup = PartitionSetup {
            local: id,
            id: TopicIdPartition::new(TopicId::ZERO, PartitionIndex(0)),
            replica_lag_time_max: Duration::from_secs(10),
            producer_expiration_ms: 86_400_000,
        };
        node.core = Some(Partition::new(setup, node.disk.recover()));
        self.open_streams();
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the cluster")
    }

    /// Opens every stream whose ends are up and hear each other; closes the others.
    fn open_streams(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for follower in &ids {
            for leader in ids.iter().filter(|leader| *leader != follower) {
                let (follower, leader) = (*follower, *leader);
                let may = self.is_up(follower)
                    && self.is_up(leader)
                    && !self.cut.contains(&pair(follower, leader));
                let stream = self.streams.entry((follower, leader)).or_default();
                if stream.is_up == may {
                    continue;
                }
                *stream = Stream {
                    is_up: may,
                    ..Stream::default()
                };
                if may {
                    self.step(follower, Input::LeaderConnected { leader });
                } else {
                    self.node(leader).pushes.remove(&follower);
                    self.step(follower, Input::LeaderDisconnected { leader });
                    self.step(leader, Input::FollowerGone { follower });
                }
            }
        }
    }

    pub fn cut(&mut self, a: NodeId, b: NodeId) {
        self.cut.insert(pair(a, b));
        self.open_streams();
    }

    /// Cuts the node off from all others and from the controller.
    pub fn isolate(&mut self, id: NodeId) {
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|n| *n != id).collect();
        self.cut.extend(others.iter().map(|other| pair(id, *other)));
        self.cut.insert(pair(id, CONTROLLER));
        self.open_streams();
    }

    pub fn heal(&mut self, id: Option<NodeId>) {
        self.cut
            .retain(|(a, b)| id.is_some_and(|id| *a != id && *b != id));
        self.open_streams();
    }

    pub fn hears_controller(&self, id: NodeId) -> bool {
        self.is_up(id) && !self.cut.contains(&pair(id, CONTROLLER))
    }

    pub fn crash(&mut self, id: NodeId) {
        let node = self.node(id);
        node.core = None;
        node.pushes.clear();
        node.reload = None;
        node.disk.recover();
        self.answers.retain(|(to, ..)| *to != id);
        self.open_streams();
    }

    pub fn restart(&mut self, id: NodeId) {
        let broker_epoch = self.controller.register(id);
        let seen = self.controller.images.len() - 1;
        let node = self.node(id);
        node.broker_epoch = broker_epoch;
        node.seen = seen;
        self.boot(id);
    }

    /// One input into one core, and everything it asks for.
    pub fn step(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        if !self.is_up(id) {
            return;
        }
        let mut hasher = DefaultHasher::new();
        (self.trace, id, now, format!("{input:?}")).hash(&mut hasher);
        self.trace = hasher.finish();
        self.steps += 1;
        assert!(
            self.steps < STEPS_MAX,
            "the cluster does not come to rest: {input:?} to {id} with {:#?}",
            self.status()
        );
        let Some(core) = self.nodes.get_mut(&id).and_then(|node| node.core.as_mut()) else {
            return;
        };
        let term = (core.role(), core.leader_epoch());
        let mut effects = Vec::new();
        core.step(now, input, &mut effects);
        if core.role() == Role::Leader {
            self.checker.leads(core.leader_epoch(), id);
        }
        if (core.role(), core.leader_epoch()) != term {
            self.node(id).pushes.clear();
        }
        for effect in effects {
            self.run(id, effect);
        }
        self.push(id);
    }

    fn run(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Append {
                ticket,
                batches,
                stamp,
            } => self.node(id).disk.append(ticket, &batches, stamp),
            Effect::Truncate { to } => {
                self.events.push(format!("{id}: truncates to {to}"));
                self.node(id).disk.truncate(to);
            }
            Effect::RestartAt { offset } => {
                self.events.push(format!("{id}: restarts at {offset}"));
                self.node(id).disk.restart_at(offset);
            }
            Effect::AdvanceLogStart { ticket, to } => {
                self.node(id).disk.advance_start(ticket, to);
            }
            Effect::SkipTo { offset } => self.node(id).disk.skip_to(offset),
            Effect::LogStartAdvanced { .. } => {}
            Effect::TrimReply { reply, result } => {
                if let Ok(low) = result {
                    self.checker.trimmed = self.checker.trimmed.max(low);
                }
                let result = match result {
                    Ok(low) => format!("low watermark {low}"),
                    Err(error) => error.to_string(),
                };
                self.events.push(format!("reply {}: {result}", reply.0));
            }
            Effect::ReloadProducers => {
                let node = self.node(id);
                node.reload = Some(node.disk.written.producers());
            }
            Effect::Reply { reply, result } => {
                self.events.push(describe_reply(reply, &result));
                self.replies.push((reply, result));
            }
            Effect::HighWatermarkAdvanced { to } => self.on_high_watermark(id, to),
            Effect::AlterPartition {
                leader_epoch,
                partition_epoch,
                isr,
            } => {
                let members = list(isr.iter().map(|(node, _)| *node));
                self.events.push(format!("{id}: asks for ISR {members}"));
                self.requests.push_back(AlterRequest {
                    from: id,
                    leader_epoch,
                    partition_epoch,
                    isr,
                });
            }
            other => self.run_between(id, other),
        }
    }

    /// The effects that concern other replicas.
    fn run_between(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::StartFollower { follower, from } => {
                let push = Push {
                    next: from,
                    told: None,
                };
                self.node(id).pushes.insert(follower, push);
            }
            Effect::Diverged {
                follower,
                epoch,
                end_offset,
            } => {
                self.events.push(format!(
                    "{id}: tells {follower} that epoch {epoch} ends at {end_offset}"
                ));
                self.send_down(id, follower, |leader_epoch| Input::LeaderDiverged {
                    leader_epoch,
                    epoch,
                    end_offset,
                });
            }
            Effect::RefuseFollower { follower, error } => {
                self.events
                    .push(format!("{id}: refuses {follower}: {error}"));
                self.send_down(id, follower, |leader_epoch| Input::LeaderRefused {
                    leader_epoch,
                    error,
                });
            }
            Effect::SendState { leader, state } => {
                let follower = id;
                let broker_epoch = self.node(id).broker_epoch;
                let input = Input::FollowerState(FollowerState {
                    follower,
                    broker_epoch,
                    leader_epoch: state.leader_epoch,
                    log_end: state.log_end,
                    durable_end: state.durable_end,
                    last_epoch: state.last_epoch,
                    log_start: state.log_start,
                });
                self.send_up(id, leader, input);
            }
            Effect::SendAck {
                leader,
                leader_epoch,
                durable_end,
                log_start,
            } => {
                let ack = FollowerAck {
                    follower: id,
                    broker_epoch: self.node(id).broker_epoch,
                    leader_epoch,
                    durable_end,
                    log_start,
                };
                self.send_up(id, leader, Input::FollowerAck(ack));
            }
            other => panic!("not between replicas: {other:?}"),
        }
    }

    fn on_high_watermark(&mut self, id: NodeId, to: Offset) {
        let node = &self.nodes[&id];
        let Some(core) = &node.core else { return };
        if core.role() == Role::Leader {
            assert!(
                core.isr().len() >= self.controller.image().min_insync_replicas,
                "node {id} committed up to {to} with the ISR {:?}",
                core.isr()
            );
            self.checker.committed(&node.disk.written, to);
        }
    }

    fn send_down(
        &mut self,
        leader: NodeId,
        follower: NodeId,
        input: impl FnOnce(LeaderEpoch) -> Input,
    ) {
        self.node(leader).pushes.remove(&follower);
        let epoch = self.nodes[&leader]
            .core
            .as_ref()
            .map_or(LeaderEpoch::NONE, Partition::leader_epoch);
        if let Some(stream) = self.streams.get_mut(&(follower, leader))
            && stream.is_up
        {
            stream.to_follower.push_back(input(epoch));
        }
    }

    fn send_up(&mut self, follower: NodeId, leader: NodeId, input: Input) {
        if let Some(stream) = self.streams.get_mut(&(follower, leader))
            && stream.is_up
        {
            stream.to_leader.push_back(input);
        }
    }

    /// Pushes to each follower what it does not have yet, and positions that changed.
    fn push(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let Some(core) = &node.core else { return };
        if core.role() != Role::Leader {
            return;
        }
        for (follower, push) in &mut node.pushes {
            let Some(stream) = self.streams.get_mut(&(*follower, id)) else {
                continue;
            };
            loop {
                let from = push.next.max(core.log_start());
                let (headers, batches) = node.disk.written.read(from, PUSH_BATCHES);
                let positions = (core.high_watermark(), core.log_start());
                let to = headers.last().map_or(core.log_end(), |h| h.next_offset());
                if headers.is_empty() && push.told == Some(positions) && push.next >= to {
                    break;
                }
                push.next = to;
                push.told = Some(positions);
                stream.to_follower.push_back(Input::LeaderData(LeaderData {
                    leader_epoch: core.leader_epoch(),
                    from,
                    to: to.max(from),
                    headers,
                    batches,
                    high_watermark: positions.0,
                    log_start: positions.1,
                }));
            }
        }
    }

    pub fn produce(&mut self, id: NodeId, acks: Acks, batch: Bytes) -> ReplyId {
        let reply = ReplyId(self.next_reply);
        self.next_reply += 1;
        let produce = Produce {
            reply,
            acks,
            deadline: self.now + Duration::from_secs(30),
            wall_ms: self.wall_ms(),
            expected_leader_epoch: None,
            header: validate_batch(&batch).expect("a valid batch"),
            batch,
        };
        self.step(id, Input::Produce(produce));
        reply
    }

    fn wall_ms(&self) -> TimestampMs {
        TimestampMs((self.now.0 / 1_000_000) as i64)
    }

    /// Makes up to `count` changes durable. Returns whether there were any.
    pub fn flush(&mut self, id: NodeId, count: usize) -> bool {
        if !self.is_up(id) || self.nodes[&id].disk.unflushed() == 0 {
            return false;
        }
        if let Some(ticket) = self.node(id).disk.flush(count) {
            self.step(id, Input::Flushed { ticket });
        }
        true
    }

    /// Retention drops what is below `from` on a leader.
    pub fn retain(&mut self, id: NodeId, from: Offset) {
        self.step(id, Input::Retain { from });
    }

    /// Somebody wants what is below `to` dropped, and to hear when that cannot be undone.
    pub fn trim(&mut self, id: NodeId, to: Option<Offset>) {
        let reply = ReplyId(self.next_reply);
        self.next_reply += 1;
        let trim = Trim {
            reply,
            to,
            expected_leader_epoch: None,
            deadline: self.now + Duration::from_secs(30),
        };
        self.step(id, Input::Trim(trim));
    }

    /// Compaction removes batches of one node's log, below its high watermark and below `below`,
    /// but not the last of them, nor the first of a leader epoch, nor any by which a producer is
    /// known.
    pub fn compact(&mut self, id: NodeId, below: Offset, removes: impl Fn(Offset) -> bool) {
        let Some(core) = &self.nodes[&id].core else {
            return;
        };
        let Some(remembered) = core.remembered_batches() else {
            return;
        };
        let bound = below.min(core.high_watermark());
        let disk = &self.nodes[&id].disk;
        let mut whole: Vec<Offset> = disk
            .durable
            .batches
            .iter()
            .filter(|(header, _)| header.next_offset() <= bound)
            .filter(|(header, _)| {
                !header.is_idempotent() || !remembered.contains(&header.last_offset())
            })
            .map(|(header, _)| header.base_offset)
            .collect();
        let last = disk.durable.batches.iter().map(|(header, _)| header);
        let last = last.filter(|header| header.next_offset() <= bound).last();
        let last = last.map(|header| header.base_offset);
        let firsts: Vec<Offset> = disk
            .durable
            .epochs()
            .iter()
            .map(|(_, base)| *base)
            .collect();
        whole.retain(|base| Some(*base) != last && !firsts.contains(base) && removes(*base));
        self.checker.compacted.extend(whole.iter().copied());
        self.node(id).disk.remove(whole.into_iter().collect());
    }

    /// Delivers one message of the stream of `follower` to `leader`. Returns whether there was one.
    pub fn deliver(&mut self, follower: NodeId, leader: NodeId, upward: bool) -> bool {
        let Some(stream) = self.streams.get_mut(&(follower, leader)) else {
            return false;
        };
        let (to, queue) = match upward {
            true => (leader, &mut stream.to_leader),
            false => (follower, &mut stream.to_follower),
        };
        let Some(input) = queue.pop_front() else {
            return false;
        };
        self.step(to, input);
        true
    }

    /// Delivers the next image to the node. Returns whether there was one.
    pub fn deliver_metadata(&mut self, id: NodeId) -> bool {
        if !self.hears_controller(id) {
            return false;
        }
        let Some(image) = self.controller.images.get(self.nodes[&id].seen).cloned() else {
            return false;
        };
        self.node(id).seen += 1;
        self.step(id, Input::Assignment(image));
        true
    }

    /// Answers the oldest ISR request. Returns whether there was one.
    pub fn decide(&mut self) -> bool {
        let Some(request) = self.requests.pop_front() else {
            return false;
        };
        let result = match self.hears_controller(request.from) {
            true => self.controller.alter(&request),
            false => Err(ErrorCode::RequestTimedOut),
        };
        if let Err(error) = result {
            self.events
                .push(format!("{}: ISR change: {error}", request.from));
        }
        let answer = (request.from, request.partition_epoch, result);
        self.answers.push_back(answer);
        true
    }

    /// Delivers the oldest answer to an ISR request. Returns whether there was one.
    pub fn deliver_answer(&mut self) -> bool {
        let Some((to, partition_epoch, result)) = self.answers.pop_front() else {
            return false;
        };
        self.step(
            to,
            Input::AlterPartitionResult {
                partition_epoch,
                result,
            },
        );
        true
    }

    pub fn deliver_reload(&mut self, id: NodeId) -> bool {
        let Some(producers) = self.node(id).reload.take() else {
            return false;
        };
        self.step(id, Input::ProducersReloaded(producers));
        true
    }

    /// Moves everything but disks until nothing moves.
    pub fn deliver_all(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        let pairs: Vec<(NodeId, NodeId)> = self.streams.keys().copied().collect();
        loop {
            let mut moved = self.decide();
            moved |= self.deliver_answer();
            for id in &ids {
                moved |= self.deliver_metadata(*id);
                moved |= self.deliver_reload(*id);
            }
            for (follower, leader) in &pairs {
                moved |= self.deliver(*follower, *leader, true);
                moved |= self.deliver(*follower, *leader, false);
            }
            if !moved {
                return;
            }
        }
    }

    /// Moves everything, disks too, until nothing moves.
    pub fn settle(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        loop {
            self.deliver_all();
            let mut moved = false;
            for id in &ids {
                moved |= self.flush(*id, usize::MAX);
            }
            if !moved {
                return;
            }
        }
    }

    /// Lets time pass and ticks whoever is due.
    pub fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
        let wall_ms = self.wall_ms();
        let due: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| {
                let deadline = node.core.as_ref().and_then(Partition::next_deadline);
                deadline.is_some_and(|at| at <= self.now)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.step(id, Input::Tick { wall_ms });
            let core = self.nodes[&id].core.as_ref();
            let next = core.and_then(Partition::next_deadline);
            assert!(
                next.is_none_or(|at| at > self.now),
                "node {id} is due again at {next:?}, right after its tick at {:?}",
                self.now
            );
        }
    }
}
