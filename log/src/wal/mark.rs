//! A note of how far a log was synced, in a file of its own, so that a log whose last frames are
//! gone is told from one that never had them.
//!
//! The frames tell that of all but the last group, in the frames behind them; damage that takes the
//! end of a log takes those along. The note is written after each sync and never synced itself: it
//! says too little after a power cut, and never too much.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Buf as _;
use ottla_model::checksum::crc32c;

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{IoContext as _, LogError};

const NAME: &str = "synced";
const MAGIC: u32 = 0x4f54_574d;
/// Big endian: magic, the log's identity, the position, CRC-32C of these.
const BYTES: usize = 24;

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

fn encode(wal_id: u64, position: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
    bytes[4..12].copy_from_slice(&wal_id.to_be_bytes());
    bytes[12..20].copy_from_slice(&position.to_be_bytes());
    let crc = crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// The position that the note of this log names; `None` if there is none that holds.
pub(super) fn read(disk: &dyn Disk, dir: &Path, wal_id: u64) -> Result<Option<u64>, LogError> {
    let path = path(dir);
    let file = match disk.open(&path, OpenMode::Existing).or_log("open", &path) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = [0; BYTES];
    file.read_at(&mut bytes, 0).or_log("read", &path)?;
    let position = (&bytes[12..]).get_u64();
    Ok((encode(wal_id, position) == bytes).then_some(position))
}

/// What a writer notes in.
#[derive(Debug)]
pub(super) struct Mark {
    file: Option<Arc<dyn DiskFile>>,
    wal_id: u64,
}

impl Mark {
    /// Without a file, nothing is noted: a log can be used without.
    pub fn none() -> Mark {
        Mark {
            file: None,
            wal_id: 0,
        }
    }

    pub fn open(disk: &dyn Disk, dir: &Path, wal_id: u64) -> Mark {
        let file = disk.open(&path(dir), OpenMode::Create);
        if let Err(error) = &file {
            tracing::warn!(path = %path(dir).display(), %error, "how far the log is synced cannot be noted");
        }
        Mark {
            file: file.ok(),
            wal_id,
        }
    }

    /// Everything before `position` is synced.
    pub fn note(&self, position: u64) {
        if let Some(file) = &self.file {
            // What stands there stays true.
            let _ = file.write_at(&[IoSlice::new(&encode(self.wal_id, position))], 0);
        }
    }
}
