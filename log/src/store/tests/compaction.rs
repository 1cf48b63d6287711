//! Compaction against what it promises: the last record of each key stays, nothing changes its
//! offset, nothing removed comes back; whenever the power goes.

use std::collections::{BTreeMap, BTreeSet};

use ottla_model::batch::{Record, decode_records, validate_stored_batch};
use ottla_model::checksum::crc32c;
use ottla_model::{ProducerEpoch, ProducerId};

use super::*;
use crate::SavedProducers;
use crate::compaction::Compacted;
use crate::disk::Call;

mod crashes;

type Keyed<'a> = (&'a str, Option<&'a str>);

fn compacted_settings() -> LogSettings {
    LogSettings {
        segment_bytes: 1024,
        retention_ms: None,
        compaction: Some(CompactionSettings {
            min_dirty_permille: 0,
            delete_retention_ms: 1_000,
            ..CompactionSettings::default()
        }),
        ..LogSettings::default()
    }
}

fn quick() -> StoreConfig {
    StoreConfig {
        compaction_bytes_per_second: u64::MAX,
        default_settings: compacted_settings(),
        ..config()
    }
}

fn keyed_batch(base: i64, compression: Compression, producer: i64, records: &[Keyed<'_>]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    if producer >= 0 {
        builder.set_producer(ProducerId(producer), ProducerEpoch(0), base as i32);
    }
    for (index, (key, value)) in records.iter().enumerate() {
        let record = NewRecord {
            timestamp: TimestampMs(1_000 + base + index as i64),
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    let mut batch = builder.build().unwrap().to_vec();
    stamp(&mut batch, Offset(base), LeaderEpoch(0), None);
    Bytes::from(batch)
}

/// Appends a batch at the log's end.
fn put(log: &PartitionLog, ticket: u64, records: &[Keyed<'_>]) {
    let base = log.log_end().0;
    let batch = keyed_batch(base, Compression::None, -1, records);
    log.append(ticket, batch).unwrap();
}

/// Waits until the segments hold everything and a checkpoint vouches for them.
fn settle(store: &TestStore, log: &PartitionLog) {
    wait_until_on_disk(log);
    let deadline = Instant::now() + PATIENCE;
    while !is_checkpointed(store, log) {
        store.request_checkpoint();
        assert!(Instant::now() < deadline, "no checkpoint is made");
        std::thread::yield_now();
    }
}

/// Whether a checkpoint contains everything that the segments do.
fn is_checkpointed(store: &TestStore, log: &PartitionLog) -> bool {
    let applied = log.lock().physical.applied.0;
    store.shared.trim_to.load(Ordering::Acquire) >= applied
}

fn compact(store: &TestStore, log: &PartitionLog, now: i64, remembered: &[i64]) -> Compacted {
    let remembered: Vec<_> = remembered.iter().copied().map(Offset).collect();
    let bound = Offset(i64::MAX);
    let done = store
        .compactor()
        .compact(log, TimestampMs(now), bound, &remembered);
    done.unwrap().expect("something to compact")
}

fn records(log: &PartitionLog) -> Vec<Record> {
    let mut all = Vec::new();
    for batch in read_all(log).unwrap() {
        validate_stored_batch(&batch).unwrap();
        let start = log.log_start();
        let records = decode_records(&batch, 1 << 20).unwrap();
        all.extend(records.into_iter().filter(|r| r.offset >= start));
    }
    all
}

fn values(log: &PartitionLog) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    records(log)
        .iter()
        .map(|r| {
            (
                r.offset.0,
                text(r.key.as_ref().unwrap()),
                r.value.as_ref().map(text),
            )
        })
        .collect()
}

/// Sixty versions of six keys, in small segments; the last few are in the active one.
fn filled(store: &TestStore) -> Arc<PartitionLog> {
    let log = store.get_or_create(id(1), compacted_settings()).unwrap();
    for n in 0..60u64 {
        let (key, value) = match n {
            3 => ("once".to_owned(), format!("{n:0>60}")),
            _ => (format!("k{}", n % 6), format!("{n:0>60}")),
        };
        put(&log, n + 1, &[(&key, Some(&value))]);
    }
    settle(store, &log);
    log
}

#[test]
fn the_last_record_of_each_key_stays_where_it_was() {
    let disk = SimDisk::new();
    let store = try_open(&disk, quick()).unwrap();
    let log = filled(&store);
    let before = values(&log);
    let need = log.compaction_need(TimestampMs(5_000), Offset(60)).unwrap();
    assert_eq!(need.unwrap().dirty_permille, 1000);
    let done = compact(&store, &log, 5_000, &[]);
    assert!(done.is_complete && !done.is_cancelled, "{done:?}");
    assert!(done.bytes_after * 2 < done.bytes_before, "{done:?}");
    let after = values(&log);
    assert!(after.iter().all(|record| before.contains(record)));
    for key in 0..6 {
        let newest = 54 + key;
        assert!(after.iter().any(|(offset, ..)| *offset == newest));
    }
    assert_eq!((log.log_start(), log.log_end()), (Offset(0), Offset(60)));
    assert_eq!(log.epochs(), [(LeaderEpoch(0), Offset(0))]);
    assert_eq!(
        log.compaction_need(TimestampMs(5_000), Offset(60)).unwrap(),
        None
    );
    assert!(store.told.wait_for(id(1), 60));
    // As the journal has it, and as a checkpoint has it.
    for crashes in [true, false] {
        let store = try_open(&disk, quick()).unwrap();
        let log = store.get(id(1)).unwrap();
        assert!(store.damage().logs.is_empty());
        assert_eq!(values(&log), after);
        if crashes {
            crash(&disk, store);
        } else {
            store.shutdown().unwrap();
        }
    }
}

#[test]
fn every_offset_can_be_read_from_though_it_is_gone() {
    for cache_bytes in [0, u64::MAX] {
        let disk = SimDisk::new();
        let config = StoreConfig {
            cache_bytes,
            ..quick()
        };
        let store = try_open(&disk, config.clone()).unwrap();
        let log = filled(&store);
        compact(&store, &log, 5_000, &[]);
        store.shutdown().unwrap();
        drop(store);
        let store = try_open(&disk, config).unwrap();
        let log = store.get(id(1)).unwrap();
        let all = read_all(&log).unwrap();
        for from in 0..60 {
            let pieces = log.read_blocking(Offset(from), Offset(60), 1).unwrap();
            let found = BatchHeader::decode(&pieces[0]).unwrap();
            let expected = all.iter().map(|batch| BatchHeader::decode(batch).unwrap());
            let expected = expected
                .filter(|h| h.next_offset().0 > from)
                .min_by_key(|h| h.base_offset);
            assert_eq!(Some(found), expected, "from {from}");
            let mut first = None;
            log.for_each_header(Offset(from), &mut |header| {
                first.get_or_insert(*header);
            })
            .unwrap();
            assert_eq!(first, expected, "headers from {from}");
        }
        let all_records = records(&log);
        for time in 1_000..1_060 {
            let found = log
                .offset_for_timestamp(TimestampMs(time), Offset(60))
                .unwrap();
            let expected = all_records.iter().find(|r| r.timestamp.0 >= time);
            assert_eq!(
                found,
                expected.map(|r| (r.offset, r.timestamp)),
                "at {time}"
            );
        }
        // A limit within a gap shows nothing from behind it.
        let gap = all_records
            .windows(2)
            .find(|pair| pair[1].offset.0 > pair[0].offset.0 + 1);
        let from = gap.expect("a gap")[0].offset.next();
        for limit in from.0..gap.unwrap()[1].offset.0 {
            let pieces = log.read_blocking(from, Offset(limit), 1 << 20).unwrap();
            let shown: Vec<_> = pieces.iter().map(|p| base_of(p)).collect();
            assert!(
                shown.iter().all(|base| *base < limit),
                "{shown:?} below {limit}"
            );
        }
    }
}

#[test]
fn a_tombstone_stays_for_its_time_and_then_goes() {
    let store = try_open(&SimDisk::new(), quick()).unwrap();
    let log = store.get_or_create(id(1), compacted_settings()).unwrap();
    let filler = "x".repeat(300);
    put(&log, 1, &[("gone", Some("1")), ("kept", Some("1"))]);
    put(&log, 2, &[("gone", None)]);
    for n in 3..12 {
        put(&log, n, &[("filler", Some(&filler))]);
    }
    settle(&store, &log);
    let about = |key: &str| -> Vec<_> {
        let of_key = values(&log).into_iter().filter(|(_, k, _)| k == key);
        of_key.map(|(offset, _, value)| (offset, value)).collect()
    };
    compact(&store, &log, 10_000, &[]);
    assert_eq!(
        about("gone"),
        [(2, None)],
        "the tombstone deletes the value"
    );
    assert_eq!(about("kept"), [(1, Some("1".to_owned()))]);
    let horizon = |log: &PartitionLog| {
        let all = read_all(log).unwrap();
        let headers = all.iter().filter_map(|batch| BatchHeader::decode(batch));
        headers
            .filter_map(|header| header.delete_horizon())
            .collect::<Vec<_>>()
    };
    assert_eq!(horizon(&log), [TimestampMs(11_000)]);
    let tombstone = |log: &PartitionLog| {
        records(log)
            .into_iter()
            .find(|r| r.offset == Offset(2))
            .map(|r| r.timestamp)
    };
    assert_eq!(
        tombstone(&log),
        Some(TimestampMs(1_002)),
        "its time is still its own"
    );
    for (now, there) in [(10_999, true), (11_000, false)] {
        for n in 0..6 {
            put(&log, 100 + n, &[("filler", Some(&filler))]);
        }
        settle(&store, &log);
        compact(&store, &log, now, &[]);
        assert_eq!(tombstone(&log).is_some(), there, "at {now}");
    }
    assert!(about("gone").is_empty());
}

#[test]
fn batches_by_which_producers_are_known_stay_as_headers() {
    for compression in Compression::ALL {
        let store = try_open(&SimDisk::new(), quick()).unwrap();
        let log = store.get_or_create(id(1), compacted_settings()).unwrap();
        for n in 0..40u64 {
            let base = log.log_end().0;
            let value = format!("{base:0>300}");
            let batch = keyed_batch(
                base,
                compression,
                (n % 4) as i64,
                &[("a", Some(&value)), ("b", Some(&value))],
            );
            log.append(n + 1, batch).unwrap();
        }
        settle(&store, &log);
        let headers = || {
            let mut headers = Vec::new();
            log.for_each_header(Offset(0), &mut |header| headers.push(*header))
                .unwrap();
            headers
        };
        let remembered: Vec<i64> = headers()[8..12].iter().map(|h| h.last_offset().0).collect();
        let before: Vec<_> = headers()[8..12]
            .iter()
            .map(|h| {
                (
                    h.last_offset(),
                    h.base_sequence,
                    h.last_sequence(),
                    h.producer_id,
                )
            })
            .collect();
        compact(&store, &log, 5_000, &remembered);
        let after: Vec<_> = headers()
            .iter()
            .map(|h| {
                (
                    h.last_offset(),
                    h.base_sequence,
                    h.last_sequence(),
                    h.producer_id,
                )
            })
            .collect();
        for known in &before {
            assert!(after.contains(known), "{known:?} is forgotten");
        }
        let emptied = || {
            let headers = headers();
            let known = headers
                .iter()
                .filter(|h| h.record_count == 0 && !h.is_filler());
            known.count()
        };
        let at_first = emptied();
        assert!(at_first >= 4, "{at_first}");
        assert_eq!(
            values(&log).iter().filter(|(_, key, _)| key == "a").count() % 80,
            values(&log).len() / 2
        );
        // Those that are remembered no more go with the next pass.
        for n in 0..8 {
            put(&log, 100 + n, &[("a", Some(&"y".repeat(300)))]);
        }
        settle(&store, &log);
        compact(&store, &log, 5_000, &[]);
        let left = emptied();
        assert!(left < at_first, "{left} of {at_first}");
    }
}

#[test]
fn nothing_above_the_bound_or_younger_than_the_lag_is_touched() {
    let store = try_open(&SimDisk::new(), quick()).unwrap();
    let log = filled(&store);
    let before = values(&log);
    let mut compactor = store.compactor();
    let now = TimestampMs(5_000);
    assert_eq!(compactor.compact(&log, now, Offset(0), &[]).unwrap(), None);
    compactor
        .compact(&log, now, Offset(30), &[])
        .unwrap()
        .unwrap();
    let above = |all: &[(i64, String, Option<String>)]| -> Vec<_> {
        all.iter()
            .filter(|(offset, ..)| *offset >= 30)
            .cloned()
            .collect()
    };
    assert_eq!(above(&values(&log)), above(&before));
    assert!(values(&log).len() < before.len());
    let lagging = LogSettings {
        compaction: Some(CompactionSettings {
            min_lag_ms: 1_000,
            ..CompactionSettings::default()
        }),
        ..compacted_settings()
    };
    log.set_settings(lagging);
    settle_again(&store, &log);
    let now = TimestampMs(2_040);
    let left = values(&log);
    compactor.compact(&log, now, Offset(60), &[]).unwrap();
    let young = |all: &[(i64, String, Option<String>)]| -> Vec<_> {
        all.iter()
            .filter(|(offset, ..)| *offset > 40)
            .cloned()
            .collect()
    };
    assert_eq!(young(&values(&log)), young(&left));
    log.set_settings(LogSettings {
        compaction: None,
        ..compacted_settings()
    });
    assert_eq!(compactor.compact(&log, now, Offset(60), &[]).unwrap(), None);
}

fn settle_again(store: &TestStore, log: &PartitionLog) {
    put(log, 1_000, &[("another", Some("1"))]);
    settle(store, log);
}

#[test]
fn a_small_table_of_keys_takes_several_passes() {
    let small = StoreConfig {
        compaction_memory_bytes: 24 * 12,
        ..quick()
    };
    let store = try_open(&SimDisk::new(), small).unwrap();
    let log = store.get_or_create(id(1), compacted_settings()).unwrap();
    for n in 0..300u64 {
        let (key, value) = (format!("k{}", n % 50), format!("{n:0>60}"));
        put(&log, n + 1, &[(&key, Some(&value))]);
    }
    settle(&store, &log);
    let end = log.log_end();
    let mut passes = 0;
    while log
        .compaction_need(TimestampMs(5_000), end)
        .unwrap()
        .is_some()
    {
        let done = compact(&store, &log, 5_000, &[]);
        assert!(!done.is_cancelled);
        passes += 1;
        assert!(passes < 200, "no end");
    }
    assert!(passes > 3, "{passes}");
    let after = values(&log);
    let newest: BTreeMap<_, _> = after
        .iter()
        .map(|(offset, key, _)| (key.clone(), *offset))
        .collect();
    assert_eq!(
        newest.values().copied().collect::<BTreeSet<_>>(),
        (250..300).collect()
    );
    let sealed = after.iter().filter(|(offset, ..)| *offset < 250).count();
    assert!(sealed < 60, "{sealed} old records are left");
}

#[test]
fn a_batch_that_cannot_be_unpacked_stays_as_it_is() {
    let store = try_open(&SimDisk::new(), quick()).unwrap();
    let log = store.get_or_create(id(1), compacted_settings()).unwrap();
    let broken = {
        let mut bytes = keyed_batch(0, Compression::Zstd, -1, &[("a", Some("1"))]).to_vec();
        let last = bytes.len() - 1;
        bytes[61..last].fill(0xff);
        let crc = crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(bytes)
    };
    log.append(1, broken.clone()).unwrap();
    for n in 2..20 {
        put(&log, n, &[("a", Some(&"z".repeat(200)))]);
    }
    settle(&store, &log);
    let done = compact(&store, &log, 5_000, &[]);
    assert_eq!(done.unreadable_batches, 1);
    assert_eq!(read_all(&log).unwrap()[0], broken);
}

#[test]
fn a_cut_or_a_trim_in_the_meantime_calls_the_swap_off() {
    for trims in [false, true] {
        let store = try_open(&SimDisk::new(), quick()).unwrap();
        let log = filled(&store);
        let seen = log
            .cleanable(TimestampMs(5_000), Offset(60), true)
            .unwrap()
            .unwrap();
        if trims {
            log.advance_log_start(Offset(3)).unwrap();
        } else {
            log.truncate(Offset(58)).unwrap();
        }
        let before = values(&log);
        let swap = crate::swap::Swap {
            token: 1,
            end: seen.end_of(0),
            bytes: 1,
            last_batch_at: 0,
            first_timestamp: TimestampMs(0),
            max_timestamp: TimestampMs(0),
            replaced: vec![seen.segments[0].base],
        };
        let (told, _) = Done::new(&store.shared);
        let index = crate::segment::SparseIndex::new(Offset(0));
        assert!(!log.begin_swap(&seen, swap, index, told).unwrap());
        assert_eq!(values(&log), before);
    }
}

#[test]
fn what_the_checkpoint_does_not_have_is_not_replaced() {
    let store = try_open(&SimDisk::new(), quick()).unwrap();
    let log = store.get_or_create(id(1), compacted_settings()).unwrap();
    for n in 0..40u64 {
        put(&log, n + 1, &[("k", Some(&"v".repeat(100)))]);
    }
    wait_until_on_disk(&log);
    let all = Offset(40);
    let now = TimestampMs(5_000);
    assert!(log.compaction_need(now, all).unwrap().is_some());
    let mut compactor = store.compactor();
    assert_eq!(compactor.compact(&log, now, all, &[]).unwrap(), None);
    settle(&store, &log);
    assert!(log.cleanable(now, all, true).unwrap().is_some());
    // A cut makes an older segment the one that is written to.
    log.truncate(Offset(10)).unwrap();
    for n in 50..90u64 {
        put(&log, n, &[("k", Some(&"w".repeat(100)))]);
    }
    wait_until_on_disk(&log);
    let found = log.cleanable(TimestampMs(5_000), Offset(90), true).unwrap();
    assert!(found.is_none_or(|found| found.end <= Offset(10)));
}

#[test]
fn readers_see_every_key_while_segments_are_replaced() {
    let config = StoreConfig {
        cache_bytes: 0,
        open_files_max: 4,
        ..quick()
    };
    let store = try_open(&SimDisk::new(), config).unwrap();
    let log = store.get_or_create(id(1), compacted_settings()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let end = log.log_end();
                    let seen: BTreeSet<_> =
                        values(&log).into_iter().map(|(_, key, _)| key).collect();
                    assert!(
                        seen.len() as i64 >= end.0.min(10),
                        "{} keys at {end}",
                        seen.len()
                    );
                    log.offset_for_timestamp(TimestampMs(1_000 + end.0 / 2), Offset(i64::MAX))
                        .unwrap();
                }
            });
        }
        let mut compactor = store.compactor();
        for n in 0..600u64 {
            let (key, value) = (format!("k{}", n % 10), format!("{n:0>80}"));
            put(&log, n + 1, &[(&key, Some(&value))]);
            if n % 40 == 39 {
                settle(&store, &log);
                compactor
                    .compact(&log, TimestampMs(9_000), log.log_end(), &[])
                    .unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(store.told.failures(), 0);
}

#[test]
fn a_full_disk_ends_a_pass_and_nothing_else() {
    let disk = SimDisk::new();
    let store = try_open(&disk, quick()).unwrap();
    let log = filled(&store);
    let before = values(&log);
    disk.fail_next_write();
    let failed = store
        .compactor()
        .compact(&log, TimestampMs(5_000), Offset(60), &[]);
    assert!(matches!(failed, Err(LogError::Io { .. })), "{failed:?}");
    assert_eq!(values(&log), before);
    let compacting = disk.list(&Path::new(DIR).join("compacting")).unwrap();
    assert!(compacting.is_empty(), "{compacting:?}");
    put(&log, 100, &[("k", Some("v"))]);
    assert!(store.told.wait_for(id(1), 100));
    compact(&store, &log, 5_000, &[]);
    assert_eq!(store.told.failures(), 0);
}

#[test]
fn a_log_that_is_refilled_from_a_compacted_one_says_the_same() {
    let disk = SimDisk::new();
    let store = try_open(&disk, quick()).unwrap();
    let log = filled(&store);
    compact(&store, &log, 5_000, &[]);
    let copy = store.get_or_create(id(2), compacted_settings()).unwrap();
    for (ticket, batch) in (1..).zip(read_all(&log).unwrap()) {
        copy.append_replicated(ticket, batch).unwrap();
    }
    assert_eq!(values(&copy), values(&log));
    assert_eq!(copy.log_end(), log.log_end());
    wait_until_on_disk(&copy);
    assert_eq!(values(&copy), values(&log));
    check_no_gap(&copy);
    let strict = copy.append(
        1_000,
        keyed_batch(70, Compression::None, -1, &[("a", None)]),
    );
    assert!(
        matches!(strict, Err(LogError::NotContinuing { .. })),
        "{strict:?}"
    );
    copy.skip_to(Offset(70)).unwrap();
    assert_eq!(copy.log_end(), Offset(70));
    assert!(
        decode_records(&read_all_from(&copy, 60)[0], 0)
            .unwrap()
            .is_empty()
    );
    copy.append(
        1_000,
        keyed_batch(70, Compression::None, -1, &[("a", None)]),
    )
    .unwrap();
    assert!(store.told.wait_for(id(2), 1_000));
    let all = values(&copy);
    crash(&disk, store);
    let store = try_open(&disk, quick()).unwrap();
    assert!(store.damage().logs.is_empty(), "{:?}", store.damage().logs);
    let copy = store.get(id(2)).unwrap();
    assert_eq!(values(&copy), all);
    assert_eq!(copy.log_end(), Offset(71));
    check_no_gap(&copy);
    // Cut within a gap, by the journal's replay too: the log then ends there.
    let gap = all
        .windows(2)
        .find(|pair| pair[1].0 > pair[0].0 + 2)
        .unwrap();
    let to = Offset(gap[0].0 + 2);
    copy.truncate(to).unwrap();
    assert_eq!(copy.log_end(), to);
    check_no_gap(&copy);
    settle(&store, &copy);
    crash(&disk, store);
    let store = try_open(&disk, quick()).unwrap();
    assert!(store.damage().logs.is_empty(), "{:?}", store.damage().logs);
    let copy = store.get(id(2)).unwrap();
    assert_eq!(copy.log_end(), to);
    assert_eq!(values(&copy).last(), Some(&gap[0]));
    check_no_gap(&copy);
}

/// The offsets that each batch reaches over, records or none.
fn spans(log: &PartitionLog) -> Vec<(Offset, Offset)> {
    let mut spans = Vec::new();
    log.for_each_header(log.log_start(), &mut |header| {
        spans.push((header.base_offset, header.next_offset()));
    })
    .unwrap();
    spans
}

fn check_no_gap(log: &PartitionLog) {
    let spans = spans(log);
    assert!(
        spans.windows(2).all(|two| two[0].1 == two[1].0),
        "{spans:?}"
    );
    assert!(spans[0].0 <= log.log_start() && spans[spans.len() - 1].1 == log.log_end());
}

/// No checksum covers it. With gaps, a batch whose offset was moved into one was served so.
#[test]
fn a_wrong_offset_is_noticed_in_a_compacted_log_too() {
    let disk = SimDisk::new();
    let store = try_open(&disk, quick()).unwrap();
    let log = filled(&store);
    compact(&store, &log, 5_000, &[]);
    check_no_gap(&log);
    let sealed = log.lock().physical.segments.len() - 1;
    let before = read_all(&log).unwrap();
    // Nothing new: what stands for offsets alone is no reason to write a segment again.
    put(&log, 100, &[("k", Some("v"))]);
    settle(&store, &log);
    drop((log, store));
    let dir = Path::new(DIR).join("partitions").join(id(1).to_string());
    let names = disk.list(&dir).unwrap();
    let paths = names.iter().map(|entry| dir.join(&entry.name));
    let paths: Vec<_> = paths.filter(|path| crate::dump::is_segment(path)).collect();
    let mut flips = 0;
    for path in &paths[..sealed] {
        let mut positions = Vec::new();
        crate::dump::dump_segment(&disk, path, &mut |it| positions.push(it.position)).unwrap();
        for (position, bit) in positions
            .iter()
            .flat_map(|at| (0..8).map(move |bit| (at, bit)))
        {
            let disk = disk.fork();
            disk.flip_bit(path, (position + 7) * 8 + bit).unwrap();
            let seen = crate::verify::verify_dir(&disk, Path::new(DIR)).unwrap();
            assert_eq!(
                seen.findings.len(),
                1,
                "byte {position}, bit {bit}: {seen:?}"
            );
            let store = try_open(&disk, quick()).unwrap();
            let read = read_all(&store.get(id(1)).unwrap());
            let intact = |read: Vec<Bytes>| read.starts_with(&before) || read.is_empty();
            assert!(
                read.is_err() || read.is_ok_and(intact),
                "byte {position}, bit {bit}"
            );
            flips += 1;
        }
    }
    assert!(flips > 50);
}

/// It has no timestamps, and would hold up retention for good.
#[test]
fn a_segment_of_which_nothing_is_left_goes_with_the_next_that_is_too_old() {
    let store = try_open(&SimDisk::new(), quick()).unwrap();
    let settings = LogSettings {
        segment_bytes: 100,
        retention_ms: Some(10),
        ..compacted_settings()
    };
    let log = store.get_or_create(id(1), settings).unwrap();
    for n in 0..3 {
        put(&log, n + 1, &[("k", Some("v"))]);
        log.skip_to(Offset(log.log_end().0 + 10)).unwrap();
    }
    wait_until_on_disk(&log);
    let ageless = |segment: &crate::segment::Segment| segment.max_timestamp == TimestampMs::NONE;
    let found: Vec<_> = log.lock().physical.segments.iter().map(ageless).collect();
    assert_eq!(found, [false, true, false, true, false, true]);
    let all = Offset(i64::MAX);
    let at = |now| log.retained_from(TimestampMs(now), all).unwrap();
    assert_eq!(at(1_005), None);
    assert_eq!(at(1_015), Some(Offset(1)));
    assert_eq!(at(1_025), Some(Offset(12)));
    assert_eq!(at(9_000), Some(Offset(23)));
}

fn read_all_from(log: &PartitionLog, from: i64) -> Vec<Bytes> {
    log.read_blocking(Offset(from), Offset(i64::MAX), 1 << 20)
        .unwrap()
}

#[test]
fn the_first_batch_of_each_leader_epoch_stays_if_only_as_a_header() {
    let store = try_open(&SimDisk::new(), quick()).unwrap();
    let log = store.get_or_create(id(1), compacted_settings()).unwrap();
    for n in 0..40i64 {
        let value = "e".repeat(200);
        let mut bytes = keyed_batch(n, Compression::None, -1, &[("k", Some(&value))]).to_vec();
        stamp(&mut bytes, Offset(n), LeaderEpoch(n as i32 / 7), None);
        log.append(n as u64 + 1, Bytes::from(bytes)).unwrap();
    }
    settle(&store, &log);
    let epochs = log.epochs();
    assert_eq!(epochs.len(), 6);
    compact(&store, &log, 5_000, &[]);
    assert!(values(&log).len() < 8);
    // A replica that is refilled from here knows the epochs by their batches alone.
    let copy = store.get_or_create(id(2), compacted_settings()).unwrap();
    for (ticket, batch) in (1..).zip(read_all(&log).unwrap()) {
        copy.append_replicated(ticket, batch).unwrap();
    }
    assert_eq!(copy.epochs(), epochs);
}

/// The batches between may be gone after it, by which a producer was known that sent more since.
#[test]
fn what_was_saved_of_the_producers_before_a_compacted_batch_is_not_gone_on_from() {
    let disk = SimDisk::new();
    let store = try_open(&disk, quick()).unwrap();
    let log = store.get_or_create(id(1), compacted_settings()).unwrap();
    for number in 0..60_u64 {
        put(&log, number, &[("key", Some("value"))]);
        if number == 9 {
            wait_until_on_disk(&log);
            assert!(log.save_producers(log.moment(), b"early").unwrap());
        }
    }
    wait_until_on_disk(&log);
    assert!(log.save_producers(log.moment(), b"late").unwrap());
    settle(&store, &log);
    let early = SavedProducers {
        upto: Offset(10),
        state: Bytes::from_static(b"early"),
    };
    assert!(log.holds_saved_producers(&early));
    compact(&store, &log, 2_000, &[]);
    wait_until_on_disk(&log);
    let deadline = Instant::now() + PATIENCE;
    while log.holds_saved_producers(&early) {
        assert!(Instant::now() < deadline, "it outlives the compaction");
        std::thread::yield_now();
    }
    let saved = log.saved_producers().unwrap();
    assert_eq!((saved.upto, &saved.state[..]), (Offset(60), &b"late"[..]));
    drop(store);
    let store = try_open(&disk, quick()).unwrap();
    let log = store.get(id(1)).unwrap();
    assert!(!log.holds_saved_producers(&early));
    assert_eq!(log.saved_producers(), Some(saved));
}

/// Between the journal's word for it and its new name, a compacted segment is looked for where it
/// waits, and what it replaces is not.
#[test]
fn a_compacted_segment_is_verified_where_it_waits_for_its_place() {
    let disk = SimDisk::new();
    let store = try_open(&disk, quick()).unwrap();
    let log = filled(&store);
    let hold = disk.hold(Call::Rename, "compacting");
    let left = std::thread::scope(|scope| {
        let compacting = scope.spawn(|| compact(&store, &log, 5_000, &[]));
        assert!(hold.wait_until_reached());
        let left = disk.fork();
        hold.release();
        compacting.join().unwrap();
        left
    });
    let found = |disk: &SimDisk| {
        crate::verify::verify_dir(disk, Path::new(DIR))
            .unwrap()
            .findings
    };
    assert_eq!(found(&left), []);
    let waiting = Path::new(DIR).join("compacting");
    let name = left.list(&waiting).unwrap().remove(0).name;
    let replaced = Path::new(DIR).join("partitions").join(id(1).to_string());
    let replaced = replaced.join(format!("{:020}.log", 0));
    let flipped = |path: &Path| {
        let disk = left.fork();
        disk.flip_bit(path, 800).unwrap();
        found(&disk)
    };
    assert_eq!(flipped(&replaced), []);
    let damaged = flipped(&waiting.join(&name));
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert_eq!(damaged[0].path, waiting.join(&name));
}

/// Its records would be taken for older or newer than they are, and the last of their keys go.
#[test]
fn a_batch_that_says_that_it_is_elsewhere_is_not_compacted() {
    let disk = SimDisk::new();
    let store = try_open(&disk, quick()).unwrap();
    let log = filled(&store);
    let before = values(&log);
    let dir = Path::new(DIR).join("partitions").join(id(1).to_string());
    let bases: Vec<_> = {
        let state = log.lock();
        let sealed = state.physical.segments.iter().rev().skip(1);
        sealed
            .map(|segment| segment.base)
            .filter(|base| base.0 > 0)
            .collect()
    };
    assert!(bases.len() > 3);
    for base in bases {
        let path = dir.join(format!("{base:020}.log"));
        // The lowest bit of the first base offset that is set, and one that is not.
        for bit in [base.0.trailing_zeros(), base.0.trailing_ones()] {
            let bit = 7 * 8 + u64::from(bit);
            disk.flip_bit(&path, bit).unwrap();
            let done = store
                .compactor()
                .compact(&log, TimestampMs(5_000), Offset(i64::MAX), &[]);
            assert!(
                matches!(done, Err(LogError::Read { .. })),
                "{base} {bit}: {done:?}"
            );
            disk.flip_bit(&path, bit).unwrap();
        }
    }
    assert_eq!(values(&log), before);
    compact(&store, &log, 5_000, &[]);
}
