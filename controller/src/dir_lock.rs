//! Keeps two processes out of one directory.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::StartError;

/// A directory that is taken. It is free again once everyone who may still write there has
/// dropped this.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes a directory.
    ///
    /// # Errors
    /// [`StartError::InUse`] if it is taken already.
    pub fn take(dir: &Path) -> Result<DirLock, StartError> {
        let path = dir.join("lock");
        let file = File::create(&path).map_err(|source| StartError::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::InUse {
                path: dir.to_owned(),
            }),
            Err(error) => Err(StartError::Io {
                action: "lock",
                path,
                source: error.into(),
            }),
        }
    }
}
