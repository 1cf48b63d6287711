use ottla_model::{BrokerEpoch, DirectoryId, IncarnationId, PartitionIndex};

use super::*;
use crate::record::*;

const TOPIC: TopicId = TopicId::from_bytes([7; 16]);

fn registered(incarnation: u8, version: &str) -> BrokerRegistered {
    BrokerRegistered {
        broker: NodeId(1),
        incarnation: IncarnationId::from_bytes([incarnation; 16]),
        directory: DirectoryId::from_bytes([1; 16]),
        client_endpoint: Endpoint::new("h", 9092),
        internal_endpoint: Endpoint::new("h", 9093),
        rack: None,
        version: version.to_owned(),
    }
}

fn delta_with(records: Vec<MetadataRecord>) -> MetadataDelta {
    let mut delta = MetadataDelta::new(Arc::default());
    for record in records {
        delta.replay(&record).unwrap();
    }
    delta
}

fn topic(name: &str) -> MetadataRecord {
    let name = TopicName::new(name).unwrap();
    TopicCreated { topic: TOPIC, name }.into()
}

fn partition(index: i32) -> MetadataRecord {
    PartitionCreated {
        topic: TOPIC,
        partition: PartitionIndex(index),
        replicas: vec![NodeId(1), NodeId(2)],
        isr: vec![NodeId(1), NodeId(2)],
        leader: NodeId(1),
    }
    .into()
}

#[test]
fn the_broker_epoch_is_the_offset_of_the_registration_record() {
    let delta = delta_with(vec![topic("t"), registered(1, "1").into()]);
    let broker = delta.image().broker(NodeId(1)).unwrap();
    assert_eq!((broker.epoch, broker.fenced), (BrokerEpoch(1), true));
}

#[test]
fn the_same_incarnation_keeps_its_epoch_and_state_and_another_does_not() {
    let mut delta = delta_with(vec![
        registered(1, "1").into(),
        BrokerChanged {
            broker: NodeId(1),
            broker_epoch: BrokerEpoch(0),
            fenced: Some(false),
            in_controlled_shutdown: None,
            cause: Cause::Unfenced,
        }
        .into(),
        registered(1, "2").into(),
    ]);
    let amended = delta.image().broker(NodeId(1)).unwrap();
    assert_eq!((amended.epoch, amended.fenced), (BrokerEpoch(0), false));
    assert_eq!(amended.version, "2");

    delta.replay(&registered(2, "2").into()).unwrap();
    let renewed = delta.image().broker(NodeId(1)).unwrap();
    assert_eq!((renewed.epoch, renewed.fenced), (BrokerEpoch(3), true));
}

#[test]
fn naming_the_same_leader_again_raises_the_leader_epoch() {
    let mut delta = delta_with(vec![topic("t"), partition(0)]);
    let id = TopicIdPartition::new(TOPIC, PartitionIndex(0));
    let mut change = PartitionChanged::new(id, Cause::Requested);
    change.leader = Some(LeaderChange::To(NodeId(1)));
    delta.replay(&change.into()).unwrap();
    let partition = delta.image().partition(id).unwrap();
    assert_eq!(partition.leader, Some(NodeId(1)));
    assert_eq!(
        (partition.leader_epoch.0, partition.partition_epoch.0),
        (1, 1)
    );
}

#[test]
fn a_leader_outside_the_isr_is_refused() {
    let mut delta = delta_with(vec![topic("t"), partition(0)]);
    let id = TopicIdPartition::new(TOPIC, PartitionIndex(0));
    let mut change = PartitionChanged::new(id, Cause::Requested);
    change.isr = Some(vec![NodeId(2)]);
    let reason = "the leader is not in the ISR";
    let refused = Err(ReplayError::InvalidPartition { id, reason });
    assert_eq!(delta.replay(&change.into()), refused);
}

#[test]
fn partitions_come_in_order_and_names_do_not_collide() {
    let mut delta = delta_with(vec![topic("a.b"), partition(0)]);
    assert!(matches!(
        delta.replay(&partition(2)),
        Err(ReplayError::NotTheNextPartition { partitions: 1, .. })
    ));
    let name = TopicName::new("a_b").unwrap();
    let other = TopicId::from_bytes([8; 16]);
    let colliding = TopicCreated { topic: other, name };
    let refused = Err(ReplayError::TopicExists { topic: other });
    assert_eq!(delta.replay(&colliding.into()), refused);
}

#[test]
fn a_topic_made_and_deleted_within_one_delta_leaves_only_its_id() {
    let delta = delta_with(vec![
        topic("t"),
        partition(0),
        TopicDeleted { topic: TOPIC }.into(),
    ]);
    assert!(delta.changed_partitions().is_empty());
    assert!(delta.changed_topics().is_empty());
    assert!(delta.deleted_topics().is_empty());
    assert_eq!(delta.short_lived_topics(), &BTreeSet::from([TOPIC]));
    assert_eq!(delta.image().leader_count(NodeId(1)), 0);
}

#[test]
fn a_setting_of_the_cluster_reaches_every_topic_that_does_not_set_it() {
    let config = |resource, value: &str| ConfigChanged {
        resource,
        name: "retention.ms".to_owned(),
        value: Some(value.to_owned()),
    };
    let mut delta = delta_with(vec![
        topic("t"),
        config(ConfigResource::Cluster, "100").into(),
    ]);
    let retention = |delta: &MetadataDelta| delta.image().topic(TOPIC).unwrap().config.retention_ms;
    assert_eq!(retention(&delta), Some(100));
    let own = config(ConfigResource::Topic(TOPIC), "7");
    delta.replay(&own.into()).unwrap();
    assert_eq!(retention(&delta), Some(7));
}
