//! A broker's beat: refreshes its session and says what should be decided about it. Off the
//! decision path, so that a busy controller never takes a live broker for a dead one (KAFKA-17793).

use std::collections::BTreeSet;

use ottla_metadata::{BrokerRegistration, MetadataImage};
use ottla_model::{BrokerEpoch, MetadataOffset, NodeId};

use crate::fencing::leads_something_movable;
use crate::request::Request;
use crate::session::Sessions;

/// What a broker says with each beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeatState {
    /// The position of the next metadata record the broker will apply.
    pub applied: MetadataOffset,
    /// Whether its logs are recovered and it can serve.
    pub ready: bool,
    pub wants_shutdown: bool,
}

/// What the controller makes of a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BeatOutcome {
    /// Whether the beat came from the broker's current registration. If not, the broker must
    /// register again, and nothing else here counts.
    pub registered: bool,
    /// Whether the broker is fenced, by what is committed.
    pub fenced: bool,
    /// Whether the broker may stop now: it leads nothing that another could take over, and every
    /// live broker knows that.
    pub may_shut_down: bool,
    /// Whether the broker has applied metadata that was never proposed here: this controller is not
    /// active any more, or the broker has followed another history.
    pub ahead: bool,
    /// What should be decided because of this beat.
    pub needs_decision: Option<Request>,
}

/// Judges a beat, once the session was refreshed by it.
pub(crate) fn judge(
    committed: &MetadataImage,
    scratch: &MetadataImage,
    sessions: &Sessions,
    gone: &BTreeSet<NodeId>,
    registration: &BrokerRegistration,
    beat: BeatState,
) -> BeatOutcome {
    let (broker, epoch) = (registration.broker, registration.epoch);
    let committed_fenced = committed
        .broker(broker)
        .filter(|known| known.epoch == epoch)
        .is_none_or(|known| known.fenced);
    let mut outcome = BeatOutcome {
        registered: true,
        fenced: committed_fenced,
        may_shut_down: false,
        ahead: false,
        needs_decision: None,
    };
    if beat.wants_shutdown {
        let leads_movable = || leads_something_movable(scratch, gone, broker);
        if registration.fenced {
            outcome.may_shut_down = committed_fenced;
        } else if !registration.in_controlled_shutdown || leads_movable() {
            outcome.needs_decision = Some(begin_shutdown(broker, epoch));
        } else {
            outcome.may_shut_down = sessions.all_applied_shutdown(broker, scratch);
        }
    } else if registration.fenced && beat.ready && beat.applied.0 > epoch.0 {
        outcome.needs_decision = Some(Request::Unfence {
            broker,
            broker_epoch: epoch,
        });
    }
    outcome
}

fn begin_shutdown(broker: NodeId, broker_epoch: BrokerEpoch) -> Request {
    Request::BeginControlledShutdown {
        broker,
        broker_epoch,
    }
}
