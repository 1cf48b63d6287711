//! Why an operation on stored data failed. Paths and offsets stand in the message; the operating
//! system's reason is the source.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_model::batch::BatchError;
use ottla_model::{LeaderEpoch, Offset, TopicIdPartition};

/// Why a change of a log, of the store or of a write-ahead log failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    #[error("could not {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("{} is damaged at byte {position}: {what}", path.display())]
    Corrupt {
        path: PathBuf,
        position: u64,
        what: String,
    },
    #[error(
        "{} was written by a newer version of this program ({what}); start that version",
        path.display()
    )]
    Newer { path: PathBuf, what: String },
    /// A write or a sync failed earlier. What was written before may be lost, so nothing more is
    /// taken until the process has started again and recovered.
    #[error("storage failed earlier and takes nothing more; the process must restart")]
    Failed {
        #[source]
        cause: Arc<LogError>,
    },
    /// A bug: the storage stops rather than go on without that thread.
    #[error("the thread {thread} has panicked; the lines before say where")]
    Panicked { thread: &'static str },
    #[error("the store is closed")]
    Closed,
    #[error("an entry of {bytes} bytes does not fit; the most is {limit} bytes")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("batches that start at offset {base} do not continue {id}, which ends at {log_end}")]
    NotContinuing {
        id: TopicIdPartition,
        base: Offset,
        log_end: Offset,
    },
    #[error("a batch for {id} at offset {at} is malformed")]
    Batch {
        id: TopicIdPartition,
        at: Offset,
        #[source]
        source: BatchError,
    },
    #[error("a batch for {id} has leader epoch {epoch}, but the log has reached {last} already")]
    EpochWentBack {
        id: TopicIdPartition,
        epoch: LeaderEpoch,
        last: LeaderEpoch,
    },
    #[error("log start {to} of {id} would lie beyond its end {log_end}")]
    LogStartBeyondEnd {
        id: TopicIdPartition,
        to: Offset,
        log_end: Offset,
    },
    #[error("{id} has no log here any more")]
    Gone { id: TopicIdPartition },
    #[error("could not read {id}")]
    Read {
        id: TopicIdPartition,
        #[source]
        source: Box<ReadError>,
    },
}

impl LogError {
    /// Whether the same call may succeed later without a restart or another argument.
    pub fn is_retriable(&self) -> bool {
        false
    }

    pub(crate) fn corrupt(path: &Path, position: u64, what: impl Into<String>) -> LogError {
        LogError::Corrupt {
            path: path.to_owned(),
            position,
            what: what.into(),
        }
    }

    /// Whether a file or directory was not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, LogError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Why a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    #[error("the offset is outside the log, which goes from {log_start} to {log_end}")]
    OutOfRange { log_start: Offset, log_end: Offset },
    /// The bytes on disk are not what was written. They are never returned.
    #[error("the segment {} is damaged at byte {position}: {what}", path.display())]
    Damaged {
        path: PathBuf,
        position: u64,
        what: String,
    },
    #[error("could not {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the log is gone")]
    Gone,
}

impl ReadError {
    /// Whether the same read may succeed later.
    pub fn is_retriable(&self) -> bool {
        matches!(self, ReadError::Io { .. })
    }

    /// Whether the stored bytes are gone or wrong, rather than out of reach for now.
    pub fn is_damage(&self) -> bool {
        match self {
            ReadError::Damaged { .. } => true,
            ReadError::Io { source, .. } => is_of_the_file(source),
            ReadError::OutOfRange { .. } | ReadError::Gone => false,
        }
    }

    pub(crate) fn damaged(path: &Path, position: u64, what: impl Into<String>) -> ReadError {
        ReadError::Damaged {
            path: path.to_owned(),
            position,
            what: what.into(),
        }
    }
}

/// Whether an error of the operating system speaks of this file rather than of the whole disk.
pub(crate) fn is_of_the_file(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EIO)
}

/// Names the file and what was tried, so that an error says where to look.
pub(crate) trait IoContext<T> {
    fn or_log(self, action: &'static str, path: &Path) -> Result<T, LogError>;
    fn or_read(self, action: &'static str, path: &Path) -> Result<T, ReadError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn or_log(self, action: &'static str, path: &Path) -> Result<T, LogError> {
        self.map_err(|source| LogError::Io {
            action,
            path: path.to_owned(),
            source: Arc::new(source),
        })
    }

    fn or_read(self, action: &'static str, path: &Path) -> Result<T, ReadError> {
        self.map_err(|source| ReadError::Io {
            action,
            path: path.to_owned(),
            source: Arc::new(source),
        })
    }
}
