//! Takes the new directory of a controller in the place of one that was lost.
//!
//! A voter is a node id *and* the directory that it votes from. When a configured controller
//! answers with a directory that never held anything, the voter that the quorum knows is gone for
//! good. The leader then takes it out of the quorum, takes the new directory in as one who only
//! listens, and makes it a voter once it has caught up: three changes of the membership, each
//! committed by a majority before the next. Between the first and the last the quorum is one voter
//! smaller, so nothing is promised on behalf of a log that was lost (Raft §6; in Kafka's terms,
//! KIP-853).
//!
//! Whoever leads looks at what the membership is and what it should be, so a new leader goes on
//! where the last one stopped. What to do next is decided by a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use openraft::ChangeMembers;
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver as _;
use ottla_model::{DirectoryId, NodeId};
use tokio::time::{sleep, timeout};

use super::member::Member;
use super::types::{VoterNode, raft_id};

/// How often a leader looks for controllers that it does not hear.
const INTERVAL: Duration = Duration::from_millis(500);
const GREET_TIMEOUT: Duration = Duration::from_millis(500);
/// How long one change of the membership is waited for; it may still be made later.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many entries one who only listens may lack when it becomes a voter.
const LAG_MAX: u64 = 1_000;

/// The leader's care for the membership.
pub struct Admission {
    member: Member,
    patience: Duration,
    lost_after: Duration,
    /// Which directories answered in the place of voters, and since when.
    answered: BTreeMap<NodeId, (DirectoryId, Instant)>,
}

/// What the membership has of a configured controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    directory: DirectoryId,
    is_voter: bool,
    /// Whether it has answered the leader lately.
    is_heard: bool,
    /// How many entries it lacks.
    lag: u64,
}

/// Who answers where a configured controller should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    directory: DirectoryId,
    /// Whether it holds any vote, log or snapshot.
    has_state: bool,
    /// Whether it belongs to another cluster.
    is_foreign: bool,
    /// Whether what stood there before is surely lost.
    is_certain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Out of the membership: the directory is gone for good.
    Remove,
    /// Into the membership, to listen.
    Admit(DirectoryId),
    /// From one who listens to a voter.
    Promote,
}

/// What the leader does next about a configured controller.
fn next_step(known: Option<Known>, found: Option<Found>) -> Step {
    let found = found.filter(|found| !found.is_foreign);
    match (known, found) {
        (Some(known), Some(found)) if known.directory != found.directory => {
            // A directory that holds something may be an older copy of the voter's, and what it has
            // forgotten is not known.
            match !known.is_heard && !found.has_state && found.is_certain {
                true => Step::Remove,
                false => Step::Nothing,
            }
        }
        (Some(known), _) if !known.is_voter && known.is_heard && known.lag <= LAG_MAX => {
            Step::Promote
        }
        (None, Some(found)) => Step::Admit(found.directory),
        _ => Step::Nothing,
    }
}

/// Whether a voter may be taken out: the change needs a majority of the voters before it and one of
/// those after it, counting the leader.
fn may_remove(voters: usize, others_heard: usize) -> bool {
    let heard = others_heard + 1;
    heard > voters / 2 && heard > (voters - 1) / 2
}

impl Admission {
    /// After `patience` without a word a controller counts as not heard; see
    /// [`QuorumConfig::lost_after`](crate::config::QuorumConfig::lost_after) for when it is lost.
    pub fn new(member: &Member, patience: Duration, lost_after: Duration) -> Admission {
        Admission {
            member: member.clone(),
            patience,
            lost_after,
            answered: BTreeMap::new(),
        }
    }

    /// Runs until the consensus is gone.
    pub async fn run(mut self) {
        loop {
            let mut status = self.member.status.clone();
            if !status.borrow().is_leader {
                // What it saw when it led last is no word for what was there since.
                self.answered.clear();
            }
            if status.wait_for(|status| status.is_leader).await.is_err() {
                return;
            }
            if !self.make_one_change().await {
                sleep(INTERVAL).await;
            }
        }
    }

    /// Makes the next change of the membership, if there is one to make.
    async fn make_one_change(&mut self) -> bool {
        let metrics = self.member.raft.metrics().borrow_watched().clone();
        if metrics.membership_config != metrics.committed_membership_config {
            return false;
        }
        if metrics
            .membership_config
            .membership()
            .get_joint_config()
            .len()
            > 1
        {
            // The last leader got no further than half of a change.
            let nothing_more = ChangeMembers::AddVoterIds(BTreeSet::new());
            return self.change("finish the last change", nothing_more).await;
        }
        let others: Vec<_> = self.member.peers.others().collect();
        for id in others {
            let known = self.known(id);
            if known.is_some_and(|known| known.is_voter && known.is_heard) {
                // Whoever answered in its place before has to begin again.
                self.answered.remove(&id);
                continue;
            }
            let found = self.find(id).await;
            match next_step(known, found) {
                Step::Nothing => {}
                Step::Remove => return self.remove(id, known).await,
                Step::Admit(directory) => return self.admit(id, directory).await,
                Step::Promote => {
                    tracing::info!(controller = %id, "the new controller has caught up and votes");
                    let ids = BTreeSet::from([raft_id(id)]);
                    return self
                        .change("make a voter", ChangeMembers::AddVoterIds(ids))
                        .await;
                }
            }
        }
        false
    }

    fn known(&self, id: NodeId) -> Option<Known> {
        let metrics = self.member.raft.metrics().borrow_watched().clone();
        let raft = raft_id(id);
        let membership = metrics.membership_config.membership();
        let node = membership.get_node(&raft)?;
        let heard = metrics.heartbeat.as_ref().and_then(|all| *all.get(&raft)?);
        let matched = metrics.replication.as_ref().and_then(|all| {
            let matched = all.get(&raft)?.as_ref()?;
            Some(matched.index)
        });
        let last = metrics.last_log_index.unwrap_or(0);
        Some(Known {
            directory: node.directory_id(),
            is_voter: membership.voter_ids().any(|voter| voter == raft),
            is_heard: heard.is_some_and(|at| at.elapsed() < self.patience),
            lag: matched.map_or(u64::MAX, |matched| last.saturating_sub(matched)),
        })
    }

    async fn find(&mut self, id: NodeId) -> Option<Found> {
        let answer = self.member.peers.greet_any(id, GREET_TIMEOUT).await.ok();
        let directory = answer
            .as_ref()
            .and_then(|answer| DirectoryId::from_slice(&answer.directory_id));
        let (Some(answer), Some(directory)) = (answer, directory) else {
            self.answered.remove(&id);
            return None;
        };
        let first = (directory, Instant::now());
        let since = self.answered.entry(id).or_insert(first);
        if since.0 != directory {
            *since = first;
        }
        let is_certain = answer.lost_state || since.1.elapsed() >= self.lost_after;
        let ours = self.member.guard.identity().cluster_id();
        let is_foreign = match ours {
            Some(ours) => !answer.cluster_id.is_empty() && answer.cluster_id != ours.to_string(),
            // What this cluster is called is not known yet; nobody is taken in.
            None => true,
        };
        Some(Found {
            directory,
            has_state: answer.has_state,
            is_foreign,
            is_certain,
        })
    }

    async fn remove(&self, id: NodeId, known: Option<Known>) -> bool {
        let raft = raft_id(id);
        if known.is_some_and(|known| !known.is_voter) {
            let change = ChangeMembers::RemoveNodes(BTreeSet::from([raft]));
            return self.change("take out a controller", change).await;
        }
        let metrics = self.member.raft.metrics().borrow_watched().clone();
        let voters = metrics.membership_config.voter_ids().count();
        let heard = self.member.peers.others().filter(|other| {
            let known = self.known(*other);
            known.is_some_and(|known| known.is_voter && known.is_heard)
        });
        if !may_remove(voters, heard.count()) {
            return false;
        }
        let lost = known.map(|known| known.directory.to_string());
        tracing::warn!(controller = %id, lost = lost.unwrap_or_default(),
            "a controller has come back with a new directory; the one that it lost leaves the quorum");
        let change = ChangeMembers::RemoveVoters(BTreeSet::from([raft]));
        self.change("take out a controller", change).await
    }

    async fn admit(&self, id: NodeId, directory: DirectoryId) -> bool {
        let Some(endpoint) = self.member.peers.endpoint(id) else {
            return false;
        };
        tracing::info!(controller = %id, %directory, "a new controller joins and catches up");
        let node = VoterNode {
            directory: *directory.as_bytes(),
            host: endpoint.host.clone(),
            port: endpoint.port,
        };
        let nodes = BTreeMap::from([(raft_id(id), node)]);
        self.change("take in a controller", ChangeMembers::AddNodes(nodes))
            .await
    }

    /// Proposes a change and waits until it is committed; whether it was.
    async fn change(&self, what: &str, change: ChangeMembers<u64, VoterNode>) -> bool {
        let changing = self.member.raft.change_membership(change, false);
        match timeout(CHANGE_TIMEOUT, changing).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not {what}");
                false
            }
            Err(_) => {
                tracing::warn!("could not {what} within {CHANGE_TIMEOUT:?}");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(number: u128) -> DirectoryId {
        DirectoryId::from_random(number)
    }

    const VOTER: fn() -> Known = || Known {
        directory: directory(1),
        is_voter: true,
        is_heard: false,
        lag: u64::MAX,
    };

    fn empty(number: u128) -> Option<Found> {
        Some(Found {
            directory: directory(number),
            has_state: false,
            is_foreign: false,
            is_certain: true,
        })
    }

    #[test]
    fn a_lost_directory_is_replaced_in_three_steps() {
        assert_eq!(next_step(Some(VOTER()), empty(2)), Step::Remove);
        assert_eq!(next_step(None, empty(2)), Step::Admit(directory(2)));
        let mut listener = Known {
            directory: directory(2),
            is_voter: false,
            is_heard: true,
            lag: LAG_MAX + 1,
        };
        assert_eq!(next_step(Some(listener), empty(2)), Step::Nothing);
        listener.lag = 3;
        assert_eq!(next_step(Some(listener), empty(2)), Step::Promote);
        listener.is_heard = false;
        assert_eq!(next_step(Some(listener), empty(2)), Step::Nothing);
        // It lost its disk once more.
        assert_eq!(next_step(Some(listener), empty(3)), Step::Remove);
    }

    #[test]
    fn a_voter_stays_while_it_is_heard_or_nobody_knows_what_became_of_it() {
        assert_eq!(next_step(Some(VOTER()), None), Step::Nothing);
        assert_eq!(next_step(Some(VOTER()), empty(1)), Step::Nothing);
        let heard = Known {
            is_heard: true,
            ..VOTER()
        };
        assert_eq!(next_step(Some(heard), empty(2)), Step::Nothing);
    }

    #[test]
    fn a_directory_that_answers_for_a_moment_replaces_nobody() {
        let uncertain = empty(2).map(|found| Found {
            is_certain: false,
            ..found
        });
        assert_eq!(next_step(Some(VOTER()), uncertain), Step::Nothing);
        // There is nobody to come back.
        assert_eq!(next_step(None, uncertain), Step::Admit(directory(2)));
    }

    #[test]
    fn nobody_is_replaced_by_a_directory_with_a_past() {
        let copy = empty(2).map(|found| Found {
            has_state: true,
            ..found
        });
        assert_eq!(next_step(Some(VOTER()), copy), Step::Nothing);
        // One that was taken in by a leader whose change was lost goes on where it stopped.
        assert_eq!(next_step(None, copy), Step::Admit(directory(2)));
        let foreign = empty(2).map(|found| Found {
            is_foreign: true,
            ..found
        });
        assert_eq!(next_step(Some(VOTER()), foreign), Step::Nothing);
        assert_eq!(next_step(None, foreign), Step::Nothing);
    }

    #[test]
    fn a_voter_is_taken_out_only_by_a_majority_of_before_and_after() {
        assert!(may_remove(3, 1));
        assert!(!may_remove(3, 0));
        assert!(!may_remove(2, 0));
        assert!(may_remove(4, 2));
        assert!(!may_remove(4, 1));
        assert!(may_remove(5, 2));
    }
}
