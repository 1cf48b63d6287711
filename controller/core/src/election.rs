//! Decides partitions on the scratch image: what surrounds each, and passes over many of them.

use std::collections::BTreeSet;

use ottla_metadata::{Cause, MetadataImage, PartitionChanged};
use ottla_model::error::ApiError;
use ottla_model::limits::METADATA_RECORDS_PER_REQUEST_MAX;
use ottla_model::{ErrorCode, NodeId, TopicIdPartition};

use crate::draft::Draft;
use crate::partition_change::{Surroundings, Wish, decide};
use crate::request::Reply;

/// The record that fulfils a wish for one partition. `gone` are brokers that are about to be
/// fenced, so that no leadership goes to them on the way.
pub(crate) fn decide_partition(
    image: &MetadataImage,
    gone: &BTreeSet<NodeId>,
    id: TopicIdPartition,
    wish: &Wish,
    cause: Cause,
) -> Option<PartitionChanged> {
    let topic = image.topic(id.topic)?;
    let partition = topic.partition(id.partition)?;
    let around = Surroundings {
        min_insync_replicas: image.min_insync_replicas(topic, partition),
        unclean_allowed: topic.config.unclean_leader_election,
        eligible: &|node| !gone.contains(&node) && image.is_eligible(node),
        may_stay: &|node| image.broker(node).is_some_and(|broker| !broker.fenced),
    };
    decide(id, partition, &around, wish, cause)
}

/// Elects leaders for partitions that have none, as far as somebody can lead them; at most
/// `count`. Says how many were elected.
pub(crate) fn elect_leaderless(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    candidates: &[TopicIdPartition],
    count: usize,
    cause: Cause,
) -> Result<usize, ApiError> {
    let mut elected = 0;
    for id in candidates {
        if elected == count {
            break;
        }
        let change = decide_partition(draft.image(), gone, *id, &Wish::default(), cause);
        if let Some(change) = change {
            draft.push(change)?;
            elected += 1;
        }
    }
    Ok(elected)
}

/// Gives leadership back to preferred replicas that are in the ISR and eligible; at most `count`
/// of the candidates. Says how many moved.
pub(crate) fn elect_preferred(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    candidates: &[TopicIdPartition],
    count: usize,
    cause: Cause,
) -> Result<usize, ApiError> {
    let wish = Wish {
        preferred: true,
        ..Wish::default()
    };
    let mut moved = 0;
    for id in candidates {
        if moved == count {
            break;
        }
        let change = decide_partition(draft.image(), gone, *id, &wish, cause);
        if let Some(change) = change.filter(|change| change.leader.is_some()) {
            draft.push(change)?;
            moved += 1;
        }
    }
    Ok(moved)
}

/// Answers [`crate::Request::ElectLeaders`].
pub(crate) fn elect_requested(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    partitions: Option<Vec<TopicIdPartition>>,
) -> Result<Reply, ApiError> {
    let candidates = match partitions {
        None => draft.image().imbalanced_partitions().collect(),
        Some(partitions) => {
            let known = |id: &TopicIdPartition| draft.image().partition(*id).is_some();
            if let Some(at) = partitions.iter().position(|id| !known(id)) {
                let id = partitions[at];
                let message = format!(
                    "partition {} of topic {} does not exist",
                    id.partition, id.topic
                );
                return Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, message)
                    .in_field(format!("partitions[{at}]")));
            }
            partitions
        }
    };
    let most = METADATA_RECORDS_PER_REQUEST_MAX;
    let moved = elect_preferred(draft, gone, &candidates, most, Cause::Requested)?;
    Ok(Reply::Elected(i32::try_from(moved).unwrap_or(i32::MAX)))
}
