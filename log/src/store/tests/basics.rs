//! Appending, cutting, deleting, and finding it all again.

use std::sync::atomic::Ordering;

use super::*;
use crate::disk::Call;

fn fill(log: &PartitionLog, from: i64, to: i64) -> Vec<Bytes> {
    let batches: Vec<_> = (from..to).step_by(2).map(|n| batch(n, 2, 300)).collect();
    for (index, batch) in batches.iter().enumerate() {
        log.append(from as u64 + 2 * index as u64 + 2, batch.clone())
            .unwrap();
    }
    batches
}

#[test]
fn what_was_appended_is_read_at_once_and_after_a_restart() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    let expected = fill(&log, 0, 200);
    assert_eq!(read_all(&log).unwrap(), expected);
    assert_eq!(log.log_end(), Offset(200));
    store.shutdown().unwrap();
    drop(store);
    let store = open(&disk);
    assert_eq!(store.ids(), [id(1)]);
    let log = store.get(id(1)).unwrap();
    assert_eq!(log.log_end(), Offset(200));
    assert_eq!(read_all(&log).unwrap(), expected);
    assert_eq!(
        log.size_bytes(),
        expected.iter().map(|b| b.len() as u64).sum::<u64>()
    );
    assert!(store.damage().logs.is_empty());
}

#[test]
fn what_was_flushed_survives_a_crash_without_a_checkpoint() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    let expected = fill(&log, 0, 200);
    assert!(store.told.wait_for(id(1), 200));
    crash(&disk, store);
    let store = open(&disk);
    assert_eq!(read_all(&store.get(id(1)).unwrap()).unwrap(), expected);
}

#[test]
fn the_journal_is_replayed_over_a_checkpoint() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    let mut expected = fill(&log, 0, 100);
    wait_until_on_disk(&log);
    assert!(store.told.wait_for(id(1), 100));
    wait_for_checkpoint(&store);
    expected.extend(fill(&log, 100, 150));
    assert!(store.told.wait_for(id(1), 150));
    crash(&disk, store);
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    assert_eq!(read_all(&log).unwrap(), expected);
    let more = fill(&log, 150, 160);
    expected.extend(more);
    assert_eq!(read_all(&log).unwrap(), expected);
}

#[test]
fn batches_that_do_not_continue_the_log_change_nothing() {
    let store = open(&SimDisk::new());
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch_at(0, 3, 2, 100, 0)).unwrap();
    let gap = log.append(2, batch(3, 1, 10)).unwrap_err();
    assert!(matches!(gap, LogError::NotContinuing { .. }), "{gap}");
    let again = log.append(2, batch(0, 2, 100)).unwrap_err();
    assert!(matches!(again, LogError::NotContinuing { .. }), "{again}");
    let old = log.append(2, batch_at(2, 2, 1, 10, 0)).unwrap_err();
    assert!(matches!(old, LogError::EpochWentBack { .. }), "{old}");
    let mut cut_off = batch_at(2, 3, 1, 10, 0).to_vec();
    cut_off.pop();
    let cut_off = log.append(2, Bytes::from(cut_off)).unwrap_err();
    assert!(matches!(cut_off, LogError::Batch { .. }), "{cut_off}");
    let large = log.append(2, batch_at(2, 3, 1, 70_000, 0)).unwrap_err();
    assert!(matches!(large, LogError::TooLarge { .. }), "{large}");
    assert_eq!(log.log_end(), Offset(2));
    assert_eq!(read_all(&log).unwrap().len(), 1);
}

#[test]
fn a_batch_that_holds_the_cut_goes_whole() {
    for on_disk in [false, true] {
        for (to, end) in [(100, 100), (50, 50), (51, 50), (1, 0), (0, 0), (400, 200)] {
            let disk = SimDisk::new();
            let store = open(&disk);
            let log = store.get_or_create(id(1), settings()).unwrap();
            let mut expected = fill(&log, 0, 200);
            if on_disk {
                wait_until_on_disk(&log);
            }
            log.truncate(Offset(to)).unwrap();
            expected.retain(|batch| base_of(batch) < end);
            assert_eq!(log.log_end(), Offset(end), "cut at {to}");
            assert_eq!(read_all(&log).unwrap(), expected, "cut at {to}");
            let other = batch_at(end, 1, 5, 700, 0);
            log.append(1000, other.clone()).unwrap();
            expected.push(other);
            assert_eq!(read_all(&log).unwrap(), expected, "cut at {to}");
            wait_until_on_disk(&log);
            assert_eq!(read_all(&log).unwrap(), expected, "cut at {to}");
            assert!(store.told.wait_for(id(1), 1000));
            crash(&disk, store);
            let store = open(&disk);
            let log = store.get(id(1)).unwrap();
            assert_eq!(read_all(&log).unwrap(), expected, "cut at {to}, reopened");
        }
    }
}

#[test]
fn a_restarted_log_continues_where_it_was_told() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    fill(&log, 0, 100);
    wait_until_on_disk(&log);
    log.restart_at(Offset(40)).unwrap();
    assert_eq!((log.log_start(), log.log_end()), (Offset(40), Offset(40)));
    assert!(log.epochs().is_empty());
    assert!(matches!(
        log.read(Offset(39), Offset(100), 10),
        Err(ReadError::OutOfRange { .. })
    ));
    let expected: Vec<_> = (40..60).map(|base| batch(base, 1, 300)).collect();
    for (ticket, batch) in (1000..).zip(&expected) {
        log.append(ticket, batch.clone()).unwrap();
    }
    assert_eq!(read_all(&log).unwrap(), expected);
    assert!(store.told.wait_for(id(1), 1019));
    crash(&disk, store);
    let log = open(&disk).get(id(1)).unwrap();
    assert_eq!(log.log_start(), Offset(40));
    assert_eq!(read_all(&log).unwrap(), expected);
}

#[test]
fn segments_below_the_log_start_are_deleted() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    fill(&log, 0, 200);
    wait_until_on_disk(&log);
    let before = log.size_bytes();
    assert!(matches!(
        log.advance_log_start(Offset(201)),
        Err(LogError::LogStartBeyondEnd { .. })
    ));
    log.advance_log_start(Offset(101)).unwrap();
    log.advance_log_start(Offset(50)).unwrap();
    assert_eq!(log.log_start(), Offset(101));
    assert_eq!(log.epochs(), [(LeaderEpoch(0), Offset(101))]);
    log.append(202, batch(200, 2, 300)).unwrap();
    wait_until_on_disk(&log);
    assert!(
        log.size_bytes() < before * 2 / 3,
        "{} of {before}",
        log.size_bytes()
    );
    let first = read_all(&log).unwrap();
    assert_eq!(
        base_of(&first[0]),
        100,
        "the batch that holds the start is whole"
    );
    assert!(store.told.wait_for(id(1), 202));
    crash(&disk, store);
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    assert_eq!(log.log_start(), Offset(101));
    assert_eq!(read_all(&log).unwrap(), first);
}

#[test]
fn a_deleted_log_stays_deleted_and_a_new_one_begins_empty() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    fill(&log, 0, 100);
    wait_until_on_disk(&log);
    wait_for_checkpoint(&store);
    store.delete(id(1)).unwrap();
    store.delete(id(1)).unwrap();
    assert!(store.get(id(1)).is_none());
    assert!(matches!(
        log.append(9, batch(100, 1, 10)),
        Err(LogError::Gone { .. })
    ));
    assert!(matches!(read_all(&log), Err(ReadError::Gone)));
    crash(&disk, store);
    let store = open(&disk);
    assert!(store.ids().is_empty());
    let log = store.get_or_create(id(1), settings()).unwrap();
    assert_eq!(log.log_end(), Offset(0));
    let expected = fill(&log, 0, 20);
    assert!(store.told.wait_for(id(1), 20));
    crash(&disk, store);
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    assert_eq!(read_all(&log).unwrap(), expected);
}

#[test]
fn a_log_that_is_set_aside_keeps_its_files() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    let first = fill(&log, 0, 100);
    let path = store.set_aside(id(1)).unwrap();
    assert!(path.starts_with(Path::new(DIR).join("stray")), "{path:?}");
    assert!(store.get(id(1)).is_none());
    assert!(matches!(store.set_aside(id(1)), Err(LogError::Gone { .. })));
    let log = store.get_or_create(id(1), settings()).unwrap();
    fill(&log, 0, 10);
    let other = store.set_aside(id(1)).unwrap();
    assert_ne!(path, other);
    crash(&disk, store);
    let store = open(&disk);
    assert!(store.ids().is_empty());
    let mut batches = 0;
    for entry in disk.list(&path).unwrap() {
        let file = path.join(&entry.name);
        if crate::segment::base_of(&file).is_some() {
            crate::dump::dump_segment(&disk, &file, &mut |found| {
                assert!(found.validity.is_ok());
                batches += 1;
            })
            .unwrap();
        }
    }
    assert_eq!(batches, first.len());
}

#[test]
fn an_empty_log_costs_no_file() {
    let disk = SimDisk::new();
    let store = open(&disk);
    for partition in 0..100 {
        store.get_or_create(id(partition), settings()).unwrap();
    }
    store.shutdown().unwrap();
    drop(store);
    let store = open(&disk);
    assert_eq!(store.ids().len(), 100);
    assert_eq!(store.stats().open_files, 0);
    let partitions = Path::new(DIR).join("partitions");
    assert!(disk.list(&partitions).unwrap().is_empty());
}

#[test]
fn open_files_stay_bounded() {
    let disk = SimDisk::new();
    let small = StoreConfig {
        open_files_max: 8,
        cache_bytes: 0,
        ..config()
    };
    let store = try_open(&disk, small).unwrap();
    for partition in 0..40 {
        let log = store.get_or_create(id(partition), settings()).unwrap();
        fill(&log, 0, 20);
        wait_until_on_disk(&log);
        assert_eq!(read_all(&log).unwrap().len(), 10);
        assert!(store.stats().open_files <= 8);
    }
    wait_for_checkpoint(&store);
    crash(&disk, store);
    let store = open(&disk);
    for partition in 0..40 {
        assert_eq!(
            read_all(&store.get(id(partition)).unwrap()).unwrap().len(),
            10
        );
    }
}

/// A store that makes a checkpoint after every 16 KiB, and a log.
fn with_frequent_checkpoints(disk: &SimDisk) -> (TestStore, Arc<PartitionLog>) {
    let often = StoreConfig {
        checkpoint_bytes: 16 * 1024,
        ..config()
    };
    let store = try_open(disk, often).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    (store, log)
}

/// What is written while a checkpoint is made still counts from the one before it. Once, every
/// checkpoint under load was followed by another at once, which synced all files again.
#[test]
fn a_checkpoint_is_not_followed_by_another_that_is_not_due() {
    let disk = SimDisk::new();
    let (store, log) = with_frequent_checkpoints(&disk);
    let mut base = 0;
    let mut write = |bytes: i64| {
        for _ in 0..bytes / 1_000 {
            log.append(base as u64, batch(base, 1, 1_000)).unwrap();
            base += 1;
        }
        assert!(store.told.wait_for(id(1), base as u64 - 1));
        wait_until_on_disk(&log);
    };
    let first = disk.hold(Call::Rename, "checkpoint");
    write(20_000);
    assert!(first.wait_until_reached());
    write(5_000);
    let second = disk.hold(Call::Sync, "partitions");
    first.release();
    let deadline = Instant::now() + PATIENCE;
    let wait_for_checkpoint = |number| {
        while store.stats().checkpoints < number {
            assert!(Instant::now() < deadline, "no checkpoint {number}");
            std::thread::yield_now();
        }
        store.shared.trim_to.load(Ordering::Acquire)
    };
    let covered = wait_for_checkpoint(1);
    while !second.is_reached() {
        assert!(Instant::now() < deadline, "no second checkpoint");
        write(1_000);
    }
    second.release();
    let then = wait_for_checkpoint(2) - covered;
    assert!(then >= 16 * 1024, "only {then} bytes after the first");
}

#[test]
fn checkpoints_set_the_journal_free() {
    let disk = SimDisk::new();
    let (store, log) = with_frequent_checkpoints(&disk);
    for base in 0..2000 {
        log.append(base as u64, batch(base, 1, 500)).unwrap();
        if base % 50 == 49 {
            assert!(store.told.wait_for(id(1), base as u64));
        }
    }
    wait_until_on_disk(&log);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let files = disk.list(&Path::new(DIR).join("journal")).unwrap();
        let kept = files
            .iter()
            .filter(|file| file.name.to_string_lossy().ends_with(".wal"));
        // Two that are written to or wait for a checkpoint, and two to go on to.
        if kept.count() <= 4 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the journal is not trimmed: {files:?}"
        );
        std::thread::yield_now();
    }
    assert!(store.stats().checkpoints > 0);
    store.shutdown().unwrap();
}

#[test]
fn the_cache_stays_bounded_once_segments_have_followed() {
    let store = open(&SimDisk::new());
    for partition in 0..4 {
        let log = store.get_or_create(id(partition), settings()).unwrap();
        fill(&log, 0, 400);
        wait_until_on_disk(&log);
    }
    let deadline = Instant::now() + PATIENCE;
    while store.stats().cached_bytes > 8 * 1024 {
        assert!(Instant::now() < deadline, "{}", store.stats().cached_bytes);
        std::thread::yield_now();
    }
    let log = store.get(id(0)).unwrap();
    let outcome = log.read(Offset(0), Offset(400), 100).unwrap();
    assert_eq!(outcome, ReadOutcome::OnDisk);
    let last = store.get(id(3)).unwrap();
    let outcome = last.read(Offset(398), Offset(400), 100).unwrap();
    assert!(matches!(outcome, ReadOutcome::Cached(batches) if batches.len() == 1));
}

#[test]
fn epochs_begin_with_their_first_batch_and_go_with_it() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    for (base, epoch) in [(0, 0), (10, 0), (20, 2), (30, 2), (40, 5)] {
        log.append(base as u64, batch_at(base, epoch, 10, 900, 0))
            .unwrap();
    }
    let epochs = |entries: &[(i32, i64)]| -> Vec<_> {
        entries
            .iter()
            .map(|(e, o)| (LeaderEpoch(*e), Offset(*o)))
            .collect()
    };
    assert_eq!(log.epochs(), epochs(&[(0, 0), (2, 20), (5, 40)]));
    log.truncate(Offset(40)).unwrap();
    assert_eq!(log.epochs(), epochs(&[(0, 0), (2, 20)]));
    log.truncate(Offset(25)).unwrap();
    assert_eq!(log.epochs(), epochs(&[(0, 0)]));
    log.append(50, batch_at(20, 6, 1, 10, 0)).unwrap();
    assert!(store.told.wait_for(id(1), 50));
    for with_crash in [true, false] {
        let store = open(&disk);
        let log = store.get(id(1)).unwrap();
        assert_eq!(log.epochs(), epochs(&[(0, 0), (6, 20)]));
        if with_crash {
            crash(&disk, store);
        } else {
            store.shutdown().unwrap();
        }
    }
}

#[test]
fn segments_that_were_begun_since_the_checkpoint_are_there_again_after_a_kill() {
    let small = LogSettings {
        segment_bytes: 1024,
        ..settings()
    };
    let bases = |disk: &SimDisk| -> Vec<String> {
        let dir = Path::new(DIR).join("partitions").join(id(1).to_string());
        let entries = disk.list(&dir).unwrap();
        let names = entries.into_iter().map(|entry| entry.name);
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.retain(|name| name.ends_with(".log"));
        names.sort();
        names
    };
    for is_checkpointed in [false, true] {
        let disk = SimDisk::new();
        let store = open(&disk);
        let log = store.get_or_create(id(1), small).unwrap();
        for base in 0..20 {
            log.append(base as u64 + 1, batch(base, 1, 400)).unwrap();
            if is_checkpointed && base == 6 {
                wait_until_on_disk(&log);
                wait_for_checkpoint(&store);
            }
        }
        assert!(store.told.wait_for(id(1), 20));
        wait_until_on_disk(&log);
        let before = bases(&disk);
        assert_eq!(before.len(), 10);
        // Killed, the process leaves its files as they are.
        let left = disk.fork();
        let store = open(&left);
        assert_eq!(bases(&left), before);
        let log = store.get(id(1)).unwrap();
        assert_eq!(read_all(&log).unwrap().len(), 20);
        crash(&left, store);
        let log = open(&left).get(id(1)).unwrap();
        assert_eq!(read_all(&log).unwrap().len(), 20);
    }
}
