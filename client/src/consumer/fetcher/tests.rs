use super::*;

const MS: Duration = Duration::from_millis(1);
const NOW: Instant = Instant::ZERO;

fn id(index: i32) -> TopicIdPartition {
    TopicIdPartition::new(TopicId::from_bytes([9; 16]), PartitionIndex(index))
}

/// Partitions with these leaders, all of one epoch.
fn view(leaders: impl AsRef<[i32]>, epoch: i32, fenced: &[i32]) -> ClusterSnapshot {
    let leaders = leaders.as_ref();
    let broker = |node_id| v1::BrokerView {
        node_id,
        client_endpoint: Some(v1::Endpoint {
            host: "n".to_owned(),
            port: node_id as u32,
        }),
        fenced: fenced.contains(&node_id),
        ..v1::BrokerView::default()
    };
    let partition = |index: usize| v1::PartitionView {
        partition: index as i32,
        leader_id: Some(leaders[index]),
        leader_epoch: epoch,
        ..v1::PartitionView::default()
    };
    let mut view = ClusterSnapshot::default();
    view.merge_all(&v1::ClusterView {
        brokers: vec![broker(1), broker(2)],
        topics: vec![v1::TopicView {
            name: "t".to_owned(),
            topic_id: id(0).topic.as_bytes().to_vec().into(),
            partitions: (0..leaders.len()).map(partition).collect(),
            internal: false,
        }],
        ..v1::ClusterView::default()
    });
    view
}

fn fetcher() -> Fetcher {
    fetcher_of(2)
}

fn fetcher_of(partitions: i32) -> Fetcher {
    let config = ConsumerConfig::default();
    let mut fetcher = Fetcher::new(config, MS * 2_000, Backoff::new(MS * 20, MS * 500));
    for index in 0..partitions {
        fetcher.assign(id(index), Arc::from("t"), Offset(0));
    }
    fetcher
}

/// What was sent: endpoint, request id, partitions.
fn sent(fetcher: &mut Fetcher, view: &ClusterSnapshot) -> Vec<(String, u64, Vec<i32>)> {
    fetcher.drive(NOW, view);
    let read = |effect| match effect {
        Effect::Send {
            endpoint, request, ..
        } => {
            let index = |p: &v1::FetchPartition| p.partition.as_ref().unwrap().partition;
            let partitions = request.partitions.iter().map(index).collect();
            Some((endpoint, request.request_id, partitions))
        }
        _ => None,
    };
    fetcher
        .take_effects()
        .into_iter()
        .filter_map(read)
        .collect()
}

fn answer(fetcher: &mut Fetcher, request_id: u64, results: Vec<v1::FetchResult>) {
    let response = v1::FetchResponse {
        request_id,
        results,
    };
    fetcher.on_response(NOW, response);
}

fn refusal(index: i32, code: ErrorCode) -> v1::FetchResult {
    v1::FetchResult {
        partition: Some(v1::TopicPartition {
            topic: "t".to_owned(),
            topic_id: Bytes::new(),
            partition: index,
        }),
        error: Some(v1::Error::from(&ApiError::new(code, "no"))),
        log_start_offset: 5,
        high_watermark: 9,
        ..v1::FetchResult::default()
    }
}

#[test]
fn partitions_with_the_same_leader_share_a_fetch_and_none_is_asked_twice() {
    let mut fetcher = fetcher();
    let view = view([1, 1], 0, &[]);
    let first = sent(&mut fetcher, &view);
    assert_eq!(first, [("n:1".to_owned(), 1, vec![0, 1])]);
    assert!(sent(&mut fetcher, &view).is_empty());
    answer(&mut fetcher, 1, vec![]);
    assert_eq!(sent(&mut fetcher, &view)[0].2.len(), 2);
}

#[test]
fn a_partition_that_moved_is_fetched_from_its_new_leader_at_once() {
    let mut fetcher = fetcher();
    let request = sent(&mut fetcher, &view([1, 1], 0, &[]))[0].1;
    let results = vec![refusal(0, ErrorCode::NotLeaderOrFollower)];
    answer(&mut fetcher, request, results);
    // The other one goes on; this one waits for news.
    assert_eq!(sent(&mut fetcher, &view([1, 1], 0, &[]))[0].2, [1]);
    let moved = sent(&mut fetcher, &view([2, 1], 1, &[]));
    assert_eq!(moved, [("n:2".to_owned(), 3, vec![0])]);
}

#[test]
fn a_fenced_brokers_stream_is_left_at_once() {
    let mut fetcher = fetcher();
    sent(&mut fetcher, &view([1, 1], 0, &[]));
    let moved = sent(&mut fetcher, &view([2, 2], 1, &[1]));
    assert_eq!(moved, [("n:2".to_owned(), 2, vec![1, 0])]);
}

#[test]
fn an_answer_to_a_fetch_before_a_seek_is_ignored() {
    let mut fetcher = fetcher();
    let view = view([1, 1], 0, &[]);
    let request = sent(&mut fetcher, &view)[0].1;
    let seek = fetcher.position_mut("t", PartitionIndex(0)).unwrap();
    seek.seek(Offset(7));
    assert_eq!(sent(&mut fetcher, &view)[0].2, [0]);
    let results = vec![refusal(0, ErrorCode::OffsetOutOfRange)];
    answer(&mut fetcher, request, results);
    assert!(fetcher.failure().is_none());
}

#[test]
fn an_offset_out_of_range_names_the_range() {
    let mut fetcher = fetcher();
    let request = sent(&mut fetcher, &view([1, 1], 0, &[]))[0].1;
    let results = vec![refusal(1, ErrorCode::OffsetOutOfRange)];
    answer(&mut fetcher, request, results);
    let text = fetcher.failure().unwrap().to_string();
    assert!(text.contains("offset 0 of t-1"), "{text}");
    assert!(text.contains("5 to 8"), "{text}");
}

#[test]
fn a_broker_that_does_not_answer_is_left() {
    let mut fetcher = fetcher();
    let view = view([1, 1], 0, &[]);
    sent(&mut fetcher, &view);
    fetcher.on_tick(NOW + MS * 1_499);
    assert!(fetcher.take_effects().is_empty());
    fetcher.on_tick(NOW + MS * 1_500);
    assert_eq!(fetcher.take_effects(), [Effect::SuspectView]);
    fetcher.on_tick(NOW + MS * 2_500);
    assert_eq!(fetcher.take_effects(), [Effect::Close { stream: 1 }]);
}

/// Those that were in no fetch waited until another's long poll was over: a record of one
/// partition among thousands came seconds late.
#[test]
fn of_many_partitions_all_wait_for_records_at_once() {
    let mut fetcher = fetcher_of(2_000);
    let leaders: Vec<_> = (0..2_000).map(|index| 1 + index % 2).collect();
    let view = view(leaders, 0, &[]);
    for round in 0..50 {
        let requests = sent(&mut fetcher, &view);
        let in_flight = fetcher.positions().filter(|(_, it)| it.is_in_flight());
        assert_eq!(in_flight.count(), 2_000);
        if round > 0 {
            // A record wakes but a part of them.
            assert!(
                requests
                    .iter()
                    .all(|(_, _, partitions)| partitions.len() <= 700)
            );
        }
        // The first record of each ends some fetches.
        for (_, request, _) in requests.into_iter().step_by(1 + round % 3) {
            answer(&mut fetcher, request, vec![]);
        }
    }
}
