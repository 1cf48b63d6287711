//! The metadata as clients see it.

use bytes::Bytes;
use ottla_metadata::{BrokerRegistration, MetadataImage, TopicImage};
use ottla_model::{NodeId, TopicName};
use ottla_proto::v1;

use crate::broker::{Broker, endpoint};

/// The cluster without topics, as this broker sees it.
pub fn cluster(broker: &Broker, image: &MetadataImage) -> v1::ClusterView {
    v1::ClusterView {
        cluster_id: image
            .cluster_id
            .map(|id| id.to_string())
            .unwrap_or_default(),
        metadata_offset: image.offset.0,
        active_controller_id: broker.image.active_controller().map(|id| id.0),
        brokers: image.brokers.values().map(broker_view).collect(),
        topics: Vec::new(),
        answered_by: broker.config.node_id.0,
        controllers: image
            .controllers
            .iter()
            .map(|(id, controller)| v1::ControllerView {
                node_id: id.0,
                internal_endpoint: Some(endpoint(&controller.internal_endpoint)),
            })
            .collect(),
    }
}

pub fn broker_view(broker: &BrokerRegistration) -> v1::BrokerView {
    v1::BrokerView {
        node_id: broker.broker.0,
        client_endpoint: Some(endpoint(&broker.client_endpoint)),
        rack: broker.rack.clone().unwrap_or_default(),
        fenced: broker.fenced,
        in_controlled_shutdown: broker.in_controlled_shutdown,
        broker_epoch: broker.epoch.0,
        version: broker.version.clone(),
        internal_endpoint: Some(endpoint(&broker.internal_endpoint)),
    }
}

pub fn topic(image: &MetadataImage, topic: &TopicImage) -> v1::TopicView {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|id| id.0).collect();
    let partitions = topic
        .partitions
        .iter()
        .enumerate()
        .map(|(index, partition)| v1::PartitionView {
            partition: i32::try_from(index).unwrap_or(i32::MAX),
            leader_id: partition.leader.map(|id| id.0),
            leader_epoch: partition.leader_epoch.0,
            partition_epoch: partition.partition_epoch.0,
            replicas: ids(&partition.replicas),
            isr: ids(&partition.isr),
            elr: ids(&partition.elr),
            min_insync_replicas: i32::try_from(image.min_insync_replicas(topic, partition))
                .unwrap_or(i32::MAX),
        })
        .collect();
    v1::TopicView {
        name: topic.name.to_string(),
        topic_id: Bytes::copy_from_slice(topic.id.as_bytes()),
        partitions,
        internal: topic.name.is_internal(),
    }
}

pub fn topic_summary(topic: &TopicImage) -> v1::TopicSummary {
    let count = |wanted: &dyn Fn(&ottla_metadata::PartitionImage) -> bool| {
        let matching = topic
            .partitions
            .iter()
            .filter(|partition| wanted(partition))
            .count();
        i32::try_from(matching).unwrap_or(i32::MAX)
    };
    v1::TopicSummary {
        name: topic.name.to_string(),
        topic_id: Bytes::copy_from_slice(topic.id.as_bytes()),
        partitions: count(&|_| true),
        replication_factor: topic
            .partitions
            .iter()
            .map(|partition| i32::try_from(partition.replicas.len()).unwrap_or(i32::MAX))
            .max()
            .unwrap_or(0),
        under_replicated: count(&|partition| partition.isr.len() < partition.replicas.len()),
        leaderless: count(&|partition| partition.leader.is_none()),
    }
}

/// Whether a topic is among those asked for; an empty list means all.
pub fn is_wanted(wanted: &[String], name: &TopicName) -> bool {
    wanted.is_empty() || wanted.iter().any(|text| text == name.as_str())
}
