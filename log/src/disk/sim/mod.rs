//! A disk in memory that forgets at a crash what was not synced, and fails when told to.
//!
//! Names follow a journalling file system: operations on names are pending until the directory
//! they touch is synced; a rename becomes durable whole, with whatever came before it in the
//! directories it touches.

mod state;

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirEntry, Disk, DiskFile, OpenMode};
use state::{Change, FileNode, NameChange, Node, ROOT, Random, State, not_found, parts};

const CAPACITY: u64 = 1 << 40;

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The power goes: all that was not synced is lost, every open file is dead, and the disk can
    /// be used again at once. Threads that still use it by path act on what was left, as no dead
    /// process could: take their power with [`SimDisk::lose_power_after`] first.
    pub fn crash(&self) {
        self.state.lock().crash(None);
    }

    /// The power goes, and of what was not synced a part survives that `seed` decides: any
    /// subset of the writes, each whole or torn, and the first few changes of names.
    pub fn crash_keeping_some(&self, seed: u64) {
        self.state.lock().crash(Some(Random(seed)));
    }

    /// After `operations` further changes or syncs, every operation fails until a crash.
    pub fn lose_power_after(&self, operations: u64) {
        let mut state = self.state.lock();
        state.power_lost_at = Some(state.operations + operations);
    }

    /// Whether the power was lost as [`SimDisk::lose_power_after`] asked.
    pub fn is_without_power(&self) -> bool {
        let state = self.state.lock();
        state.power_lost_at.is_some_and(|at| state.operations >= at)
    }

    /// The next `sync_data` or `sync_dir` fails with an input/output error; what it would have
    /// made durable is forgotten, as Linux does.
    pub fn fail_next_sync(&self) {
        self.state.lock().fail_sync = true;
    }

    /// The next write fails as on a full disk.
    pub fn fail_next_write(&self) {
        self.state.lock().fail_write = true;
    }

    /// Syncs of files and directories so far.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Changes and syncs so far: the measure of [`SimDisk::lose_power_after`].
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// Files that are open now.
    pub fn open_files(&self) -> usize {
        self.state.lock().open_files
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.check_power()?;
        let (dir, name) = state.find_parent(path)?;
        let found = state.names(dir)?.get(&name).copied();
        let node = match found {
            Some(node) => node,
            None if matches!(mode, OpenMode::Existing | OpenMode::PastCache) => {
                return Err(not_found());
            }
            None => state.add(dir, name, Node::File(FileNode::default()))?,
        };
        if matches!(state.nodes.get(&node), Some(Node::Dir { .. })) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        state.open_files += 1;
        let life = state.life;
        let file = SimFile {
            disk: self.clone(),
            node,
            life,
        };
        if mode == OpenMode::CreateEmpty && found.is_some() {
            let emptied = state.change_file(&file, Change::SetLen(0));
            drop(state);
            emptied?;
        } else {
            drop(state);
        }
        Ok(Arc::new(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.state.lock();
        state.check_power()?;
        let dir = state.find(dir)?;
        let names = state.names(dir)?.clone();
        Ok(names
            .into_iter()
            .map(|(name, node)| DirEntry {
                name,
                is_dir: matches!(state.nodes.get(&node), Some(Node::Dir { .. })),
            })
            .collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.state.lock();
        state.check_power()?;
        match state.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.find(from)?;
        let from = state.find_parent(from)?;
        let to = state.find_parent(to)?;
        state.names(to.0)?;
        state.change_names(NameChange::Move { from, to })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let node = state.find(path)?;
        if matches!(state.nodes.get(&node), Some(Node::Dir { .. })) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let (dir, name) = state.find_parent(path)?;
        state.change_names(NameChange::Unlink { dir, name })
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut at = ROOT;
        for part in parts(dir) {
            at = match state.names(at)?.get(part).copied() {
                Some(node) => node,
                None => state.add(at, part.to_owned(), Node::dir())?,
            };
        }
        state.names(at)?;
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let node = state.find(dir)?;
        state.names(node)?;
        let (dir, name) = state.find_parent(dir)?;
        state.change_names(NameChange::Unlink { dir, name })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.state.lock().sync_dir(dir)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.check_power()?;
        state.find(path)?;
        Ok(CAPACITY)
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    node: u64,
    life: u64,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.life == self.life {
            state.open_files -= 1;
        }
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.state.lock().file(self)?.current.bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        let bytes = &state.file(self)?.current.bytes;
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let mut state = self.disk.state.lock();
        state.change_file(self, Change::Write { offset, bytes })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        state.change_file(self, Change::SetLen(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        if (state.file(self)?.current.bytes.len() as u64) < len {
            state.change_file(self, Change::SetLen(len))?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.state.lock().sync_file(self)
    }
}
