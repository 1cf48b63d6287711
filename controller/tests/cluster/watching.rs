use ottla_metadata::{MetadataDelta, MetadataImage, MetadataRecord, decode_snapshot};
use ottla_proto::v1;
use ottla_proto::v1::watch_metadata_response::Message;
use std::sync::Arc;

use crate::harness::Cluster;
use crate::sessions::{FakeBroker, create_topic};

/// Follows the metadata from an offset on until its image reaches `end`. Says whether a snapshot
/// came first.
fn watch(cluster: &Cluster, id: i32, from: i64, end: i64) -> (MetadataImage, bool) {
    let mut client = cluster.client(id);
    cluster.client.block_on(async {
        let request = v1::WatchMetadataRequest {
            cluster_id: String::new(),
            node_id: -1,
            from_offset: from,
        };
        let mut stream = client.watch_metadata(request).await.unwrap().into_inner();
        let mut image = Arc::new(MetadataImage::default());
        let mut rows = Vec::new();
        let mut with_snapshot = false;
        while image.offset.0 < end {
            let next = stream.message();
            let next = tokio::time::timeout(crate::harness::PATIENCE, next).await;
            let response = next.expect("the stream went silent").unwrap().unwrap();
            match response.message.unwrap() {
                Message::Snapshot(part) => {
                    assert_eq!(part.first, rows.is_empty());
                    rows.extend(part.records);
                    if part.last {
                        let rows = std::mem::take(&mut rows);
                        image = Arc::new(decode_snapshot(rows).unwrap());
                        with_snapshot = true;
                    }
                }
                Message::Records(records) if records.records.is_empty() => {}
                Message::Records(records) => {
                    assert_eq!(records.base_offset, image.offset.0);
                    let before = image.activations.before(image.offset);
                    let told = records.activation.map(|told| (told.offset, told.id));
                    assert_eq!(told, before.map(|known| (known.offset.0, known.id)));
                    let mut delta = MetadataDelta::new(Arc::clone(&image));
                    for bytes in records.records {
                        delta
                            .replay(&MetadataRecord::decode(&bytes).unwrap())
                            .unwrap();
                    }
                    image = Arc::new(delta.apply());
                }
            }
        }
        ((*image).clone(), with_snapshot)
    })
}

#[test]
fn every_controller_pushes_what_is_committed_and_a_snapshot_to_who_is_too_far_back() {
    let mut cluster = Cluster::of_three();
    cluster.tune = |config| config.watch_bytes = 2_000;
    cluster.start_all();
    cluster.wait_founded();
    let active = cluster.wait_active();
    let early = cluster.status(active).applied.0;
    for id in 1..=3 {
        let (image, with_snapshot) = watch(&cluster, id, 0, early);
        assert!(!with_snapshot, "everything is in memory yet");
        let first = image.activations.iter().next().map(|first| first.offset.0);
        assert_eq!(first, Some(1), "only the cluster's founding comes before");
    }
    let mut broker = FakeBroker::register(&cluster, active, 1);
    broker.join(&cluster, active);
    for _ in 0..30 {
        create_topic(&cluster, active, 5_000).unwrap();
        broker.beat(&cluster, 0);
    }
    let end = cluster.status(active).applied.0;
    for id in 1..=3 {
        let (image, with_snapshot) = watch(&cluster, id, 0, end);
        assert!(with_snapshot, "the beginning is no longer in memory");
        assert_eq!(image.topics.iter().count(), 30);
    }
}

#[test]
fn a_node_that_was_away_for_long_gets_a_snapshot_and_the_log_stays_short() {
    let mut cluster = Cluster::of_three();
    cluster.tune = |config| config.quorum.snapshot_entries = 20;
    cluster.start_all();
    cluster.wait_founded();
    let away = (1..=3).find(|id| *id != cluster.wait_active()).unwrap();
    cluster.kill(away);
    let active = cluster.wait_active();
    let mut broker = FakeBroker::register(&cluster, active, 1);
    broker.join(&cluster, active);
    for _ in 0..150 {
        create_topic(&cluster, active, 5_000).unwrap();
        broker.beat(&cluster, 0);
    }
    let snapshots = cluster.data_dir(active).join("controller/snapshots");
    crate::harness::wait_for("two snapshots", || {
        (std::fs::read_dir(&snapshots).unwrap().count() >= 2).then_some(())
    });
    let end = cluster.status(active).applied;
    cluster.start(away);
    crate::harness::wait_for("the node to catch up", || {
        broker.beat(&cluster, 0);
        (cluster.status(away).applied >= end).then_some(())
    });
    let expected = cluster.running[&active].node().feed().current().image;
    let found = cluster.running[&away].node().feed().current().image;
    if expected.offset == found.offset {
        assert_eq!(expected, found);
    }
    // All restart from their snapshots and logs.
    for id in 1..=3 {
        cluster.kill(id);
    }
    cluster.start_all();
    let active = cluster.wait_active();
    crate::harness::wait_for("everything to be applied again", || {
        (cluster.status(active).applied >= end).then_some(())
    });
}
