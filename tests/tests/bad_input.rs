//! Bad input over real sockets: it is refused with a gRPC status and details or an error of its
//! partition, changes nothing, and neither the connection nor the node suffers.

#[path = "bad_input/batches.rs"]
mod batches;
#[path = "bad_input/configuration.rs"]
mod configuration;
#[path = "bad_input/connections.rs"]
mod connections;
#[path = "bad_input/directories.rs"]
mod directories;
#[path = "bad_input/disks.rs"]
mod disks;
#[path = "bad_input/followers.rs"]
mod followers;
#[path = "bad_input/node.rs"]
mod node;
#[path = "bad_input/readers.rs"]
mod readers;
#[path = "bad_input/reflection.rs"]
mod reflection;
#[path = "bad_input/watchers.rs"]
mod watchers;

use std::time::Duration;

use bytes::Bytes;
use node::{Node, PATIENCE};
use ottla_model::ErrorCode;
use ottla_model::limits::{BATCH_BYTES_MAX, CLIENT_MESSAGE_BYTES_MAX, PARTITIONS_PER_MESSAGE_MAX};
use ottla_proto::status::from_status;
use ottla_proto::v1;
use ottla_proto::v1::admin_service_client::AdminServiceClient;
use ottla_proto::v1::cluster_service_client::ClusterServiceClient;
use ottla_proto::v1::controller_service_client::ControllerServiceClient;
use ottla_proto::v1::log_service_client::LogServiceClient;
use ottla_proto::v1::raft_service_client::RaftServiceClient;
use ottla_proto::v1::replica_service_client::ReplicaServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

const TOPIC: &str = "orders";
const MAX_MESSAGE_BYTES: usize = 2_000;

/// A node with a topic of one partition, and a connection that must survive everything.
struct Harness {
    node: Node,
    log: LogServiceClient<Channel>,
    admin: AdminServiceClient<Channel>,
    cluster: ClusterServiceClient<Channel>,
}

impl Harness {
    async fn start() -> Harness {
        Harness::over(Node::start().await).await
    }

    async fn over(node: Node) -> Harness {
        let channel = node.client();
        let mut harness = Harness {
            log: LogServiceClient::new(channel.clone())
                .max_encoding_message_size(usize::MAX)
                .max_decoding_message_size(usize::MAX),
            admin: AdminServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel),
            node,
        };
        let limit = config_entry("max.message.bytes", &MAX_MESSAGE_BYTES.to_string());
        let topic = v1::CreateTopicRequest {
            configs: vec![limit],
            ..new_topic(TOPIC)
        };
        harness.admin.create_topic(topic).await.expect("a topic");
        harness.wait_for_a_leader().await;
        harness
    }

    async fn wait_for_a_leader(&mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Some(error) = self.produce(batches::good(b"first")).await.error {
            assert!(tokio::time::Instant::now() < deadline, "{error:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Produces one batch on a stream of its own.
    async fn produce(&mut self, batch: Bytes) -> v1::ProduceResult {
        self.produce_to(partition(TOPIC, 0), batch).await
    }

    async fn produce_to(
        &mut self,
        partition: v1::TopicPartition,
        batch: Bytes,
    ) -> v1::ProduceResult {
        let request = produce_request(partition, batch);
        let stream = self.log.produce(futures::stream::iter([request])).await;
        let mut answers = stream.expect("a stream").into_inner();
        let answer = answers.message().await.expect("an answer");
        let mut answer = answer.expect("an answer before the end");
        answer.results.pop().expect("one result")
    }

    async fn fetch(&mut self, from: v1::FetchPartition) -> Result<v1::FetchResult, Status> {
        let request = fetch_request(vec![from]);
        let response = self.log.fetch_once(request).await?.into_inner();
        let results = response.fetch.unwrap_or_default().results;
        Ok(results.into_iter().next().unwrap_or_default())
    }

    /// What refused input must not change: the metadata and the end of the log.
    async fn state(&mut self) -> (i64, i64) {
        let request = v1::DescribeClusterRequest::default();
        let view = self.cluster.describe_cluster(request).await;
        let view = view.expect("the connection lives").into_inner().cluster;
        let request = v1::ListOffsetsRequest {
            partitions: vec![v1::ListOffsetsPartition {
                partition: Some(partition(TOPIC, 0)),
                ..Default::default()
            }],
        };
        let offsets = self.log.list_offsets(request).await;
        let offsets = offsets.expect("the connection lives").into_inner();
        let end = offsets.results[0].offset.expect("an end");
        (view.expect("a view").metadata_offset, end)
    }

    /// Nothing changed since, and a good batch is taken on the same connection.
    async fn assert_unharmed_since(&mut self, before: (i64, i64)) {
        assert_eq!(
            self.state().await,
            before,
            "refused input changed something"
        );
        let result = self.produce(batches::good(b"after")).await;
        assert_eq!(result.error, None);
        assert_eq!(result.base_offset, before.1);
        self.node.assert_unharmed();
    }
}

fn partition(topic: &str, partition: i32) -> v1::TopicPartition {
    v1::TopicPartition {
        topic: topic.to_owned(),
        partition,
        ..Default::default()
    }
}

fn produce_request(partition: v1::TopicPartition, batch: Bytes) -> v1::ProduceRequest {
    v1::ProduceRequest {
        partitions: vec![v1::ProducePartition {
            partition: Some(partition),
            batch,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn fetch_from(topic: &str, index: i32, offset: i64) -> v1::FetchPartition {
    v1::FetchPartition {
        partition: Some(partition(topic, index)),
        offset,
        ..Default::default()
    }
}

fn fetch_request(partitions: Vec<v1::FetchPartition>) -> v1::FetchOnceRequest {
    v1::FetchOnceRequest {
        fetch: Some(v1::FetchRequest {
            partitions,
            ..Default::default()
        }),
    }
}

fn config_entry(name: &str, value: &str) -> v1::ConfigEntry {
    v1::ConfigEntry {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

fn new_topic(name: &str) -> v1::CreateTopicRequest {
    v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: 1,
        ..Default::default()
    }
}

/// A refusal has a status, a code of ours and a sentence.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Status>, code: ErrorCode) {
    let status = result.expect_err("a refusal");
    let error = from_status(&status).unwrap_or_else(|| panic!("no details: {status:?}"));
    assert_eq!(error.code, code, "{error:?}");
    assert!(!error.message.is_empty(), "{error:?}");
}

#[track_caller]
fn assert_error(error: Option<&v1::Error>, code: ErrorCode, case: &str) {
    let error = error.unwrap_or_else(|| panic!("{case} was taken"));
    assert_eq!(error.code, i32::from(code.number()), "{case}: {error:?}");
    assert_eq!(error.reason, code.name(), "{case}");
    assert!(!error.message.is_empty(), "{case}");
}

#[tokio::test]
async fn batches_that_are_wrong_are_refused_and_nothing_is_appended() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    for (case, batch) in batches::damaged() {
        let result = harness.produce(batch).await;
        assert_error(result.error.as_ref(), ErrorCode::CorruptMessage, case);
    }
    for (case, code, batch) in batches::not_for_producers() {
        let result = harness.produce(batch).await;
        assert_error(result.error.as_ref(), code, case);
    }
    let too_large = batches::good(&[7; MAX_MESSAGE_BYTES]);
    let result = harness.produce(too_large).await;
    assert_error(
        result.error.as_ref(),
        ErrorCode::MessageTooLarge,
        "a batch above the topic's",
    );
    let too_large = batches::good(&vec![7; BATCH_BYTES_MAX]);
    let result = harness.produce(too_large).await;
    assert_error(
        result.error.as_ref(),
        ErrorCode::MessageTooLarge,
        "a batch above any topic's",
    );
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn batches_that_no_consumer_could_read_are_refused() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    for (case, batch) in batches::unreadable() {
        let result = harness.produce(batch).await;
        assert!(result.error.is_some(), "{case} was taken");
    }
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn sequences_out_of_order_are_refused_and_nothing_is_appended() {
    let mut harness = Harness::start().await;
    let request = v1::InitProducerIdRequest {};
    let id = harness.log.init_producer_id(request).await.expect("an id");
    let id = id.into_inner().producer_id;
    for sequence in 0..2 {
        let taken = harness.produce(batches::of_producer(id, 3, sequence)).await;
        assert_eq!(taken.error, None);
    }
    let before = harness.state().await;
    let cases = [
        ("a gap", 3, 5, ErrorCode::OutOfOrderSequenceNumber),
        ("a negative sequence", 3, -7, ErrorCode::InvalidRecord),
        ("a negative epoch", -4, 2, ErrorCode::InvalidRecord),
        (
            "an epoch that is over",
            2,
            0,
            ErrorCode::InvalidProducerEpoch,
        ),
    ];
    for (case, epoch, sequence, code) in cases {
        let result = harness
            .produce(batches::of_producer(id, epoch, sequence))
            .await;
        assert_error(result.error.as_ref(), code, case);
    }
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn unknown_topics_and_partitions_are_refused_by_every_call() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    let unknown = ErrorCode::UnknownTopicOrPartition;
    let mut other_id = partition(TOPIC, 0);
    other_id.topic_id = Bytes::from_static(&[1; 16]);
    let cases = [
        (partition("nowhere", 0), unknown),
        (partition("", 0), unknown),
        (partition("../../etc", 0), unknown),
        (partition(TOPIC, 1), unknown),
        (partition(TOPIC, -1), unknown),
        (partition(TOPIC, i32::MAX), unknown),
        (partition(TOPIC, i32::MIN), unknown),
        (other_id, ErrorCode::UnknownTopicId),
    ];
    for (named, code) in cases {
        let case = format!("{named:?}");
        let result = harness.produce_to(named.clone(), batches::good(b"v")).await;
        assert_error(result.error.as_ref(), code, &case);
        let from = v1::FetchPartition {
            partition: Some(named.clone()),
            ..Default::default()
        };
        let result = harness.fetch(from).await.expect("a result");
        assert_error(result.error.as_ref(), code, &case);
        let request = v1::ListOffsetsRequest {
            partitions: vec![v1::ListOffsetsPartition {
                partition: Some(named),
                ..Default::default()
            }],
        };
        let response = harness.log.list_offsets(request).await.expect("results");
        let result = &response.get_ref().results[0];
        assert_error(result.error.as_ref(), code, &case);
    }
    let publish = |topic: &str, index| v1::PublishRequest {
        topic: topic.to_owned(),
        partition: index,
        records: vec![v1::PlainRecord::default()],
        ..Default::default()
    };
    assert_refused(harness.log.publish(publish("nowhere", None)).await, unknown);
    assert_refused(harness.log.publish(publish(TOPIC, Some(9))).await, unknown);
    let subscribe = v1::SubscribeRequest {
        topic: TOPIC.to_owned(),
        partitions: vec![-1],
        ..Default::default()
    };
    assert_refused(harness.log.subscribe(subscribe).await, unknown);
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn offsets_out_of_range_are_refused() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    for offset in [i64::MIN, -1, before.1 + 1, i64::MAX] {
        let result = harness.fetch(fetch_from(TOPIC, 0, offset)).await;
        let error = result.expect("a result").error;
        assert_error(
            error.as_ref(),
            ErrorCode::OffsetOutOfRange,
            &offset.to_string(),
        );
        let subscribe = v1::SubscribeRequest {
            topic: TOPIC.to_owned(),
            from: Some(v1::subscribe_request::From::Offset(offset)),
            ..Default::default()
        };
        let stream = harness.log.subscribe(subscribe).await.expect("a stream");
        assert_refused(
            stream.into_inner().message().await,
            ErrorCode::OffsetOutOfRange,
        );
    }
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn requests_beyond_a_limit_are_refused() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    let too_many = 0..i32::try_from(PARTITIONS_PER_MESSAGE_MAX).expect("a small number") + 1;
    let all = too_many.map(|index| fetch_from(TOPIC, index, 0)).collect();
    let twice = vec![fetch_from(TOPIC, 0, 0), fetch_from(TOPIC, 0, 0)];
    for partitions in [Vec::new(), all, twice] {
        let result = harness.log.fetch_once(fetch_request(partitions)).await;
        assert_refused(result, ErrorCode::InvalidRequest);
    }
    let nothing = v1::ProduceRequest::default();
    let stream = harness.log.produce(futures::stream::iter([nothing])).await;
    let mut answers = stream.expect("a stream").into_inner();
    assert_refused(answers.message().await, ErrorCode::InvalidRequest);
    let strange_acks = v1::ProduceRequest {
        acks: 9,
        ..produce_request(partition(TOPIC, 0), batches::good(b"v"))
    };
    let stream = harness
        .log
        .produce(futures::stream::iter([strange_acks]))
        .await;
    let mut answers = stream.expect("a stream").into_inner();
    assert_refused(answers.message().await, ErrorCode::InvalidRequiredAcks);

    let long = v1::DescribeClusterRequest {
        topics: vec!["x".repeat(1_000_000)],
        ..Default::default()
    };
    let status = harness.cluster.describe_cluster(long).await;
    assert_eq!(status.expect_err("a refusal").code(), Code::OutOfRange);
    let long = v1::DescribeTopicRequest {
        name: "x".repeat(3_000_000),
    };
    let status = harness.admin.describe_topic(long).await;
    assert_eq!(status.expect_err("a refusal").code(), Code::OutOfRange);

    let batch = Bytes::from(vec![0; CLIENT_MESSAGE_BYTES_MAX]);
    let request = produce_request(partition(TOPIC, 0), batch);
    let stream = harness.log.produce(futures::stream::iter([request])).await;
    let mut answers = stream.expect("a stream").into_inner();
    let status = answers.message().await.expect_err("a refusal");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("too large"), "{status:?}");
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn topics_that_cannot_be_are_refused_and_nothing_is_decided() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    let long = "x".repeat(250);
    for name in [
        "", ".", "..", "a/b", "../up", "a b", "é", "a\0b", "a\nb", &long,
    ] {
        let result = harness.admin.create_topic(new_topic(name)).await;
        assert_refused(result, ErrorCode::InvalidTopic);
    }
    for factor in [-1, 2, 100, i32::MIN, i32::MAX] {
        let request = v1::CreateTopicRequest {
            replication_factor: factor,
            ..new_topic("t")
        };
        let result = harness.admin.create_topic(request).await;
        assert_refused(result, ErrorCode::InvalidReplicationFactor);
    }
    for partitions in [-1, 100_001, i32::MIN, i32::MAX] {
        let request = v1::CreateTopicRequest {
            partitions,
            ..new_topic("t")
        };
        let result = harness.admin.create_topic(request).await;
        assert_refused(result, ErrorCode::InvalidPartitions);
    }
    let settings = [
        ("colour", "red"),
        ("retention.ms", "soon"),
        ("max.message.bytes", "-1"),
    ];
    for (name, value) in settings {
        let request = v1::CreateTopicRequest {
            configs: vec![config_entry(name, value)],
            ..new_topic("t")
        };
        let result = harness.admin.create_topic(request).await;
        assert_refused(result, ErrorCode::InvalidConfig);
    }
    for replicas in [vec![], vec![0, 0], vec![7], vec![-1]] {
        let request = v1::CreateTopicRequest {
            partitions: 0,
            assignments: vec![v1::ReplicaAssignment { replicas }],
            ..new_topic("t")
        };
        let result = harness.admin.create_topic(request).await;
        assert_refused(result, ErrorCode::InvalidReplicaAssignment);
    }
    for total in [1, 0, -1] {
        let request = v1::CreatePartitionsRequest {
            name: TOPIC.to_owned(),
            total,
            ..Default::default()
        };
        let result = harness.admin.create_partitions(request).await;
        assert_refused(result, ErrorCode::InvalidPartitions);
    }
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn strangers_on_the_internal_port_are_refused() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    let channel = harness.node.internal();
    let mut controller = ControllerServiceClient::new(channel.clone());
    let request = v1::AlterPartitionsRequest {
        broker_id: 7,
        ..Default::default()
    };
    let result = controller.alter_partitions(request).await;
    assert_refused(result, ErrorCode::BrokerIdNotRegistered);
    let request = v1::AllocateProducerIdsRequest {
        broker_id: 0,
        broker_epoch: i64::MAX,
    };
    let result = controller.allocate_producer_ids(request).await;
    assert_refused(result, ErrorCode::StaleBrokerEpoch);
    let beat = v1::ControlRequest::default();
    let stream = controller.control(futures::stream::iter([beat])).await;
    let status = stream.expect("a stream").into_inner().message().await;
    assert_eq!(status.expect_err("a refusal").code(), Code::InvalidArgument);

    let mut replica = ReplicaServiceClient::new(channel.clone());
    let hello = v1::ReplicateHello {
        cluster_id: "another".to_owned(),
        ..Default::default()
    };
    let hello = v1::ReplicateRequest {
        hello: Some(hello),
        ..Default::default()
    };
    let result = replica.replicate(futures::stream::iter([hello])).await;
    assert_refused(result, ErrorCode::InconsistentClusterId);

    let mut raft = RaftServiceClient::new(channel);
    let junk = || v1::VoteRequest {
        envelope: None,
        body: Bytes::from_static(b"\xff\xff\xff"),
    };
    let status = raft.vote(junk()).await.expect_err("a refusal");
    assert_eq!(status.code(), Code::InvalidArgument);
    for body in [&b""[..], &[0; 64], &[0xff; 64], &[1; 9]] {
        // A caller that says truly who it is, and nothing that a controller ever said.
        let greeting = raft.greet(v1::GreetRequest::default()).await;
        let here = greeting.expect("a greeting").into_inner();
        let envelope = Some(v1::RaftEnvelope {
            cluster_id: here.cluster_id,
            from_node_id: here.node_id,
            from_directory_id: here.directory_id.clone(),
            to_node_id: here.node_id,
            to_directory_id: here.directory_id,
            membership: 0,
        });
        let body = Bytes::copy_from_slice(body);
        let vote = v1::VoteRequest {
            envelope: envelope.clone(),
            body: body.clone(),
        };
        let status = raft.vote(vote).await.expect_err("a refusal");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let append = v1::AppendRequest { envelope, body };
        let stream = raft.append(futures::stream::iter([append])).await;
        let status = stream.expect_err("a refusal");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let mut to_another = junk();
    to_another.envelope = Some(v1::RaftEnvelope {
        to_node_id: 9,
        ..Default::default()
    });
    let status = raft.vote(to_another).await.expect_err("a refusal");
    assert_eq!(status.code(), Code::FailedPrecondition);
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn a_stranger_cannot_tell_a_controller_that_its_directory_was_replaced() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    let mut raft = RaftServiceClient::new(harness.node.internal());
    let here = raft.greet(v1::GreetRequest::default()).await;
    let here = here.expect("a greeting").into_inner();
    let lie = v1::RaftEnvelope {
        cluster_id: here.cluster_id,
        from_node_id: 99,
        from_directory_id: Bytes::from_static(&[1; 16]),
        to_node_id: here.node_id,
        to_directory_id: Bytes::from_static(&[2; 16]),
        membership: 0,
    };
    let request = v1::GreetRequest {
        envelope: Some(lie),
    };
    raft.greet(request).await.expect_err("a refusal");
    harness.assert_unharmed_since(before).await;
}

#[tokio::test]
async fn a_client_that_reads_late_gets_every_answer() {
    const REQUESTS: u64 = 20_000;
    let mut harness = Harness::start().await;
    // A long name makes long answers, which do not all fit into the connection's windows.
    let name = "n".repeat(249);
    let (sender, receiver) = tokio::sync::mpsc::channel::<v1::ProduceRequest>(16);
    let requests = futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|request| (request, receiver))
    });
    let mut answers = harness
        .log
        .produce(requests)
        .await
        .expect("a stream")
        .into_inner();
    let sending = tokio::spawn(async move {
        for request_id in 0..REQUESTS {
            let mut request = produce_request(partition(&name, 0), Bytes::new());
            request.request_id = request_id;
            let again = vec![request.partitions[0].clone(); 20];
            request.partitions = again;
            // The broker may make the client wait until it reads.
            let sent = tokio::time::timeout(Duration::from_secs(2), sender.send(request)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return request_id;
            }
        }
        REQUESTS
    });
    let sent = sending.await.expect("the sender");
    let mut answered = 0;
    while answers.message().await.expect("answers").is_some() {
        answered += 1;
    }
    assert!(answered >= sent, "{sent} requests had {answered} answers");
    harness.node.assert_unharmed();
}

#[tokio::test]
async fn a_refusal_of_something_long_still_fits_into_its_headers() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    let request = v1::DescribeTopicRequest {
        name: "x".repeat(1_000_000),
    };
    let result = harness.admin.describe_topic(request).await;
    assert_refused(result, ErrorCode::UnknownTopicOrPartition);
    harness.assert_unharmed_since(before).await;
}

/// Says something on a new connection, and gives what comes back before the other side closes.
async fn answer_to(port: u16, said: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("a port");
    stream.write_all(said).await.expect("room in the socket");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset is an end, too.
    let _ = read.expect("the other side closes the connection");
    answer
}

#[tokio::test]
async fn every_port_refuses_what_is_not_grpc() {
    let mut harness = Harness::start().await;
    let before = harness.state().await;
    let ports = [
        (harness.node.client_port, "client port"),
        (harness.node.internal_port, "internal port"),
    ];
    for (port, name) in ports {
        let http1 = answer_to(port, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let http1 = String::from_utf8(http1).expect("text");
        assert!(http1.starts_with("HTTP/1.1 426 "), "{http1}");
        assert!(http1.contains(name), "{http1}");

        // ApiVersions, version 0, with correlation id 77.
        let kafka = [
            0, 0, 0, 13, 0, 18, 0, 0, 0, 0, 0, 77, 0, 3, b'c', b'l', b'i',
        ];
        let expected = [0, 0, 0, 10, 0, 0, 0, 77, 0, 35, 0, 0, 0, 0];
        assert_eq!(answer_to(port, &kafka).await, expected, "{name}");

        let tls = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3];
        assert_eq!(answer_to(port, &tls).await.first(), Some(&0x15), "{name}");

        for junk in [&[0xff; 100][..], &[0; 100], b"EHLO example.org\r\n"] {
            let text = String::from_utf8(answer_to(port, junk).await).expect("text");
            assert!(text.contains(name), "{junk:?} was answered by '{text}'");
        }
        // HTTP/2 as far as its first line, and then not.
        answer_to(
            port,
            &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xee; 300][..]].concat(),
        )
        .await;
        answer_to(port, &[b"PRI ", &[0xee; 300][..]].concat()).await;
    }
    harness.assert_unharmed_since(before).await;
}
