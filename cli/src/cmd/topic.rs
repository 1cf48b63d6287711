//! `ottla topic`: create, list, describe, alter and delete topics.

mod create;
mod describe;
mod min_isr;

use clap::{Args, Subcommand};
use futures::future::join_all;
use ottla_client::v1::TopicSummary;
use ottla_client::{Client, ClientError};
use ottla_model::config::{TOPIC_CONFIGS, TopicConfigKey};
use ottla_model::{ErrorCode, TopicId};
use serde::Serialize;

use crate::args::{KeyValue, RequestArgs, at_least_one, topic_setting};
use crate::exit::{CommandError, CommandResult, Several};
use crate::nearest::nearest;
use crate::output::{self, Table};
use crate::session;
use create::CreateArgs;
use describe::NamesArgs;

/// Commands under `ottla topic`.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create(CreateArgs),
    /// List the topics
    List(ListArgs),
    /// Show a topic's partitions and settings
    ///
    /// A column ELR is there while a partition has eligible leader replicas (KIP-966): they are not
    /// in sync, but have all that was acknowledged, and may lead once nobody in sync is left
    Describe(NamesArgs),
    /// Change a topic's settings, or give it more partitions
    Alter(AlterArgs),
    /// Delete topics and all their records
    Delete(DeleteArgs),
    /// Drop the oldest records of a topic's partitions
    Trim(super::trim::TrimArgs),
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
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["configs", "delete_configs", "partitions"])))]
pub struct AlterArgs {
    /// The topic
    name: String,
    /// A setting to set; may be given several times
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = topic_setting)]
    configs: Vec<KeyValue>,
    /// A setting to return to its default; may be given several times
    #[arg(long = "delete-config", value_name = "KEY")]
    delete_configs: Vec<String>,
    /// How many partitions there shall be; the number can only grow
    #[arg(long, value_parser = at_least_one::<i32>)]
    partitions: Option<i32>,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The topics
    #[arg(required = true)]
    names: Vec<String>,
    /// Succeed if a topic is not there
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    request: RequestArgs,
}

/// Runs a command under `ottla topic`.
pub async fn run(command: TopicCommand) -> CommandResult {
    match command {
        TopicCommand::Create(args) => create::create(args).await,
        TopicCommand::List(args) => list(args).await,
        TopicCommand::Describe(args) => describe::describe(args).await,
        TopicCommand::Alter(args) => alter(args).await,
        TopicCommand::Delete(args) => delete(args).await,
        TopicCommand::Trim(args) => super::trim::run(args).await,
    }
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

/// The cluster's refusal, with what helps whoever reads it: which settings there are, or which
/// controllers.
async fn refused(client: &Client, error: ClientError, settings: &[String]) -> CommandError {
    match is(&error, ErrorCode::InvalidConfig) {
        true => with_meant(CommandError::from(error), settings),
        false => session::refused(client, error).await,
    }
}

/// The refusal of settings, with what a name that is none was perhaps meant to be, or else with
/// those that there are.
fn with_meant(error: CommandError, settings: &[String]) -> CommandError {
    let told = error.to_string();
    let mut unknown = settings
        .iter()
        .filter(|name| TopicConfigKey::find(name).is_none() && told.contains(&format!("'{name}'")));
    let Some(unknown) = unknown.next() else {
        return error;
    };
    let known = TOPIC_CONFIGS.iter().map(|key| key.name);
    match nearest(unknown, known.clone()) {
        Some(meant) => error.advised(format!("did you mean {meant}?")),
        None if told.contains("known are") => error,
        None => {
            let known: Vec<&str> = known.collect();
            error.advised(format!("known are: {}", known.join(", ")))
        }
    }
}

/// The names of settings.
fn names(configs: &[(String, String)]) -> impl Iterator<Item = String> {
    configs.iter().map(|(name, _)| name.clone())
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
    let asked_min_isr = min_isr::asked(&args.configs);
    if !args.configs.is_empty() || !args.delete_configs.is_empty() {
        let admin = client.admin();
        let set = pairs(args.configs);
        let settings: Vec<_> = names(&set).chain(args.delete_configs.clone()).collect();
        let altering = admin.alter_topic(&args.name, set, args.delete_configs);
        if let Err(error) = altering.await {
            return Err(refused(&client, error, &settings).await);
        }
    }
    if let Some(total) = args.partitions
        && let Err(error) = client.admin().create_partitions(&args.name, total).await
    {
        let error = session::refused(&client, error).await;
        let settled = !altered.set.is_empty() || !altered.unset.is_empty();
        return Err(match settled {
            true => error.context("the settings were changed, but no partitions were added"),
            false => error,
        });
    }
    if let Some(asked) = asked_min_isr {
        let described = client.admin().describe_topic(&args.name).await?;
        let replicas = described.topic.unwrap_or_default().partitions;
        let replicas = replicas.iter().map(|partition| partition.replicas.len());
        if let Some(warning) = replicas.min().and_then(|few| min_isr::warning(&asked, few)) {
            output::note(warning);
        }
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
    let admin = client.admin();
    let outcomes = join_all(args.names.iter().map(|name| admin.delete_topic(name))).await;
    let mut several = Several::default();
    let mut results = Vec::new();
    for (name, outcome) in args.names.into_iter().zip(outcomes) {
        let deleted = match outcome {
            Err(error) if args.if_exists && is(&error, ErrorCode::UnknownTopicOrPartition) => {
                Ok(false)
            }
            outcome => outcome.map(|()| true),
        };
        if let Some(deleted) = several.take(deleted) {
            results.push(Deleted { name, deleted });
        }
    }
    output::print(args.request.output.output, &results, |results| {
        let line = |topic: &Deleted| match topic.deleted {
            true => format!("topic {} deleted\n", topic.name),
            false => format!("topic {} was not there\n", topic.name),
        };
        results.iter().map(line).collect()
    })?;
    several.outcome()
}
