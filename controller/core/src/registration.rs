//! Who belongs to the cluster: its founding, its brokers and its controllers.

use std::collections::BTreeSet;

use ottla_metadata::{
    BrokerRegistered, BrokerRegistration, Cause, ClusterCreated, ControllerActivated,
    ControllerRegistered, ControllerRegistration, MetadataImage,
};
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, ClusterId, ErrorCode, Instant, NodeId};

use crate::damage::forget_all_replicas;
use crate::draft::Draft;
use crate::fencing::fence;
use crate::request::{RegisterBroker, RegisterController, Reply};
use crate::session::{Liveness, Sessions};

/// Founds the cluster, once.
pub(crate) fn found(draft: &mut Draft, cluster_id: ClusterId) -> Result<Reply, ApiError> {
    match draft.image().cluster_id {
        None => draft.push(ClusterCreated { cluster_id })?,
        Some(existing) if existing == cluster_id => {}
        Some(existing) => {
            let message =
                format!("the cluster exists as {existing} and cannot be founded as {cluster_id}");
            return Err(ApiError::new(ErrorCode::InconsistentClusterId, message));
        }
    }
    Ok(Reply::Done)
}

/// Notes since when a controller decides.
pub(crate) fn activate(
    draft: &mut Draft,
    controller: NodeId,
    activation_id: u64,
) -> Result<Reply, ApiError> {
    let last = draft.image().activations.iter().next_back();
    if last.is_none_or(|last| last.id != activation_id) {
        draft.push(ControllerActivated {
            controller,
            activation_id,
        })?;
    }
    Ok(Reply::Done)
}

/// Notes where a controller can be reached.
pub(crate) fn register_controller(
    draft: &mut Draft,
    request: RegisterController,
) -> Result<Reply, ApiError> {
    let registration = ControllerRegistration {
        controller: request.controller,
        directory: request.directory,
        internal_endpoint: request.internal_endpoint.clone(),
        version: request.version.clone(),
    };
    if draft.image().controllers.get(&request.controller) != Some(&registration) {
        draft.push(ControllerRegistered {
            controller: request.controller,
            directory: request.directory,
            internal_endpoint: request.internal_endpoint,
            version: request.version,
        })?;
    }
    Ok(Reply::Done)
}

/// Registers a broker process, or amends the registration of the same process. Returns its epoch,
/// and the one under which it served last if its directory knows nothing of that.
pub(crate) fn register_broker(
    draft: &mut Draft,
    sessions: &Sessions,
    now: Instant,
    gone: &BTreeSet<NodeId>,
    request: RegisterBroker,
) -> Result<(BrokerEpoch, Option<BrokerEpoch>), ApiError> {
    check_cluster(draft.image(), &request)?;
    check_directory(draft.image(), &request)?;
    let broker = request.broker;
    let existing = draft.image().broker(broker).cloned();
    let same_process = existing
        .as_ref()
        .filter(|existing| existing.incarnation == request.incarnation);
    if let Some(existing) = same_process {
        return amend(draft, existing, request).map(|epoch| (epoch, None));
    }
    if let Some(existing) = &existing {
        check_successor(sessions, now, existing, &request)?;
        fence(draft, gone, broker, existing.epoch, Cause::Registration)?;
    }
    let same_directory = existing.filter(|existing| existing.directory == request.directory);
    let outdated = match &same_directory {
        Some(existing) => served_since(existing, &request),
        None => None,
    };
    let lost = match same_directory {
        None => Some(Cause::DirectoryLost),
        Some(_) => outdated.map(|_| Cause::DirectoryOutdated),
    };
    if let Some(cause) = lost {
        forget_all_replicas(draft, gone, broker, cause)?;
    }
    let broker_epoch = BrokerEpoch(draft.image().offset.0);
    draft.push(record_of(request))?;
    Ok((broker_epoch, outdated))
}

/// The epoch under which the broker was unfenced on this directory and of which the directory knows
/// nothing: it was replaced by an older copy, and records that others believe it to hold are gone.
/// A directory notes its epoch before its broker can be unfenced under it, so that a crash between
/// looks like no such copy. One that states none was never granted any, or not by a build that
/// notes it, and is believed.
fn served_since(existing: &BrokerRegistration, request: &RegisterBroker) -> Option<BrokerEpoch> {
    let last = request.last_broker_epoch?;
    existing.served_epoch.filter(|served| *served > last)
}

fn check_cluster(image: &MetadataImage, request: &RegisterBroker) -> Result<(), ApiError> {
    let broker = request.broker;
    match image.cluster_id {
        Some(cluster) if cluster == request.cluster_id => Ok(()),
        Some(cluster) => {
            let message = format!(
                "broker {broker} belongs to cluster {}, but this is cluster {cluster}; give it an \
                 empty data directory or the right controllers",
                request.cluster_id
            );
            Err(ApiError::new(ErrorCode::InconsistentClusterId, message).in_field("cluster_id"))
        }
        None => {
            let message =
                format!("broker {broker} cannot register: the cluster is not founded yet");
            Err(ApiError::new(ErrorCode::NodeStarting, message))
        }
    }
}

/// A directory belongs to one node. A copied one must not serve twice.
fn check_directory(image: &MetadataImage, request: &RegisterBroker) -> Result<(), ApiError> {
    let mut others = image
        .brokers
        .values()
        .filter(|b| b.broker != request.broker);
    match others.find(|other| other.directory == request.directory) {
        None => Ok(()),
        Some(other) => {
            let message = format!(
                "broker {} has data directory {}, which belongs to broker {}; was it copied?",
                request.broker, request.directory, other.broker
            );
            let error = ApiError::new(ErrorCode::DuplicateBrokerRegistration, message);
            Err(error.in_field("directory"))
        }
    }
}

/// A new process takes over from an old one only when the old one is not alive. One that this
/// controller never saw gives way to a successor on the same directory, which one process at a
/// time can hold.
fn check_successor(
    sessions: &Sessions,
    now: Instant,
    existing: &BrokerRegistration,
    request: &RegisterBroker,
) -> Result<(), ApiError> {
    let until = match sessions.liveness(now, existing.broker, existing.epoch) {
        Liveness::Gone => return Ok(()),
        Liveness::Unseen { .. } if existing.directory == request.directory => return Ok(()),
        Liveness::Unseen { until } | Liveness::Alive { until } => until,
    };
    let message = format!(
        "another process is broker {} at {} and counts as alive for another {} ms; \
         stop that process, or give this one another id",
        existing.broker,
        existing.internal_endpoint,
        until.since(now).as_millis(),
    );
    let error = ApiError::new(ErrorCode::DuplicateBrokerRegistration, message);
    Err(error.in_field("broker"))
}

fn amend(
    draft: &mut Draft,
    existing: &BrokerRegistration,
    request: RegisterBroker,
) -> Result<BrokerEpoch, ApiError> {
    if existing.directory != request.directory {
        let message = format!(
            "incarnation {} of broker {} registered with directory {} and now names {}; a process \
             keeps its directory",
            existing.incarnation, existing.broker, existing.directory, request.directory
        );
        return Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field("directory"));
    }
    let unchanged = existing.client_endpoint == request.client_endpoint
        && existing.internal_endpoint == request.internal_endpoint
        && existing.rack == request.rack
        && existing.version == request.version;
    if !unchanged {
        draft.push(record_of(request))?;
    }
    Ok(existing.epoch)
}

fn record_of(request: RegisterBroker) -> BrokerRegistered {
    BrokerRegistered {
        broker: request.broker,
        incarnation: request.incarnation,
        directory: request.directory,
        client_endpoint: request.client_endpoint,
        internal_endpoint: request.internal_endpoint,
        rack: request.rack,
        version: request.version,
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::{MetadataRecord, decode_snapshot, encode_snapshot};

    use super::*;
    use crate::fixture::{Fixture, registration};
    use crate::request::Request;

    /// Stops the broker and has it register again on the same directory, which states this epoch.
    fn restart(
        fixture: &mut Fixture,
        broker: i32,
        incarnation: u8,
        last: Option<BrokerEpoch>,
    ) -> (Option<BrokerEpoch>, Vec<MetadataRecord>) {
        fixture.disconnect(broker);
        let request = RegisterBroker {
            last_broker_epoch: last,
            ..registration(broker, incarnation)
        };
        match fixture.decide(Request::RegisterBroker(request)) {
            Ok((Reply::BrokerRegistered { outdated, .. }, records)) => (outdated, records),
            other => panic!("{other:?}"),
        }
    }

    /// Connects and unfences a broker that has registered.
    fn unfence(fixture: &mut Fixture, broker: i32) {
        let epoch = fixture.epoch(broker);
        fixture
            .core
            .on_connected(fixture.now, NodeId(broker), epoch);
        let outcome = fixture.beat(broker);
        fixture.must(outcome.needs_decision.expect("a ready broker is unfenced"));
    }

    #[test]
    fn a_directory_restored_from_an_older_copy_counts_as_lost_even_if_all_brokers_restart() {
        let mut fixture = Fixture::with_brokers(3);
        let old = fixture.epoch(1);
        restart(&mut fixture, 1, 11, Some(old));
        unfence(&mut fixture, 1);
        let served = fixture.epoch(1);
        let topic = fixture.topic("t", &[1, 2, 3], &[]);
        // Nobody is left who could fence the others: all stop, the restored one registers first.
        for broker in [3, 2] {
            fixture.disconnect(broker);
            fixture.fence(broker);
        }
        fixture.disconnect(1);
        fixture.fence(1);
        assert_eq!(fixture.state(topic), "isr [1] elr [2] leader 0");
        let (outdated, _) = restart(&mut fixture, 1, 12, Some(old));
        assert_eq!(outdated, Some(served));
        unfence(&mut fixture, 1);
        assert!(!fixture.partition(topic).isr.contains(&NodeId(1)));
        assert_eq!(fixture.partition(topic).leader, None);
        let last = fixture.epoch(2);
        let (outdated, _) = restart(&mut fixture, 2, 22, Some(last));
        assert_eq!(outdated, None);
        unfence(&mut fixture, 2);
        assert_eq!(fixture.partition(topic).leader, Some(NodeId(2)));
    }

    #[test]
    fn a_directory_that_knows_the_epoch_its_broker_served_under_is_believed() {
        let mut fixture = Fixture::with_brokers(2);
        let topic = fixture.topic("t", &[1], &[]);
        let served = fixture.epoch(1);
        let (outdated, records) = restart(&mut fixture, 1, 11, Some(served));
        assert_eq!(outdated, None);
        let kinds: Vec<_> = records.iter().map(MetadataRecord::kind).collect();
        assert!(
            !kinds.is_empty() && fixture.partition(topic).isr == [NodeId(1)],
            "{kinds:?}"
        );
        // It crashed before it had noted its last epoch, under which it never served.
        assert!(fixture.epoch(1) > served);
        let (outdated, _) = restart(&mut fixture, 1, 12, Some(served));
        assert_eq!(outdated, None);
        // A build that does not note epochs.
        unfence(&mut fixture, 1);
        assert_eq!(restart(&mut fixture, 1, 13, None).0, None);
        assert_eq!(fixture.partition(topic).isr, [NodeId(1)]);
    }

    #[test]
    fn the_epoch_that_a_broker_served_under_outlives_snapshots_and_ends_with_its_directory() {
        let mut fixture = Fixture::with_brokers(1);
        let served = fixture.epoch(1);
        let of = |image: &MetadataImage| image.broker(NodeId(1)).and_then(|it| it.served_epoch);
        assert_eq!(of(fixture.image()), Some(served));
        restart(&mut fixture, 1, 11, Some(served));
        assert_eq!(of(fixture.image()), Some(served));
        let restored = decode_snapshot(encode_snapshot(fixture.image())).unwrap();
        assert_eq!(of(&restored), Some(served));
        fixture.disconnect(1);
        fixture.must(Request::RegisterBroker(RegisterBroker {
            directory: ottla_model::DirectoryId::from_bytes([99; 16]),
            ..registration(1, 12)
        }));
        assert_eq!(of(fixture.image()), None);
    }
}
