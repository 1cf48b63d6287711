//! A run from its clients' start to its report.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ottla_client::ClientConfig;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::clock::Clock;
use super::meter::Meter;
use super::read::{self, Tail};
use super::report::{Interval, Report, Settings};
use super::worker::Workers;
use super::write::{self, Writing};
use crate::output;

/// How often an interval is told.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where a run takes place, and what it leaves out.
#[derive(Debug, Clone)]
pub struct Scene {
    pub client: ClientConfig,
    pub settings: Settings,
    pub warmup: Duration,
    /// Set to end the run early; what was measured by then is reported.
    pub stop: Arc<AtomicBool>,
}

/// What the clients of a run share.
struct Meters {
    acknowledged: Arc<Mutex<Meter>>,
    consumed: Arc<Mutex<Meter>>,
    sent: Arc<AtomicU64>,
}

impl Meters {
    fn new(warmup: Duration) -> Meters {
        let meter = || Arc::new(Mutex::new(Meter::new(warmup)));
        Meters {
            acknowledged: meter(),
            consumed: meter(),
            sent: Arc::default(),
        }
    }

    fn report(&self, bench: &'static str, settings: Settings, intervals: Vec<Interval>) -> Report {
        let acknowledged = self.acknowledged.lock();
        let total = acknowledged.total();
        Report {
            bench,
            sent: self.sent.load(Ordering::Relaxed),
            failed: total.failed,
            failure: acknowledged.failure().map(str::to_owned),
            acknowledged: (settings.producers > 0).then_some(total),
            consumed: (settings.consumers > 0).then(|| self.consumed.lock().total()),
            settings,
            intervals,
        }
    }
}

/// Writes as much as was asked for.
pub async fn produce(scene: &Scene, writing: &Writing) -> anyhow::Result<Report> {
    let meters = Meters::new(scene.warmup);
    let mut workers = Workers::new();
    add_writers(&mut workers, scene, writing, &meters, None)?;
    let (clock, running) = workers.start().await?;
    let intervals = watch(scene, clock, &meters, running.finish(&scene.stop)).await?;
    Ok(meters.report("produce", scene.settings.clone(), intervals))
}

/// Reads what is there.
pub async fn consume(scene: &Scene) -> anyhow::Result<Report> {
    let meters = Meters::new(scene.warmup);
    let mut workers = Workers::new();
    let shared = readers(scene, &meters);
    for reader in 0..scene.settings.consumers {
        let (client, shared) = (scene.client.clone(), shared.clone());
        workers.add("consumer", move |gate| {
            read::catch_up(client, reader, shared, gate)
        })?;
    }
    let (clock, running) = workers.start().await?;
    let intervals = watch(scene, clock, &meters, running.finish(&scene.stop)).await?;
    Ok(meters.report("consume", scene.settings.clone(), intervals))
}

/// Writes at a fixed rate and follows what was written, if there are consumers.
pub async fn latency(scene: &Scene, writing: &Writing) -> anyhow::Result<Report> {
    let meters = Meters::new(scene.warmup);
    let tail = Tail {
        run: uuid::Uuid::new_v4().as_u64_pair().0,
        written: Arc::new(AtomicU64::new(u64::MAX)),
    };
    let shared = readers(scene, &meters);
    let mut workers = Workers::new();
    for reader in 0..scene.settings.consumers {
        let (client, shared, tail) = (scene.client.clone(), shared.clone(), tail.clone());
        workers.add("consumer", move |gate| {
            read::follow(client, reader, shared, tail, gate)
        })?;
    }
    add_writers(&mut workers, scene, writing, &meters, Some(tail.run))?;
    let (clock, mut following) = workers.start().await?;
    let writers = following.split_off(scene.settings.consumers);
    let work = async {
        let written = writers.finish(&scene.stop).await;
        // Only what was surely written must come.
        let acknowledged = meters.acknowledged.lock().succeeded();
        tail.written.store(acknowledged, Ordering::Release);
        written.and(following.finish(&scene.stop).await)
    };
    let intervals = watch(scene, clock, &meters, work).await?;
    Ok(meters.report("latency", scene.settings.clone(), intervals))
}

fn readers(scene: &Scene, meters: &Meters) -> read::Shared {
    read::Shared {
        topic: scene.settings.topic.clone(),
        readers: scene.settings.consumers,
        meter: Arc::clone(&meters.consumed),
        stop: Arc::clone(&scene.stop),
    }
}

fn add_writers(
    workers: &mut Workers,
    scene: &Scene,
    writing: &Writing,
    meters: &Meters,
    run: Option<u64>,
) -> anyhow::Result<()> {
    for writer in 0..writing.writers {
        let shared = write::Shared {
            topic: scene.settings.topic.as_str().into(),
            run,
            meter: Arc::clone(&meters.acknowledged),
            sent: Arc::clone(&meters.sent),
            stop: Arc::clone(&scene.stop),
        };
        let (client, writing) = (scene.client.clone(), writing.clone());
        workers.add("producer", move |gate| {
            write::write(client, writing, writer, shared, gate)
        })?;
    }
    Ok(())
}

/// Tells how it goes, each second, until the work is done.
async fn watch(
    scene: &Scene,
    clock: Clock,
    meters: &Meters,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Vec<Interval>> {
    let mut intervals = Vec::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    ticks.tick().await;
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done.map(|()| intervals),
            _ = ticks.tick() => {
                let now = clock.now();
                let of = |asked: u32, meter: &Mutex<Meter>| {
                    (asked > 0).then(|| meter.lock().interval(now)).flatten()
                };
                let interval = Interval {
                    acknowledged: of(scene.settings.producers, &meters.acknowledged),
                    consumed: of(scene.settings.consumers, &meters.consumed),
                };
                if interval.acknowledged.is_some() || interval.consumed.is_some() {
                    output::note(interval.text(&scene.settings));
                    intervals.push(interval);
                }
            }
        }
    }
}
