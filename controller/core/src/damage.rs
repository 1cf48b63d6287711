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

#[cfg(test)]
mod tests {
    use ottla_metadata::MetadataRecord;
    use ottla_model::{BrokerEpoch, ErrorCode};

    use super::*;
    use crate::fixture::{Fixture, first};
    use crate::request::Request;

    #[test]
    fn a_damaged_replica_leaves_the_isr_and_is_never_elected_for_what_it_lost() {
        let mut fixture = Fixture::with_brokers(3);
        let damaged = fixture.topic("damaged", &[1, 2, 3], &[]);
        let whole = fixture.topic("whole", &[1, 2], &[]);
        let elsewhere = fixture.topic("elsewhere", &[2, 3], &[]);
        let report = |fixture: &Fixture, partitions: Option<Vec<_>>| {
            Request::ReportDamage(ReportDamage {
                broker: NodeId(1),
                broker_epoch: fixture.epoch(1),
                partitions,
            })
        };
        let unknown = first(ottla_model::TopicId::from_bytes([9; 16]));
        let some = vec![first(damaged), first(elsewhere), unknown];
        let request = report(&fixture, Some(some));
        let records = fixture.must(request);
        let kinds: Vec<_> = records.iter().map(MetadataRecord::kind).collect();
        assert_eq!(kinds, ["PartitionChanged"]);
        assert_eq!(fixture.state(damaged), "isr [2, 3] elr [] leader 2");
        assert_eq!(fixture.state(whole), "isr [1, 2] elr [] leader 1");
        assert_eq!(fixture.state(elsewhere), "isr [2, 3] elr [] leader 2");
        let request = report(&fixture, None);
        fixture.must(request);
        assert_eq!(fixture.state(whole), "isr [2] elr [] leader 2");
    }

    #[test]
    fn with_the_only_copy_damaged_nobody_leads() {
        let mut fixture = Fixture::with_brokers(1);
        let topic = fixture.topic("t", &[1], &[]);
        let current = ReportDamage {
            broker: NodeId(1),
            broker_epoch: fixture.epoch(1),
            partitions: Some(vec![first(topic)]),
        };
        let stale = ReportDamage {
            broker_epoch: BrokerEpoch(current.broker_epoch.0 - 1),
            ..current.clone()
        };
        let refused = fixture.refused(Request::ReportDamage(stale));
        assert_eq!(refused.code, ErrorCode::StaleBrokerEpoch);
        assert_eq!(fixture.state(topic), "isr [1] elr [] leader 1");
        fixture.must(Request::ReportDamage(current));
        assert_eq!(fixture.state(topic), "isr [] elr [] leader 0");
        fixture.disconnect(1);
        fixture.fence(1);
        fixture.start(1, 7);
        assert_eq!(fixture.state(topic), "isr [] elr [] leader 0");
    }
}
