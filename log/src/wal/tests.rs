use std::io::IoSlice;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;
use crate::disk::{Call, Fault, OpenMode, SimDisk};

const DIR: &str = "/wal";
const PATIENCE: Duration = Duration::from_secs(60);

fn config() -> WalConfig {
    WalConfig {
        file_bytes: 4096,
        spare_files: 2,
        preparing: Preparing::AfterSync,
        notes_synced: false,
        id_if_new: 0xfeed_beef,
    }
}

fn open(disk: &SimDisk) -> Result<(Wal, Vec<Bytes>), LogError> {
    open_preparing(disk, config().preparing)
}

fn open_preparing(disk: &SimDisk, preparing: Preparing) -> Result<(Wal, Vec<Bytes>), LogError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let config = WalConfig {
        preparing,
        ..config()
    };
    let (mut wal, frames) = Wal::open(disk.clone(), Path::new(DIR), config)?;
    wal.prepare_ahead(disk)?;
    Ok((wal, frames.into_iter().map(|frame| frame.payload).collect()))
}

fn payload(number: u64, bytes: usize) -> Bytes {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(bytes.max(8), number as u8);
    Bytes::from(payload)
}

fn append(wal: &mut Wal, payloads: &[Bytes]) -> Result<WalPosition, LogError> {
    let payloads: Vec<&[Bytes]> = payloads.iter().map(std::slice::from_ref).collect();
    wal.append(&payloads)
}

fn damage(disk: &SimDisk, path: &Path, at: u64) {
    let file = disk.open(path, OpenMode::Existing).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, at).unwrap();
    byte[0] ^= 0x40;
    file.write_at(&[IoSlice::new(&byte)], at).unwrap();
    file.sync_data().unwrap();
}

#[test]
fn frames_come_back_in_order_with_their_positions() {
    let disk = SimDisk::new();
    let (mut wal, frames) = open(&disk).unwrap();
    assert!(frames.is_empty());
    let parts = [
        Bytes::from_static(b"ab"),
        Bytes::new(),
        Bytes::from_static(b"c"),
    ];
    let first = wal.append(&[&parts, &[], &[payload(7, 100)]]).unwrap();
    assert_eq!(first, WalPosition(0));
    wal.sync().unwrap();
    disk.crash();
    let (wal, frames) = Wal::open(Arc::new(disk), Path::new(DIR), config()).unwrap();
    let read: Vec<_> = frames
        .iter()
        .map(|frame| (frame.position.0, frame.payload.len()))
        .collect();
    assert_eq!(read, [(0, 3), (48, 0), (88, 100)]);
    assert_eq!(frames[0].payload, "abc");
    assert_eq!(wal.end(), WalPosition(88 + 144));
    assert_eq!(
        wal.end(),
        Wal::position_after(frames[2].position, frames[2].payload.len())
    );
}

#[test]
fn appends_go_on_over_files_and_after_reopening() {
    let disk = SimDisk::new();
    let mut expected = Vec::new();
    for round in 0..20 {
        let (mut wal, frames) = open(&disk).unwrap();
        assert_eq!(frames, expected, "round {round}");
        let payloads: Vec<_> = (0..7).map(|n| payload(round * 7 + n, 900)).collect();
        append(&mut wal, &payloads).unwrap();
        wal.sync().unwrap();
        expected.extend(payloads);
        if round % 2 == 0 {
            disk.crash();
        }
    }
}

#[test]
fn a_payload_that_fits_no_file_is_refused_and_changes_nothing() {
    let (mut wal, _) = open(&SimDisk::new()).unwrap();
    let most = wal.payload_bytes_max() as usize;
    let error = append(&mut wal, &[payload(1, 8), payload(2, most + 1)]).unwrap_err();
    assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
    assert_eq!(wal.end(), WalPosition(0));
    append(&mut wal, &[payload(1, most), payload(2, most)]).unwrap();
    wal.sync().unwrap();
}

#[test]
fn trimmed_files_are_written_over_and_their_old_frames_never_return() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for number in 0..200 {
        append(&mut wal, &[payload(number, 500)]).unwrap();
        wal.sync().unwrap();
        let end = wal.end();
        wal.trim(end).unwrap();
        assert!(wal.live_bytes() <= 4096, "{}", wal.live_bytes());
        let files = disk.list(Path::new(DIR)).unwrap();
        assert!(files.len() <= 4, "{files:?}");
    }
    disk.crash();
    let (wal, frames) = open(&disk).unwrap();
    let numbers: Vec<_> = frames
        .iter()
        .map(|frame| u64::from_be_bytes(frame[..8].try_into().unwrap()))
        .collect();
    let expected: Vec<_> = (200 - numbers.len() as u64..200).collect();
    assert_eq!(numbers, expected);
    assert!(wal.live_bytes() > 0);
}

#[test]
fn a_torn_tail_is_cut_and_written_over() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    append(&mut wal, &[payload(1, 100)]).unwrap();
    wal.sync().unwrap();
    let torn = wal.end().0;
    append(&mut wal, &[payload(2, 100), payload(3, 100)]).unwrap();
    wal.sync().unwrap();
    damage(&disk, &files::file_path(Path::new(DIR), 1), torn + 50);
    // Frame 3 is whole, but frame 2 was not synced before it: a write that was torn.
    let (mut wal, frames) = open(&disk).unwrap();
    assert_eq!(frames, [payload(1, 100)]);
    append(&mut wal, &[payload(4, 100)]).unwrap();
    wal.sync().unwrap();
    // Frame 3 still stands where the next frame would, but belongs to another history.
    let (_, frames) = open(&disk).unwrap();
    assert_eq!(frames, [payload(1, 100), payload(4, 100)]);
}

/// Once, a log whose last frames were gone, and all that vouched for them, passed for a torn one.
#[test]
fn a_log_that_notes_what_is_synced_does_not_lose_its_end_unnoticed() {
    let disk = SimDisk::new();
    let try_open = |disk: &SimDisk| {
        let config = WalConfig {
            notes_synced: true,
            ..config()
        };
        Wal::open(Arc::new(disk.clone()), Path::new(DIR), config)
    };
    let (mut wal, _) = try_open(&disk).unwrap();
    let mut ends = Vec::new();
    for number in 0..3 {
        append(&mut wal, &[payload(number, 100)]).unwrap();
        wal.sync().unwrap();
        ends.push(wal.end().0);
    }
    append(&mut wal, &[payload(3, 100)]).unwrap();
    drop(wal);
    let first = files::file_path(Path::new(DIR), 1);
    // What was never synced may be torn.
    let torn = disk.fork();
    damage(&torn, &first, ends[2] + 50);
    assert_eq!(try_open(&torn).unwrap().1.len(), 3);
    for end in &ends[..2] {
        let cut = disk.fork();
        let file = cut.open(&first, OpenMode::Existing).unwrap();
        let zeros = vec![0; (file.size().unwrap() - end) as usize];
        file.write_at(&[IoSlice::new(&zeros)], *end).unwrap();
        match try_open(&cut).unwrap_err() {
            LogError::Corrupt { path, position, .. } => {
                assert_eq!((path, position), (first.clone(), *end))
            }
            other => panic!("{other}"),
        }
        // A note that is damaged itself says nothing.
        damage(&cut, &Path::new(DIR).join("synced"), 13);
        assert!(try_open(&cut).is_ok());
    }
    let gone = disk.fork();
    gone.unlink(&first).unwrap();
    match try_open(&gone).unwrap_err() {
        LogError::Corrupt { path, .. } => assert_eq!(path, Path::new(DIR)),
        other => panic!("{other}"),
    }
    // A power cut may leave an older note.
    let last = try_open(&disk).unwrap();
    assert_eq!(last.1.len(), 4);
}

#[test]
fn damage_before_a_sync_is_corruption_and_named() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    for number in 0..3 {
        append(&mut wal, &[payload(number, 100)]).unwrap();
        wal.sync().unwrap();
    }
    damage(&disk, &files::file_path(Path::new(DIR), 1), 144 + 60);
    match open(&disk).unwrap_err() {
        LogError::Corrupt { path, position, .. } => {
            assert_eq!(path, files::file_path(Path::new(DIR), 1));
            assert_eq!(position, 144);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn damage_in_a_file_before_the_last_is_corruption() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let payloads: Vec<_> = (0..8).map(|number| payload(number, 900)).collect();
    append(&mut wal, &payloads).unwrap();
    wal.sync().unwrap();
    let last_frame_of_first_file = 3 * 944;
    damage(
        &disk,
        &files::file_path(Path::new(DIR), 1),
        last_frame_of_first_file + 80,
    );
    let error = open(&disk).unwrap_err();
    assert!(
        matches!(&error, LogError::Corrupt { position, .. }
            if *position == last_frame_of_first_file),
        "{error}"
    );
}

#[test]
fn a_missing_file_in_the_middle_is_corruption() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let payloads: Vec<_> = (0..12).map(|number| payload(number, 900)).collect();
    append(&mut wal, &payloads).unwrap();
    wal.sync().unwrap();
    disk.unlink(&files::file_path(Path::new(DIR), 2)).unwrap();
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
}

#[test]
fn a_failed_sync_or_write_is_final() {
    for fail in [SimDisk::fail_next_sync, SimDisk::fail_next_write] {
        let disk = SimDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        fail(&disk);
        let failed = append(&mut wal, &[payload(1, 8)]).and_then(|_| wal.sync());
        assert!(matches!(failed, Err(LogError::Io { .. })), "{failed:?}");
        for again in [
            append(&mut wal, &[payload(2, 8)]).map(|_| ()),
            wal.sync(),
            wal.trim(WalPosition(0)),
        ] {
            assert!(matches!(again, Err(LogError::Failed { .. })), "{again:?}");
        }
    }
}

#[test]
fn files_of_another_size_are_read_and_new_ones_have_the_new_size() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let mut expected: Vec<_> = (0..6).map(|number| payload(number, 900)).collect();
    append(&mut wal, &expected).unwrap();
    wal.sync().unwrap();
    let larger = WalConfig {
        file_bytes: 8192,
        ..config()
    };
    let sim: Arc<dyn Disk> = Arc::new(disk);
    let (mut wal, frames) = Wal::open(sim.clone(), Path::new(DIR), larger).unwrap();
    assert_eq!(frames.len(), 6);
    expected.push(payload(6, 8000));
    append(&mut wal, &expected[6..]).unwrap();
    wal.sync().unwrap();
    let (_, frames) = Wal::open(sim, Path::new(DIR), larger).unwrap();
    let read: Vec<_> = frames.into_iter().map(|frame| frame.payload).collect();
    assert_eq!(read, expected);
}

#[test]
fn a_file_that_ends_within_a_block_is_used_up_to_its_last_whole_one() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    let mut expected = vec![payload(0, 100)];
    append(&mut wal, &expected).unwrap();
    wal.sync().unwrap();
    drop(wal);
    let path = files::file_path(Path::new(DIR), 1);
    let file = disk.open(&path, OpenMode::Existing).unwrap();
    file.set_len(6000).unwrap();
    file.sync_data().unwrap();
    let odd = WalConfig {
        file_bytes: 4097,
        ..config()
    };
    let sim: Arc<dyn Disk> = Arc::new(disk.clone());
    for life in 0..3 {
        let (mut wal, frames) = Wal::open(sim.clone(), Path::new(DIR), odd).unwrap();
        assert_eq!(wal.payload_bytes_max(), 8192 - 48);
        let frames: Vec<_> = frames.into_iter().map(|frame| frame.payload).collect();
        assert_eq!(frames, expected, "life {life}");
        let more: Vec<_> = (0..5).map(|n| payload(n, 1900)).collect();
        append(&mut wal, &more).unwrap();
        wal.sync().unwrap();
        expected.extend(more);
    }
    for entry in disk.list(Path::new(DIR)).unwrap() {
        let file = disk.open(&Path::new(DIR).join(&entry.name), OpenMode::Existing);
        let size = file.unwrap().size().unwrap();
        assert!(size == 16 || size == 8192, "{entry:?} of {size} bytes");
    }
}

#[test]
fn appends_of_any_size_are_written_from_memory_that_has_a_bound_and_is_given_back() {
    let disk = SimDisk::new();
    let config = WalConfig {
        file_bytes: 16 << 20,
        ..config()
    };
    let sim: Arc<dyn Disk> = Arc::new(disk.clone());
    let (mut wal, _) = Wal::open(sim.clone(), Path::new(DIR), config).unwrap();
    assert!(!wal.has_memory_to_give());
    let mut random = crate::disk::Random(7);
    let mut expected = Vec::new();
    let sizes = [1, 4, 100, 4050, 4056, 5000, 100_000, 1 << 20, 3 << 20];
    for number in 0..40 {
        let group: Vec<_> = (0..random.between(1, 3))
            .map(|n| payload(number * 10 + n as u64, sizes[random.below(sizes.len())]))
            .collect();
        let bytes: usize = group.iter().map(Bytes::len).sum();
        let calls = calls_during(&disk, || {
            append(&mut wal, &group).unwrap();
        });
        let writes = calls.iter().filter(|call| **call == Call::Write).count();
        assert!(writes <= bytes / (1 << 20) + 3, "{writes} of {bytes} bytes");
        wal.sync().unwrap();
        expected.extend(group);
        if number % 7 == 0 {
            wal.give_memory_back();
            assert!(!wal.has_memory_to_give());
        }
        if number % 10 == 9 {
            let (opened, frames) = Wal::open(sim.clone(), Path::new(DIR), config).unwrap();
            wal = opened;
            let frames: Vec<_> = frames.into_iter().map(|frame| frame.payload).collect();
            assert!(frames == expected, "after group {number}");
        }
    }
    append(&mut wal, &[payload(0, 3 << 20)]).unwrap();
    assert!(wal.has_memory_to_give());
    for number in 0..600 {
        append(&mut wal, &[payload(number, 8)]).unwrap();
    }
    assert!(!wal.has_memory_to_give(), "small appends need little");
    wal.sync().unwrap();
}

/// A file that goes must be filled with zeros when it is needed again.
#[test]
fn more_than_two_spares_are_kept_where_there_is_plenty_of_room() {
    for (capacity, kept) in [(u64::MAX / 2, 5), (16 * 5 * 4096, 2)] {
        let disk = SimDisk::new();
        disk.set_capacity(capacity);
        let sim: Arc<dyn Disk> = Arc::new(disk.clone());
        let config = WalConfig {
            spare_files: 5,
            ..config()
        };
        let (mut wal, _) = Wal::open(sim.clone(), Path::new(DIR), config).unwrap();
        wal.prepare_ahead(sim).unwrap();
        let mut position = WalPosition(0);
        for number in 0..9 {
            position = append(&mut wal, &[payload(number, 3000)]).unwrap();
            wal.sync().unwrap();
        }
        wal.trim(position).unwrap();
        let files = disk.list(Path::new(DIR)).unwrap();
        let files = files
            .iter()
            .filter(|entry| entry.name.to_string_lossy().ends_with(".wal"));
        // And the one that is written to.
        assert_eq!(files.count(), kept + 1);
    }
}

/// Appends, syncs and trims until the power goes; returns how many payloads were synced and how
/// many were ever given, and which were trimmed.
fn run_until_power_goes(
    disk: &SimDisk,
    preparing: Preparing,
    first: u64,
    at: u64,
) -> (u64, u64, u64) {
    let (mut synced, mut given, mut trimmed) = (first, first, 0);
    let Ok((mut wal, _)) = open_preparing(disk, preparing) else {
        return (synced, given, trimmed);
    };
    disk.lose_power_after(at);
    let mut positions = Vec::new();
    while given < first + 40 {
        let group: Vec<_> = (0..given % 4 + 1)
            .map(|n| payload(given + n, 100 + 211 * ((given + n) % 5) as usize))
            .collect();
        given += group.len() as u64;
        let Ok(position) = append(&mut wal, &group) else {
            break;
        };
        if wal.sync().is_err() {
            break;
        }
        synced = given;
        positions.push((position, given - group.len() as u64));
        if positions.len() % 3 == 0 {
            let (position, number) = positions[positions.len() / 2];
            trimmed = number;
            if wal.trim(position).is_err() {
                break;
            }
        }
    }
    (synced, given, trimmed)
}

#[test]
fn whatever_was_synced_is_there_after_a_crash_at_any_point() {
    let modes = [
        Preparing::WhenNeeded,
        Preparing::AfterSync,
        Preparing::InBackground,
    ];
    for at in 0..120 {
        for (seed, preparing) in (0..6).zip(modes.iter().copied().cycle()) {
            let disk = SimDisk::new();
            let (mut first, mut trimmed) = (0, 0);
            for life in 0..3 {
                let (synced, given, trimmed_now) =
                    run_until_power_goes(&disk, preparing, first, at);
                trimmed = trimmed_now.max(trimmed);
                if seed == 0 {
                    disk.crash();
                } else {
                    disk.crash_keeping_some(seed + 31 * at + life);
                }
                let (_, frames) = open(&disk).unwrap_or_else(|error| {
                    panic!("crash after {at}, seed {seed}, life {life}: {error}")
                });
                let numbers: Vec<_> = frames
                    .iter()
                    .map(|frame| u64::from_be_bytes(frame[..8].try_into().unwrap()))
                    .collect();
                assert!(numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
                let last = numbers.last().map_or(0, |last| last + 1);
                assert!(
                    last >= synced && last <= given,
                    "crash after {at}, seed {seed}, life {life}: {last} of {synced} to {given}"
                );
                assert!(
                    numbers.first().is_none_or(|first| *first <= trimmed),
                    "{numbers:?} of {trimmed}"
                );
                first = last;
            }
        }
    }
}

#[test]
fn what_a_failed_sync_lost_is_made_durable_by_the_next_start_or_not_there() {
    for crash_seed in [None, Some(1), Some(2), Some(3)] {
        let disk = SimDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        append(&mut wal, &[payload(1, 100)]).unwrap();
        wal.sync().unwrap();
        append(&mut wal, &[payload(2, 600), payload(3, 100)]).unwrap();
        disk.inject(match crash_seed {
            None => Fault::new(Call::Sync),
            Some(seed) => Fault::new(Call::Sync).keeping_some(seed),
        });
        assert!(wal.sync().is_err());
        // Only the process ends: what was written can still be read, and no sync fails any more.
        let (_, frames) = open(&disk).unwrap();
        assert_eq!(frames.len(), 3);
        disk.crash();
        let (_, again) = open(&disk).unwrap();
        assert!(again == frames, "{crash_seed:?}: {} of 3", again.len());
    }
}

fn calls_during(disk: &SimDisk, act: impl FnOnce()) -> Vec<Call> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    disk.observe(Arc::new(move |operation, _| {
        seen.lock().push(operation.call);
    }));
    act();
    disk.stop_observing();
    let calls = calls.lock();
    calls.clone()
}

#[test]
fn an_append_that_goes_on_to_a_prepared_file_only_writes_and_syncs() {
    let disk = SimDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    append(&mut wal, &[payload(0, 3000)]).unwrap();
    wal.sync().unwrap();
    for number in 1..6 {
        let calls = calls_during(&disk, || {
            append(&mut wal, &[payload(number, 3000)]).unwrap();
        });
        assert_eq!(calls, [Call::Write], "payload {number}");
        wal.sync().unwrap();
        if number == 3 {
            let end = wal.end();
            wal.trim(end).unwrap();
        }
        let files = disk.list(Path::new(DIR)).unwrap();
        assert!(wal.files.len() + 3 >= files.len(), "{files:?}");
    }
}

#[test]
fn appends_do_not_wait_for_a_file_that_is_not_needed_yet() {
    let disk = SimDisk::new();
    let hold = disk.hold(Call::Sync, "00002.wal");
    let (mut wal, _) = open_preparing(&disk, Preparing::InBackground).unwrap();
    append(&mut wal, &[payload(0, 1500)]).unwrap();
    assert!(hold.wait_until_reached());
    wal.sync().unwrap();
    append(&mut wal, &[payload(1, 1500)]).unwrap();
    wal.sync().unwrap();
    std::thread::scope(|scope| {
        let rolling = scope.spawn(|| append(&mut wal, &[payload(2, 3000)]).unwrap());
        hold.release();
        rolling.join().unwrap();
    });
    wal.sync().unwrap();
    drop(wal);
    disk.crash();
    let (_, frames) = open(&disk).unwrap();
    assert_eq!(
        frames,
        [payload(0, 1500), payload(1, 1500), payload(2, 3000)]
    );
}

#[test]
fn without_room_for_a_spare_the_log_goes_on_until_it_needs_one() {
    for preparing in [Preparing::AfterSync, Preparing::InBackground] {
        let disk = SimDisk::new();
        disk.set_capacity(6000);
        let (mut wal, _) = open_preparing(&disk, preparing).unwrap();
        append(&mut wal, &[payload(0, 3000)]).unwrap();
        wal.sync().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !wal.spares.are_prepared() {
            assert!(Instant::now() < deadline, "no end of preparing");
            std::thread::yield_now();
        }
        assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 2, "files");
        disk.set_capacity(20_000);
        append(&mut wal, &[payload(1, 3000)]).unwrap();
        wal.sync().unwrap();
        disk.set_capacity(0);
        let (_, frames) = open(&disk.fork()).unwrap();
        assert_eq!(frames, [payload(0, 3000), payload(1, 3000)]);
    }
}

#[test]
fn a_spare_that_cannot_be_written_or_synced_is_final() {
    for call in [Call::Write, Call::Sync, Call::SyncDir] {
        for preparing in [Preparing::AfterSync, Preparing::InBackground] {
            let disk = SimDisk::new();
            let sim: Arc<dyn Disk> = Arc::new(disk.clone());
            let config = WalConfig {
                preparing,
                ..config()
            };
            let (mut wal, _) = Wal::open(sim.clone(), Path::new(DIR), config).unwrap();
            disk.inject(match call {
                Call::SyncDir => Fault::new(call),
                call => Fault::new(call).of("00002.wal"),
            });
            wal.prepare_ahead(sim).unwrap();
            let deadline = Instant::now() + PATIENCE;
            while append(&mut wal, &[payload(0, 8)]).is_ok() && wal.sync().is_ok() {
                assert!(Instant::now() < deadline, "nobody is told");
            }
            let again = wal.sync();
            assert!(matches!(again, Err(LogError::Failed { .. })), "{again:?}");
        }
    }
}

/// Three files with three frames each, all synced one by one.
fn nine_frames(disk: &SimDisk) -> Vec<Bytes> {
    let (mut wal, _) = open(disk).unwrap();
    let payloads: Vec<_> = (0..9).map(|number| payload(number, 1200)).collect();
    for payload in &payloads {
        append(&mut wal, std::slice::from_ref(payload)).unwrap();
        wal.sync().unwrap();
    }
    assert_eq!(wal.files.len(), 3);
    payloads
}

#[test]
fn damage_to_the_first_frame_of_any_file_is_corruption() {
    for number in 1..=3 {
        let disk = SimDisk::new();
        nine_frames(&disk);
        damage(&disk, &files::file_path(Path::new(DIR), number), 60);
        let error = open(&disk).unwrap_err();
        assert!(
            matches!(error, LogError::Corrupt { .. }),
            "{number}: {error}"
        );
    }
}

#[test]
fn damage_to_a_spare_does_no_harm() {
    let disk = SimDisk::new();
    let payloads = nine_frames(&disk);
    let spare = files::file_path(Path::new(DIR), 4);
    damage(&disk, &spare, 60);
    let (_, frames) = open(&disk).unwrap();
    assert_eq!(frames, payloads);
    disk.open(&spare, OpenMode::Existing)
        .unwrap()
        .set_len(100)
        .unwrap();
    let (mut wal, frames) = open(&disk).unwrap();
    assert_eq!(frames, payloads);
    append(&mut wal, &[payload(9, 1200), payload(10, 1200)]).unwrap();
    wal.sync().unwrap();
    disk.crash();
    let (_, frames) = open(&disk).unwrap();
    assert_eq!(frames.len(), 11);
}
