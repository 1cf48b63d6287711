//! Replays records onto an image and remembers what they changed.
//!
//! Only here does cluster state change. A record that does not fit the state it meets is refused
//! whole, on every node alike, and is a bug of whoever decided it.

mod broker;
mod error;
mod topic;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::name::TopicName;
use ottla_model::{NodeId, TopicId, TopicIdPartition};

pub use error::ReplayError;

use crate::batch::MetadataBatch;
use crate::image::{MetadataImage, PartitionImage};
use crate::record::MetadataRecord;

/// The changes from one image to a later one.
#[derive(Debug, Clone)]
pub struct MetadataDelta {
    base: Arc<MetadataImage>,
    image: MetadataImage,
    changed_partitions: BTreeSet<TopicIdPartition>,
    changed_topics: BTreeSet<TopicId>,
    deleted_topics: BTreeMap<TopicId, TopicName>,
    short_lived_topics: BTreeSet<TopicId>,
    changed_brokers: BTreeSet<NodeId>,
    controllers_changed: bool,
    configs_changed: bool,
    features_changed: bool,
}

impl MetadataDelta {
    /// No changes yet. Cheap: nothing is copied until it changes.
    pub fn new(base: Arc<MetadataImage>) -> MetadataDelta {
        MetadataDelta {
            image: MetadataImage::clone(&base),
            base,
            changed_partitions: BTreeSet::new(),
            changed_topics: BTreeSet::new(),
            deleted_topics: BTreeMap::new(),
            short_lived_topics: BTreeSet::new(),
            changed_brokers: BTreeSet::new(),
            controllers_changed: false,
            configs_changed: false,
            features_changed: false,
        }
    }

    /// Everything that differs between two images, as if the records between them had been
    /// replayed: for a node that was given a snapshot instead of records.
    pub fn between(base: Arc<MetadataImage>, image: MetadataImage) -> MetadataDelta {
        let mut delta = MetadataDelta::new(base);
        delta.image = image;
        delta.note_differences();
        delta
    }

    /// Changes the image by one record. If it is refused, nothing changed.
    pub fn replay(&mut self, record: &MetadataRecord) -> Result<(), ReplayError> {
        use MetadataRecord as R;
        match record {
            R::ClusterCreated(record) => self.cluster_created(record)?,
            R::BrokerRegistered(record) => self.broker_registered(record),
            R::BrokerChanged(record) => self.broker_changed(record)?,
            R::BrokerUnregistered(record) => self.broker_unregistered(record)?,
            R::TopicCreated(record) => self.topic_created(record)?,
            R::TopicDeleted(record) => self.topic_deleted(record)?,
            R::PartitionCreated(record) => self.partition_created(record)?,
            R::PartitionChanged(record) => self.partition_changed(record)?,
            R::ConfigChanged(record) => self.config_changed(record)?,
            R::FeatureLevelChanged(record) => self.feature_level_changed(record),
            R::ProducerIdsAllocated(record) => self.producer_ids_allocated(record)?,
            R::ControllerRegistered(record) => self.controller_registered(record),
            R::ControllerActivated(record) => self.controller_activated(record),
        }
        self.image.offset = self.image.offset.next();
        Ok(())
    }

    /// Replays a committed entry of the metadata log, unless it was decided on another image than
    /// the one it meets; then it is skipped as a whole. Says whether it was replayed.
    pub fn replay_batch(&mut self, batch: &MetadataBatch) -> Result<bool, ReplayError> {
        if batch.base_offset != self.image.offset {
            return Ok(false);
        }
        for record in &batch.records {
            self.replay(record)?;
        }
        Ok(true)
    }

    /// The image after the records replayed so far.
    pub fn apply(&self) -> MetadataImage {
        self.image.clone()
    }

    /// The image so far, without a copy.
    pub fn image(&self) -> &MetadataImage {
        &self.image
    }

    /// The image the delta began with.
    pub fn base(&self) -> &Arc<MetadataImage> {
        &self.base
    }

    /// Whether no record was replayed.
    pub fn is_empty(&self) -> bool {
        self.base.offset == self.image.offset
    }

    /// Partitions that were created or changed and still exist.
    pub fn changed_partitions(&self) -> &BTreeSet<TopicIdPartition> {
        &self.changed_partitions
    }

    /// Topics that were created, given partitions or configured, and still exist.
    pub fn changed_topics(&self) -> &BTreeSet<TopicId> {
        &self.changed_topics
    }

    /// Topics of the base image that are gone, with their names. Their partitions are found in
    /// [`MetadataDelta::base`].
    pub fn deleted_topics(&self) -> &BTreeMap<TopicId, TopicName> {
        &self.deleted_topics
    }

    /// Topics that were created and deleted since the base image. A broker that had applied the
    /// same records before it was killed may have made their logs.
    pub fn short_lived_topics(&self) -> &BTreeSet<TopicId> {
        &self.short_lived_topics
    }

    /// Brokers that were registered, changed or unregistered.
    pub fn changed_brokers(&self) -> &BTreeSet<NodeId> {
        &self.changed_brokers
    }

    pub fn controllers_changed(&self) -> bool {
        self.controllers_changed
    }

    /// Whether a setting of the whole cluster changed.
    pub fn configs_changed(&self) -> bool {
        self.configs_changed
    }

    pub fn features_changed(&self) -> bool {
        self.features_changed
    }

    fn note_differences(&mut self) {
        let (base, image) = (Arc::clone(&self.base), self.image.clone());
        for topic in image.topics.iter() {
            let old = base.topic(topic.id);
            if old == Some(topic) {
                continue;
            }
            if old.is_none_or(|old| {
                old.configs != topic.configs
                    || old.config != topic.config
                    || old.partition_count() != topic.partition_count()
            }) {
                self.changed_topics.insert(topic.id);
            }
            let changed = |(id, state): &(TopicIdPartition, &PartitionImage)| {
                base.partition(*id) != Some(*state)
            };
            let partitions = topic.iter().filter(changed).map(|(id, _)| id);
            self.changed_partitions.extend(partitions);
        }
        let gone = base.topics.iter().filter(|t| image.topic(t.id).is_none());
        self.deleted_topics = gone.map(|t| (t.id, t.name.clone())).collect();
        let ids = base.brokers.keys().chain(image.brokers.keys());
        let changed = ids.filter(|id| base.broker(**id) != image.broker(**id));
        self.changed_brokers = changed.copied().collect();
        self.controllers_changed = base.controllers != image.controllers;
        self.configs_changed = base.configs != image.configs;
        self.features_changed = base.features != image.features;
    }
}
