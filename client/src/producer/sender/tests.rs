use ottla_model::batch::NewRecord;
use ottla_model::compression::Compression;
use ottla_model::{PartitionIndex, TopicId};

use super::*;
use crate::producer::accumulator::Accumulator;

const MS: Duration = Duration::from_millis(1);

fn partition() -> TopicIdPartition {
    TopicIdPartition::new(TopicId::from_bytes([9; 16]), PartitionIndex(0))
}

fn view(leader: i32, epoch: i32, fenced: &[i32]) -> ClusterSnapshot {
    let broker = |node_id| v1::BrokerView {
        node_id,
        client_endpoint: Some(v1::Endpoint {
            host: "n".to_owned(),
            port: node_id as u32,
        }),
        fenced: fenced.contains(&node_id),
        ..v1::BrokerView::default()
    };
    let mut view = ClusterSnapshot::default();
    view.merge_all(&v1::ClusterView {
        brokers: vec![broker(1), broker(2)],
        topics: vec![v1::TopicView {
            name: "t".to_owned(),
            topic_id: partition().topic.as_bytes().to_vec().into(),
            partitions: vec![v1::PartitionView {
                leader_id: Some(leader),
                leader_epoch: epoch,
                ..v1::PartitionView::default()
            }],
            internal: false,
        }],
        ..v1::ClusterView::default()
    });
    view
}

struct Setup {
    sender: Sender,
    accumulator: Accumulator,
    now: Instant,
}

impl Setup {
    fn new() -> Setup {
        let mut sender = Sender::new(SenderSettings {
            acks: v1::Acks::All,
            idempotent: true,
            window: 5,
            request_bytes: 1 << 20,
            request_timeout: MS * 1_000,
            delivery_timeout: MS * 60_000,
            retry_backoff: Backoff::new(MS * 20, MS * 1_000),
            reconnect_backoff: Backoff::new(MS * 20, MS * 500),
        });
        sender.on_identity(Ok((ProducerId(7), ProducerEpoch(0))));
        Setup {
            sender,
            accumulator: Accumulator::new(Duration::ZERO, 1_000, Compression::None, 1),
            now: Instant::ZERO,
        }
    }

    /// Appends a record and drives; returns what was sent, as endpoint and request.
    fn send_one(&mut self, view: &ClusterSnapshot) -> Vec<(u64, String, v1::ProduceRequest)> {
        let record = NewRecord {
            value: Some(b"v"),
            ..NewRecord::default()
        };
        self.accumulator
            .append(|| self.now, partition(), &record, 50)
            .unwrap();
        self.drive(view)
    }

    fn drive(&mut self, view: &ClusterSnapshot) -> Vec<(u64, String, v1::ProduceRequest)> {
        self.sender.on_ready(self.accumulator.take_ready(self.now));
        let (now, accumulator) = (self.now, &mut self.accumulator);
        self.sender
            .drive(now, view, &mut |p| accumulator.take(now, p));
        let sent = |effect| match effect {
            Effect::Send {
                stream,
                endpoint,
                request,
            } => Some((stream, endpoint, request)),
            _ => None,
        };
        self.sender
            .take_effects()
            .into_iter()
            .filter_map(sent)
            .collect()
    }

    fn refuse(&mut self, request: u64, code: ErrorCode) {
        let error = v1::Error::from(&ApiError::new(code, "no"));
        let result = v1::ProduceResult {
            error: Some(error),
            ..v1::ProduceResult::default()
        };
        let response = v1::ProduceResponse {
            request_id: request,
            results: vec![result],
        };
        self.sender.on_response(self.now, response);
    }
}

#[test]
fn a_leader_that_is_none_is_not_asked_again_before_the_wait_or_a_newer_leader() {
    let mut setup = Setup::new();
    let old = view(1, 3, &[]);
    let sent = setup.send_one(&old);
    assert_eq!(sent.len(), 1);
    let bytes = sent[0].2.partitions[0].batch.clone();
    setup.refuse(sent[0].2.request_id, ErrorCode::NotLeaderOrFollower);
    assert!(setup.drive(&old).is_empty());
    assert_eq!(setup.sender.next_deadline(), Some(Instant::ZERO + MS * 20));

    setup.sender.on_view_changed();
    assert!(setup.drive(&old).is_empty());
    setup.sender.on_view_changed();
    let again = setup.drive(&view(2, 4, &[]));
    assert_eq!(again[0].1, "n:2");
    assert_eq!(again[0].2.partitions[0].leader_epoch, Some(4));
    assert_eq!(again[0].2.partitions[0].batch, bytes);
}

#[test]
fn a_fenced_brokers_stream_is_left_for_its_successor_at_once() {
    let mut setup = Setup::new();
    let sent = setup.send_one(&view(1, 3, &[]));
    assert_eq!(sent[0].1, "n:1");
    setup.sender.on_view_changed();
    let again = setup.drive(&view(2, 4, &[1]));
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].1, "n:2");
    assert_eq!(
        again[0].2.partitions[0].batch,
        sent[0].2.partitions[0].batch
    );
}

#[test]
fn at_most_five_batches_are_between_the_oldest_unanswered_and_the_newest() {
    let mut setup = Setup::new();
    let view = view(1, 0, &[]);
    let mut requests = Vec::new();
    for _ in 0..8 {
        requests.extend(setup.send_one(&view));
    }
    assert_eq!(requests.len(), 5);
    // All but the oldest are answered: still nothing beyond the five may go.
    for (_, _, request) in &requests[1..] {
        let response = v1::ProduceResponse {
            request_id: request.request_id,
            results: vec![v1::ProduceResult::default()],
        };
        setup.sender.on_response(setup.now, response);
        assert!(setup.drive(&view).is_empty());
    }
    let oldest = v1::ProduceResponse {
        request_id: requests[0].2.request_id,
        results: vec![v1::ProduceResult::default()],
    };
    setup.sender.on_response(setup.now, oldest);
    assert!(!setup.drive(&view).is_empty());
}

#[test]
fn a_partition_without_leader_waits_for_one() {
    let mut setup = Setup::new();
    let mut none = view(1, 3, &[]);
    none.merge_change(
        &v1::ClusterView {
            topics: vec![v1::TopicView {
                name: "t".to_owned(),
                topic_id: partition().topic.as_bytes().to_vec().into(),
                partitions: vec![v1::PartitionView {
                    leader_id: None,
                    leader_epoch: 4,
                    ..v1::PartitionView::default()
                }],
                internal: false,
            }],
            ..v1::ClusterView::default()
        },
        &[],
    );
    assert!(setup.send_one(&none).is_empty());
    setup.sender.on_view_changed();
    assert_eq!(setup.drive(&view(2, 5, &[])).len(), 1);
}
