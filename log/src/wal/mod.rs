//! A write-ahead log: preallocated, recycled, checksummed files that are written one after the
//! other. The brokers' journal and the controllers' Raft log are both one.
//!
//! It has one owner and is synchronous. An append is durable after the next [`Wal::sync`]; a write
//! or sync that fails is final, because after it nobody can tell what is on disk. What frames mean,
//! and when they are no longer needed, is the owner's business.

mod block_writer;
mod files;
mod frame;
mod mark;
mod open;
mod spares;

use std::iter;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::{BLOCK_BYTES, Disk, DiskFile};
use crate::error::{IoContext as _, LogError};
use crate::planted::{self, Bug};
use block_writer::BlockWriter;
use frame::{FrameHeader, frame_bytes, padding};
use mark::Mark;
use spares::Spares;

/// A place in a write-ahead log, in bytes since its creation. Never falls, never repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WalPosition(pub u64);

/// What a write-ahead log is opened with.
#[derive(Debug, Clone, Copy)]
pub struct WalConfig {
    /// The size of one file, in bytes; made up to whole blocks of 4 KiB. Bounds the size of one
    /// payload. May differ from one start to the next.
    pub file_bytes: u64,
    /// How many files are kept at most to go on to: some that are no longer needed, to be written
    /// over, or one that was prepared ahead.
    pub spare_files: usize,
    /// Who prepares files ahead, once [`Wal::prepare_ahead`] was called.
    pub preparing: Preparing,
    /// Notes beside the log how far it is synced, so that a log that lost its end is told from one
    /// that a crash has torn. For one that is not filled again from others.
    pub notes_synced: bool,
    /// A random number that becomes the log's identity when it is created; ignored afterwards.
    pub id_if_new: u64,
}

/// When the files are prepared that a log goes on to, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparing {
    /// When one is needed, by whoever appends, who then waits for it.
    WhenNeeded,
    /// Before they are needed, by whoever syncs, behind the sync: in an order that can be repeated.
    AfterSync,
    /// Before they are needed, by a thread of their own.
    InBackground,
}

impl WalConfig {
    /// The usual sizes, with this identity for a new log.
    pub fn new(id_if_new: u64) -> WalConfig {
        WalConfig {
            file_bytes: 32 * 1024 * 1024,
            spare_files: 2,
            preparing: Preparing::InBackground,
            notes_synced: false,
            id_if_new,
        }
    }
}

/// A payload that was appended, as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFrame {
    pub position: WalPosition,
    pub payload: Bytes,
}

/// From where to where a log goes, and where in which file it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReach {
    pub positions: Range<WalPosition>,
    pub end_file: PathBuf,
    pub end_byte: u64,
}

impl WalReach {
    /// Where there is no log.
    pub(crate) fn none(dir: &Path) -> WalReach {
        WalReach {
            positions: WalPosition::default()..WalPosition::default(),
            end_file: dir.to_owned(),
            end_byte: 0,
        }
    }
}

#[derive(Debug)]
struct WalFile {
    /// Its name. Files are used in the order of their numbers.
    number: u64,
    /// The position of its first frame, once it is used.
    base: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    size: u64,
}

/// The log. See the module's text.
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: WalConfig,
    id: u64,
    /// Oldest first; the last one is written to. Never empty.
    files: Vec<WalFile>,
    spares: Spares,
    /// A file behind the current one was asked for.
    asked_for_next: bool,
    end: u64,
    synced: u64,
    last_crc: u32,
    writer: BlockWriter,
    mark: Mark,
    failed: Option<Arc<LogError>>,
}

impl Wal {
    /// The file that a log has from its beginning on.
    pub(crate) fn id_path(dir: &Path) -> PathBuf {
        files::id_path(dir)
    }

    /// Opens or creates the log in `dir` and returns the frames that are still there, in order.
    ///
    /// A torn tail is cut: bytes behind the last valid frame that no later sync can have covered.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if a frame that was synced is damaged or missing.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: WalConfig,
    ) -> Result<(Wal, Vec<WalFrame>), LogError> {
        let mut frames = Vec::new();
        let wal = Wal::open_visiting(disk, dir, config, &mut |frame| {
            frames.push(frame);
            Ok(())
        })?;
        Ok((wal, frames))
    }

    /// Like [`Wal::open`], but hands each frame to `visit`, reading one file at a time. The
    /// payload is a part of that file's bytes: who keeps it keeps them all.
    pub fn open_visiting(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: WalConfig,
        visit: &mut dyn FnMut(WalFrame) -> Result<(), LogError>,
    ) -> Result<Wal, LogError> {
        assert!(
            config.file_bytes >= 4096 && config.file_bytes <= u64::from(u32::MAX),
            "a file of {} bytes is no use",
            config.file_bytes
        );
        let file_bytes = config.file_bytes.next_multiple_of(BLOCK_BYTES as u64);
        let config = WalConfig {
            file_bytes,
            ..config
        };
        open::open(disk, dir, config, visit)
    }

    /// Reads the frames of the log in `dir` beside whoever has it open, and changes nothing.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] if a frame that was synced is damaged or missing; also, by and by, if
    /// one was written while this read.
    pub fn look(
        disk: &dyn Disk,
        dir: &Path,
        visit: &mut dyn FnMut(WalFrame) -> Result<(), LogError>,
    ) -> Result<WalReach, LogError> {
        open::look(disk, dir, visit)
    }

    /// From where to where the log goes now.
    pub fn reach(&self) -> WalReach {
        let last = &self.files[self.files.len() - 1];
        WalReach {
            positions: WalPosition(self.end - self.live_bytes())..WalPosition(self.end),
            end_file: last.path.clone(),
            end_byte: self.end.saturating_sub(last.base),
        }
    }

    /// From now on, files are prepared as the configuration says, on `disk`: the log's own, but for
    /// one that should fail, not wait, when there is no room. Then files are created when they are
    /// needed, and whoever appends waits.
    pub fn prepare_ahead(&mut self, disk: Arc<dyn Disk>) -> Result<(), LogError> {
        self.spares.prepared_ahead(disk, self.config.preparing)
    }

    /// The most bytes that one payload can have.
    pub fn payload_bytes_max(&self) -> u64 {
        self.config.file_bytes - frame::FRAME_HEADER_BYTES as u64 - frame::ALIGNMENT as u64
    }

    /// The place of the frame behind one at `position` with a payload of so many bytes.
    pub fn position_after(position: WalPosition, payload_bytes: usize) -> WalPosition {
        WalPosition(position.0 + frame_bytes(payload_bytes))
    }

    /// Appends each payload, given as parts, as one frame, with one write for each MiB as long as
    /// they fit in the current file. They are durable after the next [`Wal::sync`]. Returns the
    /// place of the first; the others follow without a gap.
    ///
    /// # Errors
    /// [`LogError::TooLarge`] changes nothing. Any other error is final.
    pub fn append(&mut self, payloads: &[&[Bytes]]) -> Result<WalPosition, LogError> {
        self.check_usable()?;
        let limit = self.payload_bytes_max();
        for payload in payloads {
            let bytes = payload_bytes(payload) as u64;
            if bytes > limit {
                return Err(LogError::TooLarge { bytes, limit });
            }
        }
        let first = WalPosition(self.end);
        let mut rest = payloads;
        while !rest.is_empty() {
            let fitting = self.count_fitting(rest);
            let done = if fitting == 0 {
                self.roll()
            } else {
                self.write(&rest[..fitting])
            };
            done.map_err(|error| self.fail(error))?;
            rest = &rest[fitting..];
        }
        Ok(first)
    }

    /// Makes everything appended so far durable. A failure is final.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_usable()?;
        if self.synced < self.end {
            let current = match planted::in_disk(&*self.disk, Bug::SyncOfTheWrongFile) {
                true => &self.files[0],
                false => self.current(),
            };
            let synced = current.file.sync_data().or_log("sync", &current.path);
            if !planted::in_disk(&*self.disk, Bug::IgnoredSyncError) {
                synced.map_err(|error| self.fail(error))?;
            }
            self.synced = self.end;
            self.mark.note(self.synced);
        }
        let prepared = self.spares.after_sync();
        prepared.map_err(|error| self.fail(error))
    }

    /// Says that frames before `before` are not needed any more. Files that hold only such frames
    /// become free to be written over; other frames before it may still be read at the next open.
    pub fn trim(&mut self, before: WalPosition) -> Result<(), LogError> {
        self.check_usable()?;
        // What is left must begin with a durable frame, which says where the log is.
        let unneeded = self.files[1..]
            .iter()
            .take_while(|file| file.base <= before.0 && file.base < self.synced)
            .count();
        if unneeded == 0 {
            return Ok(());
        }
        let retired = self.spares.retire(self.files.drain(..unneeded));
        retired.map_err(|error| self.fail(error))
    }

    /// The place that the next frame will have.
    pub fn end(&self) -> WalPosition {
        WalPosition(self.end)
    }

    /// The place up to which everything is durable.
    pub fn synced(&self) -> WalPosition {
        WalPosition(self.synced)
    }

    /// Bytes in files that are not trimmed.
    pub fn live_bytes(&self) -> u64 {
        self.end - self.files[0].base
    }

    /// Whether it holds memory for appends that an idle log need not hold.
    pub fn has_memory_to_give(&self) -> bool {
        self.writer.has_memory_to_give()
    }

    /// Gives that memory back; the next append takes what it needs.
    pub fn give_memory_back(&mut self) {
        self.writer.give_memory_back();
    }

    fn current(&self) -> &WalFile {
        &self.files[self.files.len() - 1]
    }

    fn check_usable(&mut self) -> Result<(), LogError> {
        if self.failed.is_none() {
            self.failed = self.spares.failure().map(Arc::new);
        }
        match &self.failed {
            None => Ok(()),
            Some(cause) => Err(LogError::Failed {
                cause: cause.clone(),
            }),
        }
    }

    fn fail(&mut self, error: LogError) -> LogError {
        self.failed = Some(Arc::new(error.clone()));
        error
    }

    /// How many of the payloads, from the first, fit in the current file.
    fn count_fitting(&self, payloads: &[&[Bytes]]) -> usize {
        let current = self.current();
        let mut room = (current.base + current.room()).saturating_sub(self.end);
        payloads
            .iter()
            .take_while(|payload| {
                let bytes = frame_bytes(payload_bytes(payload));
                let fits = bytes <= room;
                room = room.saturating_sub(bytes);
                fits
            })
            .count()
    }

    fn write(&mut self, payloads: &[&[Bytes]]) -> Result<(), LogError> {
        let current = &self.files[self.files.len() - 1];
        let mut position = self.end;
        let mut previous = self.last_crc;
        let bytes = payloads
            .iter()
            .map(|payload| frame_bytes(payload_bytes(payload)));
        self.writer
            .begin(self.end - current.base, bytes.sum::<u64>() as usize);
        for payload in payloads {
            let length = payload_bytes(payload);
            let mut header = FrameHeader {
                crc: 0,
                length: length as u32,
                previous,
                wal_id: self.id,
                position,
                synced: self.synced,
            };
            let encoded = header.encode(payload);
            // Copied while the checksum has it near the CPU.
            let parts = payload.iter().map(|part| &part[..]);
            for part in iter::once(&encoded[..])
                .chain(parts)
                .chain([padding(length)])
            {
                let pushed = self.writer.push(&*current.file, part);
                pushed.or_log("write", &current.path)?;
            }
            previous = header.crc;
            position += frame_bytes(length);
        }
        let written = self.writer.finish(&*current.file);
        written.or_log("write", &current.path)?;
        self.last_crc = previous;
        self.end = position;
        // An idle log needs no second file, and a busy one has time until the rest is written.
        let current = self.current();
        if !self.asked_for_next && self.end - current.base >= current.size / 4 {
            self.asked_for_next = true;
            self.spares.ask_for_one();
        }
        Ok(())
    }

    /// Goes on to the next file. The one before is synced first, so that only the last file can
    /// ever have a torn tail.
    fn roll(&mut self) -> Result<(), LogError> {
        let current = self.current();
        assert!(self.end > current.base, "an empty file is never left");
        if self.synced < self.end {
            current.file.sync_data().or_log("sync", &current.path)?;
            self.synced = self.end;
        }
        let mut file = match self.spares.take()? {
            Ok(file) => file,
            Err(number) => {
                let bytes = self.config.file_bytes;
                let file = files::create(&self.disk, &self.dir, number, bytes)?;
                self.spares.created(number);
                file
            }
        };
        file.base = self.end;
        self.writer.begin_file();
        self.asked_for_next = false;
        self.files.push(file);
        Ok(())
    }
}

fn payload_bytes(payload: &[Bytes]) -> usize {
    payload.iter().map(Bytes::len).sum()
}

#[cfg(test)]
mod tests;
