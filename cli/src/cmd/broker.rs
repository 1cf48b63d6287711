//! `ottla broker`: who the brokers are and what each holds.

use clap::{Args, Subcommand};
use ottla_client::v1::{BrokerView, ClusterView, DescribeBrokerResponse, ReplicaView};
use ottla_client::{BrokerTarget, ClientError};
use ottla_model::NodeId;
use ottla_proto::convert::endpoint_text;
use serde::Serialize;
use tokio::time::timeout;

use crate::args::RequestArgs;
use crate::duration::show;
use crate::exit::{CommandError, CommandResult, Exit};
use crate::observe::BROKER_PATIENCE;
use crate::output::{self, Table, or_dash};
use crate::session;

/// Commands under `ottla broker`.
#[derive(Debug, Subcommand)]
pub enum BrokerCommand {
    /// List the brokers
    List(RequestArgs),
    /// Show what one broker knows of itself and its replicas, or if it does not answer, what the
    /// cluster knows of it
    Describe(DescribeArgs),
    /// Take a stopped broker out of the cluster for good
    Unregister(UnregisterArgs),
}

#[derive(Debug, Args)]
pub struct UnregisterArgs {
    /// The broker's node id
    id: i32,
    /// Even if partitions list it as a replica: they stay one replica short, and what only this
    /// broker held is lost
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    request: RequestArgs,
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
        BrokerCommand::Unregister(args) => unregister(args).await,
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
struct Unregistered {
    id: i32,
    unregistered: bool,
}

async fn unregister(args: UnregisterArgs) -> CommandResult {
    let UnregisterArgs { id, force, request } = args;
    let client = session::open(&request).await?;
    client.admin().unregister_broker(NodeId(id), force).await?;
    let done = Unregistered {
        id,
        unregistered: true,
    };
    Ok(output::print(request.output.output, &done, |done| {
        format!("unregistered broker {}\n", done.id)
    })?)
}

#[derive(Debug, Serialize)]
struct Described {
    id: i32,
    /// Whether the broker itself answered. If not, the rest is what the cluster knows of it.
    answers: bool,
    roles: Vec<String>,
    state: &'static str,
    epoch: i64,
    rack: String,
    pid: Option<u64>,
    data_dir: Option<String>,
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
    /// What the replica holds, which only the broker itself knows.
    log_start_offset: Option<i64>,
    high_watermark: Option<i64>,
    log_end_offset: Option<i64>,
    size_bytes: Option<u64>,
}

impl Described {
    /// What the cluster's metadata says of a broker.
    fn known(broker: BrokerView, view: &ClusterView) -> Described {
        let id = broker.node_id;
        let is_controller = view.controllers.iter().any(|c| c.node_id == id);
        let controller = is_controller.then(|| "controller".to_owned());
        let mut replicas = Vec::new();
        for topic in &view.topics {
            let here = topic.partitions.iter().filter(|p| p.replicas.contains(&id));
            replicas.extend(here.map(|partition| DescribedReplica {
                topic: topic.name.clone(),
                partition: partition.partition,
                leader: partition.leader_id == Some(id),
                leader_epoch: partition.leader_epoch,
                log_start_offset: None,
                high_watermark: None,
                log_end_offset: None,
                size_bytes: None,
            }));
        }
        Described {
            id,
            answers: false,
            roles: controller
                .into_iter()
                .chain(["broker".to_owned()])
                .collect(),
            state: state(&broker),
            epoch: broker.broker_epoch,
            pid: None,
            data_dir: None,
            client: broker.client_endpoint.as_ref().map(endpoint_text),
            internal: broker.internal_endpoint.as_ref().map(endpoint_text),
            rack: broker.rack,
            version: broker.version,
            replicas,
        }
    }

    /// Adds what the broker itself told, which wins.
    fn told(mut self, reply: DescribeBrokerResponse) -> Described {
        let replica = |replica: ReplicaView| {
            let partition = replica.partition.unwrap_or_default();
            DescribedReplica {
                topic: partition.topic,
                partition: partition.partition,
                leader: replica.leader,
                leader_epoch: replica.leader_epoch,
                log_start_offset: Some(replica.log_start_offset),
                high_watermark: Some(replica.high_watermark),
                log_end_offset: Some(replica.log_end_offset),
                size_bytes: Some(replica.size_bytes),
            }
        };
        self.answers = true;
        self.roles = reply.roles;
        self.pid = Some(reply.pid);
        self.data_dir = Some(reply.data_dir);
        self.replicas = reply.replicas.into_iter().map(replica).collect();
        self
    }
}

async fn describe(args: DescribeArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let view = client.admin().describe_cluster().await?;
    let Some(broker) = view.brokers.iter().find(|broker| broker.node_id == args.id) else {
        let known: Vec<i32> = view.brokers.iter().map(|broker| broker.node_id).collect();
        return Err(CommandError::new(
            Exit::NotFound,
            anyhow::anyhow!(
                "there is no broker {}; known are {}",
                args.id,
                output::joined(&known)
            ),
        ));
    };
    let target = match &broker.client_endpoint {
        Some(endpoint) => BrokerTarget::Endpoint(endpoint_text(endpoint)),
        None => BrokerTarget::Node(NodeId(args.id)),
    };
    let known = Described::known(broker.clone(), &view);
    let admin = client.admin();
    let patience = BROKER_PATIENCE.min(args.request.timeout);
    let described = match timeout(patience, admin.describe_broker(target)).await {
        Ok(Ok(reply)) => known.told(reply),
        Ok(Err(ClientError::Unavailable { tried, .. })) => {
            let reasons: Vec<String> = tried.iter().map(ToString::to_string).collect();
            without_answer(known, &reasons.join("; "))
        }
        Ok(Err(error)) => without_answer(known, &error.to_string()),
        Err(_) => without_answer(known, &format!("no answer within {}", show(patience))),
    };
    Ok(output::print(
        args.request.output.output,
        &described,
        describe_text,
    )?)
}

fn without_answer(known: Described, reason: &str) -> Described {
    output::note(format_args!(
        "broker {} itself does not answer ({reason}); this is what the cluster knows of it",
        known.id
    ));
    known
}

fn describe_text(broker: &Described) -> String {
    let mut text = String::new();
    let dash = |value: &Option<String>| or_dash(value.as_ref());
    let answers = if broker.answers { "yes" } else { "no" };
    for (name, value) in [
        ("broker", broker.id.to_string()),
        ("answers", answers.to_owned()),
        ("roles", broker.roles.join(",")),
        ("state", broker.state.to_owned()),
        ("epoch", broker.epoch.to_string()),
        ("client", dash(&broker.client)),
        ("internal", dash(&broker.internal)),
        ("data dir", dash(&broker.data_dir)),
        ("pid", or_dash(broker.pid)),
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
            or_dash(replica.log_start_offset),
            or_dash(replica.high_watermark),
            or_dash(replica.log_end_offset),
            or_dash(replica.size_bytes),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}

#[cfg(test)]
mod tests {
    use ottla_client::v1::{ControllerView, PartitionView, TopicView};

    use super::*;

    #[test]
    fn a_broker_that_does_not_answer_is_described_by_what_the_cluster_knows() {
        let broker = BrokerView {
            node_id: 2,
            fenced: true,
            broker_epoch: 17,
            ..BrokerView::default()
        };
        let partition = |partition, replicas: &[i32]| PartitionView {
            partition,
            replicas: replicas.to_vec(),
            leader_id: Some(1),
            leader_epoch: 4,
            ..PartitionView::default()
        };
        let view = ClusterView {
            brokers: vec![broker.clone()],
            controllers: vec![ControllerView {
                node_id: 2,
                internal_endpoint: None,
            }],
            topics: vec![TopicView {
                name: "t".to_owned(),
                partitions: vec![partition(0, &[1, 2]), partition(1, &[1, 3])],
                ..TopicView::default()
            }],
            ..ClusterView::default()
        };
        let known = Described::known(broker, &view);
        assert_eq!((known.state, known.epoch), ("fenced", 17));
        assert_eq!(known.roles, ["controller", "broker"]);
        let text = describe_text(&known);
        assert!(text.contains("answers   no"), "{text}");
        assert!(text.contains("t-0        follower  4      -"), "{text}");
        assert!(!text.contains("t-1"), "{text}");
        let told = known.told(DescribeBrokerResponse {
            pid: 42,
            ..DescribeBrokerResponse::default()
        });
        assert!(told.answers && told.pid == Some(42), "{told:?}");
    }
}
