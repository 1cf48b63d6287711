//! Reading under limits, by time, by header; retention.

use super::*;
use ottla_model::checksum::crc32c;

fn filled(store: &TestStore, batches: i64) -> Arc<PartitionLog> {
    let log = store.get_or_create(id(1), settings()).unwrap();
    for n in 0..batches {
        log.append(n as u64, batch_at(n * 10, 0, 10, 500, 1000 + n * 10))
            .unwrap();
    }
    log
}

/// The same log, once in memory and once on disk.
fn in_memory_and_on_disk(batches: i64, check: impl Fn(&PartitionLog)) {
    let large = StoreConfig {
        cache_bytes: u64::MAX,
        ..config()
    };
    let store = try_open(&SimDisk::new(), large).unwrap();
    check(&filled(&store, batches));
    let none = StoreConfig {
        cache_bytes: 0,
        ..config()
    };
    let disk = SimDisk::new();
    let store = try_open(&disk, none.clone()).unwrap();
    let log = filled(&store, batches);
    wait_until_on_disk(&log);
    check(&log);
    store.shutdown().unwrap();
    drop(store);
    // Once with the indexes that the shutdown wrote, and once without any.
    for with_indexes in [true, false] {
        let store = try_open(&disk, none.clone()).unwrap();
        let log = store.get(id(1)).unwrap();
        if !with_indexes {
            let dir = Path::new(DIR).join("partitions").join(id(1).to_string());
            for entry in disk.list(&dir).unwrap() {
                if entry.name.to_string_lossy().ends_with("index") {
                    disk.unlink(&dir.join(entry.name)).unwrap();
                }
            }
        }
        check(&log);
    }
}

fn pieces(log: &PartitionLog, from: i64, limit: i64, max_bytes: usize) -> Bytes {
    let (from, limit) = (Offset(from), Offset(limit));
    let pieces = match log.read(from, limit, max_bytes).unwrap() {
        ReadOutcome::Cached(pieces) => pieces,
        ReadOutcome::OnDisk => log.read_blocking(from, limit, max_bytes).unwrap(),
    };
    Bytes::from(pieces.concat())
}

#[test]
fn a_read_keeps_to_its_limits_but_returns_at_least_one_batch() {
    in_memory_and_on_disk(100, |log| {
        let one = batch_at(0, 0, 10, 500, 1000).len();
        let bases = |from, limit, max_bytes| {
            let bytes = pieces(log, from, limit, max_bytes);
            bytes.chunks(one).map(base_of).collect::<Vec<_>>()
        };
        assert_eq!(bases(0, 1000, 0), [0]);
        assert_eq!(bases(9, 1000, 1), [0]);
        assert_eq!(bases(10, 1000, 2 * one), [10, 20]);
        assert_eq!(bases(15, 1000, 3 * one - 1), [10, 20]);
        assert_eq!(bases(15, 20, 1 << 20), [10]);
        assert_eq!(bases(15, 21, 1 << 20), [10, 20]);
        assert_eq!(bases(999, 5000, 1 << 20), [990]);
        assert!(pieces(log, 15, 15, 1 << 20).is_empty());
        assert!(pieces(log, 1000, 5000, 1 << 20).is_empty());
        for outside in [-1, 1001] {
            let error = log.read(Offset(outside), Offset(2000), 10).unwrap_err();
            assert!(
                matches!(error, ReadError::OutOfRange { log_end, .. } if log_end == Offset(1000))
            );
        }
    });
}

#[test]
fn a_record_is_found_by_its_timestamp() {
    in_memory_and_on_disk(100, |log| {
        let find = |timestamp| {
            log.offset_for_timestamp(TimestampMs(timestamp), Offset(i64::MAX))
                .unwrap()
                .map(|(offset, timestamp)| (offset.0, timestamp.0))
        };
        assert_eq!(find(0), Some((0, 1000)));
        for offset in [0, 1, 9, 10, 11, 499, 500, 999] {
            assert_eq!(find(1000 + offset), Some((offset, 1000 + offset)));
        }
        assert_eq!(find(2000), None);
        let limited = log.offset_for_timestamp(TimestampMs(1500), Offset(500));
        assert_eq!(limited.unwrap(), None);
        assert_eq!(
            log.max_timestamp().unwrap(),
            Some((Offset(999), TimestampMs(1999)))
        );
    });
}

/// A producer may have written anything under a right checksum. That is no damage of this copy: it
/// would be found on every other one too, and all of them would be taken out of service.
#[test]
fn a_batch_that_cannot_be_unpacked_is_found_by_what_its_header_says() {
    let store = open(&SimDisk::new());
    let log = store.get_or_create(id(1), settings()).unwrap();
    let mut junk = batch_at(3, 0, 3, 300, 1_003).to_vec();
    junk[22] |= Compression::Zstd.id();
    let crc = crc32c(&junk[21..]);
    junk[17..21].copy_from_slice(&crc.to_be_bytes());
    // The offset deltas of its records lead out of it: length, attributes, timestamp delta first.
    let mut stray = batch_at(6, 0, 1, 20, 2_000).to_vec();
    stray[61 + 3] = 80;
    let crc = crc32c(&stray[21..]);
    stray[17..21].copy_from_slice(&crc.to_be_bytes());
    let batches = [
        batch_at(0, 0, 3, 300, 1_000),
        junk.into(),
        stray.into(),
        batch_at(7, 0, 1, 20, 3_000),
    ];
    for (ticket, batch) in (0..).zip(batches) {
        log.append(ticket, batch).unwrap();
    }
    for on_disk in [false, true] {
        if on_disk {
            wait_until_on_disk(&log);
        }
        let find = |timestamp| {
            let found = log.offset_for_timestamp(TimestampMs(timestamp), Offset(i64::MAX));
            found.unwrap().map(|(offset, time)| (offset.0, time.0))
        };
        assert_eq!(find(1_002), Some((2, 1_002)));
        assert_eq!(find(1_004), Some((3, 1_005)), "from the batch's beginning");
        assert_eq!(find(1_500), Some((6, 2_000)));
        assert_eq!(find(2_500), Some((7, 3_000)));
    }
}

#[test]
fn timestamps_that_do_not_rise_are_found_first_in_the_log() {
    let store = open(&SimDisk::new());
    let log = store.get_or_create(id(1), settings()).unwrap();
    assert_eq!(log.max_timestamp().unwrap(), None);
    let stamps = [500, 100, 900, 300, 900, 50];
    for (n, timestamp) in (0i64..).zip(stamps.repeat(10)) {
        log.append(n as u64, batch_at(n, 0, 1, 2000, timestamp))
            .unwrap();
    }
    wait_until_on_disk(&log);
    let find = |timestamp| {
        log.offset_for_timestamp(TimestampMs(timestamp), Offset(i64::MAX))
            .unwrap()
            .map(|(offset, _)| offset.0)
    };
    assert_eq!(find(1), Some(0));
    assert_eq!(find(501), Some(2));
    assert_eq!(find(901), None);
    log.advance_log_start(Offset(3)).unwrap();
    assert_eq!(find(501), Some(4));
    assert_eq!(
        log.max_timestamp().unwrap(),
        Some((Offset(4), TimestampMs(900)))
    );
}

#[test]
fn headers_are_visited_from_the_batch_that_holds_the_offset() {
    in_memory_and_on_disk(300, |log| {
        for from in [0, 15, 2995, 3000] {
            let mut bases = Vec::new();
            log.for_each_header(Offset(from), &mut |header| bases.push(header.base_offset.0))
                .unwrap();
            let expected: Vec<_> = (from / 10 * 10..3000).step_by(10).collect();
            assert_eq!(bases, expected);
        }
    });
}

#[test]
fn a_segment_of_old_records_is_sealed_by_a_newer_batch() {
    let store = open(&SimDisk::new());
    let by_time = LogSettings {
        segment_ms: 100,
        segment_bytes: 1 << 30,
        ..settings()
    };
    let log = store.get_or_create(id(1), by_time).unwrap();
    for n in 0..10 {
        log.append(n as u64, batch_at(n, 0, 1, 10, n * 60)).unwrap();
    }
    wait_until_on_disk(&log);
    let bases: Vec<_> = log
        .lock()
        .physical
        .segments
        .iter()
        .map(|s| s.base.0)
        .collect();
    assert_eq!(bases, [0, 2, 4, 6, 8]);
}

fn retention(bytes: Option<u64>, ms: Option<i64>) -> LogSettings {
    LogSettings {
        retention_bytes: bytes,
        retention_ms: ms,
        ..settings()
    }
}

#[test]
fn retention_by_size_keeps_at_least_that_much_and_the_active_segment() {
    let store = open(&SimDisk::new());
    let log = filled(&store, 100);
    wait_until_on_disk(&log);
    let now = TimestampMs(2000);
    let all = Offset(1000);
    log.set_settings(retention(None, None));
    assert_eq!(log.apply_retention(now, all).unwrap(), None);
    log.set_settings(retention(Some(20_000), None));
    let start = log.apply_retention(now, all).unwrap().unwrap();
    assert_eq!(log.log_start(), start);
    assert_eq!(log.apply_retention(now, all).unwrap(), None);
    let size = || {
        let deadline = Instant::now() + PATIENCE;
        let followed = || {
            let state = log.lock();
            state.physical.log_start == state.log_start
        };
        while !followed() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        log.size_bytes()
    };
    assert!((20_000..25_000).contains(&size()), "{}", size());
    log.set_settings(retention(Some(0), None));
    let start = log.apply_retention(now, all).unwrap().unwrap();
    assert!(start < Offset(1000), "the active segment stays");
    assert!((1..=4096).contains(&size()), "{}", size());
}

#[test]
fn retention_by_time_stops_at_the_bound_and_empties_an_expired_log() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = filled(&store, 100);
    wait_until_on_disk(&log);
    log.set_settings(retention(None, Some(100)));
    let all = Offset(1000);
    assert_eq!(log.apply_retention(TimestampMs(1100), all).unwrap(), None);
    let start = log
        .apply_retention(TimestampMs(1600), all)
        .unwrap()
        .unwrap();
    assert!(start > Offset(400) && start <= Offset(500), "{start}");
    let start = log
        .apply_retention(TimestampMs(9999), Offset(700))
        .unwrap()
        .unwrap();
    assert!(start > Offset(600) && start <= Offset(700), "{start}");
    assert_eq!(
        log.apply_retention(TimestampMs(9999), all).unwrap(),
        Some(all)
    );
    assert_eq!((log.log_start(), log.log_end()), (all, all));
    let more = batch(1000, 1, 10);
    log.append(1, more.clone()).unwrap();
    assert_eq!(read_all(&log).unwrap(), std::slice::from_ref(&more));
    store.shutdown().unwrap();
    drop(store);
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    assert_eq!(log.log_start(), all);
    assert_eq!(read_all(&log).unwrap(), [more]);
}
