use std::path::Path;
use std::time::{Duration, Instant};

use ottla_log::{Disk as _, Flushed, SimDisk, StoreConfig};
use ottla_metadata::{
    BrokerRegistered, Endpoint, MetadataDelta, MetadataRecord, PartitionCreated, TopicCreated,
    TopicDeleted,
};
use ottla_model::batch::{BatchBuilder, NewRecord};
use ottla_model::compression::Compression;
use ottla_model::{DirectoryId, PartitionIndex, TopicId, TopicName};
use ottla_shell::Clock;
use tokio::runtime::Handle;

use super::*;
use crate::config::BrokerConfig;
use crate::damage::DamageFound;
use crate::fixture::config;
use crate::identity::BrokerIdentity;
use crate::isr::{IsrChange, IsrUpdates};
use crate::replica::Alarms;
use crate::replication::LeaderLinks;

const TOPIC: TopicId = TopicId::from_bytes([5; 16]);
const ID: TopicIdPartition = TopicIdPartition::new(TOPIC, PartitionIndex(0));

fn manager(dir: &Path) -> ReplicaManager {
    manager_with(dir, Arc::default(), |_| {})
}

fn manager_with(
    dir: &Path,
    disk: Arc<SimDisk>,
    adapt: impl FnOnce(&mut BrokerConfig),
) -> ReplicaManager {
    let identity = BrokerIdentity::open(dir, NodeId(1), 7).expect("an identity");
    let nowhere = "127.0.0.1:1".parse().expect("an address");
    let context = ReplicaContext {
        clock: Clock::start(),
        isr: Arc::new(IsrUpdates::default()),
        leader_links: Arc::new(LeaderLinks::new(Handle::current())),
        damage: Arc::new(DamageFound::default()),
        alarms: Alarms::default(),
        fatal: Arc::new(|why| panic!("the broker ends: {why}")),
    };
    let store = LogStore::open(
        disk,
        Path::new("/log"),
        StoreConfig::default(),
        Arc::new(|_: &[Flushed]| {}),
        Arc::new(|error| panic!("storage failed: {error}")),
    );
    let store = Arc::new(store.expect("a store"));
    let mut config = config(dir, identity, nowhere);
    adapt(&mut config);
    ReplicaManager::new(&config, store, Arc::new(context))
}

/// What an image becomes with these records.
fn change(before: &Arc<MetadataImage>, records: &[MetadataRecord]) -> ImageChange {
    let mut delta = MetadataDelta::new(Arc::clone(before));
    for record in records {
        delta.replay(record).expect("a record that follows");
    }
    ImageChange {
        image: Arc::new(delta.apply()),
        delta: Some(Arc::new(delta)),
    }
}

fn registered(broker: i32) -> MetadataRecord {
    let here = Endpoint::new("127.0.0.1", 1);
    MetadataRecord::BrokerRegistered(BrokerRegistered {
        broker: NodeId(broker),
        incarnation: IncarnationId::from_bytes([broker as u8; 16]),
        directory: DirectoryId::from_random(broker as u128),
        client_endpoint: here.clone(),
        internal_endpoint: here,
        rack: None,
        version: "0".to_owned(),
    })
}

/// The records of a topic with one partition, which the first of the brokers leads.
fn created(brokers: &[i32]) -> Vec<MetadataRecord> {
    let replicas: Vec<_> = brokers.iter().copied().map(NodeId).collect();
    let mut records: Vec<_> = brokers.iter().copied().map(registered).collect();
    records.push(MetadataRecord::TopicCreated(TopicCreated {
        topic: TOPIC,
        name: TopicName::new("t").expect("a name"),
    }));
    records.push(MetadataRecord::PartitionCreated(PartitionCreated {
        topic: TOPIC,
        partition: PartitionIndex(0),
        replicas: replicas.clone(),
        isr: replicas,
        leader: NodeId(brokers[0]),
    }));
    records
}

/// Whoever asks for it may have looked at the metadata a moment ago. Applying that would bring back
/// what was deleted meanwhile, and take brokers for fenced that are not, for as long as nothing
/// else changes.
#[tokio::test]
async fn what_is_applied_again_is_what_was_applied_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let manager = manager(dir.path());
    let with = change(&Arc::default(), &created(&[1]));
    manager.apply(&with);
    assert!(manager.get(ID).is_some());
    manager.quarantine(ID, "for the test");
    assert!(manager.get(ID).is_none());
    let deleted = MetadataRecord::TopicDeleted(TopicDeleted { topic: TOPIC });
    manager.apply(&change(&with.image, &[deleted]));
    manager.apply_again();
    assert!(manager.get(ID).is_none());
    assert_eq!(manager.store.ids(), vec![]);
}

/// A broker that is killed knows its logs, but its copy of the metadata may be seconds older.
#[tokio::test]
async fn the_log_of_a_topic_that_came_and_went_is_deleted() {
    let dir = tempfile::tempdir().expect("a directory");
    let manager = manager(dir.path());
    let settings = log_settings(&TopicConfig::default());
    manager.store.get_or_create(ID, settings).expect("a log");
    let mut records = created(&[1]);
    records.push(TopicDeleted { topic: TOPIC }.into());
    manager.apply(&change(&Arc::default(), &records));
    assert_eq!(manager.store.ids(), vec![]);
}

#[tokio::test]
async fn a_stray_log_is_kept_only_if_it_holds_records() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk: Arc<SimDisk> = Arc::default();
    let manager = manager_with(dir.path(), Arc::clone(&disk), |_| {});
    let settings = log_settings(&TopicConfig::default());
    let with_records = TopicIdPartition::new(TOPIC, PartitionIndex(1));
    for id in [ID, with_records] {
        manager.store.get_or_create(id, settings).expect("a log");
    }
    let log = manager.store.get(with_records).expect("a log");
    let mut batch = BatchBuilder::new(Compression::None);
    batch.push(&NewRecord::default()).expect("a record");
    let batch = batch.build().expect("a batch");
    log.append(1, batch).expect("an append");
    manager.set_strays_aside(&MetadataImage::default());
    assert_eq!(manager.store.ids(), vec![]);
    let kept = disk.list(Path::new("/log/stray")).expect("a directory");
    assert_eq!(kept.len(), 1);
}

/// No replica is looked at that did not ask for it.
#[tokio::test]
async fn a_follower_that_never_comes_is_noticed_by_the_tick_that_its_leader_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let lag_max = Duration::from_millis(20);
    let manager = manager_with(dir.path(), Arc::default(), |config| {
        config.replica_lag_time_max = lag_max;
    });
    manager.apply(&change(&Arc::default(), &created(&[1, 2])));
    let deadline = Instant::now() + Duration::from_secs(20);
    let asked = loop {
        manager.tick();
        let asked = manager.context.isr.take();
        if !asked.is_empty() {
            break asked;
        }
        assert!(Instant::now() < deadline, "the follower stays in sync");
        tokio::task::yield_now().await;
    };
    let isr = |change: &IsrChange| change.isr.iter().map(|(node, _)| *node).collect();
    let asked: Vec<(_, Vec<_>)> = asked
        .iter()
        .map(|(id, change)| (*id, isr(change)))
        .collect();
    assert_eq!(asked, [(ID, vec![NodeId(1)])]);
}
