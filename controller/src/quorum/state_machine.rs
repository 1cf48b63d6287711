//! Replays committed entries onto the metadata image and tells everyone who follows. Makes and
//! installs snapshots. Decides nothing: an entry that was decided on a stale image is skipped, on
//! every node alike.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use ottla_metadata::{
    MetadataBatch, MetadataDelta, MetadataImage, MetadataRecord, snapshot_from_bytes,
    snapshot_to_bytes,
};
use tokio::sync::Notify;

use super::snapshot_file::{SnapshotDir, StoredSnapshot};
use super::types::{
    Applied, EntryData, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::feed::{CommittedBatch, Current, Feed, LogPosition};
use crate::history::History;

/// How much was applied since the last snapshot, and how much makes another due.
#[derive(Debug)]
pub struct SinceSnapshot {
    entries: AtomicU64,
    bytes: AtomicU64,
    entries_max: u64,
    bytes_max: u64,
    /// Told with each entry while a snapshot is due.
    pub due: Notify,
}

impl SinceSnapshot {
    /// A snapshot is due after so many entries, or so many bytes of them.
    pub fn new(entries_max: u64, bytes_max: u64) -> SinceSnapshot {
        SinceSnapshot {
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            entries_max,
            bytes_max,
            due: Notify::new(),
        }
    }

    fn add(&self, bytes: u64) {
        let entries = self.entries.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if entries >= self.entries_max || bytes >= self.bytes_max {
            self.due.notify_one();
        }
    }

    fn reset(&self) {
        self.entries.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// The metadata image as the consensus' state machine.
pub struct StateMachine {
    image: Arc<MetadataImage>,
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: SnapshotDir,
    /// The snapshot that was on disk at the start, or was installed since.
    newest: Option<SnapshotMeta>,
    feed: Arc<Feed>,
    history: History,
    since: Arc<SinceSnapshot>,
}

impl StateMachine {
    /// The state of the newest whole snapshot.
    ///
    /// # Errors
    /// `InvalidData` if the snapshot's image cannot be read by this build.
    pub fn open(
        snapshots: SnapshotDir,
        newest: Option<StoredSnapshot>,
        feed: Arc<Feed>,
        history: History,
        since: Arc<SinceSnapshot>,
    ) -> io::Result<StateMachine> {
        let mut machine = StateMachine {
            image: Arc::default(),
            applied: None,
            membership: StoredMembership::default(),
            snapshots,
            newest: None,
            feed,
            history,
            since,
        };
        if let Some(snapshot) = newest {
            machine.restore(&snapshot)?;
            machine.newest = Some(snapshot.meta);
        }
        Ok(machine)
    }

    fn restore(&mut self, snapshot: &StoredSnapshot) -> io::Result<()> {
        let image = snapshot_from_bytes(&snapshot.image)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.image = Arc::new(image);
        self.applied = snapshot.meta.last_log_id;
        self.membership = snapshot.meta.last_membership.clone();
        self.since.reset();
        self.feed.replace(self.current());
        Ok(())
    }

    fn current(&self) -> Current {
        let position = |log_id: &LogId| LogPosition {
            term: log_id.leader_id.term,
            index: log_id.index,
        };
        Current {
            image: Arc::clone(&self.image),
            applied: self.applied.as_ref().map(position),
        }
    }

    /// Replays one entry's batch.
    ///
    /// # Errors
    /// For a batch that this build cannot read: to skip it would let this node part from the
    /// others.
    fn replay(&mut self, data: &EntryData) -> io::Result<(Applied, Option<CommittedBatch>)> {
        let batch = MetadataBatch::decode(&data.0)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut delta = MetadataDelta::new(Arc::clone(&self.image));
        match delta.replay_batch(&batch) {
            Ok(true) => {}
            Ok(false) => return Ok((Applied::Skipped, None)),
            Err(error) => {
                // Every node refuses the same records, so the nodes stay alike.
                tracing::error!(base_offset = %batch.base_offset, %error, "a committed metadata batch does not fit and is skipped");
                return Ok((Applied::Skipped, None));
            }
        }
        self.image = Arc::new(delta.apply());
        let committed = CommittedBatch {
            base_offset: batch.base_offset,
            records: batch.records.iter().map(MetadataRecord::encode).collect(),
            wall_ms: batch.wall_ms,
        };
        Ok((Applied::Replayed(self.image.offset), Some(committed)))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let (applied, batch) = match &entry.payload {
                EntryPayload::Blank => (Applied::Nothing, None),
                EntryPayload::Normal(data) => self.replay(data)?,
                EntryPayload::Membership(membership) => {
                    let log_id = Some(entry.log_id);
                    self.membership = StoredMembership::new(log_id, membership.clone());
                    (Applied::Nothing, None)
                }
            };
            self.since.add(match &entry.payload {
                EntryPayload::Normal(data) => data.0.len() as u64,
                EntryPayload::Blank | EntryPayload::Membership(_) => 0,
            });
            self.applied = Some(entry.log_id);
            if let Some(batch) = &batch {
                self.history.add(batch);
            }
            self.feed.publish(self.current(), batch);
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.since.reset();
        SnapshotBuilder {
            image: Arc::clone(&self.image),
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Bytes,
    ) -> Result<(), io::Error> {
        let stored = StoredSnapshot {
            meta: meta.clone(),
            image: snapshot,
        };
        self.restore(&stored)?;
        // At a start, what is installed is what was read from disk.
        if self.newest.as_ref() != Some(meta) {
            let snapshots = self.snapshots.clone();
            let storing = tokio::task::spawn_blocking(move || snapshots.store(&stored));
            storing.await.map_err(io::Error::other)??;
            self.newest = Some(meta.clone());
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let snapshots = self.snapshots.clone();
        let loading = tokio::task::spawn_blocking(move || snapshots.load());
        let (newest, _) = loading.await.map_err(io::Error::other)??;
        Ok(newest.map(|stored| Snapshot {
            meta: stored.meta,
            snapshot: stored.image,
        }))
    }
}

/// A view of the state at one position, to be made a snapshot of while the state goes on.
pub struct SnapshotBuilder {
    image: Arc<MetadataImage>,
    meta: SnapshotMeta,
    snapshots: SnapshotDir,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (image, meta) = (Arc::clone(&self.image), self.meta.clone());
        let snapshots = self.snapshots.clone();
        let building = tokio::task::spawn_blocking(move || {
            let stored = StoredSnapshot {
                meta,
                image: snapshot_to_bytes(&image),
            };
            snapshots.store(&stored)?;
            Ok::<_, io::Error>(stored)
        });
        let stored = building.await.map_err(io::Error::other)??;
        Ok(Snapshot {
            meta: stored.meta,
            snapshot: stored.image,
        })
    }
}
