use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ottla_model::{ErrorCode, NodeId};
use ottla_proto::status::{from_status, to_status};
use ottla_proto::v1;
use ottla_proto::v1::control_request::Message as ToController;
use ottla_proto::v1::control_response::Message as FromController;
use ottla_proto::v1::decide_response::Response as Answer;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::harness::{Cluster, free_port, wait_for};

/// A broker as far as its control stream goes.
pub struct FakeBroker {
    epoch: i64,
    beats: mpsc::Sender<v1::ControlRequest>,
    responses: Streaming<v1::ControlResponse>,
}

impl FakeBroker {
    /// Registers; nobody listens at its ports.
    pub fn register(cluster: &Cluster, active: i32, id: i32) -> FakeBroker {
        let mut client = cluster.client(active);
        let endpoint = || {
            Some(v1::Endpoint {
                host: "127.0.0.1".to_owned(),
                port: u32::from(free_port()),
            })
        };
        let registration = v1::BrokerRegistration {
            cluster_id: cluster.status(active).cluster_id.unwrap().to_string(),
            broker_id: id,
            incarnation_id: vec![id as u8; 16].into(),
            directory_id: vec![id as u8 + 100; 16].into(),
            client_endpoint: endpoint(),
            internal_endpoint: endpoint(),
            rack: String::new(),
            version: "test".to_owned(),
            previous_broker_epoch: None,
            last_broker_epoch: None,
        };
        let (beats, receiver) = mpsc::channel(16);
        cluster.client.block_on(async {
            let first = v1::ControlRequest {
                message: Some(ToController::Registration(registration)),
            };
            beats.send(first).await.unwrap();
            let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let responses = client.control(requests).await.unwrap();
            let mut responses = responses.into_inner();
            let answer = responses.message().await.unwrap().unwrap();
            let Some(FromController::Registered(registered)) = answer.message else {
                panic!("not registered: {answer:?}");
            };
            assert!(registered.broker_epoch > 0 && registered.beat_interval_ms > 0);
            FakeBroker {
                epoch: registered.broker_epoch,
                beats,
                responses,
            }
        })
    }

    pub fn beat(&mut self, cluster: &Cluster, applied: i64) -> v1::BeatReply {
        cluster.client.block_on(async {
            let beat = v1::Beat {
                metadata_offset: applied,
                ready: true,
                wants_shutdown: false,
            };
            let message = v1::ControlRequest {
                message: Some(ToController::Beat(beat)),
            };
            self.beats.send(message).await.unwrap();
            let answer = self.responses.message().await.unwrap().unwrap();
            let Some(FromController::BeatReply(reply)) = answer.message else {
                panic!("no reply to a beat: {answer:?}");
            };
            reply
        })
    }

    /// Beats until it is unfenced.
    pub fn join(&mut self, cluster: &Cluster, active: i32) {
        wait_for("the broker to be unfenced", || {
            let applied = cluster.status(active).applied.0;
            (!self.beat(cluster, applied).fenced).then_some(())
        });
    }
}

static TOPICS: AtomicU64 = AtomicU64::new(0);

/// Creates a topic of one partition under a new name; a refusal is a status.
pub fn create_topic(cluster: &Cluster, id: i32, timeout_ms: u32) -> Result<(), tonic::Status> {
    let number = TOPICS.fetch_add(1, Ordering::Relaxed);
    let create = v1::CreateTopicRequest {
        name: format!("topic-{number}"),
        assignments: vec![v1::ReplicaAssignment { replicas: vec![1] }],
        ..v1::CreateTopicRequest::default()
    };
    let request = v1::decide_request::Request::CreateTopic(create);
    match cluster.decide(id, timeout_ms, request)?.response {
        Some(Answer::Error(error)) => Err(to_status(&(&error).into())),
        _ => Ok(()),
    }
}

#[test]
fn a_broker_whose_port_refuses_is_fenced_as_soon_as_its_stream_closes() {
    let cluster = Cluster::founded();
    let active = cluster.wait_active();
    let mut broker = FakeBroker::register(&cluster, active, 1);
    broker.join(&cluster, active);
    create_topic(&cluster, active, 5_000).unwrap();
    let begun = Instant::now();
    drop(broker);
    wait_for("the broker to be fenced", || {
        let image = cluster.running[&active].node().feed().current().image;
        image.brokers[&NodeId(1)].fenced.then_some(())
    });
    let waited = begun.elapsed();
    println!("fenced within {waited:?}");
    assert!(waited < Duration::from_millis(1_000), "{waited:?}");
}

/// No stream of such a broker closes at the new active controller, so it once was noticed only by
/// its session timeout, which is out of reach here.
#[test]
fn a_broker_that_dies_together_with_the_active_controller_is_fenced_by_the_next() {
    let mut cluster = Cluster::of_three();
    cluster.tune = |config| config.controller.session_timeout = Duration::from_secs(600);
    cluster.start_all();
    cluster.wait_founded();
    let active = cluster.wait_active();
    let mut broker = FakeBroker::register(&cluster, active, 1);
    broker.join(&cluster, active);
    cluster.kill(active);
    drop(broker);
    let next = cluster.wait_active();
    wait_for("the broker to be fenced", || {
        let image = cluster.running[&next].node().feed().current().image;
        image.brokers[&NodeId(1)].fenced.then_some(())
    });
}

#[test]
fn a_controller_that_is_not_active_says_who_is() {
    let cluster = Cluster::founded();
    let active = cluster.wait_active();
    let standby = (1..=3).find(|id| *id != active).unwrap();
    wait_for("the standby to know", || cluster.status(standby).active_id);
    let refused = cluster.delete_missing_topic(standby, 1_000).unwrap_err();
    let error = from_status(&refused).unwrap();
    assert_eq!(error.code, ErrorCode::NotController);
    assert!(
        error.message.contains(&format!("controller {active}")),
        "{error}"
    );
    let mut client = cluster.client(standby);
    let answer = cluster.client.block_on(async {
        let hello = v1::ControlRequest {
            message: Some(ToController::Registration(v1::BrokerRegistration::default())),
        };
        let answers = client.control(tokio_stream::iter([hello])).await.unwrap();
        answers.into_inner().message().await.unwrap().unwrap()
    });
    let Some(FromController::NotActive(not_active)) = answer.message else {
        panic!("{answer:?}");
    };
    assert_eq!(not_active.active_id, Some(active));
    assert!(not_active.endpoint.is_some());
}

#[test]
fn the_quorum_can_be_inspected() {
    let cluster = Cluster::founded();
    let active = cluster.wait_active();
    let quorum = wait_for("every voter to be heard of", || {
        let mut client = cluster.client(active);
        let asked = client.inspect_quorum(v1::InspectQuorumRequest {});
        let answer = cluster.client.block_on(asked).unwrap().into_inner();
        let quorum = answer.quorum.unwrap();
        let heard = |voter: &v1::QuorumReplica| {
            voter.lag == Some(0) && voter.last_contact_ms.is_some_and(|ms| ms < 1_000)
        };
        quorum.voters.iter().all(heard).then_some(quorum)
    });
    assert_eq!(quorum.leader_id, Some(active));
    assert_eq!(quorum.voters.len(), 3);
    assert!(quorum.high_watermark > 0);
}

#[test]
fn a_controller_that_no_majority_answers_does_not_say_that_it_leads() {
    let mut cluster = Cluster::founded();
    let active = cluster.wait_active();
    let lease_ms = cluster.config(active).quorum.election_timeout_max;
    let lease_ms = i64::try_from(lease_ms.as_millis()).unwrap();
    for id in cluster.ids() {
        if id != active {
            cluster.kill(id);
        }
    }
    wait_for("nobody to lead", || {
        let mut client = cluster.client(active);
        let asked = client.inspect_quorum(v1::InspectQuorumRequest {});
        let answer = cluster.client.block_on(asked).unwrap().into_inner();
        let quorum = answer.quorum.unwrap();
        assert_eq!(quorum.last_known_leader_id, Some(active));
        if quorum.leader_id.is_none() {
            return Some(());
        }
        let others = quorum.voters.iter().filter(|it| it.node_id != active);
        let silence_ms = others.filter_map(|it| it.last_contact_ms).min();
        // Both are looked at one after the other.
        assert!(
            silence_ms.is_some_and(|ms| ms <= lease_ms + 20),
            "{quorum:?}"
        );
        None
    });
}

#[test]
fn producer_ids_are_given_once_and_only_to_the_registered_process() {
    let cluster = Cluster::founded();
    let active = cluster.wait_active();
    let broker = FakeBroker::register(&cluster, active, 1);
    let mut client = cluster.client(active);
    let mut allocate = |broker_epoch| {
        let request = v1::AllocateProducerIdsRequest {
            broker_id: 1,
            broker_epoch,
        };
        let answer = client.allocate_producer_ids(request);
        cluster
            .client
            .block_on(answer)
            .map(tonic::Response::into_inner)
    };
    let first = allocate(broker.epoch).unwrap();
    let second = allocate(broker.epoch).unwrap();
    assert_eq!(
        second.first_producer_id,
        first.first_producer_id + first.count
    );
    let stale = allocate(broker.epoch - 1).unwrap_err();
    assert_eq!(
        from_status(&stale).unwrap().code,
        ErrorCode::StaleBrokerEpoch
    );
}

#[test]
fn a_proposed_isr_is_judged_partition_by_partition() {
    let cluster = Cluster::founded();
    let active = cluster.wait_active();
    let mut broker = FakeBroker::register(&cluster, active, 1);
    broker.join(&cluster, active);
    create_topic(&cluster, active, 5_000).unwrap();
    let image = cluster.running[&active].node().feed().current().image;
    let topic = image.topics.iter().next().unwrap();
    let change = |topic_id: Vec<u8>| v1::AlterPartition {
        topic_id: topic_id.into(),
        partition: 0,
        leader_epoch: 0,
        partition_epoch: 0,
        isr: vec![v1::IsrMember {
            broker_id: 1,
            broker_epoch: broker.epoch,
        }],
    };
    let request = v1::AlterPartitionsRequest {
        broker_id: 1,
        broker_epoch: broker.epoch,
        partitions: vec![change(topic.id.as_bytes().to_vec()), change(vec![7; 16])],
    };
    let mut client = cluster.client(active);
    let answer = cluster.client.block_on(client.alter_partitions(request));
    let results = answer.unwrap().into_inner().results;
    let codes: Vec<_> = results.iter().map(|result| result.error_code).collect();
    let unknown = i32::from(ErrorCode::UnknownTopicId.number());
    assert_eq!(codes, [0, unknown]);
}
