//! The operating system's files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags};

use super::aligned::{BLOCK_BYTES, check_aligned, check_all_aligned};
use super::{DirEntry, Disk, DiskFile, FileSystem, OpenMode};

/// The most parts that one `pwritev` takes on Linux.
const PARTS_MAX: usize = 1024;

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if mode.goes_past_cache() {
            let file = open_past_cache(path, mode == OpenMode::WritePastCache)?;
            return Ok(Arc::new(file));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(!mode.needs_the_file())
            .truncate(mode == OpenMode::CreateEmpty)
            .open(path)?;
        Ok(Arc::new(RealFile {
            file,
            aligned: false,
            direct: false,
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            entries.push(DirEntry {
                name: entry.file_name(),
                is_dir: entry.file_type()?.is_dir(),
            });
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn file_system(&self, file: &Path, dirs: &[&Path]) -> io::Result<Arc<dyn FileSystem>> {
        let file = File::open(file)?;
        if !tells_of_losses(&file)? || !holds(&file, dirs)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Arc::new(RealFileSystem { file }))
    }
}

/// Whether `syncfs` waits for everything, and fails if any of it was lost since the file was
/// opened: Linux does since 5.8, and file systems that stand on others may not.
#[cfg(target_os = "linux")]
fn tells_of_losses(file: &File) -> io::Result<bool> {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    let kind = rustix::fs::fstatfs(file)?.f_type as u64;
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    Ok(matches!(kind, EXT4 | XFS) && is_at_least(&release, (5, 8)))
}

/// Whether the file and the directories are on the same file system.
#[cfg(target_os = "linux")]
fn holds(file: &File, dirs: &[&Path]) -> io::Result<bool> {
    use std::os::linux::fs::MetadataExt as _;
    let device = file.metadata()?.st_dev();
    for dir in dirs {
        if fs::metadata(dir)?.st_dev() != device {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn holds(_: &File, _: &[&Path]) -> io::Result<bool> {
    Ok(false)
}

#[cfg(not(target_os = "linux"))]
fn tells_of_losses(_: &File) -> io::Result<bool> {
    Ok(false)
}

/// Whether a kernel's release, such as `6.1.0-13-amd64`, is of this version or a later one.
#[cfg(target_os = "linux")]
fn is_at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

#[derive(Debug)]
struct RealFileSystem {
    /// Any file of it. It stays open, since the kernel notes with it what it has told.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    file: File,
}

impl FileSystem for RealFileSystem {
    #[cfg(target_os = "linux")]
    fn sync(&self) -> io::Result<()> {
        rustix::fs::syncfs(&self.file)?;
        // XFS leaves the disk's cache as it is if it has noted nothing itself. The sync of a file
        // empties it, whatever of the file is to be written.
        self.file.sync_data()
    }

    #[cfg(not(target_os = "linux"))]
    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// It was opened to be used past the cache.
    aligned: bool,
    /// And it is.
    direct: bool,
}

fn open_past_cache(path: &Path, writing: bool) -> io::Result<RealFile> {
    let mut options = OpenOptions::new();
    options.read(true).write(writing);
    let direct = options.clone().custom_flags(libc::O_DIRECT).open(path);
    let (file, direct) = match direct {
        Ok(file) => (file, true),
        // A file system without it, such as one in memory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => (options.open(path)?, false),
        Err(error) => return Err(error),
    };
    Ok(RealFile {
        file,
        aligned: true,
        direct,
    })
}

impl RealFile {
    #[cfg(target_os = "linux")]
    #[allow(unsafe_code)]
    fn sync_range(&self, offset: i64, bytes: i64, flags: libc::c_uint) -> io::Result<()> {
        let descriptor = self.file.as_raw_fd();
        // SAFETY: the call takes no memory, and the file keeps its descriptor open meanwhile.
        if unsafe { libc::sync_file_range(descriptor, offset, bytes, flags) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Not every file system can; the sync does it all then.
            Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP) => Ok(()),
            _ => Err(error),
        }
    }

    fn write(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let unit = if self.direct { BLOCK_BYTES } else { 1 };
        write_fully(parts, offset, unit, |rest, at| {
            Ok(rustix::io::pwritev(&self.file, rest, at)?)
        })
    }

    /// Writes past the cache; and through it, from then on, if the file system takes such files
    /// but not such writes, or asks for larger blocks.
    fn write_past_cache(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        match self.write(parts, offset) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let flags = rustix::fs::fcntl_getfl(&self.file)?;
                rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
                self.write(parts, offset)
            }
            done => done,
        }
    }
}

impl DiskFile for RealFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.aligned {
            check_aligned(buffer, offset)?;
        }
        read_fully(buffer, offset, |rest, at| {
            // Past the cache, a read is short only at the file's end, and none may follow there.
            if self.direct && at != offset {
                return Ok(0);
            }
            self.file.read_at(rest, at)
        })
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.aligned {
            check_all_aligned(parts, offset)?;
        }
        if self.direct {
            self.write_past_cache(parts, offset)
        } else {
            self.write(parts, offset)
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Some file systems cannot reserve; the length alone still makes the file right.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                if self.size()? < len {
                    self.file.set_len(len)?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    #[cfg(target_os = "linux")]
    fn start_write_back(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let (Ok(offset), Ok(bytes)) = (i64::try_from(offset), i64::try_from(bytes)) else {
            return Ok(());
        };
        self.sync_range(offset, bytes, libc::SYNC_FILE_RANGE_WRITE)
    }

    #[cfg(target_os = "linux")]
    fn wait_for_write_back(&self) -> io::Result<()> {
        self.sync_range(0, 0, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
    }

    fn no_read_ahead(&self) {
        // Without it, reads are as right.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Random);
    }
}

/// Reads until the buffer is full or nothing comes any more.
fn read_fully(
    buffer: &mut [u8],
    offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match read(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all parts, however few bytes each call takes; goes on only at multiples of `unit` bytes
/// from the beginning.
fn write_fully(
    parts: &[IoSlice<'_>],
    mut offset: u64,
    unit: usize,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    for chunk in parts.chunks(PARTS_MAX) {
        // A slice of slices is advanced in place after a short write, so it is copied once.
        let mut owned = chunk.to_vec();
        let mut rest = owned.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let written = write(rest, offset).map(|written| written - written % unit);
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operating system that does a little at a time, and is interrupted now and then.
    struct Short {
        file: Vec<u8>,
        calls: usize,
        most: usize,
    }

    impl Short {
        fn interrupted(&mut self) -> io::Result<()> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(())
        }

        fn write(&mut self, parts: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
            self.interrupted()?;
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            let taken = bytes.len().min(self.most);
            self.file
                .resize(self.file.len().max(at as usize + taken), 0);
            self.file[at as usize..][..taken].copy_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn read(&mut self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
            self.interrupted()?;
            let rest = self.file.get(at as usize..).unwrap_or_default();
            let read = rest.len().min(buffer.len()).min(self.most);
            buffer[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        }
    }

    #[test]
    fn short_and_interrupted_calls_are_gone_on_with() {
        let parts: Vec<Vec<u8>> = (0..2500_usize).map(|n| vec![n as u8; n % 5]).collect();
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        for most in [1, 2, 3, 7, 4096] {
            let mut system = Short {
                file: vec![9; 10],
                calls: 0,
                most,
            };
            write_fully(&slices, 10, 1, |rest, at| system.write(rest, at)).unwrap();
            assert_eq!(system.file[..10], [9; 10]);
            assert_eq!(system.file[10..], parts.concat());
            let mut read = vec![0; system.file.len() + 5];
            let count = read_fully(&mut read, 0, |rest, at| system.read(rest, at)).unwrap();
            assert_eq!(count, system.file.len());
            assert_eq!(read[..count], system.file);
        }
    }

    #[test]
    fn an_error_in_the_middle_of_a_write_is_the_writes_error() {
        let slices = [IoSlice::new(b"abc"), IoSlice::new(b"def")];
        let mut answers = [Ok(2), Err(io::ErrorKind::StorageFull.into())].into_iter();
        let failed = write_fully(&slices, 0, 1, |_, _| answers.next().unwrap()).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        let stuck = write_fully(&slices, 0, 1, |_, _| Ok(0)).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_write_in_blocks_goes_on_at_the_last_block_that_is_whole() {
        let bytes: Vec<u8> = (0..64).collect();
        let mut system = Short {
            file: Vec::new(),
            calls: 0,
            most: 21,
        };
        let mut offsets = Vec::new();
        write_fully(&[IoSlice::new(&bytes)], 0, 8, |rest, at| {
            offsets.push(at);
            system.write(rest, at)
        })
        .unwrap();
        assert_eq!(system.file, bytes);
        // One of three calls is interrupted.
        assert_eq!(offsets, [0, 16, 32, 32, 48]);
        let stuck = write_fully(&[IoSlice::new(&bytes)], 0, 8, |_, _| Ok(7)).unwrap_err();
        assert_eq!(stuck.kind(), io::ErrorKind::WriteZero);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_kernels_release_is_read_by_its_numbers() {
        let old_enough = ["5.8.0", "5.10", "6.1.0-13-amd64", "6.18.5+", "10.0-rc1"];
        assert!(
            old_enough
                .iter()
                .all(|release| is_at_least(release, (5, 8)))
        );
        let too_old = ["5.7.19-generic", "4.18.0-553.el8", "5", "", "linux"];
        assert!(!too_old.iter().any(|release| is_at_least(release, (5, 8))));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_one_file_system_is_synced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert!(holds(&file, &[dir.path()]).unwrap());
        let elsewhere = Path::new("/proc");
        assert!(!holds(&file, &[dir.path(), elsewhere]).unwrap());
        let refused = RealDisk.file_system(&path, &[elsewhere]).map(drop);
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn a_file_system_that_refuses_to_write_past_the_cache_writes_through_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, [0; 16]).unwrap();
        let bytes: Vec<u8> = (0..BLOCK_BYTES).map(|at| at as u8).collect();
        let file = open_past_cache(&path, true).unwrap();
        // No file system takes this as it is.
        file.write_past_cache(&[IoSlice::new(&bytes)], 3).unwrap();
        assert_eq!(fs::read(&path).unwrap()[3..], bytes);
        let flags = rustix::fs::fcntl_getfl(&file.file).unwrap();
        assert!(!flags.contains(OFlags::DIRECT), "{flags:?}");
    }
}
