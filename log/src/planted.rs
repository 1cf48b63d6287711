//! Bugs that can be planted, to see whether the tests catch them. A bug is planted in a simulated
//! disk and does its harm in whatever works on that disk, so that tests beside it are left alone.
//!
//! Only the feature `planted-bugs` makes this possible, nothing enables it but the command line of
//! that test run, and a build without debug assertions refuses it. Without the feature, every
//! question asked here is answered by a constant.

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("the feature `planted-bugs` is for tests; a release must not have it");

use crate::disk::{Disk, DiskFile};

/// Something that is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
pub enum Bug {
    /// Appends are reported as durable when they were written, before the sync.
    AcknowledgeBeforeSync,
    /// The journal syncs its oldest file instead of the one it writes to.
    SyncOfTheWrongFile,
    /// The rename of a new checkpoint is not made durable before the journal is recycled.
    NoDirectorySyncAfterRename,
    /// A checkpoint that is to sync the whole file system does not.
    WholeSyncLeftOut,
    /// The journal goes on to files whose names are not durable.
    SpareWithoutItsName,
    /// The journal takes a sync that failed for one that did not.
    IgnoredSyncError,
    /// The journal does not say that a log was cut.
    TruncationNotJournaled,
    /// Frames of a file's earlier life are taken for frames of this one.
    RecycledFrameAccepted,
    /// What was saved of the producers stays when the batches are cut that it speaks of.
    ProducersOutliveACut,
    /// Batches of segments are served without a look at their checksums.
    ChecksumSkipped,
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn in_disk(disk: &dyn Disk, bug: Bug) -> bool {
    disk.planted() == Some(bug)
}

#[cfg(feature = "planted-bugs")]
pub(crate) fn in_file(file: &dyn DiskFile, bug: Bug) -> bool {
    file.planted() == Some(bug)
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn in_disk(_: &dyn Disk, _: Bug) -> bool {
    false
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn in_file(_: &dyn DiskFile, _: Bug) -> bool {
    false
}
