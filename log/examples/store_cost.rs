//! What the threads of stores cost under load: three stores, as of three nodes on one machine, take
//! batches at a fixed rate each for ten seconds.
//!
//! `cargo run --release -p ottla-log --example store_cost -- DIR MEGABYTES_PER_SECOND`

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_log::{LogSettings, LogStore, PartitionLog, RealDisk, StoreConfig};
use ottla_model::batch::{BatchBuilder, NewRecord, stamp};
use ottla_model::compression::Compression;
use ottla_model::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicIdPartition};

const STORES: usize = 3;
const PARTITIONS: i32 = 12;
const RECORDS: i64 = 32;
const RECORD_BYTES: usize = 1024;
/// Batches come so often, all partitions in turn.
const TICK: Duration = Duration::from_millis(2);
const SECONDS: u64 = 10;
/// Nothing is appended while so much waits for the journal.
const QUEUED_BYTES_MAX: u64 = 16 << 20;
const TICKS_PER_SECOND: f64 = 100.0;

type Failure = Box<dyn Error + Send + Sync>;

fn open(dir: &Path) -> Result<LogStore, Failure> {
    let config = StoreConfig {
        checkpoint_bytes: 128 << 20,
        journal_spare_files: StoreConfig::spare_files_for(128 << 20, 32 << 20),
        cache_bytes: 16 << 20,
        ..StoreConfig::default()
    };
    let fatal = Arc::new(|error| eprintln!("the storage failed: {error}"));
    let store = LogStore::open(Arc::new(RealDisk), dir, config, Arc::new(|_| {}), fatal)?;
    Ok(store)
}

fn template() -> Result<Vec<u8>, Failure> {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = [7; RECORD_BYTES];
    for _ in 0..RECORDS {
        builder.push(&NewRecord {
            value: Some(&value),
            ..NewRecord::default()
        })?;
    }
    Ok(builder.build()?.to_vec())
}

/// Appends at the rate, as far as the store keeps up; returns the bytes.
fn load(store: &LogStore, bytes_per_second: f64) -> Result<f64, Failure> {
    let mut batch = template()?;
    let logs = (0..PARTITIONS).map(|partition| {
        let topic = TopicId::from_bytes([9; 16]);
        let id = TopicIdPartition::new(topic, PartitionIndex(partition));
        store.get_or_create(id, LogSettings::default())
    });
    let logs: Vec<Arc<PartitionLog>> = logs.collect::<Result<_, _>>()?;
    let began = Instant::now();
    let (mut appended, mut turn) = (0.0, 0);
    while began.elapsed() < Duration::from_secs(SECONDS) {
        while appended < began.elapsed().as_secs_f64() * bytes_per_second
            && store.stats().queued_bytes < QUEUED_BYTES_MAX
        {
            let log = &logs[turn % logs.len()];
            stamp(&mut batch, log.log_end(), LeaderEpoch(1), None);
            log.append(turn as u64, Bytes::copy_from_slice(&batch))?;
            appended += batch.len() as f64;
            turn += 1;
        }
        thread::sleep(TICK);
    }
    assert!(logs[0].log_end() > Offset::ZERO, "nothing was appended");
    Ok(appended)
}

/// Seconds that this process's threads have run, in the kernel too, by their names.
fn cpu_by_thread() -> Result<BTreeMap<String, f64>, Failure> {
    let mut all = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        let name = fs::read_to_string(task.join("comm"))?.trim().to_owned();
        let text = fs::read_to_string(task.join("schedstat"))?;
        let nanos: f64 = text.split_whitespace().next().unwrap_or("0").parse()?;
        *all.entry(name).or_insert(0.0) += nanos / 1e9;
    }
    Ok(all)
}

/// Seconds that all CPUs have been busy: user, nice, system, interrupts.
fn machine_cpu() -> Result<f64, Failure> {
    let text = fs::read_to_string("/proc/stat")?;
    let fields = text.split_whitespace().skip(1).take(7).map(str::parse);
    let fields: Vec<f64> = fields.collect::<Result<_, _>>()?;
    let busy = [0, 1, 2, 5, 6].iter().map(|&at| fields[at]).sum::<f64>();
    Ok(busy / TICKS_PER_SECOND)
}

fn main() -> Result<(), Failure> {
    const USAGE: &str = "usage: store_cost DIR MEGABYTES_PER_SECOND";
    let dir = std::env::args_os().nth(1).ok_or(USAGE)?;
    let rate: f64 = std::env::args().nth(2).ok_or(USAGE)?.parse()?;
    let dir = Path::new(&dir).join("store_cost");
    let stores: Vec<LogStore> = (0..STORES)
        .map(|number| open(&dir.join(number.to_string())))
        .collect::<Result<_, _>>()?;
    let (before, busy) = (cpu_by_thread()?, machine_cpu()?);
    let appended = thread::scope(|scope| {
        let running: Vec<_> = stores
            .iter()
            .map(|store| scope.spawn(move || load(store, rate * 1e6)))
            .collect();
        let mut bytes = 0.0;
        for thread in running {
            bytes += thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok::<f64, Failure>(bytes)
    })?;
    let (after, busy) = (cpu_by_thread()?, machine_cpu()? - busy);
    let gigabytes = appended / 1e9;
    let syncs: u64 = stores.iter().map(|store| store.stats().syncs).sum();
    print!(
        "| {:.0} | {:.0} |",
        appended / 1e6 / SECONDS as f64 / STORES as f64,
        appended / syncs as f64 / 1024.0
    );
    for name in [
        "log-journal",
        "log-segments",
        "log-checkpoint",
        "log-spares",
    ] {
        let cpu = |all: &BTreeMap<String, f64>| all.get(name).copied().unwrap_or_default();
        print!(" {:.3} |", (cpu(&after) - cpu(&before)) / gigabytes);
    }
    println!(" {:.2} |", busy / gigabytes);
    drop(stores);
    fs::remove_dir_all(&dir)?;
    Ok(())
}
