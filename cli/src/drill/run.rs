//! The course of a drill: write and read, kill, measure, restart, repeat; then audit.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use ottla_client::v1::ClusterView;
use ottla_client::{Client, ClientConfig, NewTopic};
use tokio::time::{Instant, sleep};

use super::Target;
use super::audit::audit;
use super::kill::{HEALTHY_PATIENCE, Victims};
use super::load::{Load, Writers};
use super::measure::Round;
use super::readback::{Follower, read_all};
use super::report::Report;
use super::scene::Scene;
use super::watch::Watchers;
use crate::dev::Shape;
use crate::duration::show;
use crate::exit::{CommandError, CommandResult, Exit};
use crate::observe::{self, Expected};
use crate::output::{counted, note};

const PARTITIONS: usize = 12;
/// How often a condition is looked at. Measurements carry the times of their events, so this does
/// not blur them.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long the cluster is left in peace before each kill.
const SETTLE: Duration = Duration::from_millis(500);

/// What to do.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    pub target: Target,
    pub times: u32,
    pub slo: Option<Duration>,
    /// A running cluster's directory; `None` starts one of this shape.
    pub data_dir: Option<PathBuf>,
    pub shape: Shape,
    pub rate: u32,
}

/// Runs a drill.
pub async fn run(options: &DrillOptions) -> CommandResult<Report> {
    let mut victims = match &options.data_dir {
        Some(directory) => Victims::running(directory)?,
        None => {
            note("starting a cluster for the drill");
            Victims::own(options.shape).await?
        }
    };
    let report = drill(options, &mut victims).await;
    victims.release().await;
    report
}

async fn drill(options: &DrillOptions, victims: &mut Victims) -> CommandResult<Report> {
    victims.wait_ready().await?;
    let client = connect(victims).await?;
    let run = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let run = u64::try_from(run.as_micros()).unwrap_or(u64::MAX);
    let load = Load {
        run,
        topic: format!("ottla-drill-{run:x}"),
        partitions: PARTITIONS,
        rate: options.rate,
    };
    create_topic(&client, &load).await?;
    let scene = Scene::new(PARTITIONS);
    let brokers = victims
        .manifest()
        .nodes
        .iter()
        .filter(|node| node.is_broker());
    let brokers = brokers
        .filter_map(|node| Some((node.id, node.client.as_ref()?.to_string())))
        .collect();
    let _watchers = Watchers::start(brokers, &load.topic, &scene);
    let follower = Follower::start(&client, &load, &scene).await?;
    let writers = Writers::start(&client, &load, &scene);
    let rounds = rounds(options, victims, &client, &load, &scene).await;
    note("reading everything back");
    writers.stop().await;
    let read = read_all(&client, &load).await;
    drop(follower);
    let (ledger, live) = scene.books();
    let (given_up, reason) = scene.refusals();
    if let Some(reason) = reason {
        note(format_args!(
            "given up: {}, the last because: {reason}",
            counted(given_up, "record")
        ));
    }
    let audit = audit(&ledger, &read?, &live);
    if audit.is_clean() {
        // Left behind only as evidence. That it cannot be removed does not undo the drill.
        if let Err(error) = client.admin().delete_topic(&load.topic).await {
            note(format_args!(
                "the topic {} could not be removed: {error}",
                load.topic
            ));
        }
    } else {
        for example in &audit.examples {
            note(format_args!("audit: {example}"));
        }
    }
    Ok(Report::new(
        options.target,
        rounds?,
        audit,
        given_up,
        options.slo,
    ))
}

async fn connect(victims: &Victims) -> CommandResult<Client> {
    let config = ClientConfig {
        client_id: "ottla-drill".to_owned(),
        ..ClientConfig::new(victims.manifest().bootstrap())
    };
    Ok(Client::connect(config).await?)
}

async fn create_topic(client: &Client, load: &Load) -> CommandResult {
    let topic = NewTopic {
        partitions: Some(i32::try_from(load.partitions).context("too many partitions")?),
        ..NewTopic::new(load.topic.clone())
    };
    client.admin().create_topic(topic).await?;
    Ok(())
}

async fn rounds(
    options: &DrillOptions,
    victims: &mut Victims,
    client: &Client,
    load: &Load,
    scene: &Scene,
) -> CommandResult<Vec<Round>> {
    wait_until(HEALTHY_PATIENCE, || scene.is_flowing())
        .await
        .map_err(|error| error.context("not every partition was written and read"))?;
    let mut rounds = Vec::new();
    for number in 1..=options.times {
        let round = round(number, options, victims, client, load, scene)
            .await
            .map_err(|error| error.context(format!("round {number}")))?;
        let objective = round.objective().map_or_else(|| "-".to_owned(), show);
        note(format_args!(
            "round {number}: killed {} {}, back after {objective}, longest write pause {}, healthy \
             after {}; {} acknowledged so far",
            options.target.name(),
            round.victim,
            show(round.write_pause),
            show(round.healthy),
            counted(scene.acknowledged_records(), "record"),
        ));
        rounds.push(round);
    }
    Ok(rounds)
}

async fn round(
    number: u32,
    options: &DrillOptions,
    victims: &mut Victims,
    client: &Client,
    load: &Load,
    scene: &Scene,
) -> CommandResult<Round> {
    victims.wait_healthy().await?;
    sleep(SETTLE).await;
    let view = observe::look(client, Expected::default()).await?.view;
    let victim = choose(options.target, &view, &load.topic)
        .context("nobody can be killed: no controller is active, or no partition has a leader")?;
    scene.begin_round(options.target, victim, led_by(victim, &view, &load.topic));
    victims.kill(victim).await?;
    scene.victim_died();
    let recovered = wait_until(HEALTHY_PATIENCE, || scene.round_misses().is_none()).await;
    // Whatever came of it, the node is needed again.
    victims.restart(victim).await?;
    recovered.map_err(|error| match scene.round_misses() {
        Some(missing) => error.context(format!("node {victim} was killed, and {missing}")),
        None => error,
    })?;
    victims.wait_healthy().await?;
    let (watch, felt, now) = scene.end_round().context("the round was never begun")?;
    Ok(watch.finish(number, felt, now))
}

/// Whom to kill: the active controller, or the broker that leads most of the topic's partitions,
/// the lowest id among equals.
fn choose(target: Target, view: &ClusterView, topic: &str) -> Option<i32> {
    match target {
        Target::Controller => view.active_controller_id,
        Target::Broker => {
            let unfenced = view.brokers.iter().filter(|broker| !broker.fenced);
            let mut counted: Vec<(usize, i32)> = unfenced
                .map(|broker| (led_by(broker.node_id, view, topic).len(), broker.node_id))
                .filter(|(led, _)| *led > 0)
                .collect();
            counted.sort_by_key(|(led, id)| (std::cmp::Reverse(*led), *id));
            counted.first().map(|(_, id)| *id)
        }
    }
}

/// The topic's partitions that a broker leads.
fn led_by(broker: i32, view: &ClusterView, topic: &str) -> BTreeSet<usize> {
    let topics = view.topics.iter().filter(|view| view.name == topic);
    let led = topics
        .flat_map(|view| &view.partitions)
        .filter(|p| p.leader_id == Some(broker));
    led.filter_map(|partition| usize::try_from(partition.partition).ok())
        .collect()
}

async fn wait_until(at_most: Duration, holds: impl Fn() -> bool) -> CommandResult {
    let deadline = Instant::now() + at_most;
    while !holds() {
        if Instant::now() >= deadline {
            let reason = anyhow::anyhow!("nothing more happened within {}", show(at_most));
            return Err(CommandError::new(Exit::TimedOut, reason));
        }
        sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ottla_client::v1::{BrokerView, PartitionView, TopicView};

    use super::*;

    fn view(leaders: &[Option<i32>]) -> ClusterView {
        let partition = |(index, leader_id): (usize, &Option<i32>)| PartitionView {
            partition: index as i32,
            leader_id: *leader_id,
            ..PartitionView::default()
        };
        let broker = |node_id| BrokerView {
            node_id,
            ..BrokerView::default()
        };
        ClusterView {
            active_controller_id: Some(3),
            brokers: [1, 2, 3].map(broker).to_vec(),
            topics: vec![TopicView {
                name: "t".to_owned(),
                partitions: leaders.iter().enumerate().map(partition).collect(),
                ..TopicView::default()
            }],
            ..ClusterView::default()
        }
    }

    #[test]
    fn the_broker_that_leads_most_is_killed_and_the_lowest_among_equals() {
        let chosen = |leaders: &[Option<i32>]| choose(Target::Broker, &view(leaders), "t");
        assert_eq!(chosen(&[Some(1), Some(2), Some(2)]), Some(2));
        assert_eq!(chosen(&[Some(3), Some(2)]), Some(2));
        assert_eq!(chosen(&[None]), None);
        assert_eq!(choose(Target::Controller, &view(&[]), "t"), Some(3));
    }

    #[test]
    fn only_the_drills_own_topic_counts() {
        let view = view(&[Some(1), Some(2), Some(1)]);
        assert_eq!(led_by(1, &view, "t"), [0, 2].into());
        assert_eq!(led_by(1, &view, "other"), BTreeSet::new());
    }
}
