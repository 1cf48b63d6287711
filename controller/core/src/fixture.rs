//! A small cluster for the tests: brokers that register and beat, topics, and shorthands.

use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::{Endpoint, MetadataImage, MetadataRecord, PartitionImage};
use ottla_model::error::ApiError;
use ottla_model::name::TopicName;
use ottla_model::{
    BrokerEpoch, ClusterId, DirectoryId, ErrorCode, IncarnationId, Instant, NodeId, PartitionIndex,
    TopicId, TopicIdPartition,
};

use crate::*;

pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([9; 16]);
pub(crate) const BEAT: Duration = Duration::from_millis(500);

/// The core with a clock of its own. Whatever it decides is committed at once.
pub(crate) struct Fixture {
    pub core: ControllerCore,
    pub now: Instant,
    random: u128,
}

impl Fixture {
    /// A founded cluster without brokers.
    pub fn founded() -> Fixture {
        let mut fixture = Fixture {
            core: ControllerCore::new(ControllerConfig::default()),
            now: Instant::ZERO,
            random: 0,
        };
        fixture.core.activate(fixture.now, Arc::default());
        fixture.must(Request::Found {
            cluster_id: CLUSTER,
        });
        fixture
    }

    /// A cluster of unfenced, connected brokers 1 to `count`.
    pub fn with_brokers(count: i32) -> Fixture {
        let mut fixture = Fixture::founded();
        for broker in 1..=count {
            fixture.start(broker, broker as u8);
        }
        fixture
    }

    pub fn image(&self) -> &MetadataImage {
        self.core.scratch()
    }

    pub fn decide(&mut self, request: Request) -> Result<(Reply, Vec<MetadataRecord>), ApiError> {
        let mut records = Vec::new();
        self.random += 0x1_0000_0001_0000_0001;
        let result = self
            .core
            .decide(self.now, self.random, request, &mut records);
        if result.is_err() {
            assert!(records.is_empty(), "refused and yet decided {records:?}");
        }
        self.commit();
        result.map(|reply| (reply, records))
    }

    /// The records of a request that is not refused.
    #[track_caller]
    pub fn must(&mut self, request: Request) -> Vec<MetadataRecord> {
        self.decide(request).unwrap().1
    }

    #[track_caller]
    pub fn refused(&mut self, request: Request) -> ApiError {
        self.decide(request).expect_err("must be refused")
    }

    pub fn tick(&mut self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        self.core.on_tick(self.now, &mut records);
        self.commit();
        records
    }

    pub fn commit(&mut self) {
        let image = Arc::new(self.core.scratch().clone());
        self.core.on_committed(image);
    }

    /// Registers a new process of a broker, connects it and unfences it by its beat.
    pub fn start(&mut self, broker: i32, incarnation: u8) {
        self.must(register(broker, incarnation));
        let epoch = self.epoch(broker);
        self.core.on_connected(self.now, NodeId(broker), epoch);
        let outcome = self.beat(broker);
        self.must(outcome.needs_decision.expect("a ready broker is unfenced"));
        self.beat(broker);
    }

    pub fn beat(&mut self, broker: i32) -> BeatOutcome {
        self.beat_with(broker, false)
    }

    pub fn beat_with(&mut self, broker: i32, wants_shutdown: bool) -> BeatOutcome {
        let beat = BeatState {
            applied: self.image().offset,
            ready: true,
            wants_shutdown,
        };
        let epoch = self.epoch(broker);
        self.core.on_beat(self.now, NodeId(broker), epoch, beat)
    }

    pub fn disconnect(&mut self, broker: i32) {
        let epoch = self.epoch(broker);
        self.core.on_disconnected(self.now, NodeId(broker), epoch);
    }

    pub fn fence(&mut self, broker: i32) -> Vec<MetadataRecord> {
        let broker_epoch = self.epoch(broker);
        self.must(Request::Fence {
            broker: NodeId(broker),
            broker_epoch,
            cause: ottla_metadata::Cause::ConnectionClosed,
        })
    }

    pub fn epoch(&self, broker: i32) -> BrokerEpoch {
        let registration = self.image().broker(NodeId(broker));
        registration.map_or(BrokerEpoch(-1), |broker| broker.epoch)
    }

    /// Makes topic `name` with one partition on these brokers.
    pub fn topic(&mut self, name: &str, replicas: &[i32], configs: &[(&str, &str)]) -> TopicId {
        let own = |(name, value): &(&str, &str)| (String::from(*name), String::from(*value));
        self.must(Request::CreateTopic(CreateTopic {
            assignments: vec![nodes(replicas)],
            configs: configs.iter().map(own).collect(),
            ..create(name)
        }));
        self.image().topic_by_name(name).unwrap().id
    }

    pub fn partition(&self, topic: TopicId) -> &PartitionImage {
        self.image().partition(first(topic)).unwrap()
    }

    /// ISR, ELR and leader of a topic's first partition, as text.
    pub fn state(&self, topic: TopicId) -> String {
        let partition = self.partition(topic);
        let leader = partition.leader.map_or(0, |leader| leader.0);
        format!(
            "isr {:?} elr {:?} leader {leader}",
            partition.isr, partition.elr
        )
    }

    /// The leader proposes an ISR, with the epochs it knows.
    pub fn alter(&mut self, topic: TopicId, isr: &[i32]) -> Result<(), ErrorCode> {
        let change = self.proposal(topic, isr);
        let leader = self.partition(topic).leader.unwrap();
        self.propose(leader.0, change)
    }

    pub fn proposal(&self, topic: TopicId, isr: &[i32]) -> AlterPartition {
        let partition = self.partition(topic);
        AlterPartition {
            id: first(topic),
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            isr: isr
                .iter()
                .map(|id| (NodeId(*id), self.epoch(*id)))
                .collect(),
        }
    }

    pub fn propose(&mut self, broker: i32, change: AlterPartition) -> Result<(), ErrorCode> {
        let request = AlterPartitions {
            broker: NodeId(broker),
            broker_epoch: self.epoch(broker),
            changes: vec![change],
        };
        match self.decide(Request::AlterPartitions(request)) {
            Ok((Reply::PartitionsAltered(results), _)) => {
                results[0].clone().map_err(|error| error.code)
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        }
    }

    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
    }
}

/// A registration of incarnation `incarnation`, always on the broker's own directory.
pub(crate) fn register(broker: i32, incarnation: u8) -> Request {
    Request::RegisterBroker(registration(broker, incarnation))
}

pub(crate) fn registration(broker: i32, incarnation: u8) -> RegisterBroker {
    RegisterBroker {
        cluster_id: CLUSTER,
        broker: NodeId(broker),
        incarnation: IncarnationId::from_bytes([incarnation; 16]),
        directory: DirectoryId::from_bytes([broker as u8; 16]),
        client_endpoint: Endpoint::new(format!("broker{broker}"), 9092),
        internal_endpoint: Endpoint::new(format!("broker{broker}"), 9093),
        rack: None,
        version: "0.1.0".to_owned(),
        previous_broker_epoch: None,
        last_broker_epoch: None,
    }
}

pub(crate) fn create(name: &str) -> CreateTopic {
    CreateTopic {
        name: TopicName::new(name).unwrap(),
        partitions: None,
        replication_factor: None,
        assignments: Vec::new(),
        configs: Vec::new(),
        validate_only: false,
    }
}

pub(crate) fn first(topic: TopicId) -> TopicIdPartition {
    TopicIdPartition::new(topic, PartitionIndex(0))
}

pub(crate) fn nodes(list: &[i32]) -> Vec<NodeId> {
    list.iter().copied().map(NodeId).collect()
}
