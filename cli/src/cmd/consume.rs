//! `ottla consume`: a topic's records to standard output.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
use crate::position::{Extent, Position, Span};
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
    /// Where to begin, and perhaps where to end, as FROM:TO
    ///
    /// A position is an offset (47), start or end (also earliest, latest), +N (N records after the
    /// start), -N (N before the end), or @ and a time: @2026-01-31T12:00:00Z (or with an offset
    /// such as +01:00; UTC without one), @2026-01-31, @1769860800000 (milliseconds since 1970), or
    /// @-1h for an hour ago. A time means the first record at or after it. FROM:TO ends before TO:
    /// 10:20, :end, @-1h:end, @2026-01-30:@2026-01-31
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    offset: Option<Span>,
    /// End after so many records
    #[arg(short = 'n', long, value_name = "N")]
    max_messages: Option<u64>,
    /// End when no record came for so long, such as 500ms, 10s or 5m; a bare number means seconds.
    /// By default never
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
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

/// Consumes until something ends it.
pub async fn run(args: ConsumeArgs) -> CommandResult {
    if args.format.is_some() && args.output.output == OutputFormat::Json {
        return Err(CommandError::usage("give either --format or --output json"));
    }
    let client = session::connect(&args.connect, REQUEST_TIMEOUT).await?;
    let partitions = partitions(&client, &args).await?;
    let span = args.span()?;
    let now = now_ms();
    let mut ends: Option<BTreeMap<PartitionIndex, Offset>> = None;
    let start: Vec<(PartitionIndex, StartPosition)> = match start_position(span, now) {
        Some(position) => {
            let same = partitions.into_iter().map(|index| (index, position));
            same.collect()
        }
        None => {
            let mut found = find(&client, &args.topic, &partitions, span, now).await?;
            if span.to.is_some() {
                found.retain(|_, (start, end)| start < end);
                ends = Some(
                    found
                        .iter()
                        .map(|(index, (_, end))| (*index, *end))
                        .collect(),
                );
            }
            let start = |(index, (start, _)): (PartitionIndex, (Offset, Offset))| {
                (index, StartPosition::Offset(start))
            };
            found.into_iter().map(start).collect()
        }
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
    output::while_read(consume(&args, consumer, printer, ends)).await
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

/// Milliseconds since the Unix epoch.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

impl ConsumeArgs {
    /// From where to where.
    fn span(&self) -> CommandResult<Span> {
        let latest = match self.from_beginning {
            true => Position::Earliest,
            false => Position::Latest,
        };
        let span = self.offset.unwrap_or(Span {
            from: latest,
            to: None,
        });
        match (span.to, self.until_end) {
            (Some(_), true) => Err(CommandError::usage(
                "--offset says where to end; leave --until-end out",
            )),
            (None, true) => Ok(Span {
                to: Some(Position::Latest),
                ..span
            }),
            (_, false) => Ok(span),
        }
    }
}

/// Where the consumer begins, if it can find that itself.
fn start_position(span: Span, now_ms: i64) -> Option<StartPosition> {
    match (span.from, span.to) {
        (_, Some(_)) | (Position::AfterEarliest(_) | Position::BeforeLatest(_), _) => None,
        (Position::Earliest, _) => Some(StartPosition::Earliest),
        (Position::Latest, _) => Some(StartPosition::Latest),
        (Position::Offset(offset), _) => Some(StartPosition::Offset(Offset(offset))),
        (Position::Time(time), _) => {
            Some(StartPosition::Timestamp(TimestampMs(time.millis(now_ms))))
        }
    }
}

/// From where to where each partition is read. Without an end of the span, to its present end.
async fn find(
    client: &Client,
    topic: &str,
    partitions: &[PartitionIndex],
    span: Span,
    now_ms: i64,
) -> CommandResult<BTreeMap<PartitionIndex, (Offset, Offset)>> {
    let admin = client.admin();
    let list = async |spec: OffsetSpec| -> CommandResult<BTreeMap<_, _>> {
        let asked = partitions.iter().map(|index| (*index, spec)).collect();
        let listed = admin.list_offsets(topic, asked).await?;
        let found = listed.into_iter().map(|it| (it.partition, it.offset));
        Ok(found.collect())
    };
    // The end first: what comes meanwhile is none of ours.
    let ends = list(OffsetSpec::Latest).await?;
    let firsts = list(OffsetSpec::Earliest).await?;
    let at_time = async |position: Position| match position.asks_for(now_ms) {
        Some(spec) => list(spec).await,
        None => Ok(BTreeMap::new()),
    };
    let to = span.to.unwrap_or(Position::Latest);
    let (from_times, to_times) = (at_time(span.from).await?, at_time(to).await?);
    let known = |of: &BTreeMap<_, _>, index| of.get(&index).copied().flatten();
    let mut found = BTreeMap::new();
    for index in partitions.iter().copied() {
        let first = known(&firsts, index).unwrap_or(Offset::ZERO);
        let extent = Extent {
            first,
            end: known(&ends, index).unwrap_or(first),
        };
        let start = span.from.resolve(extent, known(&from_times, index));
        let end = to.resolve(extent, known(&to_times, index));
        // Of an empty partition there is nothing up to its end, wherever one begins.
        let end = if extent.first == extent.end && end == extent.end {
            start.min(end)
        } else {
            end
        };
        found.insert(index, (start, end));
    }
    Ok(found)
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
    use crate::exit::Exit;

    fn args(line: &str) -> ConsumeArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ConsumeArgs,
        }
        let words = ["consume", "t"].into_iter().chain(line.split_whitespace());
        <Line as clap::Parser>::try_parse_from(words).unwrap().args
    }

    #[test]
    fn where_to_read_comes_from_the_options() {
        let span = |line: &str| args(line).span().map(|span| (span.from, span.to));
        let (first, last) = (Position::Earliest, Position::Latest);
        assert_eq!(span("").unwrap(), (last, None));
        assert_eq!(span("--from-beginning").unwrap(), (first, None));
        assert_eq!(
            span("--from-beginning --until-end").unwrap(),
            (first, Some(last))
        );
        let from = Position::BeforeLatest(5);
        assert_eq!(span("--offset -5 --until-end").unwrap(), (from, Some(last)));
        assert_eq!(span("--offset=-5:end").unwrap(), (from, Some(last)));
        assert_eq!(
            span("--offset :end --until-end").unwrap_err().exit,
            Exit::Usage
        );
    }

    #[test]
    fn the_consumer_finds_what_needs_no_counting() {
        let start = |line: &str| start_position(args(line).span().unwrap(), 7_200_000);
        let hour_ago = StartPosition::Timestamp(TimestampMs(3_600_000));
        assert_eq!(start("--offset @-1h"), Some(hour_ago));
        assert_eq!(start("--offset 7"), Some(StartPosition::Offset(Offset(7))));
        assert_eq!(start("--offset -7"), None);
        assert_eq!(start("--offset 7:9"), None);
    }
}
