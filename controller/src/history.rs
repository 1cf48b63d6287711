//! The cluster's history as it can be asked for: each metadata record by its offset, by time and
//! by the object it speaks of. Written behind the apply, on a thread of its own, into sled; all of
//! it can be given up, so on any error it is set aside and begun anew.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use bytes::Bytes;
use ottla_metadata::{ConfigResource, MetadataRecord};
use ottla_model::{MetadataOffset, NodeId, PartitionIndex, TimestampMs, TopicId};
use parking_lot::Mutex;
use std::sync::Arc;

use crate::feed::CommittedBatch;

/// sled's page cache, in bytes.
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// The most batches that wait to be indexed; more are left out of the history.
const QUEUE_MAX: usize = 1_024;
/// Larger records are left out: sled keeps large values badly.
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// The most rows that one write removes because they are too old.
const EXPIRED_ROWS_MAX: usize = 256;

/// What a metadata record speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HistoryObject {
    Cluster,
    Node(NodeId),
    Topic(TopicId),
    Partition(TopicId, PartitionIndex),
}

impl HistoryObject {
    /// The object of a record.
    pub fn of(record: &MetadataRecord) -> HistoryObject {
        use MetadataRecord as R;
        match record {
            R::ClusterCreated(_) | R::FeatureLevelChanged(_) => HistoryObject::Cluster,
            R::BrokerRegistered(record) => HistoryObject::Node(record.broker),
            R::BrokerChanged(record) => HistoryObject::Node(record.broker),
            R::BrokerUnregistered(record) => HistoryObject::Node(record.broker),
            R::ProducerIdsAllocated(record) => HistoryObject::Node(record.broker),
            R::ControllerRegistered(record) => HistoryObject::Node(record.controller),
            R::ControllerActivated(record) => HistoryObject::Node(record.controller),
            R::TopicCreated(record) => HistoryObject::Topic(record.topic),
            R::TopicDeleted(record) => HistoryObject::Topic(record.topic),
            R::PartitionCreated(record) => HistoryObject::Partition(record.topic, record.partition),
            R::PartitionChanged(record) => HistoryObject::Partition(record.topic, record.partition),
            R::ConfigChanged(record) => match &record.resource {
                ConfigResource::Topic(topic) => HistoryObject::Topic(*topic),
                ConfigResource::Cluster => HistoryObject::Cluster,
            },
        }
    }

    fn key(self) -> Vec<u8> {
        match self {
            HistoryObject::Cluster => vec![0],
            HistoryObject::Node(node) => [&[1][..], &node.0.to_be_bytes()].concat(),
            HistoryObject::Topic(topic) => [&[2][..], topic.as_bytes()].concat(),
            HistoryObject::Partition(topic, partition) => {
                [&[3][..], topic.as_bytes(), &partition.0.to_be_bytes()].concat()
            }
        }
    }
}

/// A record of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    pub offset: MetadataOffset,
    pub wall_ms: TimestampMs,
    pub record: MetadataRecord,
}

struct Rows {
    /// Offset → time and record.
    records: sled::Tree,
    /// Time and offset → nothing.
    times: sled::Tree,
    /// Object and offset → nothing.
    objects: sled::Tree,
    /// "applied" → the offset up to which rows are written.
    position: sled::Tree,
}

/// The history. Clones are the same history.
#[derive(Clone)]
pub struct History {
    rows: Arc<Mutex<Option<Rows>>>,
    queue: Arc<Mutex<Option<SyncSender<Work>>>>,
}

enum Work {
    Batch(CommittedBatch),
    Flush(SyncSender<()>),
}

impl History {
    /// Opens the history in `dir` and starts its thread. Never fails: without a usable directory
    /// there is no history.
    pub fn open(dir: &Path, retention_ms: i64) -> History {
        let rows = Arc::new(Mutex::new(None));
        let (sender, receiver) = sync_channel(QUEUE_MAX);
        let thread_rows = Arc::clone(&rows);
        let dir = dir.to_owned();
        let started = thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || run(&dir, retention_ms, &thread_rows, &receiver));
        let queue = match started {
            Ok(_) => Some(sender),
            Err(error) => {
                tracing::warn!(%error, "no thread for the metadata history; there will be none");
                None
            }
        };
        History {
            rows,
            queue: Arc::new(Mutex::new(queue)),
        }
    }

    /// Indexes a batch, some time later. Never waits.
    pub fn add(&self, batch: &CommittedBatch) {
        if let Some(queue) = &*self.queue.lock()
            && let Err(TrySendError::Full(_)) = queue.try_send(Work::Batch(batch.clone()))
        {
            tracing::warn!(offset = %batch.base_offset, "the metadata history cannot keep up and leaves records out");
        }
    }

    /// Waits until everything added before is indexed.
    pub fn flush(&self) {
        let (sender, done) = sync_channel(1);
        let queue = self.queue.lock().clone();
        if let Some(queue) = queue
            && queue.send(Work::Flush(sender)).is_ok()
        {
            // A thread that ended has nothing left to wait for.
            let _ = done.recv();
        }
    }

    /// Ends the thread once it has indexed what was added.
    pub fn close(&self) {
        self.flush();
        *self.queue.lock() = None;
    }

    /// What is known of an object, oldest first, at most `limit` rows.
    pub fn of_object(&self, object: HistoryObject, limit: usize) -> Vec<HistoryRow> {
        let guard = self.rows.lock();
        let Some(rows) = &*guard else {
            return Vec::new();
        };
        let prefix = object.key();
        let keys = rows.objects.scan_prefix(&prefix).keys();
        let offsets = keys.filter_map(|key| offset_in(&key.ok()?, prefix.len()));
        let found = offsets.filter_map(|offset| rows.row(offset));
        found.take(limit).collect()
    }

    /// The records of a time span, oldest first, at most `limit` rows.
    pub fn between(&self, from: TimestampMs, to: TimestampMs, limit: usize) -> Vec<HistoryRow> {
        let guard = self.rows.lock();
        let Some(rows) = &*guard else {
            return Vec::new();
        };
        let range = time_key(from, MetadataOffset::ZERO)..time_key(to, MetadataOffset(i64::MAX));
        let keys = rows.times.range(range).keys();
        let offsets = keys.filter_map(|key| offset_in(&key.ok()?, 8));
        let found = offsets.filter_map(|offset| rows.row(offset));
        found.take(limit).collect()
    }

    /// The offset up to which records are indexed.
    pub fn applied(&self) -> Option<MetadataOffset> {
        let guard = self.rows.lock();
        let value = guard.as_ref()?.position.get("applied").ok()??;
        let bytes: [u8; 8] = value.as_ref().try_into().ok()?;
        Some(MetadataOffset(i64::from_be_bytes(bytes)))
    }
}

fn run(dir: &Path, retention_ms: i64, shared: &Mutex<Option<Rows>>, receiver: &Receiver<Work>) {
    *shared.lock() = open_or_set_aside(dir);
    while let Ok(work) = receiver.recv() {
        match work {
            Work::Batch(batch) => {
                let written = shared
                    .lock()
                    .as_ref()
                    .map(|rows| rows.write(&batch, retention_ms));
                if let Some(Err(error)) = written {
                    tracing::warn!(%error, "the metadata history cannot be written and is begun anew");
                    *shared.lock() = None;
                    set_aside(dir);
                    *shared.lock() = open_or_set_aside(dir);
                }
            }
            Work::Flush(done) => drop(done.send(())),
        }
    }
}

fn open_or_set_aside(dir: &Path) -> Option<Rows> {
    match Rows::open(dir) {
        Ok(rows) => return Some(rows),
        Err(error) => {
            tracing::warn!(path = %dir.display(), %error, "the metadata history cannot be read and is begun anew");
        }
    }
    set_aside(dir);
    Rows::open(dir)
        .inspect_err(|error| tracing::warn!(%error, "there will be no metadata history"))
        .ok()
}

/// Renames a directory that cannot be read, in place of the last such one.
fn set_aside(dir: &Path) {
    let mut name = dir.as_os_str().to_owned();
    name.push(".damaged");
    let aside = PathBuf::from(name);
    let removed = std::fs::remove_dir_all(&aside);
    drop(removed);
    if let Err(error) = std::fs::rename(dir, &aside) {
        tracing::warn!(path = %dir.display(), %error, "the metadata history cannot be set aside");
    }
}

impl Rows {
    fn open(dir: &Path) -> Result<Rows, sled::Error> {
        // sled panics on some kinds of damage.
        let opened = std::panic::catch_unwind(|| {
            sled::Config::new()
                .path(dir)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(1_000))
                .open()
        });
        let db = opened.unwrap_or_else(|_| {
            Err(sled::Error::ReportableBug(
                "it failed while it was opened".to_owned(),
            ))
        })?;
        Ok(Rows {
            records: db.open_tree("records")?,
            times: db.open_tree("times")?,
            objects: db.open_tree("objects")?,
            position: db.open_tree("position")?,
        })
    }

    /// Writes a batch's rows, together with the position they reach.
    fn write(&self, batch: &CommittedBatch, retention_ms: i64) -> Result<(), sled::Error> {
        use sled::Transactional as _;
        use sled::transaction::TransactionError;
        let expired = self.expired(batch.wall_ms.0.saturating_sub(retention_ms))?;
        let mut records = sled::Batch::default();
        let mut times = sled::Batch::default();
        let mut objects = sled::Batch::default();
        let mut position = sled::Batch::default();
        for (offset, wall_ms, bytes) in expired {
            records.remove(&offset.0.to_be_bytes());
            times.remove(time_key(wall_ms, offset));
            if let Ok(record) = MetadataRecord::decode(&bytes) {
                objects.remove(object_key(HistoryObject::of(&record), offset));
            }
        }
        let mut offset = batch.base_offset;
        for bytes in &batch.records {
            if let Some(record) = Some(bytes).filter(|bytes| bytes.len() <= RECORD_BYTES_MAX)
                && let Ok(record) = MetadataRecord::decode(record)
            {
                let mut value = batch.wall_ms.0.to_be_bytes().to_vec();
                value.extend_from_slice(bytes);
                records.insert(&offset.0.to_be_bytes(), value);
                times.insert(time_key(batch.wall_ms, offset), &[]);
                objects.insert(object_key(HistoryObject::of(&record), offset), &[]);
            }
            offset += 1;
        }
        position.insert("applied", &offset.0.to_be_bytes());
        let trees = (&self.records, &self.times, &self.objects, &self.position);
        let written = trees.transaction(|(r, t, o, p)| {
            r.apply_batch(&records)?;
            t.apply_batch(&times)?;
            o.apply_batch(&objects)?;
            p.apply_batch(&position)?;
            Ok(())
        });
        written.map_err(|error: TransactionError<()>| match error {
            TransactionError::Storage(error) => error,
            TransactionError::Abort(()) => sled::Error::Unsupported("aborted".to_owned()),
        })
    }

    fn expired(
        &self,
        before_ms: i64,
    ) -> Result<Vec<(MetadataOffset, TimestampMs, Bytes)>, sled::Error> {
        let end = time_key(TimestampMs(before_ms.max(0)), MetadataOffset::ZERO);
        let mut rows = Vec::new();
        for key in self.times.range(..end).keys().take(EXPIRED_ROWS_MAX) {
            let key = key?;
            if let Some(offset) = offset_in(&key, 8)
                && let Some((wall_ms, bytes)) = self.raw(offset)?
            {
                rows.push((offset, wall_ms, bytes));
            }
        }
        Ok(rows)
    }

    fn raw(&self, offset: MetadataOffset) -> Result<Option<(TimestampMs, Bytes)>, sled::Error> {
        let value = self.records.get(offset.0.to_be_bytes())?;
        Ok(value.and_then(|value| {
            let (wall, bytes) = value.split_first_chunk::<8>()?;
            let wall_ms = TimestampMs(i64::from_be_bytes(*wall));
            Some((wall_ms, Bytes::copy_from_slice(bytes)))
        }))
    }

    fn row(&self, offset: MetadataOffset) -> Option<HistoryRow> {
        let (wall_ms, bytes) = self.raw(offset).ok()??;
        let record = MetadataRecord::decode(&bytes).ok()?;
        Some(HistoryRow {
            offset,
            wall_ms,
            record,
        })
    }
}

/// Times before the epoch sort as the epoch.
fn time_key(time: TimestampMs, offset: MetadataOffset) -> Vec<u8> {
    let mut key = time.0.max(0).to_be_bytes().to_vec();
    key.extend_from_slice(&offset.0.to_be_bytes());
    key
}

fn object_key(object: HistoryObject, offset: MetadataOffset) -> Vec<u8> {
    let mut key = object.key();
    key.extend_from_slice(&offset.0.to_be_bytes());
    key
}

/// The offset that stands at the end of a key, if the key has this prefix length and no more.
fn offset_in(key: &[u8], prefix: usize) -> Option<MetadataOffset> {
    let bytes: [u8; 8] = key.get(prefix..)?.try_into().ok()?;
    Some(MetadataOffset(i64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use ottla_metadata::TopicDeleted;

    use super::*;

    fn batch(base: i64, wall_ms: i64, records: Vec<MetadataRecord>) -> CommittedBatch {
        CommittedBatch {
            base_offset: MetadataOffset(base),
            records: records.iter().map(MetadataRecord::encode).collect(),
            wall_ms: TimestampMs(wall_ms),
        }
    }

    fn deleted(topic: u128) -> MetadataRecord {
        let topic = TopicId::from_random(topic);
        TopicDeleted { topic }.into()
    }

    #[test]
    fn a_record_is_found_by_its_object_and_by_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(&dir.path().join("history"), i64::MAX);
        history.add(&batch(0, 1_000, vec![deleted(1), deleted(2)]));
        history.add(&batch(2, 2_000, vec![deleted(1)]));
        history.flush();
        let object = HistoryObject::Topic(TopicId::from_random(1));
        let offsets: Vec<_> = history.of_object(object, 10);
        let offsets: Vec<_> = offsets.iter().map(|row| row.offset.0).collect();
        assert_eq!(offsets, [0, 2]);
        let between = history.between(TimestampMs(1_500), TimestampMs(2_500), 10);
        assert_eq!(between.len(), 1);
        assert_eq!(between[0].wall_ms, TimestampMs(2_000));
        assert_eq!(history.applied(), Some(MetadataOffset(3)));
    }

    #[test]
    fn rows_older_than_the_retention_go() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::open(&dir.path().join("history"), 500);
        history.add(&batch(0, 1_000, vec![deleted(1)]));
        history.add(&batch(1, 2_000, vec![deleted(1)]));
        history.flush();
        let rows = history.of_object(HistoryObject::Topic(TopicId::from_random(1)), 10);
        let offsets: Vec<_> = rows.iter().map(|row| row.offset.0).collect();
        assert_eq!(offsets, [1]);
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("conf"), b"not sled's").unwrap();
        std::fs::write(path.join("db"), b"not sled's either").unwrap();
        let history = History::open(&path, i64::MAX);
        history.add(&batch(0, 1_000, vec![deleted(1)]));
        history.flush();
        assert_eq!(history.applied(), Some(MetadataOffset(1)));
        assert!(dir.path().join("history.damaged").exists());
    }
}
