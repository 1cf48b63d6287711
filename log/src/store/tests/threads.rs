//! Group commit, many threads at once, and storage that fails.

use super::*;
use crate::disk::{Call, Fault};

#[test]
fn many_logs_share_a_sync() {
    let store = open(&SimDisk::new());
    let logs: Vec<_> = (0..16)
        .map(|n| store.get_or_create(id(n), settings()).unwrap())
        .collect();
    std::thread::scope(|scope| {
        for quarter in logs.chunks(4) {
            scope.spawn(move || {
                for base in 0..200 {
                    for log in quarter {
                        log.append(base as u64 + 1, batch(base, 1, 50)).unwrap();
                    }
                }
            });
        }
    });
    for n in 0..16 {
        assert!(store.told.wait_for(id(n), 200));
    }
    let stats = store.stats();
    assert_eq!(stats.appends, 16 * 200);
    assert!(stats.syncs < stats.appends / 4, "{stats:?}");
    assert!(stats.max_group > 4, "{stats:?}");
    for log in &logs {
        assert_eq!(read_all(log).unwrap().len(), 200);
    }
}

#[test]
fn readers_see_whole_prefixes_while_the_log_is_written_and_cut() {
    let small = StoreConfig {
        cache_bytes: 2048,
        ..config()
    };
    let store = try_open(&SimDisk::new(), small).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // A cut between two pieces shows as a gap to this reader, or as an end that
                    // is passed; within a piece everything continues.
                    let from = Offset(log.log_end().0 / 2);
                    match log.read_blocking(from, Offset(i64::MAX), 3000) {
                        Ok(pieces) => check_continuous(&pieces, from),
                        Err(ReadError::OutOfRange { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    let _ = log.offset_for_timestamp(TimestampMs(1100), Offset(i64::MAX));
                }
            });
        }
        let mut ticket = 0;
        for round in 0..60 {
            let from = log.log_end().0;
            for base in from..from + 40 {
                ticket += 1;
                log.append(ticket, batch_at(base, round, 1, 200, 1000 + base))
                    .unwrap();
            }
            log.truncate(Offset(from + 20 - i64::from(round) % 30))
                .unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(store.told.wait_for(id(1), ticket));
    });
    assert_eq!(store.told.failures(), 0);
    let all = read_all(&log).unwrap();
    check_continuous(&all, Offset(0));
}

fn check_continuous(pieces: &[Bytes], from: Offset) {
    let mut next = None;
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let (header, bytes, behind) = next_batch(rest).unwrap();
            ottla_model::batch::validate_batch(bytes).unwrap();
            assert_eq!(header.base_offset, next.unwrap_or(from));
            next = Some(header.next_offset());
            rest = behind;
        }
    }
}

#[test]
fn a_failed_sync_is_final_and_told_once() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch(0, 1, 10)).unwrap();
    assert!(store.told.wait_for(id(1), 1));
    wait_until_on_disk(&log);
    disk.fail_next_sync();
    log.append(2, batch(1, 1, 10)).unwrap();
    store.told.wait_for_failure();
    assert_eq!(store.told.ticket(id(1)), Some(1));
    let refused = log.append(3, batch(2, 1, 10)).unwrap_err();
    assert!(matches!(refused, LogError::Failed { .. }), "{refused}");
    assert!(store.get_or_create(id(2), settings()).is_err());
    assert!(store.delete(id(1)).is_err());
    assert!(store.shutdown().is_err());
    assert_eq!(store.told.failures(), 1);
    assert!(!store.told.was_flushed_after_failure());
    crash(&disk, store);
    let log = open(&disk).get(id(1)).unwrap();
    assert_eq!(log.log_end(), Offset(1));
}

/// A hint that fails may be the only word of bytes that are lost.
#[test]
fn a_failed_hint_that_written_bytes_should_go_to_the_disk_is_final_and_loses_nothing() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch(0, 1, 10)).unwrap();
    wait_until_on_disk(&log);
    disk.inject(Fault::new(Call::WriteBack).of("partitions"));
    store.request_checkpoint();
    store.told.wait_for_failure();
    assert_eq!(store.stats().checkpoints, 0);
    crash(&disk, store);
    let log = open(&disk).get(id(1)).unwrap();
    assert_eq!(log.log_end(), Offset(1));
}

#[test]
fn a_segment_that_cannot_be_written_is_final_but_loses_nothing() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch(0, 1, 10)).unwrap();
    wait_until_on_disk(&log);
    // The journal's write comes first, so power goes with the segment's.
    disk.lose_power_after(2);
    log.append(2, batch(1, 1, 10)).unwrap();
    store.told.wait_for_failure();
    assert_eq!(store.told.ticket(id(1)), Some(2));
    assert_eq!(store.told.failures(), 1);
    crash(&disk, store);
    let log = open(&disk).get(id(1)).unwrap();
    assert_eq!(log.log_end(), Offset(2));
}

#[test]
fn after_a_shutdown_nothing_is_taken() {
    let store = open(&SimDisk::new());
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch(0, 1, 10)).unwrap();
    store.shutdown().unwrap();
    store.shutdown().unwrap();
    assert_eq!(store.told.ticket(id(1)), Some(1), "a shutdown drains");
    let refused = log.append(2, batch(1, 1, 10)).unwrap_err();
    assert!(matches!(refused, LogError::Closed), "{refused}");
    assert_eq!(read_all(&log).unwrap().len(), 1);
}

#[test]
fn a_store_works_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let told = Arc::new(Told::default());
        let flushed = told.clone();
        let store = LogStore::open(
            Arc::new(crate::RealDisk),
            &dir.path().join("log"),
            config(),
            Arc::new(move |all: &[Flushed]| {
                let mut inner = flushed.inner.lock();
                inner
                    .tickets
                    .extend(all.iter().map(|one| (one.id, one.ticket)));
                flushed.changed.notify_all();
            }),
            Arc::new(|error| panic!("{error}")),
        );
        TestStore {
            store: store.unwrap(),
            told,
        }
    };
    let store = open();
    let log = store.get_or_create(id(1), settings()).unwrap();
    let mut expected: Vec<_> = (0..100).map(|base| batch(base, 1, 300)).collect();
    for (ticket, batch) in (0..).zip(&expected) {
        log.append(ticket, batch.clone()).unwrap();
    }
    assert!(store.told.wait_for(id(1), 99));
    wait_until_on_disk(&log);
    wait_for_checkpoint(&store);
    log.truncate(Offset(55)).unwrap();
    expected.truncate(55);
    store.get_or_create(id(2), settings()).unwrap();
    store.delete(id(2)).unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.ids(), [id(1)]);
    assert_eq!(read_all(&store.get(id(1)).unwrap()).unwrap(), expected);
    assert!(store.free_space().unwrap() > 0);
    store.shutdown().unwrap();
    drop(store);
    let findings = crate::verify::verify_dir(&crate::RealDisk, &dir.path().join("log"))
        .unwrap()
        .findings;
    assert_eq!(findings, []);
    assert_eq!(read_all(&open().get(id(1)).unwrap()).unwrap(), expected);
}

#[test]
fn a_deletion_that_storage_fails_says_so() {
    // The journal's failure, then the lane's.
    for (call, path) in [(Call::Sync, "journal"), (Call::Rename, "partitions")] {
        let disk = SimDisk::new();
        let store = open(&disk);
        let log = store.get_or_create(id(1), settings()).unwrap();
        log.append(1, batch(0, 1, 10)).unwrap();
        wait_until_on_disk(&log);
        disk.inject(Fault::new(call).of(path));
        let failed = store.delete(id(1)).unwrap_err();
        assert!(matches!(failed, LogError::Failed { .. }), "{failed}");
        store.told.wait_for_failure();
    }
}
