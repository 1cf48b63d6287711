//! A decision in the making: records that are replayed as they are decided, and forgotten whole if
//! the decision turns out a refusal.

use std::sync::Arc;

use ottla_metadata::{MetadataDelta, MetadataImage, MetadataRecord};
use ottla_model::ErrorCode;
use ottla_model::error::ApiError;

pub(crate) struct Draft {
    delta: MetadataDelta,
    records: Vec<MetadataRecord>,
}

impl Draft {
    pub(crate) fn new(image: Arc<MetadataImage>) -> Draft {
        Draft {
            delta: MetadataDelta::new(image),
            records: Vec::new(),
        }
    }

    /// The image with the records decided so far.
    pub(crate) fn image(&self) -> &MetadataImage {
        self.delta.image()
    }

    /// Decides a record. A record that does not fit is a bug of the decision; it refuses the
    /// request instead of stopping every controller that meets it.
    pub(crate) fn push(&mut self, record: impl Into<MetadataRecord>) -> Result<(), ApiError> {
        let record = record.into();
        self.delta.replay(&record).map_err(|error| {
            let kind = record.kind();
            let message = format!("the controller decided a {kind} that does not fit: {error}");
            ApiError::new(ErrorCode::UnknownServerError, message)
        })?;
        self.records.push(record);
        Ok(())
    }

    pub(crate) fn record_count(&self) -> usize {
        self.records.len()
    }

    /// The decided records and the image after them.
    pub(crate) fn finish(self) -> (Vec<MetadataRecord>, MetadataImage) {
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        (self.records, self.delta.apply())
    }

    fn check_invariants(&self) {
        let image = self.delta.image();
        for id in self.delta.changed_partitions() {
            let Some(partition) = image.partition(*id) else {
                continue;
            };
            let fenced = |node| image.broker(node).is_none_or(|broker| broker.fenced);
            debug_assert!(
                !partition.leader.is_some_and(fenced),
                "{id} is led by a fenced broker: {partition:?}"
            );
            debug_assert!(
                partition.leader.is_none() || !partition.isr.iter().any(|node| fenced(*node)),
                "{id} is led and has a fenced broker in its ISR: {partition:?}"
            );
        }
    }
}
