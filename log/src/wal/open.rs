//! Opening a write-ahead log: reading back its frames, cutting a torn tail, and telling one from
//! damage.
//!
//! Only the last file can have a torn tail, because a file is synced before the next one is begun.
//! In the last file, bytes that are no frame are the end of the log, unless a valid frame behind
//! them was written when they were already synced.
//!
//! What is read need not be durable: a sync that failed leaves frames in memory that no later sync
//! takes up. So frames of which no other says that they were synced are written again.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::files;
use super::frame::{ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader, frame_bytes};
use super::{Wal, WalConfig, WalFile, WalFrame, WalPosition};
use crate::disk::{Disk, OpenMode, create_dir_durably};
use crate::error::{IoContext as _, LogError};
use crate::planted::{self, Bug};

/// Where reading stands: the end of the frames so far and the CRC of the last of them.
struct Reader {
    wal_id: u64,
    end: u64,
    /// `None` before the first frame, whose predecessor may have been trimmed.
    last_crc: Option<u32>,
    /// Everything before it was synced, as the frames say.
    surely_synced: u64,
}

pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    config: WalConfig,
    visit: &mut dyn FnMut(WalFrame) -> Result<(), LogError>,
) -> Result<Wal, LogError> {
    create_dir_durably(&*disk, dir)?;
    let (live, free) = files::list(&disk, dir)?;
    let id = files::load_or_create_id(&disk, dir, config.id_if_new, !live.is_empty())?;
    let mut reader = Reader {
        wal_id: id,
        end: live.first().copied().unwrap_or(0),
        last_crc: None,
        surely_synced: 0,
    };
    let mut wal_files = Vec::with_capacity(live.len());
    for (index, base) in live.iter().enumerate() {
        let is_last = index + 1 == live.len();
        let file = if is_last {
            files::create(&disk, dir, *base, config.file_bytes)?
        } else {
            open_existing(&disk, dir, *base)?
        };
        if reader.end != *base {
            return Err(LogError::corrupt(
                &file.path,
                0,
                format!(
                    "it starts at position {base}, but the frames before it end at position {}",
                    reader.end
                ),
            ));
        }
        reader.read_file(&file, live.get(index + 1).copied(), visit)?;
        wal_files.push(file);
    }
    if wal_files.is_empty() {
        wal_files.push(files::create(&disk, dir, 0, config.file_bytes)?);
    }
    let mut wal = Wal {
        disk,
        dir: dir.to_owned(),
        config,
        id,
        files: wal_files,
        free: Vec::new(),
        end: reader.end,
        synced: reader.end,
        last_crc: reader.last_crc.unwrap_or(0),
        failed: None,
    };
    keep_fitting_spares(&mut wal, free)?;
    Ok(wal)
}

fn open_existing(disk: &Arc<dyn Disk>, dir: &Path, base: u64) -> Result<WalFile, LogError> {
    let path = files::live_path(dir, base);
    let file = disk.open(&path, OpenMode::Existing).or_log("open", &path)?;
    let size = file.size().or_log("measure", &path)?;
    Ok(WalFile {
        base,
        path,
        file,
        size,
    })
}

/// Removes free files that are too many or of another size than the configuration now says.
fn keep_fitting_spares(wal: &mut Wal, free: Vec<u64>) -> Result<(), LogError> {
    for base in free {
        let path = files::free_path(&wal.dir, base);
        let file = wal.disk.open(&path, OpenMode::Existing);
        let size = file.and_then(|file| file.size()).or_log("open", &path)?;
        if size == wal.config.file_bytes && wal.free.len() < wal.config.spare_files {
            wal.free.push(base);
        } else {
            wal.disk.unlink(&path).or_log("remove", &path)?;
        }
    }
    Ok(())
}

impl Reader {
    /// Reads the frames of one file. `next_base` is where the next file begins, if there is one.
    fn read_file(
        &mut self,
        file: &WalFile,
        next_base: Option<u64>,
        visit: &mut dyn FnMut(WalFrame) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let limit = next_base.map_or(file.size, |next| file.size.min(next - file.base));
        let mut bytes = vec![0; limit as usize];
        let read = file
            .file
            .read_at(&mut bytes, 0)
            .or_log("read", &file.path)?;
        bytes.truncate(read);
        let bytes = Bytes::from(bytes);
        while let Some(header) = self.next_frame(file, &bytes) {
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
        let at = self.end - file.base;
        match next_base {
            Some(next) if self.end != next => Err(LogError::corrupt(
                &file.path,
                at,
                format!("no valid frame, though the log goes on at position {next}"),
            )),
            Some(_) => Ok(()),
            None => {
                self.check_tail(file, &bytes, at)?;
                self.write_again(file, &bytes)
            }
        }
    }

    /// Makes durable what may only be readable, in the last file; those before it are synced.
    fn write_again(&self, file: &WalFile, bytes: &[u8]) -> Result<(), LogError> {
        let from = self.surely_synced.max(file.base);
        if from < self.end {
            let unsure = &bytes[(from - file.base) as usize..(self.end - file.base) as usize];
            file.file
                .write_at(&[IoSlice::new(unsure)], from - file.base)
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

    /// Refuses a tail that holds a frame which proves that what stands at `at` was synced.
    fn check_tail(&self, file: &WalFile, bytes: &[u8], at: u64) -> Result<(), LogError> {
        let mut candidate = at as usize + ALIGNMENT;
        while candidate + FRAME_HEADER_BYTES <= bytes.len() {
            let position = file.base + candidate as u64;
            let frame = FrameHeader::decode(bytes, candidate, self.wal_id, position);
            if let Some(frame) = frame.filter(|frame| frame.synced > self.end) {
                return Err(LogError::corrupt(
                    &file.path,
                    at,
                    format!(
                        "no valid frame at position {}, though the frame at position {position} says that everything before position {} was synced",
                        self.end, frame.synced
                    ),
                ));
            }
            candidate += ALIGNMENT;
        }
        Ok(())
    }
}
