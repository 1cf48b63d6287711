//! Opening a write-ahead log: reading back its frames, cutting a torn tail, and telling one from
//! damage.
//!
//! Files are read in the order of their numbers. The log goes on from one to the next if the first
//! frame of the next continues it; the others are spares. Only the last file that it goes on to can
//! have a torn tail, because a file is synced before the next one is begun. Bytes that are no frame
//! are the end of the log, unless a valid frame behind them, there or in a later file, was written
//! when they were already synced.
//!
//! What is read need not be durable: a sync that failed leaves frames in memory that no later sync
//! takes up. So frames of which no other says that they were synced are written again.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::block_writer::BlockWriter;
use super::files;
use super::frame::{ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader, frame_bytes};
use super::mark::{self, Mark};
use super::spares::Spares;
use super::{Wal, WalConfig, WalFile, WalFrame, WalPosition, WalReach};
use crate::disk::{Disk, OpenMode, create_dir_durably};
use crate::error::{IoContext as _, LogError};
use crate::planted::{self, Bug};

/// Where reading stands: the end of the frames so far and the CRC of the last of them.
struct Reader {
    dir: PathBuf,
    wal_id: u64,
    end: u64,
    /// `None` before the first frame, whose predecessor may have been trimmed.
    last_crc: Option<u32>,
    /// Everything before it was synced, as the frames say.
    surely_synced: u64,
    /// Files that hold the log.
    live: Vec<WalFile>,
    /// The bytes of the last of them.
    last_bytes: Bytes,
    /// Files behind them.
    unused: VecDeque<WalFile>,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: WalConfig,
    visit: &mut dyn FnMut(WalFrame) -> Result<(), LogError>,
) -> Result<Wal, LogError> {
    create_dir_durably(&*disk, dir)?;
    let numbers = files::list(&*disk, dir)?;
    let id = files::load_or_create_id(&disk, dir, config.id_if_new, !numbers.is_empty())?;
    let reader = Reader::read(&*disk, dir, id, &numbers, visit)?;
    let mark = match config.notes_synced {
        true => {
            reader.check_end(mark::read(&*disk, dir, id)?)?;
            Mark::open(&*disk, dir, id)
        }
        false => Mark::none(),
    };
    reader.write_again()?;
    let mut wal_files = reader.live;
    let (current, writer) = match wal_files.pop() {
        Some(mut current) => {
            let written = (reader.end - current.base) as usize;
            let writer = BlockWriter::behind(&reader.last_bytes[..written]);
            current.extend(config.file_bytes)?;
            (current.past_cache(&disk)?, writer)
        }
        None => {
            let first = files::create(&disk, dir, 1, config.file_bytes)?;
            (first, BlockWriter::behind(&[]))
        }
    };
    wal_files.push(current);
    let last_number = numbers.last().copied().unwrap_or(1);
    let ready = fitting(&disk, config, reader.unused)?;
    // What was removed must not come back once there are files behind it, and what will be used
    // must not go.
    disk.sync_dir(dir).or_log("sync", dir)?;
    Ok(Wal {
        spares: Spares::new(disk.clone(), dir.to_owned(), config, ready, last_number),
        asked_for_next: false,
        disk,
        dir: dir.to_owned(),
        config,
        id,
        files: wal_files,
        end: reader.end,
        synced: reader.end,
        last_crc: reader.last_crc.unwrap_or(0),
        writer,
        mark,
        failed: None,
    })
}

/// Reads a log's frames without opening it: nothing is changed.
pub(super) fn look(
    disk: &dyn Disk,
    dir: &Path,
    visit: &mut dyn FnMut(WalFrame) -> Result<(), LogError>,
) -> Result<WalReach, LogError> {
    let numbers = files::list(disk, dir)?;
    let Some(id) = files::load_id(disk, dir, !numbers.is_empty())? else {
        return Ok(WalReach::none(dir));
    };
    let reader = Reader::read(disk, dir, id, &numbers, visit)?;
    let start = reader.live.first().map_or(reader.end, |file| file.base);
    let (end_file, end_byte) = reader.place_of_end();
    Ok(WalReach {
        positions: WalPosition(start)..WalPosition(reader.end),
        end_file,
        end_byte,
    })
}

/// Removes spares that are too many or of another size than the configuration now says.
fn fitting(
    disk: &Arc<dyn Disk>,
    config: WalConfig,
    unused: VecDeque<WalFile>,
) -> Result<VecDeque<WalFile>, LogError> {
    let mut ready = VecDeque::new();
    for file in unused {
        if file.size == config.file_bytes && ready.len() < config.spare_files {
            ready.push_back(file.past_cache(disk)?);
        } else {
            disk.unlink(&file.path).or_log("remove", &file.path)?;
        }
    }
    Ok(ready)
}

fn read(file: &WalFile, bytes: u64) -> Result<Bytes, LogError> {
    let mut buffer = vec![0; bytes.min(file.size) as usize];
    let read = file.file.read_at(&mut buffer, 0);
    buffer.truncate(read.or_log("read", &file.path)?);
    Ok(Bytes::from(buffer))
}

impl Reader {
    /// Reads the frames of all files.
    fn read(
        disk: &dyn Disk,
        dir: &Path,
        wal_id: u64,
        numbers: &[u64],
        visit: &mut dyn FnMut(WalFrame) -> Result<(), LogError>,
    ) -> Result<Reader, LogError> {
        let mut reader = Reader {
            dir: dir.to_owned(),
            wal_id,
            end: 0,
            last_crc: None,
            surely_synced: 0,
            live: Vec::with_capacity(numbers.len()),
            last_bytes: Bytes::new(),
            unused: VecDeque::new(),
        };
        for number in numbers {
            let file = files::open(disk, dir, *number, OpenMode::Existing)?;
            if reader.unused.is_empty() {
                reader.read_file(file, visit)?;
            } else {
                reader.pass_over(file)?;
            }
        }
        Ok(reader)
    }

    /// Reads the frames of the next file, if the log goes on there.
    fn read_file(
        &mut self,
        mut file: WalFile,
        visit: &mut dyn FnMut(WalFrame) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let bytes = read(&file, u64::MAX)?;
        let is_first = self.live.is_empty();
        if is_first
            && let Some(first) = FrameHeader::decode_any(&bytes, 0)
            && first.wal_id == self.wal_id
        {
            self.end = first.position;
        }
        file.base = self.end;
        while let Some(header) = self.next_frame(&file, &bytes) {
            let at = (self.end - file.base) as usize + FRAME_HEADER_BYTES;
            let length = header.length as usize;
            let position = WalPosition(self.end);
            self.last_crc = Some(header.crc);
            self.surely_synced = self.surely_synced.max(header.synced);
            self.end += frame_bytes(length);
            visit(WalFrame {
                position,
                payload: bytes.slice(at..at + length),
            })?;
        }
        let is_used = is_first || self.end > file.base;
        let rest = (self.end - file.base) as usize;
        if is_used {
            self.live.push(file);
            self.last_bytes = bytes.clone();
        } else {
            self.unused.push_back(file);
        }
        self.check_rest(&bytes, rest)
    }

    /// Looks at a file behind the first spare.
    fn pass_over(&mut self, file: WalFile) -> Result<(), LogError> {
        let header = read(&file, FRAME_HEADER_BYTES as u64)?;
        let suspicious = FrameHeader::peek(&header, 0);
        let suspicious = suspicious.is_some_and(|header| self.is_later(&header));
        let bytes = if suspicious {
            read(&file, u64::MAX)?
        } else {
            header
        };
        self.unused.push_back(file);
        self.check_rest(&bytes, 0)
    }

    /// Refuses a log that ends before where it was noted to be synced.
    fn check_end(&self, noted: Option<u64>) -> Result<(), LogError> {
        let Some(noted) = noted.filter(|noted| *noted > self.end) else {
            return Ok(());
        };
        let (path, at) = self.place_of_end();
        let what = format!(
            "{}, though everything before position {noted} was synced",
            self.no_frame_at_end()
        );
        Err(LogError::corrupt(&path, at, what))
    }

    /// The file that the log ends in, and where; its directory if it has none. Without any frame,
    /// that is where the first should be.
    fn place_of_end(&self) -> (PathBuf, u64) {
        match (self.live.last(), self.unused.front()) {
            (Some(file), _) => (file.path.clone(), self.end - file.base),
            (None, Some(first)) => (first.path.clone(), 0),
            (None, None) => (self.dir.clone(), 0),
        }
    }

    fn no_frame_at_end(&self) -> String {
        match self.live.is_empty() {
            true => "no valid frame to begin with".to_owned(),
            false => format!("no valid frame at position {}", self.end),
        }
    }

    /// Makes durable what may only be readable, in the last file; those before it are synced.
    fn write_again(&self) -> Result<(), LogError> {
        let Some(file) = self.live.last() else {
            return Ok(());
        };
        let from = self.surely_synced.max(file.base);
        if from < self.end {
            let unsure = (from - file.base) as usize..(self.end - file.base) as usize;
            file.file
                .write_at(&[IoSlice::new(&self.last_bytes[unsure])], from - file.base)
                .or_log("write", &file.path)?;
            file.file.sync_data().or_log("sync", &file.path)?;
        }
        Ok(())
    }

    fn next_frame(&self, file: &WalFile, bytes: &[u8]) -> Option<FrameHeader> {
        let at = (self.end - file.base) as usize;
        if planted::in_file(&*file.file, Bug::RecycledFrameAccepted) {
            return FrameHeader::decode_any(bytes, at);
        }
        FrameHeader::decode(bytes, at, self.wal_id, self.end)
            .filter(|header| self.last_crc.is_none_or(|last| last == header.previous))
    }

    /// Whether a frame says that the log was synced beyond where it seems to end. Those of an
    /// earlier life of a file never do, nor those that a crash left behind a torn one.
    fn is_later(&self, header: &FrameHeader) -> bool {
        header.wal_id == self.wal_id && header.synced > self.end && header.position >= self.end
    }

    /// Refuses bytes behind the end of the log, from `from` on, that hold a frame which proves that
    /// the log went on there.
    fn check_rest(&self, bytes: &[u8], from: usize) -> Result<(), LogError> {
        for at in (from..bytes.len()).step_by(ALIGNMENT) {
            let frame = FrameHeader::peek(bytes, at)
                .filter(|frame| self.is_later(frame) && frame.is_whole(bytes, at));
            if let Some(frame) = frame {
                let (path, at) = self.place_of_end();
                let what = format!(
                    "{}, though the frame at position {} says that everything before position {} \
                     was synced",
                    self.no_frame_at_end(),
                    frame.position,
                    frame.synced
                );
                return Err(LogError::corrupt(&path, at, what));
            }
        }
        Ok(())
    }
}
