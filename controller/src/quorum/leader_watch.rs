//! Notices that the leader's process is gone, and has it replaced at once.
//!
//! Each follower keeps a connection to the leader. When it closes and the leader's port refuses
//! another, the follower asks the other voters whether they find so too. If a majority does, it
//! stands for election without waiting for the lease or for a random time: a process that is gone
//! holds no lease, and leases guard nothing but liveness here, because no read relies on them.
//! Otherwise it stands as soon as the lease ends. Lower node ids go first, so votes do not split.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use ottla_metadata::Endpoint;
use ottla_model::NodeId;
use ottla_proto::v1;
use ottla_proto::v1::raft_service_client::RaftServiceClient;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::QuorumStatus;
use super::member::Member;
use super::types::raft_id;
use super::wire::PreVoteBody;
use crate::connection::{channel, is_refused};

/// How much later each next voter stands for election.
const RANK_DELAY: Duration = Duration::from_millis(60);
/// Between two attempts to have the leader replaced.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// Between two looks at a leader that cannot be reached.
const LOOK_DELAY: Duration = Duration::from_millis(50);
const LOOK_TIMEOUT: Duration = Duration::from_millis(150);
const ASK_TIMEOUT: Duration = Duration::from_millis(250);
const GREET_TIMEOUT: Duration = Duration::from_millis(500);

/// The watch over the leader.
pub struct LeaderWatch {
    pub member: Member,
}

impl LeaderWatch {
    /// Watches until the consensus is gone.
    pub async fn run(mut self) {
        loop {
            let me = self.me();
            let other = |status: &QuorumStatus| status.leader.is_some_and(|leader| leader != me);
            let Ok(status) = self
                .member
                .status
                .wait_for(other)
                .await
                .map(|status| *status)
            else {
                return;
            };
            let Some(leader) = status.leader else {
                continue;
            };
            let Some(endpoint) = self.member.peers.endpoint(leader).cloned() else {
                sleep(LOOK_DELAY).await;
                continue;
            };
            self.stay_connected(leader, &endpoint).await;
            if self.member.guard.is_another_registered() {
                sleep(LOOK_DELAY).await;
                continue;
            }
            if !self.still_leads(leader, status.term) {
                continue;
            }
            if is_refused(&endpoint, LOOK_TIMEOUT).await {
                tracing::info!(%leader, "the active controller's process is gone");
                self.replace(leader, status.term, &endpoint).await;
            } else {
                sleep(LOOK_DELAY).await;
            }
        }
    }

    fn me(&self) -> NodeId {
        self.member.guard.identity().node_id
    }

    fn still_leads(&self, leader: NodeId, term: u64) -> bool {
        let status = *self.member.status.borrow();
        status.leader == Some(leader) && status.term == term
    }

    /// Returns when the connection to the leader is gone, or the leader is another.
    async fn stay_connected(&mut self, leader: NodeId, endpoint: &Endpoint) {
        let closed = Arc::new(Notify::new());
        let mut client = RaftServiceClient::new(channel(endpoint, Arc::clone(&closed)));
        let message = v1::GreetRequest {
            envelope: Some(self.member.guard.envelope(leader)),
        };
        let greeted = tokio::time::timeout(GREET_TIMEOUT, client.greet(message)).await;
        if !matches!(greeted, Ok(Ok(_))) {
            return;
        }
        tokio::select! {
            () = closed.notified() => {}
            _ = self.member.status.wait_for(|status| status.leader != Some(leader)) => {}
        }
    }

    /// Has the leader replaced, by this node or by another.
    async fn replace(&self, leader: NodeId, term: u64, endpoint: &Endpoint) {
        let mut rivals: Vec<_> = self
            .member
            .peers
            .others()
            .filter(|id| *id != leader)
            .collect();
        rivals.sort_unstable();
        let rank = rivals.iter().filter(|id| **id < self.me()).count();
        sleep(RANK_DELAY * u32::try_from(rank).unwrap_or(u32::MAX)).await;
        while self.still_leads(leader, term) && is_refused(endpoint, LOOK_TIMEOUT).await {
            let ask = PreVoteBody::LeaderGone {
                leader: raft_id(leader),
                term,
                last_log_id: self.member.store.last_log_id(),
            };
            let asked = rivals
                .iter()
                .map(|rival| self.member.peers.ask_leader_gone(*rival, &ask, ASK_TIMEOUT));
            let granted = 1 + join_all(asked).await.into_iter().filter(|yes| *yes).count();
            let voters = rivals.len() + 2;
            let agreed = granted > voters / 2;
            if !self.still_leads(leader, term) {
                return;
            }
            // With pre-vote, nothing happens before the lease has ended here and there.
            if self.member.raft.trigger().elect(!agreed).await.is_err() {
                return;
            }
            sleep(RETRY_DELAY).await;
        }
    }
}
