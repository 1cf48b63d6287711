//! Bytes that are not what was written: never served, and kept for a look.

use std::io::IoSlice;

use ottla_model::batch::BatchHeader;
use ottla_model::checksum::crc32c;

use super::*;
use crate::disk::{Call, Fault, OpenMode};
use crate::error::ReadError;

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
    let damage = store.damage();
    assert_eq!(damage.logs.keys().collect::<Vec<_>>(), [&id(1)]);
    assert_eq!(damage.all, None);
    let log = store.get(id(1)).unwrap();
    assert_eq!((log.log_start(), log.log_end()), (Offset(0), Offset(0)));
    assert_eq!(read_all(&store.get(id(2)).unwrap()).unwrap().len(), 40);
    // Until it is forgotten, a crash changes nothing: others may still count on the log.
    crash(disk, store);
    let store = open(disk);
    assert_eq!(store.damage(), damage);
    store.forget_damage(&damage).unwrap();
    assert!(!store.is_damaged(id(1)));
    let log = store.get(id(1)).unwrap();
    // It is refilled, and another crash does not quarantine it again.
    log.restart_at(Offset(7)).unwrap();
    log.append(1, batch(7, 1, 300)).unwrap();
    assert!(store.told.wait_for(id(1), 1));
    crash(disk, store);
    let store = open(disk);
    assert!(store.damage().is_empty(), "{:?}", store.damage());
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

/// Takes so many bytes away at the end of the last segment of log 1.
fn cut_last(disk: &SimDisk, lost: u64) {
    let last = segment_files(disk).pop().unwrap();
    let file = disk.open(&last, OpenMode::Existing).unwrap();
    file.set_len(file.size().unwrap() - lost).unwrap();
    file.sync_data().unwrap();
}

/// What the journal holds must not be written behind a hole.
#[test]
fn a_log_that_lost_batches_below_those_of_the_journal_is_quarantined() {
    let one = batch(39, 1, 300).len() as u64;
    for batches in [1, 2, 3] {
        let disk = prepared();
        let last = segment_files(&disk).pop().unwrap();
        let synced = disk_size(&disk, &last);
        let store = open(&disk);
        let log = store.get(id(1)).unwrap();
        log.append(41, batch(40, 1, 300)).unwrap();
        assert!(store.told.wait_for(id(1), 41));
        crash(&disk, store);
        let file = disk.open(&last, OpenMode::Existing).unwrap();
        file.set_len(synced - batches * one).unwrap();
        file.sync_data().unwrap();
        check_quarantined(&disk);
    }
}

/// Another batch in the place of the last one, with offsets that would fit.
#[test]
fn a_log_that_ends_in_another_batch_than_was_synced_is_quarantined() {
    let disk = prepared();
    let one = batch(39, 1, 300).len() as u64;
    cut_last(&disk, one);
    let last = segment_files(&disk).pop().unwrap();
    let file = disk.open(&last, OpenMode::Existing).unwrap();
    let other = batch(39, 1, 100);
    let end = file.size().unwrap();
    file.write_at(&[IoSlice::new(&other)], end).unwrap();
    file.sync_data().unwrap();
    check_quarantined(&disk);
}

#[test]
fn a_log_that_lost_bytes_or_its_file_is_quarantined() {
    let one = batch(39, 1, 300).len() as u64;
    // Whole batches too: what is left looks like a log that is all there.
    for lost in [1, one, one + 1, 2 * one] {
        let disk = prepared();
        cut_last(&disk, lost);
        check_quarantined(&disk);
    }

    let disk = prepared();
    disk.unlink(&segment_files(&disk).pop().unwrap()).unwrap();
    check_quarantined(&disk);
}

#[test]
fn damage_in_the_middle_is_found_on_reading_or_by_a_full_check() {
    let disk = prepared();
    let first = segment_files(&disk).remove(0);
    flip(&disk, &first, 1000);
    let findings = crate::verify::verify_dir(&disk, Path::new(DIR))
        .unwrap()
        .findings;
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
    assert_eq!(store.damage().logs.len(), 1);
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
    assert!(store.damage().logs.is_empty());
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

/// The store comes up empty, says so over restarts, and keeps what was there.
fn check_lost_whole(disk: &SimDisk, config: StoreConfig) {
    for round in 0..2 {
        let store = try_open(disk, config.clone()).unwrap();
        let damage = store.damage();
        assert!(damage.all.is_some(), "round {round}: {damage:?}");
        assert!(store.is_damaged(id(7)), "every log counts as lost");
        assert_eq!(store.ids(), []);
        let kept = Path::new(DIR).join("quarantine").join("store.0");
        assert!(!disk.list(&kept).unwrap().is_empty());
        crash(disk, store);
    }
    let store = try_open(disk, config.clone()).unwrap();
    store.forget_damage(&store.damage()).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch(0, 1, 300)).unwrap();
    assert!(store.told.wait_for(id(1), 1));
    crash(disk, store);
    let store = try_open(disk, config).unwrap();
    assert!(store.damage().is_empty(), "{:?}", store.damage());
    let log = store.get(id(1)).unwrap();
    assert_eq!(read_all(&log).unwrap(), [batch(0, 1, 300)]);
}

fn journal_file(disk: &SimDisk) -> PathBuf {
    let dir = Path::new(DIR).join("journal");
    let entries = disk.list(&dir).unwrap();
    let mut files = entries.iter().map(|entry| dir.join(&entry.name));
    files.find(|path| path.extension().is_some()).unwrap()
}

#[test]
fn without_its_checkpoint_the_store_counts_as_lost() {
    let disk = prepared();
    let path = Path::new(DIR).join("checkpoint");
    flip(&disk, &path, 30);
    let found = crate::verify::verify_dir(&disk, Path::new(DIR))
        .unwrap()
        .findings;
    assert_eq!(found.len(), 1);
    check_lost_whole(&disk, config());
    // Where it is missing, the journal alone would have to hold everything, and it does not.
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    for base in 0..400 {
        log.append(base as u64, batch(base, 1, 500)).unwrap();
    }
    store.shutdown().unwrap();
    drop(store);
    disk.unlink(&path).unwrap();
    check_lost_whole(&disk, config());
}

#[test]
fn without_its_journal_the_store_counts_as_lost() {
    let disk = prepared();
    let journal = journal_file(&disk);
    disk.unlink(&journal).unwrap();
    check_lost_whole(&disk, config());
    let disk = prepared();
    disk.remove_dir_all(&Path::new(DIR).join("journal"))
        .unwrap();
    check_lost_whole(&disk, config());
}

/// The last bytes that were written to the journal are gone, as they are after a torn write.
fn lose_end_of_journal(disk: &SimDisk, bytes: usize) {
    let journal = Path::new(DIR).join("journal");
    let files = disk.list(&journal).unwrap();
    let last = files.into_iter().filter_map(|entry| {
        let path = journal.join(entry.name);
        let file = disk.open(&path, OpenMode::Existing).unwrap();
        let mut all = vec![0; file.size().unwrap() as usize];
        file.read_at(&mut all, 0).unwrap();
        let end = all.iter().rposition(|byte| *byte != 0)? + 1;
        (all.len() >= 64 * 1024).then_some((path, end))
    });
    let (path, end) = last.max().unwrap();
    let file = disk.open(&path, OpenMode::Existing).unwrap();
    let from = end.saturating_sub(bytes) as u64;
    file.write_at(&[IoSlice::new(&vec![0; bytes])], from)
        .unwrap();
    file.sync_data().unwrap();
}

/// Where bytes stand behind what the journal explains, a start reads them; that the disk cannot
/// concerns this log alone.
#[test]
fn a_last_segment_that_cannot_be_read_is_that_logs_damage_alone() {
    let disk = prepared();
    let last = segment_files(&disk).pop().unwrap();
    let file = disk.open(&last, OpenMode::Existing).unwrap();
    let end = file.size().unwrap();
    file.write_at(&[IoSlice::new(&[7; 200])], end).unwrap();
    for call in [Call::Read, Call::Open] {
        let disk = disk.fork();
        disk.inject(Fault::new(call).of(&last.to_string_lossy()).sticky());
        let store = try_open(&disk, config()).unwrap();
        assert_eq!(store.damage().all, None);
        assert_eq!(read_all(&store.get(id(2)).unwrap()).unwrap().len(), 40);
    }
}

/// It was taken for what the journal has lost, and every log of the store given up.
#[test]
fn a_segment_in_the_wrong_place_is_no_news_of_the_journal() {
    let disk = prepared();
    let files = segment_files(&disk);
    let foreign = |name: &str| {
        let file = disk.open(files.last().unwrap(), OpenMode::Existing);
        let mut bytes = vec![0; 4096];
        let read = file.unwrap().read_at(&mut bytes, 0).unwrap();
        let path = files[0].with_file_name(name);
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.write_at(&[IoSlice::new(&bytes[..read])], 0).unwrap();
        path
    };
    for name in ["00000000000000000290.log", "00000000000000000038.log"] {
        let path = foreign(name);
        let store = open(&disk.fork());
        assert_eq!(store.damage(), Damage::default(), "{name}");
        assert_eq!(read_all(&store.get(id(1)).unwrap()).unwrap().len(), 40);
        disk.unlink(&path).unwrap();
    }
}

/// A replica that led alone once took a journal without its end for a torn write, led again, and
/// had two whole replicas cut to what it was left with.
#[test]
fn segments_that_go_on_behind_the_journal_tell_that_it_lost_its_end() {
    for (count, is_checkpointed, lost) in [
        (1, false, 20),
        (9, false, 20),
        (9, false, 2000),
        (9, true, 20),
        // With whole segments.
        (40, false, 9_000),
    ] {
        let disk = SimDisk::new();
        let store = open(&disk);
        let log = store.get_or_create(id(1), settings()).unwrap();
        for base in 0..count {
            if is_checkpointed && base == count - 1 {
                wait_until_on_disk(&log);
                wait_for_checkpoint(&store);
            }
            log.append(base as u64 + 1, batch(base, 1, 900)).unwrap();
            assert!(store.told.wait_for(id(1), base as u64 + 1));
        }
        wait_until_on_disk(&log);
        let killed = disk.fork();
        assert!(open(&killed.fork()).damage().is_empty());
        let findings = || {
            let seen = crate::verify::verify_dir(&killed, Path::new(DIR));
            seen.unwrap().findings
        };
        assert_eq!(findings(), []);
        lose_end_of_journal(&killed, lost);
        let [finding] = &findings()[..] else {
            panic!("{:?}", findings())
        };
        assert!(finding.what.contains("lost its end"), "{finding:?}");
        let is_wal = |path: &Path| path.extension().is_some_and(|it| it == "wal");
        assert!(is_wal(&finding.path), "{finding:?}");
        check_lost_whole(&killed, config());
    }
}

#[test]
fn a_store_that_is_gone_from_a_directory_in_use_counts_as_lost() {
    let disk = prepared();
    let root = Path::new(DIR);
    disk.remove_dir_all(&root.join("journal")).unwrap();
    disk.unlink(&root.join("checkpoint")).unwrap();
    disk.sync_dir(root).unwrap();
    let in_use = StoreConfig {
        must_exist: true,
        ..config()
    };
    let store = try_open(&disk, in_use.clone()).unwrap();
    assert!(store.damage().all.is_some());
    store.forget_damage(&store.damage()).unwrap();
    crash(&disk, store);
    let store = try_open(&disk, in_use).unwrap();
    assert!(store.damage().is_empty(), "{:?}", store.damage());
}

#[test]
fn what_a_newer_version_wrote_is_left_as_it_is() {
    let disk = prepared();
    let path = Path::new(DIR).join("checkpoint");
    let file = disk.open(&path, OpenMode::Existing).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let end = bytes.len() - 4;
    bytes[7] = 9;
    let crc = crc32c(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_be_bytes());
    file.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
    let error = try_open(&disk, config()).err().unwrap();
    assert!(
        matches!(&error, LogError::Newer { path: p, .. } if *p == path),
        "{error}"
    );
    assert_eq!(disk.list(&Path::new(DIR).join("quarantine")).unwrap(), []);
}

#[test]
fn a_log_found_damaged_while_it_is_used_is_taken_out_and_begins_anew() {
    let disk = prepared();
    let store = open(&disk);
    let kept = store.quarantine(id(1), "a flipped bit").unwrap();
    assert!(store.get(id(1)).is_none());
    assert!(disk.exists(&kept).unwrap());
    assert_eq!(store.damage().logs[&id(1)], "a flipped bit");
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch(0, 1, 300)).unwrap();
    assert!(store.told.wait_for(id(1), 1));
    crash(&disk, store);
    let store = open(&disk);
    assert_eq!(store.damage().logs[&id(1)], "a flipped bit");
    let log = store.get(id(1)).unwrap();
    assert_eq!(read_all(&log).unwrap(), [batch(0, 1, 300)]);
    assert!(disk.exists(&kept).unwrap());
}

#[test]
fn a_log_that_lacks_a_file_can_be_taken_out() {
    let disk = prepared();
    let store = open(&disk);
    let missing = segment_files(&disk)[1].clone();
    disk.unlink(&missing).unwrap();
    store.quarantine(id(1), "a missing file").unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    log.append(1, batch(0, 1, 300)).unwrap();
    assert!(store.told.wait_for(id(1), 1));
}

fn scrub(store: &LogStore) -> Vec<(TopicIdPartition, String)> {
    let mut found = Vec::new();
    store.scrub(&mut |_| true, &mut |id, what| found.push((id, what)));
    found
}

#[test]
fn scrubbing_finds_any_changed_byte_of_a_sealed_segment() {
    let disk = prepared();
    let store = open(&disk);
    assert_eq!(scrub(&store), []);
    let sealed = segment_files(&disk)[1].clone();
    // Offset, length, epoch, magic, checksum, attributes, counts and records.
    for at in (0..61).chain([100, disk_size(&disk, &sealed) - 1]) {
        flip(&disk, &sealed, at);
        let found = scrub(&store);
        assert_eq!(found.len(), 1, "byte {at}: {found:?}");
        assert_eq!(found[0].0, id(1));
        flip(&disk, &sealed, at);
    }
    let file = disk.open(&sealed, OpenMode::Existing).unwrap();
    file.set_len(disk_size(&disk, &sealed) - 1).unwrap();
    assert_eq!(scrub(&store).len(), 1);
    disk.unlink(&sealed).unwrap();
    assert_eq!(scrub(&store).len(), 1);
}

/// By default, a topic of less than a gigabyte has no other segment.
#[test]
fn scrubbing_finds_damage_in_the_segment_that_is_written_to() {
    let disk = SimDisk::new();
    let store = open(&disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    for base in 0..3 {
        log.append(base as u64 + 1, batch(base, 1, 300)).unwrap();
    }
    assert!(store.told.wait_for(id(1), 3));
    wait_until_on_disk(&log);
    assert_eq!(scrub(&store), []);
    let [active] = &segment_files(&disk)[..] else {
        panic!("more than one segment");
    };
    flip(&disk, active, 100);
    assert_eq!(scrub(&store).len(), 1);
    flip(&disk, active, 100);
    // What is cut is no damage, and neither is what comes in its place.
    log.truncate(Offset(1)).unwrap();
    log.append(10, batch(1, 1, 200)).unwrap();
    assert!(store.told.wait_for(id(1), 10));
    wait_until_on_disk(&log);
    assert_eq!(scrub(&store), []);
}

/// A log of 40 batches, one in five of a new leader epoch, whose first segment is sealed and holds
/// several epochs.
fn with_epochs(disk: &SimDisk) -> (TestStore, Arc<PartitionLog>) {
    let store = open(disk);
    let log = store.get_or_create(id(1), settings()).unwrap();
    for base in 0..40 {
        let batch = batch_at(base, base as i32 / 5, 1, 60, 1_000 + base);
        log.append(base as u64 + 1, batch).unwrap();
    }
    assert!(store.told.wait_for(id(1), 40));
    wait_until_on_disk(&log);
    assert!(segment_files(disk).len() > 1);
    (store, log)
}

fn wait_until_started_at(log: &PartitionLog, start: i64) {
    let deadline = Instant::now() + PATIENCE;
    while log.lock().physical.log_start < Offset(start) {
        assert!(Instant::now() < deadline, "the segments do not follow");
        std::thread::yield_now();
    }
}

/// The epochs below the log's start are forgotten while the segment that holds it stays: every
/// replica once took its trimmed log for damaged.
#[test]
fn batches_below_the_logs_start_are_no_damage_whatever_their_epoch() {
    let disk = SimDisk::new();
    let (store, log) = with_epochs(&disk);
    for start in 0..20 {
        log.advance_log_start_told(100 + start, Offset(start as i64))
            .unwrap();
        assert!(store.told.wait_for(id(1), 100 + start));
        wait_until_started_at(&log, start as i64);
        assert_eq!(scrub(&store), [], "log start {start}");
        assert_eq!(read_all(&log).unwrap().len(), 40 - start as usize);
    }
}

#[test]
fn a_read_that_a_new_log_start_overtakes_finds_no_damage() {
    let disk = SimDisk::new();
    let (store, _) = with_epochs(&disk);
    store.shutdown().unwrap();
    drop(store);
    // A start leaves nothing in memory.
    let store = open(&disk);
    let log = store.get(id(1)).unwrap();
    let hold = disk.hold(Call::Read, "partitions");
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| log.read_blocking(Offset(1), Offset(40), 1_000));
        assert!(hold.wait_until_reached());
        log.advance_log_start_told(100, Offset(8)).unwrap();
        assert!(store.told.wait_for(id(1), 100));
        wait_until_started_at(&log, 8);
        hold.release();
        reader.join().unwrap()
    });
    match read {
        Ok(_) | Err(ReadError::OutOfRange { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn scrubbing_stops_when_it_is_told_to() {
    let disk = prepared();
    let store = open(&disk);
    let mut reads = 0;
    let mut pace = |_| {
        reads += 1;
        reads < 3
    };
    store.scrub(&mut pace, &mut |id, what| panic!("{id}: {what}"));
    assert_eq!(reads, 3);
}

/// A log of batches of four records in several segments, in files alone.
fn of_four(disk: &SimDisk) -> (TestStore, Arc<PartitionLog>) {
    let no_cache = StoreConfig {
        cache_bytes: 0,
        ..config()
    };
    let store = try_open(disk, no_cache).unwrap();
    let log = store.get_or_create(id(1), settings()).unwrap();
    for number in 0..40 {
        log.append(number as u64, batch(number * 4, 4, 300))
            .unwrap();
    }
    wait_until_on_disk(&log);
    (store, log)
}

fn read_disk(log: &PartitionLog, from: i64) -> Result<Vec<Bytes>, ReadError> {
    log.read_blocking(Offset(from), Offset(i64::MAX), 1)
}

/// A reader goes on behind what it is given, so a batch that claims to lie or to end earlier than
/// it does would be passed over without a word.
#[test]
fn no_record_is_passed_over_because_a_batch_says_that_it_is_elsewhere() {
    let disk = SimDisk::new();
    let (_store, log) = of_four(&disk);
    let mut found = 0;
    for path in segment_files(&disk).iter().rev().skip(1) {
        let mut batches = Vec::new();
        crate::dump::dump_segment(&disk, path, &mut |batch| {
            batches.push((batch.position, batch.header.base_offset.0));
        })
        .unwrap();
        for (position, base) in batches {
            // The lowest two bytes of the base offset, and of the last offset in the batch.
            for at in [6, 7, 25, 26] {
                for bit in 0..8 {
                    disk.flip_bit(path, (position + at) * 8 + bit).unwrap();
                    for from in base..base + 4 {
                        let read = read_disk(&log, from);
                        let is_damage = matches!(read, Err(ReadError::Damaged { .. }));
                        assert!(is_damage, "bit {bit} of byte {at} at {from}: {read:?}");
                        found += 1;
                    }
                    disk.flip_bit(path, (position + at) * 8 + bit).unwrap();
                }
            }
        }
    }
    assert!(found > 1_000);
    for from in 0..160 {
        let read = read_disk(&log, from).unwrap();
        let base = BatchHeader::decode(&read[0]).unwrap().base_offset;
        assert_eq!(base.0, from / 4 * 4);
    }
}
