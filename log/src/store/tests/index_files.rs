//! The index files of segments that are written to: brought up to date with checkpoints, and never
//! wrong, whatever was cut or lost meanwhile.

use super::*;
use crate::disk::{Disk as _, OpenMode, Random};
use crate::segment::{Scanner, index_path, log_path, time_index_path};

/// Segments that hold many index entries, and files that follow at once.
fn config() -> StoreConfig {
    StoreConfig {
        saved_lag_bytes: 6_000,
        default_settings: settings(),
        ..super::config()
    }
}

fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 60_000,
        ..LogSettings::default()
    }
}

fn checkpoint(store: &TestStore) {
    let deadline = Instant::now() + PATIENCE;
    while store.stats().backlog_bytes > 0 {
        assert!(Instant::now() < deadline, "the segments do not follow");
        std::thread::yield_now();
    }
    maintenance::checkpoint(&store.shared).unwrap();
}

fn read(disk: &SimDisk, path: &Path) -> Option<Vec<u8>> {
    let file = disk.open(path, OpenMode::Existing).ok()?;
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// The entries of the active segment's offset index file.
fn active_entries(disk: &SimDisk, log: &PartitionLog) -> Vec<(u32, u32)> {
    let Some(active) = log.lock().physical.segments.last().map(|s| s.base) else {
        return Vec::new();
    };
    let bytes = read(disk, &index_path(log.dir(), active)).unwrap_or_default();
    let field = |entry: &[u8], at: usize| u32::from_be_bytes(entry[at..at + 4].try_into().unwrap());
    bytes
        .chunks_exact(8)
        .map(|entry| (field(entry, 0), field(entry, 4)))
        .collect()
}

/// The batches of a segment: base offset and place.
fn batches_of(disk: &SimDisk, log: &PartitionLog, base: Offset, bytes: u64) -> Vec<(Offset, u64)> {
    let path = log_path(log.dir(), base);
    let file = disk.open(&path, OpenMode::Existing).unwrap();
    let mut scanner = Scanner::new(&*file, &path, 0, bytes, base);
    let mut batches = Vec::new();
    while let Some((at, header)) = scanner.next().unwrap() {
        batches.push((header.base_offset, at));
    }
    batches
}

/// Whatever a start would take from index files is right.
fn check_files(disk: &SimDisk, log: &PartitionLog, context: &str) {
    wait_until_on_disk(log);
    let deadline = Instant::now() + PATIENCE;
    let follows = || {
        let state = log.lock();
        state.physical.log_start == state.log_start
    };
    while !follows() {
        assert!(
            Instant::now() < deadline,
            "{context}: the start does not follow"
        );
        std::thread::yield_now();
    }
    let segments = log.lock().physical.segments.clone();
    for segment in segments {
        let batches = batches_of(disk, log, segment.base, segment.bytes);
        let Some(bytes) = read(disk, &index_path(log.dir(), segment.base)) else {
            continue;
        };
        let mut last = (0, 0);
        for entry in bytes.chunks_exact(8) {
            let relative = u32::from_be_bytes(entry[..4].try_into().unwrap());
            let at = u32::from_be_bytes(entry[4..].try_into().unwrap());
            // Reading ends where the entries stop rising, or leave the segment.
            if relative <= last.0 || at <= last.1 || u64::from(at) >= segment.bytes {
                break;
            }
            last = (relative, at);
            let batch = (segment.base + i64::from(relative), u64::from(at));
            assert!(
                batches.contains(&batch),
                "{context}: {batch:?} is no batch of segment {}",
                segment.base
            );
        }
    }
}

/// Appends batches of which none is like one that stood at the same place before.
fn append(store: &TestStore, log: &PartitionLog, count: usize, epoch: i32) {
    let mut random = Random(u64::from(epoch as u32));
    for _ in 0..count {
        let base = log.log_end().0;
        let bytes = random.between(700, 1_100);
        let batch = batch_at(base, epoch, 1 + bytes as i64 % 3, bytes, 1_000 + base);
        log.append(base as u64, batch).unwrap();
    }
    wait_until_on_disk(log);
    let end = log.log_end().0;
    if end > 0 && count > 0 {
        store.told.wait(|told| told.tickets.contains_key(&log.id()));
    }
}

#[test]
fn a_checkpoint_adds_to_the_index_what_it_lacks() {
    let disk = SimDisk::new();
    let store = try_open(&disk, config()).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    append(&store, &log, 4, 0);
    checkpoint(&store);
    assert_eq!(active_entries(&disk, &log), [], "little is not worth it");
    let mut had = 0;
    for _ in 0..4 {
        append(&store, &log, 12, 0);
        checkpoint(&store);
        let entries = active_entries(&disk, &log);
        assert!(entries.len() > had, "{entries:?}");
        had = entries.len();
        check_files(&disk, &log, "live");
    }
    let times = read(&disk, &time_index_path(log.dir(), Offset(0))).unwrap();
    assert_eq!(times.len() / 12, had);
}

#[test]
fn a_start_reads_the_files_and_goes_on_with_them() {
    let disk = SimDisk::new();
    let store = try_open(&disk, config()).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    append(&store, &log, 40, 0);
    checkpoint(&store);
    let had = active_entries(&disk, &log);
    assert!(!had.is_empty());
    crash(&disk, store);
    // The crash took the files, which are not synced; then they are found as they were.
    let store = try_open(&disk, config()).unwrap();
    let log = store.get(id(1)).unwrap();
    append(&store, &log, 8, 0);
    checkpoint(&store);
    let entries = active_entries(&disk, &log);
    assert!(entries.starts_with(&had), "{entries:?}");
    assert!(entries.len() > had.len());
    check_files(&disk, &log, "after the start");
}

#[test]
fn index_files_are_right_after_any_cut_and_crash() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let disk = SimDisk::new();
        let mut store = try_open(&disk, config()).unwrap();
        let mut epoch = 0;
        for step in 0..30 {
            let log = store.get_or_create(id(1), settings()).unwrap();
            let back = random.between(1, 60) as i64;
            let back_to = Offset((log.log_end().0 - back).max(log.log_start().0));
            match random.below(10) {
                0..=4 => append(&store, &log, random.between(1, 30), epoch),
                5 | 6 => checkpoint(&store),
                7 => {
                    epoch += 1;
                    log.truncate(back_to).unwrap();
                }
                8 => log.advance_log_start(back_to).unwrap(),
                _ => {
                    disk.lose_power_after(0);
                    drop(store);
                    match random.below(2) {
                        0 => disk.crash_keeping_some(seed),
                        _ => disk.crash(),
                    }
                    store = try_open(&disk, config()).unwrap();
                }
            }
            drop(log);
            let context = format!("seed {seed}, step {step}");
            let log = store.get_or_create(id(1), settings()).unwrap();
            check_files(&disk, &log, &context);
            read_all(&log).unwrap_or_else(|error| panic!("{context}: {error}"));
        }
    }
}

/// Where each offset is found by time, and by itself.
fn check_lookups(log: &PartitionLog, context: &str) {
    let limit = Offset(i64::MAX);
    for offset in (0..log.log_end().0).map(Offset) {
        let read = log
            .read_blocking(offset, limit, 1)
            .unwrap_or_else(|error| panic!("{context}, {offset}: {error}"));
        let header = BatchHeader::decode(&read[0]).unwrap();
        let holds = header.base_offset <= offset && offset < header.next_offset();
        assert!(holds, "{context}: {offset} is read from {header:?}");
        let found = log.offset_for_timestamp(TimestampMs(1_000 + offset.0), limit);
        let found = found.unwrap_or_else(|error| panic!("{context}, {offset}: {error}"));
        assert_eq!(
            found,
            Some((offset, TimestampMs(1_000 + offset.0))),
            "{context}"
        );
    }
}

#[test]
fn a_wrong_entry_is_found_when_it_is_used_and_mended() {
    let disk = SimDisk::new();
    let store = try_open(&disk, config()).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    append(&store, &log, 90, 0);
    let dir = log.dir().to_owned();
    let bases: Vec<_> = {
        let state = log.lock();
        state.physical.segments.iter().map(|s| s.base).collect()
    };
    assert!(bases.len() > 1, "one that is sealed, and one that is not");
    drop(log);
    store.shutdown().unwrap();
    let paths: Vec<_> = bases
        .iter()
        .flat_map(|base| [index_path(&dir, *base), time_index_path(&dir, *base)])
        .collect();
    let whole: Vec<_> = paths
        .iter()
        .map(|path| read(&disk, path).unwrap())
        .collect();
    let mut random = Random(1);
    for round in 0..60 {
        let disk = disk.fork();
        let mut context = format!("round {round}");
        for (path, whole) in paths.iter().zip(&whole) {
            // The low bytes of an entry: it goes on rising more often than not.
            let bit = random.below(whole.len() / 4) * 32 + 16 + random.below(16);
            context += &format!(", {} bit {bit}", path.display());
            disk.flip_bit(path, bit as u64).unwrap();
        }
        let store = try_open(&disk, config()).unwrap();
        let log = store.get(id(1)).unwrap();
        check_lookups(&log, &context);
        store.shutdown().unwrap();
        let store = try_open(&disk, config()).unwrap();
        let log = store.get(id(1)).unwrap();
        check_files(&disk, &log, &context);
        check_lookups(&log, &context);
    }
}
