//! One file of a simulated disk: what is read now, what is durable, and the changes between them;
//! and what of those a crash may leave.

use std::sync::Arc;

use bytes::Bytes;

use super::random::Random;

/// What the disk writes whole or not at all.
const SECTOR: usize = 512;

/// A change of a file's bytes or length.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { offset: u64, bytes: Bytes },
    SetLen(u64),
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Change::SetLen(len) => contents.resize(*len as usize, 0),
            // As with the operating system, writing nothing lengthens nothing.
            Change::Write { bytes, .. } if bytes.is_empty() => {}
            Change::Write { offset, bytes } => {
                let start = *offset as usize;
                let end = start + bytes.len();
                if contents.len() < end {
                    contents.resize(end, 0);
                }
                contents[start..end].copy_from_slice(bytes);
            }
        }
    }

    /// The length of a file of `len` bytes after this.
    pub(super) fn length_after(&self, len: u64) -> u64 {
        match self {
            Change::SetLen(len) => *len,
            Change::Write { bytes, .. } if bytes.is_empty() => len,
            Change::Write { offset, bytes } => len.max(offset + bytes.len() as u64),
        }
    }
}

/// Contents are shared with the disk's forks until one of them changes them.
#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    pub(super) current: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    pending: Vec<Change>,
}

impl FileNode {
    pub(super) fn change(&mut self, change: Change) {
        change.apply(Arc::make_mut(&mut self.current));
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(Arc::make_mut(&mut self.durable));
        }
    }

    /// A sync failed: what it covered is lost, or has reached the disk in part, and no later sync
    /// makes up for it. It can still be read, until the cache lets go of it.
    pub(super) fn fail_sync(&mut self, survival: Option<&mut Random>) {
        let pending = std::mem::take(&mut self.pending);
        if let Some(random) = survival {
            self.durable = Arc::new(survivors(&self.durable, &pending, random));
        }
    }

    /// The cache lets go of what it holds of the disk; what waits to be written stays.
    pub(super) fn evict(&mut self) {
        let mut bytes = (*self.durable).clone();
        for change in &self.pending {
            change.apply(&mut bytes);
        }
        self.current = Arc::new(bytes);
    }

    pub(super) fn crash(&mut self, survival: Option<&mut Random>) {
        self.fail_sync(survival);
        self.current = self.durable.clone();
    }

    pub(super) fn flip_bit(&mut self, bit: u64) {
        let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        for contents in [&mut self.current, &mut self.durable] {
            if let Some(byte) = Arc::make_mut(contents).get_mut(byte) {
                *byte ^= mask;
            }
        }
    }
}

/// What a crash may leave of changes that no sync has covered: nothing, everything, the first few
/// with the next one torn, or each sector as some of them left it.
///
/// Within a sector changes keep their order, because a sector is written as it stands in memory.
/// The length is kept apart from the sectors. A sector that was cut off does not come back once
/// the shorter length is durable.
fn survivors(durable: &[u8], pending: &[Change], random: &mut Random) -> Vec<u8> {
    let count = pending.len();
    let (least, most) = match random.below(4) {
        0 => (0, 0),
        1 => (count, count),
        2 => {
            let torn = random.below(count + 1);
            (torn, (torn + 1).min(count))
        }
        _ => (0, count),
    };
    if most == 0 {
        return durable.to_vec();
    }
    let lengths: Vec<usize> = std::iter::once(durable.len())
        .chain(pending.iter().scan(durable.len() as u64, |len, change| {
            *len = change.length_after(*len);
            Some(*len as usize)
        }))
        .collect();
    let length_at = random.between(least, most);
    let shrinks_into = |at: usize, end: usize| lengths[at] < lengths[at - 1] && lengths[at] < end;
    let mut chosen: Vec<Vec<usize>> = vec![Vec::new(); count + 1];
    for sector in 0..lengths[length_at].div_ceil(SECTOR) {
        let end = (sector + 1) * SECTOR;
        let cut = (1..=length_at).rev().find(|at| shrinks_into(*at, end));
        let kept = (length_at + 1..=count).find(|at| shrinks_into(*at, end));
        let from = least.max(cut.unwrap_or(0));
        let to = most.min(kept.map_or(count, |at| at - 1));
        chosen[random.between(from, to)].push(sector);
    }
    let mut state = durable.to_vec();
    let mut left = vec![0; lengths[length_at]];
    for (done, sectors) in chosen.iter().enumerate() {
        if let Some(change) = done.checked_sub(1).and_then(|index| pending.get(index)) {
            change.apply(&mut state);
        }
        for sector in sectors {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(left.len()).min(state.len());
            if start < end {
                left[start..end].copy_from_slice(&state[start..end]);
            }
        }
    }
    left
}
