//! Random lives of a cluster: brokers start, beat, die, lose disks and stop; topics come and go;
//! leaders change their ISRs; the active controller changes. After every decision the invariants
//! I4 and I6 hold, and only replicas that hold everything committed may lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::{MetadataDelta, MetadataImage, MetadataRecord, PartitionImage, TopicImage};
use ottla_model::name::TopicName;
use ottla_model::{
    DirectoryId, IncarnationId, Instant, LeaderEpoch, MetadataOffset, NodeId, TopicIdPartition,
};
use proptest::prelude::*;

use crate::fixture::{CLUSTER, create, registration};
use crate::*;

const BROKERS: i32 = 5;

type Step = (u8, u8, u8);

/// A broker process, dead or alive, and its disk.
#[derive(Debug, Default, Clone)]
struct Process {
    alive: bool,
    runs: u8,
    disks: u8,
    wants_shutdown: bool,
}

struct World {
    core: ControllerCore,
    now: Instant,
    random: u128,
    committed: Arc<MetadataImage>,
    processes: BTreeMap<i32, Process>,
    /// The replicas of each partition that hold everything committed.
    holders: BTreeMap<TopicIdPartition, BTreeSet<NodeId>>,
    leaders: BTreeMap<(TopicIdPartition, LeaderEpoch), NodeId>,
    /// Proposals that are still on their way (KIP-903: the world may be another when they arrive).
    delayed: Vec<AlterPartitions>,
}

impl World {
    fn new() -> World {
        let mut world = World {
            core: ControllerCore::new(ControllerConfig::default()),
            now: Instant::ZERO,
            random: 1,
            committed: Arc::default(),
            processes: (1..=BROKERS).map(|id| (id, Process::default())).collect(),
            holders: BTreeMap::new(),
            leaders: BTreeMap::new(),
            delayed: Vec::new(),
        };
        world.core.activate(world.now, Arc::default());
        world.request(Request::Found {
            cluster_id: CLUSTER,
        });
        (1..=BROKERS).for_each(|id| world.start(id));
        world
    }

    /// Decides, commits and checks. A refusal is fine: steps are random.
    fn request(&mut self, request: Request) -> bool {
        let mut records = Vec::new();
        self.random += 0x1234_5678_9abc_def1_0000_0001;
        let reply = self
            .core
            .decide(self.now, self.random, request, &mut records);
        if let Err(error) = &reply {
            assert_ne!(
                error.code,
                ottla_model::ErrorCode::UnknownServerError,
                "{error}"
            );
        }
        self.commit(&records);
        reply.is_ok()
    }

    fn tick(&mut self) {
        let mut records = Vec::new();
        self.core.on_tick(self.now, &mut records);
        self.commit(&records);
    }

    /// What was decided reaches the other nodes as bytes, and they agree.
    fn commit(&mut self, records: &[MetadataRecord]) {
        let mut delta = MetadataDelta::new(Arc::clone(&self.committed));
        for record in records {
            let decoded = MetadataRecord::decode(&record.encode()).unwrap();
            delta.replay(&decoded).unwrap();
            self.note(&decoded, delta.image());
            for broker in delta.image().brokers.values().filter(|b| b.fenced) {
                let leads = delta.image().leader_count(broker.broker);
                assert_eq!(leads, 0, "led by fenced {} amid {records:?}", broker.broker);
            }
        }
        let image = delta.apply();
        assert_eq!(&image, self.core.scratch());
        check_epochs_only_rise(&self.committed, &image);
        for topic in image.topics.iter() {
            for (id, partition) in topic.iter() {
                self.check(&image, topic, id, partition);
            }
        }
        self.committed = Arc::new(image);
        self.core.on_committed(Arc::clone(&self.committed));
    }

    fn note(&mut self, record: &MetadataRecord, image: &MetadataImage) {
        match record {
            MetadataRecord::PartitionCreated(record) => {
                let id = TopicIdPartition::new(record.topic, record.partition);
                self.holders
                    .insert(id, record.isr.iter().copied().collect());
            }
            MetadataRecord::PartitionChanged(record) => {
                let id = record.id();
                let partition = image.partition(id).unwrap();
                if let Some(leader) = partition.leader {
                    let known = self.leaders.insert((id, partition.leader_epoch), leader);
                    assert!(
                        known.is_none_or(|known| known == leader),
                        "two leaders of {id}"
                    );
                }
            }
            _ => {}
        }
    }

    fn check(
        &self,
        image: &MetadataImage,
        topic: &TopicImage,
        id: TopicIdPartition,
        partition: &PartitionImage,
    ) {
        let fenced = |node: &NodeId| image.broker(*node).is_none_or(|broker| broker.fenced);
        assert_eq!(partition.violation(), None, "{id} {partition:?}");
        assert!(
            !partition.leader.as_ref().is_some_and(fenced),
            "{id} {partition:?}"
        );
        let alone = partition.isr.len() == 1 && partition.leader.is_none();
        let fenced_in_sync = partition.isr.iter().any(fenced);
        assert!(!fenced_in_sync || alone, "{id} {partition:?}");
        let enough = partition.isr.len() >= image.min_insync_replicas(topic, partition);
        assert!(!enough || partition.elr.is_empty(), "{id} {partition:?}");
        let holders = &self.holders[&id];
        let mut candidates = partition.isr.iter().chain(&partition.elr);
        let complete = candidates.all(|node| holders.contains(node));
        assert!(complete, "{id} {partition:?}, complete are {holders:?}");
    }

    fn start(&mut self, id: i32) {
        let process = self.processes.get_mut(&id).unwrap();
        if process.alive {
            return;
        }
        process.runs += 1;
        let mut request = registration(id, 0);
        request.incarnation = IncarnationId::from_bytes([process.runs; 16]);
        let mut directory = [id as u8; 16];
        directory[1] = process.disks;
        request.directory = DirectoryId::from_bytes(directory);
        let node = NodeId(id);
        let known = self.committed.broker(node).map(|broker| broker.directory);
        if known.is_some_and(|known| known != request.directory) {
            // Until it registers, it is in ISRs in name only; nothing is checked before.
            for holders in self.holders.values_mut() {
                holders.remove(&node);
            }
        }
        if !self.register(request) {
            return;
        }
        let process = self.processes.get_mut(&id).unwrap();
        (process.alive, process.wants_shutdown) = (true, false);
        let epoch = self.committed.broker(node).unwrap().epoch;
        self.core.on_connected(self.now, node, epoch);
        self.beat(id);
    }

    /// Registers, waiting out the old session where that is needed.
    fn register(&mut self, request: RegisterBroker) -> bool {
        let refused = !self.request_unchecked(Request::RegisterBroker(request.clone()));
        if refused {
            self.now = self.now + Duration::from_secs(3);
            return self.request(Request::RegisterBroker(request));
        }
        true
    }

    /// As `request`, but checks only if something was decided.
    fn request_unchecked(&mut self, request: Request) -> bool {
        let mut records = Vec::new();
        self.random += 0x1234_5678_9abc_def1_0000_0001;
        let reply = self
            .core
            .decide(self.now, self.random, request, &mut records);
        if reply.is_ok() {
            self.commit(&records);
        }
        reply.is_ok()
    }

    fn beat(&mut self, id: i32) {
        let process = &self.processes[&id];
        let broker = self.committed.broker(NodeId(id)).filter(|_| process.alive);
        let Some(broker) = broker else {
            return;
        };
        let beat = BeatState {
            applied: self.committed.offset,
            ready: true,
            wants_shutdown: process.wants_shutdown,
        };
        let outcome = self.core.on_beat(self.now, NodeId(id), broker.epoch, beat);
        assert!(outcome.registered);
        if let Some(request) = outcome.needs_decision {
            self.request(request);
        }
        if outcome.may_shut_down {
            self.kill(id, true);
        }
    }

    fn kill(&mut self, id: i32, noticed: bool) {
        let process = self.processes.get_mut(&id).unwrap();
        if !std::mem::take(&mut process.alive) || !noticed {
            return;
        }
        let broker = NodeId(id);
        let broker_epoch = self.committed.broker(broker).unwrap().epoch;
        self.core.on_disconnected(self.now, broker, broker_epoch);
        self.request(Request::Fence {
            broker,
            broker_epoch,
            cause: ottla_metadata::Cause::ConnectionClosed,
        });
    }

    fn some_partition(&self, pick: u8) -> Option<(TopicIdPartition, PartitionImage)> {
        let all: Vec<_> = self
            .committed
            .topics
            .iter()
            .flat_map(TopicImage::iter)
            .collect();
        let at = usize::from(pick).checked_rem(all.len())?;
        Some((all[at].0, all[at].1.clone()))
    }

    /// A live leader changes its ISR: followers caught up or fell behind.
    fn alter(&mut self, pick: u8, members: u8) {
        let Some((id, partition)) = self.some_partition(pick) else {
            return;
        };
        let leader = partition
            .leader
            .filter(|leader| self.processes[&leader.0].alive);
        let Some(leader) = leader else {
            return;
        };
        let wanted = |(at, node): &(usize, &NodeId)| **node == leader || members >> at & 1 == 1;
        let replicas = partition.replicas.iter().enumerate();
        let isr: Vec<NodeId> = replicas.filter(wanted).map(|(_, node)| *node).collect();
        // Whoever the leader takes for caught up holds everything, whatever the controller says.
        self.holders.get_mut(&id).unwrap().extend(&isr);
        let epoch = |node: NodeId| self.committed.broker(node).unwrap().epoch;
        let change = AlterPartition {
            id,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr.iter().map(|node| (*node, epoch(*node))).collect(),
        };
        let request = AlterPartitions {
            broker: leader,
            broker_epoch: epoch(leader),
            changes: vec![change],
        };
        if members >= 128 {
            self.delayed.push(request);
        } else {
            self.request(Request::AlterPartitions(request));
        }
    }

    /// Records are produced and committed: then only the maximal ISR holds everything. Without
    /// the acknowledgement of all of it nothing is committed.
    fn produce(&mut self, pick: u8) {
        let Some((id, partition)) = self.some_partition(pick) else {
            return;
        };
        let topic = self.committed.topic(id.topic).unwrap();
        let fewest = self.committed.min_insync_replicas(topic, &partition);
        let proposed = self.delayed.iter().map(|request| &request.changes[0]);
        let pending = proposed.filter(|change| {
            let current = change.partition_epoch == partition.partition_epoch;
            change.id == id && current && change.leader_epoch == partition.leader_epoch
        });
        let pending = pending.flat_map(|change| change.isr.iter().map(|(node, _)| *node));
        let maximal: BTreeSet<_> = partition.isr.iter().copied().chain(pending).collect();
        let acknowledged = maximal.is_subset(&self.holders[&id]);
        if partition.leader.is_some() && partition.isr.len() >= fewest && acknowledged {
            self.holders.insert(id, maximal);
        }
    }

    fn topic(&mut self, pick: u8, factor: u8) {
        let name = format!("t{}", pick % 6);
        if self.committed.topic_by_name(&name).is_some() && factor.is_multiple_of(3) {
            let name = TopicName::new(name).unwrap();
            self.request(Request::DeleteTopic(DeleteTopic { name, topic: None }));
        } else if self.committed.topic_by_name(&name).is_some() {
            let set = vec![(
                "min.insync.replicas".to_owned(),
                (1 + factor / 3 % 3).to_string(),
            )];
            self.request(Request::AlterTopic(AlterTopic {
                name: TopicName::new(name).unwrap(),
                set,
                unset: Vec::new(),
                validate_only: false,
            }));
        } else {
            self.request(Request::CreateTopic(CreateTopic {
                partitions: Some(i32::from(pick % 4) + 1),
                replication_factor: Some(i16::from(factor % 4)),
                ..create(&name)
            }));
        }
    }

    /// Another controller takes over; what was decided and not committed is lost.
    fn fail_over(&mut self) {
        let mut lost = Vec::new();
        let request = Request::CreateTopic(create("lost"));
        let _ = self
            .core
            .decide(self.now, self.random + 7, request, &mut lost);
        self.core.deactivate();
        self.core.activate(self.now, Arc::clone(&self.committed));
        for id in 1..=BROKERS {
            if self.processes[&id].alive {
                let epoch = self.committed.broker(NodeId(id)).unwrap().epoch;
                self.core.on_connected(self.now, NodeId(id), epoch);
            }
        }
    }

    fn step(&mut self, (kind, a, b): Step) {
        let id = i32::from(a) % BROKERS + 1;
        match kind % 16 {
            0 => self.kill(id, true),
            1 => self.kill(id, false),
            2 if b.is_multiple_of(4) && !self.processes[&id].alive => {
                self.processes.get_mut(&id).unwrap().disks += 1;
                self.start(id);
            }
            2..=4 => self.start(id),
            5 if self.processes[&id].alive => {
                self.processes.get_mut(&id).unwrap().wants_shutdown = true;
                self.beat(id);
            }
            6 => self.topic(a, b),
            7..=8 => self.alter(a, b),
            9 => {
                if let Some(request) = self.delayed.pop() {
                    self.request(Request::AlterPartitions(request));
                }
            }
            10 => self.produce(a),
            11 if b.is_multiple_of(4) => self.fail_over(),
            12 => {
                let partitions = None;
                self.request(Request::ElectLeaders { partitions });
            }
            _ => {
                self.now = self.now + Duration::from_millis(u64::from(b) * 8);
                (1..=BROKERS).for_each(|id| self.beat(id));
                self.tick();
            }
        }
    }

    /// Everything works again: whatever somebody holds whole is led.
    fn heal(&mut self) {
        for _ in 0..4 {
            for id in 1..=BROKERS {
                self.processes.get_mut(&id).unwrap().wants_shutdown = false;
                self.kill(id, true);
                self.start(id);
            }
            self.now = self.core.next_deadline().unwrap().max(self.now);
            (1..=BROKERS).for_each(|id| self.beat(id));
            self.tick();
        }
        for topic in self.committed.topics.iter() {
            for (id, partition) in topic.iter() {
                let lost = partition.isr.is_empty() && partition.elr.is_empty();
                assert!(lost || partition.leader.is_some(), "{id} {partition:?}");
            }
        }
        assert!(self.committed.brokers.values().all(|broker| !broker.fenced));
    }
}

fn check_epochs_only_rise(before: &MetadataImage, after: &MetadataImage) {
    assert!(before.offset <= after.offset && after.offset >= MetadataOffset::ZERO);
    for broker in before.brokers.values() {
        let later = after.broker(broker.broker).unwrap();
        assert!(broker.epoch <= later.epoch);
        assert!(broker.incarnation == later.incarnation || broker.epoch < later.epoch);
    }
    for (id, old) in before.topics.iter().flat_map(TopicImage::iter) {
        if let Some(new) = after.partition(id) {
            assert!(old.leader_epoch <= new.leader_epoch);
            assert!(old.partition_epoch < new.partition_epoch || old == new);
            assert!(old.leader == new.leader || old.leader_epoch < new.leader_epoch);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_cluster_lives_through_anything(steps in proptest::collection::vec(any::<Step>(), 1..500)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.heal();
    }
}
