//! `ottla quorum`: the controllers that decide, and how far each has got.

use std::time::Duration;

use clap::Subcommand;
use ottla_client::ClientError;
use ottla_client::v1::{ClusterView, ControllerView, DescribeQuorumResponse, QuorumReplica};
use ottla_model::ErrorCode;
use ottla_proto::convert::endpoint_text;
use serde::Serialize;

use crate::args::RequestArgs;
use crate::exit::{CommandError, CommandResult};
use crate::output::{self, Table, or_dash};
use crate::{observe, session};

/// How long the controllers may take to answer a broker, which asks them in turn, before the rest
/// is told without them.
const PATIENCE: Duration = Duration::from_secs(15);
/// A voter that the leader does not hear. How far behind it is, nobody knows.
const SILENT: &str = "silent";

/// Commands under `ottla quorum`.
#[derive(Debug, Subcommand)]
pub enum QuorumCommand {
    /// Show the active controller and how far the others follow; exits with 3 if none is active
    Status(RequestArgs),
}

#[derive(Debug, Serialize)]
struct Status {
    cluster_id: String,
    /// Absent while no controller is active.
    leader_id: Option<i32>,
    /// Who led when a controller last heard of a leader, if nobody is known to lead now.
    last_known_leader_id: Option<i32>,
    /// Absent where no controller answered.
    leader_epoch: Option<i64>,
    /// Metadata records that are committed. Another unit than the entries of the Raft log below,
    /// one of which holds any number of records: neither can be subtracted from the other.
    metadata_offset: i64,
    /// Of the followers that the leader hears.
    max_follower_lag_raft_entries: Option<i64>,
    voters: Vec<Member>,
    observers: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    node_id: i32,
    status: &'static str,
    directory_id: String,
    endpoint: Option<String>,
    raft_log_end: i64,
    /// Absent where the leader cannot know it, as of a voter that it does not hear.
    lag_raft_entries: Option<i64>,
    last_contact_ms: Option<i64>,
}

impl Status {
    fn new(view: &ClusterView, reply: DescribeQuorumResponse) -> Status {
        let leader = observe::confirmed_leader(view, &reply);
        let silent = observe::silent_voters(view, &reply);
        let member = |replica: QuorumReplica, status| {
            let status = match replica.node_id {
                id if leader == Some(id) => "leader",
                id if silent.contains(&id) => SILENT,
                _ => status,
            };
            Member {
                node_id: replica.node_id,
                status,
                endpoint: replica.endpoint.as_ref().map(endpoint_text),
                directory_id: replica.directory_id,
                raft_log_end: replica.log_end,
                lag_raft_entries: replica.lag.filter(|_| status != SILENT),
                last_contact_ms: replica.last_contact_ms,
            }
        };
        let all = |replicas: Vec<QuorumReplica>, status| {
            replicas
                .into_iter()
                .map(|replica| member(replica, status))
                .collect::<Vec<_>>()
        };
        let is_led = leader.is_some();
        let voters = all(reply.voters, if is_led { "follower" } else { "voter" });
        let followers = voters.iter().filter(|voter| voter.status == "follower");
        Status {
            cluster_id: reply.cluster_id,
            leader_id: leader,
            last_known_leader_id: reply
                .last_known_leader_id
                .or(reply.leader_id)
                .filter(|_| !is_led),
            leader_epoch: Some(reply.leader_epoch),
            metadata_offset: reply.high_watermark,
            max_follower_lag_raft_entries: followers
                .filter_map(|voter| voter.lag_raft_entries)
                .max(),
            observers: all(reply.observers, "observer"),
            voters,
        }
    }

    /// What a broker knows of controllers none of which answers.
    fn unanswered(view: &ClusterView) -> Status {
        let voter = |controller: &ControllerView| Member {
            node_id: controller.node_id,
            status: SILENT,
            directory_id: String::new(),
            endpoint: controller.internal_endpoint.as_ref().map(endpoint_text),
            raft_log_end: -1,
            lag_raft_entries: None,
            last_contact_ms: None,
        };
        Status {
            cluster_id: view.cluster_id.clone(),
            leader_id: None,
            last_known_leader_id: view.active_controller_id,
            leader_epoch: None,
            metadata_offset: view.metadata_offset,
            max_follower_lag_raft_entries: None,
            voters: view.controllers.iter().map(voter).collect(),
            observers: Vec::new(),
        }
    }
}

/// Runs a command under `ottla quorum`.
pub async fn run(command: QuorumCommand) -> CommandResult {
    let QuorumCommand::Status(request) = command;
    let client = session::connect(&request.connect, request.timeout.min(PATIENCE)).await?;
    let admin = client.admin();
    let quorum = match admin.describe_quorum().await {
        Ok(quorum) => Some(quorum),
        Err(error) if no_answer(&error) => None,
        Err(error) => return Err(error.into()),
    };
    let view = admin.describe_cluster().await?;
    let status = match quorum {
        Some(quorum) => Status::new(&view, quorum),
        None => {
            output::note(
                "no controller answered the brokers in time: check that a majority of the \
                 controllers is running",
            );
            Status::unanswered(&view)
        }
    };
    output::print(request.output.output, &status, text)?;
    match status.leader_id {
        Some(_) => Ok(()),
        None => Err(CommandError::condition_told("no controller is active")),
    }
}

/// Whether the error means that the brokers found no controller that answers.
fn no_answer(error: &ClientError) -> bool {
    match error.code() {
        Some(code) => code == ErrorCode::NoControllerQuorum,
        None => error.is_retriable(),
    }
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let leader = match (status.leader_id, status.last_known_leader_id) {
        (Some(id), _) => id.to_string(),
        (None, Some(id)) => format!("none (last known: {id})"),
        (None, None) => "none".to_owned(),
    };
    for (name, value) in [
        ("cluster id", status.cluster_id.clone()),
        ("leader", leader),
        ("leader epoch", or_dash(status.leader_epoch)),
        ("metadata offset", status.metadata_offset.to_string()),
        ("max follower lag", lag_text(status)),
    ] {
        text.push_str(&format!("{name:<18}{value}\n"));
    }
    let mut table = Table::new([
        "NODE",
        "STATUS",
        "ENDPOINT",
        "RAFT-LOG-END",
        "RAFT-LAG",
        "CONTACT-MS",
        "DIRECTORY-ID",
    ]);
    for member in status.voters.iter().chain(&status.observers) {
        table.row([
            member.node_id.to_string(),
            member.status.to_owned(),
            or_dash(member.endpoint.as_ref()),
            or_dash(Some(member.raft_log_end).filter(|end| *end >= 0)),
            or_dash(member.lag_raft_entries),
            or_dash(member.last_contact_ms),
            or_dash(Some(&member.directory_id).filter(|id| !id.is_empty())),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

/// How far the followers are behind, and who is left out of that.
fn lag_text(status: &Status) -> String {
    let lag = match status.max_follower_lag_raft_entries {
        Some(lag) => format!("{lag} Raft entries"),
        None => "-".to_owned(),
    };
    let silent = status.voters.iter().filter(|voter| voter.status == SILENT);
    let silent: Vec<i32> = silent.map(|voter| voter.node_id).collect();
    match silent.is_empty() {
        true => lag,
        false => format!("{lag} (not heard of: {})", output::joined(&silent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led_by(active_controller_id: Option<i32>) -> ClusterView {
        ClusterView {
            active_controller_id,
            ..ClusterView::default()
        }
    }

    #[test]
    fn a_leader_that_nobody_confirms_is_only_the_last_one_known() {
        let voter = |node_id| QuorumReplica {
            node_id,
            log_end: if node_id == 2 { 9 } else { -1 },
            ..QuorumReplica::default()
        };
        let reply = || DescribeQuorumResponse {
            leader_id: Some(1),
            voters: vec![voter(1), voter(2)],
            ..DescribeQuorumResponse::default()
        };
        let lost = Status::new(&led_by(None), reply());
        let shown = text(&lost);
        assert!(shown.contains("none (last known: 1)"), "{shown}");
        assert!(!shown.contains("-1"), "{shown}");
        assert!(lost.voters.iter().all(|voter| voter.status == "voter"));
        assert_eq!((lost.leader_id, lost.last_known_leader_id), (None, Some(1)));
        let led = Status::new(&led_by(Some(1)), reply());
        assert_eq!((led.leader_id, led.last_known_leader_id), (Some(1), None));
        assert_eq!(led.voters[0].status, "leader");
    }

    #[test]
    fn a_controller_that_knows_of_no_majority_leads_nobody() {
        let reply = DescribeQuorumResponse {
            last_known_leader_id: Some(1),
            ..DescribeQuorumResponse::default()
        };
        let status = Status::new(&led_by(Some(1)), reply);
        assert_eq!(
            (status.leader_id, status.last_known_leader_id),
            (None, Some(1))
        );
    }

    #[test]
    fn without_an_answer_what_the_broker_knows_is_shown() {
        let view = ClusterView {
            metadata_offset: 50,
            controllers: vec![ControllerView {
                node_id: 4,
                internal_endpoint: None,
            }],
            ..led_by(Some(4))
        };
        let status = Status::unanswered(&view);
        assert_eq!(
            (status.leader_id, status.last_known_leader_id),
            (None, Some(4))
        );
        let text = text(&status);
        for part in [
            "leader            none (last known: 4)",
            "leader epoch      -",
            "metadata offset   50",
            "4     silent  -",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_voter_that_the_leader_does_not_hear_is_no_follower_without_lag() {
        let voter = |node_id, last_contact_ms| QuorumReplica {
            node_id,
            lag: Some(0),
            last_contact_ms,
            ..QuorumReplica::default()
        };
        let reply = DescribeQuorumResponse {
            leader_id: Some(1),
            voters: vec![voter(1, None), voter(2, Some(40)), voter(3, Some(9_000))],
            ..DescribeQuorumResponse::default()
        };
        let status = Status::new(&led_by(Some(1)), reply);
        let shown = status.voters.iter().map(|voter| voter.status);
        assert_eq!(shown.collect::<Vec<_>>(), ["leader", "follower", "silent"]);
        assert_eq!(status.voters[1].lag_raft_entries, Some(0));
        assert_eq!(status.voters[2].lag_raft_entries, None);
        let text = text(&status);
        assert!(text.contains("0 Raft entries (not heard of: 3)"), "{text}");
    }

    #[test]
    fn records_and_raft_entries_are_told_apart() {
        let voter = |node_id, log_end, lag| QuorumReplica {
            node_id,
            log_end,
            lag,
            last_contact_ms: Some(10),
            ..QuorumReplica::default()
        };
        let reply = DescribeQuorumResponse {
            leader_id: Some(1),
            high_watermark: 500,
            voters: vec![voter(1, 40, Some(0)), voter(2, 37, Some(3))],
            ..DescribeQuorumResponse::default()
        };
        let status = Status::new(&led_by(Some(1)), reply);
        let text = text(&status);
        for part in [
            "metadata offset   500",
            "max follower lag  3 Raft entries",
            "RAFT-LOG-END  RAFT-LAG",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["voters"][1]["raft_log_end"], 37);
        assert_eq!(json["metadata_offset"], 500);
        assert!(json.get("high_watermark").is_none());
    }
}
