//! Connecting, watching and calling.

use std::net::TcpListener;
use std::time::Duration;

use ottla_client::{
    BrokerTarget, Client, ClientConfig, ClientError, ConsumerConfig, NewTopic, OffsetSpec,
    ProducerConfig, ProducerRecord, StartPosition,
};
use ottla_model::{ErrorCode, NodeId, Offset, PartitionIndex};

use crate::fake::FakeCluster;

const PATIENCE: Duration = Duration::from_secs(20);

/// An address at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_failed_bootstrap_names_every_address_and_its_reason() {
    let (a, b) = (nobody(), nobody());
    let error = Client::connect(ClientConfig::new([&a, &b]))
        .await
        .unwrap_err();
    assert!(matches!(&error, ClientError::Bootstrap { tried } if tried.len() == 2));
    let text = error.to_string();
    for part in [a.as_str(), b.as_str(), "refused"] {
        assert!(text.contains(part), "'{part}' is missing in: {text}");
    }
}

#[tokio::test]
async fn one_answering_bootstrap_is_enough() {
    let cluster = FakeCluster::with_topic(1, "t", 2);
    let mut bootstrap = vec![nobody()];
    bootstrap.extend(cluster.bootstrap());
    let client = Client::connect(ClientConfig::new(bootstrap)).await.unwrap();
    assert_eq!(client.cluster().topic("t").unwrap().partition_count(), 2);
}

#[tokio::test]
async fn the_view_follows_the_cluster_through_the_death_of_any_node() {
    let mut cluster = FakeCluster::with_topic(3, "t", 1);
    let client = cluster.client().await;
    for (epoch, dead) in [(1, 0), (2, 1)] {
        cluster.kill(dead);
        cluster.move_leader("t", 0, 2);
        let leads = |c: &ottla_client::ClusterSnapshot| {
            let partition = &c.topic("t").unwrap().partitions[0];
            partition.leader == Some(NodeId(2)) && partition.leader_epoch.0 == epoch
        };
        client.wait_for(leads, PATIENCE).await.unwrap();
    }
}

#[tokio::test]
async fn waiting_for_what_does_not_come_ends() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let client = cluster.client().await;
    let never = client
        .wait_for(|c| c.topic("u").is_some(), Duration::from_millis(20))
        .await;
    assert!(matches!(never, Err(ClientError::TimedOut { .. })));
}

#[tokio::test]
async fn a_call_goes_to_the_next_broker_when_one_is_dead() {
    let mut cluster = FakeCluster::with_topic(3, "t", 1);
    let client = cluster.client().await;
    cluster.kill(0);
    let admin = client.admin();
    let described = admin.describe_topic("t").await.unwrap();
    assert_eq!(described.topic.unwrap().name, "t");
    let error = admin.describe_topic("nope").await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopicOrPartition));
}

#[tokio::test]
async fn a_dead_broker_does_not_keep_whoever_asks_about_it_waiting() {
    let mut cluster = FakeCluster::with_topic(2, "t", 1);
    let client = cluster.client().await;
    cluster.kill(1);
    let asked = client.admin();
    let described = asked.describe_broker(BrokerTarget::Node(NodeId(1)));
    // Far below the request timeout, which is what retrying would take.
    let answer = tokio::time::timeout(Duration::from_secs(5), described).await;
    let error = answer.expect("an answer at once").unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_count_of_zero_is_not_taken_for_the_default() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let admin = cluster.client().await.admin();
    let (no_partitions, no_replicas) = (
        NewTopic {
            partitions: Some(0),
            ..NewTopic::new("u")
        },
        NewTopic {
            replication_factor: Some(0),
            ..NewTopic::new("u")
        },
    );
    for topic in [no_partitions, no_replicas] {
        let error = admin.create_topic(topic).await.unwrap_err();
        assert!(matches!(error, ClientError::Config(_)), "{error}");
    }
}

#[tokio::test]
async fn offsets_are_asked_of_each_partitions_leader() {
    let cluster = FakeCluster::with_topic(3, "t", 3);
    let admin = cluster.client().await.admin();
    cluster.partition("t", 1, |partition| partition.log_start = 0);
    let asked = (0..3)
        .map(|p| (PartitionIndex(p), OffsetSpec::Latest))
        .collect();
    let listed = admin.list_offsets("t", asked).await.unwrap();
    let found: Vec<_> = listed.iter().map(|l| (l.partition.0, l.offset)).collect();
    assert_eq!(
        found,
        [
            (0, Some(Offset(0))),
            (1, Some(Offset(0))),
            (2, Some(Offset(0)))
        ]
    );
    let unknown = admin
        .list_offsets("u", vec![(PartitionIndex(0), OffsetSpec::Latest)])
        .await;
    assert_eq!(
        unknown.unwrap_err().code(),
        Some(ErrorCode::UnknownTopicOrPartition)
    );
}

#[tokio::test]
async fn every_call_can_run_in_a_task_of_its_own() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let client = cluster.client().await;
    let (admin, producer) = (client.admin(), client.producer(ProducerConfig::default()));
    let mut consumer = client.consumer(ConsumerConfig::default());
    let start = vec![(PartitionIndex(0), StartPosition::Earliest)];
    let writing = tokio::spawn(async move {
        let delivered = producer
            .send(ProducerRecord::new("t", "v"))
            .await
            .unwrap()
            .await;
        producer.close().await;
        delivered.unwrap().offset
    });
    let reading = tokio::spawn(async move {
        consumer.assign("t", start).await.unwrap();
        consumer.poll(PATIENCE).await.unwrap().len()
    });
    let calling = tokio::spawn(async move { admin.describe_cluster().await.unwrap().cluster_id });
    assert_eq!(writing.await.unwrap(), Offset(0));
    assert_eq!(reading.await.unwrap(), 1);
    assert_eq!(calling.await.unwrap(), "fake");
}
