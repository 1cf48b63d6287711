//! The rows of a snapshot. A row's id is persisted and never reused.

use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, Vector};
use ottla_model::NodeId;
use ottla_model::name::TopicName;
use ottla_model::{
    BrokerEpoch, ClusterId, LeaderEpoch, MetadataOffset, PartitionEpoch, PartitionIndex,
    ProducerId, TopicId, TopicIdPartition,
};
use prost::{Message, Oneof};

use crate::batch::OFFSETS;
use crate::image::{
    Activation, BrokerRegistration, ControllerRegistration, MetadataImage, PartitionImage,
    TopicImage,
};
use crate::record::wire::{WireRecord, nodes, numbers};
use crate::record::{BrokerRegistered, ControllerRegistered, RecordError};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Row {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Header(HeaderRow),
    #[prost(message, tag = "2")]
    Broker(BrokerRow),
    #[prost(message, tag = "3")]
    Controller(<ControllerRegistered as WireRecord>::Wire),
    #[prost(message, tag = "4")]
    Config(PairRow),
    #[prost(message, tag = "5")]
    Feature(FeatureRow),
    #[prost(message, tag = "6")]
    Topic(TopicRow),
    #[prost(message, tag = "7")]
    Partition(PartitionRow),
}

/// The first row.
#[derive(Clone, PartialEq, Message)]
struct HeaderRow {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(bytes = "vec", optional, tag = "2")]
    cluster_id: Option<Vec<u8>>,
    #[prost(int64, tag = "3")]
    next_producer_id: i64,
    #[prost(uint64, tag = "4")]
    rows_after: u64,
    #[prost(message, repeated, tag = "5")]
    activations: Vec<ActivationRow>,
}

#[derive(Clone, PartialEq, Message)]
struct ActivationRow {
    #[prost(int64, tag = "1")]
    offset: i64,
    #[prost(fixed64, tag = "2")]
    id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct BrokerRow {
    #[prost(message, optional, tag = "1")]
    registered: Option<<BrokerRegistered as WireRecord>::Wire>,
    #[prost(int64, tag = "2")]
    epoch: i64,
    #[prost(bool, tag = "3")]
    fenced: bool,
    #[prost(bool, tag = "4")]
    in_controlled_shutdown: bool,
    #[prost(int64, optional, tag = "5")]
    served_epoch: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct PairRow {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct FeatureRow {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    level: u32,
}

/// A topic; the rows of its partitions follow, in order of index.
#[derive(Clone, PartialEq, Message)]
struct TopicRow {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    configs: Vec<PairRow>,
}

/// A partition of the last topic before it.
#[derive(Clone, PartialEq, Message)]
struct PartitionRow {
    #[prost(int32, repeated, tag = "1")]
    replicas: Vec<i32>,
    #[prost(int32, repeated, tag = "2")]
    isr: Vec<i32>,
    #[prost(int32, repeated, tag = "3")]
    elr: Vec<i32>,
    #[prost(int32, repeated, tag = "4")]
    adding: Vec<i32>,
    #[prost(int32, repeated, tag = "5")]
    removing: Vec<i32>,
    #[prost(int32, optional, tag = "6")]
    leader: Option<i32>,
    #[prost(int32, tag = "7")]
    leader_epoch: i32,
    #[prost(int32, tag = "8")]
    partition_epoch: i32,
}

impl Row {
    pub(super) fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Row, RecordError> {
        Message::decode(bytes).map_err(|_| damaged("a row cannot be read"))
    }
}

fn damaged(reason: impl Into<String>) -> RecordError {
    RecordError::Snapshot {
        reason: reason.into(),
    }
}

pub(super) fn rows_of(image: &MetadataImage) -> Vec<Row> {
    let mut kinds = Vec::new();
    kinds.extend(image.brokers.values().map(|b| Kind::Broker(broker_row(b))));
    kinds.extend(image.controllers.values().map(controller_row));
    kinds.extend(pairs(&image.configs).map(Kind::Config));
    kinds.extend(image.features.iter().map(|(name, level)| {
        Kind::Feature(FeatureRow {
            name: name.clone(),
            level: u32::from(*level),
        })
    }));
    for topic in image.topics.iter() {
        kinds.push(Kind::Topic(TopicRow {
            id: topic.id.as_bytes().to_vec(),
            name: topic.name.to_string(),
            configs: pairs(&topic.configs).collect(),
        }));
        kinds.extend(topic.partitions.iter().map(|p| partition_row(p)));
    }
    let header = Kind::Header(HeaderRow {
        offset: image.offset.0,
        cluster_id: image.cluster_id.map(|id| id.as_bytes().to_vec()),
        next_producer_id: image.next_producer_id.0,
        rows_after: kinds.len() as u64,
        activations: image.activations.iter().map(activation_row).collect(),
    });
    let rows = std::iter::once(header).chain(kinds);
    rows.map(|kind| Row { kind: Some(kind) }).collect()
}

fn pairs(map: &OrdMap<String, String>) -> impl Iterator<Item = PairRow> {
    map.iter().map(|(name, value)| PairRow {
        name: name.clone(),
        value: value.clone(),
    })
}

fn activation_row(activation: &Activation) -> ActivationRow {
    ActivationRow {
        offset: activation.offset.0,
        id: activation.id,
    }
}

fn broker_row(broker: &BrokerRegistration) -> BrokerRow {
    let registered = BrokerRegistered {
        broker: broker.broker,
        incarnation: broker.incarnation,
        directory: broker.directory,
        client_endpoint: broker.client_endpoint.clone(),
        internal_endpoint: broker.internal_endpoint.clone(),
        rack: broker.rack.clone(),
        version: broker.version.clone(),
    };
    BrokerRow {
        registered: Some(registered.to_wire()),
        epoch: broker.epoch.0,
        fenced: broker.fenced,
        in_controlled_shutdown: broker.in_controlled_shutdown,
        served_epoch: broker.served_epoch.map(|epoch| epoch.0),
    }
}

fn controller_row(controller: &ControllerRegistration) -> Kind {
    let registered = ControllerRegistered {
        controller: controller.controller,
        directory: controller.directory,
        internal_endpoint: controller.internal_endpoint.clone(),
        version: controller.version.clone(),
    };
    Kind::Controller(registered.to_wire())
}

fn partition_row(partition: &PartitionImage) -> Kind {
    Kind::Partition(PartitionRow {
        replicas: numbers(&partition.replicas),
        isr: numbers(&partition.isr),
        elr: numbers(&partition.elr),
        adding: numbers(&partition.adding),
        removing: numbers(&partition.removing),
        leader: partition.leader.map(|leader| leader.0),
        leader_epoch: partition.leader_epoch.0,
        partition_epoch: partition.partition_epoch.0,
    })
}

/// Builds an image from rows.
#[derive(Default)]
pub(super) struct Restore {
    image: MetadataImage,
    /// Rows that must still come; `None` before the header.
    expected: Option<u64>,
    topic: Option<TopicId>,
}

impl Restore {
    pub(super) fn add(&mut self, row: Row) -> Result<(), RecordError> {
        let kind = row
            .kind
            .ok_or_else(|| damaged("a row is of a kind that this build does not know"))?;
        match (&kind, self.expected) {
            (Kind::Header(_), None) => {}
            (Kind::Header(_), Some(_)) => return Err(damaged("it has two headers")),
            (_, None) => return Err(damaged("it does not begin with its header")),
            (_, Some(0)) => return Err(damaged("it has more rows than its header says")),
            (_, Some(rows)) => self.expected = Some(rows - 1),
        }
        match kind {
            Kind::Header(row) => self.header(row),
            Kind::Broker(row) => self.broker(row),
            Kind::Controller(wire) => self.controller(wire),
            Kind::Config(row) => {
                self.image.configs.insert(row.name, row.value);
                Ok(())
            }
            Kind::Feature(row) => self.feature(row),
            Kind::Topic(row) => self.topic(row),
            Kind::Partition(row) => self.partition(row),
        }
    }

    pub(super) fn finish(self) -> Result<MetadataImage, RecordError> {
        match self.expected {
            Some(0) => Ok(self.image),
            Some(rows) => Err(damaged(format!("{rows} rows are missing at its end"))),
            None => Err(damaged("it is empty")),
        }
    }

    fn header(&mut self, row: HeaderRow) -> Result<(), RecordError> {
        if !OFFSETS.contains(&row.offset) {
            return Err(damaged(format!("its offset is {}", row.offset)));
        }
        self.image.offset = MetadataOffset(row.offset);
        self.image.cluster_id = match row.cluster_id {
            Some(bytes) => {
                Some(ClusterId::from_slice(&bytes).ok_or_else(|| damaged("bad cluster id"))?)
            }
            None => None,
        };
        self.image.next_producer_id = ProducerId(row.next_producer_id);
        for activation in row.activations {
            self.image.activations.push(Activation {
                offset: MetadataOffset(activation.offset),
                id: activation.id,
            });
        }
        self.expected = Some(row.rows_after);
        Ok(())
    }

    fn broker(&mut self, row: BrokerRow) -> Result<(), RecordError> {
        let wire = row.registered.ok_or_else(|| damaged("empty broker row"))?;
        let registered = BrokerRegistered::from_wire(BrokerRegistered::VERSION, wire)?;
        let registration = BrokerRegistration {
            broker: registered.broker,
            epoch: BrokerEpoch(row.epoch),
            incarnation: registered.incarnation,
            directory: registered.directory,
            client_endpoint: registered.client_endpoint,
            internal_endpoint: registered.internal_endpoint,
            rack: registered.rack,
            version: registered.version,
            fenced: row.fenced,
            in_controlled_shutdown: row.in_controlled_shutdown,
            served_epoch: row.served_epoch.map(BrokerEpoch),
        };
        self.image.brokers.insert(registered.broker, registration);
        Ok(())
    }

    fn controller(
        &mut self,
        wire: <ControllerRegistered as WireRecord>::Wire,
    ) -> Result<(), RecordError> {
        let registered = ControllerRegistered::from_wire(ControllerRegistered::VERSION, wire)?;
        let registration = ControllerRegistration {
            controller: registered.controller,
            directory: registered.directory,
            internal_endpoint: registered.internal_endpoint,
            version: registered.version,
        };
        self.image
            .controllers
            .insert(registered.controller, registration);
        Ok(())
    }

    fn feature(&mut self, row: FeatureRow) -> Result<(), RecordError> {
        let level = u16::try_from(row.level).map_err(|_| damaged("bad feature level"))?;
        self.image.features.insert(row.name, level);
        Ok(())
    }

    fn topic(&mut self, row: TopicRow) -> Result<(), RecordError> {
        let id = TopicId::from_slice(&row.id).ok_or_else(|| damaged("bad topic id"))?;
        let name = TopicName::new(row.name).map_err(|error| damaged(error.to_string()))?;
        let topics = &self.image.topics;
        if topics.get(id).is_some() || topics.colliding_with(&name).is_some() {
            return Err(damaged(format!("it has the topic {name} twice")));
        }
        let pairs = row.configs.into_iter();
        let configs: OrdMap<_, _> = pairs.map(|pair| (pair.name, pair.value)).collect();
        let config = Arc::new(self.image.resolve_config(&configs));
        self.image.topics.insert(TopicImage {
            id,
            name,
            partitions: Vector::new(),
            configs,
            config,
        });
        self.topic = Some(id);
        Ok(())
    }

    fn partition(&mut self, row: PartitionRow) -> Result<(), RecordError> {
        let topic = self.topic.and_then(|id| self.image.topic(id));
        let topic = topic.ok_or_else(|| damaged("a partition comes before its topic"))?;
        let index = i32::try_from(topic.partition_count())
            .map_err(|_| damaged("a topic has too many partitions"))?;
        let id = TopicIdPartition::new(topic.id, PartitionIndex(index));
        let state = PartitionImage {
            replicas: nodes(row.replicas),
            isr: nodes(row.isr),
            elr: nodes(row.elr),
            adding: nodes(row.adding),
            removing: nodes(row.removing),
            leader: row.leader.map(NodeId),
            leader_epoch: LeaderEpoch(row.leader_epoch),
            partition_epoch: PartitionEpoch(row.partition_epoch),
        };
        if let Some(reason) = state.violation() {
            return Err(damaged(format!("partition {id}: {reason}")));
        }
        self.image.put_partition(id, state);
        Ok(())
    }
}
