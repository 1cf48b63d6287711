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
