//! The crash matrix: a store works on a simulated disk, and the power is cut at each operation of
//! that disk, in many ways. What is recovered must be what was acknowledged, and nothing that was
//! not a state of the log.
//!
//! `docs/testing-storage.md` says how to get to a failure again.

#![allow(clippy::unwrap_used)]

mod damage;
mod matrix;
mod model;
#[cfg(feature = "planted-bugs")]
mod planted;
mod scripts;
mod work;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use matrix::{Crash, Point, Run};
use model::Random;
use ottla_log::SimDisk;
use parking_lot::Mutex;
use scripts::SCRIPTS;

/// How many seeds the random workloads have, unless `OTTLA_MATRIX_SEEDS` says another number.
const SEEDS: u64 = 14;
const LIVES: usize = 3;
/// How much there must be to sync for a checkpoint to sync the whole disk: always, and never.
const WHOLE: usize = 1;
const EACH: usize = usize::MAX;
/// The random workloads must try so many points at least, so that they do not become few unnoticed.
const POINTS_LEAST: u64 = 10_000;

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn number_in(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Checks all of them, a few at a time. Returns how many points were tried.
fn all_of<T: Sync>(
    items: &[T],
    check: impl Fn(&T) -> Result<u64, String> + Sync,
) -> Result<u64, String> {
    let (next, points) = (AtomicU64::new(0), AtomicU64::new(0));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    if failure.lock().is_some() {
                        return;
                    }
                    match check(item) {
                        Ok(tried) => drop(points.fetch_add(tried, Ordering::Relaxed)),
                        Err(what) => drop(failure.lock().get_or_insert(what)),
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Some(what) => Err(what),
        None => Ok(points.into_inner()),
    }
}

fn random_run(seed: u64, at_each: usize) -> Run<'static> {
    let mut random = Random::new(seed ^ 0x5eed);
    Run {
        name: "random work".to_owned(),
        seed,
        lives: (0..LIVES)
            .map(|_| work::random_steps(&mut random))
            .collect(),
        rough: true,
        sync_whole_from: [EACH, EACH, WHOLE, WHOLE][seed as usize % 4],
        fault: None,
        // Every other one is left to chance, so that the store's threads meet in many ways.
        repeatable: seed.is_multiple_of(2),
        at_each: &[],
        random_at_each: at_each,
    }
}

/// What is tried at each cut of a script, besides what a seed decides.
const AT_EACH: &[Point] = &[
    Point::of(Crash::OfTheProcess),
    Point::of(Crash::LosingAll),
    Point::of(Crash::KeepingSome(1)),
];

fn script_run(name: &str, lives: &[&str], sync_whole_from: usize) -> Run<'static> {
    Run {
        name: name.to_owned(),
        seed: 1,
        lives: lives.iter().map(|words| scripts::steps(words)).collect(),
        rough: false,
        sync_whole_from,
        fault: None,
        repeatable: true,
        at_each: AT_EACH,
        random_at_each: 1,
    }
}

#[test]
fn every_cut_of_every_script_leaves_what_was_acknowledged() {
    let begun = Instant::now();
    let points = all_of(SCRIPTS, |(name, lives)| {
        let mut points = 0;
        for sync_whole_from in [EACH, WHOLE] {
            let run = script_run(name, lives, sync_whole_from);
            points += run.check(SimDisk::new())?.points;
        }
        Ok(points)
    });
    let points = points.unwrap_or_else(|what| panic!("{what}"));
    println!("{points} crash points of scripts in {:?}", begun.elapsed());
}

#[test]
fn random_work_survives_a_cut_at_each_operation() {
    let begun = Instant::now();
    let seeds = match number_in("OTTLA_MATRIX_SEED") {
        Some(seed) => vec![seed],
        None => (0..number_in("OTTLA_MATRIX_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let points = all_of(&seeds, |seed| {
        let tried = random_run(*seed, 2).check(SimDisk::new())?;
        Ok(tried.points)
    });
    let points = points.unwrap_or_else(|what| panic!("{what}"));
    println!(
        "{points} random crash points of {} seeds in {:?}",
        seeds.len(),
        begun.elapsed()
    );
    assert!(
        points >= POINTS_LEAST || seeds.len() < SEEDS as usize,
        "only {points} points"
    );
}

#[test]
fn the_same_even_seed_leads_to_the_same_operations() {
    for seed in [0, 2, 4, 6, 8, 10] {
        let operations = || {
            let tried = random_run(seed, 0).check(SimDisk::new());
            tried.unwrap_or_else(|what| panic!("{what}")).operations
        };
        let (one, other) = (operations(), operations());
        let differs = one.iter().zip(&other).position(|(one, other)| one != other);
        let at = differs.unwrap_or(one.len().min(other.len()));
        assert_eq!(one.get(at), other.get(at), "seed {seed}, operation {at}");
    }
}
