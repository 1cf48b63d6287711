//! Streams that pretend to be a follower's: the real follower goes on.

use std::time::Duration;

use bytes::Bytes;
use ottla_model::ErrorCode;
use ottla_proto::v1;
use ottla_proto::v1::admin_service_client::AdminServiceClient;
use ottla_proto::v1::cluster_service_client::ClusterServiceClient;
use ottla_proto::v1::log_service_client::LogServiceClient;
use ottla_proto::v1::replica_service_client::ReplicaServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::node::{Node, PATIENCE};
use super::{TOPIC, assert_refused, batches, new_topic, partition, produce_request};

/// Less than a follower may lag before its leader goes on without it.
const PROMPTLY: Duration = Duration::from_secs(8);

/// A topic over three brokers, all in sync.
async fn replicated_topic(channel: &Channel) -> v1::ClusterView {
    let mut admin = AdminServiceClient::new(channel.clone());
    let topic = v1::CreateTopicRequest {
        replication_factor: 3,
        configs: vec![super::config_entry("min.insync.replicas", "3")],
        ..new_topic(TOPIC)
    };
    admin.create_topic(topic).await.expect("a topic");
    let mut cluster = ClusterServiceClient::new(channel.clone());
    let request = v1::WatchClusterRequest::default();
    let watched = cluster.watch_cluster(request).await.expect("a stream");
    let mut watched = watched.into_inner();
    let in_sync = async {
        loop {
            let change = watched.message().await.expect("a view").expect("a view");
            let view = change.change.unwrap_or_default();
            let led = |topic: &v1::TopicView| {
                let partition = &topic.partitions[0];
                partition.leader_id.is_some() && partition.isr.len() == 3
            };
            if view.topics.iter().any(led) && view.brokers.len() == 3 {
                return view;
            }
        }
    };
    let in_sync = tokio::time::timeout(PATIENCE, in_sync).await;
    in_sync.expect("all replicas in sync")
}

/// Writes with the consent of all replicas, promptly.
async fn assert_replicated(leader: &Channel, value: &[u8]) {
    let mut log = LogServiceClient::new(leader.clone());
    let request = || produce_request(partition(TOPIC, 0), batches::good(value));
    let writing = async {
        loop {
            let stream = log.produce(futures::stream::iter([request()])).await;
            let answer = stream.expect("a stream").into_inner().message().await;
            let answer = answer.expect("an answer").expect("an answer");
            let error = answer.results[0].error.clone();
            // The leader may hear of the topic a moment after the broker that was asked about it.
            match error.filter(|error| error.reason == "UNKNOWN_TOPIC_OR_PARTITION") {
                Some(_) => tokio::task::yield_now().await,
                None => return answer.results[0].error.clone(),
            }
        }
    };
    let error = tokio::time::timeout(PROMPTLY, writing).await;
    assert_eq!(error.expect("the followers take it promptly"), None);
}

#[tokio::test]
async fn a_false_follower_does_not_push_the_real_one_aside() {
    let mut nodes = Node::three().await;
    let view = replicated_topic(&nodes[0].client()).await;
    let topic = &view.topics[0];
    let led = &topic.partitions[0];
    let leader = led.leader_id.expect("a leader");
    let follower = view.brokers.iter().find(|broker| broker.node_id != leader);
    let follower = follower.expect("a follower");
    let there = &nodes[usize::try_from(leader).expect("an index")];
    let channel = there.client();
    assert_replicated(&channel, b"first").await;

    let hello = |broker_epoch| v1::ReplicateRequest {
        hello: Some(v1::ReplicateHello {
            cluster_id: view.cluster_id.clone(),
            broker_id: follower.node_id,
            broker_epoch,
            leader_id: leader,
        }),
        ..Default::default()
    };
    let mut replica = ReplicaServiceClient::new(there.internal());
    for broker_epoch in [
        -1,
        0,
        follower.broker_epoch - 1,
        follower.broker_epoch + 1,
        i64::MAX,
    ] {
        let stale = futures::stream::iter([hello(broker_epoch)]);
        assert_refused(replica.replicate(stale).await, ErrorCode::StaleBrokerEpoch);
        assert_replicated(&channel, b"stale broker epoch").await;
    }

    let state = |leader_epoch| v1::ReplicateRequest {
        states: vec![v1::ReplicaState {
            topic_id: topic.topic_id.clone(),
            partition: 0,
            leader_epoch,
            last_epoch: -1,
            ..Default::default()
        }],
        ..Default::default()
    };
    let epoch = led.leader_epoch;
    for (false_epoch, code) in [
        (-1, ErrorCode::FencedLeaderEpoch),
        (epoch - 1, ErrorCode::FencedLeaderEpoch),
        (epoch + 1, ErrorCode::UnknownLeaderEpoch),
        (i32::MAX, ErrorCode::UnknownLeaderEpoch),
    ] {
        let (sender, requests) = with_first(hello(follower.broker_epoch)).await;
        let stream = replica.replicate(requests).await;
        let mut answers = stream.expect("a stream").into_inner();
        sender.send(state(false_epoch)).await.expect("room");
        let answer = answers.message().await.expect("an answer").expect("one");
        let refused = &answer.partitions[0];
        assert_eq!(refused.error_code, i32::from(code.number()), "{refused:?}");
        assert_eq!(refused.batches, Bytes::new());
        // While the false stream is open, and once it is gone.
        assert_replicated(&channel, b"beside a false follower").await;
        drop((sender, answers));
        assert_replicated(&channel, b"after a false follower").await;
    }
    let hello = hello(follower.broker_epoch);
    assert_first_message_counts(&mut replica, &hello, &state(epoch - 1)).await;
    assert_second_hello_is_refused(&mut replica, &hello).await;
    assert_newest_stream_counts(&mut replica, &hello, &state(epoch)).await;
    assert_replicated(&channel, b"after all of them").await;
    for node in &mut nodes {
        node.assert_unharmed();
    }
}

/// The requests of a stream that begins with this one, and where more may follow.
async fn with_first(
    first: v1::ReplicateRequest,
) -> (
    mpsc::Sender<v1::ReplicateRequest>,
    ReceiverStream<v1::ReplicateRequest>,
) {
    let (sender, requests) = mpsc::channel(4);
    sender.send(first).await.expect("room");
    (sender, ReceiverStream::new(requests))
}

/// What comes with the hello is heard like what comes after it.
async fn assert_first_message_counts(
    replica: &mut ReplicaServiceClient<Channel>,
    hello: &v1::ReplicateRequest,
    fenced: &v1::ReplicateRequest,
) {
    let first = v1::ReplicateRequest {
        hello: hello.hello.clone(),
        ..fenced.clone()
    };
    let (_sender, requests) = with_first(first).await;
    let stream = replica.replicate(requests).await;
    let mut answers = stream.expect("a stream").into_inner();
    let answer = tokio::time::timeout(PROMPTLY, answers.message()).await;
    let answer = answer.expect("heard").expect("an answer").expect("one");
    let refused = &answer.partitions[0];
    let code = ErrorCode::FencedLeaderEpoch.number();
    assert_eq!(refused.error_code, i32::from(code), "{refused:?}");
}

/// Who follows is said once.
async fn assert_second_hello_is_refused(
    replica: &mut ReplicaServiceClient<Channel>,
    hello: &v1::ReplicateRequest,
) {
    let (sender, requests) = with_first(hello.clone()).await;
    let stream = replica.replicate(requests).await;
    let mut answers = stream.expect("a stream").into_inner();
    sender.send(hello.clone()).await.expect("room");
    let answer = tokio::time::timeout(PROMPTLY, answers.message()).await;
    assert_refused(answer.expect("an end"), ErrorCode::InvalidRequest);
}

/// What lingers of a stream that its follower gave up does not take the place of the next one; and
/// whoever was pushed aside hears so, asks again, and follows once the newer stream is gone.
async fn assert_newest_stream_counts(
    replica: &mut ReplicaServiceClient<Channel>,
    hello: &v1::ReplicateRequest,
    state: &v1::ReplicateRequest,
) {
    let (older, requests) = with_first(hello.clone()).await;
    let stream = replica.replicate(requests).await;
    let mut of_older = stream.expect("a stream").into_inner();
    let (newer, requests) = with_first(hello.clone()).await;
    let stream = replica.replicate(requests).await;
    let mut of_newer = stream.expect("a stream").into_inner();

    newer.send(state.clone()).await.expect("room");
    assert_pushed(&mut of_newer, 0).await;
    older.send(state.clone()).await.expect("room");
    let stale = ErrorCode::StaleBrokerEpoch.number();
    assert_pushed(&mut of_older, stale).await;
    newer.send(state.clone()).await.expect("room");
    assert_pushed(&mut of_newer, 0).await;
    drop((newer, of_newer));
    let heard = async {
        loop {
            older.send(state.clone()).await.expect("room");
            let answer = of_older.message().await.expect("an answer").expect("one");
            if answer.partitions.iter().all(|data| data.error_code == 0) {
                return;
            }
        }
    };
    let heard = tokio::time::timeout(PROMPTLY, heard).await;
    heard.expect("the older stream follows again");
}

/// The next message of a leader bears this error, or none.
async fn assert_pushed(answers: &mut Streaming<v1::ReplicateResponse>, code: i16) {
    let answer = tokio::time::timeout(PROMPTLY, answers.message()).await;
    let answer = answer.expect("in time").expect("an answer").expect("one");
    assert_eq!(answer.partitions[0].error_code, i32::from(code));
}
