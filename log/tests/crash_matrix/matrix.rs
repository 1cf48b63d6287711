//! Runs a store, and cuts the power at each operation of its disk: recovers what is left, compares
//! it with what was told, and works on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use ottla_log::disk::{Call, Fault, Operation};
use ottla_log::verify::verify_dir;
use ottla_log::{LogError, Preparing, SimDisk, StoreConfig};

use super::model::{History, Model, Random, batch, id};
use super::work::{Step, Worker};
use super::world::{Aside, Cut, DIR, LOGS, Store, World, config};

/// How a life of the process ends, and what it leaves on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; what it wrote can be read.
    OfTheProcess,
    /// The same, and what a failed sync has lost is gone from the cache too.
    OfTheProcessAndCache,
    /// The power goes, and all that was not synced with it.
    LosingAll,
    /// The power goes, and a part that this seed decides is left.
    KeepingSome(u64),
}

impl Crash {
    fn random(random: &mut Random) -> Crash {
        match random.below(8) {
            0 => Crash::OfTheProcess,
            1 => Crash::OfTheProcessAndCache,
            2 => Crash::LosingAll,
            _ => Crash::KeepingSome(random.below(1 << 40)),
        }
    }

    fn strike(self, disk: &SimDisk) {
        match self {
            Crash::OfTheProcess => {}
            Crash::OfTheProcessAndCache => disk.evict_caches(),
            Crash::LosingAll => disk.crash(),
            Crash::KeepingSome(seed) => disk.crash_keeping_some(seed),
        }
    }
}

/// One thing to try: a crash, and recoveries that are cut short after so many operations each.
#[derive(Debug, Clone)]
pub struct Point {
    pub crash: Crash,
    pub interrupted: Vec<u64>,
}

impl Point {
    /// A crash whose recovery is left alone.
    pub const fn of(crash: Crash) -> Point {
        Point {
            crash,
            interrupted: Vec::new(),
        }
    }

    fn random(random: &mut Random) -> Point {
        let crash = Crash::random(random);
        let times = [0, 0, 0, 1, 2][random.below(5) as usize];
        Point {
            crash,
            interrupted: (0..times).map(|_| random.below(30)).collect(),
        }
    }
}

/// What a run is made of.
pub struct Run<'a> {
    pub name: String,
    pub seed: u64,
    pub lives: Vec<Vec<Step>>,
    /// Whether lives may meet disks that fail, and end in the middle.
    pub rough: bool,
    /// See [`StoreConfig::sync_whole_from`].
    pub sync_whole_from: usize,
    /// What fails in each life, instead of what the seed decides.
    pub fault: Option<Fault>,
    /// Whether the same seed must lead to the same operations.
    pub repeatable: bool,
    /// What to try at each cut, besides what the seed decides.
    pub at_each: &'a [Point],
    /// How many points the seed decides at each cut.
    pub random_at_each: usize,
}

/// What a run has done.
pub struct Tried {
    pub points: u64,
    /// What the store did to the disk, life after life.
    pub operations: Vec<Operation>,
}

/// How one life goes.
struct Plan<'a> {
    steps: &'a [Step],
    fault: Option<Fault>,
    sync_whole_from: usize,
    /// Whether it ends with a shutdown.
    in_order: bool,
    /// The steps are taken so that they can be repeated.
    pace: Option<Random>,
}

/// All that one life of the process has left behind.
struct Life {
    number: usize,
    cuts: Vec<Cut>,
    logs: Vec<History>,
    asides: Vec<Aside>,
    /// Something on the disk was told to fail.
    faulty: bool,
}

impl Run<'_> {
    /// Tries every cut of every life.
    ///
    /// # Errors
    /// What was wrong at the first point that failed, and how to get there again.
    pub fn check(&self, disk: SimDisk) -> Result<Tried, String> {
        let mut random = Random::new(self.seed);
        let mut disk = disk;
        let mut world = World::empty();
        let mut worker = Worker {
            ticket: 0,
            epoch: 0,
        };
        let (mut points, mut operations) = (0, Vec::new());
        for (number, steps) in self.lives.iter().enumerate() {
            let fault = Some(random.below(3) == 0 && self.rough)
                .filter(|wanted| *wanted)
                .map(|_| random_fault(&mut random));
            let fault = self.fault.clone().or(fault);
            let plan = Plan {
                steps,
                fault: fault.clone(),
                sync_whole_from: self.sync_whole_from,
                in_order: !self.rough || random.below(3) == 0,
                pace: self.repeatable.then(|| random.clone()),
            };
            let lived = guarded(|| live(&disk, &world, &mut worker, plan));
            lived.map_err(|what| self.tell(number, &format!("{fault:?}: {what}")))?;
            let cuts = cuts_of(&world, &disk);
            let life = {
                let known = world.known();
                Life {
                    number,
                    cuts,
                    logs: known.logs.clone(),
                    asides: known.asides.clone(),
                    faulty: fault.is_some(),
                }
            };
            operations.extend(life.cuts.iter().filter_map(|cut| cut.operation.clone()));
            points += self.check_life(&life, &mut random)?;
            let last = life.cuts.len() - 1;
            let chosen = if self.rough {
                random.below(life.cuts.len() as u64) as usize
            } else {
                last
            };
            let cut = &life.cuts[chosen];
            disk = cut.disk.fork();
            if self.rough {
                Crash::KeepingSome(random.below(1 << 40)).strike(&disk);
            }
            let logs = life.logs.iter().zip(&cut.bounds);
            let logs = logs.map(|(log, bounds)| log.after_crash(*bounds)).collect();
            world = World::new(logs, life.asides[..cut.asides].to_vec());
        }
        Ok(Tried { points, operations })
    }

    fn check_life(&self, life: &Life, random: &mut Random) -> Result<u64, String> {
        let mut points = 0;
        for (number, cut) in life.cuts.iter().enumerate() {
            let mut all = self.at_each.to_vec();
            all.extend((0..self.random_at_each).map(|_| Point::random(random)));
            for point in all {
                points += 1;
                let tried = guarded(|| check_point(life, cut, &point));
                tried.map_err(|what| {
                    let operation = cut.operation.as_ref().map(describe);
                    let operation = operation.unwrap_or("at its end".to_owned());
                    self.tell(
                        life.number,
                        &format!("cut {number} ({operation}), {point:?}: {what}"),
                    )
                })?;
            }
        }
        Ok(points)
    }

    fn tell(&self, life: usize, what: &str) -> String {
        format!("{}, seed {}, life {life}, {what}", self.name, self.seed)
    }
}

fn describe(operation: &Operation) -> String {
    let Operation { number, call, path } = operation;
    format!("before operation {number}: {call:?} {}", path.display())
}

/// The cuts of a life, and its end.
fn cuts_of(world: &Arc<World>, disk: &SimDisk) -> Vec<Cut> {
    let mut cuts = world.take_cuts();
    cuts.push(world.cut(None, disk.fork()));
    cuts
}

/// A panic of the product is a failure like any other.
fn guarded<T>(check: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

fn random_fault(random: &mut Random) -> Fault {
    let call = [
        Call::Sync,
        Call::Sync,
        Call::Sync,
        Call::SyncDir,
        Call::SyncAll,
        Call::Write,
        Call::WriteBack,
        Call::SetLen,
        Call::Rename,
        Call::Create,
    ][random.below(10) as usize];
    let mut fault = Fault::new(call).after(random.below(40));
    if random.below(2) == 0 {
        fault = fault.keeping_some(random.below(1 << 40));
    }
    if random.below(2) == 0 {
        fault = fault.sticky();
    }
    // Want of room is waited out, except by a sync.
    if random.below(3) == 0 && matches!(call, Call::Sync | Call::SyncDir | Call::SyncAll) {
        fault = fault.with(libc::ENOSPC);
    }
    fault
}

/// One life of the process. The disk may hold whatever a crash has left of the world's logs.
fn live(
    disk: &SimDisk,
    world: &Arc<World>,
    worker: &mut Worker,
    plan: Plan<'_>,
) -> Result<(), String> {
    world.watch(disk);
    let mut config = config();
    config.sync_whole_from = plan.sync_whole_from;
    if plan.pace.is_none() {
        config.journal_preparing = Preparing::InBackground;
    }
    let store = Store::open(disk, world, config)
        .map_err(|error| format!("does not open: {}", super::chain(&error)))?;
    let found = store.found()?;
    check_found(&world.known().logs, None, &found)?;
    for (log, found) in world.known().logs.iter_mut().zip(found) {
        log.note_recovered(found);
    }
    let faulty = plan.fault.is_some();
    if let Some(fault) = plan.fault {
        disk.inject(fault);
    }
    let done = match plan.pace {
        Some(mut random) => worker.march(&store, disk, &mut random, plan.steps),
        None => worker.hurry(&store, plan.steps),
    };
    if let (Err(error), false) = (&done, faulty) {
        return Err(format!("a step failed: {}", super::chain(error)));
    }
    let mut told = false;
    if plan.in_order {
        match store.shutdown() {
            Ok(()) => {
                let mut known = world.known();
                known.logs.iter_mut().for_each(History::note_durable);
            }
            Err(error) if !faulty => {
                return Err(format!("does not shut down: {}", super::chain(&error)));
            }
            Err(_) => told = true,
        }
    }
    if let Err(error) = &done
        && !told
        && !world.wait_for_failure()
    {
        let error = super::chain(error);
        return Err(format!("a step failed, but nobody was told: {error}"));
    }
    store.die(disk);
    disk.stop_observing();
    let known = world.known();
    if known.failures.len() > 1 || known.flushed_after_failure {
        return Err(format!(
            "told of failures {:?}, flushed after them: {}",
            known.failures, known.flushed_after_failure
        ));
    }
    Ok(())
}

/// Each log must be in one of the states that may be left.
fn check_found(logs: &[History], cut: Option<&Cut>, found: &[Model]) -> Result<(), String> {
    for (n, (history, found)) in logs.iter().zip(found).enumerate() {
        let bounds = cut.map_or(history.bounds(), |cut| cut.bounds[n]);
        let possible = history.possible(bounds);
        if !possible.iter().any(|model| model.is(found)) {
            let possible: Vec<_> = possible.iter().map(|model| model.describe()).collect();
            return Err(format!(
                "{} is {}, not one of {possible:#?}",
                history.id,
                found.describe()
            ));
        }
    }
    Ok(())
}

fn check_point(life: &Life, cut: &Cut, point: &Point) -> Result<(), String> {
    let disk = cut.disk.fork();
    point.crash.strike(&disk);
    for (number, operations) in point.interrupted.iter().enumerate() {
        disk.lose_power_after(*operations);
        drop(Store::open(&disk, &World::empty(), config()));
        disk.crash_keeping_some(operations * 31 + number as u64);
    }
    check_verified(&disk, life.faulty)?;
    let world = World::empty();
    let store = match Store::open(&disk, &world, config()) {
        // A file system that has failed a directory's sync takes nothing until the machine starts
        // again.
        Err(LogError::Io { .. }) if life.faulty => {
            disk.crash();
            Store::open(&disk, &world, config())
        }
        opened => opened,
    };
    let store = store.map_err(|error| format!("does not open: {}", super::chain(&error)))?;
    let found = store.found()?;
    check_found(&life.logs, Some(cut), &found)?;
    for aside in &life.asides[..cut.asides] {
        check_aside(&disk, aside)?;
    }
    store.die(&disk);
    disk.crash();
    // What recovery has found is durable, and the store works on.
    let expected = work_on(&disk, found)?;
    let all = StoreConfig {
        verify_all_on_open: true,
        ..config()
    };
    let store = Store::open(&disk, &World::empty(), all)
        .map_err(|error| format!("does not open again: {}", super::chain(&error)))?;
    same(&store.found()?, &expected, "after it worked on")
}

/// A crash is no damage.
fn check_verified(disk: &SimDisk, is_faulty: bool) -> Result<(), String> {
    match verify_dir(disk, Path::new(DIR)) {
        Ok(verified) if verified.findings.is_empty() => Ok(()),
        Ok(verified) => Err(format!("verification finds {:#?}", verified.findings)),
        Err(LogError::Io { .. }) if is_faulty => Ok(()),
        Err(error) => Err(format!("cannot be verified: {}", super::chain(&error))),
    }
}

/// The files of a log that was set aside hold what the log held, at the end at least: what lay
/// below its start may be there too.
fn check_aside(disk: &SimDisk, aside: &Aside) -> Result<(), String> {
    use ottla_log::Disk as _;
    let path = &aside.path;
    let names = disk
        .list(path)
        .map_err(|error| format!("{} was set aside: {error}", path.display()))?;
    let mut bytes = Vec::new();
    for name in names {
        let path = path.join(&name.name);
        if ottla_log::dump::is_segment(&path) {
            let file = disk
                .open(&path, ottla_log::disk::OpenMode::Existing)
                .unwrap();
            let mut part = vec![0; file.size().unwrap() as usize];
            file.read_at(&mut part, 0).unwrap();
            bytes.extend(part);
        }
    }
    if !bytes.ends_with(&aside.batches.concat()) {
        return Err(format!(
            "{} does not hold what was set aside",
            path.display()
        ));
    }
    Ok(())
}

fn same(found: &[Model], expected: &[Model], when: &str) -> Result<(), String> {
    for (n, (found, expected)) in found.iter().zip(expected).enumerate() {
        if !expected.is(found) {
            return Err(format!(
                "{when}, {} is {}, not {}",
                id(n),
                found.describe(),
                expected.describe()
            ));
        }
    }
    Ok(())
}

/// Appends to each log that is there and loses the power with nothing kept. Returns what each log
/// must be.
fn work_on(disk: &SimDisk, mut expected: Vec<Model>) -> Result<Vec<Model>, String> {
    let world = World::empty();
    let store = Store::open(disk, &world, config())
        .map_err(|error| format!("does not open a second time: {}", super::chain(&error)))?;
    same(&store.found()?, &expected, "after losing the power at once")?;
    for (n, model) in expected.iter_mut().enumerate().take(LOGS) {
        let Some(log) = store.get(id(n)) else {
            continue;
        };
        let added = batch(model.log_end, i32::MAX, 2, 100, 1 << 40);
        model.append(std::slice::from_ref(&added));
        log.append(1, added)
            .map_err(|error| format!("cannot work on: {}", super::chain(&error)))?;
        if !world.wait_for(id(n), 1) {
            return Err(format!("failed while it worked on {}", id(n)));
        }
    }
    store.die(disk);
    disk.crash();
    Ok(expected)
}
