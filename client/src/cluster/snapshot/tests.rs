use super::*;

fn topic_id(n: u8) -> TopicId {
    TopicId::from_bytes([n; 16])
}

fn partition(index: i32, leader: Option<i32>, leader_epoch: i32) -> v1::PartitionView {
    v1::PartitionView {
        partition: index,
        leader_id: leader,
        leader_epoch,
        ..v1::PartitionView::default()
    }
}

fn topic(name: &str, id: u8, partitions: Vec<v1::PartitionView>) -> v1::TopicView {
    v1::TopicView {
        name: name.to_owned(),
        topic_id: topic_id(id).as_bytes().to_vec().into(),
        partitions,
        internal: false,
    }
}

fn broker(node_id: i32, port: u32, broker_epoch: i64) -> v1::BrokerView {
    v1::BrokerView {
        node_id,
        client_endpoint: Some(v1::Endpoint {
            host: "h".to_owned(),
            port,
        }),
        broker_epoch,
        ..v1::BrokerView::default()
    }
}

fn view(offset: i64, brokers: Vec<v1::BrokerView>, topics: Vec<v1::TopicView>) -> v1::ClusterView {
    v1::ClusterView {
        cluster_id: "c".to_owned(),
        metadata_offset: offset,
        brokers,
        topics,
        ..v1::ClusterView::default()
    }
}

fn leader(snapshot: &ClusterSnapshot, id: u8, index: i32) -> Option<(i32, i32)> {
    let (broker, epoch) = snapshot.leader(topic_id(id), PartitionIndex(index))?;
    Some((broker.node_id.0, epoch.0))
}

fn two_brokers() -> ClusterSnapshot {
    let mut snapshot = ClusterSnapshot::default();
    snapshot.merge_all(&view(
        10,
        vec![broker(1, 91, 5), broker(2, 92, 6)],
        vec![topic(
            "t",
            7,
            vec![partition(0, Some(1), 3), partition(1, Some(2), 3)],
        )],
    ));
    snapshot
}

#[test]
fn a_change_touches_only_what_it_names() {
    let mut snapshot = two_brokers();
    let change = vec![topic("t", 7, vec![partition(0, Some(2), 4)])];
    snapshot.merge_change(&view(11, vec![], change), &[]);
    assert_eq!(leader(&snapshot, 7, 0), Some((2, 4)));
    assert_eq!(leader(&snapshot, 7, 1), Some((2, 3)));
    assert_eq!(snapshot.topic("t").unwrap().partition_count(), 2);
    assert_eq!(snapshot.metadata_offset, 11);
}

#[test]
fn a_lagging_broker_takes_no_leader_back_and_removes_nothing() {
    let mut snapshot = two_brokers();
    snapshot.merge_change(
        &view(
            11,
            vec![],
            vec![topic("t", 7, vec![partition(0, Some(2), 4)])],
        ),
        &[],
    );
    let old = vec![topic("t", 7, vec![partition(0, Some(1), 3)])];
    snapshot.merge_all(&view(9, vec![broker(1, 91, 5)], old));
    assert_eq!(leader(&snapshot, 7, 0), Some((2, 4)));
    assert_eq!(leader(&snapshot, 7, 1), Some((2, 3)));
    assert_eq!(snapshot.metadata_offset, 11);
}

#[test]
fn a_full_view_that_is_current_removes_what_it_leaves_out() {
    let mut snapshot = two_brokers();
    snapshot.merge_all(&view(12, vec![broker(1, 91, 5)], vec![]));
    assert!(snapshot.topic("t").is_none());
    assert!(snapshot.topic_by_id(topic_id(7)).is_none());
    assert_eq!(snapshot.brokers.len(), 1);
}

#[test]
fn a_topic_created_again_under_its_name_replaces_the_old_one() {
    let mut snapshot = two_brokers();
    let change = vec![topic("t", 8, vec![partition(0, Some(1), 0)])];
    snapshot.merge_change(&view(12, vec![], change), &[]);
    assert_eq!(snapshot.topic("t").unwrap().id, topic_id(8));
    assert!(snapshot.topic_by_id(topic_id(7)).is_none());
    let deleted = topic_id(8).as_bytes().to_vec().into();
    snapshot.merge_change(&view(13, vec![], vec![]), &[deleted]);
    assert_eq!(snapshot.topics().count(), 0);
}

#[test]
fn a_hint_counts_only_if_its_epoch_is_newer() {
    let mut snapshot = two_brokers();
    let hint = |epoch| v1::LeaderHint {
        node_id: 3,
        leader_epoch: epoch,
        endpoint: Some(v1::Endpoint {
            host: "h".to_owned(),
            port: 93,
        }),
    };
    assert!(!snapshot.merge_leader(topic_id(7), PartitionIndex(0), &hint(3)));
    assert!(snapshot.merge_leader(topic_id(7), PartitionIndex(0), &hint(4)));
    assert_eq!(leader(&snapshot, 7, 0), Some((3, 4)));
    assert_eq!(snapshot.brokers[&NodeId(3)].endpoint, "h:93");
}

#[test]
fn a_partition_without_leader_has_none() {
    let mut snapshot = two_brokers();
    let change = vec![topic("t", 7, vec![partition(0, None, 4)])];
    snapshot.merge_change(&view(11, vec![], change), &[]);
    assert_eq!(leader(&snapshot, 7, 0), None);
}
