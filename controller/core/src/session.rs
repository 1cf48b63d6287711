//! What the active controller has heard of each broker. Soft state: it is in no log, and a new
//! active controller begins with a fresh full session for every registered broker (KAFKA-18138).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_metadata::{BrokerRegistration, MetadataImage};
use ottla_model::{BrokerEpoch, Instant, MetadataOffset, NodeId};

/// How long no broker is heard of until another controller should try.
pub(crate) fn cut_off_after(session_timeout: Duration) -> Duration {
    3 * session_timeout
}

/// The control stream of a broker, as far as this controller saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// The broker has not connected to this controller under this epoch.
    Unseen,
    /// This many streams are open; a new one may open before the old one is known to be closed.
    Open(u32),
    Closed,
}

#[derive(Debug)]
pub(crate) struct Session {
    epoch: BrokerEpoch,
    last_contact: Instant,
    link: Link,
    applied: MetadataOffset,
    /// Where every broker must have arrived before this one may stop.
    shutdown_offset: Option<MetadataOffset>,
}

/// Why a new incarnation must wait for an old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// Its stream is open and it was heard of; it counts as alive until then.
    Alive {
        until: Instant,
    },
    /// This controller never saw it, but its session has not ended; until then.
    Unseen {
        until: Instant,
    },
    Gone,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    timeout: Duration,
    by_broker: BTreeMap<NodeId, Session>,
}

impl Sessions {
    /// A fresh session for every registered broker.
    pub(crate) fn seeded(timeout: Duration, now: Instant, image: &MetadataImage) -> Sessions {
        let mut sessions = Sessions {
            timeout,
            by_broker: BTreeMap::new(),
        };
        sessions.seed(now, image);
        sessions
    }

    /// A fresh session for every registration that has none.
    pub(crate) fn seed(&mut self, now: Instant, image: &MetadataImage) {
        for broker in image.brokers.values() {
            self.begin(now, broker.broker, broker.epoch);
            if broker.in_controlled_shutdown {
                self.set_shutdown_offset(broker.broker, image.offset);
            }
        }
    }

    /// Begins the session of a registration, unless it has one.
    pub(crate) fn begin(&mut self, now: Instant, broker: NodeId, epoch: BrokerEpoch) {
        let current = self.by_broker.get(&broker);
        if current.is_some_and(|session| session.epoch == epoch) {
            return;
        }
        let session = Session {
            epoch,
            last_contact: now,
            link: Link::Unseen,
            applied: MetadataOffset::ZERO,
            shutdown_offset: None,
        };
        self.by_broker.insert(broker, session);
    }

    pub(crate) fn beat(
        &mut self,
        now: Instant,
        broker: NodeId,
        epoch: BrokerEpoch,
        applied: MetadataOffset,
    ) {
        if let Some(session) = self.current(broker, epoch) {
            session.last_contact = session.last_contact.max(now);
            session.applied = session.applied.max(applied);
        }
    }

    pub(crate) fn connected(&mut self, now: Instant, broker: NodeId, epoch: BrokerEpoch) {
        if let Some(session) = self.current(broker, epoch) {
            session.last_contact = session.last_contact.max(now);
            session.link = match session.link {
                Link::Open(streams) => Link::Open(streams + 1),
                Link::Unseen | Link::Closed => Link::Open(1),
            };
        }
    }

    /// The registrations that never connected to this controller.
    pub(crate) fn unseen(&self) -> impl Iterator<Item = (NodeId, BrokerEpoch)> + '_ {
        let unseen = |(_, session): &(&NodeId, &Session)| session.link == Link::Unseen;
        self.by_broker
            .iter()
            .filter(unseen)
            .map(|(broker, session)| (*broker, session.epoch))
    }

    pub(crate) fn disconnected(&mut self, broker: NodeId, epoch: BrokerEpoch) {
        if let Some(session) = self.current(broker, epoch) {
            session.link = match session.link {
                Link::Open(streams) if streams > 1 => Link::Open(streams - 1),
                _ => Link::Closed,
            };
        }
    }

    /// Whether the process behind a registration must be taken for alive.
    pub(crate) fn liveness(&self, now: Instant, broker: NodeId, epoch: BrokerEpoch) -> Liveness {
        let session = self.by_broker.get(&broker).filter(|s| s.epoch == epoch);
        let Some(session) = session else {
            return Liveness::Gone;
        };
        let until = self.deadline(session);
        match session.link {
            _ if until <= now => Liveness::Gone,
            Link::Open(_) => Liveness::Alive { until },
            Link::Unseen => Liveness::Unseen { until },
            Link::Closed => Liveness::Gone,
        }
    }

    /// Whether this registration's last control stream was closed.
    pub(crate) fn is_closed(&self, broker: NodeId, epoch: BrokerEpoch) -> bool {
        let session = self.by_broker.get(&broker).filter(|s| s.epoch == epoch);
        session.is_some_and(|session| session.link == Link::Closed)
    }

    /// The unfenced brokers that were not heard of for the session timeout, while others were.
    ///
    /// When nobody is heard, the silence is this controller's own: brokers that it cannot reach go
    /// on with what was decided before, as they do without any controller. Fencing them would take
    /// every leader away.
    pub(crate) fn expired(&self, now: Instant, image: &MetadataImage) -> BTreeSet<NodeId> {
        if self.hears_nobody(now) {
            return BTreeSet::new();
        }
        let expired = |id: &NodeId| self.unfenced_deadline(*id, image) <= Some(now);
        let unfenced = image.brokers.values().filter(|broker| !broker.fenced);
        unfenced.map(|b| b.broker).filter(expired).collect()
    }

    /// When the next unfenced broker times out, unless it is heard of; or, if one has already at
    /// `latest` and nobody is heard, when to look again.
    pub(crate) fn next_expiry(&self, latest: Instant, image: &MetadataImage) -> Option<Instant> {
        let unfenced = image.brokers.values().filter(|broker| !broker.fenced);
        let first = unfenced
            .filter_map(|broker| self.unfenced_deadline(broker.broker, image))
            .min()?;
        match first <= latest && self.hears_nobody(latest) {
            true => Some(latest + self.timeout / 4),
            false => Some(first),
        }
    }

    /// Whether no broker was heard of for half the session timeout. Brokers whose links are cut
    /// all at once were last heard within a beat of each other, which is far less.
    fn hears_nobody(&self, now: Instant) -> bool {
        self.silent_for(now, self.timeout / 2)
    }

    /// Whether brokers that should be heard of are there, and none of all was for so long.
    pub(crate) fn is_cut_off(&self, now: Instant, image: &MetadataImage) -> bool {
        image.brokers.values().any(|broker| !broker.fenced)
            && self.silent_for(now, cut_off_after(self.timeout))
    }

    fn silent_for(&self, now: Instant, silence: Duration) -> bool {
        let mut contacts = self.by_broker.values().map(|session| session.last_contact);
        contacts.all(|contact| contact + silence <= now)
    }

    pub(crate) fn set_shutdown_offset(&mut self, broker: NodeId, offset: MetadataOffset) {
        if let Some(session) = self.by_broker.get_mut(&broker) {
            session.shutdown_offset = Some(offset);
        }
    }

    /// Whether every unfenced broker has applied the records that took this one's leaders.
    ///
    /// One that is shutting down and has hung up applies nothing more. It may be unfenced for as
    /// long as its logs take to close, and others that stop do not wait for that.
    pub(crate) fn all_applied_shutdown(&self, broker: NodeId, image: &MetadataImage) -> bool {
        let session = self.by_broker.get(&broker);
        let Some(offset) = session.and_then(|session| session.shutdown_offset) else {
            return false;
        };
        let has_left = |other: &&BrokerRegistration| {
            other.in_controlled_shutdown && self.is_closed(other.broker, other.epoch)
        };
        let unfenced = image.brokers.values().filter(|broker| !broker.fenced);
        let mut there = unfenced.filter(|other| !has_left(other));
        there.all(|other| {
            let session = self.by_broker.get(&other.broker);
            session.is_some_and(|session| session.applied >= offset)
        })
    }

    fn current(&mut self, broker: NodeId, epoch: BrokerEpoch) -> Option<&mut Session> {
        self.by_broker
            .get_mut(&broker)
            .filter(|session| session.epoch == epoch)
    }

    fn deadline(&self, session: &Session) -> Instant {
        session.last_contact + self.timeout
    }

    /// A registration without a session has been silent for ever.
    fn unfenced_deadline(&self, broker: NodeId, image: &MetadataImage) -> Option<Instant> {
        let registration = image.broker(broker)?;
        let session = self.by_broker.get(&broker);
        let session = session.filter(|session| session.epoch == registration.epoch);
        Some(session.map_or(Instant::ZERO, |session| self.deadline(session)))
    }
}
