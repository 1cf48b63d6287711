//! The quorum as one controller sees it, for people.

use std::time::Duration;

use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use ottla_metadata::Endpoint;
use ottla_model::{DirectoryId, NodeId};

use super::network::Peers;
use super::status::is_followed;
use super::types::{LogId, Raft, node_id};

/// The quorum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumView {
    /// Absent, too, where this node leads and no majority has answered it within the lease.
    pub leader: Option<NodeId>,
    /// Who led last, as far as this node knows.
    pub last_leader: Option<NodeId>,
    pub term: u64,
    pub voters: Vec<MemberView>,
    pub observers: Vec<MemberView>,
}

/// One member of the quorum. What only the leader knows is absent elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    pub node_id: NodeId,
    pub directory: DirectoryId,
    pub endpoint: Endpoint,
    /// The end of its log, in entries; -1 if unknown.
    pub log_end: i64,
    /// Entries behind the leader.
    pub lag: Option<i64>,
    /// Milliseconds since the leader last heard from it.
    pub last_contact_ms: Option<i64>,
}

pub(super) fn view(raft: &Raft, peers: &Peers, last: Option<LogId>, lease: Duration) -> QuorumView {
    let metrics = raft.metrics().borrow_watched().clone();
    // A leader that no majority answers decides nothing once its lease has ended, and another may
    // lead by then. A follower names the one that it heard of last.
    let decides = metrics.state != ServerState::Leader || is_followed(&metrics, lease);
    let own_end = last.map_or(0, |last| as_count(last.index + 1));
    let member = |id: &u64, node: &super::types::VoterNode| {
        let is_self = *id == metrics.id;
        let matched = metrics.replication.as_ref().map(|all| all.get(id));
        let log_end = match matched {
            _ if is_self => Some(own_end),
            Some(matched) => {
                let matched = matched.and_then(|log_id| log_id.as_ref());
                Some(matched.map_or(0, |log_id| as_count(log_id.index + 1)))
            }
            None => None,
        };
        let contact = metrics.heartbeat.as_ref().and_then(|all| *all.get(id)?);
        let contact = contact.map(|at| as_count(at.elapsed().as_millis() as u64));
        let leads = metrics.replication.is_some();
        let fallback = Endpoint::new(node.host.clone(), node.port);
        MemberView {
            node_id: node_id(*id),
            directory: node.directory_id(),
            endpoint: peers.endpoint(node_id(*id)).cloned().unwrap_or(fallback),
            log_end: log_end.unwrap_or(-1),
            lag: log_end.filter(|_| leads).map(|end| (own_end - end).max(0)),
            last_contact_ms: if is_self && leads { Some(0) } else { contact },
        }
    };
    let membership = metrics.membership_config.membership();
    let members = |ids: Vec<u64>| {
        let known = ids
            .into_iter()
            .filter_map(|id| Some((id, membership.get_node(&id)?)));
        known.map(|(id, node)| member(&id, node)).collect()
    };
    QuorumView {
        leader: metrics.current_leader.filter(|_| decides).map(node_id),
        last_leader: metrics.current_leader.map(node_id),
        term: metrics.current_term,
        voters: members(membership.voter_ids().collect()),
        observers: members(membership.learner_ids().collect()),
    }
}

fn as_count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
