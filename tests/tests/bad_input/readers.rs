//! Consumers that ask for much and take nothing: the node's memory stays bounded, and others are
//! served.

use std::time::{Duration, Instant};

use ottla_proto::v1;
use ottla_proto::v1::log_service_client::LogServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
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
/// How long a read may take that waits until others are pushed out, on a busy machine.
const WITHIN: Duration = Duration::from_secs(15);
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

/// Connections from this address that ask for much on a stream each and read none of it.
struct Hogs(
    Vec<(
        mpsc::Sender<v1::FetchRequest>,
        tonic::Streaming<v1::FetchResponse>,
    )>,
);

impl Hogs {
    async fn open(port: u16, from: [u8; 4], connections: usize) -> Hogs {
        let mut hogs = Vec::new();
        for _ in 0..connections {
            let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
                .expect("an address")
                .local_address(Some(from.into()))
                .initial_stream_window_size(65_535)
                .connect_lazy();
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
            let mut hog = LogServiceClient::new(channel);
            let answers = hog.fetch(ReceiverStream::new(requests)).await;
            hogs.push((sender, answers.expect("a stream").into_inner()));
        }
        Hogs(hogs)
    }
}

/// One read on a connection of its own from this address, which must be served in time.
async fn read_from(port: u16, from: [u8; 4], within: Duration) {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .expect("an address")
        .local_address(Some(from.into()))
        .connect_lazy();
    let mut log = LogServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let began = Instant::now();
    let answer = log
        .fetch_once(fetch_request(vec![fetch_from(TOPIC, 0, 0)]))
        .await;
    let took = began.elapsed();
    let answer = answer.unwrap_or_else(|status| panic!("after {took:?}: {status}"));
    let results = answer.into_inner().fetch.unwrap_or_default().results;
    assert!(!results[0].batches.is_empty());
    assert!(took < within, "served after {took:?}");
}

/// A port that leads to another, and passes on so many bytes of its answers in a second.
async fn slow_port(to: u16, bytes_per_second: u64) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.expect("a connection");
        let mut far = TcpStream::connect(("127.0.0.1", to)).await.expect("a port");
        let (mut near_reading, mut near_writing) = near.split();
        let (mut far_reading, mut far_writing) = far.split();
        let asking = tokio::io::copy(&mut near_reading, &mut far_writing);
        let answering = async {
            let mut some = vec![0; (bytes_per_second / 10) as usize];
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            loop {
                pace.tick().await;
                let count = far_reading.read(&mut some).await.expect("open");
                if count == 0 || near_writing.write_all(&some[..count]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = asking => {}
            () = answering => {}
        }
    });
    port
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

#[tokio::test]
async fn connections_that_take_nothing_leave_room_for_others() {
    let harness = filled().await;
    let port = harness.node.client_port;
    // What these may hold once they have proven to read is more than there is.
    let _hogs = Hogs::open(port, [127, 0, 0, 1], 20).await;
    read_from(port, [127, 0, 0, 1], WITHIN).await;
    read_from(port, [127, 0, 0, 2], WITHIN).await;
}

#[tokio::test]
async fn very_many_connections_that_take_nothing_are_closed_and_a_slow_one_is_not() {
    let mut harness = filled().await;
    let port = harness.node.client_port;
    let before = harness.node.resident_bytes();
    let slow = slow_port(port, 50_000).await;
    let reading_slowly =
        tokio::spawn(async move { read_from(slow, [127, 0, 0, 1], PATIENCE).await });
    // More than one host may hold, at an answer or two each.
    let hogs = Hogs::open(port, [127, 0, 0, 1], 80).await;
    // The host's room is taken; another host has its own.
    read_from(port, [127, 0, 0, 2], WITHIN / 5).await;
    let more = harness.node.resident_bytes().saturating_sub(before);
    assert!(more < MORE_BYTES_MAX, "{} MiB more", more >> 20);
    read_from(port, [127, 0, 0, 1], WITHIN).await;
    reading_slowly.await.expect("read to its end");
    let mut closed = 0;
    for (_, mut answers) in hogs.0 {
        let rest = async { while let Ok(Some(_)) = answers.message().await {} };
        let ended = tokio::time::timeout(Duration::from_millis(1), rest).await;
        closed += usize::from(ended.is_ok());
    }
    assert!(closed > 0, "nobody was pushed out");
    harness.node.assert_unharmed();
}

#[tokio::test]
async fn subscriptions_that_are_never_read_are_closed_when_others_wait() {
    const SUBSCRIPTIONS: usize = 80;
    let mut harness = filled().await;
    let port = harness.node.client_port;
    let before = harness.node.resident_bytes();
    let request = || v1::SubscribeRequest {
        topic: TOPIC.to_owned(),
        from: Some(v1::subscribe_request::From::Earliest(true)),
        ..Default::default()
    };
    let mut hogs = Vec::new();
    for _ in 0..SUBSCRIPTIONS {
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
            .expect("an address")
            .initial_stream_window_size(65_535)
            .connect_lazy();
        let mut hog = LogServiceClient::new(channel);
        let answers = hog.subscribe(request()).await;
        hogs.push(answers.expect("a stream").into_inner());
    }
    let mut reader = LogServiceClient::new(harness.node.client());
    let reading = async {
        let answers = reader.subscribe(request()).await.expect("a stream");
        answers.into_inner().message().await
    };
    let heard = tokio::time::timeout(WITHIN, reading).await.expect("served");
    let records = heard.expect("no end").expect("an answer").records;
    assert!(!records.is_empty());
    read_from(port, [127, 0, 0, 1], WITHIN).await;
    // Beside what is reserved, each has one batch that waits for room, as it was read and decoded.
    let more = harness.node.resident_bytes().saturating_sub(before);
    let most = 2 * MORE_BYTES_MAX + SUBSCRIPTIONS * 2_000_000;
    assert!(more < most, "{} MiB more", more >> 20);
    harness.node.assert_unharmed();
}
