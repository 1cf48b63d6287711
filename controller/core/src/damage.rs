//! Takes replicas whose stored data is damaged or gone out of every ISR and ELR, so that they are
//! never elected for what they no longer hold. They refill from the leader and join again.

use std::collections::BTreeSet;

use ottla_metadata::Cause;
use ottla_model::error::ApiError;
use ottla_model::{NodeId, TopicIdPartition};

use crate::broker::current_registration;
use crate::draft::Draft;
use crate::election::decide_partition;
use crate::partition_change::Wish;
use crate::request::{Reply, ReportDamage};

/// Answers [`crate::Request::ReportDamage`]. Partitions that do not exist any more, or have no
/// replica on the broker, are passed over: the report may be older than the metadata.
pub(crate) fn report_damage(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    request: &ReportDamage,
) -> Result<Reply, ApiError> {
    current_registration(draft.image(), request.broker, request.broker_epoch)?;
    let cause = Cause::ReplicaDamaged;
    match &request.partitions {
        None => forget_all_replicas(draft, gone, request.broker, cause)?,
        Some(partitions) => forget_replicas(draft, gone, request.broker, partitions, cause)?,
    }
    Ok(Reply::Done)
}

/// Forgets what the broker held of every partition.
pub(crate) fn forget_all_replicas(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    broker: NodeId,
    cause: Cause,
) -> Result<(), ApiError> {
    let partitions: Vec<_> = draft.image().partitions_with_replica(broker).collect();
    forget_replicas(draft, gone, broker, &partitions, cause)
}

fn forget_replicas(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    broker: NodeId,
    partitions: &[TopicIdPartition],
    cause: Cause,
) -> Result<(), ApiError> {
    let wish = Wish {
        lost: Some(broker),
        ..Wish::default()
    };
    for id in partitions {
        let image = draft.image();
        let held = |replicas: &[NodeId]| replicas.contains(&broker);
        if !image.partition(*id).is_some_and(|p| held(&p.replicas)) {
            continue;
        }
        if let Some(change) = decide_partition(image, gone, *id, &wish, cause) {
            draft.push(change)?;
        }
    }
    Ok(())
}
