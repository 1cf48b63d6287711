//! The tail cache of one log: its last batches, in memory. They are always a whole end of the log.

use std::collections::VecDeque;

use bytes::Bytes;
use ottla_model::Offset;

use crate::segment::BatchMeta;

/// A batch in memory.
#[derive(Debug, Clone)]
pub(crate) struct CachedBatch {
    pub meta: BatchMeta,
    pub bytes: Bytes,
}

/// The log's last batches.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    batches: VecDeque<CachedBatch>,
}

impl Tail {
    /// The offset from which on every batch is here.
    pub fn start(&self) -> Option<Offset> {
        self.batches.front().map(|batch| batch.meta.base)
    }

    pub fn push(&mut self, meta: BatchMeta, bytes: Bytes) {
        debug_assert!(
            self.batches
                .back()
                .is_none_or(|last| last.meta.next <= meta.base)
        );
        self.batches.push_back(CachedBatch { meta, bytes });
    }

    /// The batches from the one that holds `from`.
    pub fn from(&self, from: Offset) -> impl Iterator<Item = &CachedBatch> {
        let first = self
            .batches
            .partition_point(|batch| batch.meta.next <= from);
        self.batches.range(first..)
    }

    /// Whole batches under the limits of a read.
    pub fn read(&self, from: Offset, limit: Offset, max_bytes: usize) -> Vec<Bytes> {
        let mut out = Vec::new();
        let mut taken = 0;
        for batch in self.from(from).take_while(|batch| batch.meta.base < limit) {
            taken += batch.meta.size;
            if taken > max_bytes && !out.is_empty() {
                break;
            }
            out.push(batch.bytes.clone());
        }
        out
    }

    /// Drops batches at and above `to`; returns how many bytes that were.
    pub fn cut(&mut self, to: Offset) -> u64 {
        let mut bytes = 0;
        while let Some(last) = self.batches.pop_back_if(|batch| batch.meta.base >= to) {
            bytes += last.meta.size as u64;
        }
        bytes
    }

    /// Drops batches that end at or below `to`, oldest first, until `enough` bytes are gone;
    /// returns how many are, and whether more could go.
    pub fn evict(&mut self, to: Offset, enough: u64) -> (u64, bool) {
        let mut bytes = 0;
        while bytes < enough {
            let Some(first) = self.batches.pop_front_if(|batch| batch.meta.next <= to) else {
                break;
            };
            bytes += first.meta.size as u64;
        }
        if self.batches.is_empty() {
            self.batches.shrink_to_fit();
        }
        let more = self
            .batches
            .front()
            .is_some_and(|batch| batch.meta.next <= to);
        (bytes, more)
    }

    /// Bytes of batches at and above `from`.
    pub fn bytes_from(&self, from: Offset) -> u64 {
        self.from(from).map(|batch| batch.meta.size as u64).sum()
    }
}
