use super::*;
use std::path::PathBuf;

fn over_both(check: impl Fn(&dyn Disk, &Path)) {
    let real = tempfile::tempdir().unwrap();
    check(&RealDisk, real.path());
    let sim = SimDisk::new();
    let root = PathBuf::from("/node");
    sim.create_dir_all(&root).unwrap();
    check(&sim, &root);
}

fn write(file: &dyn DiskFile, bytes: &[u8], offset: u64) {
    file.write_at(&[IoSlice::new(bytes)], offset).unwrap();
}

fn contents(file: &dyn DiskFile) -> Vec<u8> {
    let mut bytes = vec![0; file.size().unwrap() as usize];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

#[test]
fn a_file_must_exist_to_be_opened_as_existing() {
    over_both(|disk, root| {
        let path = root.join("a");
        let error = disk.open(&path, OpenMode::Existing).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!disk.exists(&path).unwrap());
        disk.open(&path, OpenMode::Create).unwrap();
        disk.open(&path, OpenMode::Existing).unwrap();
        assert!(disk.exists(&path).unwrap());
    });
}

#[test]
fn parts_are_written_one_after_the_other() {
    over_both(|disk, root| {
        let file = disk.open(&root.join("a"), OpenMode::Create).unwrap();
        let parts = [&b"ab"[..], b"", b"cde"].map(IoSlice::new);
        file.write_at(&parts, 3).unwrap();
        assert_eq!(contents(&*file), b"\0\0\0abcde");
        file.write_at(&[], 0).unwrap();
        let many: Vec<_> = (0..3000).map(|_| IoSlice::new(b"xy")).collect();
        file.write_at(&many, 0).unwrap();
        assert_eq!(contents(&*file), b"xy".repeat(3000));
    });
}

#[test]
fn a_read_ends_with_the_file() {
    over_both(|disk, root| {
        let file = disk.open(&root.join("a"), OpenMode::Create).unwrap();
        write(&*file, b"hello", 0);
        let mut buffer = [0; 10];
        assert_eq!(file.read_at(&mut buffer, 3).unwrap(), 2);
        assert_eq!(&buffer[..2], b"lo");
        assert_eq!(file.read_at(&mut buffer, 50).unwrap(), 0);
    });
}

#[test]
fn allocated_and_lengthened_files_read_as_zeros() {
    over_both(|disk, root| {
        let file = disk.open(&root.join("a"), OpenMode::Create).unwrap();
        write(&*file, b"abc", 0);
        file.allocate(6).unwrap();
        assert_eq!(contents(&*file), b"abc\0\0\0");
        file.set_len(2).unwrap();
        file.set_len(4).unwrap();
        assert_eq!(contents(&*file), b"ab\0\0");
        file.allocate(1).unwrap();
        assert_eq!(file.size().unwrap(), 4);
        file.sync_data().unwrap();
    });
}

#[test]
fn create_empty_forgets_what_was_there() {
    over_both(|disk, root| {
        let path = root.join("a");
        write(&*disk.open(&path, OpenMode::Create).unwrap(), b"abc", 0);
        assert_eq!(
            contents(&*disk.open(&path, OpenMode::Create).unwrap()),
            b"abc"
        );
        let file = disk.open(&path, OpenMode::CreateEmpty).unwrap();
        assert_eq!(file.size().unwrap(), 0);
    });
}

#[test]
fn names_are_listed_in_order_and_follow_renames() {
    over_both(|disk, root| {
        disk.create_dir_all(&root.join("d/e")).unwrap();
        disk.open(&root.join("b"), OpenMode::Create).unwrap();
        let file = disk.open(&root.join("a"), OpenMode::Create).unwrap();
        write(&*file, b"moved", 0);
        disk.rename(&root.join("a"), &root.join("b")).unwrap();
        disk.rename(&root.join("d/e"), &root.join("c")).unwrap();
        let names: Vec<_> = disk.list(root).unwrap();
        let names: Vec<_> = names
            .iter()
            .map(|entry| (entry.name.to_str().unwrap(), entry.is_dir))
            .collect();
        assert_eq!(names, [("b", false), ("c", true), ("d", true)]);
        let moved = disk.open(&root.join("b"), OpenMode::Existing).unwrap();
        assert_eq!(contents(&*moved), b"moved");
        disk.unlink(&root.join("b")).unwrap();
        disk.remove_dir_all(&root.join("c")).unwrap();
        disk.sync_dir(root).unwrap();
        assert_eq!(disk.list(root).unwrap().len(), 1);
        assert!(disk.free_space(root).unwrap() > 0);
        assert_eq!(
            disk.unlink(&root.join("b")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    over_both(|disk, root| {
        let path = root.join("a");
        let file = disk.open(&path, OpenMode::Create).unwrap();
        disk.unlink(&path).unwrap();
        write(&*file, b"still", 0);
        assert_eq!(contents(&*file), b"still");
    });
}

#[test]
fn misuse_has_the_same_name_everywhere() {
    over_both(|disk, root| {
        let (file, dir) = (root.join("file"), root.join("dir"));
        disk.open(&file, OpenMode::Create).unwrap();
        disk.create_dir_all(&dir.join("inner")).unwrap();
        let absent = root.join("absent");
        let open = |path: &Path, mode| disk.open(path, mode).map(drop);
        let cases = [
            (open(&absent, OpenMode::Existing), "NotFound"),
            (open(&absent.join("a"), OpenMode::Create), "NotFound"),
            (open(&file.join("a"), OpenMode::Create), "NotADirectory"),
            (open(&dir, OpenMode::Existing), "IsADirectory"),
            (disk.list(&absent).map(drop), "NotFound"),
            (disk.list(&file).map(drop), "NotADirectory"),
            (disk.exists(&file.join("a")).map(drop), "NotADirectory"),
            (disk.rename(&absent, &file), "NotFound"),
            (disk.rename(&file, &absent.join("a")), "NotFound"),
            (disk.rename(&file, &dir), "IsADirectory"),
            (disk.rename(&dir, &file), "NotADirectory"),
            (disk.rename(&dir, &dir.join("inner/a")), "InvalidInput"),
            (disk.unlink(&absent), "NotFound"),
            (disk.unlink(&dir), "IsADirectory"),
            (disk.remove_dir_all(&absent), "NotFound"),
            (disk.create_dir_all(&file), "AlreadyExists"),
            (disk.sync_dir(&absent), "NotFound"),
            (disk.free_space(&absent).map(drop), "NotFound"),
        ];
        for (number, (result, kind)) in cases.into_iter().enumerate() {
            let found = format!("{:?}", result.unwrap_err().kind());
            assert_eq!(found, kind, "case {number}");
        }
        disk.create_dir_all(&root.join("full/inner")).unwrap();
        assert!(disk.rename(&dir, &root.join("full")).is_err());
        disk.rename(&dir.join("inner"), &root.join("full/inner"))
            .unwrap();
    });
}

#[test]
fn writing_nothing_changes_nothing() {
    over_both(|disk, root| {
        let file = disk.open(&root.join("a"), OpenMode::Create).unwrap();
        write(&*file, b"", 100);
        assert_eq!(file.size().unwrap(), 0);
        file.allocate(0).unwrap();
        assert_eq!(file.size().unwrap(), 0);
        assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    });
}

#[test]
fn an_open_file_follows_its_name() {
    over_both(|disk, root| {
        let (path, other) = (root.join("a"), root.join("b"));
        let file = disk.open(&path, OpenMode::Create).unwrap();
        let replaced = disk.open(&other, OpenMode::Create).unwrap();
        write(&*replaced, b"old", 0);
        disk.rename(&path, &other).unwrap();
        disk.rename(&other, &other).unwrap();
        write(&*file, b"new", 0);
        file.sync_data().unwrap();
        replaced.sync_data().unwrap();
        let found = disk.open(&other, OpenMode::Existing).unwrap();
        assert_eq!(contents(&*found), b"new");
        assert_eq!(contents(&*replaced), b"old");
    });
}

#[test]
fn a_directory_goes_with_all_that_is_in_it() {
    over_both(|disk, root| {
        let dir = root.join("a");
        disk.create_dir_all(&dir.join("b/c")).unwrap();
        for name in ["x", "b/y", "b/c/z"] {
            disk.open(&dir.join(name), OpenMode::Create).unwrap();
        }
        disk.create_dir_all(&dir).unwrap();
        disk.remove_dir_all(&dir).unwrap();
        assert!(!disk.exists(&dir).unwrap());
        disk.create_dir_all(&dir).unwrap();
        assert_eq!(disk.list(&dir).unwrap(), []);
    });
}

#[test]
fn a_file_system_is_synced_whole_where_that_can_be_relied_upon() {
    over_both(|disk, root| {
        let path = root.join("a");
        let file = disk.open(&path, OpenMode::Create).unwrap();
        let synced = disk.file_system(&path, &[root]).and_then(|file_system| {
            write(&*file, b"abc", 0);
            file.start_write_back(0, 0)?;
            file.wait_for_write_back()?;
            disk.rename(&path, &root.join("b"))?;
            file_system.sync()
        });
        if let Err(error) = synced {
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        }
        let absent = disk.file_system(&root.join("absent"), &[]).map(drop);
        assert_eq!(absent.unwrap_err().kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn many_threads_share_a_file() {
    over_both(|disk, root| {
        let file = disk.open(&root.join("a"), OpenMode::Create).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let file = &file;
                scope.spawn(move || {
                    for block in 0..50_u64 {
                        let at = (block * 4 + u64::from(thread)) * 10;
                        write(&**file, &[thread; 10], at);
                        file.sync_data().unwrap();
                    }
                });
            }
        });
        let bytes = contents(&*file);
        assert_eq!(bytes.len(), 2000);
        for (index, block) in bytes.chunks(10).enumerate() {
            assert_eq!(block, [index as u8 % 4; 10], "block {index}");
        }
    });
}

#[test]
fn what_is_written_past_the_cache_is_read_through_it_and_the_other_way_round() {
    over_both(|disk, root| {
        let path = root.join("a");
        let error = disk.open(&path, OpenMode::WritePastCache).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!disk.exists(&path).unwrap());
        let cached = disk.open(&path, OpenMode::Create).unwrap();
        write(&*cached, &[1; 3 * BLOCK_BYTES], 0);
        let direct = disk.open(&path, OpenMode::WritePastCache).unwrap();
        let mut buffer = AlignedBuffer::zeroed(2 * BLOCK_BYTES);
        buffer.fill(2);
        write(&*direct, &buffer, BLOCK_BYTES as u64);
        direct.sync_data().unwrap();
        let expected = [vec![1; BLOCK_BYTES], vec![2; 2 * BLOCK_BYTES]].concat();
        assert_eq!(contents(&*cached), expected);
        // Behind the file's end, a write makes it longer.
        let (one, other) = buffer.split_at(BLOCK_BYTES);
        let parts = [IoSlice::new(one), IoSlice::new(other)];
        direct.write_at(&parts, 3 * BLOCK_BYTES as u64).unwrap();
        assert_eq!(direct.size().unwrap(), 5 * BLOCK_BYTES as u64);
        write(&*cached, &[3; 10], 5);
        assert_eq!(direct.read_at(&mut buffer, 0).unwrap(), buffer.len());
        assert_eq!(buffer[..20], contents(&*cached)[..20]);
    });
}

#[test]
fn only_whole_blocks_go_past_the_cache() {
    over_both(|disk, root| {
        let path = root.join("a");
        write(
            &*disk.open(&path, OpenMode::Create).unwrap(),
            &[1; 4 * BLOCK_BYTES],
            0,
        );
        let file = disk.open(&path, OpenMode::WritePastCache).unwrap();
        let buffer = AlignedBuffer::zeroed(2 * BLOCK_BYTES);
        let refused = [
            (&buffer[..BLOCK_BYTES], 512),
            (&buffer[..512], 0),
            (&buffer[8..8 + BLOCK_BYTES], 0),
        ];
        for (number, (bytes, offset)) in refused.into_iter().enumerate() {
            let mut target = AlignedBuffer::zeroed(2 * BLOCK_BYTES);
            let shift = bytes.as_ptr().addr() - buffer.as_ptr().addr();
            let target = &mut target[shift..shift + bytes.len()];
            for failed in [
                file.write_at(&[IoSlice::new(bytes)], offset),
                file.read_at(target, offset).map(drop),
            ] {
                let kind = failed.map_err(|error| error.kind());
                assert_eq!(kind, Err(io::ErrorKind::InvalidInput), "case {number}");
            }
        }
        let whole = disk.open(&path, OpenMode::Existing).unwrap();
        assert_eq!(contents(&*whole), [1; 4 * BLOCK_BYTES]);
    });
}

#[test]
fn a_crash_forgets_what_was_not_synced() {
    let disk = SimDisk::new();
    let path = Path::new("/a");
    let file = disk.open(path, OpenMode::Create).unwrap();
    write(&*file, b"kept", 0);
    file.sync_data().unwrap();
    disk.crash();
    assert!(!disk.exists(path).unwrap(), "the name was never synced");

    let file = disk.open(path, OpenMode::Create).unwrap();
    write(&*file, b"kept", 0);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    write(&*file, b"lost", 0);
    disk.crash();
    assert!(file.size().is_err(), "files opened before a crash are dead");
    let file = disk.open(path, OpenMode::Existing).unwrap();
    assert_eq!(contents(&*file), b"kept");
}

#[test]
fn a_crash_takes_back_renames_and_removals_that_were_not_synced() {
    let disk = SimDisk::new();
    let root = Path::new("/");
    disk.create_dir_all(Path::new("/d")).unwrap();
    disk.open(Path::new("/d/a"), OpenMode::Create).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    disk.sync_dir(root).unwrap();
    disk.rename(Path::new("/d/a"), Path::new("/b")).unwrap();
    disk.crash();
    assert!(disk.exists(Path::new("/d/a")).unwrap());
    disk.rename(Path::new("/d/a"), Path::new("/b")).unwrap();
    disk.sync_dir(root).unwrap();
    disk.remove_dir_all(Path::new("/d")).unwrap();
    disk.crash();
    assert!(disk.exists(Path::new("/b")).unwrap());
    assert!(disk.list(Path::new("/d")).unwrap().is_empty());
}

#[test]
fn faults_hit_once_and_a_failed_sync_forgets() {
    let disk = SimDisk::new();
    let file = disk.open(Path::new("/a"), OpenMode::Create).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk.fail_next_write();
    let error = file.write_at(&[IoSlice::new(b"x")], 0).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    write(&*file, b"x", 0);
    disk.fail_next_sync();
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    disk.crash();
    let file = disk.open(Path::new("/a"), OpenMode::Existing).unwrap();
    assert_eq!(file.size().unwrap(), 0, "the second sync proves nothing");
}

#[test]
fn a_failed_hint_loses_what_it_covers_and_is_no_operation() {
    let disk = SimDisk::new();
    let file = disk.open(Path::new("/a"), OpenMode::Create).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    write(&*file, b"x", 0);
    let before = disk.operations();
    file.start_write_back(0, 0).unwrap();
    disk.inject(Fault::new(Call::WriteBack));
    assert!(file.start_write_back(0, 0).is_err());
    assert_eq!(disk.operations(), before);
    file.sync_data().unwrap();
    disk.crash();
    let file = disk.open(Path::new("/a"), OpenMode::Existing).unwrap();
    assert_eq!(file.size().unwrap(), 0, "the sync proves nothing");
}

#[test]
fn a_sync_of_the_whole_disk_keeps_files_and_names_and_is_one_operation() {
    let disk = SimDisk::new();
    disk.open(Path::new("/a"), OpenMode::Create).unwrap();
    let whole = disk.file_system(Path::new("/a"), &[]).unwrap();
    disk.create_dir_all(Path::new("/d")).unwrap();
    for name in ["/a", "/d/b"] {
        let file = disk.open(Path::new(name), OpenMode::Create).unwrap();
        write(&*file, b"kept", 0);
    }
    let before = disk.operations();
    whole.sync().unwrap();
    assert_eq!(disk.operations(), before + 1);
    disk.crash();
    assert!(whole.sync().is_err(), "opened before a crash, it is dead");
    for name in ["/a", "/d/b"] {
        let file = disk.open(Path::new(name), OpenMode::Existing).unwrap();
        assert_eq!(contents(&*file), b"kept");
    }
}

#[test]
fn a_sync_of_the_whole_disk_tells_once_of_what_was_lost_before() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", b"old");
    let whole = disk.file_system(Path::new("/a"), &[]).unwrap();
    write(&*file, b"new", 0);
    disk.inject(Fault::new(Call::WriteBack));
    assert!(file.start_write_back(0, 0).is_err());
    // Nobody was told yet, so one that is opened now tells of it, too.
    let later = disk.file_system(Path::new("/a"), &[]).unwrap();
    assert!(whole.sync().is_err());
    assert!(later.sync().is_err());
    whole.sync().unwrap();
    disk.file_system(Path::new("/a"), &[])
        .unwrap()
        .sync()
        .unwrap();
    disk.inject(Fault::new(Call::SyncAll));
    write(&*file, b"six", 0);
    assert!(whole.sync().is_err());
    disk.crash();
    let file = disk.open(Path::new("/a"), OpenMode::Existing).unwrap();
    assert_eq!(contents(&*file), b"old");
}

#[test]
fn power_goes_after_the_operations_that_were_allowed() {
    let disk = SimDisk::new();
    let file = disk.open(Path::new("/a"), OpenMode::Create).unwrap();
    disk.lose_power_after(2);
    write(&*file, b"x", 0);
    file.sync_data().unwrap();
    assert!(disk.is_without_power());
    assert!(file.sync_data().is_err());
    assert!(disk.open(Path::new("/b"), OpenMode::Create).is_err());
    disk.crash();
    assert!(!disk.is_without_power());
}

/// A file with a durable name and these bytes, durable too.
fn synced(disk: &SimDisk, path: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(Path::new(path), OpenMode::Create).unwrap();
    write(&*file, bytes, 0);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    file
}

fn after_crash(disk: &SimDisk, seed: u64, path: &str) -> Vec<u8> {
    let disk = disk.fork();
    disk.crash_keeping_some(seed);
    contents(&*disk.open(Path::new(path), OpenMode::Existing).unwrap())
}

#[test]
fn a_crash_tears_writes_between_sectors_only_and_keeps_their_order_within_one() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[0; 2048]);
    write(&*file, &[1; 1500], 100);
    write(&*file, &[2; 1000], 600);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..2000 {
        let bytes = after_crash(&disk, seed, "/a");
        assert_eq!(bytes.len(), 2048);
        let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[200]).collect();
        // Within the second sector the first write is never without what came before it.
        let second = &bytes[512..1024];
        assert!(second[0] == 1 || second[200] == 0, "seed {seed}");
        seen.insert(sectors);
    }
    // Each sector on its own: untouched, after the first write, or after the second.
    for expected in [
        [0, 0, 0, 0],
        [1, 2, 2, 0],
        [1, 1, 1, 0],
        [0, 2, 0, 0],
        [1, 0, 2, 0],
    ] {
        assert!(seen.contains(&expected[..]), "{expected:?} of {seen:?}");
    }
}

#[test]
fn a_crash_keeps_files_and_directories_apart() {
    let disk = SimDisk::new();
    let (one, other) = (synced(&disk, "/a", b"0"), synced(&disk, "/b", b"0"));
    write(&*one, b"1", 0);
    write(&*other, b"1", 0);
    for dir in ["/d", "/e"] {
        disk.create_dir_all(Path::new(dir)).unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    for name in ["/d/1", "/e/1", "/d/2"] {
        disk.open(Path::new(name), OpenMode::Create).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..500 {
        let left = disk.fork();
        left.crash_keeping_some(seed);
        let read = |path: &str| contents(&*left.open(Path::new(path), OpenMode::Existing).unwrap());
        let there = |path: &str| left.exists(Path::new(path)).unwrap();
        seen.insert((read("/a") == b"1", read("/b") == b"1"));
        assert!(
            there("/d/1") || !there("/d/2"),
            "one directory's names keep their order"
        );
        seen.insert((there("/d/2"), there("/e/1")));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn bytes_that_were_cut_off_do_not_come_back_behind_a_durable_cut() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[7; 2048]);
    file.set_len(512).unwrap();
    write(&*file, &[8; 512], 1536);
    for seed in 0..500 {
        let bytes = after_crash(&disk, seed, "/a");
        // Either the cut is durable, or nothing behind it is new.
        let uncut = bytes.len() == 2048 && bytes[512..1024] == [7; 512];
        assert!(
            uncut || bytes[512..].iter().all(|byte| *byte != 7),
            "seed {seed}"
        );
    }
}

#[test]
fn faults_strike_the_calls_and_paths_they_are_for() {
    let disk = SimDisk::new();
    let (one, other) = (
        synced(&disk, "/one", b"abcd"),
        synced(&disk, "/other", b"abcd"),
    );
    disk.inject(Fault::new(Call::Read).of("one").after(1).sticky());
    one.read_at(&mut [0; 4], 0).unwrap();
    for _ in 0..3 {
        let failed = one.read_at(&mut [0; 4], 0).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(libc::EIO));
    }
    other.read_at(&mut [0; 4], 0).unwrap();
    disk.clear_faults();
    one.read_at(&mut [0; 4], 0).unwrap();
    disk.inject(Fault::new(Call::Write).with(libc::ENOSPC));
    let failed = one.write_at(&[IoSlice::new(b"wxyz")], 0).unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
    assert_eq!(contents(&*one), b"wxcd", "a failed write leaves a part");
    disk.inject(Fault::new(Call::Rename));
    let (from, to) = (Path::new("/one"), Path::new("/three"));
    assert!(disk.rename(from, to).is_err());
    disk.rename(from, to).unwrap();
}

#[test]
fn what_a_failed_sync_covered_can_be_read_until_the_cache_lets_it_go() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", b"old");
    write(&*file, b"new", 0);
    disk.inject(Fault::new(Call::Sync));
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(contents(&*file), b"new");
    let evicted = disk.fork();
    evicted.evict_caches();
    let again = evicted.open(Path::new("/a"), OpenMode::Existing).unwrap();
    assert_eq!(contents(&*again), b"old");
    // Written again, it becomes durable like anything else.
    write(&*file, b"new", 0);
    file.sync_data().unwrap();
    disk.crash();
    let file = disk.open(Path::new("/a"), OpenMode::Existing).unwrap();
    assert_eq!(contents(&*file), b"new");
    // In part it may have reached the disk.
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::new();
        let file = synced(&disk, "/a", b"");
        write(&*file, &[1; 100], 0);
        disk.inject(Fault::new(Call::Sync).keeping_some(seed));
        assert!(file.sync_data().is_err());
        disk.crash();
        let file = disk.open(Path::new("/a"), OpenMode::Existing).unwrap();
        lengths.insert(file.size().unwrap());
    }
    assert_eq!(Vec::from_iter(lengths), [0, 100]);
}

#[test]
fn a_directory_that_could_not_be_synced_takes_no_names_until_the_next_start() {
    let disk = SimDisk::new();
    let root = Path::new("/");
    disk.open(Path::new("/a"), OpenMode::Create).unwrap();
    disk.inject(Fault::new(Call::SyncDir));
    assert!(disk.sync_dir(root).is_err());
    assert!(disk.sync_dir(root).is_err(), "it is not to be tried again");
    assert!(disk.open(Path::new("/b"), OpenMode::Create).is_err());
    disk.crash();
    assert!(!disk.exists(Path::new("/a")).unwrap());
    disk.open(Path::new("/b"), OpenMode::Create).unwrap();
    disk.sync_dir(root).unwrap();
}

#[test]
fn a_full_disk_refuses_growth_and_takes_it_again_when_there_is_room() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[1; 600]);
    synced(&disk, "/b", &[1; 300]);
    disk.set_capacity(1000);
    assert_eq!(disk.free_space(Path::new("/")).unwrap(), 100);
    for refused in [
        file.write_at(&[IoSlice::new(&[2; 200])], 550),
        file.allocate(701),
    ] {
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
    write(&*file, &[2; 600], 0);
    disk.unlink(Path::new("/b")).unwrap();
    write(&*file, &[2; 400], 600);
}

#[test]
fn calls_hang_until_they_are_let_go() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", b"x");
    let hold = disk.hold(Call::Sync, "/a");
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| file.sync_data());
        assert!(hold.wait_until_reached());
        // Everything else goes on.
        synced(&disk, "/b", b"y");
        assert!(!syncing.is_finished());
        hold.release();
        syncing.join().unwrap().unwrap();
    });
}

#[test]
fn a_fork_goes_its_own_way_and_each_operation_is_shown_before_it_happens() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", b"one");
    let shown = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = shown.clone();
    disk.observe(Arc::new(move |operation: &Operation, disk: SimDisk| {
        seen.lock().push((operation.call, disk));
    }));
    write(&*file, b"two", 0);
    file.sync_data().unwrap();
    disk.stop_observing();
    write(&*file, b"six", 0);
    let shown = shown.lock();
    let calls: Vec<_> = shown.iter().map(|(call, _)| *call).collect();
    assert_eq!(calls, [Call::Write, Call::Sync]);
    for ((_, fork), expected) in shown.iter().zip([b"one", b"two"]) {
        let file = fork.open(Path::new("/a"), OpenMode::Existing).unwrap();
        assert_eq!(contents(&*file), expected);
    }
    shown[1].1.crash();
    let file = shown[1]
        .1
        .open(Path::new("/a"), OpenMode::Existing)
        .unwrap();
    assert_eq!(contents(&*file), b"one");
}

#[test]
fn a_bit_flips_at_rest() {
    let disk = SimDisk::new();
    let file = synced(&disk, "/a", &[0; 4]);
    disk.flip_bit(Path::new("/a"), 17).unwrap();
    assert_eq!(contents(&*file), [0, 0, 2, 0]);
    disk.crash();
    let file = disk.open(Path::new("/a"), OpenMode::Existing).unwrap();
    assert_eq!(contents(&*file), [0, 0, 2, 0]);
}
