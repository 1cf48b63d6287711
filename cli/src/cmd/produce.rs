//! `ottla produce`: records from standard input to a topic.

mod failure;
mod tally;
mod waiting;

use std::collections::VecDeque;
use std::io::{self, BufReader, IsTerminal};
use std::sync::Arc;
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

use self::failure::Failure;
use self::tally::Tally;
use self::waiting::Waiting;
use crate::args::RequestArgs;
use crate::bench::batch_bytes;
use crate::duration;
use crate::exit::{CommandError, CommandResult};
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
    /// The topic to write to
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
    /// How large a batch becomes before it is sent without waiting, such as 64KiB or 2MiB
    #[arg(long, default_value = "128KiB", value_name = "BYTES", value_parser = batch_bytes)]
    batch_bytes: usize,
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
            batch_bytes: self.batch_bytes,
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
        tally: Tally::new(args.acks),
        failure: None,
        progress: Progress::new(),
        waiting: Arc::default(),
    };
    let waiting = Arc::clone(&sending.waiting);
    let mut stop = signals::stop()?;
    let outcome = tokio::select! {
        outcome = sending.all(&args, &mut chunks) => outcome,
        never = waiting.tell() => match never {},
        signal = stop.wait() => Err(stopped(signal)),
    };
    // Whatever happened, what was sent is accounted for; only a second signal cuts that short.
    let settled = tokio::select! {
        () = sending.settle() => Ok(()),
        never = waiting.tell() => match never {},
        signal = stop.wait() => Err(stopped(signal)),
    };
    let mut outcome = outcome.and(settled);
    if outcome.is_ok() && sending.tally.sent == 0 {
        // No record has shown whether the topic is there.
        outcome = exists(&client, &args.topic).await;
    }
    sending.progress.finish();
    summarize(&args, sending, outcome)
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

struct Sending {
    producer: Producer,
    /// In the order sent, which is nearly the order of their acknowledgement.
    outstanding: VecDeque<Outstanding>,
    tally: Tally,
    /// The record to tell of those that are not written.
    failure: Option<Failure>,
    progress: Progress,
    waiting: Arc<Waiting>,
}

struct Outstanding {
    /// The record's number in the input, from 1.
    number: u64,
    has_key: bool,
    delivery: DeliveryFuture,
}

type Chunk = Result<Vec<InputRecord>, MalformedRecord>;

impl Sending {
    /// Sends the input until its end or the first failure.
    async fn all(
        &mut self,
        args: &ProduceArgs,
        chunks: &mut mpsc::Receiver<Chunk>,
    ) -> CommandResult {
        while let Some(chunk) = self.next_chunk(chunks).await {
            let chunk = chunk.inspect_err(|error| {
                self.tally.refused += u64::from(error.number().is_some());
            })?;
            for input in chunk {
                self.send(args.record(input)).await;
                if self.failure.is_some() {
                    return Ok(());
                }
            }
            self.make_room().await;
            if self.failure.is_some() {
                return Ok(());
            }
            self.progress.show(&self.tally);
        }
        Ok(())
    }

    /// Takes acknowledgements in while the input is silent; `None` at its end or a failure.
    async fn next_chunk(&mut self, chunks: &mut mpsc::Receiver<Chunk>) -> Option<Chunk> {
        while self.failure.is_none() {
            let Some(first) = self.outstanding.front_mut() else {
                return chunks.recv().await;
            };
            tokio::select! {
                biased;
                chunk = chunks.recv() => return chunk,
                ended = &mut first.delivery => self.count(ended.map(|_| ())),
            }
        }
        None
    }

    async fn send(&mut self, record: ProducerRecord) {
        let value = record.value.as_ref().map_or(0, Bytes::len);
        let size = record.key.as_ref().map_or(0, Bytes::len) + value;
        let number = self.tally.sent + 1;
        let has_key = record.key.is_some();
        self.waiting.begin();
        match self.producer.send(record).await {
            Ok(delivery) => {
                self.tally.sent += 1;
                self.tally.bytes += size as u64;
                self.outstanding.push_back(Outstanding {
                    number,
                    has_key,
                    delivery,
                });
            }
            Err(error) => {
                self.waiting.end();
                self.tally.refused += 1;
                self.note(Failure {
                    number,
                    has_key,
                    error,
                });
            }
        }
    }

    /// Takes in the acknowledgements that are there, and waits for some if too many are not.
    async fn make_room(&mut self) {
        while let Some(first) = self.outstanding.front_mut() {
            let ended = match (&mut first.delivery).now_or_never() {
                Some(ended) => ended,
                None if self.outstanding.len() <= OUTSTANDING_MAX => return,
                None => (&mut self.outstanding[0].delivery).await,
            };
            self.count(ended.map(|_| ()));
        }
    }

    /// Waits for every outcome.
    async fn settle(&mut self) {
        while let Some(first) = self.outstanding.front_mut() {
            let ended = (&mut first.delivery).await;
            self.count(ended.map(|_| ()));
            if self.outstanding.len().is_multiple_of(CHUNK_RECORDS) {
                self.progress.show(&self.tally);
            }
        }
    }

    /// Counts the outcome of the record that is outstanding for longest. Until then it stays in
    /// the line, so that a signal while it is waited for loses none.
    fn count(&mut self, ended: Result<(), ProduceError>) {
        let Some(Outstanding {
            number, has_key, ..
        }) = self.outstanding.pop_front()
        else {
            return;
        };
        self.waiting.end();
        match ended {
            Ok(()) => self.tally.done += 1,
            Err(error) => {
                self.tally.failed += 1;
                self.note(Failure {
                    number,
                    has_key,
                    error,
                });
            }
        }
    }

    fn note(&mut self, failure: Failure) {
        let told = self.failure.as_ref();
        if told.is_none_or(|told| failure.is_told_before(told)) {
            self.failure = Some(failure);
        }
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
        let rate = tally.done as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let acknowledged = match tally.acks {
            AcksArg::None => String::new(),
            AcksArg::All | AcksArg::Leader => format!("{} acknowledged, ", tally.done),
        };
        bar.set_message(format!(
            "{} sent, {acknowledged}{rate:.0} records/s",
            tally.sent
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

fn summarize(args: &ProduceArgs, sending: Sending, outcome: CommandResult) -> CommandResult {
    let seconds = sending.progress.started.elapsed().as_secs_f64();
    let tally = &sending.tally;
    let outcome = match sending.failure {
        Some(failure) => Err(tally.blame_record(failure)),
        None => outcome.map_err(|error| tally.blame(error)),
    };
    let summary = Summary {
        topic: args.topic.clone(),
        sent: tally.sent,
        acknowledged: match tally.acks {
            AcksArg::None => 0,
            AcksArg::All | AcksArg::Leader => tally.done,
        },
        failed: tally.failed,
        bytes: tally.bytes,
        seconds,
    };
    if args.request.output.output == output::OutputFormat::Json {
        output::print_line(output::OutputFormat::Json, &summary, |_| String::new())?;
    } else if outcome.is_ok() {
        output::note(format_args!(
            "{} {} in {seconds:.2} s ({:.0} records/s, {:.1} MB/s)",
            counted(tally.done, "record"),
            tally.done_word(),
            tally.done as f64 / seconds.max(0.001),
            tally.bytes as f64 / seconds.max(0.001) / 1e6,
        ));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_size_of_a_batch_is_the_clients_own() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ProduceArgs,
        }
        let line: Line = clap::Parser::parse_from(["produce", "t"]);
        assert_eq!(line.args.batch_bytes, ProducerConfig::default().batch_bytes);
    }
}
