//! Disks that fail, fill up and hang: nothing is acknowledged that is not durable, the failure is
//! told once, and a read that fails fails alone.

use super::*;
use crate::disk::{Call, Fault, Hold, Operation};

/// A store with one append that is durable and in its segment.
fn begun(disk: &SimDisk) -> (TestStore, Arc<PartitionLog>) {
    let store = open(disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch(0, 1, 100)).unwrap();
    assert!(store.told.wait_for(id(1), 1));
    wait_until_on_disk(&log);
    (store, log)
}

fn check_final(store: &TestStore, log: &PartitionLog) {
    let next = batch(log.log_end().0, 1, 100);
    let refused = log.append(1000, next).unwrap_err();
    assert!(matches!(refused, LogError::Failed { .. }), "{refused}");
    assert!(log.truncate(Offset(0)).is_err());
    assert!(store.get_or_create(id(2), settings()).is_err());
    assert!(store.shutdown().is_err());
    assert_eq!(store.told.failures(), 1);
    assert!(!store.told.was_flushed_after_failure());
}

#[test]
fn whatever_fails_under_the_journal_is_final_and_acknowledges_nothing() {
    let eio = |call| Fault::new(call).of("journal");
    let faults = [
        eio(Call::Sync),
        eio(Call::Sync).sticky(),
        eio(Call::Sync).keeping_some(4),
        eio(Call::Sync).with(libc::ENOSPC),
        eio(Call::Write),
        eio(Call::Write).sticky(),
    ];
    for fault in faults {
        let disk = SimDisk::new();
        let (store, log) = begun(&disk);
        disk.inject(fault.clone());
        log.append(2, batch(1, 1, 100)).unwrap();
        store.told.wait_for_failure();
        assert_eq!(store.told.ticket(id(1)), Some(1), "{fault:?}");
        check_final(&store, &log);
        // What was there can still be read.
        let read = log.read_blocking(Offset(0), Offset(1), 10).unwrap();
        assert_eq!(read, [batch(0, 1, 100)]);
        crash(&disk, store);
        let log = open(&disk).get(id(1)).unwrap();
        assert!(log.log_end() <= Offset(2) && log.log_end() >= Offset(1));
    }
}

#[test]
fn a_new_journal_file_that_cannot_be_had_is_final_and_loses_nothing() {
    for call in [Call::Create, Call::SetLen, Call::Sync, Call::SyncDir] {
        let disk = SimDisk::new();
        let (store, log) = begun(&disk);
        let path = "journal/0000000000000";
        let path = if call == Call::SyncDir {
            "journal"
        } else {
            path
        };
        disk.inject(Fault::new(call).of(path).sticky());
        let mut end = 1;
        while log.append(end as u64 + 1, batch(end, 1, 3000)).is_ok() && end < 200 {
            end += 1;
        }
        store.told.wait_for_failure();
        let told = store.told.ticket(id(1)).unwrap();
        check_final(&store, &log);
        crash(&disk, store);
        let log = open(&disk).get(id(1)).unwrap();
        assert!(log.log_end().0 >= told as i64, "{call:?}");
        assert_eq!(read_all(&log).unwrap().len() as i64, log.log_end().0);
    }
}

#[test]
fn a_checkpoint_that_fails_is_final_and_loses_nothing() {
    for (call, path) in [
        (Call::Sync, "partitions"),
        (Call::SyncDir, "partitions"),
        (Call::Write, "checkpoint.tmp"),
        (Call::Sync, "checkpoint.tmp"),
        (Call::Rename, "checkpoint.tmp"),
        (Call::SyncDir, "/node/log"),
    ] {
        let disk = SimDisk::new();
        let (store, log) = begun(&disk);
        disk.inject(Fault::new(call).of(path));
        store.request_checkpoint();
        store.told.wait_for_failure();
        check_final(&store, &log);
        crash(&disk, store);
        let log = open(&disk).get(id(1)).unwrap();
        assert_eq!(
            read_all(&log).unwrap(),
            [batch(0, 1, 100)],
            "{call:?} {path}"
        );
    }
}

/// Sixteen logs, without the one that must not be created after a failure.
const MANY: std::ops::Range<i32> = 10..26;

/// A store with these logs, whose checkpoints sync the whole disk, and a batch in each.
fn begun_with_many(disk: &SimDisk) -> TestStore {
    let config = StoreConfig {
        sync_whole_from: 16,
        ..config()
    };
    let store = try_open(disk, config).unwrap();
    for partition in MANY {
        let log = store.get_or_create(id(partition), settings()).unwrap();
        log.append(1, batch(0, 1, 100)).unwrap();
        assert!(store.told.wait_for(id(partition), 1));
        wait_until_on_disk(&log);
    }
    store
}

#[test]
fn a_checkpoint_of_many_files_is_one_sync_of_the_whole_disk() {
    let disk = SimDisk::new();
    let store = begun_with_many(&disk);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    disk.observe(Arc::new(move |operation: &Operation, _| {
        let of_a_log = operation.path.to_string_lossy().contains("partitions");
        if operation.call == Call::SyncAll || of_a_log {
            seen.lock().push(operation.call);
        }
    }));
    wait_for_checkpoint(&store);
    assert_eq!(*calls.lock(), [Call::SyncAll]);
    disk.stop_observing();
    crash(&disk, store);
    let store = open(&disk);
    for partition in MANY {
        let log = store.get(id(partition)).unwrap();
        assert_eq!(read_all(&log).unwrap(), [batch(0, 1, 100)]);
    }
}

#[test]
fn a_sync_of_the_whole_disk_that_fails_is_final_and_loses_nothing() {
    for call in [Call::SyncAll, Call::WriteBack] {
        let disk = SimDisk::new();
        let store = begun_with_many(&disk);
        disk.inject(Fault::new(call));
        store.request_checkpoint();
        store.told.wait_for_failure();
        check_final(&store, &store.get(id(MANY.start)).unwrap());
        crash(&disk, store);
        let store = open(&disk);
        for partition in MANY {
            let log = store.get(id(partition)).unwrap();
            assert_eq!(read_all(&log).unwrap(), [batch(0, 1, 100)], "{call:?}");
        }
    }
}

#[test]
fn on_a_full_disk_writers_wait_and_with_room_again_everything_goes_on() {
    let disk = SimDisk::new();
    let (store, log) = begun(&disk);
    let free = disk.free_space(Path::new(DIR)).unwrap();
    let used = (1 << 40) - free;
    disk.set_capacity(used + 20_000);
    assert_eq!(store.free_space().unwrap(), 20_000);
    let mut end = 1;
    let deadline = Instant::now() + PATIENCE;
    // Both the journal and the segments run out of room, in time.
    while !store.stats().awaits_room || end < 200 {
        assert!(Instant::now() < deadline, "the disk does not get full");
        log.append(end as u64 + 1, batch(end, 1, 1000)).unwrap();
        end += 1;
    }
    let told = store.told.ticket(id(1)).unwrap();
    assert!(told < end as u64, "{told} of {end}");
    assert_eq!(read_all(&log).unwrap().len() as i64, end);
    disk.set_capacity(used * 1000);
    assert!(store.told.wait_for(id(1), end as u64));
    wait_until_on_disk(&log);
    assert!(!store.stats().awaits_room);
    assert_eq!(store.told.failures(), 0);
    crash(&disk, store);
    let log = open(&disk).get(id(1)).unwrap();
    assert_eq!(read_all(&log).unwrap().len() as i64, end);
}

#[test]
fn a_store_closes_on_a_full_disk_and_loses_nothing_that_it_acknowledged() {
    let disk = SimDisk::new();
    let (store, log) = begun(&disk);
    let used = (1 << 40) - disk.free_space(Path::new(DIR)).unwrap();
    disk.set_capacity(used + 20_000);
    let mut end = 1;
    let deadline = Instant::now() + PATIENCE;
    while !store.stats().awaits_room {
        assert!(Instant::now() < deadline, "the disk does not get full");
        log.append(end as u64 + 1, batch(end, 1, 1000)).unwrap();
        end += 1;
    }
    let told = store.told.ticket(id(1)).unwrap() as i64;
    assert!(store.shutdown().is_err());
    crash(&disk, store);
    disk.set_capacity(used * 1000);
    let log = open(&disk).get(id(1)).unwrap();
    assert!(log.log_end().0 >= told);
    assert_eq!(read_all(&log).unwrap().len() as i64, log.log_end().0);
}

#[test]
fn a_read_that_fails_fails_alone() {
    let disk = SimDisk::new();
    let none = StoreConfig {
        cache_bytes: 0,
        open_files_max: 1,
        ..config()
    };
    let store = try_open(&disk, none).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    for base in 0..40 {
        log.append(base as u64, batch(base, 1, 300)).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while store.stats().cached_bytes > 0 {
        assert!(Instant::now() < deadline, "batches stay in memory");
        std::thread::yield_now();
    }
    for call in [Call::Read, Call::Open] {
        // The one file that may be open is another's.
        log.read_blocking(Offset(35), Offset(40), 10).unwrap();
        disk.inject(Fault::new(call).of("00000000000000000000.log").sticky());
        let failed = log.read_blocking(Offset(3), Offset(9), 10).unwrap_err();
        assert!(matches!(failed, ReadError::Io { .. }), "{call:?}: {failed}");
        assert!(failed.is_retriable());
        // Other segments, and writing, know nothing of it.
        let read = log.read_blocking(Offset(35), Offset(40), 10).unwrap();
        assert_eq!(read, [batch(35, 1, 300)]);
        let end = log.log_end();
        log.append(end.0 as u64, batch(end.0, 1, 300)).unwrap();
        assert!(store.told.wait_for(id(1), end.0 as u64));
        disk.clear_faults();
        let read = log.read_blocking(Offset(3), Offset(9), 10).unwrap();
        assert_eq!(read, [batch(3, 1, 300)]);
    }
    assert_eq!(store.told.failures(), 0);
}

#[test]
fn while_a_sync_hangs_nothing_is_acknowledged_and_reads_go_on() {
    let disk = SimDisk::new();
    let (store, log) = begun(&disk);
    let hold = disk.hold(Call::Sync, "journal");
    log.append(2, batch(1, 1, 100)).unwrap();
    assert!(hold.wait_until_reached());
    // They gather behind the sync that hangs.
    for base in 2..20 {
        log.append(base as u64 + 1, batch(base, 1, 100)).unwrap();
    }
    assert_eq!(store.told.ticket(id(1)), Some(1));
    assert_eq!(read_all(&log).unwrap().len(), 20);
    let syncs = store.stats().syncs;
    hold.release();
    assert!(store.told.wait_for(id(1), 20));
    assert_eq!(
        store.stats().syncs,
        syncs + 2,
        "one sync for all that gathered"
    );
}

#[test]
fn a_hanging_segment_holds_up_no_acknowledgement() {
    let disk = SimDisk::new();
    let (store, log) = begun(&disk);
    let hold = disk.hold(Call::Write, "partitions");
    for base in 1..20 {
        log.append(base as u64 + 1, batch(base, 1, 100)).unwrap();
    }
    assert!(store.told.wait_for(id(1), 20));
    assert_eq!(read_all(&log).unwrap().len(), 20);
    assert!(store.stats().backlog_bytes > 0);
    hold.release();
    wait_until_on_disk(&log);
}

/// Appends more than the journal may hold while no checkpoint ends, and waits until it waits;
/// returns the log's end.
fn fill_journal(store: &TestStore, log: &PartitionLog) -> i64 {
    let most = store.shared.config.journal_bytes_max();
    let mut end = log.log_end().0;
    for _ in 0..2 * most / 3000 {
        log.append(end as u64 + 1, batch(end, 1, 3000)).unwrap();
        end += 1;
    }
    let deadline = Instant::now() + PATIENCE;
    while !store.stats().awaits_checkpoint {
        assert!(Instant::now() < deadline, "the journal has no bound");
        std::thread::yield_now();
    }
    let journal = store.shared.journal_end.load(Ordering::Acquire)
        - store.shared.trim_to.load(Ordering::Acquire);
    let group = store.shared.config.group_bytes_max as u64;
    assert!((most..most + 2 * group).contains(&journal), "{journal}");
    end
}

/// A store whose checkpoints are due soon, with a checkpoint that hangs.
fn begun_with_short_journal(disk: &SimDisk) -> (TestStore, Arc<PartitionLog>, Hold) {
    let config = StoreConfig {
        checkpoint_bytes: 64 * 1024,
        group_bytes_max: 16 * 1024,
        ..config()
    };
    let store = try_open(disk, config).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    let hold = disk.hold(Call::Sync, "partitions");
    (store, log, hold)
}

#[test]
fn while_a_checkpoint_hangs_the_journal_grows_to_its_bound_and_then_goes_on() {
    let disk = SimDisk::new();
    let (store, log, hold) = begun_with_short_journal(&disk);
    let end = fill_journal(&store, &log);
    let told = store.told.ticket(id(1)).unwrap();
    assert!(told < end as u64, "{told} of {end}");
    // What has no place in the journal yet can be read all the same.
    assert_eq!(read_all(&log).unwrap().len() as i64, end);
    assert!(hold.wait_until_reached());
    hold.release();
    assert!(store.told.wait_for(id(1), end as u64));
    assert_eq!(store.told.failures(), 0);
    crash(&disk, store);
    let log = open(&disk).get(id(1)).unwrap();
    assert_eq!(read_all(&log).unwrap().len() as i64, end);
}

#[test]
fn a_store_whose_journal_is_at_its_bound_closes_and_fails_like_any_other() {
    let disk = SimDisk::new();
    let (store, log, hold) = begun_with_short_journal(&disk);
    let end = fill_journal(&store, &log);
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| store.shutdown());
        // What is queued is bounded, too: it has its place behind the bound.
        assert!(store.told.wait_for(id(1), end as u64));
        hold.release();
        closing.join().unwrap().unwrap();
    });
    crash(&disk, store);

    let (store, log_again, hold) = begun_with_short_journal(&disk);
    assert_eq!(log_again.log_end(), log.log_end());
    fill_journal(&store, &log_again);
    disk.inject(Fault::new(Call::Sync).of("partitions"));
    hold.release();
    store.told.wait_for_failure();
    check_final(&store, &log_again);
}

#[test]
fn a_journal_that_is_found_at_its_bound_gets_a_checkpoint_by_itself() {
    let disk = SimDisk::new();
    let (store, log) = begun(&disk);
    for base in 1..200 {
        log.append(base as u64 + 1, batch(base, 1, 3000)).unwrap();
    }
    assert!(store.told.wait_for(id(1), 200));
    crash(&disk, store);
    // As after a crash in the middle of the wait, or with a smaller setting.
    let smaller = StoreConfig {
        checkpoint_bytes: 64 * 1024,
        ..config()
    };
    let store = try_open(&disk, smaller).unwrap();
    let log = store.get(id(1)).unwrap();
    log.append(201, batch(200, 1, 3000)).unwrap();
    assert!(store.told.wait_for(id(1), 201));
}

#[test]
fn a_thread_that_panics_is_a_failure_of_storage() {
    // Each gets the one call that leads its thread there: with two, the second may come when the
    // failure is known already, and is then refused.
    let append = |_: &TestStore, log: &PartitionLog| log.append(2, batch(1, 1, 100)).map(|_| ());
    let checkpoint = |store: &TestStore, _: &PartitionLog| {
        store.request_checkpoint();
        Ok(())
    };
    type Stimulus<'a> = &'a dyn Fn(&TestStore, &PartitionLog) -> Result<(), LogError>;
    let cases: [(&str, Stimulus<'_>, &str); 4] = [
        ("journal", &append, "log-journal"),
        ("partitions", &append, "log-segments"),
        ("partitions", &checkpoint, "log-checkpoint"),
        ("checkpoint.tmp", &checkpoint, "log-checkpoint"),
    ];
    for (path, stimulus, expected) in cases {
        let disk = SimDisk::new();
        let (store, log) = begun(&disk);
        disk.observe(Arc::new(move |operation: &Operation, _| {
            let there = operation.path.to_string_lossy().contains(path);
            assert!(!there, "a panic that was planted");
        }));
        stimulus(&store, &log).unwrap();
        store.told.wait_for_failure();
        disk.stop_observing();
        check_final(&store, &log);
        let next = batch(log.log_end().0, 1, 100);
        let LogError::Failed { cause } = log.append(3, next).unwrap_err() else {
            panic!("refused for another reason");
        };
        assert!(
            matches!(*cause, LogError::Panicked { thread } if thread == expected),
            "{cause} instead of {expected}"
        );
    }
}
