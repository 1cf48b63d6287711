//! Where a leader's high watermark may stand: the smallest durable end that counts, and nowhere
//! while too few replicas are in sync (KIP-966).

use std::time::Duration;

use ottla_model::{Instant, NodeId, Offset};

use super::input::Assignment;
use super::isr::Isr;
use super::replica_progress::ReplicaProgress;

/// One leader's view, for the time of one decision.
pub(super) struct HighWatermarkView<'a> {
    pub(super) now: Instant,
    pub(super) log_end: Offset,
    pub(super) durable_end: Offset,
    pub(super) assignment: &'a Assignment,
    pub(super) isr: &'a Isr,
    pub(super) replica_lag_time_max: Duration,
}

impl HighWatermarkView<'_> {
    /// The offset up to which everything is committed, or `None` while that cannot be said: the
    /// ISR is too small, or a member has not yet stated itself in this leader epoch.
    pub(super) fn committed_end<'p>(
        &self,
        followers: impl Iterator<Item = (&'p NodeId, &'p ReplicaProgress)>,
    ) -> Option<Offset> {
        if self.isr.committed().len() < self.assignment.min_insync_replicas {
            return None;
        }
        let mut end = self.durable_end;
        for (node, progress) in followers {
            if self.isr.is_maximal(*node) {
                end = end.min(progress.durable_end()?);
            } else if let Some(durable_end) = progress.durable_end()
                && self.is_about_to_join(*node, progress)
            {
                end = end.min(durable_end);
            }
        }
        Some(end)
    }

    /// A caught-up follower that may join holds the high watermark back, so that it cannot run
    /// away from the follower for ever.
    fn is_about_to_join(&self, node: NodeId, progress: &ReplicaProgress) -> bool {
        progress.is_connected()
            && progress.is_caught_up(self.now, self.log_end, self.replica_lag_time_max)
            && is_eligible(self.assignment, node, progress)
    }
}

/// Whether the follower may be in the ISR: alive for the metadata, and known to it under the
/// registration that the follower stated (KIP-841, KIP-903).
pub(super) fn is_eligible(
    assignment: &Assignment,
    node: NodeId,
    progress: &ReplicaProgress,
) -> bool {
    let registered = assignment.eligible.get(&node);
    registered.is_some() && registered.copied() == progress.broker_epoch()
}
