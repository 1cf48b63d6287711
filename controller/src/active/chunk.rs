//! Packs decisions into entries: as many as fit, each whole, in the order in which they were made.

use ottla_metadata::MetadataRecord;
use ottla_model::error::ApiError;
use ottla_model::limits::METADATA_RECORDS_PER_ENTRY_MAX;
use tokio::sync::oneshot;

use super::Decided;
use ottla_controller_core::Reply;

/// An answer that waits until what it rests on is applied.
pub struct Parked {
    pub result: Result<Reply, ApiError>,
    pub answer: oneshot::Sender<Result<Decided, ApiError>>,
}

/// The records of one entry, and the answers that are true once it is applied.
#[derive(Default)]
pub struct Chunk {
    pub records: Vec<MetadataRecord>,
    pub parked: Vec<Parked>,
}

/// The entries of one round of decisions.
#[derive(Default)]
pub struct Chunks {
    chunks: Vec<Chunk>,
    records: usize,
}

impl Chunks {
    /// Adds one decision. Only a decision that is larger than an entry is cut; the core says
    /// which those may be.
    pub fn add(&mut self, mut records: Vec<MetadataRecord>, parked: Option<Parked>) {
        self.records += records.len();
        let fits = self.chunks.last().is_some_and(|last| {
            last.records.len() + records.len() <= METADATA_RECORDS_PER_ENTRY_MAX
        });
        if !fits {
            self.chunks.push(Chunk::default());
        }
        loop {
            let rest = records.split_off(records.len().min(METADATA_RECORDS_PER_ENTRY_MAX));
            if let Some(last) = self.chunks.last_mut() {
                last.records.append(&mut records);
            }
            if rest.is_empty() {
                break;
            }
            records = rest;
            self.chunks.push(Chunk::default());
        }
        if let (Some(parked), Some(last)) = (parked, self.chunks.last_mut()) {
            last.parked.push(parked);
        }
    }

    /// How many records there are in all.
    pub fn records(&self) -> usize {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub fn into_vec(self) -> Vec<Chunk> {
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use ottla_metadata::TopicDeleted;
    use ottla_model::TopicId;

    use super::*;

    fn records(count: usize) -> Vec<MetadataRecord> {
        let topic = TopicId::ZERO;
        vec![TopicDeleted { topic }.into(); count]
    }

    fn sizes(chunks: Chunks) -> Vec<usize> {
        let chunks = chunks.into_vec();
        chunks.iter().map(|chunk| chunk.records.len()).collect()
    }

    #[test]
    fn decisions_share_an_entry_while_they_fit_and_stay_whole() {
        let mut chunks = Chunks::default();
        for count in [9_000, 9_000, 9_000, 1] {
            chunks.add(records(count), None);
        }
        assert_eq!(sizes(chunks), [18_000, 9_001]);
    }

    #[test]
    fn a_decision_larger_than_an_entry_is_cut() {
        let mut chunks = Chunks::default();
        chunks.add(records(5), None);
        chunks.add(records(50_000), None);
        assert_eq!(sizes(chunks), [5, 20_000, 20_000, 10_000]);
    }
}
