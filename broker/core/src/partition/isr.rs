//! The in-sync replicas as the metadata has them, and at most one change on its way to the
//! controller (KIP-497). Decides which set counts for what: the committed one for
//! `min.insync.replicas`, the *maximal* one for the high watermark.

use std::time::Duration;

use ottla_model::{BrokerEpoch, ErrorCode, Instant, LeaderEpoch, NodeId, PartitionEpoch};

use super::effect::Effect;

/// How long a leader waits before it asks again for an ISR change that failed.
pub(super) const ISR_RETRY_BACKOFF: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Asked, and not answered.
    InFlight,
    /// Answered; the metadata will say what became of it.
    AwaitingMetadata,
    /// Failed for a reason that may pass; the outcome can be unknown, so it stays pending.
    RetryAt(Instant),
}

/// A change that the controller was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PendingChange {
    leader_epoch: LeaderEpoch,
    partition_epoch: PartitionEpoch,
    proposed: Vec<(NodeId, BrokerEpoch)>,
    progress: Progress,
}

impl PendingChange {
    fn request(&self) -> Effect {
        Effect::AlterPartition {
            leader_epoch: self.leader_epoch,
            partition_epoch: self.partition_epoch,
            isr: self.proposed.clone(),
        }
    }

    fn includes(&self, node: NodeId) -> bool {
        self.proposed.iter().any(|(member, _)| *member == node)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Isr {
    committed: Vec<NodeId>,
    pending: Option<PendingChange>,
    /// No change is asked for before this, after the controller refused one.
    quiet_until: Option<Instant>,
}

impl Isr {
    pub(super) fn new(committed: Vec<NodeId>) -> Isr {
        Isr {
            committed,
            pending: None,
            quiet_until: None,
        }
    }

    pub(super) fn committed(&self) -> &[NodeId] {
        &self.committed
    }

    pub(super) fn is_committed(&self, node: NodeId) -> bool {
        self.committed.contains(&node)
    }

    /// Whether the node is in the committed set, or would be if the pending change came true. The
    /// controller may have made the change already, so both count.
    pub(super) fn is_maximal(&self, node: NodeId) -> bool {
        self.is_committed(node) || self.pending.as_ref().is_some_and(|p| p.includes(node))
    }

    /// The set asked for, while a change is pending.
    pub(super) fn proposed(&self) -> Option<Vec<NodeId>> {
        let pending = self.pending.as_ref()?;
        Some(pending.proposed.iter().map(|(node, _)| *node).collect())
    }

    /// Whether a change may be asked for now.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.pending.is_none() && self.quiet_until.is_none_or(|until| now >= until)
    }

    /// The metadata moved on, and with it the committed set. Whatever was pending is decided.
    pub(super) fn commit(&mut self, isr: Vec<NodeId>) {
        self.committed = isr;
        self.pending = None;
        self.quiet_until = None;
    }

    pub(super) fn propose(
        &mut self,
        leader_epoch: LeaderEpoch,
        partition_epoch: PartitionEpoch,
        proposed: Vec<(NodeId, BrokerEpoch)>,
        effects: &mut Vec<Effect>,
    ) {
        assert!(
            self.pending.is_none(),
            "an ISR change is proposed while {:?} is in flight",
            self.pending
        );
        let change = PendingChange {
            leader_epoch,
            partition_epoch,
            proposed,
            progress: Progress::InFlight,
        };
        effects.push(change.request());
        self.pending = Some(change);
        self.quiet_until = None;
    }

    /// The controller answered the request that carried `partition_epoch`. An answer to another is
    /// old: the metadata came first.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        partition_epoch: PartitionEpoch,
        result: Result<(), ErrorCode>,
    ) {
        let Some(pending) = &mut self.pending else {
            return;
        };
        if pending.partition_epoch != partition_epoch {
            return;
        }
        match result {
            Ok(()) => pending.progress = Progress::AwaitingMetadata,
            // Refused for sure, so the proposed members need not count any longer (KIP-841).
            Err(ErrorCode::IneligibleReplica) => {
                self.pending = None;
                self.quiet_until = Some(now + ISR_RETRY_BACKOFF);
            }
            // The metadata is ahead of this replica, perhaps through this very change.
            Err(
                ErrorCode::InvalidUpdateVersion
                | ErrorCode::FencedLeaderEpoch
                | ErrorCode::NewLeaderElected
                | ErrorCode::UnknownTopicId
                | ErrorCode::UnknownTopicOrPartition,
            ) => pending.progress = Progress::AwaitingMetadata,
            Err(_) => pending.progress = Progress::RetryAt(now + ISR_RETRY_BACKOFF),
        }
    }

    /// Asks again, if it is time.
    pub(super) fn retry_due(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(pending) = &mut self.pending
            && let Progress::RetryAt(at) = pending.progress
            && now >= at
        {
            pending.progress = Progress::InFlight;
            effects.push(pending.request());
        }
        if self.quiet_until.is_some_and(|until| now >= until) {
            self.quiet_until = None;
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self.pending.as_ref().map(|pending| pending.progress) {
            Some(Progress::RetryAt(at)) => Some(at),
            Some(_) => None,
            None => self.quiet_until,
        }
    }
}
