//! The ways to all brokers, and the requests without answer on them: what a producer's sender and a
//! consumer's fetcher do alike. Knows when a broker is silent or gone and what is lost with a
//! stream; what that means for a partition is its user's business. Knows neither clock nor socket.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_model::{Instant, NodeId, TopicIdPartition};

use crate::backoff::Backoff;
use crate::cluster::{BrokerInfo, ClusterSnapshot};
use crate::link::Link;

/// After so many failures of a partition in a row, the view is suspected of being behind.
pub(crate) const SUSPICION_AFTER: u32 = 3;

/// A request without answer for so long beyond what it may wait can mean that its broker vanished,
/// and if the watch is with the same broker, the view stands still.
pub(crate) const STALL: Duration = Duration::from_secs(1);

/// A request without answer, with what its user remembers of it.
#[derive(Debug)]
struct Sent<P> {
    node: NodeId,
    stream: u64,
    at: Instant,
    /// Whether its long wait was taken for a sign that the view is behind.
    suspected: bool,
    partitions: P,
}

/// What ended with a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lost<P> {
    /// The requests that will not be answered, in the order in which they were made.
    pub requests: Vec<(u64, P)>,
    /// The partitions that waited for room.
    pub waiting: BTreeSet<TopicIdPartition>,
}

#[derive(Debug)]
pub(crate) struct Links<P> {
    links: BTreeMap<NodeId, Link>,
    requests: BTreeMap<u64, Sent<P>>,
    backoff: Backoff,
    last_request: u64,
    last_stream: u64,
}

impl<P> Links<P> {
    /// No links yet. A broker whose stream broke is left alone as `backoff` says.
    pub(crate) fn new(backoff: Backoff) -> Links<P> {
        Links {
            links: BTreeMap::new(),
            requests: BTreeMap::new(),
            backoff,
            last_request: 0,
            last_stream: 0,
        }
    }

    /// The way to a broker, at the address where it is now.
    pub(crate) fn to(&mut self, broker: &BrokerInfo) -> &mut Link {
        let new = || Link::new(self.backoff);
        let link = self.links.entry(broker.node_id).or_insert_with(new);
        link.set_endpoint(&broker.endpoint);
        link
    }

    /// An id for a request, never used before.
    pub(crate) fn next_request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    /// Counts a request in, and gives the stream and endpoint to send it to; `None` if there is no
    /// way to the broker yet.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        node: NodeId,
        request: u64,
        partitions: P,
    ) -> Option<(u64, String)> {
        let link = self.links.get_mut(&node)?;
        let last_stream = &mut self.last_stream;
        let (stream, endpoint) = link.send(request, || {
            *last_stream += 1;
            *last_stream
        });
        let sent = Sent {
            node,
            stream,
            at: now,
            suspected: false,
            partitions,
        };
        self.requests.insert(request, sent);
        Some((stream, endpoint))
    }

    /// A request was answered: what is remembered of it, and the partitions that waited for room.
    /// `None` if it was given up before.
    pub(crate) fn on_answer(&mut self, request: u64) -> Option<(P, BTreeSet<TopicIdPartition>)> {
        let sent = self.requests.remove(&request)?;
        let mut waiting = BTreeSet::new();
        if let Some(link) = self.links.get_mut(&sent.node) {
            link.on_answer(request);
            waiting = link.take_waiting();
        }
        Some((sent.partitions, waiting))
    }

    /// A stream ended; nothing on it will be answered. `None` if it was given up before.
    pub(crate) fn on_closed(&mut self, now: Instant, stream: u64) -> Option<Lost<P>> {
        let mut links = self.links.values_mut();
        let link = links.find(|link| link.stream() == Some(stream))?;
        let (requests, waiting) = link.on_closed(now);
        let lost = requests
            .into_iter()
            .filter_map(|id| Some((id, self.requests.remove(&id)?.partitions)));
        Some(Lost {
            requests: lost.collect(),
            waiting,
        })
    }

    /// The streams with requests to brokers that the cluster has given up. A host that vanished
    /// does not close its connections, and its successor is known long before they time out.
    pub(crate) fn streams_to_gone(&self, view: &ClusterSnapshot) -> Vec<u64> {
        let gone = |node| view.brokers.get(node).is_none_or(|broker| broker.fenced);
        let links = self.links.iter();
        let left = links.filter(|(node, link)| link.in_flight() > 0 && gone(node));
        left.filter_map(|(_, link)| link.stream()).collect()
    }

    /// The streams on which a request has been without answer for `limit`.
    pub(crate) fn late_streams(&self, now: Instant, limit: Duration) -> BTreeSet<u64> {
        let late = self.requests.values().filter(|sent| sent.at + limit <= now);
        late.map(|sent| sent.stream).collect()
    }

    /// Whether a request has been without answer for `wait`; each is told of once.
    pub(crate) fn has_stalled(&mut self, now: Instant, wait: Duration) -> bool {
        let mut stalled = false;
        let waiting = self.requests.values_mut();
        for sent in waiting.filter(|sent| sent.at + wait <= now) {
            stalled |= !std::mem::replace(&mut sent.suspected, true);
        }
        stalled
    }

    /// Whether any request is without answer.
    pub(crate) fn is_busy(&self) -> bool {
        !self.requests.is_empty()
    }

    /// When brokers that are left alone may be tried again, and when requests made before will have
    /// been without answer for `limit`.
    pub(crate) fn deadlines(&self, now: Instant, limit: Duration) -> impl Iterator<Item = Instant> {
        let links = self
            .links
            .values()
            .filter_map(move |link| link.down_until(now));
        let answers = self.requests.values().map(move |sent| sent.at + limit);
        links.chain(answers)
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::{PartitionIndex, TopicId};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn broker(node: i32) -> BrokerInfo {
        BrokerInfo {
            node_id: NodeId(node),
            endpoint: format!("b{node}:1"),
            internal_endpoint: String::new(),
            rack: String::new(),
            fenced: false,
            in_controlled_shutdown: false,
            broker_epoch: 1,
            version: String::new(),
        }
    }

    fn links(nodes: &[i32]) -> Links<&'static str> {
        let mut links = Links::new(Backoff::new(SECOND, SECOND));
        for node in nodes {
            links.to(&broker(*node));
        }
        links
    }

    fn send(links: &mut Links<&'static str>, at: Instant, node: i32, what: &'static str) -> u64 {
        let request = links.next_request();
        links.send(at, NodeId(node), request, what).unwrap().0
    }

    #[test]
    fn what_is_on_a_stream_is_lost_with_it_and_nothing_else_is() {
        let mut links = links(&[1, 2]);
        let start = Instant::ZERO;
        let first = send(&mut links, start, 1, "a");
        assert_eq!(
            send(&mut links, start, 1, "b"),
            first,
            "one stream a broker"
        );
        let other = send(&mut links, start, 2, "c");
        assert_ne!(first, other);
        let waiting = TopicIdPartition::new(TopicId::from_random(1), PartitionIndex(0));
        links.to(&broker(1)).wait(waiting);
        let lost = Lost {
            requests: vec![(1, "a"), (2, "b")],
            waiting: [waiting].into(),
        };
        assert_eq!(links.on_closed(start, first), Some(lost));
        assert_eq!(links.on_closed(start, first), None, "it is gone");
        assert_eq!(links.on_answer(1), None, "nobody waits for it any more");
        assert_eq!(links.on_answer(3), Some(("c", BTreeSet::new())));
        assert!(!links.is_busy());
        let down = links.to(&broker(1)).down_until(start);
        assert_eq!(down, Some(start + SECOND));
        assert_eq!(links.deadlines(start, SECOND).min(), down);
        assert_ne!(send(&mut links, start + SECOND, 1, "d"), first);
    }

    #[test]
    fn streams_to_brokers_that_are_fenced_or_unknown_are_given_up() {
        let mut links = links(&[1, 2, 3, 4]);
        let streams = [1, 2, 3].map(|node| send(&mut links, Instant::ZERO, node, "x"));
        let mut view = ClusterSnapshot::default();
        view.brokers.insert(NodeId(1), broker(1));
        let fenced = BrokerInfo {
            fenced: true,
            ..broker(2)
        };
        view.brokers.insert(NodeId(2), fenced);
        assert_eq!(links.streams_to_gone(&view), streams[1..]);
    }

    #[test]
    fn a_silent_broker_is_suspected_once_and_then_late() {
        let mut links = links(&[1]);
        let start = Instant::ZERO;
        let stream = send(&mut links, start, 1, "x");
        assert!(!links.has_stalled(start, SECOND));
        assert!(links.has_stalled(start + SECOND, SECOND));
        assert!(
            !links.has_stalled(start + SECOND * 2, SECOND),
            "told before"
        );
        assert!(links.late_streams(start + SECOND, SECOND * 3).is_empty());
        let late = links.late_streams(start + SECOND * 3, SECOND * 3);
        assert_eq!(late, [stream].into());
    }
}
