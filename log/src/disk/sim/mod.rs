//! A disk in memory that forgets at a crash what was not synced, and fails, fills up and hangs
//! when told to.
//!
//! Names follow a journalling file system: changes of names are pending until a directory they
//! touch is synced; a rename becomes durable whole, with whatever came before it in the
//! directories it touches. Bytes follow a page cache: a crash may keep any sector of what was
//! written, as it was after any of the writes to it. What a failed sync covered is lost, though
//! it can still be read: a later sync that succeeds proves nothing about it.
//!
//! A disk can be [forked](SimDisk::fork), which is cheap, and [observed](SimDisk::observe): each
//! change and sync is shown, before it happens, with a fork. So one run of a program yields every
//! disk that a crash of it could have left.

mod faults;
mod file;
mod names;
mod random;
mod state;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::aligned::{check_aligned, check_all_aligned};
use super::{DirEntry, Disk, DiskFile, FileSystem, OpenMode};
pub use faults::{Call, Fault, Hold, Operation};
use file::{Change, FileNode};
use names::{NameChange, Node};
pub(crate) use random::Random;
use state::{ROOT, State, not_found, parts};

/// Is shown each change and sync of a disk before it happens, with the disk as it is then. Must
/// not use the disk itself.
pub type Observer = Arc<dyn Fn(&Operation, SimDisk) + Send + Sync>;

struct Inner {
    state: Mutex<State>,
    /// Somebody hangs, or may go on.
    changed: Condvar,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    inner: Arc<Inner>,
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::of(State::default())
    }
}

impl SimDisk {
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    fn of(state: State) -> SimDisk {
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        SimDisk { inner }
    }

    /// Another disk that holds the same, durable or not; from then on they go their own ways. On
    /// it, nothing is open and nothing is told to fail.
    pub fn fork(&self) -> SimDisk {
        SimDisk::of(self.inner.state.lock().fork())
    }

    /// Shows each change and sync from now on.
    pub fn observe(&self, observer: Observer) {
        self.inner.state.lock().observer = Some(observer);
    }

    /// Ends what [`SimDisk::observe`] began.
    pub fn stop_observing(&self) {
        self.inner.state.lock().observer = None;
    }

    /// The power goes: all that was not synced is lost, every open file is dead, and the disk can
    /// be used again at once. Threads that still use it by path act on what was left, as no dead
    /// process could: take their power with [`SimDisk::lose_power_after`] first.
    pub fn crash(&self) {
        self.inner.state.lock().crash(None);
    }

    /// The power goes, and of what was not synced a part survives that `seed` decides: any
    /// sectors of the writes, and in each directory the first few changes of names.
    pub fn crash_keeping_some(&self, seed: u64) {
        self.inner.state.lock().crash(Some(Random(seed)));
    }

    /// After `operations` further changes or syncs, every operation fails until a crash.
    pub fn lose_power_after(&self, operations: u64) {
        let mut state = self.inner.state.lock();
        state.power_lost_at = Some(state.operations + operations);
    }

    /// Whether the power was lost as [`SimDisk::lose_power_after`] asked.
    pub fn is_without_power(&self) -> bool {
        self.inner.state.lock().check_power().is_err()
    }

    /// Lets a call fail.
    pub fn inject(&self, fault: Fault) {
        self.inner.state.lock().faults.push(fault);
    }

    /// Nothing is to fail any more. What failed stays lost.
    pub fn clear_faults(&self) {
        self.inner.state.lock().faults.clear();
    }

    /// The next `sync_data` fails with an input/output error; what it would have made durable is
    /// forgotten, as Linux does.
    pub fn fail_next_sync(&self) {
        self.inject(Fault::new(Call::Sync));
    }

    /// The next write fails as on a full disk.
    pub fn fail_next_write(&self) {
        self.inject(Fault::new(Call::Write).with(libc::ENOSPC));
    }

    /// Lets such calls, on paths that contain `path_part`, hang until the answer is dropped.
    pub fn hold(&self, call: Call, path_part: &str) -> Hold {
        Hold::new(self, call, path_part)
    }

    /// How many bytes all files together may have; beyond it, what makes a file longer fails.
    pub fn set_capacity(&self, bytes: u64) {
        self.inner.state.lock().capacity = Some(bytes);
    }

    /// Flips a bit of a file, in memory and at rest.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        self.inner.state.lock().flip_bit(path, bit)
    }

    /// Lets the cache go: what a failed sync has lost cannot be read any more.
    pub fn evict_caches(&self) {
        self.inner.state.lock().evict_caches();
    }

    /// Syncs of files and directories so far.
    pub fn syncs(&self) -> u64 {
        self.inner.state.lock().syncs
    }

    /// Changes and syncs so far: the measure of [`SimDisk::lose_power_after`].
    pub fn operations(&self) -> u64 {
        self.inner.state.lock().operations
    }

    /// Files that are open now.
    pub fn open_files(&self) -> usize {
        self.inner.state.lock().open_files
    }

    /// Plants a bug in whatever works on this disk and on its forks.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&self, bug: crate::planted::Bug) {
        self.inner.state.lock().planted = Some(bug);
    }

    /// Waits while such calls hang, and fails if the power is gone.
    fn enter(&self, call: Call, path: &Path) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.inner.state.lock();
        while let Some(held) = faults::held(&mut state.holds, call, path) {
            held.reach();
            self.inner.changed.notify_all();
            self.inner.changed.wait(&mut state);
        }
        state.check_power()?;
        Ok(state)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.enter(Call::Open, path)?;
        let place = state.find_parent(path)?;
        let found = state.names(place.0)?.get(&place.1).copied();
        if found.is_none() && mode.needs_the_file() {
            return Err(not_found());
        }
        if found.is_some_and(|node| state.is_dir(node)) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        state.check_fault(Call::Open, path)?;
        let node = match found {
            Some(node) => node,
            None => state.add(Call::Create, path, place, Node::File(FileNode::default()))?,
        };
        state.open_files += 1;
        let life = state.life;
        let file = SimFile {
            disk: self.clone(),
            path: path.to_owned(),
            node,
            life,
            aligned: mode.goes_past_cache(),
        };
        let emptied = if mode == OpenMode::CreateEmpty && found.is_some() {
            state.change_file(&file, Call::SetLen, Change::SetLen(0))
        } else {
            Ok(())
        };
        // Its own drop needs the lock.
        drop(state);
        emptied?;
        Ok(Arc::new(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.enter(Call::List, dir)?;
        let node = state.find(dir)?;
        let names = state.names(node)?.clone();
        state.check_fault(Call::List, dir)?;
        Ok(names
            .into_iter()
            .map(|(name, node)| DirEntry {
                name,
                is_dir: state.is_dir(node),
            })
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.inner.state.lock();
        state.check_power()?;
        match state.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.enter(Call::Rename, from)?;
        let moved = state.find(from)?;
        let from_place = state.find_parent(from)?;
        let to_place = state.find_parent(to)?;
        if from_place == to_place {
            return Ok(());
        }
        if state.is_dir(moved) && parts(to).starts_with(&parts(from)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(replaced) = state.names(to_place.0)?.get(&to_place.1).copied() {
            match (state.is_dir(moved), state.is_dir(replaced)) {
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                (true, true) if !state.names(replaced)?.is_empty() => {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
                _ => {}
            }
        }
        let change = NameChange::Move {
            from: from_place,
            to: to_place,
        };
        state.change_names(Call::Rename, from, change)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter(Call::Unlink, path)?;
        let node = state.find(path)?;
        if state.is_dir(node) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (dir, name) = state.find_parent(path)?;
        state.change_names(Call::Unlink, path, NameChange::Unlink { dir, name })
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.enter(Call::CreateDir, dir)?;
        let mut at = ROOT;
        let mut path = PathBuf::from("/");
        for part in parts(dir) {
            path.push(part);
            at = match state.names(at)?.get(part).copied() {
                Some(node) => node,
                None => {
                    let place = (at, part.to_owned());
                    state.add(Call::CreateDir, &path, place, Node::dir())?
                }
            };
        }
        if !state.is_dir(at) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.enter(Call::Unlink, dir)?;
        state.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.enter(Call::SyncDir, dir)?.sync_dir(dir)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.inner.state.lock();
        state.check_power()?;
        state.find(path)?;
        Ok(state.free())
    }

    fn file_system(&self, file: &Path, dirs: &[&Path]) -> io::Result<Arc<dyn FileSystem>> {
        let mut state = self.enter(Call::Open, file)?;
        state.find(file)?;
        for dir in dirs {
            state.find(dir)?;
        }
        Ok(Arc::new(SimFileSystem {
            disk: self.clone(),
            file: file.to_owned(),
            life: state.life,
            told: AtomicU64::new(state.losses_told),
        }))
    }

    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<crate::planted::Bug> {
        self.inner.state.lock().planted
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    node: u64,
    life: u64,
    /// It was opened to be used past the cache.
    aligned: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.inner.state.lock();
        if state.life == self.life {
            state.open_files -= 1;
        }
    }
}

impl SimFile {
    fn enter(&self, call: Call) -> io::Result<MutexGuard<'_, State>> {
        self.disk.enter(call, &self.path)
    }
}

/// The whole disk.
#[derive(Debug)]
struct SimFileSystem {
    disk: SimDisk,
    file: PathBuf,
    life: u64,
    /// How many of the disk's losses were told of when it was opened, or last here.
    told: AtomicU64,
}

impl FileSystem for SimFileSystem {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.enter(Call::SyncAll, &self.file)?;
        state.sync_all(&self.file, self.life)?;
        let losses = state.losses;
        state.losses_told = losses;
        if self.told.swap(losses, Ordering::Relaxed) < losses {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.inner.state.lock();
        Ok(state.file(self)?.current.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.aligned {
            check_aligned(buffer, offset)?;
        }
        let mut state = self.enter(Call::Read)?;
        state.file(self)?;
        state.check_fault(Call::Read, &self.path)?;
        let bytes = &state.file(self)?.current;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.aligned {
            check_all_aligned(parts, offset)?;
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let bytes = bytes.into();
        let mut state = self.enter(Call::Write)?;
        state.change_file(self, Call::Write, Change::Write { offset, bytes })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.enter(Call::SetLen)?;
        state.change_file(self, Call::SetLen, Change::SetLen(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.enter(Call::SetLen)?;
        if (state.file(self)?.current.len() as u64) < len {
            state.change_file(self, Call::SetLen, Change::SetLen(len))?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.enter(Call::Sync)?.sync_file(self)
    }

    fn start_write_back(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        self.enter(Call::WriteBack)?.start_write_back(self)
    }

    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<crate::planted::Bug> {
        self.disk.inner.state.lock().planted
    }
}
