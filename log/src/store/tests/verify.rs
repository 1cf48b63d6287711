//! Looking at a store's files from outside: what was trimmed, cut or torn is no damage.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::disk::OpenMode;
use crate::dump::dump_segment;
use crate::verify::verify_dir;

fn found(disk: &dyn Disk) -> Vec<crate::verify::Finding> {
    verify_dir(disk, Path::new(DIR)).unwrap().findings
}

fn segment_files(disk: &SimDisk) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join("partitions").join(id(1).to_string());
    let files = disk.list(&dir).unwrap();
    let paths = files.into_iter().map(|entry| dir.join(entry.name));
    paths.filter(|path| crate::dump::is_segment(path)).collect()
}

/// A log of 40 batches in several segments that a checkpoint vouches for.
fn checkpointed(disk: &SimDisk) -> TestStore {
    let store = open(disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    for base in 0..40 {
        log.append(base as u64, batch(base, 1, 300)).unwrap();
    }
    store.shutdown().unwrap();
    drop(store);
    assert!(segment_files(disk).len() > 2);
    open(disk)
}

/// Once, segments that were deleted since the last checkpoint were taken for missing ones.
#[test]
fn what_went_since_the_checkpoint_is_not_missed() {
    let disk = SimDisk::new();
    let store = checkpointed(&disk);
    let log = store.get(id(1)).unwrap();
    let files = segment_files(&disk).len();
    log.advance_log_start_told(100, Offset(25)).unwrap();
    assert!(store.told.wait_for(id(1), 100));
    wait_until_on_disk(&log);
    assert_eq!(found(&disk), []);
    log.truncate(Offset(33)).unwrap();
    log.append(101, batch(33, 1, 500)).unwrap();
    assert!(store.told.wait_for(id(1), 101));
    wait_until_on_disk(&log);
    assert!(segment_files(&disk).len() < files);
    assert_eq!(found(&disk), []);
    log.restart_at(Offset(70)).unwrap();
    log.append(102, batch(70, 1, 300)).unwrap();
    assert!(store.told.wait_for(id(1), 102));
    wait_until_on_disk(&log);
    assert_eq!(found(&disk), []);
    store.delete(id(1)).unwrap();
    assert_eq!(found(&disk), []);
}

#[test]
fn what_is_wanted_is_missed_or_found_damaged() {
    let disk = SimDisk::new();
    let store = checkpointed(&disk);
    let log = store.get(id(1)).unwrap();
    log.advance_log_start_told(100, Offset(15)).unwrap();
    assert!(store.told.wait_for(id(1), 100));
    wait_until_on_disk(&log);
    drop((log, store));
    let files = segment_files(&disk);
    let flipped = &files[files.len() - 2];
    let file = disk.open(flipped, OpenMode::Existing).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 100).unwrap();
    file.write_at(&[IoSlice::new(&[byte[0] ^ 1])], 100).unwrap();
    let damaged = found(&disk);
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert_eq!(damaged[0].path, *flipped);
    assert_eq!(damaged[0].what, "the batch at byte 0 is damaged");
    disk.unlink(flipped).unwrap();
    let missing = found(&disk);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0].what, "the file is missing");
}

/// Offsets and leader epochs stand outside of the checksums, so that they are judged by what the
/// log knows of them. Once, a segment passed in which they were wrong.
#[test]
fn a_batch_with_a_wrong_offset_or_epoch_is_damage() {
    let disk = SimDisk::new();
    drop(checkpointed(&disk));
    let path = segment_files(&disk).remove(1);
    let second = {
        let mut positions = Vec::new();
        dump_segment(&disk, &path, &mut |batch| positions.push(batch.position)).unwrap();
        positions[1]
    };
    // The highest byte of the base offset is the first of a batch; the epoch begins at the 13th.
    for at in [3, 6, 7, 12, 15, second + 6, second + 7, second + 15] {
        for bit in [0, 1, 6] {
            let disk = disk.fork();
            disk.flip_bit(&path, at * 8 + bit).unwrap();
            let damaged = found(&disk);
            assert_eq!(damaged.len(), 1, "bit {bit} of byte {at}: {damaged:?}");
            assert_eq!(damaged[0].path, path);
        }
    }
    // A dump knows the file alone, in which what comes next lies too low: one is damaged, and
    // those behind it are not.
    for at in [0, 3, 15, second + 3, second + 15] {
        let disk = disk.fork();
        disk.flip_bit(&path, at * 8 + 4).unwrap();
        let seen = dump_segment(&disk, &path, &mut |_| {}).unwrap();
        assert_eq!(seen.invalid, 1, "byte {at}");
        assert!(seen.batches > 5);
    }
}

/// Once, a running broker's partition that was refilled since the last checkpoint was not told of.
#[test]
fn a_log_that_is_newer_than_the_checkpoint_counts() {
    let disk = SimDisk::new();
    let store = checkpointed(&disk);
    let log = store.get_or_create(id(2), settings()).unwrap();
    log.append(1, batch(0, 1, 300)).unwrap();
    assert!(store.told.wait_for(id(2), 1));
    let seen = verify_dir(&disk, Path::new(DIR)).unwrap();
    assert_eq!((seen.partitions, seen.findings), (2, Vec::new()));
}

/// A crash may leave anything behind what was synced; the journal has what belongs there.
#[test]
fn what_no_checkpoint_vouches_for_may_be_torn() {
    let disk = SimDisk::new();
    drop(checkpointed(&disk));
    let last = segment_files(&disk).pop().unwrap();
    let mut torn = batch(40, 1, 300).to_vec();
    let half = torn.len() / 2;
    torn[half..].fill(0);
    let file = disk.open(&last, OpenMode::Existing).unwrap();
    let end = file.size().unwrap();
    file.write_at(&[IoSlice::new(&torn)], end).unwrap();
    assert_eq!(found(&disk), []);
    file.set_len(end - 1).unwrap();
    assert_eq!(found(&disk).len(), 1);
}

#[test]
fn damage_in_the_journal_is_found() {
    let disk = SimDisk::new();
    let store = checkpointed(&disk);
    let log = store.get(id(1)).unwrap();
    for base in 40..60 {
        log.append(base as u64, batch(base, 1, 300)).unwrap();
        assert!(store.told.wait_for(id(1), base as u64));
    }
    // What is gone is not called missing because the journal cannot say so any more.
    log.advance_log_start_told(100, Offset(30)).unwrap();
    assert!(store.told.wait_for(id(1), 100));
    wait_until_on_disk(&log);
    drop((log, store));
    assert_eq!(found(&disk), []);
    let dir = Path::new(DIR).join("journal");
    let names = disk.list(&dir).unwrap();
    let mut files = names.iter().map(|entry| dir.join(&entry.name));
    let path = files
        .find(|path| path.extension().is_some_and(|is| is == "wal"))
        .unwrap();
    let file = disk.open(&path, OpenMode::Existing).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let last = batch(59, 1, 300);
    let at = bytes
        .windows(last.len())
        .position(|window| window == last)
        .unwrap();
    // Well before what the last frames say was synced.
    let at = at as u64 - 4 * last.len() as u64;
    file.write_at(&[IoSlice::new(&[bytes[at as usize] ^ 1])], at)
        .unwrap();
    let damaged = found(&disk);
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert_eq!(damaged[0].path, path);
    disk.remove_dir_all(&dir).unwrap();
    let missing = found(&disk);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0].path, dir);
}

#[test]
fn a_store_at_work_can_be_verified() {
    let disk = SimDisk::new();
    let config = StoreConfig {
        checkpoint_bytes: 16 * 1024,
        ..config()
    };
    let store = try_open(&disk, config).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for base in 0..600 {
                log.append(base as u64, batch(base, 1, 300)).unwrap();
                assert!(store.told.wait_for(id(1), base as u64));
            }
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            assert_eq!(found(&disk), []);
        }
    });
    assert_eq!(found(&disk), []);
}
