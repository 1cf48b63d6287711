//! Everything that touches files goes through [`Disk`]. Two implementations keep one contract:
//! [`RealDisk`] over the operating system, [`SimDisk`] in memory, which forgets at a crash
//! whatever was not synced.
//!
//! The contract is POSIX's harsh reading: written bytes are durable after `sync_data` of their
//! file; a created, renamed or removed name is durable after `sync_dir` of its directory; and
//! after a failed sync nothing may be assumed about what was written before it.

mod aligned;
mod patient;
mod real;
mod sim;

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::error::{IoContext as _, LogError};
pub(crate) use aligned::{AlignedBuffer, BLOCK_BYTES};
pub(crate) use patient::{PatientDisk, Room, is_want_of_room};
pub use real::RealDisk;
#[cfg(test)]
pub(crate) use sim::Random;
pub use sim::{Call, Fault, Hold, Observer, Operation, SimDisk};

/// What to do when a file that is opened is there, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Open for reading and writing; fails with `NotFound` if the file is not there.
    Existing,
    /// Open for reading and writing; create it empty if it is not there.
    Create,
    /// Open for reading and writing; empty it if it is there.
    CreateEmpty,
    /// Open for reading what the medium has, not what a cache has, where the file system can;
    /// fails with `NotFound` if the file is not there. Offsets, lengths and buffers of reads must
    /// be multiples of 4 KiB then; only the file's end may be shorter.
    PastCache,
    /// Open for reading and writing past the cache, where the file system can; fails with
    /// `NotFound` if the file is not there. Offsets, lengths and buffers must be multiples of
    /// 4 KiB; other calls fail with `InvalidInput`. What is written is durable after `sync_data`
    /// and no sooner.
    WritePastCache,
}

impl OpenMode {
    fn goes_past_cache(self) -> bool {
        matches!(self, OpenMode::PastCache | OpenMode::WritePastCache)
    }

    fn needs_the_file(self) -> bool {
        self == OpenMode::Existing || self.goes_past_cache()
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: OsString,
    pub is_dir: bool,
}

/// A file system, as far as a node uses one.
pub trait Disk: Send + Sync + Debug + 'static {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// The names in a directory, in ascending order.
    fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Gives a file or a directory another name, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn unlink(&self, path: &Path) -> io::Result<()>;
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Removes a directory and all in it.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that can still be written on the file system that holds `path`.
    fn free_space(&self, path: &Path) -> io::Result<u64>;
    /// The file system that holds a file and these directories, to sync it whole.
    ///
    /// # Errors `Unsupported`: there it cannot be told for certain that such a sync lost nothing,
    /// or not all of them are on the same one.
    fn file_system(&self, file: &Path, dirs: &[&Path]) -> io::Result<Arc<dyn FileSystem>>;
    /// The bug that tests have planted in what works on this disk.
    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<crate::planted::Bug> {
        None
    }
}

/// A file system as a whole.
pub trait FileSystem: Send + Sync + Debug {
    /// Makes everything durable that anybody has written to it: bytes, lengths and names.
    ///
    /// # Errors Something that was written to it may be lost: since the last such call, or, as far
    /// as nobody was told yet, at any time before the first.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. All methods may be called from many threads.
pub trait DiskFile: Send + Sync + Debug {
    /// The file's length, in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads from `offset` until `buffer` is full or the file ends; returns how many bytes.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all parts, one after the other, from `offset`.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space up to `len`; a shorter file becomes this long, filled with zeros.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes the written bytes and the length durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Asks that so many written bytes go to the disk soon, so that the next sync has less to wait
    /// for; 0 means all from the offset on. Only a hint: nothing is durable before
    /// [`DiskFile::sync_data`] has returned.
    ///
    /// # Errors Written bytes could not be given their place on the disk and are lost; no later
    /// sync may tell of it again.
    fn start_write_back(&self, _offset: u64, _bytes: u64) -> io::Result<()> {
        Ok(())
    }
    /// Waits for what [`DiskFile::start_write_back`] began. It is not durable before the file or
    /// the whole file system is synced.
    ///
    /// # Errors Written bytes are lost, as after a sync that failed.
    fn wait_for_write_back(&self) -> io::Result<()> {
        Ok(())
    }
    /// Asks that reads bring what they ask for and nothing ahead of it. Only a hint.
    fn no_read_ahead(&self) {}
    /// The bug that tests have planted in what works on this file's disk.
    #[cfg(feature = "planted-bugs")]
    fn planted(&self) -> Option<crate::planted::Bug> {
        None
    }
}

/// Creates a directory, and those it lies in as far as they are missing, so that a crash cannot
/// take it away again.
pub(crate) fn create_dir_durably(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    let mut created = Vec::new();
    let mut at = Some(dir);
    while let Some(missing) = at {
        if disk.exists(missing).or_log("look for", missing)? {
            break;
        }
        created.push(missing);
        at = missing.parent();
    }
    disk.create_dir_all(dir).or_log("create", dir)?;
    // An earlier start may have created it and died before it could sync.
    created.push(dir);
    for dir in created {
        if let Some(parent) = dir.parent() {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            disk.sync_dir(parent).or_log("sync", parent)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
