//! The index files of the segment that is written to: complete when the segment is sealed, and
//! until then brought up to date from time to time, so that the next start need not go from header
//! to header over all of it.
//!
//! They are not synced. What a crash leaves of them is a beginning of what they were to be, which
//! holds as long as the segment was not cut; a cut takes the files away, and a start that finds the
//! cut in the journal takes them away again.

use super::PartitionLog;
use super::read::{Place, place};
use crate::disk::OpenMode;
use crate::error::{LogError, ReadError};
use crate::segment::{Segment, SegmentIndex, SparseIndex, index_path, log_path, time_index_path};
use ottla_model::Offset;

impl PartitionLog {
    /// Adds to the active segment's index files what they lack, if that is much. Blocks.
    ///
    /// # Errors
    /// A file could not be read or written; nothing is lost by it.
    pub(crate) fn save_index_progress(&self) -> Result<(), LogError> {
        if !self.index_files_lag() {
            return Ok(());
        }
        self.know_active_index()?;
        let files = self.index_files.lock();
        let (serial, base, unsaved, bytes) = {
            let state = self.lock();
            let Some(active) = state.physical.segments.last().filter(|_| !state.gone) else {
                return Ok(());
            };
            let SegmentIndex::Memory(index) = &active.index else {
                return Ok(());
            };
            (active.serial, active.base, index.unsaved(), active.bytes)
        };
        let written = unsaved.write(&*self.shared.impatient_disk, &self.dir, base);
        let mut state = self.lock();
        if let Some(active) = state.physical.segments.last_mut()
            && active.serial == serial
            && let SegmentIndex::Memory(index) = &mut active.index
        {
            // After a failure they are written anew.
            index.note_saved(unsaved.saved(written.is_ok()));
            active.indexed_bytes = bytes;
        }
        drop(state);
        drop(files);
        match written {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn index_files_lag(&self) -> bool {
        let state = self.lock();
        let active = state.physical.segments.last().filter(|_| !state.gone);
        let lag_max = self.shared.config.saved_lag_bytes;
        active.is_some_and(|active| active.bytes - active.indexed_bytes >= lag_max)
    }

    /// Builds the active segment's index if that has not been done since the start.
    fn know_active_index(&self) -> Result<(), LogError> {
        let place = {
            let state = self.lock();
            match state.physical.segments.last() {
                Some(active) if matches!(active.index, SegmentIndex::Unknown) => {
                    let last = state.physical.segments.len() - 1;
                    place(&state, last, active.base, Offset(i64::MAX))
                }
                _ => return Ok(()),
            }
        };
        let built = self
            .open_place(&place)
            .and_then(|(file, _)| self.index(&*file, &place));
        match built {
            // Damage is the reader's to report; the index can wait.
            Ok(_) | Err(ReadError::Damaged { .. }) => Ok(()),
            Err(source) => Err(self.unreadable(source)),
        }
    }

    /// Writes the whole index of a segment.
    pub(super) fn save_index(&self, segment: &Segment) -> Result<(), LogError> {
        let _files = self.index_files.lock();
        let disk = &*self.shared.disk;
        match &segment.index {
            SegmentIndex::Memory(index) => index.save(disk, &self.dir),
            SegmentIndex::Files => Ok(()),
            SegmentIndex::Unknown => {
                let path = log_path(&self.dir, segment.base);
                let handles = &self.shared.handles;
                let file = handles.file(segment.serial, &path, OpenMode::Existing)?;
                let built =
                    SparseIndex::build(disk, &self.dir, segment.base, &*file, segment.bytes);
                match built {
                    Ok((index, _)) => index.save(disk, &self.dir),
                    // Damage is the reader's to report; the index can wait.
                    Err(ReadError::Damaged { .. }) => Ok(()),
                    Err(source) => Err(self.unreadable(source)),
                }
            }
        }
    }

    /// Writes the active segment's index, so that the next start need not build it.
    pub(crate) fn save_active_index(&self) -> Result<(), LogError> {
        let active = self.lock().physical.segments.last().cloned();
        match active {
            Some(segment) if matches!(segment.index, SegmentIndex::Memory(_)) => {
                self.save_index(&segment)
            }
            _ => Ok(()),
        }
    }

    /// Puts what the segment itself says in the place of files that were wrong.
    pub(super) fn replace_index_files(&self, place: &Place, index: &SparseIndex) {
        let _files = self.index_files.lock();
        // Compaction or a cut may have given the name to another segment.
        if !matches!(self.is_current(place), Ok(true)) {
            return;
        }
        if let Err(error) = index.save(&*self.shared.impatient_disk, &self.dir) {
            tracing::warn!(id = %self.id(), %error, "an index could not be saved");
        }
    }

    /// Takes a segment's index files away.
    pub(super) fn discard_indexes(&self, base: Offset) -> Result<(), LogError> {
        let _files = self.index_files.lock();
        self.shared.discard(&index_path(&self.dir, base))?;
        self.shared.discard(&time_index_path(&self.dir, base))
    }
}
