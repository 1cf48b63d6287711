use std::collections::{BTreeMap, BTreeSet};

use ottla_metadata::{MetadataImage, MetadataRecord};
use proptest::prelude::*;

use super::*;
use crate::fixture::{Fixture, create, register, registration};
use crate::{CreateTopic, Request};

/// Brokers 1.. with these racks (0 is none), all unfenced.
fn cluster(racks: &[u8]) -> Fixture {
    let mut fixture = Fixture::founded();
    for (id, rack) in (1..).zip(racks) {
        let mut request = registration(id, 1);
        request.rack = (*rack > 0).then(|| format!("rack{rack}"));
        fixture.must(Request::RegisterBroker(request));
        let broker_epoch = fixture.epoch(id);
        fixture.must(Request::Unfence {
            broker: NodeId(id),
            broker_epoch,
        });
    }
    fixture
}

fn spread(counts: &BTreeMap<NodeId, usize>, brokers: usize) -> usize {
    let most = counts.values().max().copied().unwrap_or(0);
    let all_used = counts.len() == brokers;
    let least = counts.values().min().copied().unwrap_or(0);
    most - if all_used { least } else { 0 }
}

fn count(of: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, usize> {
    of.fold(BTreeMap::new(), |mut counts, node| {
        *counts.entry(node).or_default() += 1;
        counts
    })
}

fn rack_of(image: &MetadataImage, node: NodeId) -> Option<String> {
    image.broker(node).and_then(|broker| broker.rack.clone())
}

proptest! {
    #[test]
    fn replicas_are_distinct_and_spread_and_leaders_are_even(
        racks in proptest::collection::vec(0u8..4, 1..12),
        factor in 1usize..5,
        partitions in 1usize..60,
        seed: u64,
    ) {
        let factor = factor.min(racks.len());
        let fixture = cluster(&racks);
        let image = fixture.image();
        let placed = place(image, None, partitions, factor, seed);
        prop_assert_eq!(&placed, &place(image, None, partitions, factor, seed));
        prop_assert_eq!(placed.len(), partitions);
        let distinct_racks = racks.iter().collect::<BTreeSet<_>>().len();
        for replicas in &placed {
            let brokers: BTreeSet<_> = replicas.iter().collect();
            prop_assert_eq!(brokers.len(), factor);
            let used: BTreeSet<_> = replicas.iter().map(|n| rack_of(image, *n)).collect();
            prop_assert_eq!(used.len(), factor.min(distinct_racks));
        }
        let leaders = count(placed.iter().map(|replicas| replicas[0]));
        prop_assert!(spread(&leaders, racks.len()) <= 1, "{:?}", leaders);
    }

    #[test]
    fn replicas_are_even_without_racks(
        brokers in 1usize..12, factor in 1usize..5, partitions in 1usize..60, seed: u64,
    ) {
        let factor = factor.min(brokers);
        let fixture = cluster(&vec![0; brokers]);
        let placed = place(fixture.image(), None, partitions, factor, seed);
        let replicas = count(placed.iter().flatten().copied());
        prop_assert!(spread(&replicas, brokers) <= 2, "{:?}", replicas);
    }
}

#[test]
fn fenced_and_stopping_brokers_get_replicas_only_where_the_others_do_not_suffice() {
    let mut fixture = cluster(&[0, 0, 0, 0]);
    fixture.fence(1);
    let broker_epoch = fixture.epoch(2);
    fixture.must(Request::BeginControlledShutdown {
        broker: NodeId(2),
        broker_epoch,
    });
    fixture.must(register(5, 1));
    assert_eq!(usable_brokers(fixture.image()), [NodeId(3), NodeId(4)]);
    let placed = place(fixture.image(), None, 20, 2, 7);
    assert!(
        placed
            .iter()
            .flatten()
            .all(|node| node.0 == 3 || node.0 == 4)
    );
    for replicas in place(fixture.image(), None, 20, 3, 7) {
        assert!(replicas[..2].iter().all(|node| node.0 == 3 || node.0 == 4));
        assert!([1, 2, 5].contains(&replicas[2].0), "{replicas:?}");
    }
}

#[test]
fn small_topics_together_load_all_brokers_evenly() {
    let mut fixture = cluster(&[0; 5]);
    for topic in 0..50 {
        fixture.must(Request::CreateTopic(create(&format!("t{topic}"))));
    }
    let image = fixture.image();
    let leads: Vec<_> = (1..6).map(|id| image.leader_count(NodeId(id))).collect();
    assert_eq!(leads, [10; 5]);
    let holds: Vec<_> = (1..6).map(|id| image.replica_count(NodeId(id))).collect();
    assert!(
        holds.iter().all(|count| (29..=31).contains(count)),
        "{holds:?}"
    );
}

#[test]
fn one_brokers_partitions_fail_over_to_many_others() {
    let fixture = cluster(&[0; 10]);
    let placed = place(fixture.image(), None, 200, 3, 1);
    let led_by_one = placed.iter().filter(|replicas| replicas[0] == NodeId(1));
    let successors = count(led_by_one.map(|replicas| replicas[1]));
    assert!(successors.len() >= 6, "{successors:?}");
}

#[test]
fn new_partitions_of_a_topic_balance_the_present_ones() {
    let mut fixture = cluster(&[0; 3]);
    let records = fixture.must(Request::CreateTopic(CreateTopic {
        assignments: vec![vec![NodeId(1)], vec![NodeId(1)]],
        ..create("t")
    }));
    assert!(matches!(records[0], MetadataRecord::TopicCreated(_)));
    let topic = fixture.image().topic_by_name("t");
    let placed = place(fixture.image(), topic, 4, 1, 3);
    let leaders = count(placed.iter().map(|replicas| replicas[0]));
    assert_eq!(leaders, BTreeMap::from([(NodeId(2), 2), (NodeId(3), 2)]));
}
