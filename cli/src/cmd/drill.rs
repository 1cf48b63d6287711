//! `ottla drill`: kills something on purpose, and tells what users felt and whether anything they
//! were promised was broken.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::args::OutputArgs;
use crate::dev::Shape;
use crate::drill::{self, DrillOptions, Report, Target};
use crate::exit::{CommandError, CommandResult};
use crate::{output, signals};

/// Commands under `ottla drill`.
#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// Kill the active controller
    Controller(DrillArgs),
    /// Kill the broker that leads the most partitions
    Broker(DrillArgs),
}

#[derive(Debug, Args)]
pub struct DrillArgs {
    /// How many rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// The most milliseconds until every affected partition acknowledges again, or, if none is
    /// affected, until a new controller is active; exits with 3 if a round takes longer
    #[arg(long, value_name = "MS")]
    slo_ms: Option<u64>,
    /// The directory of a cluster that `ottla dev --processes --data-dir` runs; without it the
    /// drill starts one of three controllers and three brokers, and removes it afterwards
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Start three nodes that are both controller and broker, so that both die at once
    #[arg(long, conflicts_with = "data_dir")]
    combined: bool,
    /// How many records are written in a second
    #[arg(
        long,
        default_value_t = 2_000,
        value_name = "RECORDS",
        value_parser = clap::value_parser!(u32).range(12..=1_000_000)
    )]
    rate: u32,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs a drill.
pub async fn run(command: DrillCommand) -> CommandResult {
    let (target, args) = match command {
        DrillCommand::Controller(args) => (Target::Controller, args),
        DrillCommand::Broker(args) => (Target::Broker, args),
    };
    let shape = if args.combined {
        Shape::Combined { nodes: 3 }
    } else {
        Shape::Isolated {
            controllers: 3,
            brokers: 3,
        }
    };
    let options = DrillOptions {
        target,
        times: args.times,
        slo: args.slo_ms.map(Duration::from_millis),
        data_dir: args.data_dir,
        shape,
        rate: args.rate,
    };
    let mut stop = signals::stop()?;
    let report = tokio::select! {
        report = drill::run(&options) => report?,
        // Dropping the drill kills the processes of its own cluster and removes their files.
        signal = stop.wait() => return Err(anyhow::anyhow!("stopped by {signal}").into()),
    };
    output::print(args.output.output, &report, Report::text)?;
    if report.passed() {
        Ok(())
    } else {
        Err(CommandError::condition_told("the drill failed"))
    }
}
