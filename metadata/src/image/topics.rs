//! All topics, by id and by name.

use std::sync::Arc;

use imbl::OrdMap;
use ottla_model::TopicId;
use ottla_model::name::TopicName;

use super::TopicImage;

/// Every topic, found by id, by name and by what its name collides with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Topics {
    by_id: OrdMap<TopicId, Arc<TopicImage>>,
    by_name: OrdMap<String, TopicId>,
    by_collision_key: OrdMap<String, TopicId>,
}

impl Topics {
    pub fn get(&self, id: TopicId) -> Option<&TopicImage> {
        self.by_id.get(&id).map(Arc::as_ref)
    }

    pub fn by_name(&self, name: &str) -> Option<&TopicImage> {
        self.get(*self.by_name.get(name)?)
    }

    /// The topic whose name is this one, or equals it once `.` and `_` are made equal.
    pub fn colliding_with(&self, name: &TopicName) -> Option<&TopicImage> {
        self.get(*self.by_collision_key.get(&name.collision_key())?)
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// All topics, in order of id.
    pub fn iter(&self) -> impl Iterator<Item = &TopicImage> {
        self.by_id.values().map(Arc::as_ref)
    }

    /// All topics, in order of name.
    pub fn iter_by_name(&self) -> impl Iterator<Item = &TopicImage> {
        self.by_name.values().filter_map(|id| self.get(*id))
    }

    pub(crate) fn insert(&mut self, topic: TopicImage) {
        self.by_name.insert(topic.name.to_string(), topic.id);
        self.by_collision_key
            .insert(topic.name.collision_key(), topic.id);
        self.by_id.insert(topic.id, Arc::new(topic));
    }

    pub(crate) fn remove(&mut self, id: TopicId) -> Option<Arc<TopicImage>> {
        let topic = self.by_id.remove(&id)?;
        self.by_name.remove(topic.name.as_str());
        self.by_collision_key.remove(&topic.name.collision_key());
        Some(topic)
    }

    pub(crate) fn get_mut(&mut self, id: TopicId) -> Option<&mut TopicImage> {
        self.by_id.get_mut(&id).map(Arc::make_mut)
    }

    pub(crate) fn ids(&self) -> Vec<TopicId> {
        self.by_id.keys().copied().collect()
    }
}
