//! `ottla topic describe`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use ottla_client::v1::{DescribeTopicResponse, DescribedConfig, PartitionView};
use ottla_client::{Admin, ClientError, ListedOffset, OffsetSpec};
use ottla_model::PartitionIndex;
use serde::Serialize;

use super::{id_text, min_isr};
use crate::args::RequestArgs;
use crate::exit::{CommandResult, Several};
use crate::output::{self, Table, joined, or_dash};
use crate::session;

/// How long the leaders may take to say where their partitions begin and end, before the topic is
/// shown without it.
const OFFSETS_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct NamesArgs {
    /// The topics
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    request: RequestArgs,
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
    /// The first offset that is kept, and that of the next record to become readable; absent where
    /// the leader does not say.
    start_offset: Option<i64>,
    end_offset: Option<i64>,
}

#[derive(Debug, Serialize)]
struct DescribedSetting {
    name: String,
    value: String,
    is_set: bool,
    /// What is in effect, where it is not the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<String>,
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
            start_offset: None,
            end_offset: None,
        }
    }
}

impl From<DescribeTopicResponse> for Described {
    fn from(reply: DescribeTopicResponse) -> Described {
        let topic = reply.topic.unwrap_or_default();
        let partitions = topic.partitions.into_iter().map(DescribedPartition::from);
        let partitions: Vec<DescribedPartition> = partitions.collect();
        let setting = |config: DescribedConfig| DescribedSetting::new(config, &partitions);
        Described {
            topic_id: id_text(&topic.topic_id),
            name: topic.name,
            internal: topic.internal,
            configs: reply.configs.into_iter().map(setting).collect(),
            partitions,
        }
    }
}

impl Described {
    /// Asks the leaders where their partitions begin and end. What one does not say stays out.
    async fn add_offsets(&mut self, admin: &Admin, limit: Duration) {
        let led = self.partitions.iter().filter(|it| it.leader.is_some());
        let led: Vec<_> = led.map(|it| PartitionIndex(it.partition)).collect();
        if led.is_empty() {
            return;
        }
        let ask = |spec| {
            let asked = led.iter().map(|index| (*index, spec)).collect();
            admin.list_offsets_once(&self.name, asked, limit)
        };
        let (starts, ends) = tokio::join!(ask(OffsetSpec::Earliest), ask(OffsetSpec::Latest));
        let (starts, ends) = (starts.unwrap_or_default(), ends.unwrap_or_default());
        for partition in &mut self.partitions {
            let index = PartitionIndex(partition.partition);
            let of = |all: &Listed| {
                all.get(&index)?
                    .as_ref()
                    .ok()?
                    .offset
                    .map(|offset| offset.0)
            };
            partition.start_offset = of(&starts);
            partition.end_offset = of(&ends);
        }
    }
}

type Listed = BTreeMap<PartitionIndex, Result<ListedOffset, ClientError>>;

impl DescribedSetting {
    fn new(config: DescribedConfig, partitions: &[DescribedPartition]) -> DescribedSetting {
        let mut setting = DescribedSetting {
            name: config.name,
            value: config.value,
            is_set: config.is_set,
            effective: None,
            documentation: config.documentation,
        };
        if setting.name == min_isr::NAME {
            let in_effect = min_isr_in_effect(partitions);
            if setting.is_set {
                let replicas = partitions.iter().map(|p| p.replicas.len()).min();
                let clamped =
                    replicas.and_then(|few| min_isr::in_effect_instead(&setting.value, few));
                setting.effective = clamped.and(in_effect);
            } else if let Some(in_effect) = in_effect {
                setting.value = in_effect;
            }
        }
        setting
    }

    /// Where the value comes from, and what is in effect if that is another.
    fn source(&self) -> String {
        let source = if self.is_set { "topic" } else { "default" };
        match &self.effective {
            Some(effective) => {
                format!("{source}; above the replication factor, so {effective} is in effect")
            }
            None => source.to_owned(),
        }
    }
}

/// The fewest in-sync replicas that the partitions accept writes with; a range where they differ.
fn min_isr_in_effect(partitions: &[DescribedPartition]) -> Option<String> {
    let all = || partitions.iter().map(|p| p.min_insync_replicas);
    let (least, most) = (all().min()?, all().max()?);
    Some(if least == most {
        least.to_string()
    } else {
        format!("{least} to {most}")
    })
}

/// Shows topics; one that is missing does not keep the others from being shown.
pub async fn describe(args: NamesArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let admin = client.admin();
    let replies = join_all(args.names.iter().map(|name| admin.describe_topic(name))).await;
    let mut several = Several::default();
    let found = replies.into_iter().filter_map(|reply| several.take(reply));
    let mut topics: Vec<Described> = found.map(Described::from).collect();
    let limit = args.request.timeout.min(OFFSETS_PATIENCE);
    join_all(topics.iter_mut().map(|it| it.add_offsets(&admin, limit))).await;
    output::print(args.request.output.output, &topics, |topics| {
        let texts: Vec<String> = topics.iter().map(describe_text).collect();
        texts.join("\n")
    })?;
    several.outcome()
}

/// The topic as sections; the ELR only where a partition has one.
fn describe_text(topic: &Described) -> String {
    let id = or_dash(topic.topic_id.as_ref());
    let mut text = format!("topic {} (id {id})\n\n", topic.name);
    let with_elr = topic
        .partitions
        .iter()
        .any(|partition| !partition.elr.is_empty());
    let mut columns = Table::new([
        "PARTITION",
        "LEADER",
        "EPOCH",
        "REPLICAS",
        "ISR",
        "MIN-ISR",
        "START",
        "END",
    ]);
    let mut columns_elr = Table::new([
        "PARTITION",
        "LEADER",
        "EPOCH",
        "REPLICAS",
        "ISR",
        "MIN-ISR",
        "START",
        "END",
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
            or_dash(partition.start_offset),
            or_dash(partition.end_offset),
        ];
        if with_elr {
            let [index, leader, epoch, replicas, isr, min_isr, start, end] = cells;
            let elr = joined(&partition.elr);
            columns_elr.row([
                index, leader, epoch, replicas, isr, min_isr, start, end, elr,
            ]);
        } else {
            columns.row(cells);
        }
    }
    text.push_str(&if with_elr { columns_elr } else { columns }.render());
    let mut settings = Table::new(["SETTING", "VALUE", "SOURCE"]);
    for setting in &topic.configs {
        settings.row([
            setting.name.clone(),
            setting.value.clone(),
            setting.source(),
        ]);
    }
    text.push('\n');
    text.push_str(&settings.render());
    text
}

#[cfg(test)]
mod tests {
    use ottla_client::v1::TopicView;

    use super::*;

    fn described(value: Option<&str>, partitions: &[(&[i32], i32)]) -> Described {
        let partition = |(replicas, min): &(&[i32], i32)| PartitionView {
            replicas: replicas.to_vec(),
            min_insync_replicas: *min,
            ..PartitionView::default()
        };
        Described::from(DescribeTopicResponse {
            topic: Some(TopicView {
                name: "t".to_owned(),
                partitions: partitions.iter().map(partition).collect(),
                ..TopicView::default()
            }),
            configs: vec![DescribedConfig {
                name: min_isr::NAME.to_owned(),
                value: value.unwrap_or_default().to_owned(),
                is_set: value.is_some(),
                ..DescribedConfig::default()
            }],
        })
    }

    #[test]
    fn a_default_min_isr_shows_the_number_in_effect() {
        let topic = described(None, &[(&[1, 2, 3], 2)]);
        assert_eq!(topic.configs[0].value, "2");
        assert_eq!(topic.configs[0].source(), "default");
        let mixed = described(None, &[(&[1, 2, 3], 2), (&[1], 1)]);
        assert_eq!(mixed.configs[0].value, "1 to 2");
    }

    #[test]
    fn a_min_isr_above_the_replication_factor_is_marked() {
        let topic = described(Some("3"), &[(&[1, 2], 2)]);
        assert_eq!(topic.configs[0].value, "3");
        assert_eq!(topic.configs[0].effective.as_deref(), Some("2"));
        let text = describe_text(&topic);
        assert!(
            text.contains("above the replication factor, so 2 is in effect"),
            "{text}"
        );
        let fitting = described(Some("2"), &[(&[1, 2], 2)]);
        assert_eq!(fitting.configs[0].effective, None);
    }
}
