//! `ottla consume`: a topic's records to standard output.

mod lookup;
mod printer;
mod search;
mod unreadable;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use ottla_client::{
    Client, ClientError, ConsumeError, ConsumedRecord, Consumer, ConsumerConfig, StartPosition,
};
use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, Offset, PartitionIndex, TopicId};
use tokio::time::Instant;

use self::lookup::{Lookup, Round};
use self::printer::Printer;
use self::search::{Followed, Searches};
use self::unreadable::Unreadable;
use crate::args::{ConnectArgs, OutputArgs};
use crate::duration;
use crate::exit::{CommandError, CommandResult, Exit};
use crate::format::OutputFormat as RecordFormat;
use crate::output::{self, OutputFormat, counted};
use crate::position::{Position, Span};
use crate::session;

/// How long the cluster may take to answer what is not a read.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one poll waits when nothing bounds it.
const POLL_TIMEOUT: Duration = Duration::from_millis(250);
/// How long one leader may take to say where its partitions begin and end, before the others'
/// partitions are read without it.
const LEADER_LIMIT: Duration = Duration::from_secs(2);
const LEADER_LIMIT_MIN: Duration = Duration::from_millis(500);

/// Options of `ottla consume`.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// The topic to read
    topic: String,
    /// Begin at the oldest record instead of waiting for new ones
    #[arg(long, conflicts_with = "offset")]
    from_beginning: bool,
    /// Read only this partition; may be given several times. By default all are read, and those
    /// that the topic is given later from their beginning, unless an end was asked for
    #[arg(short, long = "partition", value_parser = clap::value_parser!(i32).range(0..))]
    partitions: Vec<i32>,
    /// Where to begin, and perhaps where to end, as FROM:TO
    ///
    /// A position is an offset (47), start or end (also earliest, latest), +N (N records after the
    /// start), -N (N before the end), or @ and a time: @2026-01-31T12:00:00Z (or with an offset
    /// such as +01:00; UTC without one), @2026-01-31, @1769860800000 (milliseconds since 1970), or
    /// @-1h for an hour ago. A time means the first record at or after it. FROM:TO ends before TO:
    /// 10:20, :end, @-1h:end, @2026-01-30:@2026-01-31. A TO that a partition does not reach yet is
    /// waited for; --timeout bounds that
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
    /// How a key, value or header value that is null is written; by default as nothing
    #[arg(long, value_name = "TEXT")]
    null_marker: Option<String>,
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Consumes until something ends it.
pub async fn run(args: ConsumeArgs) -> CommandResult {
    if args.output.output == OutputFormat::Json {
        if args.format.is_some() {
            return Err(CommandError::usage("give either --format or --output json"));
        }
        if args.null_marker.is_some() {
            return Err(CommandError::usage(
                "--output json writes null as null; leave --null-marker out",
            ));
        }
    }
    let client = session::connect(&args.connect, REQUEST_TIMEOUT).await?;
    let (id, partitions) = partitions(&client, &args).await?;
    let span = args.span()?;
    if args.max_messages == Some(0) {
        return Ok(());
    }
    let lookup = Lookup {
        client: client.clone(),
        topic: args.topic.clone(),
        span,
        now_ms: now_ms(),
        limit: args.timeout.map_or(LEADER_LIMIT, |timeout| {
            timeout.clamp(LEADER_LIMIT_MIN, LEADER_LIMIT)
        }),
    };
    let mut consumer = client.consumer(ConsumerConfig::default());
    let mut searches = Searches::new(lookup);
    let mut open = BTreeMap::new();
    match known_start(span) {
        Some(start) => {
            let all = partitions.iter().map(|index| (*index, start)).collect();
            consumer.assign(&args.topic, all).await?;
        }
        None => {
            open.extend(partitions.iter().map(|index| (*index, String::new())));
            searches.begin(&partitions);
        }
    }
    let follows = args.partitions.is_empty() && span.to.is_none();
    let followed = follows.then(|| Followed {
        client: client.clone(),
        topic: args.topic.clone(),
        id,
        known: partitions.len(),
    });
    let reading = Reading {
        args: &args,
        consumer,
        printer: Printer {
            out: output::stdout(),
            format: (args.format.clone().unwrap_or_default())
                .with_null(args.null_marker.as_deref().unwrap_or_default()),
            json: args.output.output == OutputFormat::Json,
            line: Vec::new(),
        },
        searches,
        followed,
        asked: partitions.len(),
        open,
        ends: span.to.map(|_| BTreeMap::new()),
        unreadable: Unreadable::default(),
        given_up: BTreeMap::new(),
        printed: 0,
        left: args.max_messages,
        last_record: Instant::now(),
    };
    output::while_read(reading.run()).await
}

/// The topic's id and the partitions to read: those asked for, or all.
async fn partitions(
    client: &Client,
    args: &ConsumeArgs,
) -> CommandResult<(TopicId, Vec<PartitionIndex>)> {
    let (id, known): (_, Vec<i32>) = match client.cluster().topic(&args.topic) {
        Some(info) => {
            let indexes = info.partitions.iter().map(|it| it.partition.0);
            (info.id, indexes.collect())
        }
        None => {
            let described = client.admin().describe_topic(&args.topic).await?;
            let topic = described.topic.unwrap_or_default();
            let id = TopicId::from_slice(&topic.topic_id).unwrap_or(TopicId::ZERO);
            let indexes = topic.partitions.iter().map(|it| it.partition);
            (id, indexes.collect())
        }
    };
    if args.partitions.is_empty() {
        let all = known.into_iter().map(PartitionIndex).collect();
        return Ok((id, all));
    }
    if let Some(missing) = args.partitions.iter().find(|index| !known.contains(index)) {
        let message = format!(
            "{} has no partition {missing}; it has {}, from 0",
            args.topic,
            counted(known.len(), "partition")
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
    Ok((id, asked))
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

/// Where every partition begins, if nothing need be asked for that.
fn known_start(span: Span) -> Option<StartPosition> {
    match (span.from, span.to) {
        (Position::Offset(offset), None) => Some(StartPosition::Offset(Offset(offset))),
        _ => None,
    }
}

/// A consumer at work.
struct Reading<'a> {
    args: &'a ConsumeArgs,
    consumer: Consumer,
    printer: Printer,
    searches: Searches,
    /// Absent where the partitions to read stay as they were when the command began.
    followed: Option<Followed>,
    /// How many partitions are to be read.
    asked: usize,
    /// The partitions whose beginning is not known yet, and why.
    open: BTreeMap<PartitionIndex, String>,
    /// Where each partition ends that is not read to there yet; `None` if there is no end.
    ends: Option<BTreeMap<PartitionIndex, Offset>>,
    unreadable: Unreadable,
    /// The partitions whose bytes cannot be read on, and why. They are not tried again.
    given_up: BTreeMap<PartitionIndex, String>,
    printed: u64,
    left: Option<u64>,
    last_record: Instant,
}

enum Step {
    Round(CommandResult<Round>),
    Added(Vec<PartitionIndex>),
    Polled(Result<Vec<ConsumedRecord>, ConsumeError>),
}

impl Reading<'_> {
    async fn run(mut self) -> CommandResult {
        loop {
            if self.left == Some(0) || self.is_done() {
                return Ok(self.printer.flush()?);
            }
            if self.is_idle() || self.is_hopeless() {
                self.printer.flush()?;
                return self.ended_early();
            }
            let patience = self
                .args
                .timeout
                .map(|timeout| timeout.saturating_sub(self.last_record.elapsed()));
            let wait = patience.unwrap_or(POLL_TIMEOUT).min(POLL_TIMEOUT);
            let step = tokio::select! {
                round = self.searches.next(), if !self.open.is_empty() => Step::Round(round),
                Some(added) = added(self.followed.as_ref(), wait) => Step::Added(added),
                polled = self.consumer.poll(wait) => Step::Polled(polled),
            };
            match step {
                Step::Round(round) => self.take_round(round?).await?,
                Step::Added(added) => self.take_added(&added),
                Step::Polled(Ok(records)) => self.print(&records)?,
                Step::Polled(Err(error)) => self.give_up(error)?,
            }
            self.tell();
        }
    }

    /// Begins to read what was found.
    async fn take_round(&mut self, round: Round) -> CommandResult {
        let mut starts = Vec::new();
        for (index, (start, end)) in round.found {
            self.open.remove(&index);
            if let Some(ends) = &mut self.ends {
                if start >= end {
                    continue;
                }
                ends.insert(index, end);
            }
            // Left to the broker, an offset outside the log is refused.
            starts.push((index, StartPosition::Offset(start)));
        }
        self.open.extend(round.missing);
        if !starts.is_empty() {
            self.consumer.assign_more(&self.args.topic, starts).await?;
        }
        Ok(())
    }

    /// Reads partitions too that the topic was given meanwhile.
    fn take_added(&mut self, added: &[PartitionIndex]) {
        self.asked += added.len();
        if let Some(followed) = &mut self.followed {
            followed.known += added.len();
        }
        let unknown = added.iter().map(|index| (*index, String::new()));
        self.open.extend(unknown);
        self.searches.begin_added(added);
    }

    fn print(&mut self, records: &[ConsumedRecord]) -> CommandResult {
        if !records.is_empty() {
            self.last_record = Instant::now();
        }
        for record in records {
            if self.left == Some(0) {
                break;
            }
            if is_before_end(&self.ends, record) {
                self.printer.print(&self.args.topic, record)?;
                self.printed += 1;
                self.left = self.left.map(|left| left - 1);
            }
        }
        self.leave_what_is_read();
        // The consumer holds what it has read ahead; when it holds nothing the reader of our
        // output should see everything.
        Ok(self.printer.flush()?)
    }

    fn leave_what_is_read(&mut self) {
        if let Some(ends) = &mut self.ends {
            let position = |index| self.consumer.position(&self.args.topic, index);
            ends.retain(|index, end| position(*index).is_none_or(|position| position < *end));
        }
    }

    /// Goes on without the partition whose bytes cannot be read on. Any other failure ends the
    /// command.
    fn give_up(&mut self, error: ConsumeError) -> CommandResult {
        let Some(index) = error.unreadable_partition() else {
            return Err(error.into());
        };
        self.leave_what_is_read();
        self.consumer.unassign_partition(&self.args.topic, index);
        if self
            .ends
            .as_ref()
            .is_some_and(|ends| !ends.contains_key(&index))
        {
            return Ok(());
        }
        let behind = error.next_offset();
        let behind = behind.map(|next| format!(" (--partition {index} --offset {next})"));
        let reason = format!("{error}{}", behind.unwrap_or_default());
        self.given_up.insert(index, reason.clone());
        // With nothing else to read, the command ends with the reason.
        if !self.is_hopeless() {
            let name = self.names(&[index]);
            output::note(format_args!("cannot read {name} any further: {reason}"));
        }
        Ok(())
    }

    /// Whether all partitions are read to their ends.
    fn is_done(&self) -> bool {
        self.open.is_empty() && self.ends.as_ref().is_some_and(BTreeMap::is_empty)
    }

    /// Whether no record came for as long as the user waits.
    fn is_idle(&self) -> bool {
        let limit = self.args.timeout;
        limit.is_some_and(|timeout| self.last_record.elapsed() >= timeout)
    }

    /// Whether all that is left to read is given up, or has been unreadable for long where an end
    /// was asked for.
    fn is_hopeless(&self) -> bool {
        let now = Instant::now();
        let hopeless = |index: &PartitionIndex| {
            self.given_up.contains_key(index) || self.unreadable.lasts(now, *index, REQUEST_TIMEOUT)
        };
        match &self.ends {
            Some(ends) => self.open.keys().chain(ends.keys()).all(hopeless),
            None => self.given_up.len() == self.asked,
        }
    }

    /// Says which partitions cannot be read, if that is news.
    fn tell(&mut self) {
        let now = Instant::now();
        let again = self.unreadable.update(now, &self.reasons());
        if !again.is_empty() {
            output::note(format_args!("{} can be read again", self.names(&again)));
        }
        for (reason, indexes) in self.unreadable.news(now) {
            let names = self.names(&indexes);
            output::note(format_args!("cannot read {names}: {reason}; still trying"));
        }
    }

    fn reasons(&self) -> BTreeMap<PartitionIndex, String> {
        let mut reasons = self.open.clone();
        reasons.retain(|_, reason| !reason.is_empty());
        let wanted = |index: PartitionIndex| {
            let ends = self.ends.as_ref();
            ends.is_none_or(|ends| ends.contains_key(&index))
        };
        for trouble in self.consumer.troubles() {
            if wanted(trouble.partition) {
                reasons.insert(trouble.partition, trouble.reason);
            }
        }
        reasons
    }

    fn names(&self, indexes: &[PartitionIndex]) -> String {
        let name = |index: &PartitionIndex| format!("{}-{index}", self.args.topic);
        let names: Vec<_> = indexes.iter().map(name).collect();
        names.join(", ")
    }

    /// The outcome where the time is over: a failure if a partition was not read as far as asked.
    fn ended_early(mut self) -> CommandResult {
        let reasons = self.reasons();
        self.unreadable.update(Instant::now(), &reasons);
        let mut unread: Vec<_> = reasons
            .into_keys()
            .chain(self.open.keys().copied())
            .chain(self.given_up.keys().copied())
            .collect();
        unread.extend(self.ends.iter().flat_map(BTreeMap::keys));
        unread.sort_unstable();
        unread.dedup();
        if unread.is_empty() {
            return Ok(());
        }
        let mut causes: BTreeMap<&str, Vec<PartitionIndex>> = BTreeMap::new();
        for index in &unread {
            let given_up = self.given_up.get(index).map(String::as_str);
            let reason = given_up.or_else(|| self.unreadable.reason(*index));
            let unknown = match self.open.contains_key(index) {
                true => "the leader did not answer in time",
                false => "the records did not come in time",
            };
            let reason = reason.unwrap_or(unknown);
            causes.entry(reason).or_default().push(*index);
        }
        let causes = causes
            .into_iter()
            .map(|(reason, indexes)| format!("{}: {reason}", self.names(&indexes)));
        let causes: Vec<_> = causes.collect();
        let waited = unread
            .iter()
            .any(|index| !self.given_up.contains_key(index));
        let exit = match (unread.len() < self.asked, waited) {
            (true, _) => Exit::Partly,
            (false, true) => Exit::TimedOut,
            (false, false) if self.printed > 0 => Exit::Partly,
            (false, false) => Exit::Failure,
        };
        let reason = anyhow::anyhow!("not read to the end: {}", causes.join("; "));
        Err(CommandError::new(exit, reason))
    }
}

/// Waits at most so long for partitions that the followed topic was given.
async fn added(followed: Option<&Followed>, at_most: Duration) -> Option<Vec<PartitionIndex>> {
    followed?.added(at_most).await
}

/// Whether the record is to be printed: with `--until-end`, only below its partition's end.
fn is_before_end(ends: &Option<BTreeMap<PartitionIndex, Offset>>, record: &ConsumedRecord) -> bool {
    let Some(ends) = ends else { return true };
    ends.get(&record.partition)
        .is_some_and(|end| record.offset < *end)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_offset_alone_needs_no_lookup() {
        let start = |line: &str| known_start(args(line).span().unwrap());
        assert_eq!(start("--offset 7"), Some(StartPosition::Offset(Offset(7))));
        assert_eq!(start("--offset @-1h"), None);
        assert_eq!(start("--offset -7"), None);
        assert_eq!(start("--offset 7:9"), None);
    }
}
