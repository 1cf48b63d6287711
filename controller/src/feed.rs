//! What this controller has applied, for everyone who follows it: the current image, and the
//! batches that led to it as far back as memory allows. One writer, any number of readers; a
//! reader keeps its own place and is never waited for.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use ottla_metadata::MetadataImage;
use ottla_model::{MetadataOffset, TimestampMs};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Where the consensus log stands that an image was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogPosition {
    pub term: u64,
    pub index: u64,
}

/// The newest image, and what it was made of.
#[derive(Debug, Clone, Default)]
pub struct Current {
    pub image: Arc<MetadataImage>,
    /// `None` before the first entry.
    pub applied: Option<LogPosition>,
}

/// The records of one committed entry, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedBatch {
    pub base_offset: MetadataOffset,
    pub records: Vec<Bytes>,
    pub wall_ms: TimestampMs,
}

impl CommittedBatch {
    pub fn end_offset(&self) -> MetadataOffset {
        self.base_offset + self.records.len() as i64
    }

    fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.len() + 32).sum()
    }
}

/// What a reader at some offset needs next.
#[derive(Debug, Clone)]
pub enum Next {
    /// Nothing: it has everything, or even more than this controller has applied so far.
    Nothing,
    /// These batches, the first of which may begin before the offset asked for.
    Batches(Vec<Arc<CommittedBatch>>),
    /// The offset is behind what memory holds: everything.
    Snapshot(Arc<MetadataImage>),
}

/// The applied metadata log.
#[derive(Debug)]
pub struct Feed {
    recent: Mutex<Recent>,
    current: watch::Sender<Current>,
}

#[derive(Debug)]
struct Recent {
    batches: VecDeque<Arc<CommittedBatch>>,
    bytes: usize,
    bytes_max: usize,
}

/// The most batches one read returns.
const READ_BATCHES_MAX: usize = 256;

impl Feed {
    /// Keeps so many bytes of recent batches.
    pub fn new(bytes_max: usize) -> Feed {
        Feed {
            recent: Mutex::new(Recent {
                batches: VecDeque::new(),
                bytes: 0,
                bytes_max,
            }),
            current: watch::Sender::new(Current::default()),
        }
    }

    /// An entry was applied; it may have carried no records.
    pub fn publish(&self, current: Current, batch: Option<CommittedBatch>) {
        if let Some(batch) = batch.filter(|batch| !batch.records.is_empty()) {
            let mut recent = self.recent.lock();
            recent.bytes += batch.bytes();
            recent.batches.push_back(Arc::new(batch));
            while recent.bytes > recent.bytes_max && recent.batches.len() > 1 {
                if let Some(oldest) = recent.batches.pop_front() {
                    recent.bytes -= oldest.bytes();
                }
            }
        }
        self.current.send_replace(current);
    }

    /// Everything was replaced by a snapshot.
    pub fn replace(&self, current: Current) {
        let mut recent = self.recent.lock();
        recent.batches.clear();
        recent.bytes = 0;
        drop(recent);
        self.current.send_replace(current);
    }

    pub fn current(&self) -> Current {
        self.current.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Current> {
        self.current.subscribe()
    }

    /// What a reader needs whose next offset is `from`.
    pub fn next(&self, from: MetadataOffset) -> Next {
        let recent = self.recent.lock();
        let image = self.current.borrow().image.clone();
        // A batch is in the ring before its image is current; the image says what is readable.
        if from >= image.offset {
            return Next::Nothing;
        }
        let first = recent.batches.front();
        let reaches_back = first.is_some_and(|first| first.base_offset <= from);
        if !reaches_back {
            return Next::Snapshot(image);
        }
        let start = recent
            .batches
            .partition_point(|batch| batch.end_offset() <= from);
        let wanted = recent.batches.range(start..);
        let wanted = wanted.take_while(|batch| batch.end_offset() <= image.offset);
        Next::Batches(wanted.take(READ_BATCHES_MAX).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The image's indexes are its own, so it cannot be made in one expression.
    #[allow(clippy::field_reassign_with_default)]
    fn publish(feed: &Feed, base: i64, count: usize) {
        let mut image = MetadataImage::default();
        image.offset = MetadataOffset(base + count as i64);
        let current = Current {
            image: Arc::new(image),
            applied: None,
        };
        let batch = CommittedBatch {
            base_offset: MetadataOffset(base),
            records: vec![Bytes::from_static(b"0123456789"); count],
            wall_ms: TimestampMs(0),
        };
        feed.publish(current, Some(batch));
    }

    #[test]
    fn a_reader_gets_the_batch_that_its_offset_lies_in_and_all_after_it() {
        let feed = Feed::new(1 << 20);
        publish(&feed, 0, 3);
        publish(&feed, 3, 2);
        let Next::Batches(batches) = feed.next(MetadataOffset(2)) else {
            panic!("the batches are in memory");
        };
        let bases: Vec<_> = batches.iter().map(|batch| batch.base_offset.0).collect();
        assert_eq!(bases, [0, 3]);
        assert!(matches!(feed.next(MetadataOffset(5)), Next::Nothing));
    }

    #[test]
    fn a_reader_too_far_back_gets_a_snapshot_and_one_ahead_waits() {
        let feed = Feed::new(100);
        for base in 0..10 {
            publish(&feed, base, 1);
        }
        assert!(matches!(feed.next(MetadataOffset(0)), Next::Snapshot(_)));
        assert!(matches!(feed.next(MetadataOffset(11)), Next::Nothing));
        assert!(matches!(feed.next(MetadataOffset(9)), Next::Batches(_)));
    }
}
