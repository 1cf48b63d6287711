//! The names of a simulated disk: directories, and changes of names that no sync of their
//! directory has covered.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::file::FileNode;
use super::random::Random;

pub(super) type Names = BTreeMap<OsString, u64>;

#[derive(Debug, Clone)]
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

/// Which of the changes a sync of `dir` makes durable: its own, and whatever came before them in
/// directories that they touch too.
pub(super) fn covered_by_sync(pending: &[NameChange], dir: u64) -> Vec<bool> {
    let mut touched = BTreeSet::from([dir]);
    let mut covered = vec![false; pending.len()];
    for (index, change) in pending.iter().enumerate().rev() {
        let dirs = change.dirs();
        if dirs.iter().any(|dir| touched.contains(dir)) {
            covered[index] = true;
            touched.extend(dirs);
        }
    }
    covered
}

/// Which of the changes survive a crash: in each directory the first few, for a directory's
/// changes keep their order and different directories have none among them.
pub(super) fn survivors(pending: &[NameChange], random: &mut Random) -> Vec<bool> {
    let one_in = [1, usize::MAX, 3, 12][random.below(4)];
    let mut ended = BTreeSet::new();
    pending
        .iter()
        .map(|change| {
            let dirs = change.dirs();
            let ends = dirs.iter().any(|dir| ended.contains(dir)) || random.below(one_in) == 0;
            if ends {
                ended.extend(dirs);
            }
            !ends
        })
        .collect()
}

pub(super) fn apply(nodes: &mut BTreeMap<u64, Node>, change: &NameChange, to_durable: bool) {
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
