//! The lane: a thread that carries what the journal has made durable over to the segments, through
//! the page cache, and then lets go of the oldest batches in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ottla_model::{Offset, TopicIdPartition};

use super::maintenance::Bell;
use crate::entry::Op;
use crate::error::LogError;
use crate::partition::PartitionLog;
use crate::queue::Taken;
use crate::segment::BatchMeta;
use crate::shared::{Group, Queued, Shared};
use crate::wal::WalPosition;

type Appends = Vec<(Bytes, Vec<BatchMeta>)>;

pub(super) struct Lane {
    shared: Arc<Shared>,
    /// Rung when enough has been written for a checkpoint.
    bell: Arc<Bell>,
    /// Logs in the order in which their batches reached segments, each with the offset up to which
    /// they did: the order in which memory is given up.
    oldest: VecDeque<(Arc<PartitionLog>, Offset)>,
}

impl Lane {
    pub fn new(shared: Arc<Shared>, bell: Arc<Bell>) -> Lane {
        Lane {
            shared,
            bell,
            oldest: VecDeque::new(),
        }
    }

    /// Runs until the store closes or fails.
    pub fn run(mut self) {
        loop {
            match self.shared.lane.take(0, None) {
                Taken::Closed => return,
                Taken::Nothing => {}
                Taken::Items(groups) => {
                    for group in groups {
                        if self.apply(group).is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn apply(&mut self, group: Group) -> Result<(), LogError> {
        // Logs are independent of each other; within one, order counts. So a log's appends can be
        // written together, wherever they stood in the group.
        let mut by_log: BTreeMap<TopicIdPartition, Vec<(WalPosition, Queued)>> = BTreeMap::new();
        for (position, queued) in group.ops {
            let id = queued.log.id();
            by_log.entry(id).or_default().push((position, queued));
        }
        for ops in by_log.into_values() {
            self.apply_to_one(ops)?;
        }
        self.shared.applied.store(group.end.0, Ordering::Release);
        if self.shared.is_checkpoint_due() {
            self.bell.ring();
        }
        self.evict();
        Ok(())
    }

    fn apply_to_one(&mut self, ops: Vec<(WalPosition, Queued)>) -> Result<(), LogError> {
        let mut appends: Appends = Vec::new();
        let mut behind = WalPosition(0);
        let mut last: Option<Arc<PartitionLog>> = None;
        for (position, queued) in ops {
            let Queued { log, op, done } = queued;
            if let Op::Append { bytes, metas, .. } = op {
                appends.push((bytes, metas));
            } else {
                if let Some(log) = &last {
                    self.flush(log, &mut appends, behind)?;
                }
                self.apply_one(&log, op, position)?;
                if let Some(done) = done {
                    done.tell(Ok(()));
                }
            }
            behind = position;
            last = Some(log);
        }
        match last {
            Some(log) => self.flush(&log, &mut appends, behind),
            None => Ok(()),
        }
    }

    fn flush(
        &mut self,
        log: &Arc<PartitionLog>,
        appends: &mut Appends,
        applied: WalPosition,
    ) -> Result<(), LogError> {
        if !appends.is_empty() {
            let end = self.noted(log.apply_appends(appends, applied, &BTreeSet::new()))?;
            appends.clear();
            self.oldest.push_back((log.clone(), end));
        }
        Ok(())
    }

    /// Notes a failure at once: whoever waits for a change that is dropped now is told the reason.
    fn noted<T>(&self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result {
            self.shared.fail(error.clone());
        }
        result
    }

    fn apply_one(
        &mut self,
        log: &Arc<PartitionLog>,
        op: Op,
        position: WalPosition,
    ) -> Result<(), LogError> {
        let applied = self.carry_out(log, op, position);
        self.noted(applied)
    }

    fn carry_out(
        &mut self,
        log: &Arc<PartitionLog>,
        op: Op,
        position: WalPosition,
    ) -> Result<(), LogError> {
        match op {
            Op::Append { .. } => unreachable!("appends are gathered"),
            Op::Create => {
                log.apply_create(position);
                let mut catalog = self.shared.catalog.lock();
                catalog.insert(log.id(), log.clone());
            }
            Op::Truncate(to) => {
                log.apply_truncate(to, position)?;
                // What the cut that was on its way kept in memory can go like everything else.
                self.oldest.push_back((log.clone(), to));
            }
            Op::Restart(at) => log.apply_restart(at, position)?,
            Op::LogStart { to, .. } => log.apply_log_start(to, position)?,
            Op::Swap { swap, index } => log.apply_swap(&swap, &index, position)?,
            Op::Skip(to) => log.apply_skip(to, position),
            Op::Delete => {
                self.shared.catalog.lock().remove(&log.id());
                log.apply_delete()?;
            }
            Op::SetAside(kept) => {
                self.shared.catalog.lock().remove(&log.id());
                log.apply_set_aside(&self.shared.dirs.root.join(kept))?;
            }
        }
        Ok(())
    }

    fn evict(&mut self) {
        let limit = self.shared.config.cache_bytes;
        loop {
            let cached = self.shared.cached_bytes.load(Ordering::Relaxed);
            let Some((log, to)) = self.oldest.front().filter(|_| cached > limit) else {
                return;
            };
            if !log.evict(*to, cached - limit) {
                self.oldest.pop_front();
            }
        }
    }
}
