//! `ottla produce`: records from standard input to a topic.

use std::collections::VecDeque;
use std::io::{self, BufReader, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures::FutureExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use ottla_client::{
    Acks, Client, Compression, DeliveryFuture, ProduceError, Producer, ProducerConfig,
    ProducerRecord, RecordHeader,
};
use ottla_model::PartitionIndex;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::args::RequestArgs;
use crate::duration;
use crate::exit::{CommandError, CommandResult, Exit};
use crate::format::{InputFormat, InputRecord, MalformedRecord, parse_header};
use crate::output::{self, counted};
use crate::{session, signals};

/// Records handed from the reading thread at a time, so that the hand-over costs little.
const CHUNK_RECORDS: usize = 512;
/// Chunks that may wait between the reading thread and the producer.
const CHUNKS_MAX: usize = 16;
/// Records whose acknowledgement may be outstanding.
const OUTSTANDING_MAX: usize = 100_000;

/// Options of `ottla produce`.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    topic: String,
    /// How a record is written in the input: %k key, %v value, %p partition, %h headers as
    /// a=b,c=d, and \n \t \r \\ %% in the text between; an empty key is no key. By default each
    /// line is a value
    ///
    /// A line may end in \n or \r\n; a format that itself ends in \n takes a \r before it as data
    #[arg(short, long)]
    format: Option<InputFormat>,
    /// A key, value or header value of the input that is just this text is null; a record whose
    /// value is null deletes its key from a compacted topic. With '' every empty value is null
    #[arg(long, value_name = "TEXT")]
    null_marker: Option<String>,
    /// The key of every record
    #[arg(short, long)]
    key: Option<String>,
    /// The partition of every record; by default chosen by key, or spread
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// A header of every record; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<Header>,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd
    #[arg(short = 'z', long, default_value_t = Compression::None)]
    compression: Compression,
    /// When a record counts as written: on all in-sync replicas' disks, on the leader's, or at once
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    /// How long a batch waits for more records, such as 5ms or 1s; a bare number means seconds
    #[arg(long, default_value = "5ms", value_name = "DURATION", value_parser = duration::parse)]
    linger: Duration,
    /// How large a batch becomes before it is sent without waiting
    #[arg(long, value_name = "BYTES")]
    batch_bytes: Option<usize>,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AcksArg {
    #[value(alias = "-1")]
    All,
    #[value(alias = "1")]
    Leader,
    #[value(alias = "0")]
    None,
}

impl From<AcksArg> for Acks {
    fn from(acks: AcksArg) -> Acks {
        match acks {
            AcksArg::All => Acks::All,
            AcksArg::Leader => Acks::Leader,
            AcksArg::None => Acks::None,
        }
    }
}

#[derive(Debug, Clone)]
struct Header(String, Vec<u8>);

fn header(text: &str) -> Result<Header, String> {
    parse_header(text.as_bytes()).map(|(name, value)| Header(name, value))
}

impl ProduceArgs {
    fn producer_config(&self) -> ProducerConfig {
        let defaults = ProducerConfig::default();
        ProducerConfig {
            acks: self.acks.into(),
            linger: self.linger,
            batch_bytes: self.batch_bytes.unwrap_or(defaults.batch_bytes),
            compression: self.compression,
            idempotent: matches!(self.acks, AcksArg::All),
            delivery_timeout: self.request.timeout,
            ..defaults
        }
    }

    /// The record that a line of input stands for; what the input says wins over the options.
    fn record(&self, input: InputRecord) -> ProducerRecord {
        let fixed = self
            .headers
            .iter()
            .map(|Header(name, value)| (name.clone(), value.clone()));
        let headers = fixed.chain(input.headers).map(|(key, value)| RecordHeader {
            key,
            value: self.unless_null(value),
        });
        let partition = input.partition.or(self.partition).map(PartitionIndex);
        let key = match input.key {
            Some(key) => self.unless_null(key),
            None => self.key.clone().map(Bytes::from),
        };
        ProducerRecord {
            partition,
            key,
            value: self.unless_null(input.value),
            headers: headers.collect(),
            ..ProducerRecord::new(self.topic.clone(), Bytes::new())
        }
    }

    fn unless_null(&self, content: Vec<u8>) -> Option<Bytes> {
        let marker = self.null_marker.as_ref().map(String::as_bytes);
        (marker != Some(content.as_slice())).then(|| Bytes::from(content))
    }
}

/// Produces standard input until its end.
pub async fn run(args: ProduceArgs) -> CommandResult {
    if args.format.as_ref().is_some_and(InputFormat::has_key) && args.key.is_some() {
        return Err(CommandError::usage(
            "give the key either in --format or as --key",
        ));
    }
    let client = session::open(&args.request).await?;
    let mut chunks = read_input(args.format.clone().unwrap_or_default())?;
    let mut sending = Sending {
        producer: client.producer(args.producer_config()),
        outstanding: VecDeque::new(),
        tally: Tally::default(),
        progress: Progress::new(),
    };
    let mut stop = signals::stop()?;
    let outcome = tokio::select! {
        outcome = sending.all(&args, &mut chunks) => outcome,
        signal = stop.wait() => Err(stopped(signal)),
    };
    // Whatever happened, what was sent is accounted for; only a second signal cuts that short.
    let settled = tokio::select! {
        settled = sending.settle() => settled,
        signal = stop.wait() => Err(stopped(signal)),
    };
    let mut outcome = outcome.and(settled);
    if outcome.is_ok() && sending.tally.sent == 0 {
        // No record has shown whether the topic is there.
        outcome = exists(&client, &args.topic).await;
    }
    sending.progress.finish();
    summarize(&args, &sending, outcome)
}

/// Fails as a record would if the topic is not there.
async fn exists(client: &Client, topic: &str) -> CommandResult {
    if client.cluster().topic(topic).is_none() {
        client.admin().describe_topic(topic).await?;
    }
    Ok(())
}

fn stopped(signal: &str) -> CommandError {
    anyhow::anyhow!("stopped by {signal} before the end of the input").into()
}

#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    bytes: u64,
    acknowledged: u64,
    failed: u64,
}

struct Sending {
    producer: Producer,
    /// In the order sent, which is nearly the order of their acknowledgement.
    outstanding: VecDeque<DeliveryFuture>,
    tally: Tally,
    progress: Progress,
}

type Chunk = Result<Vec<InputRecord>, MalformedRecord>;

impl Sending {
    async fn all(
        &mut self,
        args: &ProduceArgs,
        chunks: &mut mpsc::Receiver<Chunk>,
    ) -> CommandResult {
        while let Some(chunk) = chunks.recv().await {
            for input in chunk? {
                let record = args.record(input);
                let value = record.value.as_ref().map_or(0, Bytes::len);
                let size = record.key.as_ref().map_or(0, Bytes::len) + value;
                self.outstanding
                    .push_back(self.producer.send(record).await?);
                self.tally.sent += 1;
                self.tally.bytes += size as u64;
            }
            self.make_room().await?;
            self.progress.show(&self.tally);
        }
        Ok(())
    }

    /// Takes in the acknowledgements that are there, and waits for some if too many are not.
    async fn make_room(&mut self) -> Result<(), ProduceError> {
        while let Some(mut first) = self.outstanding.pop_front() {
            let full = self.outstanding.len() >= OUTSTANDING_MAX;
            let result = match (&mut first).now_or_never() {
                Some(result) => result,
                None if full => first.await,
                None => {
                    self.outstanding.push_front(first);
                    return Ok(());
                }
            };
            self.count(result.map(|_| ()))?;
        }
        Ok(())
    }

    /// Waits for every outcome; the first failure is returned, all are counted.
    async fn settle(&mut self) -> CommandResult {
        let mut outcome = Ok(());
        while let Some(delivery) = self.outstanding.pop_front() {
            let counted = self.count(delivery.await.map(|_| ()));
            outcome = outcome.and(counted.map_err(CommandError::from));
            if self.outstanding.len().is_multiple_of(CHUNK_RECORDS) {
                self.progress.show(&self.tally);
            }
        }
        outcome
    }

    fn count(&mut self, result: Result<(), ProduceError>) -> Result<(), ProduceError> {
        match &result {
            Ok(()) => self.tally.acknowledged += 1,
            Err(_) => self.tally.failed += 1,
        }
        result
    }
}

/// Reads standard input on a thread of its own, because reading blocks.
fn read_input(format: InputFormat) -> anyhow::Result<mpsc::Receiver<Chunk>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || read_chunks(&format, &sender))
        .context("cannot start a thread to read the input")?;
    Ok(receiver)
}

fn read_chunks(format: &InputFormat, sender: &mpsc::Sender<Chunk>) {
    let mut reader = BufReader::with_capacity(256 * 1024, io::stdin().lock());
    let mut scratch = Vec::new();
    let mut chunk = Vec::new();
    for number in 1.. {
        let end = match format.read(&mut reader, number, &mut scratch) {
            Ok(Some(record)) => {
                chunk.push(record);
                None
            }
            Ok(None) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        if number == 1 && format.keeps_carriage_return(&scratch) {
            output::note(
                "the lines end in \\r\\n and the format takes the \\r as data: leave the \\n at its end \
                 out, or end it in \\r\\n",
            );
        }
        // What a person types or a slow pipe brings goes out at once, also when the next record
        // has begun to arrive.
        let idle = !reader.buffer().contains(&format.last_byte());
        if (chunk.len() >= CHUNK_RECORDS || idle || end.is_some())
            && sender
                .blocking_send(Ok(std::mem::take(&mut chunk)))
                .is_err()
        {
            return;
        }
        match end {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => {
                // If nobody receives, the command has ended already.
                let _ = sender.blocking_send(Err(error));
                return;
            }
        }
    }
}

/// A line on standard error while a person looks on.
struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn new() -> Progress {
        // While a person types, a moving line would be in the way.
        let watched = io::stderr().is_terminal() && !io::stdin().is_terminal();
        let bar = watched.then(|| {
            let bar = ProgressBar::new_spinner();
            // Without a valid template the default style is good enough.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Progress {
            bar,
            started: Instant::now(),
            shown: None,
        }
    }

    fn show(&mut self, tally: &Tally) {
        let Some(bar) = &self.bar else { return };
        let now = Instant::now();
        if self
            .shown
            .is_some_and(|shown| now - shown < Duration::from_millis(100))
        {
            return;
        }
        self.shown = Some(now);
        let rate = tally.acknowledged as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        bar.set_message(format!(
            "{} sent, {} acknowledged, {rate:.0} records/s",
            tally.sent, tally.acknowledged
        ));
        bar.tick();
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[derive(Debug, Serialize)]
struct Summary {
    topic: String,
    sent: u64,
    acknowledged: u64,
    failed: u64,
    bytes: u64,
    seconds: f64,
}

fn summarize(args: &ProduceArgs, sending: &Sending, outcome: CommandResult) -> CommandResult {
    let seconds = sending.progress.started.elapsed().as_secs_f64();
    let tally = &sending.tally;
    let summary = Summary {
        topic: args.topic.clone(),
        sent: tally.sent,
        acknowledged: tally.acknowledged,
        failed: tally.failed,
        bytes: tally.bytes,
        seconds,
    };
    if args.request.output.output == output::OutputFormat::Json {
        output::print_line(output::OutputFormat::Json, &summary, |_| String::new())?;
    } else if outcome.is_ok() {
        output::note(format_args!(
            "{} acknowledged in {seconds:.2} s ({:.0} records/s, {:.1} MB/s)",
            counted(tally.acknowledged, "record"),
            tally.acknowledged as f64 / seconds.max(0.001),
            tally.bytes as f64 / seconds.max(0.001) / 1e6,
        ));
    }
    outcome.map_err(|error| tally.blame(error, &args.topic))
}

impl Tally {
    /// The error with what came of the records. A malformed record behind good ones leaves the
    /// input partly produced.
    fn blame(&self, error: CommandError, topic: &str) -> CommandError {
        let malformed = error.reason.chain().any(|it| it.is::<MalformedRecord>());
        let exit = match malformed && self.acknowledged > 0 {
            true => Exit::Partly,
            false => error.exit,
        };
        let error = CommandError { exit, ..error };
        match self.account(topic) {
            Some(account) => error.context(account),
            None => error,
        }
    }

    /// What came of the records so far; nothing if there was none.
    fn account(&self, topic: &str) -> Option<String> {
        (self.sent > 0).then(|| {
            format!(
                "{} of {} sent to {topic} acknowledged",
                self.acknowledged,
                counted(self.sent, "record")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_record_behind_good_ones_leaves_the_input_partly_produced() {
        let malformed = || CommandError::from(MalformedRecord::TooLong { number: 4 });
        let mut tally = Tally::default();
        assert_eq!(tally.blame(malformed(), "t").exit, Exit::Failure);
        (tally.sent, tally.acknowledged) = (3, 3);
        assert_eq!(tally.blame(malformed(), "t").exit, Exit::Partly);
        let other = CommandError::from(anyhow::anyhow!("no"));
        assert_eq!(tally.blame(other, "t").exit, Exit::Failure);
    }

    #[test]
    fn an_error_before_the_first_record_has_nothing_to_account_for() {
        let mut tally = Tally::default();
        assert_eq!(tally.account("t"), None);
        tally.sent = 3;
        tally.acknowledged = 1;
        let account = tally.account("t").unwrap();
        assert!(account.starts_with("1 of 3 records"), "{account}");
    }
}
