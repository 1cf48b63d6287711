//! `ottla topic create`.

use clap::Args;
use ottla_client::NewTopic;
use ottla_client::v1::DescribeTopicResponse;
use ottla_model::{ErrorCode, NodeId};
use serde::Serialize;

use super::{id_text, is, min_isr, names, pairs, refused};
use crate::args::{KeyValue, RequestArgs, at_least_one, topic_setting};
use crate::exit::CommandResult;
use crate::output::{self, counted};
use crate::session;

#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The topic's name: letters, digits, '.', '_' and '-'
    name: String,
    /// How many partitions; 1 if not given
    #[arg(long, value_parser = at_least_one::<i32>)]
    partitions: Option<i32>,
    /// How many replicas of each partition; min(3, brokers) if not given
    #[arg(long, value_parser = at_least_one::<i16>)]
    replication_factor: Option<i16>,
    /// A setting, such as retention.ms=3600000 or retention.ms=1h; may be given several times
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = topic_setting)]
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
    /// Succeed if the topic is there already; how it differs from what was asked for is told on
    /// standard error
    #[arg(long)]
    if_not_exists: bool,
    /// Only check whether it would succeed
    #[arg(long)]
    dry_run: bool,
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

#[derive(Debug, Serialize)]
struct Created {
    name: String,
    /// Absent for a dry run.
    topic_id: Option<String>,
    partitions: i32,
    replication_factor: i32,
    created: bool,
    /// How a topic that was there already differs from what was asked for, in words.
    differences: Vec<String>,
}

/// Creates a topic, or tells how the one that is there differs.
pub async fn create(args: CreateArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let topic = args.topic();
    let asked_min_isr = min_isr::asked(&args.configs);
    let (created, said) = match client.admin().create_topic(topic.clone()).await {
        Ok(reply) => {
            let verb = if args.dry_run {
                "would be created"
            } else {
                "created"
            };
            let replicas = usize::try_from(reply.replication_factor).unwrap_or(0);
            if let Some(warning) = asked_min_isr.and_then(|it| min_isr::warning(&it, replicas)) {
                output::note(warning);
            }
            let said = format!(
                "topic {} {verb} with {}, replication factor {}",
                args.name,
                counted(reply.partitions, "partition"),
                reply.replication_factor
            );
            let created = Created {
                name: reply.name,
                topic_id: id_text(&reply.topic_id),
                partitions: reply.partitions,
                replication_factor: reply.replication_factor,
                created: !args.dry_run,
                differences: Vec::new(),
            };
            (created, said)
        }
        Err(error) if args.if_not_exists && is(&error, ErrorCode::TopicAlreadyExists) => {
            let present = client.admin().describe_topic(&args.name).await?;
            let created = present_already(&topic, &present);
            for difference in &created.differences {
                output::note(format_args!("topic {} differs: {difference}", args.name));
            }
            (created, format!("topic {} exists already", args.name))
        }
        Err(error) => {
            let settings: Vec<_> = names(&topic.configs).collect();
            return Err(refused(&client, error, &settings).await);
        }
    };
    Ok(output::print(args.request.output.output, &created, |_| {
        said + "\n"
    })?)
}

impl CreateArgs {
    fn topic(&self) -> NewTopic {
        NewTopic {
            name: self.name.clone(),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            assignments: self
                .replica_assignment
                .as_ref()
                .map(|assignment| assignment.0.clone())
                .unwrap_or_default(),
            configs: pairs(self.configs.clone()),
            validate_only: self.dry_run,
        }
    }
}

/// The topic that is there instead of the one that was asked for.
fn present_already(asked: &NewTopic, present: &DescribeTopicResponse) -> Created {
    let topic = present.topic.clone().unwrap_or_default();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let replicas = topic.partitions.iter().map(|p| count(p.replicas.len()));
    Created {
        topic_id: id_text(&topic.topic_id),
        partitions: count(topic.partitions.len()),
        replication_factor: replicas.max().unwrap_or(0),
        created: false,
        differences: differences(asked, present),
        name: topic.name,
    }
}

/// In what a topic is not as it was asked for. What was not asked for may be anything.
fn differences(asked: &NewTopic, present: &DescribeTopicResponse) -> Vec<String> {
    let mut found = Vec::new();
    let partitions = match &present.topic {
        Some(topic) => topic.partitions.as_slice(),
        None => &[],
    };
    let counts = asked
        .partitions
        .map(|count| usize::try_from(count).unwrap_or(0));
    let assigned = Some(asked.assignments.len()).filter(|count| *count > 0);
    if let Some(wanted) = counts
        .or(assigned)
        .filter(|wanted| *wanted != partitions.len())
    {
        let has = partitions.len();
        found.push(format!(
            "it has {}, not {wanted}",
            counted(has, "partition")
        ));
    }
    for (index, partition) in partitions.iter().enumerate() {
        let assigned = asked.assignments.get(index).map(Vec::len);
        let factor = asked
            .replication_factor
            .map(|n| usize::try_from(n).unwrap_or(0));
        let has = partition.replicas.len();
        if let Some(wanted) = factor.or(assigned).filter(|wanted| *wanted != has) {
            found.push(format!("its replication factor is {has}, not {wanted}"));
            break;
        }
    }
    for (name, wanted) in &asked.configs {
        let config = present.configs.iter().find(|config| config.name == *name);
        let has = config.map_or("", |config| config.value.as_str());
        if has != wanted {
            let has = if has.is_empty() { "the default" } else { has };
            found.push(format!("its {name} is {has}, not {wanted}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use ottla_client::v1::{DescribedConfig, PartitionView, TopicView};

    use super::*;

    #[test]
    fn an_assignment_lists_brokers_per_partition() {
        let parsed = replica_assignment("1:2,2:3").unwrap();
        assert_eq!(parsed.0, [[NodeId(1), NodeId(2)], [NodeId(2), NodeId(3)]]);
        assert!(replica_assignment("1:x").is_err());
        assert!(replica_assignment("").is_err());
    }

    /// A topic with two partitions of three replicas.
    fn present() -> DescribeTopicResponse {
        let partition = PartitionView {
            replicas: vec![1, 2, 3],
            ..PartitionView::default()
        };
        DescribeTopicResponse {
            topic: Some(TopicView {
                name: "t".to_owned(),
                partitions: vec![partition.clone(), partition],
                ..TopicView::default()
            }),
            configs: vec![DescribedConfig {
                name: "retention.ms".to_owned(),
                value: "1000".to_owned(),
                ..DescribedConfig::default()
            }],
        }
    }

    #[test]
    fn a_topic_that_is_there_is_compared_with_what_was_asked_for() {
        let asked = NewTopic {
            partitions: Some(6),
            replication_factor: Some(1),
            configs: vec![("retention.ms".to_owned(), "2000".to_owned())],
            ..NewTopic::new("t")
        };
        assert_eq!(
            differences(&asked, &present()),
            [
                "it has 2 partitions, not 6",
                "its replication factor is 3, not 1",
                "its retention.ms is 1000, not 2000"
            ]
        );
        let placed = NewTopic {
            assignments: vec![vec![NodeId(1)]],
            ..NewTopic::new("t")
        };
        assert_eq!(differences(&placed, &present()).len(), 2);
    }

    #[test]
    fn what_was_not_asked_for_may_be_anything() {
        let asked = NewTopic {
            partitions: Some(2),
            ..NewTopic::new("t")
        };
        let created = present_already(&asked, &present());
        assert_eq!(created.differences, Vec::<String>::new());
        assert_eq!((created.partitions, created.replication_factor), (2, 3));
    }
}
