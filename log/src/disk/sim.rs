//! A disk in memory that forgets at a crash what was not synced, and fails when told to.
//!
//! Names follow a journalling file system: operations on names are pending until the directory
//! they touch is synced; a rename becomes durable whole, with whatever came before it in the
//! directories it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{DirEntry, Disk, DiskFile, OpenMode};

const ROOT: u64 = 0;
/// What a crash tears a write at.
const SECTOR: usize = 512;
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
    /// be used again at once.
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

/// SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[derive(Debug, Default)]
struct Contents {
    bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

impl Contents {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::SetLen(len) => self.bytes.resize(*len as usize, 0),
            Change::Write { offset, bytes } => {
                let start = *offset as usize;
                let end = start + bytes.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[start..end].copy_from_slice(bytes);
            }
        }
    }
}

#[derive(Debug, Default)]
struct FileNode {
    current: Contents,
    durable: Contents,
    pending: Vec<Change>,
}

type Names = BTreeMap<OsString, u64>;

#[derive(Debug)]
enum Node {
    File(FileNode),
    Dir { current: Names, durable: Names },
}

impl Node {
    fn dir() -> Node {
        Node::Dir {
            current: Names::new(),
            durable: Names::new(),
        }
    }
}

/// A change of names that no directory sync has covered.
#[derive(Debug, Clone)]
enum NameChange {
    Link {
        dir: u64,
        name: OsString,
        node: u64,
    },
    Unlink {
        dir: u64,
        name: OsString,
    },
    Move {
        from: (u64, OsString),
        to: (u64, OsString),
    },
}

impl NameChange {
    fn dirs(&self) -> [u64; 2] {
        match self {
            NameChange::Link { dir, .. } | NameChange::Unlink { dir, .. } => [*dir, *dir],
            NameChange::Move { from, to } => [from.0, to.0],
        }
    }
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    pending: Vec<NameChange>,
    /// Files opened in an earlier life of the machine are dead.
    life: u64,
    operations: u64,
    power_lost_at: Option<u64>,
    fail_sync: bool,
    fail_write: bool,
    syncs: u64,
    open_files: usize,
}

impl Default for State {
    fn default() -> State {
        State {
            nodes: BTreeMap::from([(ROOT, Node::dir())]),
            next_node: ROOT + 1,
            pending: Vec::new(),
            life: 0,
            operations: 0,
            power_lost_at: None,
            fail_sync: false,
            fail_write: false,
            syncs: 0,
            open_files: 0,
        }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn power_lost() -> io::Error {
    io::Error::other("the simulated machine is without power")
}

fn parts(path: &Path) -> Vec<&OsStr> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect()
}

impl State {
    /// Counts a change or sync, and refuses it if the power is gone.
    fn count(&mut self) -> io::Result<()> {
        self.check_power()?;
        self.operations += 1;
        Ok(())
    }

    fn check_power(&self) -> io::Result<()> {
        match self.power_lost_at {
            Some(at) if self.operations >= at => Err(power_lost()),
            _ => Ok(()),
        }
    }

    fn names(&mut self, dir: u64) -> io::Result<&mut Names> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir { current, .. }) => Ok(current),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn find(&mut self, path: &Path) -> io::Result<u64> {
        let mut node = ROOT;
        for part in parts(path) {
            node = *self.names(node)?.get(part).ok_or_else(not_found)?;
        }
        Ok(node)
    }

    fn find_parent(&mut self, path: &Path) -> io::Result<(u64, OsString)> {
        let mut parts = parts(path);
        let name = parts.pop().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let mut dir = ROOT;
        for part in parts {
            dir = *self.names(dir)?.get(part).ok_or_else(not_found)?;
        }
        Ok((dir, name))
    }

    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        self.count()?;
        apply_names(&mut self.nodes, &change, false);
        self.pending.push(change);
        Ok(())
    }

    fn add(&mut self, dir: u64, name: OsString, node: Node) -> io::Result<u64> {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        self.change_names(NameChange::Link {
            dir,
            name,
            node: id,
        })?;
        Ok(id)
    }

    fn file(&mut self, handle: &SimFile) -> io::Result<&mut FileNode> {
        if handle.life != self.life {
            return Err(power_lost());
        }
        self.check_power()?;
        match self.nodes.get_mut(&handle.node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(not_found()),
        }
    }

    fn change_file(&mut self, handle: &SimFile, change: Change) -> io::Result<()> {
        self.file(handle)?;
        self.count()?;
        if self.fail_write {
            self.fail_write = false;
            return Err(io::ErrorKind::StorageFull.into());
        }
        // The power may go with this very operation; its effect is then as uncertain as any.
        if let Some(Node::File(file)) = self.nodes.get_mut(&handle.node) {
            file.current.apply(&change);
            file.pending.push(change);
        }
        Ok(())
    }

    fn sync_file(&mut self, handle: &SimFile) -> io::Result<()> {
        self.file(handle)?;
        self.count()?;
        self.syncs += 1;
        let failed = std::mem::take(&mut self.fail_sync);
        if let Some(Node::File(file)) = self.nodes.get_mut(&handle.node) {
            for change in std::mem::take(&mut file.pending) {
                if !failed {
                    file.durable.apply(&change);
                }
            }
        }
        if failed {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.find(path)?;
        self.names(dir)?;
        self.count()?;
        self.syncs += 1;
        if std::mem::take(&mut self.fail_sync) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let mut touched = BTreeSet::from([dir]);
        let mut covered = vec![false; self.pending.len()];
        for (index, change) in self.pending.iter().enumerate().rev() {
            let dirs = change.dirs();
            if dirs.iter().any(|dir| touched.contains(dir)) {
                covered[index] = true;
                touched.extend(dirs);
            }
        }
        let pending = std::mem::take(&mut self.pending);
        for (change, covered) in pending.into_iter().zip(covered) {
            if covered {
                apply_names(&mut self.nodes, &change, true);
            } else {
                self.pending.push(change);
            }
        }
        Ok(())
    }

    fn crash(&mut self, mut random: Option<Random>) {
        let pending = std::mem::take(&mut self.pending);
        let kept = match &mut random {
            Some(random) => random.below(pending.len() + 1),
            None => 0,
        };
        for change in &pending[..kept] {
            apply_names(&mut self.nodes, change, true);
        }
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir { current, durable } => *current = durable.clone(),
                Node::File(file) => {
                    for change in std::mem::take(&mut file.pending) {
                        if let Some(random) = &mut random {
                            keep_some(&mut file.durable, change, random);
                        }
                    }
                    file.current.bytes = file.durable.bytes.clone();
                }
            }
        }
        self.forget_unreachable();
        self.life += 1;
        self.open_files = 0;
        self.power_lost_at = None;
        self.fail_sync = false;
        self.fail_write = false;
    }

    fn forget_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(id) = next.pop() {
            if let Some(Node::Dir { current, .. }) = self.nodes.get(&id) {
                next.extend(current.values().filter(|child| reached.insert(**child)));
            }
        }
        self.nodes.retain(|id, _| reached.contains(id));
    }
}

fn apply_names(nodes: &mut BTreeMap<u64, Node>, change: &NameChange, to_durable: bool) {
    let mut with = |dir: &u64, act: &mut dyn FnMut(&mut Names)| {
        if let Some(Node::Dir { current, durable }) = nodes.get_mut(dir) {
            act(if to_durable { durable } else { current });
        }
    };
    match change {
        NameChange::Link { dir, name, node } => with(dir, &mut |names| {
            names.insert(name.clone(), *node);
        }),
        NameChange::Unlink { dir, name } => with(dir, &mut |names| {
            names.remove(name);
        }),
        NameChange::Move { from, to } => {
            let mut moved = None;
            with(&from.0, &mut |names| moved = names.remove(&from.1));
            if let Some(node) = moved {
                with(&to.0, &mut |names| {
                    names.insert(to.1.clone(), node);
                });
            }
        }
    }
}

/// What a write that no sync covered may leave behind: nothing, all of it, or a few sectors.
fn keep_some(durable: &mut Contents, change: Change, random: &mut Random) {
    match (random.below(3), change) {
        (0, _) => {}
        (1, change) | (_, change @ Change::SetLen(_)) => durable.apply(&change),
        (_, Change::Write { offset, bytes }) => {
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                if random.below(2) == 0 {
                    durable.apply(&Change::Write {
                        offset: offset + (index * SECTOR) as u64,
                        bytes: sector.to_vec(),
                    });
                }
            }
        }
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
            None if mode == OpenMode::Existing => return Err(not_found()),
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
