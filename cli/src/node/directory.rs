//! A data directory in use: one process at a time.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use ottla_shell::remedy;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::refusal::Refusal;

const LOCK_FILE: &str = "lock";

/// The exclusive use of a data directory. Ends with the process at the latest.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Makes the directory if need be, and takes it.
    pub fn take(dir: &Path) -> Result<DirectoryLock, Refusal> {
        let shown = dir.display();
        let unusable = |error: std::io::Error| {
            let remedy =
                remedy(error.kind()).unwrap_or("give the node a directory that it may use");
            Refusal::lasting(format!(
                "cannot use the data directory {shown} (node.data_dir): {error}; {remedy}"
            ))
        };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(dir.join(LOCK_FILE))
            .map_err(unusable)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let pid = match file.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => format!(" (process {})", holder.trim()),
                _ => String::new(),
            };
            return Err(Refusal::passing(format!(
                "the data directory {shown} (node.data_dir) is in use by another node{pid}; stop \
                 that one, or give this node a directory of its own"
            )));
        }
        let note = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        note.map_err(unusable)?;
        Ok(DirectoryLock { _file: file })
    }
}

/// The process that uses a data directory; `None` if none does. Whoever started it, this is who
/// runs the node there.
pub fn holder(dir: &Path) -> Option<u32> {
    let mut file = File::open(dir.join(LOCK_FILE)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).ok()?;
            holder.trim().parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_uses_a_directory_is_found_by_its_lock_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(dir.path()), None);
        let lock = DirectoryLock::take(dir.path()).unwrap();
        assert_eq!(holder(dir.path()), Some(std::process::id()));
        drop(lock);
        assert_eq!(
            holder(dir.path()),
            None,
            "the number stays, the lock does not"
        );
    }

    #[test]
    fn a_directory_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(dir.path()).unwrap();
        let refused = DirectoryLock::take(dir.path()).unwrap_err().reason;
        assert!(
            refused.contains("in use") && refused.contains("data_dir"),
            "{refused}"
        );
        drop(first);
        assert!(DirectoryLock::take(dir.path()).is_ok());
    }
}
