//! A store on a simulated disk, what it was asked for and what it told; and every disk that a
//! crash of it could have left.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_log::disk::Operation;
use ottla_log::{Flushed, LogError, LogSettings, LogStore, Preparing, SimDisk, StoreConfig};
use ottla_model::TopicIdPartition;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::model::{Bounds, History, Model, id};

pub const DIR: &str = "/node/log";
/// How many logs a store has at most.
pub const LOGS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);

/// Small files, so that every boundary is crossed often; checkpoints only when asked for.
pub fn config() -> StoreConfig {
    StoreConfig {
        journal_file_bytes: 8 * 1024,
        journal_spare_files: 2,
        journal_preparing: Preparing::AfterSync,
        journal_id_if_new: 42,
        checkpoint_bytes: u64::MAX,
        checkpoint_ms: 3_600_000,
        saved_lag_bytes: 500,
        cache_bytes: 2 * 1024,
        open_files_max: 4,
        recovery_threads: 1,
        default_settings: settings(),
        ..StoreConfig::default()
    }
}

pub fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 3000,
        retention_bytes: Some(4000),
        retention_ms: None,
        ..LogSettings::default()
    }
}

/// Files of a log that was set aside, which nothing may take away.
#[derive(Debug, Clone)]
pub struct Aside {
    pub path: PathBuf,
    pub batches: Vec<Bytes>,
}

/// What was asked for and what was told.
#[derive(Debug, Default)]
pub struct Known {
    pub logs: Vec<History>,
    pub asides: Vec<Aside>,
    told: BTreeMap<TopicIdPartition, u64>,
    pub failures: Vec<LogError>,
    pub flushed_after_failure: bool,
}

/// The disk before one of its operations, and what may be left of each log on it.
#[derive(Debug, Clone)]
pub struct Cut {
    pub operation: Option<Operation>,
    pub disk: SimDisk,
    pub bounds: Vec<Bounds>,
    pub asides: usize,
}

/// Shared by the one who asks, the store's threads and the disk.
#[derive(Debug, Default)]
pub struct World {
    known: Mutex<Known>,
    changed: Condvar,
    cuts: Mutex<Vec<Cut>>,
}

impl World {
    pub fn new(logs: Vec<History>, asides: Vec<Aside>) -> Arc<World> {
        let known = Known {
            logs,
            asides,
            ..Known::default()
        };
        Arc::new(World {
            known: Mutex::new(known),
            ..World::default()
        })
    }

    /// A world in which nothing has happened.
    pub fn empty() -> Arc<World> {
        World::new((0..LOGS).map(|n| History::new(id(n))).collect(), Vec::new())
    }

    /// Not to be held while the disk is used.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock()
    }

    /// The disk as it is now, with what may be left on it.
    pub fn cut(&self, operation: Option<Operation>, disk: SimDisk) -> Cut {
        let known = self.known();
        Cut {
            operation,
            disk,
            bounds: known.logs.iter().map(History::bounds).collect(),
            asides: known.asides.len(),
        }
    }

    /// Keeps the disk as it is before each of its operations.
    pub fn watch(self: &Arc<World>, disk: &SimDisk) {
        let world = self.clone();
        disk.observe(Arc::new(move |operation, fork| {
            let cut = world.cut(Some(operation.clone()), fork);
            world.cuts.lock().push(cut);
        }));
    }

    pub fn take_cuts(&self) -> Vec<Cut> {
        std::mem::take(&mut *self.cuts.lock())
    }

    fn note_flushed(&self, all: &[Flushed]) {
        let mut known = self.known();
        known.flushed_after_failure |= !known.failures.is_empty();
        for one in all {
            known.told.insert(one.id, one.ticket);
            for history in &mut known.logs {
                if history.id == one.id {
                    history.note_flushed(one.ticket);
                }
            }
        }
        drop(known);
        self.changed.notify_all();
    }

    /// Waits until the ticket is durable; false if storage failed first.
    pub fn wait_for(&self, id: TopicIdPartition, ticket: u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut known = self.known();
        loop {
            if known.told.get(&id).is_some_and(|told| *told >= ticket) {
                return true;
            }
            if !known.failures.is_empty() {
                return false;
            }
            let waited = self.changed.wait_until(&mut known, deadline);
            assert!(
                !waited.timed_out(),
                "ticket {ticket} of {id} is not flushed"
            );
        }
    }

    pub fn wait_for_failure(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut known = self.known();
        while known.failures.is_empty() {
            if self.changed.wait_until(&mut known, deadline).timed_out() {
                return false;
            }
        }
        true
    }
}

/// A store and the world that it tells.
pub struct Store {
    store: LogStore,
    pub world: Arc<World>,
}

impl Deref for Store {
    type Target = LogStore;

    fn deref(&self) -> &LogStore {
        &self.store
    }
}

impl Store {
    pub fn open(
        disk: &SimDisk,
        world: &Arc<World>,
        config: StoreConfig,
    ) -> Result<Store, LogError> {
        let (flushed, failed) = (world.clone(), world.clone());
        let store = LogStore::open(
            Arc::new(disk.clone()),
            Path::new(DIR),
            config,
            Arc::new(move |all: &[Flushed]| flushed.note_flushed(all)),
            Arc::new(move |error| {
                failed.known().failures.push(error);
                failed.changed.notify_all();
            }),
        )?;
        Ok(Store {
            store,
            world: world.clone(),
        })
    }

    /// What the store has under the matrix's names.
    pub fn found(&self) -> Result<Vec<Model>, String> {
        if !self.damage().is_empty() {
            return Err(format!("damaged: {:?}", self.damage()));
        }
        (0..LOGS)
            .map(|n| {
                let log = self.get(id(n));
                let found = Model::of(log.as_deref()).map_err(|error| {
                    format!("{} cannot be read: {}", id(n), super::chain(&error))
                })?;
                if let Some(log) = &log {
                    found
                        .check_lookups(log)
                        .and_then(|()| found.check_producers(log))
                        .map_err(|error| format!("{}: {error}", id(n)))?;
                }
                Ok(found)
            })
            .collect()
    }

    /// The process dies: nothing of the store lives on.
    pub fn die(self, disk: &SimDisk) {
        disk.lose_power_after(0);
        drop(self);
    }

    /// Waits for a checkpoint. There must be something new to put in it.
    pub fn checkpoint(&self) -> Result<(), LogError> {
        let before = self.stats().checkpoints;
        self.request_checkpoint();
        self.wait_until("a checkpoint", || self.stats().checkpoints > before)
    }

    /// Waits until it holds, or storage has failed.
    pub fn wait_until(&self, what: &str, holds: impl Fn() -> bool) -> Result<(), LogError> {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            if !self.world.known().failures.is_empty() {
                return Err(LogError::Closed);
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}: {:?}",
                self.stats()
            );
            std::thread::yield_now();
        }
        Ok(())
    }
}
