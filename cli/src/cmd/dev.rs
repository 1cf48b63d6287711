//! `ottla dev`: a cluster on this machine, until Ctrl-C.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::args::OutputArgs;
use crate::dev::{DevCluster, DevOptions, Manifest, Place, Shape};
use crate::duration;
use crate::exit::{CommandError, CommandResult};
use crate::output::{self, Table};
use crate::{logging, signals};

/// The address that clients use when none is given.
const DEFAULT_BOOTSTRAP: &str = "127.0.0.1:9092";

/// Options of `ottla dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// How many nodes, each controller and broker; 3 if not given
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: Option<u16>,
    /// How many controllers, apart from the brokers
    #[arg(
        long,
        value_parser = clap::value_parser!(u16).range(1..=9),
        requires = "brokers",
        conflicts_with = "nodes"
    )]
    controllers: Option<u16>,
    /// How many brokers, apart from the controllers
    #[arg(
        long,
        value_parser = clap::value_parser!(u16).range(1..=64),
        requires = "controllers",
        conflicts_with = "nodes"
    )]
    brokers: Option<u16>,
    /// Keep the cluster here, and start it again from here; without it nothing is kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Run each node as a process of its own, so that it can be killed
    #[arg(long)]
    processes: bool,
    /// The first port, for the first start; each node takes two. By default 9092 on if they are
    /// free, else any. A cluster that is kept keeps its ports
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    base_port: Option<u16>,
    /// How long the cluster may take to become healthy, such as 30s or 2m; a bare number means
    /// seconds
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    output: OutputArgs,
}

impl DevArgs {
    fn options(&self) -> DevOptions {
        let combined = self.nodes.map(|nodes| Shape::Combined { nodes });
        let isolated = self.controllers.zip(self.brokers);
        let isolated = isolated.map(|(controllers, brokers)| Shape::Isolated {
            controllers,
            brokers,
        });
        DevOptions {
            shape: combined.or(isolated),
            base_port: self.base_port,
            place: self
                .data_dir
                .clone()
                .map_or(Place::Temporary, Place::Directory),
            processes: self.processes,
        }
    }
}

/// Starts a cluster and runs it until a signal.
pub async fn run(args: DevArgs) -> CommandResult {
    let mut stop = signals::stop()?;
    let mut cluster = tokio::select! {
        cluster = DevCluster::start(args.options()) => cluster?,
        _ = stop.wait() => return Ok(()),
    };
    let healthy = tokio::select! {
        healthy = cluster.wait_healthy(args.timeout) => healthy.map(Some),
        _ = stop.wait() => Ok(None),
    };
    let outcome = match healthy {
        // The client is done: a node that stops should not wait for it.
        Ok(Some(client)) => {
            drop(client);
            if let Some(elsewhere) = cluster.elsewhere() {
                output::note(elsewhere);
            }
            if let Some(warning) = few_controllers(cluster.manifest().controllers()) {
                output::note(warning);
            }
            let told = tell(&args, cluster.manifest());
            match told {
                Ok(()) => until_stopped(&mut cluster, &mut stop).await,
                Err(error) => Err(error),
            }
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    logging::nodes_stop();
    output::note("stopping");
    tokio::select! {
        () = cluster.stop() => {}
        signal = stop.wait() => {
            return Err(anyhow::anyhow!("stopped at once by a second {signal}").into());
        }
    }
    if let Some(kept) = kept(&args) {
        output::note(kept);
    }
    outcome
}

async fn until_stopped(cluster: &mut DevCluster, stop: &mut signals::StopSignals) -> CommandResult {
    let mut running = cluster.manifest().nodes.len();
    loop {
        let ended = tokio::select! {
            _ = stop.wait() => return Ok(()),
            ended = cluster.wait_ended() => ended,
        };
        running = running.saturating_sub(1);
        output::note(format_args!("node {} ended: {}", ended.id, ended.reason));
        let node = cluster.manifest().node(ended.id);
        match node.filter(|_| cluster.has_processes()) {
            Some(node) => output::note(format_args!(
                "  start it again: ottla server --config {}",
                node.config.display()
            )),
            None if running == 0 => {
                return Err(CommandError::from(anyhow::anyhow!("every node has ended")));
            }
            None => {}
        }
    }
}

#[derive(Debug, Serialize)]
struct Started<'a> {
    bootstrap: String,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

fn tell(args: &DevArgs, manifest: &Manifest) -> CommandResult {
    let started = Started {
        bootstrap: manifest.bootstrap().join(","),
        manifest,
    };
    output::print(args.output.output, &started, |started| {
        table(started.manifest)
    })?;
    output::note(what_to_try(&manifest.bootstrap()));
    Ok(())
}

/// A line for whoever runs two controllers: a majority of two is both.
fn few_controllers(controllers: usize) -> Option<&'static str> {
    (controllers == 2).then_some(
        "warning: with two controllers the cluster stands still when either is gone; three bear the \
         loss of one",
    )
}

/// Lines to paste. They name every broker, so that they work whichever of them is gone.
fn what_to_try(bootstrap: &[String]) -> String {
    let export = match bootstrap {
        [only] if only == DEFAULT_BOOTSTRAP => String::new(),
        all => format!("  export OTTLA_BOOTSTRAP={}\n", all.join(",")),
    };
    format!(
        "\nTry:\n{export}  ottla topic create hello --partitions 3\n  \
         echo world | ottla produce hello\n  \
         ottla consume hello --from-beginning\n\nCtrl-C stops the cluster."
    )
}

/// That the cluster's data stays where that was asked for, and how to start it again.
fn kept(args: &DevArgs) -> Option<String> {
    let directory = args.data_dir.as_ref()?.display();
    let processes = if args.processes { " --processes" } else { "" };
    Some(format!(
        "the data is kept in {directory}; start the cluster again: \
         ottla dev{processes} --data-dir {directory}"
    ))
}

fn table(manifest: &Manifest) -> String {
    let mut table = Table::new(["NODE", "ROLES", "STATUS", "PID", "CLIENT", "INTERNAL"]);
    for node in &manifest.nodes {
        table.row([
            node.id.to_string(),
            node.roles_text().to_owned(),
            "serving".to_owned(),
            output::or_dash(node.pid),
            output::or_dash(node.client.as_ref()),
            node.internal.to_string(),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_controllers_are_worth_a_warning() {
        assert!(few_controllers(2).is_some());
        assert_eq!([1, 3].map(few_controllers), [None, None]);
    }

    #[test]
    fn whoever_keeps_a_cluster_is_told_how_to_start_it_again() {
        let line = |line: &str| <crate::args::Cli as clap::Parser>::parse_from(line.split(' '));
        let told = |text: &str| match line(text).command {
            crate::args::Command::Dev(args) => kept(&args),
            other => panic!("{other:?}"),
        };
        assert_eq!(told("ottla dev --nodes 1"), None);
        let text = told("ottla dev --processes --nodes 1 --data-dir d").unwrap();
        assert!(
            text.contains("ottla dev --processes --data-dir d"),
            "{text}"
        );
    }

    #[test]
    fn what_is_pasted_names_every_broker() {
        let three = ["127.0.0.1:9092", "127.0.0.1:9094", "127.0.0.1:9096"].map(str::to_owned);
        let text = what_to_try(&three);
        let export = "export OTTLA_BOOTSTRAP=127.0.0.1:9092,127.0.0.1:9094,127.0.0.1:9096\n";
        assert!(text.contains(export), "{text}");
        assert!(!what_to_try(&three[..1]).contains("export"));
        assert!(what_to_try(&three[1..2]).contains("export OTTLA_BOOTSTRAP=127.0.0.1:9094\n"));
    }
}
