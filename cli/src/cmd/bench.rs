//! `ottla bench`: how much a cluster takes, and how soon it acknowledges.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand};
use ottla_client::{Acks, Client, Compression, ProducerConfig};

use crate::args::{KeyValue, RequestArgs, topic_setting};
use crate::bench::{
    self, BenchTopic, Rate, Report, STAMP_BYTES, Scene, Settings, TopicShape, Writing, batch_bytes,
};
use crate::duration;
use crate::exit::{CommandError, CommandResult};
use crate::output::{self, counted};
use crate::{session, signals};

use super::produce::AcksArg;

/// How long latency is not counted, unless told otherwise.
const WARMUP: Duration = Duration::from_secs(1);

/// Commands under `ottla bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Write as fast as possible, or at a fixed rate; exits with 3 if a record failed
    Produce(ProduceArgs),
    /// Read everything that a topic holds
    Consume(ConsumeArgs),
    /// Write at a fixed rate and measure, from when each record was due, how long it takes to be
    /// acknowledged and to reach a consumer; exits with 3 if a record failed
    Latency(LatencyArgs),
}

#[derive(Debug, Args)]
pub struct ProduceArgs {
    /// How long to write; 10 s unless --records is given; a bare number means seconds
    #[arg(long, value_parser = duration::parse)]
    duration: Option<Duration>,
    /// How many records or bytes are due in a second, as 5000 or 30MB; by default as many as go
    #[arg(long)]
    rate: Option<Rate>,
    /// How many records to write
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    records: Option<u64>,
    /// How long to run before anything counts; a bare number means seconds
    #[arg(long, default_value = "0s", value_parser = duration::parse)]
    warmup: Duration,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Args)]
pub struct ConsumeArgs {
    /// How many consumers share the partitions, each on a thread of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    consumers: u32,
    /// How many records to write first, without counting them, if no topic is given
    #[arg(
        long,
        default_value_t = 1_000_000,
        conflicts_with = "topic",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    records: u64,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    request: RequestArgs,
}

#[derive(Debug, Args)]
pub struct LatencyArgs {
    /// How long to write, the warm-up included; a bare number means seconds
    #[arg(long, default_value = "10s", value_parser = duration::parse)]
    duration: Duration,
    /// How many records or bytes are due in a second, as 5000 or 30MB
    #[arg(long, default_value = "1000")]
    rate: Rate,
    /// How long to run before anything counts; a bare number means seconds. By default 1s, and at
    /// most a quarter of --duration
    #[arg(long, value_parser = duration::parse)]
    warmup: Option<Duration>,
    /// How many consumers share the partitions; with 0 only acknowledgements are measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=256))]
    consumers: u32,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    request: RequestArgs,
}

/// What is written, and how.
#[derive(Debug, Args)]
struct LoadArgs {
    /// How large each value is
    #[arg(long, default_value = "1KiB", value_name = "BYTES", value_parser = batch_bytes)]
    record_size: usize,
    /// How many different keys records have, one at random each; by default they have none
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,
    /// How many producers, each with a thread and connections of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    producers: u32,
    /// How large a batch becomes before it is sent without waiting, such as 64KiB or 2MiB
    #[arg(long, default_value = "128KiB", value_name = "BYTES", value_parser = batch_bytes)]
    batch_bytes: usize,
    /// How long a batch waits for more records; a bare number means seconds
    #[arg(long, default_value = "5ms", value_parser = duration::parse)]
    linger: Duration,
    /// When a record counts as written: on all in-sync replicas' disks, on the leader's, or at once
    #[arg(long, value_enum, default_value = "all")]
    acks: AcksArg,
    /// How batches are compressed: none, gzip, snappy, lz4 or zstd
    #[arg(short = 'z', long, default_value_t = Compression::None)]
    compression: Compression,
}

/// Where it is written.
#[derive(Debug, Args)]
struct TopicArgs {
    /// A topic that is there; without it the run creates one and deletes it afterwards
    topic: Option<String>,
    /// How many partitions the created topic has
    #[arg(
        long,
        default_value_t = 12,
        conflicts_with = "topic",
        value_parser = clap::value_parser!(i32).range(1..)
    )]
    partitions: i32,
    /// How many replicas each of its partitions has; min(3, brokers) if not given
    #[arg(long, conflicts_with = "topic")]
    replication_factor: Option<i16>,
    /// A setting of it, such as min.insync.replicas=2; may be given several times
    #[arg(
        long = "config",
        value_name = "KEY=VALUE",
        value_parser = topic_setting,
        conflicts_with = "topic"
    )]
    configs: Vec<KeyValue>,
    /// Leave the created topic there
    #[arg(long)]
    keep: bool,
}

impl LoadArgs {
    fn producer(&self, delivery_timeout: Duration) -> CommandResult<ProducerConfig> {
        let defaults = ProducerConfig::default();
        Ok(ProducerConfig {
            acks: self.acks.into(),
            linger: self.linger,
            batch_bytes: self.batch_bytes,
            compression: self.compression,
            idempotent: matches!(self.acks, AcksArg::All),
            delivery_timeout,
            ..defaults
        })
    }

    fn writing(&self, delivery_timeout: Duration) -> CommandResult<Writing> {
        Ok(Writing {
            record_bytes: self.record_size,
            keys: self.keys,
            records: None,
            duration: None,
            rate: None,
            writers: self.producers,
            producer: self.producer(delivery_timeout)?,
        })
    }
}

impl TopicArgs {
    fn shape(&self) -> TopicShape {
        let configs = self.configs.iter();
        TopicShape {
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: configs
                .map(|pair| (pair.key.clone(), pair.value.clone()))
                .collect(),
            keep: self.keep,
        }
    }
}

fn writing_settings(topic: &BenchTopic, writing: &Writing, warmup: Duration) -> Settings {
    let producer = &writing.producer;
    Settings {
        record_bytes: Some(writing.record_bytes),
        keys: writing.keys,
        producers: writing.writers,
        consumers: 0,
        rate: writing.rate,
        warmup_seconds: warmup.as_secs_f64(),
        acks: Some(match producer.acks {
            Acks::All => "all",
            Acks::Leader => "leader",
            Acks::None => "none",
        }),
        compression: Some(producer.compression.to_string()),
        batch_bytes: Some(producer.batch_bytes),
        linger_ms: Some(u64::try_from(producer.linger.as_millis()).unwrap_or(u64::MAX)),
        ..reading_settings(topic, 0)
    }
}

fn reading_settings(topic: &BenchTopic, consumers: u32) -> Settings {
    Settings {
        topic: topic.name.clone(),
        partitions: topic.partitions,
        record_bytes: None,
        keys: None,
        producers: 0,
        consumers,
        rate: None,
        warmup_seconds: 0.0,
        acks: None,
        compression: None,
        batch_bytes: None,
        linger_ms: None,
    }
}

/// Runs a benchmark.
pub async fn run(command: BenchCommand) -> CommandResult {
    match command {
        BenchCommand::Produce(args) => produce(args).await,
        BenchCommand::Consume(args) => consume(args).await,
        BenchCommand::Latency(args) => latency(args).await,
    }
}

async fn produce(args: ProduceArgs) -> CommandResult {
    let mut writing = args.load.writing(args.request.timeout)?;
    let default = args.records.is_none().then_some(Duration::from_secs(10));
    writing.records = args.records;
    writing.duration = args.duration.or(default);
    writing.rate = args
        .rate
        .map(|rate| rate.records_per_second(writing.record_bytes));
    check_warmup(args.warmup, writing.duration)?;
    let stage = Stage::open(&args.request, &args.topic).await?;
    let settings = writing_settings(&stage.topic, &writing, args.warmup);
    let scene = stage.scene(settings, args.warmup);
    let report = stage
        .perform(&scene, bench::produce(&scene, &writing))
        .await;
    stage.finish(&args.request, report).await
}

async fn latency(args: LatencyArgs) -> CommandResult {
    let mut writing = args.load.writing(args.request.timeout)?;
    if writing.record_bytes < STAMP_BYTES && args.consumers > 0 {
        return Err(CommandError::usage(format_args!(
            "--record-size must be at least {STAMP_BYTES}: each value carries the moment at which \
             it was due"
        )));
    }
    let warmup = args.warmup.unwrap_or(WARMUP.min(args.duration / 4));
    writing.duration = Some(args.duration);
    writing.rate = Some(args.rate.records_per_second(writing.record_bytes));
    check_warmup(warmup, writing.duration)?;
    let stage = Stage::open(&args.request, &args.topic).await?;
    let settings = Settings {
        consumers: args.consumers,
        ..writing_settings(&stage.topic, &writing, warmup)
    };
    let scene = stage.scene(settings, warmup);
    let report = stage
        .perform(&scene, bench::latency(&scene, &writing))
        .await;
    stage.finish(&args.request, report).await
}

async fn consume(args: ConsumeArgs) -> CommandResult {
    let mut writing = args.load.writing(args.request.timeout)?;
    writing.records = Some(args.records);
    let stage = Stage::open(&args.request, &args.topic).await?;
    if args.topic.topic.is_none() {
        output::note(format_args!(
            "writing {} to read",
            counted(args.records, "record")
        ));
        let settings = writing_settings(&stage.topic, &writing, Duration::ZERO);
        let scene = stage.scene(settings, Duration::ZERO);
        let filled = stage
            .perform(&scene, bench::produce(&scene, &writing))
            .await;
        if !filled.as_ref().is_ok_and(Report::passed) || scene.stop.load(Ordering::Relaxed) {
            // What could not be filled is reported as what it was: a write.
            return stage.finish(&args.request, filled).await;
        }
    }
    let settings = reading_settings(&stage.topic, args.consumers);
    let scene = stage.scene(settings, Duration::ZERO);
    let report = stage.perform(&scene, bench::consume(&scene)).await;
    stage.finish(&args.request, report).await
}

fn check_warmup(warmup: Duration, duration: Option<Duration>) -> CommandResult {
    if duration.is_some_and(|duration| duration.is_zero()) {
        return Err(CommandError::usage("--duration must be more than nothing"));
    }
    if duration.is_some_and(|duration| warmup >= duration) {
        return Err(CommandError::usage(
            "--warmup must be shorter than --duration: nothing would count",
        ));
    }
    Ok(())
}

/// A cluster and a topic in it.
struct Stage {
    client: Client,
    topic: BenchTopic,
}

impl Stage {
    async fn open(request: &RequestArgs, topic: &TopicArgs) -> CommandResult<Stage> {
        let client = session::open(request).await?;
        let name = topic.topic.as_deref();
        let topic = BenchTopic::open(&client, name, &topic.shape(), request.timeout).await?;
        Ok(Stage { client, topic })
    }

    fn scene(&self, settings: Settings, warmup: Duration) -> Scene {
        Scene {
            client: self.client.config().clone(),
            settings,
            warmup,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Runs to the end, or until a signal; then what was measured so far counts. A second signal
    /// ends it without a report.
    async fn perform(
        &self,
        scene: &Scene,
        work: impl Future<Output = anyhow::Result<Report>>,
    ) -> anyhow::Result<Report> {
        let mut stop = signals::stop()?;
        let mut work = std::pin::pin!(work);
        tokio::select! {
            report = &mut work => return report,
            _ = stop.wait() => scene.stop.store(true, Ordering::Relaxed),
        }
        tokio::select! {
            report = &mut work => report,
            signal = stop.wait() => anyhow::bail!("stopped at once by a second {signal}"),
        }
    }

    /// Takes the run's own topic away and prints the report.
    async fn finish(self, request: &RequestArgs, report: anyhow::Result<Report>) -> CommandResult {
        let removed = self.topic.close(&self.client).await;
        let report = report?;
        output::print(request.output.output, &report, Report::text)?;
        removed?;
        if report.passed() {
            Ok(())
        } else {
            Err(CommandError::condition_told("some records failed"))
        }
    }
}
