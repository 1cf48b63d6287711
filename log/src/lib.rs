//! The storage of a node: a write-ahead log, and over it a store of partition logs. It is given
//! directories, batches and offsets; it knows nothing of leaders, in-sync replicas, high
//! watermarks, topics' names or connections. All of it is blocking; no async runtime is needed.
//!
//! ```text
//! append ──► tail cache (readable at once)
//!    └─────► journal thread: one write, one sync for all logs ──► "flushed" ──► lane: segments
//!                                                                   checkpoint ◄──┘ (syncs, trims)
//! compactor: sealed segments ──► one compacted file ──► journal ──► lane: takes their place
//! ```

mod checkpoint;
mod compaction;
mod contention;
mod damage;
pub mod disk;
pub mod dump;
mod entry;
mod error;
mod handles;
mod partition;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
mod queue;
mod recovery;
mod segment;
mod shared;
pub mod store;
mod swap;
pub mod verify;
pub mod wal;

pub use compaction::{Compacted, CompactionNeed, Compactor};
pub use damage::Damage;
pub use disk::{Disk, RealDisk, SimDisk};
pub use error::{LogError, ReadError};
pub use partition::{LogMoment, PartitionLog, ReadOutcome, SavedProducers};
pub use store::{
    CompactionSettings, FatalObserver, FlushObserver, Flushed, LogSettings, LogStore, StoreConfig,
    StoreStats,
};
pub use wal::{Preparing, Wal, WalConfig, WalFrame, WalPosition, WalReach};
