//! What a simulated disk holds: for each file and directory what is current, what is durable, and
//! the changes between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};

use super::SimFile;

pub(super) const ROOT: u64 = 0;
/// What a crash tears a write at.
const SECTOR: usize = 512;

/// SplitMix64: small, and the same on every machine.
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

impl Contents {
    pub(super) fn apply(&mut self, change: &Change) {
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
pub(super) struct FileNode {
    pub(super) current: Contents,
    pub(super) durable: Contents,
    pub(super) pending: Vec<Change>,
}

pub(super) type Names = BTreeMap<OsString, u64>;

#[derive(Debug)]
pub(super) enum Node {
    File(FileNode),
    Dir { current: Names, durable: Names },
}

impl Node {
    pub(super) fn dir() -> Node {
        Node::Dir {
            current: Names::new(),
            durable: Names::new(),
        }
    }
}

/// A change of names that no directory sync has covered.
#[derive(Debug, Clone)]
pub(super) enum NameChange {
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
    pub(super) fn dirs(&self) -> [u64; 2] {
        match self {
            NameChange::Link { dir, .. } | NameChange::Unlink { dir, .. } => [*dir, *dir],
            NameChange::Move { from, to } => [from.0, to.0],
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) next_node: u64,
    pub(super) pending: Vec<NameChange>,
    /// Files opened in an earlier life of the machine are dead.
    pub(super) life: u64,
    pub(super) operations: u64,
    pub(super) power_lost_at: Option<u64>,
    pub(super) fail_sync: bool,
    pub(super) fail_write: bool,
    pub(super) syncs: u64,
    pub(super) open_files: usize,
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

pub(super) fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

pub(super) fn power_lost() -> io::Error {
    io::Error::other("the simulated machine is without power")
}

pub(super) fn parts(path: &Path) -> Vec<&OsStr> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect()
}

impl State {
    /// Counts a change or sync, and refuses it if the power is gone.
    pub(super) fn count(&mut self) -> io::Result<()> {
        self.check_power()?;
        self.operations += 1;
        Ok(())
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        match self.power_lost_at {
            Some(at) if self.operations >= at => Err(power_lost()),
            _ => Ok(()),
        }
    }

    pub(super) fn names(&mut self, dir: u64) -> io::Result<&mut Names> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir { current, .. }) => Ok(current),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    pub(super) fn find(&mut self, path: &Path) -> io::Result<u64> {
        let mut node = ROOT;
        for part in parts(path) {
            node = *self.names(node)?.get(part).ok_or_else(not_found)?;
        }
        Ok(node)
    }

    pub(super) fn find_parent(&mut self, path: &Path) -> io::Result<(u64, OsString)> {
        let mut parts = parts(path);
        let name = parts.pop().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let mut dir = ROOT;
        for part in parts {
            dir = *self.names(dir)?.get(part).ok_or_else(not_found)?;
        }
        Ok((dir, name))
    }

    pub(super) fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        self.count()?;
        apply_names(&mut self.nodes, &change, false);
        self.pending.push(change);
        Ok(())
    }

    pub(super) fn add(&mut self, dir: u64, name: OsString, node: Node) -> io::Result<u64> {
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

    pub(super) fn file(&mut self, handle: &SimFile) -> io::Result<&mut FileNode> {
        if handle.life != self.life {
            return Err(power_lost());
        }
        self.check_power()?;
        match self.nodes.get_mut(&handle.node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(not_found()),
        }
    }

    pub(super) fn change_file(&mut self, handle: &SimFile, change: Change) -> io::Result<()> {
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

    pub(super) fn sync_file(&mut self, handle: &SimFile) -> io::Result<()> {
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

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
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

    pub(super) fn crash(&mut self, mut random: Option<Random>) {
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

    pub(super) fn forget_unreachable(&mut self) {
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
