//! What the records of topics, partitions and settings change.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use ottla_model::{LeaderEpoch, PartitionEpoch, TopicId, TopicIdPartition};

use super::{MetadataDelta, ReplayError};
use crate::image::{PartitionImage, TopicImage};
use crate::record::{
    ConfigChanged, ConfigResource, PartitionChanged, PartitionCreated, TopicCreated, TopicDeleted,
};

impl MetadataDelta {
    pub(super) fn topic_created(&mut self, record: &TopicCreated) -> Result<(), ReplayError> {
        let topics = &self.image.topics;
        if topics.get(record.topic).is_some() || topics.colliding_with(&record.name).is_some() {
            return Err(ReplayError::TopicExists {
                topic: record.topic,
            });
        }
        let configs = OrdMap::new();
        let config = Arc::new(self.image.resolve_config(&configs));
        self.image.topics.insert(TopicImage {
            id: record.topic,
            name: record.name.clone(),
            partitions: Vector::new(),
            configs,
            config,
        });
        self.changed_topics.insert(record.topic);
        Ok(())
    }

    pub(super) fn topic_deleted(&mut self, record: &TopicDeleted) -> Result<(), ReplayError> {
        let id = record.topic;
        let topic = self
            .image
            .topics
            .remove(id)
            .ok_or(ReplayError::NoSuchTopic { topic: id })?;
        for (partition, state) in topic.iter() {
            self.image.indexes.change(partition, Some(state), None);
            self.changed_partitions.remove(&partition);
        }
        self.changed_topics.remove(&id);
        if self.base.topic(id).is_some() {
            self.deleted_topics.insert(id, topic.name.clone());
        } else {
            self.short_lived_topics.insert(id);
        }
        Ok(())
    }

    pub(super) fn partition_created(
        &mut self,
        record: &PartitionCreated,
    ) -> Result<(), ReplayError> {
        let id = TopicIdPartition::new(record.topic, record.partition);
        let topic = self.image.topic(id.topic);
        let partitions = topic
            .ok_or(ReplayError::NoSuchTopic { topic: id.topic })?
            .partition_count();
        if usize::try_from(id.partition.0) != Ok(partitions) {
            return Err(ReplayError::NotTheNextPartition { id, partitions });
        }
        let state = PartitionImage {
            replicas: record.replicas.clone(),
            isr: record.isr.clone(),
            elr: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            leader: Some(record.leader),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
        };
        self.put_partition(id, state)?;
        self.changed_topics.insert(id.topic);
        Ok(())
    }

    pub(super) fn partition_changed(
        &mut self,
        record: &PartitionChanged,
    ) -> Result<(), ReplayError> {
        let id = record.id();
        let old = self.image.partition(id);
        let mut state = old.ok_or(ReplayError::NoSuchPartition { id })?.clone();
        let fields = [
            (&record.replicas, &mut state.replicas),
            (&record.isr, &mut state.isr),
            (&record.elr, &mut state.elr),
            (&record.adding, &mut state.adding),
            (&record.removing, &mut state.removing),
        ];
        for (new, field) in fields {
            if let Some(new) = new {
                field.clone_from(new);
            }
        }
        if let Some(change) = record.leader {
            state.leader = change.leader();
            state.leader_epoch = state.leader_epoch.next();
        }
        state.partition_epoch = state.partition_epoch.next();
        self.put_partition(id, state)
    }

    pub(super) fn config_changed(&mut self, record: &ConfigChanged) -> Result<(), ReplayError> {
        let resource = record.resource;
        let configs = match resource {
            ConfigResource::Cluster => &mut self.image.configs,
            ConfigResource::Topic(id) => {
                let topic = self.image.topics.get_mut(id);
                &mut topic.ok_or(ReplayError::NoSuchTopic { topic: id })?.configs
            }
        };
        match &record.value {
            Some(value) => configs.insert(record.name.clone(), value.clone()),
            None => configs.remove(&record.name),
        };
        match resource {
            ConfigResource::Topic(id) => self.resolve_topic(id),
            ConfigResource::Cluster => {
                self.configs_changed = true;
                for id in self.image.topics.ids() {
                    self.resolve_topic(id);
                }
            }
        }
        Ok(())
    }

    /// Brings the effective settings of a topic up to date.
    fn resolve_topic(&mut self, id: TopicId) {
        let Some(topic) = self.image.topic(id) else {
            return;
        };
        let config = Arc::new(self.image.resolve_config(&topic.configs));
        if let Some(topic) = self.image.topics.get_mut(id) {
            topic.config = config;
        }
        self.changed_topics.insert(id);
    }

    fn put_partition(
        &mut self,
        id: TopicIdPartition,
        state: PartitionImage,
    ) -> Result<(), ReplayError> {
        if let Some(reason) = state.violation() {
            return Err(ReplayError::InvalidPartition { id, reason });
        }
        self.image.put_partition(id, state);
        self.changed_partitions.insert(id);
        Ok(())
    }
}
