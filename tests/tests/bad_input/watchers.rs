//! Streams that watch the cluster and are never read: the node's memory stays bounded, and others
//! are told.

use std::time::Duration;

use ottla_proto::v1;
use ottla_proto::v1::cluster_service_client::ClusterServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::node::PATIENCE;
use super::{Harness, new_topic};

const PARTITIONS: i32 = 9_000;
const CONNECTIONS: usize = 2;
const STREAMS_OF_EACH: usize = 1_000;
/// What the node may take beyond what it had before: far less than a view for each stream.
const MORE_BYTES_MAX: usize = 160 << 20;
/// How long somebody may wait until others are pushed out, on a busy machine.
const WITHIN: Duration = Duration::from_secs(15);

/// A connection that begins to take each answer and takes none.
fn lazy(port: u16) -> ClusterServiceClient<Channel> {
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .expect("an address")
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(1 << 30)
        .connect_lazy();
    ClusterServiceClient::new(channel)
}

async fn next(watched: &mut tonic::Streaming<v1::WatchClusterResponse>) -> v1::ClusterView {
    let told = tokio::time::timeout(WITHIN, watched.message()).await;
    let told = told.expect("told in time").expect("no end");
    told.and_then(|told| told.change).expect("a view")
}

#[tokio::test]
async fn watches_that_are_never_read_hold_a_bounded_share_of_the_memory() {
    let mut harness = Harness::start().await;
    let topic = v1::CreateTopicRequest {
        partitions: PARTITIONS,
        ..new_topic("wide")
    };
    let mut request = tonic::Request::new(topic);
    request.set_timeout(PATIENCE);
    harness.admin.create_topic(request).await.expect("a topic");
    let port = harness.node.client_port;
    let before = harness.node.resident_bytes();
    let watch = v1::WatchClusterRequest::default;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut hog = lazy(port);
        for number in 0..STREAMS_OF_EACH {
            // Some watch everything, some what they name.
            let topics = ["wide"].repeat(number % 2);
            let request = v1::WatchClusterRequest {
                topics: topics.into_iter().map(str::to_owned).collect(),
            };
            held.push(hog.watch_cluster(request).await.expect("a stream"));
        }
    }
    // Whoever reads is told all the same, and of what changes then.
    let reader = ClusterServiceClient::new(harness.node.client());
    let mut reader = reader.max_decoding_message_size(usize::MAX);
    let watched = reader.watch_cluster(watch()).await.expect("a stream");
    let mut watched = watched.into_inner();
    let view = next(&mut watched).await;
    let wide = view.topics.iter().find(|topic| topic.name == "wide");
    assert_eq!(
        wide.map(|topic| topic.partitions.len()),
        Some(PARTITIONS as usize)
    );
    let more = harness.node.resident_bytes().saturating_sub(before);
    assert!(more < MORE_BYTES_MAX, "{} MiB more", more >> 20);
    harness
        .admin
        .create_topic(new_topic("late"))
        .await
        .expect("a topic");
    while !next(&mut watched)
        .await
        .topics
        .iter()
        .any(|topic| topic.name == "late")
    {}
    drop(held);
    harness.node.assert_unharmed();
}
