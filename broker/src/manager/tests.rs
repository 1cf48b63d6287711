use std::path::Path;

use ottla_log::{Flushed, SimDisk, StoreConfig};
use ottla_metadata::{
    BrokerRegistered, Endpoint, MetadataDelta, MetadataRecord, PartitionCreated, TopicCreated,
    TopicDeleted,
};
use ottla_model::{DirectoryId, PartitionIndex, TopicId, TopicName};
use ottla_shell::Clock;
use tokio::runtime::Handle;

use super::*;
use crate::damage::DamageFound;
use crate::fixture::config;
use crate::identity::BrokerIdentity;
use crate::isr::IsrUpdates;
use crate::replication::LeaderLinks;

const TOPIC: TopicId = TopicId::from_bytes([5; 16]);
const ID: TopicIdPartition = TopicIdPartition::new(TOPIC, PartitionIndex(0));

fn manager(dir: &Path) -> ReplicaManager {
    let identity = BrokerIdentity::open(dir, NodeId(1), 7).expect("an identity");
    let nowhere = "127.0.0.1:1".parse().expect("an address");
    let context = ReplicaContext {
        clock: Clock::start(),
        isr: Arc::new(IsrUpdates::default()),
        leader_links: Arc::new(LeaderLinks::new(Handle::current())),
        damage: Arc::new(DamageFound::default()),
        fatal: Arc::new(|why| panic!("the broker ends: {why}")),
    };
    let store = LogStore::open(
        Arc::new(SimDisk::new()),
        Path::new("/log"),
        StoreConfig::default(),
        Arc::new(|_: &[Flushed]| {}),
        Arc::new(|error| panic!("storage failed: {error}")),
    );
    let store = Arc::new(store.expect("a store"));
    ReplicaManager::new(&config(dir, identity, nowhere), store, Arc::new(context))
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

fn created() -> Vec<MetadataRecord> {
    let here = Endpoint::new("127.0.0.1", 1);
    vec![
        MetadataRecord::BrokerRegistered(BrokerRegistered {
            broker: NodeId(1),
            incarnation: IncarnationId::from_bytes([1; 16]),
            directory: DirectoryId::from_random(7),
            client_endpoint: here.clone(),
            internal_endpoint: here,
            rack: None,
            version: "0".to_owned(),
        }),
        MetadataRecord::TopicCreated(TopicCreated {
            topic: TOPIC,
            name: TopicName::new("t").expect("a name"),
        }),
        MetadataRecord::PartitionCreated(PartitionCreated {
            topic: TOPIC,
            partition: PartitionIndex(0),
            replicas: vec![NodeId(1)],
            isr: vec![NodeId(1)],
            leader: NodeId(1),
        }),
    ]
}

/// Whoever asks for it may have looked at the metadata a moment ago. Applying that would bring back
/// what was deleted meanwhile, and take brokers for fenced that are not, for as long as nothing
/// else changes.
#[tokio::test]
async fn what_is_applied_again_is_what_was_applied_last() {
    let dir = tempfile::tempdir().expect("a directory");
    let manager = manager(dir.path());
    let with = change(&Arc::default(), &created());
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
