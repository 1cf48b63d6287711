//! Properties over random sequences of records: refused ones change nothing, accepted ones are the
//! same through every encoding, snapshot and delta.

use std::collections::BTreeSet;
use std::sync::Arc;

use ottla_model::name::TopicName;
use ottla_model::{
    BrokerEpoch, ClusterId, DirectoryId, IncarnationId, NodeId, PartitionIndex, ProducerId,
    TimestampMs, TopicId, TopicIdPartition,
};
use proptest::prelude::*;

use crate::*;

/// A step of a history: what to try, and numbers to fill it with.
type Step = (u8, u8, u8, u8);

/// The record that a step means for this image. Often one that fits, sometimes not.
fn record_for(image: &MetadataImage, step: Step, number: usize) -> MetadataRecord {
    let (kind, a, b, c) = step;
    let broker = NodeId(i32::from(a % 5));
    match kind % 13 {
        0 => ClusterCreated {
            cluster_id: ClusterId::from_bytes([a; 16]),
        }
        .into(),
        1 => registration(broker, b, c).into(),
        2 => BrokerChanged {
            broker,
            broker_epoch: epoch_of(image, broker),
            fenced: Some(b.is_multiple_of(2)),
            in_controlled_shutdown: c.is_multiple_of(3).then_some(true),
            cause: Cause::Requested,
        }
        .into(),
        3 if b.is_multiple_of(4) => BrokerUnregistered {
            broker,
            broker_epoch: epoch_of(image, broker),
        }
        .into(),
        3 | 4 => TopicCreated {
            topic: TopicId::from_random(number as u128 + 1),
            name: TopicName::new(format!(
                "t{}{}",
                if b.is_multiple_of(2) { '.' } else { '_' },
                a % 8
            ))
            .unwrap(),
        }
        .into(),
        5 if b.is_multiple_of(4) => TopicDeleted {
            topic: some_topic(image, a),
        }
        .into(),
        5 | 6 => created(image, a, b, c).into(),
        7 | 8 => changed(image, a, b, c).into(),
        9 => ConfigChanged {
            resource: match a % 4 {
                0 => ConfigResource::Cluster,
                _ => ConfigResource::Topic(some_topic(image, a)),
            },
            name: ["retention.ms", "min.insync.replicas"][usize::from(b % 2)].to_owned(),
            value: (!c.is_multiple_of(3)).then(|| c.to_string()),
        }
        .into(),
        10 => FeatureLevelChanged {
            name: format!("f{}", a % 3),
            level: u16::from(b % 3),
        }
        .into(),
        11 => ControllerActivated {
            controller: broker,
            activation_id: u64::from(c),
        }
        .into(),
        _ if b.is_multiple_of(2) => ProducerIdsAllocated {
            broker,
            broker_epoch: epoch_of(image, broker),
            next_producer_id: ProducerId(i64::from(c) * 100),
        }
        .into(),
        _ => ControllerRegistered {
            controller: broker,
            directory: DirectoryId::from_bytes([b; 16]),
            internal_endpoint: Endpoint::new("c", 9093),
            version: c.to_string(),
        }
        .into(),
    }
}

fn registration(broker: NodeId, b: u8, c: u8) -> BrokerRegistered {
    BrokerRegistered {
        broker,
        incarnation: IncarnationId::from_bytes([b % 4; 16]),
        directory: DirectoryId::from_bytes([broker.0 as u8; 16]),
        client_endpoint: Endpoint::new(format!("h{broker}"), u16::from(c)),
        internal_endpoint: Endpoint::new(format!("h{broker}"), 9093),
        rack: (!c.is_multiple_of(2)).then(|| format!("rack{}", c % 3)),
        version: "0.1.0".to_owned(),
    }
}

fn epoch_of(image: &MetadataImage, broker: NodeId) -> BrokerEpoch {
    image.broker(broker).map_or(BrokerEpoch(-1), |b| b.epoch)
}

fn some_topic(image: &MetadataImage, a: u8) -> TopicId {
    let topics: Vec<_> = image.topics.iter().map(|topic| topic.id).collect();
    let at = usize::from(a).checked_rem(topics.len());
    at.map_or(TopicId::ZERO, |at| topics[at])
}

fn three(a: u8) -> Vec<NodeId> {
    (0..3).map(|n| NodeId(i32::from((a + n) % 5))).collect()
}

fn created(image: &MetadataImage, a: u8, b: u8, c: u8) -> PartitionCreated {
    let topic = some_topic(image, a);
    let count = image.topic(topic).map_or(0, TopicImage::partition_count);
    let replicas = three(b % 100);
    PartitionCreated {
        topic,
        partition: PartitionIndex(count as i32 + i32::from(c.is_multiple_of(8))),
        isr: replicas[..usize::from(1 + c % 3)].to_vec(),
        leader: replicas[0],
        replicas,
    }
}

fn changed(image: &MetadataImage, a: u8, b: u8, c: u8) -> PartitionChanged {
    let topic = some_topic(image, a);
    let count = image.topic(topic).map_or(0, TopicImage::partition_count);
    let index = usize::from(b).checked_rem(count).unwrap_or(0) as i32;
    let id = TopicIdPartition::new(topic, PartitionIndex(index));
    let replicas = image
        .partition(id)
        .map_or(three(a % 100), |p| p.replicas.clone());
    let mut change = PartitionChanged::new(id, Cause::Requested);
    change.isr = c
        .is_multiple_of(2)
        .then(|| replicas[..usize::from(c / 2 % 4).min(replicas.len())].to_vec());
    change.elr = c
        .is_multiple_of(5)
        .then(|| replicas[replicas.len() - 1..].to_vec());
    change.leader = match c % 7 {
        0 | 1 => Some(LeaderChange::None),
        2..=4 => Some(LeaderChange::To(replicas[usize::from(b % 2)])),
        _ => None,
    };
    if c.is_multiple_of(11) {
        change.replicas = Some(replicas.iter().rev().copied().collect());
    }
    if c.is_multiple_of(13) {
        change.adding = Some(vec![replicas[0]]);
        change.removing = Some(vec![replicas[1]]);
    }
    change
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any::<Step>(), 1..120)
}

fn scan(image: &MetadataImage, keep: impl Fn(&PartitionImage) -> bool) -> Vec<TopicIdPartition> {
    let all = image.topics.iter().flat_map(TopicImage::iter);
    let kept = all.filter(|(_, partition)| keep(partition));
    kept.map(|(id, _)| id).collect()
}

fn check_indexes(image: &MetadataImage) {
    for broker in (0..5).map(NodeId) {
        let found: Vec<_> = image.partitions_with_replica(broker).collect();
        assert_eq!(found, scan(image, |p| p.replicas.contains(&broker)));
        assert_eq!(found.len(), image.replica_count(broker));
        let found: Vec<_> = image.partitions_led_by(broker).collect();
        assert_eq!(found, scan(image, |p| p.leader == Some(broker)));
        assert_eq!(found.len(), image.leader_count(broker));
        let found: Vec<_> = image.partitions_in_isr_of(broker).collect();
        assert_eq!(found, scan(image, |p| p.isr.contains(&broker)));
    }
    let found: Vec<_> = image.leaderless_partitions().collect();
    assert_eq!(found, scan(image, |p| p.leader.is_none()));
    let found: Vec<_> = image.imbalanced_partitions().collect();
    let imbalanced = |p: &PartitionImage| p.leader.is_some_and(|l| l != p.preferred_leader());
    assert_eq!(found, scan(image, imbalanced));
    for topic in image.topics.iter() {
        assert_eq!(image.topic_by_name(topic.name.as_str()), Some(topic));
        assert_eq!(*topic.config, image.resolve_config(&topic.configs));
    }
}

/// Epochs and the offset never fall, and rise exactly as the record says.
fn check_epochs(before: &MetadataImage, after: &MetadataImage, record: &MetadataRecord) {
    assert_eq!(after.offset, before.offset.next());
    if let MetadataRecord::PartitionChanged(change) = record {
        let (old, new) = (before.partition(change.id()), after.partition(change.id()));
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!(new.partition_epoch, old.partition_epoch.next());
        let rise = i32::from(change.leader.is_some());
        assert_eq!(new.leader_epoch.0, old.leader_epoch.0 + rise);
    }
    for broker in after.brokers.values() {
        let old = before.broker(broker.broker);
        assert!(old.is_none_or(|old| old.epoch <= broker.epoch));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_image_of_a_history_survives_its_snapshot(steps in history()) {
        let mut delta = MetadataDelta::new(Arc::default());
        for (number, step) in steps.into_iter().enumerate() {
            let before = delta.apply();
            let record = record_for(&before, step, number);
            prop_assert_eq!(MetadataRecord::decode(&record.encode()), Ok(record.clone()));
            match delta.replay(&record) {
                Err(_) => prop_assert_eq!(delta.image(), &before, "refused, and yet changed"),
                Ok(()) => check_epochs(&before, delta.image(), &record),
            }
            let image = delta.apply();
            check_indexes(&image);
            prop_assert_eq!(decode_snapshot(encode_snapshot(&image)), Ok(image.clone()));
            prop_assert_eq!(snapshot_from_bytes(&snapshot_to_bytes(&image)), Ok(image));
        }
    }

    #[test]
    fn a_delta_names_exactly_what_differs(steps in history(), cut in 0usize..120) {
        let mut delta = MetadataDelta::new(Arc::default());
        let cut = cut.min(steps.len());
        for (number, step) in steps[..cut].iter().enumerate() {
            let _ = delta.replay(&record_for(delta.image(), *step, number));
        }
        let base = Arc::new(delta.apply());
        let mut delta = MetadataDelta::new(Arc::clone(&base));
        let mut batch = MetadataBatch {
            base_offset: base.offset,
            records: Vec::new(),
            wall_ms: TimestampMs(1),
        };
        for (number, step) in steps.iter().enumerate().skip(cut) {
            let record = record_for(delta.image(), *step, number);
            if delta.replay(&record).is_ok() {
                batch.records.push(record);
            }
        }
        let found = MetadataDelta::between(Arc::clone(&base), delta.apply());
        prop_assert_eq!(found.changed_partitions(), delta.changed_partitions());
        prop_assert_eq!(found.deleted_topics(), delta.deleted_topics());
        let subset = |found: &BTreeSet<NodeId>| found.is_subset(delta.changed_brokers());
        prop_assert!(subset(found.changed_brokers()));
        prop_assert!(found.changed_topics().is_subset(delta.changed_topics()));
        prop_assert_eq!(MetadataBatch::decode(&batch.encode()), Ok(batch.clone()));

        let mut again = MetadataDelta::new(Arc::clone(&base));
        prop_assert_eq!(again.replay_batch(&batch), Ok(true));
        prop_assert_eq!(again.image(), delta.image());
        let stale = again.apply();
        let skipped = again.replay_batch(&batch) == Ok(false);
        prop_assert!(skipped || batch.records.is_empty());
        prop_assert_eq!(again.image(), &stale);
    }

    #[test]
    fn a_damaged_snapshot_file_is_refused(
        steps in history(),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let mut delta = MetadataDelta::new(Arc::default());
        for (number, step) in steps.into_iter().enumerate() {
            let _ = delta.replay(&record_for(delta.image(), step, number));
        }
        let mut bytes = snapshot_to_bytes(delta.image()).to_vec();
        let whole = bytes.len();
        let at = at.index(whole);
        bytes[at] ^= flip;
        prop_assert!(snapshot_from_bytes(&bytes).is_err());
        bytes[at] ^= flip;
        prop_assert!(snapshot_from_bytes(&bytes[..whole - 1]).is_err());
        prop_assert!(snapshot_from_bytes(&bytes).is_ok());
    }
}
