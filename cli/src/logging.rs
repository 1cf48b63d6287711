//! What is traced to standard error: which events, and what a stopping process no longer says.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::Level;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::exit::{CommandError, CommandResult};

/// By default, what a server tells, and what any other command does.
pub const OF_A_SERVER: &str = "info,openraft=error,sled=warn";
pub const OF_A_COMMAND: &str = "warn,openraft=error,sled=error";

/// Those who tell of peers that do not answer. While their own process stops, that is no news.
const TELL_OF_PEERS: [&str; 3] = [
    "openraft",
    "ottla_broker::isr",
    "ottla_controller::active::worker",
];

/// Whether the nodes of this process were told to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// From now on, peers that cannot be reached are worth no more than a debug line.
pub fn nodes_stop() {
    STOPPING.store(true, Ordering::Relaxed);
}

/// Sends what is traced to standard error: by `level`, else `RUST_LOG`, else a default.
pub fn init(level: Option<&str>, default: &str) -> CommandResult {
    let filter = match level {
        Some(level) => EnvFilter::try_new(level)
            .map_err(|error| CommandError::usage(format_args!("--log-level {level}: {error}")))?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default)),
    };
    let stderr = std::io::stderr;
    let of_use = dynamic_filter_fn(|event, _| {
        !STOPPING.load(Ordering::Relaxed) || is_news_while_stopping(event.target(), *event.level())
    });
    let lines = fmt::layer()
        .with_writer(stderr)
        // A line that cannot be written, to a log on a full disk, is lost. Complaining about it
        // on the same standard error would panic.
        .log_internal_errors(false)
        .with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_filter(of_use);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    Ok(())
}

fn is_news_while_stopping(target: &str, level: Level) -> bool {
    let of_peers = TELL_OF_PEERS.iter().any(|module| {
        let rest = target.strip_prefix(module);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    });
    // Whoever asked for details gets them.
    !of_peers || level >= Level::DEBUG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopping_process_complains_of_its_disks_and_not_of_its_peers() {
        let told = is_news_while_stopping;
        assert!(!told("openraft", Level::ERROR));
        assert!(!told("openraft::core::heartbeat::worker", Level::WARN));
        assert!(!told("ottla_broker::isr", Level::WARN));
        assert!(told("openraft::core", Level::DEBUG));
        assert!(told("ottla_broker::node", Level::WARN));
        assert!(told("openraft_elsewhere", Level::WARN));
    }
}
