//! `ottla topic`: create, list, describe, alter and delete topics.

use clap::{Args, Subcommand};
use ottla_client::v1::{DescribeTopicResponse, PartitionView, TopicSummary};
use ottla_client::{ClientError, NewTopic};
use ottla_model::{ErrorCode, NodeId, TopicId};
use serde::Serialize;

use crate::args::{KeyValue, RequestArgs, key_value};
use crate::exit::{CommandError, CommandResult};
use crate::output::{self, Table, joined, or_dash};
use crate::session;

/// Commands under `ottla topic`.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create(CreateArgs),
    /// List the topics
    List(ListArgs),
    /// Show a topic's partitions and settings
    Describe(NamesArgs),
    /// Change a topic's settings, or give it more partitions
    Alter(AlterArgs),
    /// Delete topics and all their records
    Delete(DeleteArgs),
    /// Drop the oldest records of a topic's partitions
    Trim(super::trim::TrimArgs),
}

#[derive(Debug, Args)]
pub struct CreateArgs {
    name: String,
    /// How many partitions; 1 if not given
    #[arg(long)]
    partitions: Option<i32>,
    /// How many replicas of each partition; min(3, brokers) if not given
    #[arg(long)]
    replication_factor: Option<i16>,
    /// A setting, such as retention.ms=3600000; may be given several times
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<KeyValue>,
    /// The brokers of each partition instead of counts: 1:2,2:3 puts partition 0 on 1 and 2, with
    /// 1 as preferred leader, and partition 1 on 2 and 3
    #[arg(
        long,
        value_name = "BROKERS",
        value_parser = replica_assignment,
        conflicts_with_all = ["partitions", "replication_factor"]
    )]
    replica_assignment: Option<ReplicaAssignment>,
    /// Succeed if the topic is there already
    #[arg(long)]
    if_not_exists: bool,
    /// Only check whether it would succeed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Also list the topics that the cluster keeps for itself
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Args)]
pub struct NamesArgs {
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["configs", "delete_configs", "partitions"])))]
pub struct AlterArgs {
    name: String,
    /// A setting to set; may be given several times
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<KeyValue>,
    /// A setting to return to its default; may be given several times
    #[arg(long = "delete-config", value_name = "KEY")]
    delete_configs: Vec<String>,
    /// How many partitions there shall be; the number can only grow
    #[arg(long)]
    partitions: Option<i32>,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[arg(required = true)]
    names: Vec<String>,
    /// Succeed if a topic is not there
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    request: RequestArgs,
}

/// The replicas of each partition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ReplicaAssignment(Vec<Vec<NodeId>>);

fn replica_assignment(text: &str) -> Result<ReplicaAssignment, String> {
    let partition = |text: &str| {
        let ids = text.split(':').map(|id| id.trim().parse::<NodeId>().ok());
        ids.collect::<Option<Vec<NodeId>>>()
    };
    let partitions = text.split(',').map(partition).collect::<Option<_>>();
    partitions
        .map(ReplicaAssignment)
        .ok_or_else(|| format!("'{text}' is no replica assignment; write for example 1:2,2:3"))
}

/// Runs a command under `ottla topic`.
pub async fn run(command: TopicCommand) -> CommandResult {
    match command {
        TopicCommand::Create(args) => create(args).await,
        TopicCommand::List(args) => list(args).await,
        TopicCommand::Describe(args) => describe(args).await,
        TopicCommand::Alter(args) => alter(args).await,
        TopicCommand::Delete(args) => delete(args).await,
        TopicCommand::Trim(args) => super::trim::run(args).await,
    }
}

#[derive(Debug, Serialize)]
struct Created {
    name: String,
    /// Absent if the topic was there already, or for a dry run.
    topic_id: Option<String>,
    partitions: Option<i32>,
    replication_factor: Option<i32>,
    created: bool,
}

async fn create(args: CreateArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let topic = NewTopic {
        name: args.name.clone(),
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        assignments: args.replica_assignment.map(|a| a.0).unwrap_or_default(),
        configs: pairs(args.configs),
        validate_only: args.dry_run,
    };
    let (created, said) = match client.admin().create_topic(topic).await {
        Ok(reply) => {
            let verb = if args.dry_run {
                "would be created"
            } else {
                "created"
            };
            let said = format!(
                "topic {} {verb} with {} partitions, replication factor {}",
                args.name, reply.partitions, reply.replication_factor
            );
            let created = Created {
                name: reply.name,
                topic_id: id_text(&reply.topic_id),
                partitions: Some(reply.partitions),
                replication_factor: Some(reply.replication_factor),
                created: !args.dry_run,
            };
            (created, said)
        }
        Err(error) if args.if_not_exists && is(&error, ErrorCode::TopicAlreadyExists) => {
            let created = Created {
                name: args.name.clone(),
                topic_id: None,
                partitions: None,
                replication_factor: None,
                created: false,
            };
            (created, format!("topic {} exists already", args.name))
        }
        Err(error) => return Err(error.into()),
    };
    Ok(output::print(args.request.output.output, &created, |_| {
        said + "\n"
    })?)
}

fn id_text(bytes: &[u8]) -> Option<String> {
    let id = TopicId::from_slice(bytes)?;
    (id != TopicId::ZERO).then(|| id.to_string())
}

fn pairs(configs: Vec<KeyValue>) -> Vec<(String, String)> {
    configs
        .into_iter()
        .map(|pair| (pair.key, pair.value))
        .collect()
}

fn is(error: &ClientError, code: ErrorCode) -> bool {
    error.code() == Some(code)
}

#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    topic_id: Option<String>,
    partitions: i32,
    replication_factor: i32,
    under_replicated: i32,
    leaderless: i32,
}

impl From<TopicSummary> for Listed {
    fn from(topic: TopicSummary) -> Listed {
        Listed {
            topic_id: id_text(&topic.topic_id),
            name: topic.name,
            partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            under_replicated: topic.under_replicated,
            leaderless: topic.leaderless,
        }
    }
}

async fn list(args: ListArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let topics = client.admin().list_topics(args.internal).await?;
    let topics: Vec<Listed> = topics.into_iter().map(Listed::from).collect();
    Ok(output::print(
        args.request.output.output,
        &topics,
        |topics| {
            let mut table = Table::new([
                "NAME",
                "PARTITIONS",
                "REPLICAS",
                "UNDER-REPLICATED",
                "LEADERLESS",
            ]);
            for topic in topics {
                table.row([
                    topic.name.clone(),
                    topic.partitions.to_string(),
                    topic.replication_factor.to_string(),
                    topic.under_replicated.to_string(),
                    topic.leaderless.to_string(),
                ]);
            }
            table.render()
        },
    )?)
}

#[derive(Debug, Serialize)]
struct Described {
    name: String,
    topic_id: Option<String>,
    internal: bool,
    partitions: Vec<DescribedPartition>,
    configs: Vec<DescribedSetting>,
}

#[derive(Debug, Serialize)]
struct DescribedPartition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    partition_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    elr: Vec<i32>,
    min_insync_replicas: i32,
}

#[derive(Debug, Serialize)]
struct DescribedSetting {
    name: String,
    value: String,
    is_set: bool,
    documentation: String,
}

impl From<PartitionView> for DescribedPartition {
    fn from(view: PartitionView) -> DescribedPartition {
        DescribedPartition {
            partition: view.partition,
            leader: view.leader_id,
            leader_epoch: view.leader_epoch,
            partition_epoch: view.partition_epoch,
            replicas: view.replicas,
            isr: view.isr,
            elr: view.elr,
            min_insync_replicas: view.min_insync_replicas,
        }
    }
}

impl From<DescribeTopicResponse> for Described {
    fn from(reply: DescribeTopicResponse) -> Described {
        let topic = reply.topic.unwrap_or_default();
        let setting = |config: ottla_client::v1::DescribedConfig| DescribedSetting {
            name: config.name,
            value: config.value,
            is_set: config.is_set,
            documentation: config.documentation,
        };
        Described {
            topic_id: id_text(&topic.topic_id),
            name: topic.name,
            internal: topic.internal,
            partitions: topic
                .partitions
                .into_iter()
                .map(DescribedPartition::from)
                .collect(),
            configs: reply.configs.into_iter().map(setting).collect(),
        }
    }
}

async fn describe(args: NamesArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let mut topics = Vec::new();
    for name in &args.names {
        topics.push(Described::from(client.admin().describe_topic(name).await?));
    }
    Ok(output::print(
        args.request.output.output,
        &topics,
        |topics| {
            let texts: Vec<String> = topics.iter().map(describe_text).collect();
            texts.join("\n")
        },
    )?)
}

/// The topic as sections; the ELR only where a partition has one.
fn describe_text(topic: &Described) -> String {
    let id = or_dash(topic.topic_id.as_ref());
    let mut text = format!("topic {} (id {id})\n\n", topic.name);
    let with_elr = topic
        .partitions
        .iter()
        .any(|partition| !partition.elr.is_empty());
    let mut columns = Table::new(["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "MIN-ISR"]);
    let mut columns_elr = Table::new([
        "PARTITION",
        "LEADER",
        "EPOCH",
        "REPLICAS",
        "ISR",
        "MIN-ISR",
        "ELR",
    ]);
    for partition in &topic.partitions {
        let cells = [
            partition.partition.to_string(),
            partition
                .leader
                .map_or_else(|| "none".to_owned(), |leader| leader.to_string()),
            partition.leader_epoch.to_string(),
            joined(&partition.replicas),
            joined(&partition.isr),
            partition.min_insync_replicas.to_string(),
        ];
        if with_elr {
            let [index, leader, epoch, replicas, isr, min_isr] = cells;
            let elr = joined(&partition.elr);
            columns_elr.row([index, leader, epoch, replicas, isr, min_isr, elr]);
        } else {
            columns.row(cells);
        }
    }
    text.push_str(&if with_elr { columns_elr } else { columns }.render());
    let mut settings = Table::new(["SETTING", "VALUE", "SOURCE"]);
    for setting in &topic.configs {
        let source = if setting.is_set { "topic" } else { "default" };
        settings.row([
            setting.name.clone(),
            setting.value.clone(),
            source.to_owned(),
        ]);
    }
    text.push('\n');
    text.push_str(&settings.render());
    text
}

#[derive(Debug, Serialize)]
struct Altered {
    name: String,
    set: Vec<String>,
    unset: Vec<String>,
    partitions: Option<i32>,
}

async fn alter(args: AlterArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let altered = Altered {
        name: args.name.clone(),
        set: args.configs.iter().map(|pair| pair.key.clone()).collect(),
        unset: args.delete_configs.clone(),
        partitions: args.partitions,
    };
    if !args.configs.is_empty() || !args.delete_configs.is_empty() {
        let admin = client.admin();
        admin
            .alter_topic(&args.name, pairs(args.configs), args.delete_configs)
            .await?;
    }
    if let Some(total) = args.partitions {
        client
            .admin()
            .create_partitions(&args.name, total)
            .await
            .map_err(|error| {
                let error = CommandError::from(error);
                let settled = !altered.set.is_empty() || !altered.unset.is_empty();
                if settled {
                    error.context("the settings were changed, but no partitions were added")
                } else {
                    error
                }
            })?;
    }
    Ok(output::print(
        args.request.output.output,
        &altered,
        |altered| format!("topic {} altered\n", altered.name),
    )?)
}

#[derive(Debug, Serialize)]
struct Deleted {
    name: String,
    deleted: bool,
}

async fn delete(args: DeleteArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let mut results = Vec::new();
    let mut failure = None;
    for name in args.names {
        match client.admin().delete_topic(&name).await {
            Ok(()) => results.push(Deleted {
                name,
                deleted: true,
            }),
            Err(error) if args.if_exists && is(&error, ErrorCode::UnknownTopicOrPartition) => {
                results.push(Deleted {
                    name,
                    deleted: false,
                });
            }
            Err(error) => {
                failure = Some(CommandError::from(error));
                break;
            }
        }
    }
    output::print(args.request.output.output, &results, |results| {
        let line = |topic: &Deleted| match topic.deleted {
            true => format!("topic {} deleted\n", topic.name),
            false => format!("topic {} was not there\n", topic.name),
        };
        results.iter().map(line).collect()
    })?;
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_lists_brokers_per_partition() {
        let parsed = replica_assignment("1:2,2:3").unwrap();
        assert_eq!(parsed.0, [[NodeId(1), NodeId(2)], [NodeId(2), NodeId(3)]]);
        assert!(replica_assignment("1:x").is_err());
        assert!(replica_assignment("").is_err());
    }
}
