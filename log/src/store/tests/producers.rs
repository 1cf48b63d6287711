//! What is kept of a log's producers, and when it is not believed any more.

use super::*;
use crate::disk::{Disk as _, OpenMode};
use crate::segment::base_of;

/// Saves `state` as of now.
fn save(log: &PartitionLog, state: &[u8]) -> bool {
    log.save_producers(log.moment(), state).unwrap()
}

fn saved(log: &PartitionLog) -> Option<(i64, Vec<u8>)> {
    let saved = log.saved_producers()?;
    assert!(log.holds_saved_producers(&saved));
    Some((saved.upto.0, saved.state.to_vec()))
}

fn path(log: &PartitionLog, upto: i64) -> PathBuf {
    log.dir().join(format!("{upto:020}.producers"))
}

/// A log with ten batches in its segments, of which the first `upto` are spoken of.
fn saved_at(disk: &SimDisk, upto: &[i64]) -> (TestStore, Arc<PartitionLog>) {
    let store = open(disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    for base in 0..10 {
        log.append(base as u64, batch(base, 1, 500)).unwrap();
        wait_until_on_disk(&log);
        if upto.contains(&(base + 1)) {
            assert!(save(&log, format!("upto {}", base + 1).as_bytes()));
        }
    }
    (store, log)
}

#[test]
fn what_was_saved_is_there_after_a_restart_and_only_the_last_two_are_kept() {
    let disk = SimDisk::new();
    let (store, log) = saved_at(&disk, &[2, 5, 7, 9]);
    assert_eq!(saved(&log), Some((9, b"upto 9".to_vec())));
    assert!(!log.has_saved_producers());
    store.shutdown().unwrap();
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    assert_eq!(saved(&log), Some((9, b"upto 9".to_vec())));
    let names = disk.list(log.dir()).unwrap();
    let kept = names
        .iter()
        .filter(|entry| entry.name.to_string_lossy().ends_with(".producers"));
    assert_eq!(kept.count(), 2);
    assert!(save(&log, b"all"));
    assert!(log.has_saved_producers());
    assert_eq!(saved(&log), Some((10, b"all".to_vec())));
}

/// The oldest file is written over, so a crash may leave what a later one was to hold under its
/// name.
#[test]
fn a_name_that_does_not_say_what_the_file_holds_is_not_believed() {
    let disk = SimDisk::new();
    let (store, log) = saved_at(&disk, &[4, 8]);
    let (old, new) = (path(&log, 4), path(&log, 8));
    store.shutdown().unwrap();
    disk.unlink(&old).unwrap();
    disk.rename(&new, &old).unwrap();
    let store = open(&disk);
    assert_eq!(saved(&store.get(id(1)).unwrap()), None);
}

#[test]
fn without_a_whole_one_the_one_before_is_used_and_then_none() {
    let disk = SimDisk::new();
    let (store, log) = saved_at(&disk, &[4, 8]);
    let dir = log.dir().to_owned();
    store.shutdown().unwrap();
    disk.flip_bit(&dir.join(format!("{:020}.producers", 8)), 400)
        .unwrap();
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    assert_eq!(saved(&log), Some((4, b"upto 4".to_vec())));
    let file = disk.open(&path(&log, 4), OpenMode::Existing).unwrap();
    file.set_len(30).unwrap();
    assert_eq!(saved(&log), None);
    assert!(store.damage().is_empty());
    assert_eq!(
        disk.open(&path(&log, 4), OpenMode::Existing)
            .err()
            .unwrap()
            .kind(),
        std::io::ErrorKind::NotFound
    );
    assert_eq!(read_all(&log).unwrap().len(), 10);
}

#[test]
fn a_cut_takes_away_what_speaks_of_more_at_once_and_after_a_crash() {
    let disk = SimDisk::new();
    let (store, log) = saved_at(&disk, &[4, 8]);
    let hold = disk.hold(crate::disk::Call::Write, "journal");
    log.truncate(Offset(6)).unwrap();
    assert_eq!(saved(&log), Some((4, b"upto 4".to_vec())));
    assert!(!save(&log, b"never"), "the cut is on its way");
    hold.release();
    log.append(20, batch(6, 1, 500)).unwrap();
    log.append(21, batch(7, 1, 500)).unwrap();
    log.append(22, batch(8, 1, 500)).unwrap();
    assert!(store.told.wait_for(id(1), 22));
    wait_until_on_disk(&log);
    assert_eq!(saved(&log), Some((4, b"upto 4".to_vec())));
    for crash in [None, Some(1), Some(2), Some(3)] {
        let disk = disk.fork();
        if let Some(seed) = crash {
            disk.crash_keeping_some(seed);
        }
        let store = open(&disk);
        let log = store.get(id(1)).unwrap();
        assert!(saved(&log).is_none_or(|(upto, _)| upto == 4), "{crash:?}");
        assert_eq!(log.log_end(), Offset(9));
    }
}

#[test]
fn a_moment_before_a_cut_is_not_saved() {
    let disk = SimDisk::new();
    let (_store, log) = saved_at(&disk, &[]);
    let moment = log.moment();
    log.truncate(Offset(9)).unwrap();
    log.append(20, batch(9, 1, 500)).unwrap();
    wait_until_on_disk(&log);
    assert_eq!(log.log_end(), moment.end);
    assert!(!log.save_producers(moment, b"stale").unwrap());
    assert_eq!(saved(&log), None);
}

#[test]
fn what_lies_below_the_logs_start_is_not_gone_on_from() {
    let disk = SimDisk::new();
    let (store, log) = saved_at(&disk, &[4, 8]);
    log.advance_log_start(Offset(6)).unwrap();
    assert_eq!(saved(&log), Some((8, b"upto 8".to_vec())));
    log.advance_log_start(Offset(9)).unwrap();
    assert_eq!(saved(&log), None);
    store.shutdown().unwrap();
    let store = open(&disk);
    assert_eq!(saved(&store.get(id(1)).unwrap()), None);
}

/// Retention may take all batches away; their producers go on. Once, the epoch before the log's new
/// start was asked for, which is forgotten, and the file was called damaged.
#[test]
fn what_the_log_begins_with_is_gone_on_from() {
    let disk = SimDisk::new();
    let (store, log) = saved_at(&disk, &[8, 10]);
    log.advance_log_start(Offset(10)).unwrap();
    let all = Some((10, b"upto 10".to_vec()));
    assert_eq!(saved(&log), all);
    store.shutdown().unwrap();
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    assert_eq!(saved(&log), all);
}

/// With ten thousand new partitions, files for what takes a moment to read were a twelfth of all
/// work.
#[test]
fn a_log_that_begins_lags_once_there_is_much_to_read() {
    let disk = SimDisk::new();
    let config = StoreConfig {
        saved_lag_bytes: 1_000,
        ..config()
    };
    let store = try_open(&disk, config.clone()).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    let append = |log: &PartitionLog, base| {
        log.append(base as u64, batch(base, 1, 500)).unwrap();
        wait_until_on_disk(log);
    };
    append(&log, 0);
    assert!(!log.saved_producers_lag());
    append(&log, 1);
    assert!(log.saved_producers_lag());
    assert!(save(&log, b"upto 2"));
    append(&log, 2);
    assert!(!log.saved_producers_lag());
    drop(log);
    store.shutdown().unwrap();
    // It is not known any more how much came since.
    let store = try_open(&disk, config).unwrap();
    assert!(store.get(id(1)).unwrap().saved_producers_lag());
}

#[test]
fn an_empty_log_and_one_that_is_gone_keep_nothing() {
    let disk = SimDisk::new();
    let (store, log) = saved_at(&disk, &[]);
    let other = store.get_or_create(id(2), settings()).unwrap();
    assert!(!save(&other, b"nothing"));
    let moment = log.moment();
    store.delete(id(1)).unwrap();
    assert!(!log.save_producers(moment, b"gone").unwrap_or(false));
    let log = store.get_or_create(id(1), settings()).unwrap();
    assert_eq!(saved(&log), None);
}

#[test]
fn a_full_disk_keeps_nothing_and_harms_nothing() {
    let disk = SimDisk::new();
    let (store, log) = saved_at(&disk, &[4]);
    disk.set_capacity(0);
    assert!(log.save_producers(log.moment(), b"all").is_err());
    assert_eq!(saved(&log), Some((4, b"upto 4".to_vec())));
    disk.set_capacity(1 << 30);
    assert!(save(&log, b"all"));
    assert!(store.told.failures() == 0);
    let others = disk.list(log.dir()).unwrap();
    let segments = others.iter().map(|entry| log.dir().join(&entry.name));
    assert!(segments.filter_map(|path| base_of(&path)).count() > 0);
}
