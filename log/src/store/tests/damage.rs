//! Bytes that are not what was written: never served, and kept for a look.

use std::io::IoSlice;

use super::*;
use crate::disk::OpenMode;

fn segment_files(disk: &SimDisk) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join("partitions").join(id(1).to_string());
    let files = disk.list(&dir).unwrap();
    let paths = files.into_iter().map(|entry| dir.join(entry.name));
    paths.filter(|path| crate::dump::is_segment(path)).collect()
}

fn flip(disk: &SimDisk, path: &Path, at: u64) {
    let file = disk.open(path, OpenMode::Existing).unwrap();
    let mut byte = [0];
    assert_eq!(file.read_at(&mut byte, at).unwrap(), 1);
    byte[0] ^= 1;
    file.write_at(&[IoSlice::new(&byte)], at).unwrap();
    file.sync_data().unwrap();
}

/// Two logs of 40 batches, written down by a checkpoint.
fn prepared() -> SimDisk {
    let disk = SimDisk::new();
    let store = open(&disk);
    for partition in [1, 2] {
        let log = store.get_or_create(id(partition), settings()).unwrap();
        for base in 0..40 {
            log.append(base as u64, batch(base, 1, 300)).unwrap();
        }
    }
    store.shutdown().unwrap();
    disk
}

fn check_quarantined(disk: &SimDisk) {
    let store = open(disk);
    let damaged = store.damaged();
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert_eq!(damaged[0].0, id(1));
    let log = store.get(id(1)).unwrap();
    assert_eq!((log.log_start(), log.log_end()), (Offset(0), Offset(0)));
    assert_eq!(read_all(&store.get(id(2)).unwrap()).unwrap().len(), 40);
    // It is refilled, and another crash does not quarantine it again.
    log.restart_at(Offset(7)).unwrap();
    log.append(1, batch(7, 1, 300)).unwrap();
    assert!(store.told.wait_for(id(1), 1));
    crash(disk, store);
    let store = open(disk);
    assert!(store.damaged().is_empty(), "{:?}", store.damaged());
    let log = store.get(id(1)).unwrap();
    assert_eq!((log.log_start(), log.log_end()), (Offset(7), Offset(8)));
    assert_eq!(read_all(&log).unwrap(), [batch(7, 1, 300)]);
}

#[test]
fn a_log_whose_last_batch_is_damaged_is_quarantined() {
    for from_end in [1, 100, 290, 330] {
        let disk = prepared();
        let last = segment_files(&disk).pop().unwrap();
        let file = disk.open(&last, OpenMode::Existing).unwrap();
        flip(&disk, &last, file.size().unwrap() - from_end);
        check_quarantined(&disk);
        let kept = disk.list(&Path::new(DIR).join("quarantine")).unwrap();
        assert_eq!(kept.len(), 1);
    }
}

#[test]
fn a_log_that_lost_bytes_or_its_file_is_quarantined() {
    let disk = prepared();
    let last = segment_files(&disk).pop().unwrap();
    let file = disk.open(&last, OpenMode::Existing).unwrap();
    file.set_len(file.size().unwrap() - 1).unwrap();
    file.sync_data().unwrap();
    check_quarantined(&disk);

    let disk = prepared();
    disk.unlink(&segment_files(&disk).pop().unwrap()).unwrap();
    check_quarantined(&disk);
}

#[test]
fn damage_in_the_middle_is_found_on_reading_or_by_a_full_check() {
    let disk = prepared();
    let first = segment_files(&disk).remove(0);
    flip(&disk, &first, 1000);
    let findings = crate::dump::verify_dir(&disk, Path::new(DIR)).unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].path, first);
    {
        let none = StoreConfig {
            cache_bytes: 0,
            ..config()
        };
        let store = try_open(&disk, none).unwrap();
        let log = store.get(id(1)).unwrap();
        let error = read_all(&log).unwrap_err();
        assert!(
            matches!(&error, ReadError::Damaged { path, .. } if *path == first),
            "{error}"
        );
        let behind = log.read_blocking(Offset(20), Offset(40), 10).unwrap();
        assert_eq!(behind, [batch(20, 1, 300)]);
    }
    let all = StoreConfig {
        verify_all_on_open: true,
        ..config()
    };
    let store = try_open(&disk, all).unwrap();
    assert_eq!(store.damaged().len(), 1);
}

#[test]
fn a_tail_that_no_checkpoint_covers_is_cut_and_written_again() {
    let disk = prepared();
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    for base in 40..80 {
        log.append(base as u64, batch(base, 1, 300)).unwrap();
    }
    assert!(store.told.wait_for(id(1), 79));
    wait_until_on_disk(&log);
    drop(store);
    for path in segment_files(&disk).iter().skip(4) {
        flip(&disk, path, disk_size(&disk, path) - 20);
    }
    let store = open(&disk);
    assert!(store.damaged().is_empty());
    let expected: Vec<_> = (0..80).map(|base| batch(base, 1, 300)).collect();
    assert_eq!(read_all(&store.get(id(1)).unwrap()).unwrap(), expected);
}

fn disk_size(disk: &SimDisk, path: &Path) -> u64 {
    disk.open(path, OpenMode::Existing).unwrap().size().unwrap()
}

#[test]
fn wrong_indexes_are_rebuilt() {
    let disk = prepared();
    let dir = segment_files(&disk)[0].parent().unwrap().to_owned();
    for entry in disk.list(&dir).unwrap() {
        let path = dir.join(&entry.name);
        if !crate::dump::is_segment(&path) {
            let file = disk.open(&path, OpenMode::Existing).unwrap();
            file.write_at(&[IoSlice::new(&[0, 0, 0, 3, 0, 0, 0, 99])], 0)
                .unwrap();
        }
    }
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    let expected: Vec<_> = (0..40).map(|base| batch(base, 1, 300)).collect();
    for (base, batch) in (0..).zip(&expected) {
        let read = log
            .read_blocking(Offset(base), Offset(base + 1), 10)
            .unwrap();
        assert_eq!(read, std::slice::from_ref(batch), "{base}");
    }
}

#[test]
fn a_directory_that_nobody_knows_is_set_aside() {
    let disk = prepared();
    let partitions = Path::new(DIR).join("partitions");
    for name in [id(5).to_string(), "lost+found".to_owned()] {
        disk.create_dir_all(&partitions.join(&name)).unwrap();
    }
    let store = open(&disk);
    assert_eq!(store.ids(), [id(1), id(2)]);
    assert_eq!(disk.list(&partitions).unwrap().len(), 2);
    assert_eq!(disk.list(&Path::new(DIR).join("stray")).unwrap().len(), 2);
}

#[test]
fn a_damaged_or_missing_checkpoint_refuses_to_open() {
    let disk = prepared();
    let path = Path::new(DIR).join("checkpoint");
    flip(&disk, &path, 30);
    let error = try_open(&disk, config()).err().unwrap();
    assert!(
        matches!(&error, LogError::Corrupt { path: p, .. } if *p == path),
        "{error}"
    );
    assert_eq!(
        crate::dump::verify_dir(&disk, Path::new(DIR))
            .unwrap()
            .len(),
        1
    );
    // Without it, the journal alone would have to hold everything, and here it does not.
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    for base in 0..400 {
        log.append(base as u64, batch(base, 1, 500)).unwrap();
    }
    store.shutdown().unwrap();
    drop(store);
    disk.unlink(&path).unwrap();
    let error = try_open(&disk, config()).err().unwrap();
    assert!(
        matches!(&error, LogError::Corrupt { path: p, .. } if *p == path),
        "{error}"
    );
}
