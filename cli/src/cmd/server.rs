//! `ottla server`: runs a node until it is told to stop, or checks its configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tracing::info;

use crate::config::{NodeConfig, Overrides};
use crate::exit::{CommandError, CommandResult, Exit};
use crate::node::Node;
use crate::{output, parent, signals};

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
    CheckConfig(NodeArgs),
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
    if let Some(ServerCommand::CheckConfig(node)) = args.command {
        return check_config(&node.load()?);
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
    let mut stop = signals::stop()?;
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
    let outcome = tokio::select! {
        reason = failed => Err(CommandError::from(anyhow::anyhow!("node {id} failed: {reason}"))),
        signal = stop.wait() => {
            info!(%id, signal, "stopping");
            Ok(())
        }
    };
    tokio::select! {
        () = node.shutdown() => {}
        signal = stop.wait() => {
            return Err(anyhow::anyhow!("stopped at once by a second {signal}").into());
        }
    }
    info!(%id, "stopped");
    outcome
}

/// Every setting in effect, by the key that sets it.
fn settings(config: &NodeConfig) -> Vec<(&'static str, String)> {
    let show = |duration: std::time::Duration| format!("{} ms", duration.as_millis());
    let election = &config.controller.election_timeout;
    let voters: Vec<String> = config
        .controllers
        .iter()
        .map(|voter| format!("{}@{}", voter.id, voter.address))
        .collect();
    let mut all = vec![
        ("node.id", config.id.to_string()),
        ("node.roles", config.roles.to_string()),
        ("node.data_dir", config.data_dir.display().to_string()),
        ("node.rack", output::or_dash(config.rack.as_ref())),
        ("listen.client", config.listen.client.to_string()),
        ("listen.internal", config.listen.internal.to_string()),
        ("advertise.client", config.advertise.client.to_string()),
        ("advertise.internal", config.advertise.internal.to_string()),
        ("controllers", voters.join(", ")),
        ("controller.heartbeat_ms", show(config.controller.heartbeat)),
        (
            "controller.election_timeout_ms",
            format!("{} to {}", show(*election.start()), show(*election.end())),
        ),
        (
            "controller.session_timeout_ms",
            show(config.controller.session_timeout),
        ),
        (
            "controller.snapshot_interval_entries",
            config.controller.snapshot_interval_entries.to_string(),
        ),
        ("broker.beat_interval_ms", show(config.broker.beat_interval)),
        (
            "broker.replica_lag_time_max_ms",
            show(config.broker.replica_lag_time_max),
        ),
        ("broker.threads", config.broker.threads.to_string()),
        (
            "broker.producer_expiration_ms",
            show(config.broker.producer_expiration),
        ),
        (
            "broker.retention_check_interval_ms",
            show(config.broker.retention_check_interval),
        ),
        (
            "broker.compaction_check_interval_ms",
            show(config.broker.compaction_check_interval),
        ),
        ("limits.connections", config.limits.connections.to_string()),
        (
            "limits.streams_per_connection",
            config.limits.streams_per_connection.to_string(),
        ),
    ];
    all.extend(log_settings(config).map(|(key, bytes)| (key, bytes.to_string())));
    all
}

/// Those of `[log]`, all in bytes.
fn log_settings(config: &NodeConfig) -> [(&'static str, u64); 5] {
    let log = &config.log;
    [
        ("log.journal_file_bytes", log.journal_file_bytes),
        ("log.checkpoint_bytes", log.checkpoint_bytes),
        ("log.tail_cache_bytes", log.tail_cache_bytes),
        (
            "log.compaction_bytes_per_second",
            log.compaction_bytes_per_second,
        ),
        ("log.compaction_memory_bytes", log.compaction_memory_bytes),
    ]
}

fn check_config(config: &NodeConfig) -> CommandResult {
    let mut text = String::from("ok\n");
    for (key, value) in settings(config) {
        text.push_str(&format!("{key:<38}{value}\n"));
    }
    output::print_text(&text)?;
    if config.controllers.len().is_multiple_of(2) {
        output::note(format_args!(
            "note: {} controllers survive no more failures than {}; use 3 or 5",
            config.controllers.len(),
            config.controllers.len() - 1
        ));
    }
    Ok(())
}
