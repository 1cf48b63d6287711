//! Looking at a running cluster: gathers what [`crate::health`] judges.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use ottla_client::v1::{ClusterView, DescribeQuorumResponse};
use ottla_client::{BrokerTarget, Client, ClientError};
use ottla_model::NodeId;
use tokio::time::timeout;

use crate::health::{self, Observed, Verdict};

/// How long a broker may take to say that it is there.
pub const BROKER_PATIENCE: Duration = Duration::from_secs(2);
/// How long the controllers may take to say who leads them. A broker that asks one that hangs turns
/// to the next after two seconds.
pub const QUORUM_PATIENCE: Duration = Duration::from_secs(5);
/// How long a controller may be silent before it counts as missing. Many heartbeats long, so that
/// an ordinary pause is no news.
const CONTROLLER_SILENCE_MS: i64 = 1_000;

/// How many nodes there shall be, where the caller knows it. Zero means unknown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    pub brokers: usize,
    pub controllers: usize,
}

/// A look at the cluster: what a broker told, and the verdict over it.
#[derive(Debug)]
pub struct Look {
    pub view: ClusterView,
    pub verdict: Verdict,
}

/// Asks for the cluster, every broker and the quorum, and judges.
pub async fn look(client: &Client, expected: Expected) -> Result<Look, ClientError> {
    let mut view = client.admin().describe_cluster().await?;
    let (brokers, quorum) = tokio::join!(ask_brokers(client, &view), quorum(client));
    let is_confirmed = |view: &ClusterView| {
        let leader = quorum.as_ref().and_then(|it| confirmed_leader(view, it));
        leader.is_some()
    };
    if quorum.is_some() && !is_confirmed(&view) {
        // Another may have been elected while the controllers were asked.
        view = client.admin().describe_cluster().await?;
    }
    let that_are = |state| {
        let which = brokers.iter().filter(|(_, found)| *found == state);
        which.map(|(broker, _)| *broker).collect()
    };
    let observed = Observed {
        unreachable_brokers: that_are(BrokerState::Unreachable),
        full_brokers: that_are(BrokerState::Full),
        leader_unconfirmed: !is_confirmed(&view),
        silent_controllers: quorum
            .as_ref()
            .map(|quorum| silent_voters(&view, quorum))
            .unwrap_or_default(),
        voteless_controllers: quorum
            .as_ref()
            .map(|quorum| voteless(&view, quorum))
            .unwrap_or_default(),
        expected_brokers: expected.brokers,
        expected_controllers: expected.controllers,
    };
    let verdict = health::verdict(&view, &observed);
    Ok(Look { view, verdict })
}

/// What a broker says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokerState {
    Well,
    Full,
    Unreachable,
}

/// Asks every unfenced broker at the address that clients are given.
async fn ask_brokers(client: &Client, view: &ClusterView) -> Vec<(i32, BrokerState)> {
    let asked = view
        .brokers
        .iter()
        .filter(|broker| !broker.fenced)
        .map(|broker| async move {
            let target = match &broker.client_endpoint {
                Some(endpoint) => {
                    BrokerTarget::Endpoint(ottla_proto::convert::endpoint_text(endpoint))
                }
                None => BrokerTarget::Node(NodeId(broker.node_id)),
            };
            let admin = client.admin();
            let state = match timeout(BROKER_PATIENCE, admin.describe_broker(target)).await {
                Ok(Ok(described)) if described.disk_full => BrokerState::Full,
                Ok(Ok(_)) => BrokerState::Well,
                _ => BrokerState::Unreachable,
            };
            (broker.node_id, state)
        });
    join_all(asked).await
}

/// The quorum as some controller sees it, if one answers.
pub async fn quorum(client: &Client) -> Option<DescribeQuorumResponse> {
    let admin = client.admin();
    let answer = timeout(QUORUM_PATIENCE, admin.describe_quorum()).await;
    answer.ok()?.ok()
}

/// The controller that leads the quorum, if it does: a controller that has lost the others goes on
/// naming the one that it followed, and only one that brokers are registered with decides.
pub fn confirmed_leader(view: &ClusterView, quorum: &DescribeQuorumResponse) -> Option<i32> {
    let active = view.active_controller_id;
    active.filter(|_| active == quorum.leader_id)
}

/// Voters that the active controller does not hear. Without an active controller nobody knows.
pub fn silent_voters(view: &ClusterView, quorum: &DescribeQuorumResponse) -> BTreeSet<i32> {
    let Some(leader) = confirmed_leader(view, quorum) else {
        return BTreeSet::new();
    };
    let followers = quorum.voters.iter().filter(|voter| voter.node_id != leader);
    let silent = followers.filter(|voter| {
        // A leader hears every follower that runs within a heartbeat of its election.
        voter
            .last_contact_ms
            .is_none_or(|silence| silence > CONTROLLER_SILENCE_MS)
    });
    silent.map(|voter| voter.node_id).collect()
}

/// Controllers of the cluster that are no voters. Without an active controller nobody knows.
pub fn voteless(view: &ClusterView, quorum: &DescribeQuorumResponse) -> BTreeSet<i32> {
    if confirmed_leader(view, quorum).is_none() {
        return BTreeSet::new();
    }
    let controllers = view.controllers.iter().map(|it| it.node_id);
    let votes = |id: &i32| quorum.voters.iter().any(|voter| voter.node_id == *id);
    controllers.filter(|id| !votes(id)).collect()
}

/// Waits until the view of the cluster changes, or for a while.
pub async fn wait_for_change(client: &Client, at_most: Duration) {
    let before = client.cluster();
    // That nothing changed in the time given is as good an answer.
    let _ = client.wait_for(|now| *now != *before, at_most).await;
}

#[cfg(test)]
mod tests {
    use ottla_client::v1::{ControllerView, QuorumReplica};

    use super::*;

    #[test]
    fn controllers_that_do_not_vote_are_told() {
        let controller = |node_id| ControllerView {
            node_id,
            internal_endpoint: None,
        };
        let voter = |node_id| QuorumReplica {
            node_id,
            ..QuorumReplica::default()
        };
        let mut view = ClusterView {
            active_controller_id: Some(1),
            controllers: [1, 2, 3].map(controller).to_vec(),
            ..ClusterView::default()
        };
        let quorum = DescribeQuorumResponse {
            leader_id: Some(1),
            voters: vec![voter(1), voter(3)],
            ..DescribeQuorumResponse::default()
        };
        assert_eq!(voteless(&view, &quorum), [2].into());
        view.active_controller_id = None;
        assert_eq!(voteless(&view, &quorum), BTreeSet::new());
    }

    #[test]
    fn followers_that_are_silent_or_were_never_heard_count() {
        let voter = |node_id, last_contact_ms| QuorumReplica {
            node_id,
            last_contact_ms,
            ..QuorumReplica::default()
        };
        let mut quorum = DescribeQuorumResponse {
            leader_id: Some(1),
            voters: vec![
                voter(1, Some(9_000)),
                voter(2, Some(50)),
                voter(3, Some(9_000)),
                voter(4, None),
            ],
            ..DescribeQuorumResponse::default()
        };
        let mut view = ClusterView {
            active_controller_id: Some(1),
            ..ClusterView::default()
        };
        assert_eq!(silent_voters(&view, &quorum), [3, 4].into());
        // What a follower tells of the others is nothing.
        view.active_controller_id = None;
        assert_eq!(silent_voters(&view, &quorum), BTreeSet::new());
        quorum.leader_id = None;
        assert_eq!(silent_voters(&view, &quorum), BTreeSet::new());
    }
}
