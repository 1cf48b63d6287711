//! The command line: what can be typed, and the options that commands share.

use std::error::Error as _;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::bench::Amount;
use crate::cmd::{
    bench, broker, cluster, completion, consume, dev, drill, log, produce, quorum, server, topic,
};
use crate::duration;
use crate::output::OutputFormat;

/// A durable, replicated event-streaming cluster, and every tool for it.
#[derive(Debug, Parser)]
#[command(
    name = "ottla",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to tell on standard error: off, error, warn, info, debug, trace, or a filter such as
    /// `ottla_broker=debug`. By default warn, and info for a server. RUST_LOG does the same
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a cluster on this machine
    ///
    /// Its nodes share the machine, so each takes less of it than a server does by default:
    /// log.journal_file_bytes is 32 MiB, log.checkpoint_bytes 128 MiB, log.tail_cache_bytes 16 MiB,
    /// and log.disk_reserve_bytes 192 MiB for each broker, at least 512. With --data-dir they stand
    /// in DIR/node-N/ottla.toml, where they may be changed
    Dev(dev::DevArgs),
    /// Run a node
    Server(server::ServerArgs),
    /// Create, inspect, change and delete topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Write records from standard input to a topic
    Produce(produce::ProduceArgs),
    /// Read a topic's records to standard output
    Consume(consume::ConsumeArgs),
    /// Inspect brokers
    #[command(subcommand)]
    Broker(broker::BrokerCommand),
    /// Inspect the controllers' quorum
    #[command(subcommand)]
    Quorum(quorum::QuorumCommand),
    /// Look at the cluster as a whole
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Kill something on purpose and measure what users felt
    #[command(subcommand)]
    Drill(drill::DrillCommand),
    /// Measure how much a cluster takes, and how soon it acknowledges
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Look into the files of a stopped node
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
}

/// Which cluster.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Brokers to begin with, host:port[,host:port…]
    #[arg(
        long,
        env = "OTTLA_BOOTSTRAP",
        default_value = "127.0.0.1:9092",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    pub bootstrap: Vec<String>,
}

/// How results are written.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// How results are written to standard output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: OutputFormat,
}

/// What nearly every command that asks a cluster takes.
#[derive(Debug, Clone, Args)]
pub struct RequestArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// How long to wait for the cluster's answer, such as 500ms, 10s or 5m; a bare number means
    /// seconds
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration::parse)]
    pub timeout: Duration,
}

/// A `name=value` pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
}

/// Parses `name=value`; the value may be empty and may hold further equals signs.
pub fn key_value(text: &str) -> Result<KeyValue, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(KeyValue {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
        _ => Err(format!("'{text}' is no name=value")),
    }
}

/// Parses `name=value` for a topic's setting. Blanks around the commas of `cleanup.policy` are left
/// out. One that counts milliseconds (`….ms`) may also be given as a duration with a unit, one that
/// counts bytes (`….bytes`) as a size; a bare number is milliseconds or bytes, as everywhere in
/// Kafka.
pub fn topic_setting(text: &str) -> Result<KeyValue, String> {
    let mut pair = key_value(text)?;
    if pair.key == "cleanup.policy" {
        let policies: Vec<_> = pair.value.split(',').map(str::trim).collect();
        pair.value = policies.join(",");
    }
    if pair.value.parse::<i64>().is_ok() {
        return Ok(pair);
    }
    // Only with a unit: what a bare number means here, the cluster says.
    let has_unit = pair
        .value
        .ends_with(|last: char| last.is_ascii_alphabetic());
    let given = has_unit.then_some(pair.value.as_str());
    let (parsed, expected) = if pair.key.ends_with(".ms") {
        let duration = given.and_then(|value| duration::parse(value).ok());
        let parsed = duration.map(|duration| duration.as_millis().to_string());
        let expected = "milliseconds, or a whole number with a unit, as 7d: ms, s, m, h or d";
        (parsed, expected)
    } else if pair.key.ends_with(".bytes") {
        let size = given.and_then(|value| value.parse::<Amount>().ok());
        let parsed = size.map(|size| size.0.to_string());
        let expected =
            "bytes, or a whole number with a unit, as 64MiB: B, KB, MB, GB, KiB, MiB or GiB";
        (parsed, expected)
    } else {
        return Ok(pair);
    };
    let KeyValue { key, value } = pair;
    match parsed {
        Some(value) => Ok(KeyValue { key, value }),
        None => Err(format!("{key} cannot be '{value}'; give {expected}")),
    }
}

/// The text of a refused command line in which a number is none, in words for people.
pub fn number_refused(error: &clap::Error) -> Option<String> {
    let cause: &ParseIntError = error.source()?.downcast_ref()?;
    let words = match cause.kind() {
        IntErrorKind::PosOverflow => "the number is too large",
        IntErrorKind::NegOverflow => "the number is too small",
        _ => "it is no whole number",
    };
    let text = error.render().to_string();
    Some(text.replace(&cause.to_string(), words))
}

/// The refusal of a command line that lacks something, by the command line alone: an option that
/// the environment gives would stand in the usage as if it had to be typed.
pub fn missing_as_typed(error: &clap::Error) -> Option<clap::Error> {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return None;
    }
    without_bootstrap_env(Cli::command())
        .try_get_matches()
        .err()
}

fn without_bootstrap_env(command: clap::Command) -> clap::Command {
    let typed = |arg: clap::Arg| match arg.get_id().as_str() {
        "bootstrap" => arg.env(None),
        _ => arg,
    };
    command
        .mut_args(typed)
        .mut_subcommands(without_bootstrap_env)
}

/// Parses a count of things of which there is at least one. Zero is refused: on the wire it would
/// mean the default, which only leaving the option out asks for.
pub fn at_least_one<T: FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, String> {
    let count = text.parse().ok().filter(|count: &T| *count >= T::from(1));
    count.ok_or_else(|| {
        "it is a whole number from 1 on; leave the option out if you want no particular one"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::any::TypeId;

    use super::*;

    /// Every option of every command.
    fn all_options(command: &clap::Command) -> Vec<(String, clap::Arg)> {
        let own = command.get_arguments();
        let own = own.map(|arg| (format!("{} {arg}", command.get_name()), arg.clone()));
        let below = command.get_subcommands().flat_map(all_options);
        own.chain(below).collect()
    }

    #[test]
    fn every_option_that_takes_a_duration_says_what_a_bare_number_means() {
        let mut command = Cli::command();
        command.build();
        let durations: Vec<_> = all_options(&command)
            .into_iter()
            .filter(|(_, arg)| arg.get_value_parser().type_id() == TypeId::of::<Duration>())
            .collect();
        assert!(durations.len() > 3, "{}", durations.len());
        for (name, arg) in durations {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains("a bare number means seconds"),
                "{name}: {help}"
            );
        }
    }

    #[test]
    fn every_argument_is_described() {
        let mut command = Cli::command();
        command.build();
        let options = all_options(&command).into_iter();
        let silent = options.filter(|(_, arg)| arg.get_help().is_none());
        // Of the command `help`, which clap adds.
        let silent: Vec<_> = silent
            .filter(|(_, arg)| arg.get_id() != "subcommand")
            .collect();
        let silent: Vec<_> = silent.iter().map(|(name, _)| name).collect();
        assert!(silent.is_empty(), "{silent:?}");
    }

    #[test]
    fn a_count_of_zero_is_refused_rather_than_taken_for_the_default() {
        for line in [
            "topic create t --partitions 0",
            "topic create t --partitions -1",
            "topic create t --replication-factor 0",
            "topic create t --replication-factor x",
            "topic alter t --partitions 0",
        ] {
            let words = ["ottla"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(words).expect_err(line);
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::ValueValidation | ErrorKind::UnknownArgument
                ),
                "{line}: {error}"
            );
        }
        let good = "ottla topic create t --partitions 1 --replication-factor 1";
        assert!(Cli::try_parse_from(good.split(' ')).is_ok());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_number_that_is_none_is_told_in_words() {
        for (line, words) in [
            ("consume t -n x", "it is no whole number"),
            ("topic trim t --before-offset x", "it is no whole number"),
            ("dev --nodes x", "it is no whole number"),
            (
                "consume t -n 99999999999999999999",
                "the number is too large",
            ),
        ] {
            let line = ["ottla"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(line).unwrap_err();
            let text = number_refused(&error).unwrap();
            assert!(text.contains(words) && !text.contains("digit"), "{text}");
        }
        let other = Cli::try_parse_from(["ottla", "none"]).unwrap_err();
        assert_eq!(number_refused(&other), None);
    }

    #[test]
    fn a_trim_before_a_negative_offset_says_how_to_drop_everything() {
        let line = "ottla topic trim t --before-offset -1";
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("begin at 0") && text.contains("--all"),
            "{text}"
        );
    }

    #[test]
    fn settings_in_milliseconds_take_durations_with_a_unit() {
        let value = |text: &str| topic_setting(text).map(|pair| pair.value);
        assert_eq!(value("retention.ms=7d").as_deref(), Ok("604800000"));
        assert_eq!(value("segment.ms=250ms").as_deref(), Ok("250"));
        assert_eq!(value("retention.ms=60000").as_deref(), Ok("60000"));
        assert_eq!(value("retention.ms=-1").as_deref(), Ok("-1"));
        assert_eq!(value("compression.type=7d").as_deref(), Ok("7d"));
        let both = value("cleanup.policy= compact, delete");
        assert_eq!(both.as_deref(), Ok("compact,delete"));
        for text in ["retention.ms=7w", "retention.ms=1.5", "retention.ms="] {
            let refused = value(text).unwrap_err();
            assert!(refused.contains("with a unit, as 7d"), "{text}: {refused}");
        }
    }

    #[test]
    fn settings_in_bytes_take_sizes_with_a_unit() {
        let value = |text: &str| topic_setting(text).map(|pair| pair.value);
        assert_eq!(value("segment.bytes=1MiB").as_deref(), Ok("1048576"));
        assert_eq!(value("retention.bytes=2GB").as_deref(), Ok("2000000000"));
        assert_eq!(value("retention.bytes=-1").as_deref(), Ok("-1"));
        assert_eq!(value("max.message.bytes=4096").as_deref(), Ok("4096"));
        for text in ["segment.bytes=1mib", "segment.bytes=7d", "segment.bytes="] {
            let refused = value(text).unwrap_err();
            assert!(
                refused.contains("with a unit, as 64MiB"),
                "{text}: {refused}"
            );
        }
    }

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        let pair = key_value("a=b=c").unwrap();
        assert_eq!((pair.key.as_str(), pair.value.as_str()), ("a", "b=c"));
        assert!(key_value("=b").is_err());
        assert!(key_value("a").is_err());
    }
}
