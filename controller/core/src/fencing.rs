//! Fencing and unfencing of brokers, and their controlled shutdown.
//!
//! The partitions change first and the broker last, so that every prefix of the records is a state
//! the cluster may be in; unfencing goes the other way round.

use std::collections::BTreeSet;

use ottla_metadata::{BrokerChanged, Cause, MetadataImage};
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, NodeId, TopicIdPartition};

use crate::broker::current_registration;
use crate::draft::Draft;
use crate::election::{decide_partition, elect_leaderless};
use crate::partition_change::Wish;

/// Fences a broker: out of every ISR that has another member, no longer leading anything. Nothing
/// happens if it is fenced.
pub(crate) fn fence(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    broker: NodeId,
    epoch: BrokerEpoch,
    cause: Cause,
) -> Result<(), ApiError> {
    if current_registration(draft.image(), broker, epoch)?.fenced {
        return Ok(());
    }
    let wish = leaving(broker);
    let partitions: Vec<_> = draft.image().partitions_in_isr_of(broker).collect();
    for id in partitions {
        if let Some(change) = decide_partition(draft.image(), gone, id, &wish, cause) {
            draft.push(change)?;
        }
    }
    draft.push(BrokerChanged {
        broker,
        broker_epoch: epoch,
        fenced: Some(true),
        in_controlled_shutdown: None,
        cause,
    })?;
    let leads = draft.image().leader_count(broker);
    assert_eq!(leads, 0, "broker {broker} was fenced and leads {leads}");
    Ok(())
}

/// Unfences a broker and lets it lead what nobody led.
pub(crate) fn unfence(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    broker: NodeId,
    epoch: BrokerEpoch,
) -> Result<(), ApiError> {
    if !current_registration(draft.image(), broker, epoch)?.fenced {
        return Ok(());
    }
    draft.push(BrokerChanged {
        broker,
        broker_epoch: epoch,
        fenced: Some(false),
        in_controlled_shutdown: Some(false),
        cause: Cause::Unfenced,
    })?;
    let image = draft.image();
    let has_replica = |id: &TopicIdPartition| {
        let partition = image.partition(*id);
        partition.is_some_and(|partition| partition.replicas.contains(&broker))
    };
    let leaderless: Vec<_> = image.leaderless_partitions().filter(has_replica).collect();
    let all = usize::MAX;
    elect_leaderless(draft, gone, &leaderless, all, Cause::LeaderElection)?;
    Ok(())
}

/// Marks the broker as shutting down and takes it out of every ISR and every leadership where
/// another replica can take over. May be asked again.
pub(crate) fn begin_controlled_shutdown(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    broker: NodeId,
    epoch: BrokerEpoch,
) -> Result<(), ApiError> {
    let registration = current_registration(draft.image(), broker, epoch)?;
    let cause = Cause::ControlledShutdown;
    if registration.fenced {
        return Ok(());
    }
    if !registration.in_controlled_shutdown {
        draft.push(BrokerChanged {
            broker,
            broker_epoch: epoch,
            fenced: None,
            in_controlled_shutdown: Some(true),
            cause,
        })?;
    }
    let wish = leaving(broker);
    let partitions: Vec<_> = draft.image().partitions_in_isr_of(broker).collect();
    for id in partitions {
        if !can_leave(draft.image(), gone, broker, id) {
            continue;
        }
        if let Some(change) = decide_partition(draft.image(), gone, id, &wish, cause) {
            draft.push(change)?;
        }
    }
    Ok(())
}

/// Whether this broker leads a partition that another replica could take over.
pub(crate) fn leads_something_movable(
    image: &MetadataImage,
    gone: &BTreeSet<NodeId>,
    broker: NodeId,
) -> bool {
    image
        .partitions_led_by(broker)
        .any(|id| can_leave(image, gone, broker, id))
}

/// Whether the broker's leaving leaves the partition with a leader that holds everything committed.
fn can_leave(
    image: &MetadataImage,
    gone: &BTreeSet<NodeId>,
    broker: NodeId,
    id: TopicIdPartition,
) -> bool {
    let Some(partition) = image.partition(id) else {
        return false;
    };
    let eligible =
        |node: &NodeId| *node != broker && !gone.contains(node) && image.is_eligible(*node);
    let led_by_other = partition.leader.is_some_and(|leader| leader != broker);
    let mut others = partition.isr.iter().chain(&partition.elr);
    led_by_other || others.any(eligible)
}

fn leaving(broker: NodeId) -> Wish {
    Wish {
        leaving: Some(broker),
        ..Wish::default()
    }
}
