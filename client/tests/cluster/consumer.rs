//! Consuming: every record once and in order, through failures and leader changes.

use std::time::Duration;

use ottla_client::{
    AutoReset, Client, ConsumeError, ConsumedRecord, Consumer, ConsumerConfig, OffsetSpec,
    ProducerConfig, ProducerRecord, StartPosition,
};
use ottla_model::{Offset, PartitionIndex, TimestampMs};
use tokio::time::{Instant, timeout};

use crate::fake::FakeCluster;

const PATIENCE: Duration = Duration::from_secs(20);
const ZERO: PartitionIndex = PartitionIndex(0);

/// Appends records with the timestamps 1000, 1001, …, a few to a batch.
async fn produce(client: &Client, partition: i32, values: std::ops::Range<i64>) {
    let producer = client.producer(ProducerConfig {
        linger: Duration::from_millis(1),
        batch_bytes: 300,
        ..ProducerConfig::default()
    });
    for value in values {
        let mut record = ProducerRecord::new("t", value.to_string());
        record.partition = Some(PartitionIndex(partition));
        record.timestamp = Some(TimestampMs(1_000 + value));
        drop(producer.send(record).await.unwrap());
    }
    timeout(PATIENCE, producer.close()).await.unwrap();
}

async fn read(consumer: &mut Consumer, count: usize) -> Vec<ConsumedRecord> {
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    while records.len() < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count} records came",
            records.len()
        );
        records.extend(consumer.poll(Duration::from_millis(200)).await.unwrap());
    }
    records
}

fn offsets(records: &[ConsumedRecord]) -> Vec<i64> {
    records.iter().map(|record| record.offset.0).collect()
}

async fn assigned(client: &Client, config: ConsumerConfig, start: StartPosition) -> Consumer {
    let mut consumer = client.consumer(config);
    consumer.assign("t", vec![(ZERO, start)]).await.unwrap();
    consumer
}

#[tokio::test]
async fn every_record_comes_once_and_in_order() {
    let cluster = FakeCluster::with_topic(3, "t", 3);
    let client = cluster.client().await;
    for partition in 0..3 {
        produce(&client, partition, 0..100).await;
    }
    let mut consumer = client.consumer(ConsumerConfig {
        max_poll_records: 7,
        partition_max_bytes: 500,
        ..ConsumerConfig::default()
    });
    let all = (0..3)
        .map(|p| (PartitionIndex(p), StartPosition::Earliest))
        .collect();
    consumer.assign("t", all).await.unwrap();
    let records = read(&mut consumer, 300).await;
    for partition in 0..3 {
        let of = records
            .iter()
            .filter(|r| r.partition.0 == partition)
            .cloned();
        let of: Vec<_> = of.collect();
        assert_eq!(offsets(&of), (0..100).collect::<Vec<_>>());
        assert_eq!(of[42].value.as_deref(), Some(&b"42"[..]));
        assert_eq!(
            consumer.position("t", PartitionIndex(partition)),
            Some(Offset(100))
        );
        assert_eq!(
            consumer.high_watermark("t", PartitionIndex(partition)),
            Some(Offset(100))
        );
    }
}

#[tokio::test]
async fn a_start_position_means_what_it_says() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let client = cluster.client().await;
    produce(&client, 0, 0..50).await;
    let first = async |start| {
        let mut consumer = assigned(&client, ConsumerConfig::default(), start).await;
        read(&mut consumer, 1).await[0].offset
    };
    assert_eq!(first(StartPosition::Earliest).await, Offset(0));
    // In the middle of a batch: the records before it are skipped.
    assert_eq!(first(StartPosition::Offset(Offset(17))).await, Offset(17));
    let by_time = first(StartPosition::Timestamp(TimestampMs(1_030))).await;
    assert!(by_time > Offset(20) && by_time <= Offset(30), "{by_time}");
    let mut latest = assigned(&client, ConsumerConfig::default(), StartPosition::Latest).await;
    produce(&client, 0, 50..51).await;
    assert_eq!(read(&mut latest, 1).await[0].offset, Offset(50));
}

#[tokio::test]
async fn a_fetch_follows_the_leader() {
    let mut cluster = FakeCluster::with_topic(3, "t", 1);
    let client = cluster.client().await;
    let mut consumer = assigned(&client, ConsumerConfig::default(), StartPosition::Earliest).await;
    produce(&client, 0, 0..10).await;
    let mut records = read(&mut consumer, 10).await;
    cluster.move_leader("t", 0, 1);
    produce(&client, 0, 10..20).await;
    records.extend(read(&mut consumer, 10).await);
    cluster.kill(1);
    cluster.move_leader("t", 0, 2);
    produce(&client, 0, 20..30).await;
    records.extend(read(&mut consumer, 10).await);
    assert_eq!(offsets(&records), (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_offset_out_of_range_is_an_error_until_the_consumer_seeks() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let client = cluster.client().await;
    produce(&client, 0, 0..5).await;
    let start = StartPosition::Offset(Offset(99));
    let mut consumer = assigned(&client, ConsumerConfig::default(), start).await;
    for _ in 0..2 {
        let error = loop {
            match consumer.poll(Duration::from_millis(200)).await {
                Ok(records) => assert!(records.is_empty()),
                Err(error) => break error,
            }
        };
        assert_eq!(
            error,
            ConsumeError::OffsetOutOfRange {
                topic: "t".to_owned(),
                partition: ZERO,
                offset: Offset(99),
                log_start_offset: Offset(0),
                high_watermark: Offset(5),
            }
        );
    }
    consumer.seek("t", ZERO, Offset(3)).unwrap();
    assert_eq!(offsets(&read(&mut consumer, 2).await), [3, 4]);
}

#[tokio::test]
async fn a_position_out_of_range_is_reset_if_wanted() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let client = cluster.client().await;
    produce(&client, 0, 0..5).await;
    let config = ConsumerConfig {
        auto_reset: Some(AutoReset::Earliest),
        ..ConsumerConfig::default()
    };
    let mut consumer = assigned(&client, config, StartPosition::Offset(Offset(99))).await;
    assert_eq!(offsets(&read(&mut consumer, 5).await), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn damaged_bytes_are_never_handed_out() {
    let cluster = FakeCluster::with_topic(1, "t", 1);
    let client = cluster.client().await;
    produce(&client, 0, 0..1).await;
    let mut consumer = assigned(&client, ConsumerConfig::default(), StartPosition::Earliest).await;
    cluster.shared.change(|state| {
        let batch = &mut state.topics.get_mut("t").unwrap().partitions[0].batches[0];
        let mut bytes = batch.to_vec();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        *batch = bytes.into();
    });
    // What was fetched before the damage, if anything was, is forgotten.
    consumer.seek("t", ZERO, Offset(0)).unwrap();
    let error = loop {
        match consumer.poll(Duration::from_millis(200)).await {
            Ok(records) => assert!(records.is_empty()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ConsumeError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn partitions_are_read_whatever_became_of_the_leaders_of_others() {
    let mut cluster = FakeCluster::with_topic(3, "t", 3);
    let client = cluster.client().await;
    for partition in 0..3 {
        produce(&client, partition, 0..10).await;
    }
    cluster.kill(1);
    cluster.move_leader("t", 2, -1);
    let leaderless =
        |c: &ottla_client::ClusterSnapshot| c.topic("t").unwrap().partitions[2].leader_epoch.0 == 1;
    client.wait_for(leaderless, PATIENCE).await.unwrap();
    let asked = (0..3).map(|p| (PartitionIndex(p), OffsetSpec::Latest));
    let admin = client.admin();
    let listing = admin.list_offsets_once("t", asked.collect(), Duration::from_secs(5));
    let listed = listing.await.unwrap();
    let found = |p: i32| listed[&PartitionIndex(p)].as_ref().map(|it| it.offset);
    assert_eq!(found(0), Ok(Some(Offset(10))));
    assert!(found(1).is_err(), "its leader is dead");
    let reason = found(2).unwrap_err().to_string();
    assert!(reason.contains("t-2 has no leader"), "{reason}");

    let mut consumer = client.consumer(ConsumerConfig::default());
    for p in 0..3 {
        let start = vec![(PartitionIndex(p), StartPosition::Offset(Offset(0)))];
        consumer.assign_more("t", start).await.unwrap();
    }
    assert_eq!(read(&mut consumer, 10).await.len(), 10);
    let troubled = |consumer: &Consumer| -> Vec<i32> {
        let troubles = consumer.troubles().into_iter();
        troubles.map(|trouble| trouble.partition.0).collect()
    };
    let deadline = Instant::now() + PATIENCE;
    while troubled(&consumer) != [1, 2] {
        assert!(Instant::now() < deadline, "{:?}", consumer.troubles());
        consumer.poll(Duration::from_millis(50)).await.unwrap();
    }
    cluster.move_leader("t", 1, 0);
    cluster.move_leader("t", 2, 2);
    read(&mut consumer, 20).await;
    while !troubled(&consumer).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", consumer.troubles());
        consumer.poll(Duration::from_millis(50)).await.unwrap();
    }
}
