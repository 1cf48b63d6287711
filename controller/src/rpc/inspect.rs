//! `InspectQuorum`: the quorum as this controller sees it.

use ottla_model::ErrorCode;
use ottla_model::error::ApiError;
use ottla_proto::v1;

use super::ControllerHandler;
use super::convert::endpoint_to_wire;
use crate::quorum::MemberView;

/// # Errors
/// `NOT_CONTROLLER` while this one takes part in none: another one has to be asked.
pub fn serve(handler: &ControllerHandler) -> Result<v1::InspectQuorumResponse, ApiError> {
    let view = handler.quorum.view();
    if view.voters.is_empty() {
        let message = "this controller takes part in no quorum yet";
        return Err(ApiError::new(ErrorCode::NotController, message));
    }
    let image = handler.feed.current().image;
    let replicas = |members: &[MemberView]| members.iter().map(replica).collect();
    let quorum = v1::DescribeQuorumResponse {
        cluster_id: image.cluster_id.map_or(String::new(), |id| id.to_string()),
        leader_id: view.leader.map(|leader| leader.0),
        leader_epoch: i64::try_from(view.term).unwrap_or(i64::MAX),
        high_watermark: image.offset.0,
        voters: replicas(&view.voters),
        observers: replicas(&view.observers),
        last_known_leader_id: view.last_leader.map(|leader| leader.0),
    };
    Ok(v1::InspectQuorumResponse {
        quorum: Some(quorum),
    })
}

fn replica(member: &MemberView) -> v1::QuorumReplica {
    v1::QuorumReplica {
        node_id: member.node_id.0,
        directory_id: member.directory.to_string(),
        endpoint: Some(endpoint_to_wire(&member.endpoint)),
        log_end: member.log_end,
        lag: member.lag,
        last_contact_ms: member.last_contact_ms,
    }
}
