//! `ottla topic trim`: drops the records before an offset (Kafka's `DeleteRecords`).

use clap::Args;
use futures::{FutureExt as _, StreamExt as _, stream};
use ottla_client::Trimmed;
use ottla_model::{Offset, PartitionIndex};
use serde::Serialize;

use crate::args::RequestArgs;
use crate::exit::{CommandError, CommandResult, Several};
use crate::output::{self, Table};
use crate::session;

/// How many partitions are trimmed at the same time.
const AT_ONCE_MAX: usize = 32;

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("before").required(true).args(["before_offset", "all"])))]
pub struct TrimArgs {
    /// The topic
    topic: String,
    /// The partition to trim; may be given several times; all of them if not given
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<i32>,
    /// Drop the records before this offset, in every partition the same: give --partition where
    /// they differ
    #[arg(long, value_name = "OFFSET", value_parser = offset, allow_negative_numbers = true)]
    before_offset: Option<i64>,
    /// Drop every record that is acknowledged now
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    request: RequestArgs,
}

fn offset(text: &str) -> Result<i64, Box<dyn std::error::Error + Send + Sync>> {
    match text.parse()? {
        offset @ 0.. => Ok(offset),
        _ => Err("offsets begin at 0; to drop every record, say --all".into()),
    }
}

#[derive(Debug, Serialize)]
struct Row {
    partition: i32,
    low_watermark: i64,
}

impl From<Trimmed> for Row {
    fn from(trimmed: Trimmed) -> Row {
        Row {
            partition: trimmed.partition.0,
            low_watermark: trimmed.low_watermark.0,
        }
    }
}

/// Runs `ottla topic trim`.
pub async fn run(args: TrimArgs) -> CommandResult {
    let client = session::open(&args.request).await?;
    let mut partitions = args.partitions;
    if partitions.is_empty() {
        let described = client.admin().describe_topic(&args.topic).await?;
        let topic = described.topic.unwrap_or_default();
        partitions.extend(topic.partitions.iter().map(|partition| partition.partition));
    }
    let before = args.before_offset.map(Offset);
    partitions.sort_unstable();
    partitions.dedup();
    let (admin, topic) = (client.admin(), &args.topic);
    let trims = partitions.into_iter().map(|index| {
        let trim = admin.delete_records(topic, vec![(PartitionIndex(index), before)]);
        trim.map(move |outcome| (index, outcome))
    });
    // Each for itself: one that fails keeps no other from being trimmed.
    let outcomes: Vec<_> = stream::iter(trims).buffered(AT_ONCE_MAX).collect().await;
    let mut several = Several::default();
    let mut rows: Vec<Row> = Vec::new();
    for (index, outcome) in outcomes {
        let outcome = outcome.map_err(|error| {
            CommandError::from(error).context(format!("{topic}-{index} was not trimmed"))
        });
        let trimmed = several.take(outcome).into_iter().flatten();
        rows.extend(trimmed.map(Row::from));
    }
    output::print(args.request.output.output, &rows, |rows| text(rows))?;
    several.outcome()
}

/// The table, or nothing at all where no partition was trimmed.
fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["PARTITION", "LOW-WATERMARK"]);
    for row in rows {
        table.row([row.partition.to_string(), row.low_watermark.to_string()]);
    }
    table.render()
}
