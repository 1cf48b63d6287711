//! What the journal says about each log since the checkpoint, summed up before any file is
//! touched: how much of what the checkpoint vouches for is still wanted, and what comes behind it.
//! So a batch that was cut is never written, and a log that was deleted never read.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_model::{Offset, TopicIdPartition};

use crate::checkpoint::Checkpoint;
use crate::entry::Entry;
use crate::partition::Physical;
use crate::segment::{BatchMeta, split_batches};
use crate::swap::Swap;
use crate::wal::WalPosition;

/// One life of a log, from its creation to its end or to now.
#[derive(Debug)]
pub(crate) struct Folded {
    /// What the checkpoint vouches for; `None` if nothing of it is wanted any more.
    pub kept: Option<Physical>,
    /// Of that, everything at and above is not wanted.
    pub keep_end: Offset,
    /// The lowest offset that the log was cut at.
    pub cut_to: Option<Offset>,
    pub log_start: Offset,
    pub log_end: Offset,
    /// Batches behind what is kept.
    pub appends: Vec<(Bytes, Vec<BatchMeta>)>,
    /// Compacted segments that take the place of kept ones, in order; done already or not.
    pub swaps: Vec<Swap>,
    pub applied: WalPosition,
    /// Whether the journal says anything that the checkpoint does not contain.
    pub changed: bool,
    /// The files may still hold what the log held before it was cut or began anew.
    pub has_past: bool,
    /// The log was set aside, and is kept at this path below the store's directory.
    pub set_aside: Option<String>,
    /// The journal contradicts itself or the checkpoint.
    pub damage: Option<String>,
}

impl Folded {
    fn empty(at: Offset, applied: WalPosition) -> Folded {
        Folded {
            kept: None,
            keep_end: at,
            cut_to: None,
            log_start: at,
            log_end: at,
            appends: Vec::new(),
            swaps: Vec::new(),
            applied,
            changed: true,
            has_past: false,
            set_aside: None,
            damage: None,
        }
    }

    fn from_checkpoint(physical: Physical) -> Folded {
        Folded {
            keep_end: physical.end,
            cut_to: None,
            log_start: physical.log_start,
            log_end: physical.end,
            applied: physical.applied,
            kept: Some(physical),
            appends: Vec::new(),
            swaps: Vec::new(),
            changed: false,
            has_past: false,
            set_aside: None,
            damage: None,
        }
    }

    fn append(&mut self, bytes: &Bytes) {
        if self.damage.is_some() {
            return;
        }
        let metas = match split_batches(bytes) {
            Ok(metas) => metas,
            Err((at, error)) => {
                self.damage = Some(format!("the journal's batch at offset {at}: {error}"));
                return;
            }
        };
        // A checkpoint may contain a part of what one entry wrote, or of several that were
        // written together.
        let contained: usize = metas
            .iter()
            .take_while(|meta| meta.next <= self.log_end)
            .map(|meta| meta.size)
            .sum();
        let rest: Vec<_> = metas
            .into_iter()
            .skip_while(|meta| meta.next <= self.log_end)
            .collect();
        let (Some(first), Some(last)) = (rest.first(), rest.last()) else {
            return;
        };
        // A replica's batches may leave offsets out that compaction removed elsewhere.
        if first.base < self.log_end {
            self.damage = Some(format!(
                "the journal goes on at offset {}, but the log ends at {}",
                first.base, self.log_end
            ));
            return;
        }
        self.log_end = last.next;
        self.appends.push((bytes.slice(contained..), rest));
    }

    fn truncate(&mut self, to: Offset) {
        self.has_past = true;
        self.keep_end = self.keep_end.min(to);
        self.cut_to = Some(self.cut_to.map_or(to, |cut| cut.min(to)));
        self.log_end = self.log_end.min(to);
        while let Some((bytes, mut metas)) = self.appends.pop() {
            metas.retain(|meta| meta.base < to);
            if metas.is_empty() {
                continue;
            }
            let left: usize = metas.iter().map(|meta| meta.size).sum();
            self.appends.push((bytes.slice(..left), metas));
            break;
        }
    }

    /// The checkpoint vouches for whatever compaction replaces.
    fn swap(&mut self, swap: Swap) {
        if self.damage.is_some() {
            return;
        }
        let keep_end = self.keep_end;
        let found = self.kept.as_mut().and_then(|kept| {
            let range = swap.range(&kept.segments)?;
            (swap.end <= keep_end).then_some((kept, range))
        });
        let Some((kept, range)) = found else {
            self.damage = Some(format!(
                "the journal replaces segments from offset {} to {}, which the checkpoint does not have",
                swap.base(),
                swap.end
            ));
            return;
        };
        let serial = kept.segments[range.start].serial;
        kept.segments.splice(range, [swap.segment(serial)]);
        self.swaps.push(swap);
    }

    /// Everything before is forgotten, damage too.
    fn restart(&mut self, at: Offset) {
        *self = Folded::empty(at, self.applied);
        self.has_past = true;
    }
}

/// All logs.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    /// Entries before it are contained in everything.
    from: WalPosition,
    pub logs: BTreeMap<TopicIdPartition, Folded>,
    /// Logs that have ended, whose directories may still be there. In order.
    pub ended: Vec<(TopicIdPartition, Folded)>,
}

impl Fold {
    pub fn new(checkpoint: Checkpoint) -> Fold {
        let logs = checkpoint.logs.into_iter();
        Fold {
            from: checkpoint.position,
            logs: logs
                .map(|(id, physical)| (id, Folded::from_checkpoint(physical)))
                .collect(),
            ended: Vec::new(),
        }
    }

    /// From where on the journal is needed.
    pub fn needed_from(&self) -> WalPosition {
        self.from
    }

    /// Takes in the entry that ends before `behind`.
    pub fn replay(&mut self, id: TopicIdPartition, entry: Entry, behind: WalPosition) {
        if behind <= self.from {
            return;
        }
        if entry == Entry::Create {
            let mut folded = Folded::empty(Offset::ZERO, behind);
            folded.has_past = self.ended.iter().any(|(ended, _)| *ended == id);
            self.logs.entry(id).or_insert(folded);
            return;
        }
        // A log that neither the checkpoint nor the journal has begun ended before the checkpoint
        // was written, and what stands here led to that end.
        let Some(folded) = self.logs.get_mut(&id) else {
            return;
        };
        if behind <= folded.applied {
            return;
        }
        folded.applied = behind;
        folded.changed = true;
        match entry {
            Entry::Create => {}
            Entry::Append(bytes) => folded.append(&bytes),
            Entry::Truncate(to) => folded.truncate(to),
            Entry::Restart(at) => folded.restart(at),
            Entry::LogStart(to) => folded.log_start = folded.log_start.max(to),
            Entry::Swap(swap) => folded.swap(swap),
            Entry::Skip(to) => folded.log_end = folded.log_end.max(to),
            Entry::Delete => self.end(id, None),
            Entry::SetAside(name) => self.end(id, Some(name)),
        }
    }

    fn end(&mut self, id: TopicIdPartition, set_aside: Option<String>) {
        if let Some(mut folded) = self.logs.remove(&id) {
            folded.set_aside = set_aside;
            self.ended.push((id, folded));
        }
    }
}
