//! `ottla consume`: a topic's records to standard output.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use ottla_client::{
    Client, ClientError, ConsumedRecord, Consumer, ConsumerConfig, OffsetSpec, StartPosition,
};
use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, Offset, PartitionIndex, TimestampMs};
use tokio::time::Instant;

use crate::args::{ConnectArgs, OutputArgs};
use crate::duration;
use crate::exit::{CommandError, CommandResult};
use crate::format::{OutputFormat as RecordFormat, RecordView};
use crate::output::{self, OutputFormat, stdout_error};
use crate::session;

/// How long the cluster may take to answer what is not a read.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one poll waits when nothing bounds it.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);

/// Options of `ottla consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    topic: String,
    /// Begin at the oldest record instead of waiting for new ones
    #[arg(long, conflicts_with = "offset")]
    from_beginning: bool,
    /// Read only this partition; may be given several times
    #[arg(short, long = "partition", value_parser = clap::value_parser!(i32).range(0..))]
    partitions: Vec<i32>,
    /// Where to begin: an offset, earliest, latest, or @ and milliseconds since 1970
    #[arg(long, value_name = "POSITION")]
    offset: Option<Position>,
    /// End after so many records
    #[arg(short = 'n', long, value_name = "N")]
    max_messages: Option<u64>,
    /// End when no record came for so long; by default never
    #[arg(long, value_parser = duration::parse)]
    timeout: Option<Duration>,
    /// End at the records that are the last ones when the command starts
    #[arg(long)]
    until_end: bool,
    /// How a record is written: %t topic, %p partition, %o offset, %d timestamp, %k key, %v value,
    /// %h headers, and \n \t \\ %% as text. By default each value on a line
    #[arg(short, long)]
    format: Option<RecordFormat>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Earliest,
    Latest,
    Offset(i64),
    Timestamp(i64),
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Position, String> {
        let number = |text: &str| text.parse().ok().filter(|number: &i64| *number >= 0);
        let position = match text {
            "earliest" | "beginning" | "start" => Some(Position::Earliest),
            "latest" | "end" => Some(Position::Latest),
            _ => match text.strip_prefix('@') {
                Some(time) => number(time).map(Position::Timestamp),
                None => number(text).map(Position::Offset),
            },
        };
        position.ok_or_else(|| {
            format!("'{text}' is no position; use an offset, earliest, latest or @milliseconds")
        })
    }
}

impl From<Position> for StartPosition {
    fn from(position: Position) -> StartPosition {
        match position {
            Position::Earliest => StartPosition::Earliest,
            Position::Latest => StartPosition::Latest,
            Position::Offset(offset) => StartPosition::Offset(Offset(offset)),
            Position::Timestamp(time) => StartPosition::Timestamp(TimestampMs(time)),
        }
    }
}

/// Consumes until something ends it.
pub async fn run(args: ConsumeArgs) -> CommandResult {
    if args.format.is_some() && args.output.output == OutputFormat::Json {
        return Err(CommandError::usage("give either --format or --output json"));
    }
    let client = session::connect(&args.connect, REQUEST_TIMEOUT).await?;
    let partitions = partitions(&client, &args).await?;
    let position = match args.offset {
        Some(position) => position,
        None if args.from_beginning => Position::Earliest,
        None => Position::Latest,
    };
    let mut ends = None;
    let start: Vec<(PartitionIndex, StartPosition)> = if args.until_end {
        let span = span(&client, &args.topic, &partitions, position).await?;
        ends = Some(
            span.iter()
                .map(|(index, (_, end))| (*index, *end))
                .collect(),
        );
        let start =
            |(index, (start, _)): (PartitionIndex, _)| (index, StartPosition::Offset(start));
        span.into_iter().map(start).collect()
    } else {
        partitions
            .into_iter()
            .map(|index| (index, position.into()))
            .collect()
    };
    if args.max_messages == Some(0) || start.is_empty() {
        return Ok(());
    }
    let mut consumer = client.consumer(ConsumerConfig::default());
    consumer.assign(&args.topic, start).await?;
    let printer = Printer {
        out: output::stdout(),
        format: args.format.clone().unwrap_or_default(),
        json: args.output.output == OutputFormat::Json,
        line: Vec::new(),
    };
    consume(&args, consumer, printer, ends).await
}

/// The partitions to read: those asked for, or all.
async fn partitions(client: &Client, args: &ConsumeArgs) -> CommandResult<Vec<PartitionIndex>> {
    let topic = client
        .admin()
        .describe_topic(&args.topic)
        .await?
        .topic
        .unwrap_or_default();
    let known: Vec<i32> = topic
        .partitions
        .iter()
        .map(|partition| partition.partition)
        .collect();
    if args.partitions.is_empty() {
        return Ok(known.into_iter().map(PartitionIndex).collect());
    }
    if let Some(missing) = args.partitions.iter().find(|index| !known.contains(index)) {
        let message = format!(
            "{} has no partition {missing}; it has {} partitions, from 0",
            args.topic,
            known.len()
        );
        let error = ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
        return Err(ClientError::from(error).into());
    }
    let mut asked: Vec<PartitionIndex> = args
        .partitions
        .iter()
        .copied()
        .map(PartitionIndex)
        .collect();
    asked.sort_unstable();
    asked.dedup();
    Ok(asked)
}

/// From where to where each partition is read that holds something to read.
async fn span(
    client: &Client,
    topic: &str,
    partitions: &[PartitionIndex],
    position: Position,
) -> CommandResult<BTreeMap<PartitionIndex, (Offset, Offset)>> {
    let all = |spec: OffsetSpec| {
        partitions
            .iter()
            .map(|index| (*index, spec))
            .collect::<Vec<_>>()
    };
    let admin = client.admin();
    let ends = admin.list_offsets(topic, all(OffsetSpec::Latest)).await?;
    let first = admin.list_offsets(topic, all(OffsetSpec::Earliest)).await?;
    let starts = match position {
        Position::Timestamp(time) => {
            admin
                .list_offsets(topic, all(OffsetSpec::Timestamp(TimestampMs(time))))
                .await?
        }
        _ => first.clone(),
    };
    let by_partition = |listed: Vec<ottla_client::ListedOffset>| {
        let listed = listed
            .into_iter()
            .map(|listed| (listed.partition, listed.offset));
        listed.collect::<BTreeMap<_, _>>()
    };
    let (starts, first) = (by_partition(starts), by_partition(first));
    let mut span = BTreeMap::new();
    for (index, end) in by_partition(ends) {
        let end = end.unwrap_or(Offset::ZERO);
        let start = match position {
            Position::Offset(offset) => Offset(offset),
            Position::Latest => end,
            Position::Earliest | Position::Timestamp(_) => {
                starts.get(&index).copied().flatten().unwrap_or(end)
            }
        };
        let empty = first.get(&index).copied().flatten() == Some(end);
        if start < end && !empty {
            span.insert(index, (start, end));
        }
    }
    Ok(span)
}

async fn consume(
    args: &ConsumeArgs,
    mut consumer: Consumer,
    mut printer: Printer,
    mut ends: Option<BTreeMap<PartitionIndex, Offset>>,
) -> CommandResult {
    let mut left = args.max_messages;
    let mut last_record = Instant::now();
    loop {
        let patience = args
            .timeout
            .map(|timeout| timeout.saturating_sub(last_record.elapsed()));
        let records = consumer
            .poll(patience.unwrap_or(POLL_TIMEOUT).min(POLL_TIMEOUT))
            .await?;
        if records.is_empty() {
            printer.flush()?;
            if args
                .timeout
                .is_some_and(|timeout| last_record.elapsed() >= timeout)
            {
                return Ok(());
            }
        } else {
            last_record = Instant::now();
        }
        for record in &records {
            if !is_before_end(&mut ends, record) {
                continue;
            }
            printer.print(&args.topic, record)?;
            if let Some(left) = &mut left {
                *left -= 1;
                if *left == 0 {
                    return Ok(printer.flush()?);
                }
            }
        }
        if let Some(ends) = &mut ends {
            ends.retain(|index, end| {
                consumer
                    .position(&args.topic, *index)
                    .is_none_or(|position| position < *end)
            });
            if ends.is_empty() {
                return Ok(printer.flush()?);
            }
        }
        // The consumer holds what it has read ahead; when it holds nothing the reader of our
        // output should see everything.
        printer.flush()?;
    }
}

/// Whether the record is to be printed: with `--until-end`, only below its partition's end.
fn is_before_end(
    ends: &mut Option<BTreeMap<PartitionIndex, Offset>>,
    record: &ConsumedRecord,
) -> bool {
    let Some(ends) = ends else { return true };
    ends.get(&record.partition)
        .is_some_and(|end| record.offset < *end)
}

struct Printer {
    out: std::io::BufWriter<std::io::Stdout>,
    format: RecordFormat,
    json: bool,
    line: Vec<u8>,
}

impl Printer {
    fn print(&mut self, topic: &str, record: &ConsumedRecord) -> anyhow::Result<()> {
        let view = RecordView {
            topic,
            partition: record.partition.0,
            offset: record.offset.0,
            timestamp_ms: record.timestamp.0,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        };
        self.line.clear();
        if self.json {
            serde_json::to_writer(&mut self.line, &view.to_json())?;
            self.line.push(b'\n');
        } else {
            self.format.write(&view, &mut self.line);
        }
        self.out.write_all(&self.line).map_err(stdout_error)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush().map_err(stdout_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_offsets_names_or_times() {
        assert_eq!("earliest".parse(), Ok(Position::Earliest));
        assert_eq!("latest".parse(), Ok(Position::Latest));
        assert_eq!("42".parse(), Ok(Position::Offset(42)));
        assert_eq!(
            "@1700000000000".parse(),
            Ok(Position::Timestamp(1_700_000_000_000))
        );
        for text in ["", "-1", "@", "@soon", "somewhere"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
