//! Which brokers have a control stream open to this controller.

use std::collections::BTreeMap;

use ottla_model::NodeId;
use parking_lot::Mutex;

/// The open control streams, the newest of each broker.
#[derive(Debug, Default)]
pub struct ControlStreams {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<NodeId, u64>,
    next: u64,
}

impl ControlStreams {
    /// A stream of this broker opened; it replaces an earlier one.
    pub fn open(&self, broker: NodeId) -> u64 {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        state.open.insert(broker, id);
        id
    }

    /// That stream closed. True if it was the broker's newest.
    pub fn close(&self, broker: NodeId, id: u64) -> bool {
        let mut state = self.state.lock();
        let is_newest = state.open.get(&broker) == Some(&id);
        if is_newest {
            state.open.remove(&broker);
        }
        is_newest
    }

    pub fn is_connected(&self, broker: NodeId) -> bool {
        self.state.lock().open.contains_key(&broker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_stream_that_closes_does_not_disconnect_its_successor() {
        let streams = ControlStreams::default();
        let broker = NodeId(4);
        let first = streams.open(broker);
        let second = streams.open(broker);
        assert!(!streams.close(broker, first));
        assert!(streams.is_connected(broker));
        assert!(streams.close(broker, second));
        assert!(!streams.is_connected(broker));
    }
}
