//! The `ottla` binary: parses the command line, sets up logging and the runtime, runs one command,
//! and turns its outcome into one line and an exit code.

mod args;
mod bench;
mod cmd;
mod config;
mod dev;
mod drill;
mod duration;
mod exit;
mod format;
mod health;
mod node;
mod observe;
mod output;
mod parent;
mod position;
mod session;
mod signals;
mod timestamp;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::exit::{CommandError, CommandResult};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match prepare_and_run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_stdout_closed() => ExitCode::SUCCESS,
        Err(error) => {
            if !error.told {
                output::note(format_args!("error: {error}"));
            }
            ExitCode::from(error.exit as u8)
        }
    }
}

fn prepare_and_run(cli: Cli) -> CommandResult {
    init_logging(&cli)?;
    // One hot connection moves more on a single thread than on a work-stealing pool. Nodes bring
    // threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(run(cli.command));
    // A read of standard input that never ends must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Sends what is traced to standard error: by `--log-level`, else `RUST_LOG`, else a default.
fn init_logging(cli: &Cli) -> CommandResult {
    let default = match cli.command {
        Command::Server(_) => "info,openraft=error,sled=warn",
        _ => "warn,openraft=error,sled=error",
    };
    let filter = match &cli.log_level {
        Some(level) => EnvFilter::try_new(level)
            .map_err(|error| CommandError::usage(format_args!("--log-level {level}: {error}")))?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default)),
    };
    let stderr = std::io::stderr;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        // A line that cannot be written, to a log on a full disk, is lost. Complaining about it
        // on the same standard error would panic.
        .log_internal_errors(false)
        .with_ansi(stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
    Ok(())
}

async fn run(command: Command) -> CommandResult {
    match command {
        Command::Dev(args) => cmd::dev::run(args).await,
        Command::Server(args) => cmd::server::run(args).await,
        Command::Topic(command) => cmd::topic::run(command).await,
        Command::Produce(args) => cmd::produce::run(args).await,
        Command::Consume(args) => cmd::consume::run(args).await,
        Command::Broker(command) => cmd::broker::run(command).await,
        Command::Quorum(command) => cmd::quorum::run(command).await,
        Command::Cluster(command) => cmd::cluster::run(command).await,
        Command::Drill(command) => cmd::drill::run(command).await,
        Command::Bench(command) => cmd::bench::run(command).await,
        Command::Log(command) => cmd::log::run(&command),
        Command::Completion(args) => cmd::completion::run(&args),
    }
}
