//! Consumers that ask for much and take nothing: the node's memory stays bounded, and others are
//! served.

use std::time::{Duration, Instant};

use ottla_proto::v1;
use ottla_proto::v1::log_service_client::LogServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::node::PATIENCE;
use super::{Harness, batches, config_entry, fetch_from, fetch_request, new_topic, partition};

const TOPIC: &str = "large";
const BATCHES: usize = 48;
/// What the node may take beyond what it had before: its budget for one connection, and the
/// allocator's share.
const MORE_BYTES_MAX: usize = 160 << 20;
/// How long a read may take on a busy machine.
const PROMPTLY: Duration = Duration::from_secs(20);

/// A topic with more in it than one answer carries.
async fn filled() -> Harness {
    let mut harness = Harness::start().await;
    let topic = v1::CreateTopicRequest {
        configs: vec![config_entry("max.message.bytes", "1048588")],
        ..new_topic(TOPIC)
    };
    harness.admin.create_topic(topic).await.expect("a topic");
    let batch = batches::good(&vec![7; 1_000_000]);
    let deadline = Instant::now() + PATIENCE;
    let mut written = 0;
    while written < BATCHES {
        let result = harness.produce_to(partition(TOPIC, 0), batch.clone()).await;
        match result.error {
            None => written += 1,
            // Its leader is only about to be known.
            Some(error) => assert!(written == 0 && Instant::now() < deadline, "{error:?}"),
        }
    }
    harness
}

/// A connection with room for a little of every answer, so that the node begins to send each.
fn lazy(port: u16) -> LogServiceClient<Channel> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .expect("an address")
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(1 << 30)
        .connect_lazy();
    LogServiceClient::new(channel).max_decoding_message_size(usize::MAX)
}

/// Reads like any other consumer, for a while, and gives the most memory that the node had.
async fn read_beside(harness: &mut Harness) -> usize {
    let mut most = harness.node.resident_bytes();
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let began = Instant::now();
        let result = harness.fetch(fetch_from(TOPIC, 0, 0)).await;
        let result = result.expect("served beside the others");
        assert_eq!(result.error, None);
        assert!(!result.batches.is_empty());
        let took = began.elapsed();
        assert!(took < PROMPTLY, "served after {took:?}");
        most = most.max(harness.node.resident_bytes());
    }
    most
}

#[tokio::test]
async fn streams_that_are_never_read_hold_a_bounded_share_of_the_memory() {
    const STREAMS: usize = 100;
    let mut harness = filled().await;
    let before = harness.node.resident_bytes();
    let mut hog = lazy(harness.node.client_port);
    let mut held = Vec::new();
    for _ in 0..STREAMS {
        let (sender, requests) = mpsc::channel(16);
        for request_id in 0..16 {
            let request = v1::FetchRequest {
                request_id,
                ..fetch_request(vec![fetch_from(TOPIC, 0, 0)])
                    .fetch
                    .unwrap_or_default()
            };
            sender.send(request).await.expect("room");
        }
        let answers = hog.fetch(ReceiverStream::new(requests)).await;
        held.push((sender, answers.expect("a stream")));
    }
    let most = read_beside(&mut harness).await;
    let more = most.saturating_sub(before);
    assert!(more < MORE_BYTES_MAX, "{} MiB more", more >> 20);
    drop(held);
    harness.node.assert_unharmed();
}

#[tokio::test]
async fn many_calls_at_once_hold_a_bounded_share_of_the_memory() {
    const CALLS: usize = 100;
    let mut harness = filled().await;
    let before = harness.node.resident_bytes();
    let hog = lazy(harness.node.client_port);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CALLS {
        let mut hog = hog.clone();
        calls.spawn(async move {
            hog.fetch_once(fetch_request(vec![fetch_from(TOPIC, 0, 0)]))
                .await
        });
    }
    let most = read_beside(&mut harness).await;
    let more = most.saturating_sub(before);
    assert!(more < MORE_BYTES_MAX, "{} MiB more", more >> 20);
    calls.abort_all();
    harness.node.assert_unharmed();
}
