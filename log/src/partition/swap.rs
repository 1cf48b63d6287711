//! A log's side of compaction: which of its segments may be compacted, and a compacted segment
//! taking the place of others. Rewriting them is `compaction/`'s.

use std::ops::Range;

use ottla_model::{Offset, TimestampMs};

use super::{PartitionLog, Physical, State};
use crate::entry::Op;
use crate::error::{IoContext as _, LogError};
use crate::segment::{Segment, SegmentIndex, SparseIndex, log_path};
use crate::shared::Done;
use crate::swap::Swap;
use crate::wal::WalPosition;

/// Sealed segments that may be compacted, as they were at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Cleanable {
    /// Oldest first, without their indexes. None holds anything from before the log's start alone.
    pub segments: Vec<Segment>,
    /// The offset behind the last of them.
    pub end: Offset,
    /// From here on, nothing was compacted yet.
    pub dirty_from: Offset,
    pub log_start: Offset,
    cuts: u64,
}

impl Cleanable {
    /// The offset behind the segment at `index`.
    pub fn end_of(&self, index: usize) -> Offset {
        self.segments
            .get(index + 1)
            .map_or(self.end, |next| next.base)
    }
}

impl PartitionLog {
    /// The segments that may be compacted: sealed, below `bound`, and without records younger than
    /// the settings allow; contained in the last checkpoint, unless `checkpointed` says that this
    /// does not matter.
    pub(crate) fn cleanable(
        &self,
        now: TimestampMs,
        bound: Offset,
        checkpointed: bool,
    ) -> Result<Option<Cleanable>, LogError> {
        let state = self.lock_present()?;
        let Some(settings) = state.settings.compaction else {
            return Ok(None);
        };
        if state.pending_cuts > 0 {
            return Ok(None);
        }
        // Without a lag, records dated in the future are no reason to wait.
        let younger_than = match settings.min_lag_ms {
            0 => i64::MAX,
            lag => now.0.saturating_sub(lag),
        };
        let below = match checkpointed {
            true => state.checkpointed,
            false => Offset(i64::MAX),
        };
        let range = cleanable_range(&state, younger_than, bound, below);
        let physical = &state.physical;
        let found = Cleanable {
            segments: physical.outline().segments[range.clone()].to_vec(),
            end: match range.end.checked_sub(1) {
                Some(last) => physical.end_of(last),
                None => state.log_start,
            },
            dirty_from: physical.cleaned_to.max(state.log_start),
            log_start: state.log_start,
            cuts: state.cuts,
        };
        Ok((!found.segments.is_empty()).then_some(found))
    }

    /// Puts the swap in the journal, if nothing that it rests on has changed since; the log's cuts
    /// and its start would be undone by it. The compacted file must be durable.
    pub(crate) fn begin_swap(
        &self,
        seen: &Cleanable,
        swap: Swap,
        index: SparseIndex,
        done: Done,
    ) -> Result<bool, LogError> {
        let state = self.lock_present()?;
        if !is_unchanged(&state, seen) || swap.range(&state.physical.segments).is_none() {
            return Ok(false);
        }
        self.enqueue(Op::Swap { swap, index }, Some(done))?;
        Ok(true)
    }

    /// Notes that everything below `to` was compacted. The next checkpoint makes it durable; until
    /// then a crash only costs another pass.
    pub(crate) fn note_cleaned(&self, seen: &Cleanable, to: Offset) {
        let mut state = self.lock();
        if is_unchanged(&state, seen) {
            state.physical.cleaned_to = state.physical.cleaned_to.max(to);
        }
    }

    /// Names compacted files: no other swap of this log that the journal knows has this number.
    pub(crate) fn swap_token(&self) -> u64 {
        self.lock().physical.applied.0
    }

    /// A compacted segment takes the place of others.
    pub(crate) fn apply_swap(
        &self,
        swap: &Swap,
        index: &SparseIndex,
        applied: WalPosition,
    ) -> Result<(), LogError> {
        let compacting = &self.shared.dirs.compacting;
        let source = compacting.join(swap.file_name(self.id));
        let target = log_path(&self.dir, swap.base());
        self.discard_indexes(swap.base())?;
        // What was saved below its end is to be gone on from with batches that are not there now.
        self.keep_saved_producers(swap.end, Offset(i64::MAX))?;
        let gone = {
            // Readers are told of the new segment and find the new file at the same moment.
            let mut state = self.lock();
            let range = swap.range(&state.physical.segments);
            assert!(
                range.is_some(),
                "{}: segments to be replaced from {} to {} are gone",
                self.id,
                swap.base(),
                swap.end
            );
            let renamed = self.shared.disk.rename(&source, &target);
            renamed.or_log("rename", &source)?;
            self.shared.mark_dir(compacting);
            self.shared.mark_dir(&self.dir);
            let physical = &mut state.physical;
            let new = swap.segment(self.shared.next_number());
            let gone: Vec<Segment> = match range {
                Some(range) => physical.segments.splice(range, [new]).collect(),
                None => Vec::new(),
            };
            physical.generation += 1;
            physical.applied = applied;
            // What was removed is not to be seen in memory any longer either.
            let (bytes, _) = state.evict(swap.end, u64::MAX);
            self.uncache(bytes);
            gone
        };
        index.save(&*self.shared.disk, &self.dir)?;
        for segment in &gone {
            self.shared.handles.forget(segment.serial);
            if segment.base != swap.base() {
                self.shared.discard(&log_path(&self.dir, segment.base))?;
                self.discard_indexes(segment.base)?;
            }
        }
        Ok(())
    }

    /// A checkpoint was made of the log as it was then. What it saw sealed it vouches for whole, as
    /// long as nothing was taken away since.
    pub(crate) fn was_checkpointed(&self, outline: &Physical) {
        let mut state = self.lock();
        if state.physical.generation == outline.generation
            && let Some(active) = outline.segments.last()
        {
            state.checkpointed = active.base;
        }
    }
}

fn is_unchanged(state: &State, seen: &Cleanable) -> bool {
    state.pending_cuts == 0 && state.cuts == seen.cuts && state.log_start == seen.log_start
}

fn cleanable_range(state: &State, younger_than: i64, bound: Offset, below: Offset) -> Range<usize> {
    let physical = &state.physical;
    let count = physical.segments.len();
    // What lies below the log's start goes without being compacted.
    let first = (0..count).find(|index| physical.end_of(*index) > state.log_start);
    let first = first.unwrap_or(count);
    let behind = (first..count)
        .find(|index| {
            let segment = &physical.segments[*index];
            let is_sealed = *index + 1 < count && matches!(segment.index, SegmentIndex::Files);
            !is_sealed
                || segment.base >= below
                || physical.end_of(*index) > bound
                || segment.max_timestamp.0 > younger_than
        })
        .unwrap_or(count);
    first..behind
}
