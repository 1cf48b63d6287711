//! What a log keeps for its owner about its idempotent producers, so that the next start need not
//! read all batches' headers: a few bytes that say what the batches below an offset come to, in a
//! file beside the segments. What they mean is the owner's business.
//!
//! Such a file can always be done without, so it is not synced, and one that is damaged or missing
//! is no loss. But one that speaks of batches that were cut would be believed. So it goes before
//! the cut counts as carried out; what a crash brings back goes again when the journal repeats the
//! cut.
//!
//! Big endian: magic, version, topic id, partition, offset, leader epoch of what lies before it,
//! bytes; then the bytes, and CRC-32C of all.

use std::io::IoSlice;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};
use ottla_model::checksum::crc32c;
use ottla_model::{LeaderEpoch, Offset, TopicIdPartition};

use super::PartitionLog;
use crate::disk::OpenMode;
use crate::error::{IoContext as _, LogError};
use crate::planted::{self, Bug};

const MAGIC: u32 = 0x4f54_5053;
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 44;
/// Where the leader epoch stands.
const EPOCH_AT: usize = 36;
const CRC_BYTES: usize = 4;
/// The newest, and the one before in case that the newest is damaged.
const KEPT: usize = 2;
/// A larger file is nothing that was saved.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
const TEMPORARY: &str = "producers.tmp";

/// A log as it is at one moment. Its owner's view of the producers is of the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMoment {
    /// The log's end.
    pub end: Offset,
    cuts: u64,
    epoch: LeaderEpoch,
    appended_bytes: u64,
}

/// What was saved of the producers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedProducers {
    /// It says what all batches below come to.
    pub upto: Offset,
    pub state: Bytes,
}

fn saved_path(dir: &Path, upto: Offset) -> PathBuf {
    dir.join(format!("{upto:020}.producers"))
}

fn offset_of(name: &std::ffi::OsStr) -> Option<Offset> {
    let digits = name.to_str()?.strip_suffix(".producers")?;
    digits.parse().ok().map(Offset)
}

fn encode(id: TopicIdPartition, upto: Offset, epoch: LeaderEpoch, state: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + state.len() + CRC_BYTES);
    out.extend(MAGIC.to_be_bytes());
    out.extend(VERSION.to_be_bytes());
    out.extend(id.topic.as_bytes());
    out.extend(id.partition.0.to_be_bytes());
    out.extend(upto.0.to_be_bytes());
    out.extend(epoch.0.to_be_bytes());
    out.extend((state.len() as u32).to_be_bytes());
    out.extend(state);
    let crc = crc32c(&out);
    out.extend(crc.to_be_bytes());
    out
}

impl PartitionLog {
    /// The log as it is now.
    pub fn moment(&self) -> LogMoment {
        let state = self.lock();
        LogMoment {
            end: state.log_end,
            cuts: state.cuts,
            epoch: state.epochs.at(Offset(state.log_end.0 - 1)),
            appended_bytes: state.appended_bytes,
        }
    }

    /// Keeps what is known of the producers by the batches up to a moment's end, over restarts, as
    /// long as these batches are in the log and were not compacted. Returns whether it is kept: not
    /// if the log is empty, was cut since, or is gone. Blocks.
    ///
    /// # Errors
    /// The file could not be written; nothing is lost by it.
    pub fn save_producers(&self, moment: LogMoment, state: &[u8]) -> Result<bool, LogError> {
        let disk = &*self.shared.impatient_disk;
        let mut saved = self.saved_producers.lock();
        if !self.may_save(moment) {
            return Ok(false);
        }
        if saved.contains(&moment.end) {
            self.lock().saved_at = Some(moment.appended_bytes);
            return Ok(true);
        }
        let temporary = self.dir.join(TEMPORARY);
        let bytes = encode(self.id, moment.end, moment.epoch, state);
        let mode = self.recycle_oldest(&mut saved, &temporary)?;
        let file = disk.open(&temporary, mode).or_log("create", &temporary)?;
        let written = file.write_at(&[IoSlice::new(&bytes)], 0);
        written.or_log("write", &temporary)?;
        let cut = file.set_len(bytes.len() as u64);
        cut.or_log("write", &temporary)?;
        // A cut from now on waits at `saved` before it is carried out, and then takes the file
        // away.
        if !self.may_save(moment) {
            disk.unlink(&temporary).or_log("remove", &temporary)?;
            return Ok(false);
        }
        let path = saved_path(&self.dir, moment.end);
        disk.rename(&temporary, &path)
            .or_log("rename", &temporary)?;
        self.lock().saved_at = Some(moment.appended_bytes);
        saved.retain(|upto| *upto < moment.end);
        saved.push(moment.end);
        Ok(true)
    }

    /// Makes the oldest of enough files the temporary one, to be written over: with many logs that
    /// grow, creating and removing files costs the file system more than all else that is written.
    /// The name that a crash may bring back does not say what then stands in the file, so it is not
    /// used.
    fn recycle_oldest(
        &self,
        saved: &mut Vec<Offset>,
        temporary: &Path,
    ) -> Result<OpenMode, LogError> {
        while saved.len() > KEPT {
            self.unlink_saved(saved[0])?;
            saved.remove(0);
        }
        if saved.len() < KEPT {
            return Ok(OpenMode::CreateEmpty);
        }
        let oldest = saved_path(&self.dir, saved[0]);
        let mode = match self.shared.impatient_disk.rename(&oldest, temporary) {
            Ok(()) => OpenMode::Existing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => OpenMode::CreateEmpty,
            Err(error) => return Err(error).or_log("rename", &oldest),
        };
        saved.remove(0);
        Ok(mode)
    }

    fn may_save(&self, moment: LogMoment) -> bool {
        let state = self.lock();
        let is_there = !state.gone && state.physical.dir_exists;
        // A cut that is on its way would take it away again.
        let is_uncut = state.cuts == moment.cuts && state.pending_cuts == 0;
        is_there && is_uncut && state.log_start < moment.end
    }

    /// The newest that was saved and still holds. What is damaged is removed. Blocks.
    pub fn saved_producers(&self) -> Option<SavedProducers> {
        let mut saved = self.saved_producers.lock();
        for upto in saved.clone().into_iter().rev() {
            let (epochs, holds) = {
                let state = self.lock();
                // What lies above a cut that is on its way is about to go.
                let end = state.log_end.min(state.lowest_cut);
                let holds = state.log_start <= upto && upto <= end;
                let before = state.epochs.at(Offset(upto.0 - 1));
                // Where the log begins, the epoch before it is forgotten, but not the one there.
                let epochs = match state.log_start < upto {
                    true => before..=before,
                    false => LeaderEpoch::NONE..=state.epochs.at(upto),
                };
                (epochs, holds)
            };
            if !holds {
                continue;
            }
            match self.read_saved(upto, epochs) {
                Ok(Some(state)) => return Some(SavedProducers { upto, state }),
                Ok(None) => {
                    tracing::warn!(id = %self.id, %upto, "what was saved of the producers is not whole or not of this log; it is not used");
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(id = %self.id, %upto, %error, "what was saved of the producers cannot be read; it is not used");
                }
            }
            saved.retain(|other| *other != upto);
            // It may come back with the next start, which then finds it as useless.
            drop(self.remove_saved(upto));
        }
        None
    }

    /// Whether what is known of the producers now is saved, or there is nothing to be known.
    pub fn has_saved_producers(&self) -> bool {
        let end = self.log_end();
        self.saved_producers.lock().contains(&end) || end == self.log_start()
    }

    /// Whether saving what is known of the producers now would spare the next start much: much was
    /// appended since that was done or the log was empty, or perhaps, before the store was opened.
    pub fn saved_producers_lag(&self) -> bool {
        let behind = {
            let state = self.lock();
            let saved_at = state.saved_at;
            saved_at
                .is_none_or(|at| state.appended_bytes - at >= self.shared.config.saved_lag_bytes)
        };
        behind && !self.has_saved_producers()
    }

    /// Whether what was saved up to an offset still holds, so that what was read after it and the
    /// log's batches behind it belong together.
    pub fn holds_saved_producers(&self, saved: &SavedProducers) -> bool {
        self.saved_producers.lock().contains(&saved.upto)
    }

    fn read_saved(
        &self,
        upto: Offset,
        epochs: RangeInclusive<LeaderEpoch>,
    ) -> Result<Option<Bytes>, LogError> {
        let path = saved_path(&self.dir, upto);
        let file = self.shared.impatient_disk.open(&path, OpenMode::Existing);
        let file = file.or_log("open", &path)?;
        let size = file.size().or_log("measure", &path)?;
        if size > FILE_BYTES_MAX || size < (HEADER_BYTES + CRC_BYTES) as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; size as usize];
        let read = file.read_at(&mut bytes, 0).or_log("read", &path)?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        let state = bytes.slice(HEADER_BYTES..size as usize - CRC_BYTES);
        let epoch = LeaderEpoch(bytes.slice(EPOCH_AT..).get_i32());
        let is_whole = encode(self.id, upto, epoch, &state) == bytes;
        Ok((is_whole && epochs.contains(&epoch)).then_some(state))
    }

    /// Removes what was saved above `to`, or below `from`, before a change is carried out that
    /// takes away or rewrites what it speaks of.
    pub(super) fn keep_saved_producers(&self, from: Offset, to: Offset) -> Result<(), LogError> {
        if planted::in_disk(&*self.shared.disk, Bug::ProducersOutliveACut) {
            return Ok(());
        }
        let mut saved = self.saved_producers.lock();
        let kept = |upto: &Offset| from <= *upto && *upto <= to;
        for upto in saved.iter().filter(|upto| !kept(upto)) {
            self.remove_saved(*upto)?;
        }
        saved.retain(kept);
        Ok(())
    }

    /// The next checkpoint makes it durable.
    fn remove_saved(&self, upto: Offset) -> Result<(), LogError> {
        self.unlink_saved(upto)?;
        self.shared.mark_dir(&self.dir);
        Ok(())
    }

    fn unlink_saved(&self, upto: Offset) -> Result<(), LogError> {
        let path = saved_path(&self.dir, upto);
        match self.shared.disk.unlink(&path).or_log("remove", &path) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Finds what was saved in an earlier life, and removes, durably, what does not lie between
    /// these offsets: once the log goes on, nobody could tell that it is of another log.
    pub(crate) fn find_saved_producers(&self, from: Offset, to: Offset) -> Result<(), LogError> {
        let disk = &*self.shared.disk;
        let entries = match disk.list(&self.dir).or_log("list", &self.dir) {
            Ok(entries) => entries,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut saved = self.saved_producers.lock();
        saved.extend(entries.iter().filter_map(|entry| offset_of(&entry.name)));
        saved.sort_unstable();
        drop(saved);
        let found = self.saved_producers.lock().len();
        self.keep_saved_producers(from, to)?;
        if self.saved_producers.lock().len() < found {
            disk.sync_dir(&self.dir).or_log("sync", &self.dir)?;
        }
        Ok(())
    }
}
