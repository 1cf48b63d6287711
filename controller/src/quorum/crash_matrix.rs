//! The crash matrix of the consensus' stores: log, vote and snapshots on a simulated disk whose
//! power is cut before each of its operations. Whatever was acknowledged is there afterwards, in
//! an order in which it was asked for.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::executor::block_on;
use openraft::RaftLogReader as _;
use openraft::entry::RaftEntry as _;
use openraft::storage::{RaftLogStorage as _, RaftLogStorageExt as _};
use openraft::vote::RaftLeaderId as _;
use ottla_log::disk::{Call, Fault, Operation};
use ottla_log::wal::WalConfig;
use ottla_log::{Disk, Preparing, SimDisk};
use parking_lot::Mutex;

use super::log_store::LogStore;
use super::open::open_snapshots;
use super::snapshot_file::{SnapshotDir, StoredSnapshot};
use super::types::{Entry, EntryData, LogId, SnapshotMeta, Vote};

const LOG: &str = "/controller/log";
const SNAPSHOTS: &str = "/controller/snapshots";
/// How many seeds there are, unless `OTTLA_MATRIX_SEED` names one.
const SEEDS: u64 = 24;
const LIVES: usize = 3;
const POINTS_LEAST: u64 = 4_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    let leader = openraft::impls::leader_id_std::LeaderId::new(term, 1);
    LogId::new(leader.to_committed(), index)
}

/// An entry unlike any other. If entries shared their bytes, the rest of a frame that a crash tore
/// could come from a later frame in the same place and make it whole: the first entry would be back
/// after recovery had found it gone. Nothing but equal bytes can do that, for the checksum covers
/// them all, and nothing that was acknowledged is ever written over.
fn entry(id: LogId, bytes: usize, random: &mut Random) -> Entry {
    let data: Vec<u8> = (0..bytes).map(|_| random.below(256) as u8).collect();
    Entry::new(id, openraft::EntryPayload::Normal(EntryData(data.into())))
}

/// What the log store holds.
#[derive(Debug, Clone, PartialEq, Default)]
struct Log {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Log {
    fn last(&self) -> Option<LogId> {
        let last = self.entries.last().map(|entry| entry.log_id);
        last.or(self.purged)
    }

    fn next_index(&self) -> u64 {
        self.last().map_or(1, |last| last.index + 1)
    }

    fn purge(&mut self, upto: LogId) {
        self.entries.retain(|entry| entry.log_id.index > upto.index);
        self.purged = self.purged.max(Some(upto));
    }

    fn describe(&self) -> String {
        // The same place in the log may have held other bytes before it was cut.
        let ids = self.entries.iter().map(|entry| match &entry.payload {
            openraft::EntryPayload::Normal(data) => {
                format!("{} of {} bytes", entry.log_id, data.0.len())
            }
            _ => entry.log_id.to_string(),
        });
        let ids: Vec<_> = ids.collect();
        let (vote, committed, purged) = (&self.vote, &self.committed, &self.purged);
        format!("vote {vote:?}, committed {committed:?}, purged {purged:?}, entries {ids:?}")
    }
}

/// Everything that something has been, and from where on a crash may leave it.
#[derive(Debug, Clone, Default)]
struct History<T> {
    states: Vec<T>,
    durable: usize,
}

impl<T: Clone + PartialEq> History<T> {
    fn current(&self) -> &T {
        &self.states[self.states.len() - 1]
    }

    fn next(&mut self, state: T) -> usize {
        self.states.push(state);
        self.states.len() - 1
    }

    fn acknowledged(&mut self, state: usize) {
        self.durable = self.durable.max(state);
    }

    fn bounds(&self) -> (usize, usize) {
        (self.durable, self.states.len())
    }

    fn may_be(&self, (durable, known): (usize, usize), found: &T) -> bool {
        self.states[durable..known].contains(found)
    }

    fn after_crash(&self, (durable, known): (usize, usize)) -> History<T> {
        History {
            states: self.states[durable..known].to_vec(),
            durable: 0,
        }
    }
}

type Snapshot = Option<LogId>;

#[derive(Debug, Clone, Default)]
struct Known {
    log: History<Arc<Log>>,
    snapshot: History<Snapshot>,
}

/// The disk before an operation, and which states may be left on it.
struct Cut {
    operation: Option<Operation>,
    disk: SimDisk,
    log: (usize, usize),
    snapshot: (usize, usize),
}

#[derive(Default)]
struct World {
    known: Mutex<Known>,
    cuts: Mutex<Vec<Cut>>,
}

impl World {
    fn new(known: Known) -> Arc<World> {
        Arc::new(World {
            known: Mutex::new(known),
            ..World::default()
        })
    }

    fn cut(&self, operation: Option<Operation>, disk: SimDisk) {
        let known = self.known.lock();
        let cut = Cut {
            operation,
            disk,
            log: known.log.bounds(),
            snapshot: known.snapshot.bounds(),
        };
        drop(known);
        self.cuts.lock().push(cut);
    }

    fn watch(self: &Arc<World>, disk: &SimDisk) {
        let world = self.clone();
        disk.observe(Arc::new(move |operation, fork| {
            world.cut(Some(operation.clone()), fork);
        }));
    }

    fn next(&self, change: impl FnOnce(&mut Log)) -> usize {
        let mut known = self.known.lock();
        let mut log = Log::clone(known.log.current());
        change(&mut log);
        known.log.next(Arc::new(log))
    }

    fn acknowledged(&self, state: usize) {
        self.known.lock().log.acknowledged(state);
    }

    fn log(&self) -> Arc<Log> {
        self.known.lock().log.current().clone()
    }
}

/// The stores, as a controller opens them.
struct Stores {
    log: LogStore,
    snapshots: SnapshotDir,
    newest: Snapshot,
}

impl Stores {
    fn open(disk: &SimDisk) -> Result<Stores, String> {
        let text = |error: &dyn std::error::Error| {
            let source = error.source().map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
        };
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let config = WalConfig {
            file_bytes: 4096,
            spare_files: 1,
            preparing: Preparing::AfterSync,
            notes_synced: true,
            id_if_new: 7,
        };
        let log = LogStore::open(Arc::clone(&disk), None, Path::new(LOG), config);
        let log = log.map_err(|error| text(&error))?;
        let opened = open_snapshots(disk, SNAPSHOTS.into(), &log);
        let (snapshots, newest) = opened.map_err(|error| text(&error))?;
        let (_, damaged) = snapshots.load().map_err(|error| text(&error))?;
        if damaged > 0 {
            return Err(format!("{damaged} snapshots are damaged"));
        }
        let newest = newest.map(|newest| {
            let id = newest.meta.last_log_id;
            assert_eq!(newest.image, image(id), "the snapshot's bytes");
            id
        });
        Ok(Stores {
            log,
            snapshots,
            newest: newest.flatten(),
        })
    }

    fn found(&mut self) -> Log {
        block_on(async {
            let state = self.log.get_log_state().await.unwrap();
            Log {
                vote: self.log.read_vote().await.unwrap(),
                committed: self.log.read_committed().await.unwrap(),
                purged: state.last_purged_log_id,
                entries: self.log.try_get_log_entries(..).await.unwrap(),
            }
        })
    }
}

fn image(id: Option<LogId>) -> Bytes {
    let index = id.map_or(0, |id| id.index);
    Bytes::from(vec![index as u8; 300 + index as usize * 7 % 900])
}

/// Asks the stores for what a consensus asks for.
struct Worker<'a> {
    world: &'a Arc<World>,
    stores: Stores,
    random: &'a mut Random,
}

impl Worker<'_> {
    /// An error means that storage is gone.
    async fn step(&mut self) -> io::Result<()> {
        let now = self.world.log();
        let term = now
            .vote
            .as_ref()
            .map_or(1, |vote| vote.leader_id.term.max(1));
        match self.random.below(24) {
            0..11 => self.append(term).await,
            11..14 => {
                let vote = Vote::new(term + self.random.below(2), 1 + self.random.below(3));
                let state = self.world.next(|log| log.vote = Some(vote));
                self.stores.log.save_vote(&vote).await?;
                self.world.acknowledged(state);
                Ok(())
            }
            14..16 => {
                let committed = now.last();
                self.world.next(|log| log.committed = committed);
                self.stores.log.save_committed(committed).await
            }
            16..18 => self.truncate(&now).await,
            18..20 => match now.committed {
                Some(id) => self.snapshot(id),
                None => Ok(()),
            },
            20..22 => {
                let kept = self.stores.snapshots.oldest_kept_index()?.unwrap_or(0);
                let ids = now.entries.iter().map(|entry| entry.log_id);
                match ids.filter(|id| id.index <= kept).last() {
                    Some(upto) => self.purge(upto).await,
                    None => Ok(()),
                }
            }
            _ => {
                // A leader's snapshot, which may reach beyond the log.
                let id = log_id(term, now.next_index() + self.random.below(4));
                self.snapshot(id)?;
                self.purge(id).await
            }
        }
    }

    /// A few appends of a few entries, which may share a sync.
    async fn append(&mut self, term: u64) -> io::Result<()> {
        let mut appends = Vec::new();
        for _ in 0..=self.random.below(3) {
            let mut entries = Vec::new();
            let mut state = 0;
            for _ in 0..=self.random.below(3) {
                let bytes = 10 + self.random.below(700) as usize;
                let id = log_id(term, self.world.log().next_index());
                let entry = entry(id, bytes, self.random);
                // A crash may leave the first few entries of one call.
                state = self.world.next(|log| log.entries.push(entry.clone()));
                entries.push(entry);
            }
            let (mut log, world) = (self.stores.log.clone(), self.world);
            appends.push(async move {
                log.blocking_append(entries).await?;
                world.acknowledged(state);
                Ok(())
            });
        }
        futures::future::join_all(appends)
            .await
            .into_iter()
            .collect()
    }

    async fn truncate(&mut self, now: &Log) -> io::Result<()> {
        // What is committed is never cut.
        let least = now.committed.map_or(0, |id| id.index);
        let least = now
            .entries
            .partition_point(|entry| entry.log_id.index <= least);
        let cut = self.random.below(4) as usize;
        let keep = now.entries.len().saturating_sub(cut).max(least);
        let last = match keep.checked_sub(1) {
            Some(last) => Some(now.entries[last].log_id),
            None => now.purged,
        };
        let state = self.world.next(|log| log.entries.truncate(keep));
        self.stores.log.truncate_after(last).await?;
        self.world.acknowledged(state);
        Ok(())
    }

    fn snapshot(&mut self, id: LogId) -> io::Result<()> {
        {
            let mut known = self.world.known.lock();
            if *known.snapshot.current() >= Some(id) {
                return Ok(());
            }
            known.snapshot.next(Some(id));
        }
        let meta = SnapshotMeta {
            last_log_id: Some(id),
            ..SnapshotMeta::default()
        };
        let image = image(Some(id));
        self.stores
            .snapshots
            .store(&StoredSnapshot { meta, image })?;
        let mut known = self.world.known.lock();
        known.snapshot.durable = known.snapshot.states.len() - 1;
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let state = self.world.next(|log| log.purge(upto));
        self.stores.log.purge(upto).await?;
        self.world.acknowledged(state);
        Ok(())
    }
}

/// The process is gone, and then the power.
fn die(disk: &SimDisk, stores: Stores) {
    disk.lose_power_after(0);
    drop(stores);
    disk.crash();
}

/// One life of the process. Something may be told to fail in it.
fn live(
    disk: &SimDisk,
    world: &Arc<World>,
    random: &mut Random,
    fault: Option<Fault>,
) -> Result<(), String> {
    world.watch(disk);
    let mut stores = Stores::open(disk)?;
    let (log, snapshot) = (Arc::new(stores.found()), stores.newest);
    {
        let mut known = world.known.lock();
        check_found(
            &known,
            known.log.bounds(),
            known.snapshot.bounds(),
            &log,
            &snapshot,
        )?;
        let state = known.log.next(log);
        known.log.acknowledged(state);
        let state = known.snapshot.next(snapshot);
        known.snapshot.acknowledged(state);
    }
    let faulty = fault.is_some();
    if let Some(fault) = fault {
        disk.inject(fault);
    }
    let steps = 10 + random.below(40);
    let mut worker = Worker {
        world,
        stores,
        random,
    };
    for _ in 0..steps {
        match block_on(worker.step()) {
            Err(error) if !faulty => return Err(format!("a step failed: {error}")),
            Err(_) => break,
            Ok(()) => {}
        }
    }
    disk.stop_observing();
    world.cut(None, disk.fork());
    disk.lose_power_after(0);
    Ok(())
}

fn check_found(
    known: &Known,
    log_bounds: (usize, usize),
    snapshot_bounds: (usize, usize),
    log: &Arc<Log>,
    snapshot: &Snapshot,
) -> Result<(), String> {
    if !known.log.may_be(log_bounds, log) {
        let possible = &known.log.states[log_bounds.0..log_bounds.1];
        let possible: Vec<_> = possible.iter().map(|log| log.describe()).collect();
        return Err(format!("{}: not one of {possible:#?}", log.describe()));
    }
    if !known.snapshot.may_be(snapshot_bounds, snapshot) {
        return Err(format!("snapshot {snapshot:?} of {snapshot_bounds:?}"));
    }
    Ok(())
}

/// Crashes, recovers, compares, and works on.
fn check_point(known: &Known, cut: &Cut, random: &mut Random) -> Result<(), String> {
    let disk = cut.disk.fork();
    let seed = random.below(1 << 40);
    match random.below(8) {
        0 => {}
        1 => disk.evict_caches(),
        2 => disk.crash(),
        _ => disk.crash_keeping_some(seed),
    }
    for _ in 0..[0, 0, 0, 1, 2][random.below(5) as usize] {
        disk.lose_power_after(random.below(14));
        drop(Stores::open(&disk));
        disk.crash_keeping_some(seed);
    }
    let opened = Stores::open(&disk).or_else(|error| {
        // A file system that has failed a directory's sync takes nothing until the next start.
        if disk.sync_dir(Path::new("/")).is_ok() {
            return Err(error);
        }
        disk.crash();
        Stores::open(&disk)
    });
    let mut stores = opened?;
    let (log, snapshot) = (Arc::new(stores.found()), stores.newest);
    check_found(known, cut.log, cut.snapshot, &log, &snapshot)?;
    die(&disk, stores);
    let mut stores = Stores::open(&disk)?;
    if (stores.found(), stores.newest) != (Log::clone(&log), snapshot) {
        let found = stores.found().describe();
        return Err(format!(
            "{found} after losing the power, not {}",
            log.describe()
        ));
    }
    let mut expected = Log::clone(&log);
    let vote = Vote::new(1_000, 3);
    expected.vote = Some(vote);
    expected
        .entries
        .push(entry(log_id(1_000, expected.next_index()), 200, random));
    let added = expected.entries[expected.entries.len() - 1].clone();
    let worked = block_on(async {
        stores.log.save_vote(&vote).await?;
        stores.log.blocking_append([added]).await?;
        Ok::<_, io::Error>(())
    });
    worked.map_err(|error| format!("cannot work on: {error}"))?;
    die(&disk, stores);
    let found = Stores::open(&disk)?.found();
    if found != expected {
        let expected = expected.describe();
        return Err(format!(
            "{} after it worked on, not {expected}",
            found.describe()
        ));
    }
    Ok(())
}

fn random_fault(random: &mut Random) -> Fault {
    let calls = [
        Call::Sync,
        Call::Sync,
        Call::Sync,
        Call::SyncDir,
        Call::Write,
        Call::Rename,
    ];
    let fault = Fault::new(calls[random.below(6) as usize]).after(random.below(40));
    match random.below(2) {
        0 => fault,
        _ => fault.keeping_some(random.below(1 << 40)),
    }
}

/// All cuts of a few lives. Returns how many points were tried.
fn run(seed: u64) -> Result<u64, String> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut disk = SimDisk::new();
    let mut known = Known::default();
    known.log.next(Arc::default());
    known.snapshot.next(None);
    let mut points = 0;
    for life in 0..LIVES {
        let world = World::new(known);
        let fault = (random.below(3) == 0).then(|| random_fault(&mut random));
        let context = format!("seed {seed}, life {life}, {fault:?}");
        live(&disk, &world, &mut random, fault).map_err(|what| format!("{context}: {what}"))?;
        let cuts = std::mem::take(&mut *world.cuts.lock());
        let lived = world.known.lock().clone();
        for (number, cut) in cuts.iter().enumerate() {
            for _ in 0..2 {
                points += 1;
                check_point(&lived, cut, &mut random).map_err(|what| {
                    format!("{context}, cut {number} before {:?}: {what}", cut.operation)
                })?;
            }
        }
        let cut = &cuts[random.below(cuts.len() as u64) as usize];
        disk = cut.disk.fork();
        disk.crash_keeping_some(random.below(1 << 40));
        known = Known {
            log: lived.log.after_crash(cut.log),
            snapshot: lived.snapshot.after_crash(cut.snapshot),
        };
    }
    Ok(points)
}

#[test]
fn votes_entries_and_snapshots_survive_a_cut_at_each_operation() {
    let begun = std::time::Instant::now();
    let seed: Option<u64> = std::env::var("OTTLA_MATRIX_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = seed.map_or_else(|| (0..SEEDS).collect(), |seed| vec![seed]);
    let tried: Vec<_> = std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let seeds = seeds.iter().copied().skip(half).step_by(2);
            scope.spawn(move || seeds.map(run).collect::<Result<Vec<u64>, String>>())
        });
        halves.map(|half| half.join().unwrap()).into()
    });
    let mut points = 0;
    for half in tried {
        points += half
            .unwrap_or_else(|what| panic!("{what}"))
            .iter()
            .sum::<u64>();
    }
    println!(
        "{points} crash points of the consensus' stores in {:?}",
        begun.elapsed()
    );
    assert!(
        points >= POINTS_LEAST || seed.is_some(),
        "only {points} points"
    );
}
