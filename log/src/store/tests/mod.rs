//! A store over a simulated disk, and batches to put in it.

mod basics;
mod compaction;
mod damage;
mod failures;
mod index_files;
mod producers;
mod reads;
mod threads;
mod verify;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_model::batch::{BatchBuilder, BatchHeader, NewRecord, next_batch, stamp};
use ottla_model::compression::Compression;
use ottla_model::{LeaderEpoch, PartitionIndex, TimestampMs, TopicId};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::disk::SimDisk;
use crate::{ReadError, ReadOutcome};

pub(super) const DIR: &str = "/node/log";
const PATIENCE: Duration = Duration::from_secs(20);

/// What the observers were told.
#[derive(Default)]
pub(super) struct Told {
    inner: Mutex<ToldInner>,
    changed: Condvar,
}

#[derive(Default)]
struct ToldInner {
    tickets: BTreeMap<TopicIdPartition, u64>,
    calls: u64,
    failures: Vec<LogError>,
    flushed_after_failure: bool,
}

impl Told {
    fn wait(&self, mut holds: impl FnMut(&ToldInner) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut inner = self.inner.lock();
        while !holds(&inner) {
            if self.changed.wait_until(&mut inner, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Waits until everything up to the ticket is durable; false if storage failed first.
    pub fn wait_for(&self, id: TopicIdPartition, ticket: u64) -> bool {
        let mut failed = false;
        let told = self.wait(|inner| {
            failed = !inner.failures.is_empty();
            failed || inner.tickets.get(&id).is_some_and(|told| *told >= ticket)
        });
        assert!(told, "ticket {ticket} of {id} was never flushed");
        self.inner
            .lock()
            .tickets
            .get(&id)
            .is_some_and(|told| *told >= ticket)
    }

    pub fn wait_for_failure(&self) {
        assert!(self.wait(|inner| !inner.failures.is_empty()), "no failure");
    }

    pub fn failures(&self) -> usize {
        self.inner.lock().failures.len()
    }

    pub fn ticket(&self, id: TopicIdPartition) -> Option<u64> {
        self.inner.lock().tickets.get(&id).copied()
    }

    pub fn was_flushed_after_failure(&self) -> bool {
        self.inner.lock().flushed_after_failure
    }
}

/// A store and what it told.
pub(super) struct TestStore {
    pub store: LogStore,
    pub told: Arc<Told>,
}

impl std::ops::Deref for TestStore {
    type Target = LogStore;

    fn deref(&self) -> &LogStore {
        &self.store
    }
}

/// Small files, so that every boundary is crossed often; checkpoints only when asked for.
pub(super) fn config() -> StoreConfig {
    StoreConfig {
        journal_file_bytes: 64 * 1024,
        journal_id_if_new: 42,
        checkpoint_bytes: u64::MAX,
        checkpoint_ms: 3_600_000,
        cache_bytes: 8 * 1024,
        recovery_threads: 2,
        default_settings: settings(),
        ..StoreConfig::default()
    }
}

pub(super) fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 4096,
        ..LogSettings::default()
    }
}

pub(super) fn try_open(disk: &SimDisk, config: StoreConfig) -> Result<TestStore, LogError> {
    let told = Arc::new(Told::default());
    let (flushed, fatal) = (told.clone(), told.clone());
    let store = LogStore::open(
        Arc::new(disk.clone()),
        Path::new(DIR),
        config,
        Arc::new(move |all: &[Flushed]| {
            let mut inner = flushed.inner.lock();
            inner.calls += 1;
            inner.flushed_after_failure |= !inner.failures.is_empty();
            for one in all {
                inner.tickets.insert(one.id, one.ticket);
            }
            flushed.changed.notify_all();
        }),
        Arc::new(move |error| {
            fatal.inner.lock().failures.push(error);
            fatal.changed.notify_all();
        }),
    )?;
    Ok(TestStore { store, told })
}

pub(super) fn open(disk: &SimDisk) -> TestStore {
    try_open(disk, config()).unwrap()
}

pub(super) fn id(partition: i32) -> TopicIdPartition {
    TopicIdPartition::new(TopicId::from_bytes([9; 16]), PartitionIndex(partition))
}

/// A stamped batch of `count` records, about `bytes` large, whose timestamps rise by one from
/// `timestamp`.
pub(super) fn batch_at(base: i64, epoch: i32, count: i64, bytes: usize, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![base as u8; bytes / count as usize];
    for index in 0..count {
        let record = NewRecord {
            timestamp: TimestampMs(timestamp + index),
            value: Some(&value),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    let mut batch = builder.build().unwrap().to_vec();
    stamp(&mut batch, Offset(base), LeaderEpoch(epoch), None);
    Bytes::from(batch)
}

pub(super) fn batch(base: i64, count: i64, bytes: usize) -> Bytes {
    batch_at(base, 0, count, bytes, 1_000 + base)
}

/// Everything from the log's start to its end, read in pieces, whichever way is open.
pub(super) fn read_all(log: &PartitionLog) -> Result<Vec<Bytes>, ReadError> {
    let mut batches = Vec::new();
    let mut next = log.log_start();
    loop {
        let limit = Offset(i64::MAX);
        let pieces = match log.read(next, limit, 1000)? {
            ReadOutcome::Cached(pieces) => pieces,
            ReadOutcome::OnDisk => log.read_blocking(next, limit, 1000)?,
        };
        if pieces.is_empty() {
            return Ok(batches);
        }
        for piece in pieces {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let (header, batch, behind) = next_batch(rest).unwrap();
                batches.push(Bytes::copy_from_slice(batch));
                next = header.next_offset();
                rest = behind;
            }
        }
    }
}

/// Like [`read_all`], from the disk alone once the lane has followed.
pub(super) fn wait_until_on_disk(log: &PartitionLog) {
    let deadline = Instant::now() + PATIENCE;
    let followed = || {
        let state = log.lock();
        state.physical.end == state.log_end && state.pending_cuts == 0
    };
    while !followed() {
        assert!(Instant::now() < deadline, "the segments do not follow");
        std::thread::yield_now();
    }
}

pub(super) fn wait_for_checkpoint(store: &LogStore) {
    let before = store.stats().checkpoints;
    let deadline = Instant::now() + PATIENCE;
    while store.stats().checkpoints == before {
        store.request_checkpoint();
        assert!(Instant::now() < deadline, "no checkpoint is made");
        std::thread::yield_now();
    }
}

pub(super) fn base_of(batch: &[u8]) -> i64 {
    BatchHeader::decode(batch).unwrap().base_offset.0
}

/// The power goes: first for the store, so that nothing of it lives on behind the crash.
pub(super) fn crash(disk: &SimDisk, store: TestStore) {
    disk.lose_power_after(0);
    drop(store);
    disk.crash();
}
