//! Who belongs to the cluster: its founding, its brokers and its controllers.

use std::collections::BTreeSet;

use ottla_metadata::{
    BrokerRegistered, BrokerRegistration, Cause, ClusterCreated, ControllerRegistered,
    ControllerRegistration, MetadataImage,
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

/// Registers a broker process, or amends the registration of the same process.
pub(crate) fn register_broker(
    draft: &mut Draft,
    sessions: &Sessions,
    now: Instant,
    gone: &BTreeSet<NodeId>,
    request: RegisterBroker,
) -> Result<BrokerEpoch, ApiError> {
    check_cluster(draft.image(), &request)?;
    check_directory(draft.image(), &request)?;
    let broker = request.broker;
    let existing = draft.image().broker(broker).cloned();
    let same_process = existing
        .as_ref()
        .filter(|existing| existing.incarnation == request.incarnation);
    if let Some(existing) = same_process {
        return amend(draft, existing, request);
    }
    if let Some(existing) = &existing {
        check_successor(sessions, now, existing, &request)?;
        fence(draft, gone, broker, existing.epoch, Cause::Registration)?;
    }
    let same_directory = |existing: &BrokerRegistration| existing.directory == request.directory;
    if !existing.as_ref().is_some_and(same_directory) {
        forget_all_replicas(draft, gone, broker, Cause::DirectoryLost)?;
    }
    let broker_epoch = BrokerEpoch(draft.image().offset.0);
    draft.push(record_of(request))?;
    Ok(broker_epoch)
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
        "broker {} is registered as incarnation {} at {} and counts as alive for another {} ms; \
         stop that process, or give this one another id",
        existing.broker,
        existing.incarnation,
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
