//! `ottla cluster`: the cluster as a whole, and whether it is well.

use std::time::Duration;

use clap::{Args, Subcommand};
use ottla_client::Client;
use ottla_client::v1::{ClusterView, ControllerView, DescribeQuorumResponse};
use ottla_proto::convert::endpoint_text;
use serde::Serialize;
use tokio::time::Instant;

use crate::args::{RequestArgs, at_least_one};
use crate::cmd::broker::{self, ListedBroker};
use crate::exit::{CommandError, CommandResult, Exit};
use crate::health::{Unanswered, Verdict};
use crate::observe::{self, Expected};
use crate::output::{self, OutputFormat, Table, counted};
use crate::session;

/// How often a watched cluster is looked at when it reports no change itself.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Commands under `ottla cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Say whether the cluster is well, and if not, what is wrong; exits with 3 if it is not
    Health(HealthArgs),
    /// Show the cluster's nodes and topics
    Describe(RequestArgs),
}

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Keep looking, and print whenever something changed
    #[arg(short, long)]
    watch: bool,
    /// With --watch: end as soon as the cluster is healthy; --timeout bounds the wait
    #[arg(short, long, requires = "watch")]
    exit_when_healthy: bool,
    /// Unhealthy with fewer brokers than this; otherwise those count that ever registered
    #[arg(long, value_name = "N", value_parser = at_least_one::<usize>)]
    brokers: Option<usize>,
    #[command(flatten)]
    request: RequestArgs,
}

impl HealthArgs {
    fn expected(&self) -> Expected {
        Expected {
            brokers: self.brokers.unwrap_or_default(),
            ..Expected::default()
        }
    }
}

/// Runs a command under `ottla cluster`.
pub async fn run(command: ClusterCommand) -> CommandResult {
    match command {
        ClusterCommand::Health(args) if args.watch => output::while_read(watch(args)).await,
        ClusterCommand::Health(args) => health(args).await,
        ClusterCommand::Describe(request) => describe(request).await,
    }
}

async fn health(args: HealthArgs) -> CommandResult {
    let format = args.request.output.output;
    let verdict = match look_once(&args).await {
        Ok(verdict) => verdict,
        Err(error) if error.exit == Exit::Usage => return Err(error),
        Err(error) => return Err(unanswered(error, format)?),
    };
    output::print(format, &verdict, Verdict::to_string)?;
    if verdict.healthy {
        Ok(())
    } else {
        Err(CommandError::condition_told("the cluster is unhealthy"))
    }
}

async fn look_once(args: &HealthArgs) -> CommandResult<Verdict> {
    let client = session::open(&args.request).await?;
    Ok(observe::look(&client, args.expected()).await?.verdict)
}

/// That nobody answered is a verdict too: for programs a document, for people the error's line.
fn unanswered(error: CommandError, format: OutputFormat) -> CommandResult<CommandError> {
    let told = format == OutputFormat::Json;
    if told {
        output::print(format, &Unanswered::new(&error.to_string()), |_| {
            String::new()
        })?;
    }
    Ok(CommandError {
        exit: Exit::Condition,
        told,
        ..error.context("unhealthy")
    })
}

/// What `-w` last printed.
#[derive(Debug, PartialEq, Eq)]
enum Last {
    Nothing,
    Verdict(Box<Verdict>),
    Unreachable(String),
}

async fn watch(args: HealthArgs) -> CommandResult {
    let deadline = args
        .exit_when_healthy
        .then(|| Instant::now() + args.request.timeout);
    let mut client: Option<Client> = None;
    let mut last = Last::Nothing;
    loop {
        let now = match look(&mut client, &args).await {
            Ok(verdict) => Last::Verdict(Box::new(verdict)),
            Err(error) if error.exit == Exit::Usage => return Err(error),
            Err(error) => Last::Unreachable(error.to_string()),
        };
        if now != last {
            tell(&now, args.request.output.output)?;
            last = now;
        }
        if args.exit_when_healthy && matches!(&last, Last::Verdict(verdict) if verdict.healthy) {
            return Ok(());
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let waited = crate::duration::show(args.request.timeout);
            let reason = anyhow::anyhow!("the cluster did not become healthy within {waited}");
            return Err(CommandError::new(Exit::TimedOut, reason));
        }
        let pause = left.map_or(LOOK_INTERVAL, |left| left.min(LOOK_INTERVAL));
        match &client {
            Some(client) => observe::wait_for_change(client, pause).await,
            None => tokio::time::sleep(pause).await,
        }
    }
}

async fn look(client: &mut Option<Client>, args: &HealthArgs) -> CommandResult<Verdict> {
    if client.is_none() {
        let connect = &args.request.connect;
        *client = Some(session::connect(connect, Duration::from_secs(2)).await?);
    }
    match client {
        Some(client) => Ok(observe::look(client, args.expected()).await?.verdict),
        None => Err(CommandError::usage("no client")),
    }
}

fn tell(now: &Last, format: OutputFormat) -> anyhow::Result<()> {
    match now {
        Last::Verdict(verdict) => {
            output::print_line(format, verdict, |verdict| format!("{verdict}\n"))
        }
        Last::Unreachable(reason) if format == OutputFormat::Json => {
            output::print_line(format, &Unanswered::new(reason), |_| String::new())
        }
        Last::Unreachable(reason) => {
            output::note(format_args!("unreachable: {reason}"));
            Ok(())
        }
        Last::Nothing => Ok(()),
    }
}

#[derive(Debug, Serialize)]
struct Described {
    cluster_id: String,
    active_controller: Option<i32>,
    metadata_offset: i64,
    answered_by: i32,
    controllers: Vec<DescribedController>,
    brokers: Vec<ListedBroker>,
    topics: usize,
    partitions: usize,
}

#[derive(Debug, Serialize)]
struct DescribedController {
    id: i32,
    internal: String,
    active: bool,
    role: &'static str,
}

impl Described {
    fn new(view: &ClusterView, quorum: Option<&DescribeQuorumResponse>) -> Described {
        let silent = quorum.map(|quorum| observe::silent_voters(view, quorum));
        // Only the active controller knows of the others, if it leads the quorum that answered.
        let led = quorum.and_then(|quorum| observe::confirmed_leader(view, quorum));
        let voteless = quorum.map(|quorum| observe::voteless(view, quorum));
        let joins = |id| voteless.as_ref().is_some_and(|ids| ids.contains(&id));
        let role = |id| match &silent {
            _ if joins(id) => "joining",
            _ if view.active_controller_id == Some(id) => "active",
            Some(silent) if silent.contains(&id) => "silent",
            Some(_) if led.is_some() => "standby",
            _ => "unknown",
        };
        let controller = |controller: &ControllerView| DescribedController {
            id: controller.node_id,
            internal: controller
                .internal_endpoint
                .as_ref()
                .map(endpoint_text)
                .unwrap_or_default(),
            active: view.active_controller_id == Some(controller.node_id),
            role: role(controller.node_id),
        };
        Described {
            cluster_id: view.cluster_id.clone(),
            active_controller: view.active_controller_id,
            metadata_offset: view.metadata_offset,
            answered_by: view.answered_by,
            controllers: view.controllers.iter().map(controller).collect(),
            brokers: broker::listed(view),
            topics: view.topics.len(),
            partitions: view.topics.iter().map(|topic| topic.partitions.len()).sum(),
        }
    }
}

async fn describe(request: RequestArgs) -> CommandResult {
    let client = session::open(&request).await?;
    let view = client.admin().describe_cluster().await?;
    let described = Described::new(&view, observe::quorum(&client).await.as_ref());
    Ok(output::print(
        request.output.output,
        &described,
        |cluster| {
            let mut controllers = Table::new(["ID", "ROLE", "INTERNAL"]);
            for controller in &cluster.controllers {
                controllers.row([
                    controller.id.to_string(),
                    controller.role.to_owned(),
                    controller.internal.clone(),
                ]);
            }
            format!(
                "cluster {}\nmetadata offset {}, told by broker {}\n{} with {}\n\n\
             controllers\n{}\nbrokers\n{}",
                cluster.cluster_id,
                cluster.metadata_offset,
                cluster.answered_by,
                counted(cluster.topics, "topic"),
                counted(cluster.partitions, "partition"),
                controllers.render(),
                broker::table(&cluster.brokers),
            )
        },
    )?)
}

#[cfg(test)]
mod tests {
    use ottla_client::v1::QuorumReplica;

    use super::*;

    #[test]
    fn a_controller_that_the_active_one_does_not_hear_is_no_standby() {
        let mut view = ClusterView {
            active_controller_id: Some(1),
            controllers: [1, 2, 3]
                .map(|node_id| ControllerView {
                    node_id,
                    internal_endpoint: None,
                })
                .to_vec(),
            ..ClusterView::default()
        };
        let voter = |node_id, last_contact_ms| QuorumReplica {
            node_id,
            last_contact_ms,
            ..QuorumReplica::default()
        };
        let quorum = DescribeQuorumResponse {
            leader_id: Some(1),
            voters: vec![voter(1, None), voter(2, Some(40)), voter(3, Some(9_000))],
            ..DescribeQuorumResponse::default()
        };
        let roles = |view: &ClusterView, quorum| {
            let described = Described::new(view, quorum);
            let roles = described.controllers.iter().map(|it| it.role);
            roles.collect::<Vec<_>>()
        };
        assert_eq!(roles(&view, Some(&quorum)), ["active", "standby", "silent"]);
        assert_eq!(roles(&view, None), ["active", "unknown", "unknown"]);
        let smaller = DescribeQuorumResponse {
            voters: vec![voter(1, None), voter(3, Some(40))],
            ..quorum.clone()
        };
        let found = roles(&view, Some(&smaller));
        assert_eq!(found, ["active", "joining", "standby"]);
        view.active_controller_id = None;
        assert_eq!(roles(&view, Some(&quorum)), ["unknown"; 3]);
    }
}
