//! Chooses the brokers of new partitions.
//!
//! Replicas of a partition go to distinct brokers and to as many racks as there are; leaders and
//! replicas of a topic are spread evenly, then those of the cluster; what is still equal is decided
//! by the seed, so that one broker's partitions fail over to many others. The same image, request
//! and seed give the same assignment.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ottla_metadata::{MetadataImage, TopicImage};
use ottla_model::NodeId;

#[cfg(test)]
mod tests;

/// The brokers that are up: unfenced and not shutting down, in order of id.
pub(crate) fn usable_brokers(image: &MetadataImage) -> Vec<NodeId> {
    let brokers = image.brokers.values();
    let usable = brokers.filter(|broker| broker.is_eligible());
    usable.map(|broker| broker.broker).collect()
}

/// Assignments for `count` new partitions of a topic (whose present ones count as load), each
/// with `replication_factor` replicas, the first of them to lead. There must be that many
/// registered brokers, and one that is up. Those that are not get replicas only where the others
/// do not suffice: they catch up when they return.
pub(crate) fn place(
    image: &MetadataImage,
    topic: Option<&TopicImage>,
    count: usize,
    replication_factor: usize,
    seed: u64,
) -> Vec<Vec<NodeId>> {
    let mut candidates = candidates(image, topic);
    assert!(
        replication_factor <= candidates.len(),
        "{replication_factor} replicas on {} brokers",
        candidates.len()
    );
    let first = topic.map_or(0, TopicImage::partition_count);
    let partitions = first..first + count;
    partitions
        .map(|partition| place_one(&mut candidates, replication_factor, seed, partition))
        .collect()
}

#[derive(Debug)]
struct Candidate<'a> {
    broker: NodeId,
    is_up: bool,
    rack: Option<&'a str>,
    topic_leaders: usize,
    topic_replicas: usize,
    all_leaders: usize,
    all_replicas: usize,
}

fn candidates<'a>(image: &'a MetadataImage, topic: Option<&TopicImage>) -> Vec<Candidate<'a>> {
    let brokers = image.brokers.values();
    let mut candidates: Vec<_> = brokers
        .map(|broker| Candidate {
            broker: broker.broker,
            is_up: broker.is_eligible(),
            rack: broker.rack.as_deref(),
            topic_leaders: 0,
            topic_replicas: 0,
            all_leaders: image.leader_count(broker.broker),
            all_replicas: image.replica_count(broker.broker),
        })
        .collect();
    for partition in topic.into_iter().flat_map(|topic| &topic.partitions) {
        for candidate in &mut candidates {
            let leads = partition.preferred_leader() == candidate.broker;
            candidate.topic_leaders += usize::from(leads);
            let holds = partition.replicas.contains(&candidate.broker);
            candidate.topic_replicas += usize::from(holds);
        }
    }
    candidates
}

fn place_one(
    candidates: &mut [Candidate<'_>],
    replication_factor: usize,
    seed: u64,
    partition: usize,
) -> Vec<NodeId> {
    let mut replicas: Vec<NodeId> = Vec::with_capacity(replication_factor);
    let mut racks: BTreeMap<Option<String>, usize> = BTreeMap::new();
    while replicas.len() < replication_factor {
        let leads = replicas.is_empty();
        let load = |candidate: &Candidate<'_>| {
            let rack = candidate.rack.map(str::to_owned);
            let leaders = (candidate.topic_leaders, candidate.all_leaders);
            (
                !candidate.is_up,
                racks.get(&rack).copied().unwrap_or(0),
                if leads { leaders.0 } else { 0 },
                candidate.topic_replicas,
                if leads { leaders.1 } else { 0 },
                candidate.all_replicas,
                lot(seed, partition, candidate.broker),
                Reverse(candidate.broker),
            )
        };
        let free = candidates.iter_mut();
        let free = free.filter(|candidate| !replicas.contains(&candidate.broker));
        let Some(chosen) = free.min_by_key(|candidate| load(candidate)) else {
            break;
        };
        chosen.topic_leaders += usize::from(leads);
        chosen.all_leaders += usize::from(leads);
        chosen.topic_replicas += 1;
        chosen.all_replicas += 1;
        *racks.entry(chosen.rack.map(str::to_owned)).or_default() += 1;
        replicas.push(chosen.broker);
    }
    replicas
}

/// A number that depends on all of seed, partition and broker (the finisher of splitmix64).
fn lot(seed: u64, partition: usize, broker: NodeId) -> u64 {
    let broker = u64::from(broker.0.unsigned_abs());
    let mut z = seed ^ ((partition as u64) << 32) ^ broker.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
