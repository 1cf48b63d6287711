//! `InspectQuorum`: the quorum as this controller sees it.

use ottla_proto::v1;

use super::ControllerHandler;
use super::convert::endpoint_to_wire;
use crate::quorum::MemberView;

pub fn serve(handler: &ControllerHandler) -> v1::InspectQuorumResponse {
    let view = handler.quorum.view();
    let image = handler.feed.current().image;
    let replicas = |members: &[MemberView]| members.iter().map(replica).collect();
    let quorum = v1::DescribeQuorumResponse {
        cluster_id: image.cluster_id.map_or(String::new(), |id| id.to_string()),
        leader_id: view.leader.map(|leader| leader.0),
        leader_epoch: i64::try_from(view.term).unwrap_or(i64::MAX),
        high_watermark: image.offset.0,
        voters: replicas(&view.voters),
        observers: replicas(&view.observers),
    };
    v1::InspectQuorumResponse {
        quorum: Some(quorum),
    }
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
