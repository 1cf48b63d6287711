//! The thread that compacts logs: looks every so often which of this broker's logs has most to
//! compact, leaders and followers alike, and gives it to the storage's compactor, one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ottla_log::{CompactionNeed, Compactor, LogError};
use ottla_model::TopicIdPartition;
use ottla_shell::Clock;

use crate::manager::ReplicaManager;
use crate::replica::{Replica, chain};
use crate::stop::Stop;

/// A log whose files could not be read or written is left alone for so long.
const FAILURE_PAUSE: Duration = Duration::from_secs(600);

/// Compacts what is worth it until stopped.
pub struct CompactionThread {
    pub manager: Arc<ReplicaManager>,
    pub compactor: Compactor,
    pub clock: Clock,
    pub interval: Duration,
    pub stop: Arc<Stop>,
    /// Logs that could not be compacted, and until when they are left alone.
    pub paused: BTreeMap<TopicIdPartition, Instant>,
    /// What was said of batches that cannot be unpacked.
    pub told: Unreadable,
}

/// How many batches of each log cannot be unpacked, as was said last. They stay as they are, and
/// each pass meets them again; people hear of them once.
#[derive(Debug, Default)]
pub struct Unreadable(BTreeMap<TopicIdPartition, u64>);

impl Unreadable {
    /// Takes what a pass met. Whether there are more than was said.
    fn is_news(&mut self, id: TopicIdPartition, batches: u64) -> bool {
        let before = match batches {
            0 => self.0.remove(&id),
            batches => self.0.insert(id, batches),
        };
        batches > before.unwrap_or_default()
    }

    /// Forgets logs that are not here any more.
    fn retain(&mut self, is_here: impl Fn(TopicIdPartition) -> bool) {
        self.0.retain(|id, _| is_here(*id));
    }
}

impl CompactionThread {
    pub fn run(mut self) {
        while !self.stop.wait(self.interval) {
            let now = Instant::now();
            self.paused.retain(|_, until| *until > now);
            self.told.retain(|id| self.manager.get(id).is_some());
            while let Some(replica) = self.dirtiest() {
                if !self.compact(&replica) {
                    return;
                }
            }
        }
    }

    /// The replica that needs it most: those that are overdue first.
    fn dirtiest(&self) -> Option<Arc<Replica>> {
        let now = self.clock.wall();
        let mut most: Option<(CompactionNeed, Arc<Replica>)> = None;
        for replica in self.manager.all() {
            if self.paused.contains_key(&replica.id) || replica.log.settings().compaction.is_none()
            {
                continue;
            }
            let bound = replica.high_watermark();
            let Ok(Some(need)) = replica.log.compaction_need(now, bound) else {
                continue;
            };
            if most.as_ref().is_none_or(|(known, _)| *known < need) {
                most = Some((need, replica));
            }
        }
        most.map(|(_, replica)| replica)
    }

    /// False once the store has closed or the thread shall end.
    fn compact(&mut self, replica: &Replica) -> bool {
        // Only what is committed, and what is known of producers after that.
        let (bound, remembered) =
            replica.with_core(|core| (core.high_watermark(), core.remembered_batches()));
        let id = replica.id;
        let done = match remembered {
            Some(remembered) => {
                let now = self.clock.wall();
                self.compactor
                    .compact(&replica.log, now, bound, &remembered)
            }
            None => Ok(None),
        };
        match done {
            Ok(Some(done)) if !done.is_cancelled => {
                if self.told.is_news(id, done.unreadable_batches) {
                    tracing::warn!(partition = %id, batches = done.unreadable_batches,
                        "some batches cannot be unpacked; compaction keeps them as they are");
                }
                if done.replaced > 0 {
                    tracing::info!(partition = %id, segments = done.replaced, by = done.by,
                        bytes_before = done.bytes_before, bytes_after = done.bytes_after,
                        "compacted");
                }
            }
            // It changed under the pass, or waits for a checkpoint: another time.
            Ok(_) => {
                self.manager.request_checkpoint();
                self.paused.insert(id, Instant::now() + self.interval);
            }
            Err(LogError::Closed | LogError::Failed { .. }) => return false,
            Err(LogError::Gone { .. }) => {}
            Err(LogError::Read { source, .. }) if source.is_damage() => {
                replica.found_damaged(&source);
            }
            Err(error) => {
                tracing::error!(partition = %id, error = %chain(&error),
                    "the log could not be compacted; it stays as it is");
                self.paused.insert(id, Instant::now() + FAILURE_PAUSE);
            }
        }
        !self.stop.is_stopped()
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{PartitionIndex, TopicId};

    use super::*;

    #[test]
    fn batches_that_cannot_be_unpacked_are_told_once_until_there_are_more() {
        let id = |index| TopicIdPartition::new(TopicId::ZERO, PartitionIndex(index));
        let mut told = Unreadable::default();
        let mut news = |index, batches| told.is_news(id(index), batches);
        assert!(!news(0, 0));
        assert!(news(0, 1));
        assert!(!news(0, 1), "the same again");
        assert!(news(1, 1), "of another log");
        assert!(news(0, 2), "one more");
        assert!(!news(0, 1), "one is gone");
        assert!(!news(0, 0));
        assert!(news(0, 1), "a new one, since the others are gone");
        told.retain(|kept| kept == id(1));
        assert!(told.is_news(id(0), 1));
        assert!(!told.is_news(id(1), 1));
    }
}
