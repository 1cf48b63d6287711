//! All replicas of this broker, and how metadata reaches them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ottla_broker_core::partition::{Assignment, Input, LogState, Partition, PartitionSetup, Role};
use ottla_log::{CompactionSettings, LogError, LogSettings, LogStore, PartitionLog};
use ottla_metadata::{MetadataImage, PartitionImage, TopicImage};
use ottla_model::config::TopicConfig;
use ottla_model::{IncarnationId, NodeId, Offset, TopicId, TopicIdPartition};
use parking_lot::{Mutex, RwLock};

use crate::config::BrokerConfig;
use crate::image::ImageChange;
use crate::journal_room::JournalRoom;
use crate::replica::{Replica, ReplicaContext, chain, load_producers};

/// The replicas of one broker.
pub struct ReplicaManager {
    node_id: NodeId,
    incarnation: IncarnationId,
    setup: SetupDefaults,
    store: Arc<LogStore>,
    journal_room: JournalRoom,
    context: Arc<ReplicaContext>,
    replicas: RwLock<HashMap<TopicIdPartition, Arc<Replica>>>,
    /// The image that was applied last. Held while one is applied: one after the other.
    applied: Mutex<Arc<MetadataImage>>,
}

struct SetupDefaults {
    replica_lag_time_max: std::time::Duration,
    producer_expiration_ms: i64,
}

impl ReplicaManager {
    pub fn new(
        config: &BrokerConfig,
        store: Arc<LogStore>,
        context: Arc<ReplicaContext>,
    ) -> ReplicaManager {
        ReplicaManager {
            node_id: config.node_id,
            incarnation: config.incarnation,
            setup: SetupDefaults {
                replica_lag_time_max: config.replica_lag_time_max,
                producer_expiration_ms: config.producer_expiration_ms,
            },
            journal_room: JournalRoom::of(Arc::clone(&store)),
            store,
            context,
            replicas: RwLock::new(HashMap::new()),
            applied: Mutex::default(),
        }
    }

    pub fn get(&self, id: TopicIdPartition) -> Option<Arc<Replica>> {
        self.replicas.read().get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Replica>> {
        self.replicas.read().values().cloned().collect()
    }

    /// Hands a group commit to the replicas it concerns. Called by the journal's thread.
    pub fn flushed(&self, flushed: &[ottla_log::Flushed]) {
        self.journal_room.written();
        for part in flushed {
            if let Some(replica) = self.get(part.id) {
                replica.step(Input::Flushed {
                    ticket: part.ticket,
                });
            }
        }
    }

    /// Waits until records may be taken in: while too much waits for the journal, nothing is.
    pub async fn wait_for_journal(&self) {
        self.journal_room.wait().await;
    }

    /// Applies a new image to the replicas. Blocks on the disk where logs are made or removed.
    pub fn apply(&self, change: &ImageChange) {
        let mut applied = self.applied.lock();
        *applied = Arc::clone(&change.image);
        let image = &change.image;
        match &change.delta {
            None => self.apply_all(image),
            Some(delta) => {
                for topic in delta.deleted_topics().keys() {
                    self.remove_topic(*topic);
                }
                self.remove_logs_of(delta.short_lived_topics());
                let mut ids: BTreeSet<_> = delta.changed_partitions().clone();
                for topic in delta.changed_topics() {
                    ids.extend(self.local_partitions_of(*topic));
                }
                for broker in delta.changed_brokers().iter().copied() {
                    // Who may join the ISR, and where a leader is, may have changed.
                    self.context.leader_links.poke(broker);
                    let with_both = |id: &TopicIdPartition| self.get(*id).is_some();
                    ids.extend(image.partitions_with_replica(broker).filter(with_both));
                    if broker == self.node_id {
                        ids.extend(image.partitions_with_replica(broker));
                    }
                }
                for id in ids {
                    self.apply_partition(image, id);
                }
            }
        }
    }

    /// Applies the last image once more, for what stood in its way. No other will do: the image
    /// that somebody looked at a moment ago may be older.
    pub fn apply_again(&self) {
        let applied = self.applied.lock();
        self.apply_all(&applied);
    }

    fn apply_all(&self, image: &MetadataImage) {
        let local: BTreeSet<_> = image.partitions_with_replica(self.node_id).collect();
        let known: Vec<_> = self.replicas.read().keys().copied().collect();
        for id in known.into_iter().filter(|id| !local.contains(id)) {
            self.remove(id);
        }
        for id in local {
            self.apply_partition(image, id);
        }
    }

    /// Sets aside the logs on disk that the metadata does not place here; those without a record
    /// are deleted. Only called with an image that is at least as new as this run's registration.
    pub fn set_strays_aside(&self, image: &MetadataImage) {
        let _one_at_a_time = self.applied.lock();
        for id in self.store.ids() {
            if self.is_placed_here(image, id) || self.get(id).is_some() {
                continue;
            }
            let holds_none = |log: &Arc<PartitionLog>| log.log_start() == log.log_end();
            if self.store.get(id).as_ref().is_some_and(holds_none) {
                self.remove(id);
                continue;
            }
            match self.store.set_aside(id) {
                Ok(path) => tracing::warn!(partition = %id, path = %path.display(),
                    "the metadata does not know this log here; it is set aside"),
                Err(error) => {
                    tracing::error!(partition = %id, %error, "cannot set a stray log aside")
                }
            }
        }
    }

    fn is_placed_here(&self, image: &MetadataImage, id: TopicIdPartition) -> bool {
        image
            .partition(id)
            .is_some_and(|partition| partition.replicas.contains(&self.node_id))
    }

    fn local_partitions_of(&self, topic: TopicId) -> Vec<TopicIdPartition> {
        self.replicas
            .read()
            .keys()
            .filter(|id| id.topic == topic)
            .copied()
            .collect()
    }

    fn remove_topic(&self, topic: TopicId) {
        for id in self.local_partitions_of(topic) {
            self.remove(id);
        }
    }

    /// Removes logs of topics that this run never had replicas of.
    fn remove_logs_of(&self, topics: &BTreeSet<TopicId>) {
        if topics.is_empty() {
            return;
        }
        let ids = self.store.ids();
        for id in ids.into_iter().filter(|id| topics.contains(&id.topic)) {
            self.remove(id);
        }
    }

    /// Takes a replica out of use whose log was found damaged, and keeps its files aside. Blocks.
    pub fn quarantine(&self, id: TopicIdPartition, why: &str) {
        let _one_at_a_time = self.applied.lock();
        if self.store.get(id).is_none() {
            return;
        }
        self.retire(id);
        match self.store.quarantine(id, why) {
            Ok(path) => tracing::error!(partition = %id, why, kept = %path.display(),
                "a replica is damaged; it leaves the ISR and refills from its leader"),
            Err(LogError::Gone { .. }) => {}
            Err(error) => self.fail(format!(
                "cannot set the damaged log of partition {id} aside: {}",
                chain(&error)
            )),
        }
    }

    /// Ends the broker: its storage cannot be relied on.
    pub fn fail(&self, why: String) {
        (self.context.fatal)(why);
    }

    fn retire(&self, id: TopicIdPartition) {
        let replica = self.replicas.write().remove(&id);
        self.context.leader_links.forget(id);
        if let Some(replica) = replica {
            replica.retire();
        }
    }

    /// Removes a replica and its log.
    fn remove(&self, id: TopicIdPartition) {
        self.retire(id);
        if let Err(error) = self.store.delete(id) {
            (self.context.fatal)(format!("cannot delete the log of partition {id}: {error}"));
        }
    }

    fn apply_partition(&self, image: &MetadataImage, id: TopicIdPartition) {
        let (Some(topic), Some(partition)) = (image.topic(id.topic), image.partition(id)) else {
            return;
        };
        if !partition.replicas.contains(&self.node_id) {
            if self.get(id).is_some() {
                self.remove(id);
            }
            return;
        }
        // What it held is gone, but others may still count on it: not before they know.
        if self.store.is_damaged(id) {
            return;
        }
        let replica = match self.get_or_create(id, &topic.config) {
            Ok(Some(replica)) => replica,
            Ok(None) => return,
            Err(error) => {
                (self.context.fatal)(format!("cannot open the log of partition {id}: {error}"));
                return;
            }
        };
        replica.log.set_settings(log_settings(&topic.config));
        let this_run = image
            .brokers
            .get(&self.node_id)
            .is_some_and(|broker| broker.incarnation == self.incarnation);
        replica.assign(assignment(image, topic, partition), this_run);
        let leader = partition.leader.filter(|leader| *leader != self.node_id);
        self.context.leader_links.follow(&replica, leader);
    }

    /// `None` if the log is damaged.
    fn get_or_create(
        &self,
        id: TopicIdPartition,
        config: &TopicConfig,
    ) -> Result<Option<Arc<Replica>>, String> {
        if let Some(replica) = self.get(id) {
            return Ok(Some(replica));
        }
        let log = self
            .store
            .get_or_create(id, log_settings(config))
            .map_err(|error| chain(&error))?;
        let producers = match load_producers(&log) {
            Ok(producers) => producers,
            Err(error) if error.is_damage() => {
                self.context.damage.add(id, chain(&error));
                return Ok(None);
            }
            Err(error) => return Err(chain(&error)),
        };
        let state = LogState {
            log_start: log.log_start(),
            log_end: log.log_end(),
            epochs: log.epochs(),
            producers,
        };
        let setup = PartitionSetup {
            local: self.node_id,
            id,
            replica_lag_time_max: self.setup.replica_lag_time_max,
            producer_expiration_ms: self.setup.producer_expiration_ms,
        };
        let core = Partition::new(setup, state);
        let replica = Arc::new(Replica::new(id, log, core, Arc::clone(&self.context)));
        self.replicas.write().insert(id, Arc::clone(&replica));
        Ok(Some(replica))
    }

    /// Ticks the replicas that asked to be by now.
    pub fn tick(&self) {
        let now = self.context.clock.now();
        for (at, id) in self.context.alarms.due(now) {
            if let Some(replica) = self.get(id) {
                replica.tick(at, now);
            }
        }
    }

    /// Has the storage make a checkpoint soon.
    pub fn request_checkpoint(&self) {
        self.store.request_checkpoint();
    }

    /// Deletes old segments of the partitions led here; followers follow. Where the disk is full,
    /// they cannot, since nothing is read from their leaders: then those of `every_replica`.
    /// Blocks on the disk.
    pub fn apply_retention(&self, every_replica: bool) {
        let now = self.context.clock.wall();
        for replica in self.all() {
            let leads = replica.with_core(Partition::role) == Role::Leader;
            if !leads && !every_replica {
                continue;
            }
            let bound: Offset = replica.high_watermark();
            match replica.log.retained_from(now, bound) {
                Ok(Some(from)) => replica.step(Input::Retain { from }),
                // A deletion was quicker.
                Ok(None) | Err(LogError::Gone { .. }) => {}
                Err(error) => {
                    tracing::error!(partition = %replica.id, %error, "retention failed");
                }
            }
        }
        if every_replica {
            // What was deleted gives its room back with the next checkpoint.
            self.store.request_checkpoint();
        }
    }
}

/// What the storage needs to know of a topic's settings.
pub fn log_settings(config: &TopicConfig) -> LogSettings {
    LogSettings {
        segment_bytes: config.segment_bytes,
        segment_ms: config.segment_ms,
        retention_bytes: config.retention_bytes.filter(|_| config.cleanup.delete),
        retention_ms: config.retention_ms.filter(|_| config.cleanup.delete),
        compaction: config.cleanup.compact.then_some(CompactionSettings {
            min_dirty_permille: config.min_cleanable_dirty_permille,
            min_lag_ms: config.min_compaction_lag_ms,
            max_lag_ms: config.max_compaction_lag_ms,
            delete_retention_ms: config.delete_retention_ms,
        }),
    }
}

fn assignment(image: &MetadataImage, topic: &TopicImage, partition: &PartitionImage) -> Assignment {
    Assignment {
        leader: partition.leader,
        leader_epoch: partition.leader_epoch,
        partition_epoch: partition.partition_epoch,
        replicas: partition.replicas.clone(),
        isr: partition.isr.clone(),
        min_insync_replicas: image.min_insync_replicas(topic, partition),
        eligible: image.eligible_replicas(partition),
        max_message_bytes: topic.config.max_message_bytes,
        timestamp_type: topic.config.timestamp_type,
    }
}

#[cfg(test)]
mod tests;
