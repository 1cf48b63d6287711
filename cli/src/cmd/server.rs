//! `ottla server`: runs a node until it is told to stop, or checks its configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;
use tracing::info;

use crate::args::OutputArgs;
use crate::config::{LogSettings, NodeConfig, Overrides};
use crate::exit::{CommandError, CommandResult, Exit};
use crate::node::{Departure, Node};
use crate::output::{self, OutputFormat};
use crate::{logging, parent, signals};

/// Options of `ottla server`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ServerArgs {
    #[command(subcommand)]
    command: Option<ServerCommand>,
    #[command(flatten)]
    node: Option<NodeArgs>,
    /// End when this process, which must be the parent, does
    #[arg(long, value_name = "PID", hide = true)]
    die_with_parent: Option<i32>,
}

/// Commands under `ottla server`.
#[derive(Debug, Subcommand)]
enum ServerCommand {
    /// Check a configuration file and show every setting in effect
    CheckConfig(CheckArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The node's configuration file
    #[arg(short, long, env = "OTTLA_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Where the node keeps everything; wins over the file
    #[arg(long, env = "OTTLA_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl NodeArgs {
    fn load(&self) -> CommandResult<NodeConfig> {
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
        };
        NodeConfig::load(&self.config, overrides)
            .map_err(|error| CommandError::new(Exit::Usage, error))
    }
}

/// Runs a node, or what stands below `ottla server`.
pub async fn run(args: ServerArgs) -> CommandResult {
    if let Some(ServerCommand::CheckConfig(check)) = args.command {
        return check_config(&check.node.load()?, check.output.output);
    }
    let Some(node) = args.node else {
        return Err(CommandError::usage("--config FILE is missing"));
    };
    if let Some(pid) = args.die_with_parent {
        parent::die_with(pid)?;
    }
    serve(node.load()?).await
}

async fn serve(config: NodeConfig) -> CommandResult {
    let mut stop = signals::stop_or_quit()?;
    let id = config.id;
    let node = tokio::select! {
        started = Node::start(config) => started?,
        signal = stop.wait() => {
            info!(%id, signal, "stopped before the node had started");
            return Ok(());
        }
    };
    info!(%id, state = ?node.state(), "node started");
    let failed = node.wait_failed();
    let mut departure = Departure::FromTheCluster;
    tokio::select! {
        reason = failed => {
            // A node that cannot go on hands nothing over: its closed connections say that it is
            // gone, and the others take over at once.
            return Err(anyhow::anyhow!("node {id} failed: {reason}").into());
        }
        signal = stop.wait() => {
            info!(%id, signal, "stopping");
            logging::nodes_stop();
            if signal == signals::QUIT {
                departure = Departure::WithTheCluster;
            }
        }
    }
    tokio::select! {
        () = node.shutdown(departure) => {}
        signal = stop.wait() => {
            return Err(anyhow::anyhow!("stopped at once by a second {signal}").into());
        }
    }
    info!(%id, "stopped");
    Ok(())
}

/// Every setting in effect, by the key that sets it.
fn settings(config: &NodeConfig) -> Vec<(&'static str, Value)> {
    let mut settings = all_settings(config);
    settings.retain(|(key, _)| config.roles.broker || !is_for_brokers_only(key));
    settings
}

fn all_settings(config: &NodeConfig) -> Vec<(&'static str, Value)> {
    let election = &config.controller.election_timeout;
    let voters: Vec<String> = config
        .controllers
        .iter()
        .map(|voter| format!("{}@{}", voter.id, voter.address))
        .collect();
    let mut settings = vec![
        ("node.id", config.id.0.into()),
        ("node.roles", config.roles.to_string().into()),
        (
            "node.data_dir",
            config.data_dir.display().to_string().into(),
        ),
        ("node.rack", config.rack.clone().into()),
        ("listen.client", config.listen.client.to_string().into()),
        ("listen.internal", config.listen.internal.to_string().into()),
        (
            "advertise.client",
            config.advertise.client.to_string().into(),
        ),
        (
            "advertise.internal",
            config.advertise.internal.to_string().into(),
        ),
        ("controllers", voters.into()),
        (
            "controller.heartbeat_ms",
            millis(config.controller.heartbeat),
        ),
        (
            "controller.election_timeout_ms",
            vec![millis(*election.start()), millis(*election.end())].into(),
        ),
        (
            "controller.session_timeout_ms",
            millis(config.controller.session_timeout),
        ),
        (
            "controller.snapshot_interval_entries",
            config.controller.snapshot_interval_entries.into(),
        ),
        (
            "broker.beat_interval_ms",
            millis(config.broker.beat_interval),
        ),
        (
            "broker.replica_lag_time_max_ms",
            millis(config.broker.replica_lag_time_max),
        ),
        ("broker.threads", config.broker.threads.into()),
        (
            "broker.producer_expiration_ms",
            millis(config.broker.producer_expiration),
        ),
        (
            "broker.retention_check_interval_ms",
            millis(config.broker.retention_check_interval),
        ),
        (
            "broker.compaction_check_interval_ms",
            millis(config.broker.compaction_check_interval),
        ),
        ("limits.connections", config.limits.connections.into()),
        (
            "limits.streams_per_connection",
            config.limits.streams_per_connection.into(),
        ),
    ];
    settings.extend(log_settings(&config.log));
    settings
}

/// Whether a setting says nothing to a node that is no broker. How often brokers beat, controllers
/// tell them.
fn is_for_brokers_only(key: &str) -> bool {
    let one = ["node.rack", "listen.client", "advertise.client"].contains(&key);
    let section = ["broker.", "log.", "limits."];
    one || (key != "broker.beat_interval_ms" && section.iter().any(|it| key.starts_with(it)))
}

fn log_settings(log: &LogSettings) -> [(&'static str, Value); 8] {
    [
        ("log.journal_file_bytes", log.journal_file_bytes.into()),
        ("log.checkpoint_bytes", log.checkpoint_bytes.into()),
        ("log.tail_cache_bytes", log.tail_cache_bytes.into()),
        ("log.disk_reserve_bytes", log.disk_reserve_bytes.into()),
        (
            "log.scrub_bytes_per_second",
            log.scrub_bytes_per_second.into(),
        ),
        ("log.scrub_interval_ms", millis(log.scrub_interval)),
        (
            "log.compaction_bytes_per_second",
            log.compaction_bytes_per_second.into(),
        ),
        (
            "log.compaction_memory_bytes",
            log.compaction_memory_bytes.into(),
        ),
    ]
}

fn millis(duration: std::time::Duration) -> Value {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .into()
}

/// What `check-config` tells: each setting in effect, by the key that sets it.
#[derive(Debug, Serialize)]
struct Checked {
    ok: bool,
    settings: BTreeMap<&'static str, Value>,
}

/// A setting's value for people: several joined by commas, none as a dash.
fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let texts: Vec<String> = values.iter().map(value_text).collect();
            texts.join(", ")
        }
        other => other.to_string(),
    }
}

fn check_config(config: &NodeConfig, format: OutputFormat) -> CommandResult {
    let settings = settings(config);
    let checked = Checked {
        ok: true,
        settings: settings.iter().cloned().collect(),
    };
    output::print(format, &checked, |_| {
        let mut text = String::from("ok\n");
        for (key, value) in &settings {
            text.push_str(&format!("{key:<38}{}\n", value_text(value)));
        }
        text
    })?;
    if config.controllers.len().is_multiple_of(2) {
        output::note(format_args!(
            "note: {} controllers survive no more failures than {}; use 3 or 5",
            config.controllers.len(),
            config.controllers.len() - 1
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn check_config_takes_output_as_every_command_does() {
        let line = "ottla server check-config --config f.toml --output json";
        assert!(Cli::try_parse_from(line.split(' ')).is_ok());
    }

    #[test]
    fn settings_are_numbers_for_programs_and_text_for_people() {
        let text = "controllers = [{ id = 1, address = \"127.0.0.1:19093\" }]\n\
                    [node]\nid = 1\nroles = [\"controller\", \"broker\"]\ndata_dir = \"d\"\n\
                    [listen]\nclient = \"127.0.0.1:19092\"\ninternal = \"127.0.0.1:19093\"\n";
        let config = NodeConfig::parse(Path::new("f"), text, Overrides::default()).unwrap();
        let settings: BTreeMap<_, _> = settings(&config).into_iter().collect();
        assert_eq!(settings["node.id"], 1);
        assert!(settings["broker.beat_interval_ms"].is_u64());
        assert_eq!(value_text(&settings["node.rack"]), "-");
        assert_eq!(value_text(&settings["controllers"]), "1@127.0.0.1:19093");
    }

    #[test]
    fn a_controller_is_not_told_what_only_brokers_have() {
        let text = "controllers = [{ id = 1, address = \"127.0.0.1:19093\" }]\n\
                    [node]\nid = 1\nroles = [\"controller\"]\ndata_dir = \"d\"\n\
                    [listen]\ninternal = \"127.0.0.1:19093\"\n";
        let config = NodeConfig::parse(Path::new("f"), text, Overrides::default()).unwrap();
        let keys: Vec<_> = settings(&config).into_iter().map(|(key, _)| key).collect();
        let expected = [
            "node.id",
            "node.roles",
            "node.data_dir",
            "listen.internal",
            "advertise.internal",
            "controllers",
            "controller.heartbeat_ms",
            "controller.election_timeout_ms",
            "controller.session_timeout_ms",
            "controller.snapshot_interval_entries",
            "broker.beat_interval_ms",
        ];
        assert_eq!(keys, expected);
    }
}
