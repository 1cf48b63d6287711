//! Where a log is cut. Never within a batch, and never behind offsets without records: a start that
//! finishes a cut must know from the offsets alone which batch is the last, because behind it a
//! crash may have left parts of what was written later.

use std::ops::ControlFlow;

use ottla_model::Offset;
use ottla_model::batch::BatchHeader;

use super::PartitionLog;
use crate::error::ReadError;

/// What a cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Where the last batch ends.
    pub batches_end: Offset,
    /// Where the log goes on: there, or later without records in between.
    pub log_end: Offset,
    /// How often the log had been cut when this was found.
    pub seen: u64,
}

impl PartitionLog {
    /// The cut that removes everything at and above `to`, and the whole batch that holds it. Reads
    /// from disk what is not in memory.
    pub(super) fn find_cut(&self, to: Offset) -> Result<Cut, ReadError> {
        let (log_start, log_end, seen) = {
            let state = self.lock();
            (state.log_start, state.log_end, state.cuts)
        };
        let mut cut = Cut {
            batches_end: to,
            log_end: to,
            seen,
        };
        if to <= log_start || to >= log_end {
            return Ok(cut);
        }
        if let Some(header) = self.at_or_behind(to)? {
            let base = header.base_offset;
            if base < to && header.is_filler() {
                // It is there again up to the cut.
                cut.batches_end = base;
                return Ok(cut);
            }
            cut.log_end = base.min(to);
        }
        cut.batches_end = cut.log_end;
        if cut.log_end > log_start {
            cut.batches_end = self.batches_end(cut.log_end)?;
        }
        Ok(cut)
    }

    /// Where the last batch ends that begins before `offset`, which is not within a batch.
    fn batches_end(&self, offset: Offset) -> Result<Offset, ReadError> {
        // Almost always there.
        let before = Offset(offset.0 - 1);
        if self
            .at_or_behind(before)?
            .is_some_and(|header| header.base_offset < offset)
        {
            return Ok(offset);
        }
        let (log_start, bases) = {
            let state = self.lock();
            let segments = &state.physical.segments;
            let bases: Vec<Offset> = segments.iter().map(|segment| segment.base).collect();
            (state.log_start, bases)
        };
        let below = bases.into_iter().filter(|base| *base < offset);
        for from in below.rev().chain([log_start]) {
            let mut end = None;
            self.visit_headers(from.max(log_start), &mut |header| {
                if header.base_offset >= offset {
                    return ControlFlow::Break(());
                }
                end = Some(header.next_offset());
                ControlFlow::Continue(())
            })?;
            if let Some(end) = end {
                return Ok(end);
            }
        }
        Ok(log_start)
    }

    /// The first batch that ends behind `offset`.
    fn at_or_behind(&self, offset: Offset) -> Result<Option<BatchHeader>, ReadError> {
        let mut found = None;
        self.visit_headers(offset, &mut |header| {
            found = Some(*header);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }
}
