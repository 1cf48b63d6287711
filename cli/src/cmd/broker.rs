//! `ottla broker`: who the brokers are and what each holds.

use clap::{Args, Subcommand};
use ottla_client::BrokerTarget;
use ottla_client::v1::{BrokerView, ClusterView, DescribeBrokerResponse};
use ottla_model::NodeId;
use ottla_proto::convert::endpoint_text;
use serde::Serialize;

use crate::args::RequestArgs;
use crate::exit::{CommandError, CommandResult, Exit};
use crate::output::{self, Table};
use crate::session;

/// Commands under `ottla broker`.
#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// List the brokers
    List(RequestArgs),
    /// Show what one broker knows of itself and its replicas
    Describe(DescribeArgs),
}

#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// The broker's node id
    id: i32,
    #[command(flatten)]
    request: RequestArgs,
}

/// Runs a command under `ottla broker`.
pub async fn run(command: BrokerCommand) -> CommandResult {
    match command {
        BrokerCommand::List(request) => list(request).await,
        BrokerCommand::Describe(args) => describe(args).await,
    }
}

/// A broker as `broker list` and `cluster describe` show it.
#[derive(Debug, Serialize)]
pub struct ListedBroker {
    pub id: i32,
    pub rack: String,
    pub state: &'static str,
    pub epoch: i64,
    pub leaders: usize,
    pub replicas: usize,
    pub client: String,
    pub internal: String,
    pub version: String,
}

impl ListedBroker {
    fn new(broker: &BrokerView, cluster: &ClusterView) -> ListedBroker {
        let id = broker.node_id;
        let partitions = || cluster.topics.iter().flat_map(|topic| &topic.partitions);
        let endpoint = |endpoint: &Option<_>| endpoint.as_ref().map(endpoint_text);
        ListedBroker {
            id,
            rack: broker.rack.clone(),
            state: state(broker),
            epoch: broker.broker_epoch,
            leaders: partitions().filter(|p| p.leader_id == Some(id)).count(),
            replicas: partitions().filter(|p| p.replicas.contains(&id)).count(),
            client: endpoint(&broker.client_endpoint).unwrap_or_default(),
            internal: endpoint(&broker.internal_endpoint).unwrap_or_default(),
            version: broker.version.clone(),
        }
    }
}

/// A broker's state in a word.
fn state(broker: &BrokerView) -> &'static str {
    match (broker.fenced, broker.in_controlled_shutdown) {
        (true, _) => "fenced",
        (false, true) => "stopping",
        (false, false) => "active",
    }
}

/// The brokers of a cluster, by id.
pub fn listed(cluster: &ClusterView) -> Vec<ListedBroker> {
    let brokers = cluster.brokers.iter();
    let mut listed: Vec<_> = brokers
        .map(|broker| ListedBroker::new(broker, cluster))
        .collect();
    listed.sort_by_key(|broker| broker.id);
    listed
}

/// The brokers as a table.
pub fn table(brokers: &[ListedBroker]) -> String {
    let dash = |text: &String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text.clone()
        }
    };
    let mut table = Table::new([
        "ID", "RACK", "STATE", "EPOCH", "LEADERS", "REPLICAS", "CLIENT", "INTERNAL", "VERSION",
    ]);
    for broker in brokers {
        table.row([
            broker.id.to_string(),
            dash(&broker.rack),
            broker.state.to_owned(),
            broker.epoch.to_string(),
            broker.leaders.to_string(),
            broker.replicas.to_string(),
            dash(&broker.client),
            dash(&broker.internal),
            dash(&broker.version),
        ]);
    }
    table.render()
}

async fn list(request: RequestArgs) -> CommandResult {
    let client = session::open(&request).await?;
    let brokers = listed(&client.admin().describe_cluster().await?);
    Ok(output::print(request.output.output, &brokers, |brokers| {
        table(brokers)
    })?)
}

#[derive(Debug, Serialize)]
struct Described {
    id: i32,
    roles: Vec<String>,
    state: &'static str,
    epoch: i64,
    rack: String,
    pid: u64,
    data_dir: String,
    client: Option<String>,
    internal: Option<String>,
    version: String,
    replicas: Vec<DescribedReplica>,
}

#[derive(Debug, Serialize)]
struct DescribedReplica {
    topic: String,
    partition: i32,
    leader: bool,
    leader_epoch: i32,
    log_start_offset: i64,
    high_watermark: i64,
    log_end_offset: i64,
    size_bytes: u64,
}

impl From<DescribeBrokerResponse> for Described {
    fn from(reply: DescribeBrokerResponse) -> Described {
        let broker = reply.broker.unwrap_or_default();
        let replica = |replica: ottla_client::v1::ReplicaView| {
            let partition = replica.partition.unwrap_or_default();
            DescribedReplica {
                topic: partition.topic,
                partition: partition.partition,
                leader: replica.leader,
                leader_epoch: replica.leader_epoch,
                log_start_offset: replica.log_start_offset,
                high_watermark: replica.high_watermark,
                log_end_offset: replica.log_end_offset,
                size_bytes: replica.size_bytes,
            }
        };
        Described {
            id: broker.node_id,
            roles: reply.roles,
            state: state(&broker),
            epoch: broker.broker_epoch,
            pid: reply.pid,
            data_dir: reply.data_dir,
            client: broker.client_endpoint.as_ref().map(endpoint_text),
            internal: broker.internal_endpoint.as_ref().map(endpoint_text),
            rack: broker.rack,
            version: broker.version,
            replicas: reply.replicas.into_iter().map(replica).collect(),
        }
    }
}

async fn describe(args: DescribeArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let id = NodeId(args.id);
    if !client.cluster().brokers.contains_key(&id) {
        let known: Vec<NodeId> = client.cluster().brokers.keys().copied().collect();
        return Err(CommandError::new(
            Exit::NotFound,
            anyhow::anyhow!(
                "there is no broker {id}; known are {}",
                output::joined(&known)
            ),
        ));
    }
    let reply = client
        .admin()
        .describe_broker(BrokerTarget::Node(id))
        .await?;
    let described = Described::from(reply);
    Ok(output::print(
        args.request.output.output,
        &described,
        describe_text,
    )?)
}

fn describe_text(broker: &Described) -> String {
    let mut text = String::new();
    let dash = |endpoint: &Option<String>| output::or_dash(endpoint.as_ref());
    for (name, value) in [
        ("broker", broker.id.to_string()),
        ("roles", broker.roles.join(",")),
        ("state", broker.state.to_owned()),
        ("epoch", broker.epoch.to_string()),
        ("client", dash(&broker.client)),
        ("internal", dash(&broker.internal)),
        ("data dir", broker.data_dir.clone()),
        ("pid", broker.pid.to_string()),
        ("version", broker.version.clone()),
    ] {
        text.push_str(&format!("{name:<10}{value}\n"));
    }
    let mut table = Table::new(["PARTITION", "ROLE", "EPOCH", "START", "HW", "END", "BYTES"]);
    for replica in &broker.replicas {
        table.row([
            format!("{}-{}", replica.topic, replica.partition),
            if replica.leader { "leader" } else { "follower" }.to_owned(),
            replica.leader_epoch.to_string(),
            replica.log_start_offset.to_string(),
            replica.high_watermark.to_string(),
            replica.log_end_offset.to_string(),
            replica.size_bytes.to_string(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}
