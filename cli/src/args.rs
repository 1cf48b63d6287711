//! The command line: what can be typed, and the options that commands share.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

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
    /// How long to wait for the cluster's answer
    #[arg(long, default_value = "30s", value_parser = duration::parse)]
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn pairs_split_at_the_first_equals_sign() {
        let pair = key_value("a=b=c").unwrap();
        assert_eq!((pair.key.as_str(), pair.value.as_str()), ("a", "b=c"));
        assert!(key_value("=b").is_err());
        assert!(key_value("a").is_err());
    }
}
