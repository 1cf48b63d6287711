//! The files of a write-ahead log: their names, their creation, and the file that holds the log's
//! identity.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_model::checksum::crc32c;

use super::WalFile;
use crate::disk::{BLOCK_BYTES, Disk, OpenMode};
use crate::error::{IoContext as _, LogError};

const ID_MAGIC: u32 = 0x4f54_5749;
const ID_BYTES: usize = 16;

/// A file of a log. Its name only orders it; where its frames begin stands in the first of them.
pub(super) fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.wal"))
}

/// The numbers of the files in `dir`, ascending.
pub(super) fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, LogError> {
    let entries = disk.list(dir).or_log("list", dir)?;
    let number = |name: &OsStr| name.to_str()?.strip_suffix(".wal")?.parse().ok();
    let mut numbers: Vec<u64> = entries
        .iter()
        .filter_map(|entry| number(&entry.name))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a file of which nothing has been read yet.
pub(super) fn open(
    disk: &dyn Disk,
    dir: &Path,
    number: u64,
    mode: OpenMode,
) -> Result<WalFile, LogError> {
    let path = file_path(dir, number);
    let file = disk.open(&path, mode).or_log("open", &path)?;
    let size = file.size().or_log("measure", &path)?;
    Ok(WalFile {
        number,
        base: 0,
        path,
        file,
        size,
    })
}

impl WalFile {
    /// The same file, to be written in whole blocks, past the cache where that can be.
    pub fn past_cache(self, disk: &Arc<dyn Disk>) -> Result<WalFile, LogError> {
        let path = &self.path;
        let file = disk.open(path, OpenMode::WritePastCache);
        let file = file.or_log("open", path)?;
        Ok(WalFile { file, ..self })
    }

    /// Where its whole blocks end. Files are created with whole blocks only.
    pub fn room(&self) -> u64 {
        self.size - self.size % BLOCK_BYTES as u64
    }

    /// Makes a shorter file so long, durably.
    pub fn extend(&mut self, size: u64) -> Result<(), LogError> {
        if self.size < size {
            let path = &self.path;
            self.file.allocate(size).or_log("allocate", path)?;
            self.file.sync_data().or_log("sync", path)?;
            self.size = self.file.size().or_log("measure", path)?;
        }
        Ok(())
    }
}

/// Creates a file, gives it its space and makes its name durable.
pub(super) fn create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    number: u64,
    size: u64,
) -> Result<WalFile, LogError> {
    let mut file = open(&**disk, dir, number, OpenMode::Create)?;
    file.extend(size)?;
    disk.sync_dir(dir).or_log("sync", dir)?;
    file.past_cache(disk)
}

pub(super) fn id_path(dir: &Path) -> PathBuf {
    dir.join("id")
}

/// The log's identity, which must be there if its files are.
pub(super) fn load_id(
    disk: &dyn Disk,
    dir: &Path,
    has_files: bool,
) -> Result<Option<u64>, LogError> {
    let path = id_path(dir);
    if disk.exists(&path).or_log("look for", &path)? {
        let file = disk.open(&path, OpenMode::Existing).or_log("open", &path)?;
        let mut bytes = [0; ID_BYTES];
        let read = file.read_at(&mut bytes, 0).or_log("read", &path)?;
        let id = decode_id(&bytes[..read])
            .ok_or_else(|| LogError::corrupt(&path, 0, "the log's identity cannot be read"));
        return id.map(Some);
    }
    if has_files {
        let what = "the log's identity is missing, but its files are there";
        return Err(LogError::corrupt(&path, 0, what));
    }
    Ok(None)
}

/// The log's identity: what the directory says, or `id_if_new` for a directory without a log.
pub(super) fn load_or_create_id(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    id_if_new: u64,
    has_files: bool,
) -> Result<u64, LogError> {
    if let Some(id) = load_id(&**disk, dir, has_files)? {
        return Ok(id);
    }
    let path = id_path(dir);
    let temporary = dir.join("id.tmp");
    let file = disk
        .open(&temporary, OpenMode::CreateEmpty)
        .or_log("create", &temporary)?;
    file.write_at(&[IoSlice::new(&encode_id(id_if_new))], 0)
        .or_log("write", &temporary)?;
    file.sync_data().or_log("sync", &temporary)?;
    disk.rename(&temporary, &path)
        .or_log("rename", &temporary)?;
    disk.sync_dir(dir).or_log("sync", dir)?;
    Ok(id_if_new)
}

fn encode_id(id: u64) -> [u8; ID_BYTES] {
    let mut bytes = [0; ID_BYTES];
    bytes[0..4].copy_from_slice(&ID_MAGIC.to_be_bytes());
    bytes[4..12].copy_from_slice(&id.to_be_bytes());
    let crc = crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_be_bytes());
    bytes
}

fn decode_id(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; ID_BYTES] = bytes.try_into().ok()?;
    let id = u64::from_be_bytes(*bytes[4..].first_chunk()?);
    (*bytes == encode_id(id)).then_some(id)
}
