use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_log::{Disk, Flushed, LogSettings, LogStore, RealDisk, SimDisk, StoreConfig};
use ottla_model::batch::{BatchBuilder, BatchHeader, NewRecord, stamp};
use ottla_model::compression::Compression;
use ottla_model::{
    LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicIdPartition,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn open(disk: &Arc<dyn Disk>, dir: &Path, config: StoreConfig) -> LogStore {
    LogStore::open(
        Arc::clone(disk),
        dir,
        config,
        Arc::new(|_: &[Flushed]| {}),
        Arc::new(|error| panic!("storage failed: {error}")),
    )
    .unwrap()
}

fn id(partition: i32) -> TopicIdPartition {
    TopicIdPartition::new(TopicId::from_bytes([5; 16]), PartitionIndex(partition))
}

/// One record of a producer, whose sequence is its offset.
fn batch(producer: i64, base: i64, bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(ProducerId(producer), ProducerEpoch(0), base as i32);
    let value = vec![base as u8; bytes];
    let record = NewRecord {
        value: Some(&value),
        ..NewRecord::default()
    };
    builder.push(&record).unwrap();
    let mut batch = builder.build().unwrap().to_vec();
    stamp(&mut batch, Offset(base), LeaderEpoch(0), None);
    Bytes::from(batch)
}

fn header(producer: i64, base: i64) -> BatchHeader {
    BatchHeader::decode(&batch(producer, base, 10)).unwrap()
}

fn settle(store: &LogStore) {
    let deadline = Instant::now() + PATIENCE;
    while store.stats().queued_bytes + store.stats().backlog_bytes > 0 {
        assert!(Instant::now() < deadline, "{:?}", store.stats());
        std::thread::yield_now();
    }
}

/// A log of six batches of producer 1, and what is known after the first four: of a producer 9 too,
/// by which one can see whether it was used.
fn saved_after_four(disk: &Arc<dyn Disk>) -> (LogStore, Arc<PartitionLog>) {
    let store = open(disk, Path::new("/log"), StoreConfig::default());
    let log = store.get_or_create(id(0), LogSettings::default()).unwrap();
    let mut known = Producers::default();
    for base in 0..6 {
        log.append(base as u64, batch(1, base, 10)).unwrap();
        settle(&store);
        known.observe(&header(1, base));
        if base == 3 {
            let mut marked = known.clone();
            marked.absorb({
                let mut other = Producers::default();
                other.observe(&header(9, 2));
                other
            });
            let saved = log.save_producers(log.moment(), &marked.encode());
            assert!(saved.unwrap());
        }
    }
    assert_eq!(known.last_offsets().len(), 5);
    (store, log)
}

#[test]
fn what_was_saved_and_the_batches_since_are_what_is_known() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let (store, _) = saved_after_four(&disk);
    store.shutdown().unwrap();
    let store = open(&disk, Path::new("/log"), StoreConfig::default());
    let log = store.get(id(0)).unwrap();
    let known = load_producers(&log).unwrap();
    assert_eq!(known.len(), 2);
    let of_one = [1, 2, 3, 4, 5].map(Offset);
    assert_eq!(
        known.last_offsets(),
        [&[Offset(1), Offset(2)], &of_one[1..]].concat()
    );
    assert!(known.check(&header(1, 6)).is_ok());
}

#[test]
fn what_speaks_of_batches_that_were_cut_is_not_used() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let (_store, log) = saved_after_four(&disk);
    log.truncate(Offset(3)).unwrap();
    let known = load_producers(&log).unwrap();
    assert_eq!(known.last_offsets(), [0, 1, 2].map(Offset));
}

#[test]
fn bytes_of_another_kind_are_passed_over() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let (_store, log) = saved_after_four(&disk);
    assert!(log.save_producers(log.moment(), b"something else").unwrap());
    let known = load_producers(&log).unwrap();
    assert_eq!(known.last_offsets(), [1, 2, 3, 4, 5].map(Offset));
}

/// ```text
/// cargo test --release -p ottla-broker --lib a_start_reads -- --ignored --nocapture
/// ```
#[test]
#[ignore = "writes 2 GiB, to be measured by hand"]
fn a_start_reads_what_was_saved_in_so_long() {
    const LOGS: i32 = 12;
    const BATCHES: i64 = 10_900;
    const BATCH_BYTES: usize = 16 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let store = open(&disk, dir.path(), StoreConfig::default());
    for base in 0..BATCHES {
        for partition in 0..LOGS {
            let log = store.get_or_create(id(partition), LogSettings::default());
            let batch = batch(base % 10, base, BATCH_BYTES);
            log.unwrap().append(base as u64, batch).unwrap();
        }
        if base % 100 == 0 {
            settle(&store);
        }
    }
    store.shutdown().unwrap();
    let load = |what: &str| {
        for entry in walk(dir.path()) {
            forget(&entry);
        }
        let begun = Instant::now();
        let store = open(&disk, dir.path(), StoreConfig::default());
        let opened = begun.elapsed();
        for partition in 0..LOGS {
            let log = store.get(id(partition)).unwrap();
            let known = load_producers(&log).unwrap();
            assert_eq!(known.len(), 10);
            let saved = log.save_producers(log.moment(), &known.encode());
            assert!(saved.unwrap());
        }
        let all = begun.elapsed();
        println!("{what}: opened in {opened:.1?}, producers after {all:.1?}");
        store.shutdown().unwrap();
    };
    load("read from the log");
    load("saved");
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(walk(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Takes a file out of the operating system's cache.
fn forget(path: &Path) {
    let file = format!("of={}", path.display());
    let done = std::process::Command::new("dd")
        .args([
            "if=/dev/null",
            "oflag=nocache",
            "conv=notrunc,fdatasync",
            "count=0",
            &file,
        ])
        .output();
    assert!(done.unwrap().status.success());
}
