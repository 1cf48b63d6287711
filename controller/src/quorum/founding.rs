//! The beginning of a cluster: every configured controller must be present and empty. Also finds
//! out, at each start, whether this node's directory belongs to another cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use ottla_model::{DirectoryId, NodeId};
use ottla_proto::v1::GreetResponse;
use tokio::time::sleep;

use super::member::Member;
use super::types::{VoterNode, raft_id};
use crate::error::FatalError;

const GREET_TIMEOUT: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Founds the cluster, or waits until this node is part of one.
pub struct Founding {
    pub member: Member,
}

impl Founding {
    /// Greets the others until each has answered once and this node is part of a cluster.
    pub async fn run(self) {
        let mut pause = FIRST_PAUSE;
        let mut told = String::new();
        let mut answered = BTreeMap::new();
        loop {
            let round = self.greet_all(&answered).await;
            let all_present = round.len() == self.member.peers.others().count();
            answered.extend(round.clone());
            self.check_cluster(&answered);
            let is_member = self.member.status.borrow().has_members;
            let everyone_answered = answered.len() == self.member.peers.others().count();
            if is_member && everyone_answered {
                return;
            }
            if !is_member {
                let waiting = self.try_found(&round, all_present).await;
                if waiting != told {
                    tracing::info!("{waiting}");
                    told = waiting;
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Greets those who must answer: all before this node is part of a cluster, afterwards those
    /// who never did.
    async fn greet_all(
        &self,
        answered: &BTreeMap<NodeId, GreetResponse>,
    ) -> BTreeMap<NodeId, GreetResponse> {
        let is_member = self.member.status.borrow().has_members;
        let wanted = self.member.peers.others();
        let wanted: Vec<_> = wanted
            .filter(|id| !is_member || !answered.contains_key(id))
            .collect();
        let greetings = wanted.into_iter().map(async |id| {
            let answer = self.member.peers.greet(id, GREET_TIMEOUT).await;
            answer
                .inspect_err(|status| tracing::debug!(controller = %id, %status, "no greeting"))
                .ok()
                .map(|answer| (id, answer))
        });
        join_all(greetings).await.into_iter().flatten().collect()
    }

    /// A directory of another cluster is told apart by the majority, so that one misplaced node
    /// does not stop the others.
    fn check_cluster(&self, answered: &BTreeMap<NodeId, GreetResponse>) {
        let Some(ours) = self.member.guard.identity().cluster_id() else {
            return;
        };
        let text = ours.to_string();
        let named = answered
            .values()
            .map(|answer| &answer.cluster_id)
            .filter(|id| !id.is_empty());
        let (same, other): (Vec<_>, Vec<_>) = named.partition(|id| **id == text);
        if let Some(theirs) = other.first()
            && other.len() > same.len() + 1
        {
            self.member.guard.fatal(FatalError::ForeignCluster {
                ours,
                theirs: (*theirs).clone(),
            });
        }
    }

    /// Founds the cluster if that is this node's to do now; says what it waits for.
    async fn try_found(
        &self,
        answers: &BTreeMap<NodeId, GreetResponse>,
        all_present: bool,
    ) -> String {
        let me = self.member.guard.identity().node_id;
        let missing: BTreeSet<_> = self.member.peers.others().collect();
        let missing: Vec<_> = missing
            .iter()
            .filter(|id| !answers.contains_key(id))
            .collect();
        let taken = answers
            .iter()
            .find(|(_, answer)| answer.has_state || !answer.cluster_id.is_empty());
        if let Some((other, answer)) = taken {
            // Its log begins before the cluster's id stands in it.
            return match answer.cluster_id.as_str() {
                "" => format!("controller {other} has begun a cluster; waiting to be part of it"),
                id => format!(
                    "controller {other} already belongs to cluster '{id}'; waiting to be part of it"
                ),
            };
        }
        let lost = answers.iter().find(|(_, answer)| answer.lost_state);
        if let Some((other, _)) = lost {
            return format!(
                "controller {other} lost what it held of a cluster, so none is founded here; waiting \
                 for the active controller (to begin anew all the same, remove `controller` and \
                 `controller-damaged-*` from its data_dir)"
            );
        }
        let identity = self.member.guard.identity();
        if identity.lost_state || self.member.guard.is_waiting_for_admission() {
            return "waiting for the active controller to take this new directory in".to_owned();
        }
        if !self.member.store.is_empty() {
            return "waiting for the active controller".to_owned();
        }
        if !all_present {
            return format!(
                "a cluster is founded once every configured controller is present; waiting for {missing:?}"
            );
        }
        if self.member.peers.others().any(|other| other < me) {
            return "every controller is present; the one with the lowest id founds the cluster"
                .to_owned();
        }
        match self.initialize(answers).await {
            Ok(()) => "every controller is present and empty; the cluster is founded".to_owned(),
            Err(error) => format!("the cluster could not be founded: {error}"),
        }
    }

    async fn initialize(&self, answers: &BTreeMap<NodeId, GreetResponse>) -> Result<(), String> {
        let identity = self.member.guard.identity();
        let mut directories = BTreeMap::from([(identity.node_id, identity.directory_id)]);
        for (id, answer) in answers {
            let directory = DirectoryId::from_slice(&answer.directory_id)
                .ok_or_else(|| format!("controller {id} names no directory"))?;
            directories.insert(*id, directory);
        }
        let members = directories.into_iter().filter_map(|(id, directory)| {
            let endpoint = self.member.peers.endpoint(id)?;
            let node = VoterNode {
                directory: *directory.as_bytes(),
                host: endpoint.host.clone(),
                port: endpoint.port,
            };
            Some((raft_id(id), node))
        });
        let members: BTreeMap<_, _> = members.collect();
        let initialized = self.member.raft.initialize(members).await;
        initialized.map_err(|error| error.to_string())
    }
}
