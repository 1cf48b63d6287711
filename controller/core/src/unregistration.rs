//! A broker leaves the cluster for good. Only one that is stopped may, and only one that holds no
//! replica any more, unless whoever asks insists. What it held then counts as gone: should the
//! broker come back, it registers as a new one and refills.

use std::collections::BTreeSet;

use ottla_metadata::{BrokerRegistration, BrokerUnregistered, Cause, MetadataImage};
use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, Instant, NodeId, TopicIdPartition};

use crate::damage::forget_all_replicas;
use crate::draft::Draft;
use crate::request::{Reply, UnregisterBroker};
use crate::session::{Liveness, Sessions};

/// Answers [`crate::Request::UnregisterBroker`]. The partitions change first and the broker last,
/// so that every prefix of the records is a state the cluster may be in.
pub(crate) fn unregister_broker(
    draft: &mut Draft,
    sessions: &Sessions,
    now: Instant,
    gone: &BTreeSet<NodeId>,
    request: &UnregisterBroker,
) -> Result<Reply, ApiError> {
    let broker = request.broker;
    let Some(registration) = draft.image().broker(broker) else {
        let message = format!("broker {broker} is not registered, so it cannot be unregistered");
        return Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, message).in_field("broker_id"));
    };
    check_stopped(sessions, now, registration)?;
    let epoch = registration.epoch;
    if !request.force {
        check_holds_nothing(draft.image(), broker)?;
    }
    forget_all_replicas(draft, gone, broker, Cause::Requested)?;
    draft.push(BrokerUnregistered {
        broker,
        broker_epoch: epoch,
    })?;
    Ok(Reply::Done)
}

fn check_stopped(
    sessions: &Sessions,
    now: Instant,
    registration: &BrokerRegistration,
) -> Result<(), ApiError> {
    let (broker, at) = (registration.broker, &registration.internal_endpoint);
    let message = match sessions.liveness(now, broker, registration.epoch) {
        Liveness::Gone if registration.fenced => return Ok(()),
        Liveness::Gone => {
            format!("broker {broker} at {at} is about to be fenced; try again in a moment")
        }
        Liveness::Alive { .. } => format!("broker {broker} at {at} is alive; stop it first"),
        Liveness::Unseen { until } => format!(
            "broker {broker} at {at} counts as alive for another {} ms, because the active \
             controller changed; stop it first, or try again then",
            until.since(now).as_millis()
        ),
    };
    Err(ApiError::new(ErrorCode::PolicyViolation, message).in_field("broker_id"))
}

/// Refuses to drop a broker that partitions still count on.
fn check_holds_nothing(image: &MetadataImage, broker: NodeId) -> Result<(), ApiError> {
    let listed = image.partitions_with_replica(broker).count();
    if listed == 0 {
        return Ok(());
    }
    let only_here = |id: &TopicIdPartition| {
        image.partition(*id).is_some_and(|partition| {
            let mut whole = partition.isr.iter().chain(&partition.elr);
            let mut others = partition.isr.iter().chain(&partition.elr);
            whole.any(|node| *node == broker) && others.all(|node| *node == broker)
        })
    };
    let lost = image
        .partitions_with_replica(broker)
        .filter(only_here)
        .count();
    let loss = match lost {
        0 => String::new(),
        lost => format!("; of {lost} it has the only whole copy, whose records would be lost"),
    };
    let list = match listed {
        1 => "1 partition still lists".to_owned(),
        listed => format!("{listed} partitions still list"),
    };
    let message = format!(
        "{list} broker {broker} as a replica{loss}; delete their topics or \
         start the broker again, or force it to leave them one replica short"
    );
    Err(ApiError::new(ErrorCode::PolicyViolation, message).in_field("broker_id"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ottla_metadata::MetadataRecord;

    use super::*;
    use crate::fixture::Fixture;
    use crate::request::Request;

    fn unregister(broker: i32, force: bool) -> Request {
        Request::UnregisterBroker(UnregisterBroker {
            broker: NodeId(broker),
            force,
        })
    }

    fn kinds(records: &[MetadataRecord]) -> Vec<&'static str> {
        records.iter().map(MetadataRecord::kind).collect()
    }

    #[test]
    fn a_broker_is_unregistered_once_it_is_stopped_and_registers_as_new_when_it_comes_back() {
        let mut fixture = Fixture::with_brokers(2);
        let before = fixture.epoch(2);
        let refused = fixture.refused(unregister(2, true));
        assert_eq!(refused.code, ErrorCode::PolicyViolation);
        assert!(refused.message.contains("stop it first"), "{refused}");
        fixture.disconnect(2);
        let refused = fixture.refused(unregister(2, true));
        assert!(refused.message.contains("about to be fenced"), "{refused}");
        fixture.fence(2);
        let records = fixture.must(unregister(2, false));
        assert_eq!(kinds(&records), ["BrokerUnregistered"]);
        assert!(fixture.image().broker(NodeId(2)).is_none());
        let refused = fixture.refused(unregister(2, true));
        assert_eq!(refused.code, ErrorCode::BrokerIdNotRegistered);
        fixture.start(2, 9);
        assert!(fixture.epoch(2) > before);
    }

    #[test]
    fn a_broker_that_this_controller_never_saw_counts_as_alive_until_its_session_ends() {
        let mut fixture = Fixture::with_brokers(2);
        fixture.disconnect(2);
        fixture.fence(2);
        let image = std::sync::Arc::new(fixture.image().clone());
        fixture.core.activate(fixture.now, image);
        let refused = fixture.refused(unregister(2, true));
        assert!(refused.message.contains("counts as alive"), "{refused}");
        fixture.advance(Duration::from_secs(60));
        fixture.must(unregister(2, false));
    }

    #[test]
    fn a_broker_that_partitions_list_is_unregistered_only_by_force_and_its_copies_count_as_gone() {
        let mut fixture = Fixture::with_brokers(2);
        let shared = fixture.topic("shared", &[1, 2], &[]);
        let alone = fixture.topic("alone", &[2], &[]);
        fixture.topic("elsewhere", &[1], &[]);
        fixture.disconnect(2);
        fixture.fence(2);
        let refused = fixture.refused(unregister(2, false));
        assert_eq!(refused.code, ErrorCode::PolicyViolation);
        for part in ["2 partitions still list broker 2", "of 1 it has the only"] {
            assert!(refused.message.contains(part), "{refused}");
        }
        let records = fixture.must(unregister(2, true));
        assert_eq!(
            kinds(&records),
            ["PartitionChanged", "PartitionChanged", "BrokerUnregistered"]
        );
        assert_eq!(fixture.state(shared), "isr [1] elr [] leader 1");
        assert_eq!(fixture.state(alone), "isr [] elr [] leader 0");
        // Its directory is known no more, so that it leads nothing for what it may hold.
        fixture.start(2, 9);
        assert_eq!(fixture.state(alone), "isr [] elr [] leader 0");
    }
}
