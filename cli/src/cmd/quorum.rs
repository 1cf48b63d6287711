//! `ottla quorum`: the controllers that decide, and how far each has got.

use clap::Subcommand;
use ottla_client::v1::{DescribeQuorumResponse, QuorumReplica};
use ottla_proto::convert::endpoint_text;
use serde::Serialize;

use crate::args::RequestArgs;
use crate::exit::CommandResult;
use crate::output::{self, Table, or_dash};
use crate::session;

/// Commands under `ottla quorum`.
#[derive(Debug, Subcommand)]
pub enum QuorumCommand {
    /// Show the active controller and how far the others follow
    Status(RequestArgs),
}

#[derive(Debug, Serialize)]
struct Status {
    cluster_id: String,
    leader_id: Option<i32>,
    leader_epoch: i64,
    high_watermark: i64,
    max_follower_lag: Option<i64>,
    voters: Vec<Member>,
    observers: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    node_id: i32,
    status: &'static str,
    directory_id: String,
    endpoint: Option<String>,
    log_end: i64,
    lag: Option<i64>,
    last_contact_ms: Option<i64>,
}

impl From<DescribeQuorumResponse> for Status {
    fn from(reply: DescribeQuorumResponse) -> Status {
        let leader = reply.leader_id;
        let member = |replica: QuorumReplica, status| Member {
            node_id: replica.node_id,
            status: if leader == Some(replica.node_id) {
                "leader"
            } else {
                status
            },
            endpoint: replica.endpoint.as_ref().map(endpoint_text),
            directory_id: replica.directory_id,
            log_end: replica.log_end,
            lag: replica.lag,
            last_contact_ms: replica.last_contact_ms,
        };
        let all = |replicas: Vec<QuorumReplica>, status| {
            replicas
                .into_iter()
                .map(|replica| member(replica, status))
                .collect::<Vec<_>>()
        };
        let voters = all(reply.voters, "follower");
        let followers = voters.iter().filter(|voter| voter.status == "follower");
        Status {
            cluster_id: reply.cluster_id,
            leader_id: leader,
            leader_epoch: reply.leader_epoch,
            high_watermark: reply.high_watermark,
            max_follower_lag: followers.filter_map(|voter| voter.lag).max(),
            observers: all(reply.observers, "observer"),
            voters,
        }
    }
}

/// Runs a command under `ottla quorum`.
pub async fn run(command: QuorumCommand) -> CommandResult {
    let QuorumCommand::Status(request) = command;
    let client = session::open(&request).await?;
    let status = Status::from(client.admin().describe_quorum().await?);
    Ok(output::print(request.output.output, &status, text)?)
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let leader = status
        .leader_id
        .map_or_else(|| "none".to_owned(), |id| id.to_string());
    for (name, value) in [
        ("cluster id", status.cluster_id.clone()),
        ("leader", leader),
        ("leader epoch", status.leader_epoch.to_string()),
        ("high watermark", status.high_watermark.to_string()),
        ("max follower lag", or_dash(status.max_follower_lag)),
    ] {
        text.push_str(&format!("{name:<18}{value}\n"));
    }
    let mut table = Table::new([
        "NODE",
        "STATUS",
        "ENDPOINT",
        "LOG-END",
        "LAG",
        "CONTACT-MS",
        "DIRECTORY-ID",
    ]);
    for member in status.voters.iter().chain(&status.observers) {
        table.row([
            member.node_id.to_string(),
            member.status.to_owned(),
            or_dash(member.endpoint.as_ref()),
            member.log_end.to_string(),
            or_dash(member.lag),
            or_dash(member.last_contact_ms),
            member.directory_id.clone(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}
