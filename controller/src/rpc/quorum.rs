//! The quorum, for people.

use ottla_proto::v1;

use crate::active::ActiveController;
use crate::quorum::VoterView;

pub fn inspect(active: &ActiveController) -> v1::InspectQuorumResponse {
    let view = active.quorum.inspect();
    let image = active.quorum.image();
    v1::InspectQuorumResponse {
        quorum: Some(v1::DescribeQuorumResponse {
            cluster_id: image
                .cluster_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            leader_id: view.leader.map(|id| id.0),
            leader_epoch: i64::try_from(view.term).unwrap_or(i64::MAX),
            high_watermark: image.offset.0,
            voters: view.voters.iter().map(voter).collect(),
            observers: Vec::new(),
        }),
    }
}

fn voter(voter: &VoterView) -> v1::QuorumReplica {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    v1::QuorumReplica {
        node_id: voter.node_id.0,
        directory_id: voter.directory.map(|id| id.to_string()).unwrap_or_default(),
        endpoint: Some(v1::Endpoint {
            host: voter.endpoint.host.clone(),
            port: u32::from(voter.endpoint.port),
        }),
        log_end: number(voter.log_end),
        lag: voter.lag.map(number),
        last_contact_ms: voter
            .last_contact
            .map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
    }
}
