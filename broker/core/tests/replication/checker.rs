//! The invariants of the data plane, checked over the whole cluster.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ottla_model::batch::BatchHeader;
use ottla_model::{LeaderEpoch, NodeId, Offset};

use super::cluster::Cluster;
use super::disk::Log;

/// What was ever committed, and who ever led.
#[derive(Debug, Default)]
pub struct Checker {
    /// Set once an unclean election allowed the loss of committed records.
    pub is_lossy: bool,
    /// Batches that compaction removed somewhere, by their base.
    pub compacted: BTreeSet<Offset>,
    /// Everything below was reported as trimmed.
    pub trimmed: Offset,
    committed: BTreeMap<Offset, (Offset, Bytes)>,
    leaders: BTreeMap<LeaderEpoch, NodeId>,
}

impl Checker {
    /// I4: at most one leader per leader epoch.
    pub fn leads(&mut self, epoch: LeaderEpoch, node: NodeId) {
        let first = *self.leaders.entry(epoch).or_insert(node);
        assert!(
            first == node,
            "{first} and {node} both lead in epoch {epoch}"
        );
    }

    /// I2: what a leader shows to consumers never changes. The leader's log is committed up to
    /// `to`.
    pub fn committed(&mut self, log: &Log, to: Offset) {
        if self.is_lossy {
            return;
        }
        for (header, bytes) in log.batches.iter().rev() {
            if header.next_offset() > to {
                continue;
            }
            match self.committed.get(&header.base_offset) {
                Some((_, known)) => {
                    assert!(
                        known == bytes,
                        "the committed batch at {} changed",
                        header.base_offset
                    );
                    if self.compacted.is_empty() {
                        break;
                    }
                }
                None => {
                    let entry = (header.next_offset(), bytes.clone());
                    self.committed.insert(header.base_offset, entry);
                }
            }
        }
    }

    /// I1: an acknowledged batch was committed, as it was sent.
    pub fn acknowledged(&self, base_offset: Offset, sent: &BatchHeader) {
        if self.is_lossy {
            return;
        }
        let (_, bytes) = &self.committed[&base_offset];
        let written = BatchHeader::decode(bytes).expect("a batch");
        assert!(
            written.producer_id == sent.producer_id
                && written.base_sequence == sent.base_sequence
                && written.crc == sent.crc,
            "another batch than the acknowledged one is at {base_offset}"
        );
    }

    fn contains_committed(&self, log: &Log) -> Result<(), String> {
        let mut at = log.batches.iter().peekable();
        for (base, (_, bytes)) in self.committed.range(log.start..) {
            let is_next = at.peek().is_some_and(|(h, _)| h.base_offset == *base);
            if !is_next && self.compacted.contains(base) {
                continue;
            }
            match at.next() {
                Some((header, held)) if header.base_offset == *base && held == bytes => {}
                other => {
                    let found = other.map(|(header, _)| header.base_offset);
                    return Err(format!("committed batch at {base} is missing: {found:?}"));
                }
            }
        }
        Ok(())
    }

    /// I1, I5: whoever may be elected has everything committed on its stable storage. I3: logs are
    /// the same below the smaller of their high watermarks.
    pub fn check(&self, cluster: &Cluster) {
        if self.is_lossy {
            return;
        }
        for node in &cluster.controller.image().isr {
            let durable = &cluster.nodes[node].disk.durable;
            assert!(
                durable.start >= self.trimmed,
                "node {node} may be elected and starts at {}, below what was trimmed: {}",
                durable.start,
                self.trimmed
            );
            if let Err(problem) = self.contains_committed(durable) {
                panic!("node {node} is in the ISR, and {problem}");
            }
        }
        for (node, replica) in &cluster.nodes {
            let Some(core) = &replica.core else { continue };
            let below = |header: &BatchHeader| header.next_offset() <= core.high_watermark();
            let log = &replica.disk.written;
            for (header, bytes) in log.batches.iter().filter(|(header, _)| below(header)) {
                let known = self.committed.get(&header.base_offset);
                assert!(
                    known.is_some_and(|(_, committed)| committed == bytes),
                    "node {node} has another batch at {} below its high watermark {}",
                    header.base_offset,
                    core.high_watermark()
                );
            }
        }
    }

    /// After healing: no idempotent batch is in a log twice.
    pub fn check_no_duplicates(log: &Log) {
        let mut seen = BTreeMap::new();
        for (header, _) in &log.batches {
            let key = (header.producer_id, header.base_sequence);
            let earlier = seen.insert(key, header.base_offset);
            assert!(
                earlier.is_none() || !header.is_idempotent(),
                "producer {} wrote sequence {} at {earlier:?} and at {}",
                header.producer_id,
                header.base_sequence,
                header.base_offset
            );
        }
    }
}
