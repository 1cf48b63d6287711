//! Whether the journal may be given more. What it is given waits in memory until it is written, and
//! he who gave it need not wait for that: a producer that wants no acknowledgement, or waits no
//! longer for one, or a leader that sends on what its producers wrote. So whoever takes in records
//! looks here first, and what comes over the network waits there.

use std::sync::Arc;

use ottla_log::LogStore;
use tokio::sync::Notify;

/// While so many bytes wait for the journal, nothing more is taken in: several of the largest
/// groups that it writes at once.
const QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The room for records that wait for a store's journal.
#[derive(Debug)]
pub struct JournalRoom {
    store: Arc<LogStore>,
    bytes_max: usize,
    written: Notify,
}

impl JournalRoom {
    pub fn of(store: Arc<LogStore>) -> JournalRoom {
        JournalRoom {
            store,
            bytes_max: QUEUED_BYTES_MAX,
            written: Notify::new(),
        }
    }

    /// The journal has written what waited. Called by its thread.
    pub fn written(&self) {
        self.written.notify_waiters();
    }

    /// Waits until records may be taken in.
    pub async fn wait(&self) {
        loop {
            // Before the look, so that what is written after it is not missed.
            let written = self.written.notified();
            if self.store.queued_bytes() < self.bytes_max {
                return;
            }
            written.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::OnceLock;
    use std::time::Duration;

    use futures::FutureExt as _;
    use ottla_log::disk::Call;
    use ottla_log::{Flushed, LogSettings, SimDisk, StoreConfig};
    use ottla_model::batch::{BatchBuilder, NewRecord, stamp};
    use ottla_model::compression::Compression;
    use ottla_model::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicIdPartition};

    use super::*;

    fn batch(base: i64) -> bytes::Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        let record = NewRecord {
            value: Some(&[7; 1000]),
            ..NewRecord::default()
        };
        builder.push(&record).expect("a record that fits");
        let mut batch = builder.build().expect("a batch").to_vec();
        stamp(&mut batch, Offset(base), LeaderEpoch(0), None);
        batch.into()
    }

    #[tokio::test]
    async fn nothing_is_taken_in_while_much_waits_for_a_disk_that_hangs() {
        let disk = SimDisk::new();
        let told: Arc<OnceLock<Arc<JournalRoom>>> = Arc::default();
        let tells = Arc::clone(&told);
        let store = LogStore::open(
            Arc::new(disk.clone()),
            Path::new("/log"),
            StoreConfig::default(),
            Arc::new(move |_: &[Flushed]| {
                if let Some(room) = tells.get() {
                    room.written();
                }
            }),
            Arc::new(|error| panic!("storage failed: {error}")),
        );
        let store = Arc::new(store.expect("a store"));
        let room = Arc::new(JournalRoom {
            bytes_max: 5_000,
            ..JournalRoom::of(Arc::clone(&store))
        });
        let _ = told.set(Arc::clone(&room));
        let id = TopicIdPartition::new(TopicId::from_bytes([5; 16]), PartitionIndex(0));
        let log = store.get_or_create(id, LogSettings::default());
        let log = log.expect("a log");
        assert!(room.wait().now_or_never().is_some());

        let hold = disk.hold(Call::Sync, "journal");
        log.append(1, batch(0)).expect("it is taken");
        assert!(hold.wait_until_reached());
        let mut end = 1;
        while room.wait().now_or_never().is_some() {
            assert!(end < 10, "ever more waits in memory");
            log.append(end as u64 + 1, batch(end)).expect("it is taken");
            end += 1;
        }
        hold.release();
        let patience = Duration::from_secs(20);
        tokio::time::timeout(patience, room.wait())
            .await
            .expect("the journal goes on");
    }
}
