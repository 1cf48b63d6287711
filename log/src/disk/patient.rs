//! A disk that waits for room. Writing what was promised cannot be refused any more, and a full
//! file system is no damage: a call that fails for want of room is made again until there is some.
//!
//! A sync that fails is never repeated: what it was to make durable may be lost (see the contract
//! of [`Disk`]).

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{DirEntry, Disk, DiskFile, FileSystem, OpenMode};

/// How often it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether anybody waits for room on a disk, and whether waiting is over.
#[derive(Debug, Default)]
pub(crate) struct Room {
    state: Mutex<RoomState>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct RoomState {
    waiting: usize,
    closed: bool,
}

impl Room {
    /// Whether a call waits for room now.
    pub fn is_awaited(&self) -> bool {
        self.state.lock().waiting > 0
    }

    /// Ends all waiting: from now on, calls for which there is no room fail.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.closed.notify_all();
    }

    /// Makes the call until it does not fail for want of room.
    fn patiently<T>(&self, path: &Path, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut waited = false;
        let result = loop {
            let result = call();
            if !matches!(&result, Err(error) if is_want_of_room(error)) {
                break result;
            }
            let mut state = self.state.lock();
            if state.closed {
                break result;
            }
            if !waited {
                waited = true;
                state.waiting += 1;
                tracing::warn!(path = %path.display(), "no space is left on the file system; waiting for room");
            }
            self.closed.wait_for(&mut state, PAUSE);
        };
        if waited {
            self.state.lock().waiting -= 1;
            tracing::info!(path = %path.display(), "waited for room; going on");
        }
        result
    }
}

/// Whether a call failed because the file system is full.
pub(crate) fn is_want_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A disk whose writers wait for room.
#[derive(Debug)]
pub(crate) struct PatientDisk {
    disk: Arc<dyn Disk>,
    room: Arc<Room>,
}

impl PatientDisk {
    pub fn new(disk: Arc<dyn Disk>, room: Arc<Room>) -> PatientDisk {
        PatientDisk { disk, room }
    }
}

impl Disk for PatientDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.room.patiently(path, || self.disk.open(path, mode))?;
        Ok(Arc::new(PatientFile {
            file,
            path: path.into(),
            room: Arc::clone(&self.room),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.disk.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.room.patiently(to, || self.disk.rename(from, to))
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.room.patiently(dir, || self.disk.create_dir_all(dir))
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_space(path)
    }

    fn file_system(&self, file: &Path, dirs: &[&Path]) -> io::Result<Arc<dyn FileSystem>> {
        self.disk.file_system(file, dirs)
    }

    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<crate::planted::Bug> {
        self.disk.planted()
    }
}

#[derive(Debug)]
struct PatientFile {
    file: Arc<dyn DiskFile>,
    path: Box<Path>,
    room: Arc<Room>,
}

impl DiskFile for PatientFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    /// A write that ran out of room half way is made again whole, over what it wrote.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let write = || self.file.write_at(parts, offset);
        self.room.patiently(&self.path, write)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let set = || self.file.set_len(len);
        self.room.patiently(&self.path, set)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let allocate = || self.file.allocate(len);
        self.room.patiently(&self.path, allocate)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn start_write_back(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.file.start_write_back(offset, bytes)
    }

    fn wait_for_write_back(&self) -> io::Result<()> {
        self.file.wait_for_write_back()
    }

    fn no_read_ahead(&self) {
        self.file.no_read_ahead();
    }

    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<crate::planted::Bug> {
        self.file.planted()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_call_waits_for_room_and_then_goes_on() {
        let room = Room::default();
        let calls = AtomicUsize::new(0);
        let done = room.patiently(Path::new("f"), || {
            assert_eq!(room.is_awaited(), calls.load(Ordering::Relaxed) > 0);
            match calls.fetch_add(1, Ordering::Relaxed) {
                0 | 1 => Err(io::ErrorKind::StorageFull.into()),
                _ => Ok(7),
            }
        });
        assert_eq!(done.unwrap(), 7);
        assert!(!room.is_awaited());
    }

    #[test]
    fn other_failures_are_not_waited_out() {
        let room = Room::default();
        let failed: io::Result<()> =
            room.patiently(Path::new("f"), || Err(io::ErrorKind::NotFound.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn closing_ends_the_wait() {
        let room = Room::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                room.patiently(Path::new("f"), || -> io::Result<()> {
                    Err(io::ErrorKind::StorageFull.into())
                })
            });
            while !room.is_awaited() {
                std::thread::yield_now();
            }
            room.close();
            let error = waiting.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        });
    }
}
