//! Checks a leader's proposal of new in-sync replicas, one partition at a time, against what the
//! controller knows (AlterPartition v3: KIP-497, KIP-841, KIP-903).

use std::collections::BTreeSet;

use ottla_metadata::{Cause, MetadataImage, PartitionImage};
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, ErrorCode, NodeId};

use crate::broker::current_registration;
use crate::draft::Draft;
use crate::election::decide_partition;
use crate::partition_change::Wish;
use crate::request::{AlterPartition, AlterPartitions, Reply};

#[cfg(test)]
mod tests;

/// What a leader says of a member whose registration it does not know (as in AlterPartition v3).
const UNKNOWN_BROKER_EPOCH: BrokerEpoch = BrokerEpoch(-1);

/// Answers [`crate::Request::AlterPartitions`]: each proposal succeeds or fails on its own.
pub(crate) fn alter_partitions(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    request: &AlterPartitions,
) -> Result<Reply, ApiError> {
    current_registration(draft.image(), request.broker, request.broker_epoch)?;
    let mut results = Vec::with_capacity(request.changes.len());
    for change in &request.changes {
        results.push(alter(draft, gone, request.broker, change));
    }
    Ok(Reply::PartitionsAltered(results))
}

fn alter(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    broker: NodeId,
    change: &AlterPartition,
) -> Result<(), ApiError> {
    let partition = check(draft.image(), broker, change)?;
    let cause = if change.isr.len() > partition.isr.len() {
        Cause::IsrExpand
    } else {
        Cause::IsrShrink
    };
    let wish = Wish {
        isr: Some(change.isr.iter().map(|(node, _)| *node).collect()),
        ..Wish::default()
    };
    if let Some(record) = decide_partition(draft.image(), gone, change.id, &wish, cause) {
        draft.push(record)?;
    }
    let leader = draft.image().partition(change.id).and_then(|p| p.leader);
    if leader == Some(broker) {
        return Ok(());
    }
    let place = describe(draft.image(), change);
    let message = format!("the change of {place} moved its leadership away from broker {broker}");
    Err(ApiError::new(ErrorCode::NewLeaderElected, message))
}

fn check<'a>(
    image: &'a MetadataImage,
    broker: NodeId,
    change: &AlterPartition,
) -> Result<&'a PartitionImage, ApiError> {
    let refuse = |code, message: String| Err(ApiError::new(code, message));
    let Some(topic) = image.topic(change.id.topic) else {
        let message = format!("there is no topic with id {}", change.id.topic);
        return refuse(ErrorCode::UnknownTopicId, message);
    };
    let place = describe(image, change);
    let Some(partition) = topic.partition(change.id.partition) else {
        let message = format!("{place} does not exist");
        return refuse(ErrorCode::UnknownTopicOrPartition, message);
    };
    check_epochs(partition, broker, change, &place)?;
    check_members(image, partition, broker, change, &place)?;
    Ok(partition)
}

fn check_epochs(
    partition: &PartitionImage,
    broker: NodeId,
    change: &AlterPartition,
    place: &str,
) -> Result<(), ApiError> {
    let refuse = |code, message: String| Err(ApiError::new(code, message));
    let (leader_epoch, partition_epoch) = (partition.leader_epoch, partition.partition_epoch);
    if change.leader_epoch > leader_epoch || change.partition_epoch > partition_epoch {
        let message = format!(
            "{place} has leader epoch {leader_epoch} and partition epoch {partition_epoch} here, \
             but broker {broker} knows {} and {}: a newer controller is active",
            change.leader_epoch, change.partition_epoch
        );
        return refuse(ErrorCode::NotController, message);
    }
    if change.leader_epoch < leader_epoch {
        let message = format!(
            "{place} is in leader epoch {leader_epoch}, broker {broker} spoke of {}",
            change.leader_epoch
        );
        return refuse(ErrorCode::FencedLeaderEpoch, message);
    }
    if partition.leader != Some(broker) {
        let message = format!("broker {broker} does not lead {place}");
        return refuse(ErrorCode::InvalidRequest, message);
    }
    if change.partition_epoch < partition_epoch {
        let message = format!(
            "{place} is in partition epoch {partition_epoch}, broker {broker} changed {}",
            change.partition_epoch
        );
        return refuse(ErrorCode::InvalidUpdateVersion, message);
    }
    Ok(())
}

fn check_members(
    image: &MetadataImage,
    partition: &PartitionImage,
    broker: NodeId,
    change: &AlterPartition,
    place: &str,
) -> Result<(), ApiError> {
    let invalid = |message: String| {
        let error = ApiError::new(ErrorCode::InvalidRequest, message);
        Err(error.in_field("isr"))
    };
    for (at, (member, _)) in change.isr.iter().enumerate() {
        if !partition.replicas.contains(member) {
            return invalid(format!("broker {member} is no replica of {place}"));
        }
        if change.isr[..at].iter().any(|(other, _)| other == member) {
            return invalid(format!("the ISR proposed for {place} names {member} twice"));
        }
    }
    if !change.isr.iter().any(|(member, _)| *member == broker) {
        return invalid(format!(
            "the ISR proposed for {place} lacks its leader {broker}"
        ));
    }
    for (member, epoch) in &change.isr {
        let joins = !partition.isr.contains(member);
        if let Some(reason) = ineligibility(image, *member, *epoch, joins) {
            let message = format!("broker {member} cannot be in the ISR of {place}: {reason}");
            return Err(ApiError::new(ErrorCode::IneligibleReplica, message).in_field("isr"));
        }
    }
    Ok(())
}

/// Why a broker must not be in an ISR. One that is shutting down may stay where nobody could take
/// over, but it does not join.
fn ineligibility(
    image: &MetadataImage,
    member: NodeId,
    epoch: BrokerEpoch,
    joins: bool,
) -> Option<String> {
    let Some(registration) = image.broker(member) else {
        return Some("it is not registered".to_owned());
    };
    let current = registration.epoch;
    match registration {
        // A leader may not have heard from a member that it keeps since it began to lead. A member
        // whose directory changed has left the ISR with its registration, so keeping is safe.
        _ if epoch != current && (joins || epoch != UNKNOWN_BROKER_EPOCH) => Some(format!(
            "its broker epoch is {current}, the leader knows {epoch}"
        )),
        known if known.fenced => Some("it is fenced".to_owned()),
        known if joins && known.in_controlled_shutdown => Some("it is shutting down".to_owned()),
        _ => None,
    }
}

fn describe(image: &MetadataImage, change: &AlterPartition) -> String {
    let topic = image.topic(change.id.topic);
    let name = topic.map_or_else(|| change.id.topic.to_string(), |t| t.name.to_string());
    format!("partition {name}-{}", change.id.partition)
}
