//! Producing: order, no duplicates and no loss whatever fails on the way.

use std::time::Duration;

use futures::future::join_all;
use ottla_client::{
    Client, ClientConfig, DeliveryFuture, Outcome, Producer, ProducerConfig, ProducerRecord,
};
use ottla_model::{ErrorCode, PartitionIndex};
use tokio::time::timeout;

use crate::fake::{FakeCluster, Fault};

/// Longer than anything here takes, far shorter than a hanging test run.
const PATIENCE: Duration = Duration::from_secs(20);

fn small_batches() -> ProducerConfig {
    ProducerConfig {
        linger: Duration::from_millis(1),
        batch_bytes: 300,
        ..ProducerConfig::default()
    }
}

async fn send_all(producer: &Producer, partition: i32, values: &[String]) -> Vec<DeliveryFuture> {
    let mut sent = Vec::new();
    for value in values {
        let record = ProducerRecord::new("t", value.clone());
        let record = record.to_partition(PartitionIndex(partition));
        sent.push(producer.send(record).await.unwrap());
    }
    sent
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("record-{n:05}")).collect()
}

/// Sends `count` records to partition 0 and expects each to be there once, in order.
async fn delivers_in_order(cluster: &FakeCluster, producer: &Producer, count: usize) {
    let values = numbered(count);
    let sent = send_all(producer, 0, &values).await;
    let delivered = timeout(PATIENCE, join_all(sent)).await.unwrap();
    let offsets: Vec<_> = delivered.into_iter().map(|d| d.unwrap().offset.0).collect();
    assert_eq!(offsets, (0..count as i64).collect::<Vec<_>>());
    assert_eq!(cluster.values("t", 0), values);
}

#[tokio::test]
async fn records_of_a_partition_arrive_once_and_in_order() {
    let cluster = FakeCluster::with_topic(3, "t", 3);
    let producer = cluster.client().await.producer(small_batches());
    delivers_in_order(&cluster, &producer, 500).await;
    timeout(PATIENCE, producer.close()).await.unwrap();
}

#[tokio::test]
async fn records_with_the_same_key_go_where_kafkas_clients_put_them() {
    let cluster = FakeCluster::with_topic(2, "t", 4);
    let producer = cluster.client().await.producer(ProducerConfig::default());
    for key in ["a", "b", "c", "d", "e"] {
        let record = ProducerRecord::new("t", "v").with_key(key);
        let delivered = producer.send(record).await.unwrap().await.unwrap();
        let expected = ottla_model::partitioner::partition_for_key(key.as_bytes(), 4);
        assert_eq!(delivered.partition, expected);
    }
}

#[tokio::test]
async fn injected_failures_neither_lose_nor_duplicate_nor_reorder() {
    let cluster = FakeCluster::with_topic(3, "t", 1);
    cluster.partition("t", 0, |partition| {
        partition.faults.extend([
            Fault::AppendAndBreak,
            Fault::Refuse(ErrorCode::NotEnoughReplicas),
            Fault::AppendAndRefuse(ErrorCode::RequestTimedOut),
            Fault::Refuse(ErrorCode::NotLeaderOrFollower),
            Fault::AppendAndBreak,
            Fault::AppendAndRefuse(ErrorCode::NotEnoughReplicasAfterAppend),
            Fault::Refuse(ErrorCode::StorageError),
        ]);
    });
    let producer = cluster.client().await.producer(small_batches());
    delivers_in_order(&cluster, &producer, 300).await;
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_split() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let too_large = Fault::Refuse(ErrorCode::MessageTooLarge);
    cluster.partition("t", 0, |partition| partition.faults.extend([too_large; 2]));
    let producer = cluster.client().await.producer(small_batches());
    delivers_in_order(&cluster, &producer, 100).await;
}

#[tokio::test]
async fn a_refused_batch_fails_alone_and_the_next_ones_go_on() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    cluster.partition("t", 0, |partition| {
        partition
            .faults
            .push_back(Fault::Refuse(ErrorCode::InvalidRecord));
    });
    let producer = cluster.client().await.producer(small_batches());
    let values = numbered(60);
    let sent = send_all(&producer, 0, &values).await;
    let outcomes = timeout(PATIENCE, join_all(sent)).await.unwrap();
    let failed = outcomes
        .iter()
        .take_while(|outcome| outcome.is_err())
        .count();
    assert!(failed > 0 && failed < 20, "{failed} failed");
    for (index, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Ok(delivered) => assert_eq!(delivered.offset.0, (index - failed) as i64),
            Err(error) => assert_eq!(
                (error.code, error.outcome),
                (ErrorCode::InvalidRecord, Outcome::Definite)
            ),
        }
    }
    assert_eq!(cluster.values("t", 0), values[failed..]);
}

#[tokio::test]
async fn a_new_leader_is_used_as_soon_as_it_is_announced() {
    let cluster = FakeCluster::with_topic(3, "t", 1);
    let producer = cluster.client().await.producer(small_batches());
    let values = numbered(300);
    let mut sent = Vec::new();
    for (round, part) in values.chunks(60).enumerate() {
        sent.extend(send_all(&producer, 0, part).await);
        cluster.move_leader("t", 0, (round as i32 + 1) % 3);
    }
    for outcome in timeout(PATIENCE, join_all(sent)).await.unwrap() {
        outcome.unwrap();
    }
    assert_eq!(cluster.values("t", 0), values);
}

#[tokio::test]
async fn a_killed_leaders_records_go_to_its_successor() {
    let mut cluster = FakeCluster::with_topic(3, "t", 1);
    let producer = cluster.client().await.producer(small_batches());
    let values = numbered(200);
    let mut sent = send_all(&producer, 0, &values[..100]).await;
    cluster.kill(0);
    sent.extend(send_all(&producer, 0, &values[100..]).await);
    cluster.move_leader("t", 0, 1);
    for outcome in timeout(PATIENCE, join_all(sent)).await.unwrap() {
        outcome.unwrap();
    }
    assert_eq!(cluster.values("t", 0), values);
}

#[tokio::test]
async fn records_that_could_never_be_sent_fail_as_definite_in_time() {
    let mut cluster = FakeCluster::with_topic(2, "t", 1);
    let client = cluster.client().await;
    cluster.kill(0);
    let producer = client.producer(ProducerConfig {
        delivery_timeout: Duration::from_millis(400),
        ..small_batches()
    });
    let sent = send_all(&producer, 0, &numbered(1)).await.remove(0);
    let error = timeout(PATIENCE, sent).await.unwrap().unwrap_err();
    assert_eq!(
        (error.code, error.outcome),
        (ErrorCode::RequestTimedOut, Outcome::Definite)
    );
}

#[tokio::test]
async fn records_without_answer_fail_as_indefinite_in_time() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    cluster.partition("t", 0, |partition| {
        partition.faults.push_back(Fault::Ignore)
    });
    let producer = cluster.client().await.producer(ProducerConfig {
        delivery_timeout: Duration::from_millis(400),
        ..small_batches()
    });
    let sent = send_all(&producer, 0, &numbered(1)).await.remove(0);
    let error = timeout(PATIENCE, sent).await.unwrap().unwrap_err();
    assert_eq!(
        (error.code, error.outcome),
        (ErrorCode::RequestTimedOut, Outcome::Indefinite)
    );
}

#[tokio::test]
async fn sending_waits_for_room_in_the_buffer() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let producer = cluster.client().await.producer(ProducerConfig {
        buffer_bytes: 1_000,
        ..small_batches()
    });
    delivers_in_order(&cluster, &producer, 200).await;
}

#[tokio::test]
async fn an_unknown_topic_and_partition_are_named() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let config = ClientConfig::new(cluster.bootstrap());
    let producer = Client::connect(config)
        .await
        .unwrap()
        .producer(ProducerConfig {
            topic_wait: Duration::from_millis(50),
            ..ProducerConfig::default()
        });
    let error = producer
        .send(ProducerRecord::new("nope", "v"))
        .await
        .unwrap_err();
    assert!(error.message.contains("'nope'"), "{error}");
    let record = ProducerRecord::new("t", "v").to_partition(PartitionIndex(7));
    let error = producer.send(record).await.unwrap_err();
    assert!(error.message.contains("partition 7"), "{error}");
}

#[tokio::test]
async fn a_dropped_producer_fails_what_is_open() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let producer = cluster.client().await.producer(ProducerConfig {
        linger: Duration::from_secs(60),
        ..ProducerConfig::default()
    });
    let sent = send_all(&producer, 0, &numbered(1)).await.remove(0);
    drop(producer);
    let error = timeout(PATIENCE, sent).await.unwrap().unwrap_err();
    assert_eq!(error.outcome, Outcome::Definite);
}

#[tokio::test]
async fn a_topic_that_no_broker_knows_is_refused_without_waiting_for_it() {
    let cluster = FakeCluster::start(2);
    let producer = cluster.client().await.producer(ProducerConfig {
        topic_wait: PATIENCE * 100,
        ..ProducerConfig::default()
    });
    let sent = timeout(PATIENCE, producer.send(ProducerRecord::new("t", "x"))).await;
    let error = sent.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::UnknownTopicOrPartition);
    // One that is created while it is asked for is found.
    let send = producer.send(ProducerRecord::new("t", "x"));
    let (sent, ()) = tokio::join!(send, async { cluster.create_topic("t", 1) });
    timeout(PATIENCE, sent.unwrap()).await.unwrap().unwrap();
}
