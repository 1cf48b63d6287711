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
mod logging;
mod nearest;
mod node;
mod observe;
mod output;
mod parent;
mod position;
mod session;
mod signals;
mod timestamp;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{CommandResult, Exit};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
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

/// Prints what clap says, help and versions among it, with a number that is none told in words.
fn refuse(error: &clap::Error) -> ExitCode {
    let again = args::missing_as_typed(error);
    let error = again.as_ref().unwrap_or(error);
    match args::number_refused(error) {
        Some(text) => output::note(text.trim_end()),
        // Where nobody reads, there is nobody to tell.
        None => drop(error.print()),
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
}

fn prepare_and_run(cli: Cli) -> CommandResult {
    let default = match cli.command {
        Command::Server(_) => logging::OF_A_SERVER,
        _ => logging::OF_A_COMMAND,
    };
    logging::init(cli.log_level.as_deref(), default)?;
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
