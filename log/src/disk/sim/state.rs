//! What a simulated disk holds, and what its operations do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};

use super::faults::{Call, Fault, Held, Operation, strike};
use super::file::{Change, FileNode};
use super::names::{self, NameChange, Names, Node};
use super::random::Random;
use super::{Observer, SimDisk, SimFile};

pub(super) const ROOT: u64 = 0;
const CAPACITY: u64 = 1 << 40;

pub(super) struct State {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    pending: Vec<NameChange>,
    /// A directory could not be synced: the file system takes no more changes of names until the
    /// machine starts again, as one that has aborted its journal.
    aborted: bool,
    /// Files opened in an earlier life of the machine are dead.
    pub(super) life: u64,
    pub(super) operations: u64,
    pub(super) power_lost_at: Option<u64>,
    pub(super) faults: Vec<Fault>,
    pub(super) holds: Vec<Held>,
    pub(super) next_hold: u64,
    /// `None` for more than anybody fills.
    pub(super) capacity: Option<u64>,
    pub(super) syncs: u64,
    pub(super) open_files: usize,
    /// Syncs and write backs that lost something, and how many of them syncs of the whole disk
    /// have told of.
    pub(super) losses: u64,
    pub(super) losses_told: u64,
    pub(super) observer: Option<Observer>,
    #[cfg(feature = "planted-bugs")]
    pub(super) planted: Option<crate::planted::Bug>,
}

impl Default for State {
    fn default() -> State {
        State {
            nodes: BTreeMap::from([(ROOT, Node::dir())]),
            next_node: ROOT + 1,
            pending: Vec::new(),
            aborted: false,
            life: 0,
            operations: 0,
            power_lost_at: None,
            faults: Vec::new(),
            holds: Vec::new(),
            next_hold: 0,
            capacity: None,
            syncs: 0,
            open_files: 0,
            losses: 0,
            losses_told: 0,
            observer: None,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

pub(super) fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn power_lost() -> io::Error {
    io::Error::other("the simulated machine is without power")
}

fn input_output() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
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
    /// The same disk in another world: nothing is open, nothing fails, nobody looks.
    pub(super) fn fork(&self) -> State {
        State {
            nodes: self.nodes.clone(),
            next_node: self.next_node,
            pending: self.pending.clone(),
            aborted: self.aborted,
            life: self.life + 1,
            capacity: self.capacity,
            #[cfg(feature = "planted-bugs")]
            planted: self.planted,
            ..State::default()
        }
    }

    /// Counts a change or sync, shows the disk as it is before it, and refuses it if the power is
    /// gone.
    fn count(&mut self, call: Call, path: &Path) -> io::Result<()> {
        self.check_power()?;
        if let Some(observer) = &self.observer {
            let operation = Operation {
                number: self.operations,
                call,
                path: path.to_owned(),
            };
            observer(&operation, SimDisk::of(self.fork()));
        }
        self.operations += 1;
        Ok(())
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        match self.power_lost_at {
            Some(at) if self.operations >= at => Err(power_lost()),
            _ => Ok(()),
        }
    }

    /// Fails if the call is to fail.
    pub(super) fn check_fault(&mut self, call: Call, path: &Path) -> io::Result<()> {
        match strike(&mut self.faults, call, path) {
            Some(fault) => Err(io::Error::from(&fault)),
            None => Ok(()),
        }
    }

    pub(super) fn names(&mut self, dir: u64) -> io::Result<&mut Names> {
        match self.nodes.get_mut(&dir) {
            Some(Node::Dir { current, .. }) => Ok(current),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    pub(super) fn is_dir(&self, node: u64) -> bool {
        matches!(self.nodes.get(&node), Some(Node::Dir { .. }))
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
        self.names(dir)?;
        Ok((dir, name))
    }

    pub(super) fn change_names(
        &mut self,
        call: Call,
        path: &Path,
        change: NameChange,
    ) -> io::Result<()> {
        self.count(call, path)?;
        self.check_fault(call, path)?;
        if self.aborted {
            return Err(input_output());
        }
        names::apply(&mut self.nodes, &change, false);
        self.pending.push(change);
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        call: Call,
        path: &Path,
        (dir, name): (u64, OsString),
        added: Node,
    ) -> io::Result<u64> {
        let node = self.next_node;
        self.next_node += 1;
        self.nodes.insert(node, added);
        self.change_names(call, path, NameChange::Link { dir, name, node })?;
        Ok(node)
    }

    /// Removes all that a directory holds, one by one, and then the directory.
    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        for (name, child) in self.names(node)?.clone() {
            let path = path.join(&name);
            if self.is_dir(child) {
                self.remove_dir(&path)?;
            } else {
                let change = NameChange::Unlink { dir: node, name };
                self.change_names(Call::Unlink, &path, change)?;
            }
        }
        let (dir, name) = self.find_parent(path)?;
        self.change_names(Call::Unlink, path, NameChange::Unlink { dir, name })
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

    pub(super) fn change_file(
        &mut self,
        handle: &SimFile,
        call: Call,
        change: Change,
    ) -> io::Result<()> {
        let before = self.file(handle)?.current.len() as u64;
        self.count(call, &handle.path)?;
        if let Some(fault) = strike(&mut self.faults, call, &handle.path) {
            if let Change::Write { offset, bytes } = change {
                let bytes = bytes.slice(..bytes.len() / 2);
                self.file_mut(handle.node)
                    .change(Change::Write { offset, bytes });
            }
            return Err(io::Error::from(&fault));
        }
        let growth = change.length_after(before).saturating_sub(before);
        if self.capacity.is_some() && growth > self.free() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // The power may go with this very operation; its effect is then as uncertain as any.
        self.file_mut(handle.node).change(change);
        Ok(())
    }

    /// A file that was looked for before, under the same lock.
    fn file_mut(&mut self, node: u64) -> &mut FileNode {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => file,
            _ => unreachable!("node {node} is no file"),
        }
    }

    pub(super) fn sync_file(&mut self, handle: &SimFile) -> io::Result<()> {
        self.file(handle)?;
        self.count(Call::Sync, &handle.path)?;
        self.syncs += 1;
        let struck = strike(&mut self.faults, Call::Sync, &handle.path);
        let file = self.file_mut(handle.node);
        match struck {
            None => {
                file.sync();
                Ok(())
            }
            Some(fault) => {
                file.fail_sync(fault.survival.map(Random).as_mut());
                self.losses += 1;
                Err(io::Error::from(&fault))
            }
        }
    }

    pub(super) fn start_write_back(&mut self, handle: &SimFile) -> io::Result<()> {
        self.file(handle)?;
        match strike(&mut self.faults, Call::WriteBack, &handle.path) {
            None => Ok(()),
            Some(fault) => {
                let file = self.file_mut(handle.node);
                file.fail_sync(fault.survival.map(Random).as_mut());
                self.losses += 1;
                Err(io::Error::from(&fault))
            }
        }
    }

    /// Syncs every file and every name. Of a failing one nothing or a part reaches the disk, as of
    /// a sync of each file; names do not.
    pub(super) fn sync_all(&mut self, path: &Path, life: u64) -> io::Result<()> {
        if life != self.life {
            return Err(power_lost());
        }
        self.count(Call::SyncAll, path)?;
        self.syncs += 1;
        let struck = strike(&mut self.faults, Call::SyncAll, path);
        let mut random = struck.as_ref().and_then(|fault| fault.survival.map(Random));
        for node in self.nodes.values_mut() {
            match node {
                Node::File(file) if struck.is_some() => file.fail_sync(random.as_mut()),
                Node::File(file) => file.sync(),
                Node::Dir { .. } => {}
            }
        }
        if let Some(fault) = struck {
            self.aborted = true;
            return Err(io::Error::from(&fault));
        }
        if self.aborted {
            return Err(input_output());
        }
        for change in std::mem::take(&mut self.pending) {
            names::apply(&mut self.nodes, &change, true);
        }
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.find(path)?;
        self.names(dir)?;
        self.count(Call::SyncDir, path)?;
        self.syncs += 1;
        if let Err(error) = self.check_fault(Call::SyncDir, path) {
            self.aborted = true;
            return Err(error);
        }
        if self.aborted {
            return Err(input_output());
        }
        let covered = names::covered_by_sync(&self.pending, dir);
        let pending = std::mem::take(&mut self.pending);
        for (change, covered) in pending.into_iter().zip(covered) {
            if covered {
                names::apply(&mut self.nodes, &change, true);
            } else {
                self.pending.push(change);
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, mut survival: Option<Random>) {
        let pending = std::mem::take(&mut self.pending);
        if let Some(random) = &mut survival {
            let kept = names::survivors(&pending, random);
            for (change, _) in pending.iter().zip(kept).filter(|(_, kept)| *kept) {
                names::apply(&mut self.nodes, change, true);
            }
        }
        for node in self.nodes.values_mut() {
            match node {
                Node::Dir { current, durable } => *current = durable.clone(),
                Node::File(file) => file.crash(survival.as_mut()),
            }
        }
        let reached = self.reachable();
        self.nodes.retain(|id, _| reached.contains(id));
        self.life += 1;
        self.open_files = 0;
        self.power_lost_at = None;
        self.aborted = false;
        self.losses = 0;
        self.losses_told = 0;
        self.faults.clear();
    }

    pub(super) fn evict_caches(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File(file) = node {
                file.evict();
            }
        }
    }

    pub(super) fn flip_bit(&mut self, path: &Path, bit: u64) -> io::Result<()> {
        let node = self.find(path)?;
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => file.flip_bit(bit),
            _ => return Err(io::ErrorKind::IsADirectory.into()),
        }
        Ok(())
    }

    /// Bytes that files may still grow by.
    pub(super) fn free(&self) -> u64 {
        let reached = self.reachable();
        let used: usize = reached
            .iter()
            .filter_map(|id| match self.nodes.get(id) {
                Some(Node::File(file)) => Some(file.current.len()),
                _ => None,
            })
            .sum();
        let capacity = self.capacity.unwrap_or(CAPACITY);
        capacity.saturating_sub(used as u64)
    }

    fn reachable(&self) -> BTreeSet<u64> {
        let mut reached = BTreeSet::from([ROOT]);
        let mut next = vec![ROOT];
        while let Some(id) = next.pop() {
            if let Some(Node::Dir { current, .. }) = self.nodes.get(&id) {
                next.extend(current.values().filter(|child| reached.insert(**child)));
            }
        }
        reached
    }
}
