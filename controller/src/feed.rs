//! The committed metadata as watchers read it: the recent entries in memory, and a snapshot for
//! those who are further behind.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use ottla_metadata::{MetadataImage, encode_snapshot};
use ottla_model::MetadataOffset;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use crate::quorum::{Committed, Quorum};

/// The most records that stay in memory for watchers.
const RECORDS_KEPT: usize = 200_000;

/// What a watcher that stands at some offset is sent next.
pub enum Next {
    /// Nothing is newer.
    Nothing,
    /// These entries, in order; the first may begin earlier.
    Entries(Vec<Arc<Committed>>),
    /// Everything, since the records from there on are no longer kept.
    Snapshot(Arc<MetadataImage>),
}

/// The feed of one controller.
pub struct MetadataFeed {
    state: Mutex<State>,
    end: watch::Sender<MetadataOffset>,
}

struct State {
    recent: VecDeque<Arc<Committed>>,
    records: usize,
    image: Arc<MetadataImage>,
}

impl MetadataFeed {
    pub fn new() -> MetadataFeed {
        let state = State {
            recent: VecDeque::new(),
            records: 0,
            image: Arc::new(MetadataImage::default()),
        };
        MetadataFeed {
            state: Mutex::new(state),
            end: watch::channel(MetadataOffset::ZERO).0,
        }
    }

    /// Takes in what the quorum commits, for the life of the node.
    pub async fn run(self: Arc<Self>, quorum: Quorum) {
        let mut committed = quorum.subscribe();
        self.start_over(quorum.image());
        loop {
            match committed.recv().await {
                Ok(entry) => self.add(entry),
                Err(RecvError::Lagged(_)) => self.start_over(quorum.image()),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn start_over(&self, image: Arc<MetadataImage>) {
        let offset = image.offset;
        let mut state = self.state.lock();
        state.recent.clear();
        state.records = 0;
        state.image = image;
        drop(state);
        self.end.send_replace(offset);
    }

    fn add(&self, entry: Arc<Committed>) {
        let mut state = self.state.lock();
        let offset = entry.image.offset;
        if offset <= state.image.offset {
            // Known from the image that was read after subscribing.
            return;
        }
        if entry.base_offset != state.image.offset {
            // A snapshot came in between.
            state.recent.clear();
            state.records = 0;
        }
        state.records += entry.records.len();
        state.image = Arc::clone(&entry.image);
        state.recent.push_back(entry);
        while state.records > RECORDS_KEPT
            && let Some(oldest) = state.recent.pop_front()
        {
            state.records -= oldest.records.len();
        }
        drop(state);
        self.end.send_replace(offset);
    }

    /// The offset up to which metadata is committed here.
    pub fn end(&self) -> watch::Receiver<MetadataOffset> {
        self.end.subscribe()
    }

    /// What comes next for a watcher at `from`.
    pub fn next(&self, from: MetadataOffset) -> Next {
        let state = self.state.lock();
        if from >= state.image.offset {
            return Next::Nothing;
        }
        let kept_from = state.recent.front().map(|entry| entry.base_offset);
        match kept_from {
            Some(start) if start <= from => {
                let wanted = |entry: &&Arc<Committed>| entry.image.offset > from;
                Next::Entries(state.recent.iter().filter(wanted).cloned().collect())
            }
            _ => Next::Snapshot(Arc::clone(&state.image)),
        }
    }
}

/// A snapshot's rows, in parts of about this size, in bytes.
pub fn snapshot_parts(image: &MetadataImage, part_bytes: usize) -> Vec<Vec<Bytes>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut size = 0;
    for row in encode_snapshot(image) {
        size += row.len();
        part.push(row);
        if size >= part_bytes {
            parts.push(std::mem::take(&mut part));
            size = 0;
        }
    }
    // An empty cluster, too, is told of.
    if !part.is_empty() || parts.is_empty() {
        parts.push(part);
    }
    parts
}
