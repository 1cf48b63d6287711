//! What a store and a log are configured with, and what a store tells about itself.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use ottla_model::TopicIdPartition;

use crate::wal::Preparing;

/// The settings of a store: one per data directory.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The size of one journal file, in bytes. Bounds one append.
    pub journal_file_bytes: u64,
    /// How many files are kept at most to go on to. With fewer than a checkpoint sets free, a
    /// journal under load fills new files with zeros, which costs the disk as much as appends do.
    pub journal_spare_files: usize,
    /// When the files are prepared that the journal goes on to, and by whom.
    pub journal_preparing: Preparing,
    /// A random number: the identity of a journal that is created.
    pub journal_id_if_new: u64,
    /// The most bytes that one group commit takes.
    pub group_bytes_max: usize,
    /// After so many journal bytes at most a checkpoint is made, so that they can be recycled;
    /// after half of them if few files were written. The journal grows to eight times as many and
    /// then waits for a checkpoint.
    pub checkpoint_bytes: u64,
    /// A checkpoint is made after so many milliseconds with changes.
    pub checkpoint_ms: u64,
    /// With so many files and directories to sync or more, a checkpoint syncs the whole file system
    /// at once, where it can: much less work, but what other programs wrote there is waited for.
    pub sync_whole_from: usize,
    /// How many bytes of batches the files of an active segment's index, and what is saved of
    /// producers, may lag behind: about as many as a start can look at in a moment.
    pub saved_lag_bytes: u64,
    /// The most bytes of recent batches that are kept in memory once they are in segments.
    pub cache_bytes: u64,
    /// The most bytes that wait to be written to segments before the journal waits for them.
    pub segment_backlog_bytes: usize,
    /// The most segment files that are open at once.
    pub open_files_max: usize,
    /// The most bytes of sealed segments' indexes that are kept in memory.
    pub index_cache_bytes: usize,
    /// The most bytes that compaction's table of keys takes.
    pub compaction_memory_bytes: usize,
    /// How many bytes compaction reads and writes in a second, at most.
    pub compaction_bytes_per_second: u64,
    /// Threads that recover logs when the store is opened.
    pub recovery_threads: usize,
    /// Whether opening verifies the checksum of every stored batch, not only of each log's last.
    pub verify_all_on_open: bool,
    /// The directory was in use before: a store that is missing from it is damage.
    pub must_exist: bool,
    /// The settings of a recovered log until others are given.
    pub default_settings: LogSettings,
}

/// The journal bytes for each file to sync that make a checkpoint worth its syncs.
const CHECKPOINT_BYTES_PER_FILE: u64 = 256 * 1024;

/// So many times what makes a checkpoint due may stand in the journal: time for one to be slow, and
/// what gathers meanwhile for the next. That of ten thousand files takes some ten seconds on a disk
/// that is written to as fast as it goes.
const JOURNAL_CHECKPOINTS_MAX: u64 = 8;

/// The most files that a journal keeps to go on to.
const SPARE_FILES_MAX: usize = 16;

impl StoreConfig {
    /// Whether a checkpoint is due, so many journal bytes after the last one and with so many files
    /// to sync. What stands in the journal is read at a start; what a checkpoint costs goes by
    /// files.
    pub(crate) fn is_checkpoint_due(&self, journal_bytes: u64, dirty_files: usize) -> bool {
        let worth_it = CHECKPOINT_BYTES_PER_FILE.saturating_mul(dirty_files as u64);
        let early = worth_it.max(self.checkpoint_bytes / 2);
        journal_bytes >= early.min(self.checkpoint_bytes)
    }

    /// The most journal bytes that stand since the last checkpoint; what is queued waits for the
    /// next one. So the size of a journal, and the time that a start takes to read it, have a bound
    /// however slow the disk is with segments.
    pub(crate) fn journal_bytes_max(&self) -> u64 {
        self.checkpoint_bytes
            .saturating_mul(JOURNAL_CHECKPOINTS_MAX)
    }

    /// How many files a journal should keep to go on to: as many as one checkpoint sets free, so
    /// that under load it goes round in its files.
    pub fn spare_files_for(checkpoint_bytes: u64, journal_file_bytes: u64) -> usize {
        let files = checkpoint_bytes / journal_file_bytes.max(1);
        usize::try_from(files).map_or(SPARE_FILES_MAX, |files| (files + 1).min(SPARE_FILES_MAX))
    }
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            journal_file_bytes: 32 * 1024 * 1024,
            journal_spare_files: 3,
            journal_preparing: Preparing::InBackground,
            journal_id_if_new: RandomState::new().build_hasher().finish(),
            group_bytes_max: 8 * 1024 * 1024,
            checkpoint_bytes: 64 * 1024 * 1024,
            checkpoint_ms: 60_000,
            sync_whole_from: 256,
            saved_lag_bytes: 1024 * 1024,
            cache_bytes: 64 * 1024 * 1024,
            segment_backlog_bytes: 64 * 1024 * 1024,
            open_files_max: 1024,
            index_cache_bytes: 16 * 1024 * 1024,
            compaction_memory_bytes: 16 * 1024 * 1024,
            compaction_bytes_per_second: 16 * 1024 * 1024,
            recovery_threads: 4,
            verify_all_on_open: false,
            must_exist: false,
            default_settings: LogSettings::default(),
        }
    }
}

/// The settings of one log, after the topic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// The size at which a segment is sealed, in bytes (`segment.bytes`).
    pub segment_bytes: u64,
    /// The span of record timestamps after which a segment is sealed, in milliseconds
    /// (`segment.ms`).
    pub segment_ms: i64,
    /// The size above which old segments go, in bytes (`retention.bytes`); `None` keeps them.
    pub retention_bytes: Option<u64>,
    /// The age above which old segments go, in milliseconds (`retention.ms`); `None` keeps them.
    pub retention_ms: Option<i64>,
    /// How the log is compacted, if it is.
    pub compaction: Option<CompactionSettings>,
}

/// When a log is compacted, after the topic's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionSettings {
    /// A log is compacted when more than this part of it is not yet, in thousandths
    /// (`min.cleanable.dirty.ratio`).
    pub min_dirty_permille: u32,
    /// Younger records stay, in milliseconds (`min.compaction.lag.ms`).
    pub min_lag_ms: i64,
    /// Older records are compacted however few they are, in milliseconds
    /// (`max.compaction.lag.ms`).
    pub max_lag_ms: i64,
    /// How long a tombstone stays once compaction has seen it, in milliseconds
    /// (`delete.retention.ms`).
    pub delete_retention_ms: i64,
}

impl Default for CompactionSettings {
    /// Kafka's defaults.
    fn default() -> CompactionSettings {
        CompactionSettings {
            min_dirty_permille: 500,
            min_lag_ms: 0,
            max_lag_ms: i64::MAX,
            delete_retention_ms: 24 * 60 * 60 * 1000,
        }
    }
}

impl Default for LogSettings {
    /// Kafka's defaults.
    fn default() -> LogSettings {
        const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1000;
        LogSettings {
            segment_bytes: 1024 * 1024 * 1024,
            segment_ms: WEEK_MS,
            retention_bytes: None,
            retention_ms: Some(WEEK_MS),
            compaction: None,
        }
    }
}

/// Everything appended to a log up to a ticket is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    pub id: TopicIdPartition,
    pub ticket: u64,
}

/// What a store has done since it was opened, and holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Syncs of the journal: one for each group of appends.
    pub syncs: u64,
    /// Appends that are durable.
    pub appends: u64,
    /// Their batches' bytes.
    pub appended_bytes: u64,
    /// The most appends that shared one sync.
    pub max_group: u64,
    /// Checkpoints made.
    pub checkpoints: u64,
    /// Bytes of batches in memory.
    pub cached_bytes: u64,
    /// Bytes that wait for the journal now. A caller that may refuse work looks at it.
    pub queued_bytes: u64,
    /// Journal bytes that are durable but not in the segments yet.
    pub backlog_bytes: u64,
    /// Segment files that are open now.
    pub open_files: u64,
    /// Whether a write waits for room on the file system now.
    pub awaits_room: bool,
    /// Whether the journal is as long as it may get, and waits for a checkpoint now.
    pub awaits_checkpoint: bool,
    /// Passes of compaction that replaced segments.
    pub compactions: u64,
    /// Bytes of segments that compaction saved.
    pub compacted_away_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_the_earlier_the_fewer_files_it_syncs() {
        let config = StoreConfig {
            checkpoint_bytes: 256 << 20,
            ..StoreConfig::default()
        };
        let due = |mebibytes: u64, files| config.is_checkpoint_due(mebibytes << 20, files);
        assert!(due(128, 12) && !due(127, 12));
        assert!(due(200, 800) && !due(199, 800));
        assert!(due(256, 1_000_000) && !due(255, 1_000_000));
    }

    #[test]
    fn a_journal_keeps_what_a_checkpoint_sets_free_within_bounds() {
        let spares = StoreConfig::spare_files_for;
        assert_eq!(spares(256 << 20, 64 << 20), 5);
        assert_eq!(spares(1 << 20, 64 << 20), 1);
        assert_eq!(spares(u64::MAX, 64 << 20), SPARE_FILES_MAX);
        assert_eq!(spares(1 << 20, 0), SPARE_FILES_MAX);
    }
}
