//! The way to one broker: its current stream, the requests in flight there, and when it may be
//! tried again after the stream broke.

use std::collections::BTreeSet;

use ottla_model::{Instant, TopicIdPartition};

use crate::backoff::Backoff;

#[derive(Debug)]
pub(crate) struct Link {
    endpoint: String,
    stream: Option<u64>,
    in_flight: BTreeSet<u64>,
    /// Partitions that wait for room.
    waiting: BTreeSet<TopicIdPartition>,
    backoff: Backoff,
    down_until: Option<Instant>,
}

impl Link {
    pub(crate) fn new(backoff: Backoff) -> Link {
        Link {
            endpoint: String::new(),
            stream: None,
            in_flight: BTreeSet::new(),
            waiting: BTreeSet::new(),
            backoff,
            down_until: None,
        }
    }

    /// A broker that came back elsewhere is tried at once.
    pub(crate) fn set_endpoint(&mut self, endpoint: &str) {
        if self.endpoint != endpoint {
            endpoint.clone_into(&mut self.endpoint);
            self.down_until = None;
        }
    }

    pub(crate) fn stream(&self) -> Option<u64> {
        self.stream
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Until when the broker is left alone.
    pub(crate) fn down_until(&self, now: Instant) -> Option<Instant> {
        self.down_until.filter(|until| *until > now)
    }

    pub(crate) fn wait(&mut self, partition: TopicIdPartition) {
        self.waiting.insert(partition);
    }

    pub(crate) fn take_waiting(&mut self) -> BTreeSet<TopicIdPartition> {
        std::mem::take(&mut self.waiting)
    }

    /// Counts a request in and gives the stream and endpoint to send it to.
    pub(crate) fn send(&mut self, request: u64, new_stream: impl FnOnce() -> u64) -> (u64, String) {
        self.in_flight.insert(request);
        let stream = *self.stream.get_or_insert_with(new_stream);
        (stream, self.endpoint.clone())
    }

    pub(crate) fn on_answer(&mut self, request: u64) {
        self.in_flight.remove(&request);
        self.backoff.on_success();
        self.down_until = None;
    }

    /// The stream ended. Returns the requests without answer and the partitions that waited.
    pub(crate) fn on_closed(
        &mut self,
        now: Instant,
    ) -> (BTreeSet<u64>, BTreeSet<TopicIdPartition>) {
        self.stream = None;
        self.down_until = Some(now + self.backoff.on_failure());
        (std::mem::take(&mut self.in_flight), self.take_waiting())
    }
}
