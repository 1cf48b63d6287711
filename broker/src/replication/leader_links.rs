//! The streams that this broker keeps to the brokers whose partitions it follows: one to each.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_broker_core::partition::{FollowerPosition, Input};
use ottla_model::{NodeId, TopicIdPartition};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::leader_link::{Durable, LeaderLink, LinkContext};
use crate::replica::Replica;

/// All streams to leaders.
pub struct LeaderLinks {
    links: Mutex<BTreeMap<NodeId, Arc<LeaderLink>>>,
    followed: Mutex<BTreeMap<TopicIdPartition, NodeId>>,
    runtime: Handle,
    context: std::sync::OnceLock<Arc<LinkContext>>,
}

pub use super::leader_link::LinkContext as LeaderLinkContext;

impl LeaderLinks {
    /// Streams that will run on `runtime`.
    pub fn new(runtime: Handle) -> LeaderLinks {
        LeaderLinks {
            links: Mutex::new(BTreeMap::new()),
            followed: Mutex::new(BTreeMap::new()),
            runtime,
            context: std::sync::OnceLock::new(),
        }
    }

    /// Gives the streams what they need of the broker; before it, none is opened.
    pub fn set_context(&self, context: LinkContext) {
        // Set once, where the broker is put together.
        let _ = self.context.set(Arc::new(context));
    }

    /// Follows a partition at `leader` from now on, or nowhere.
    pub fn follow(&self, replica: &Replica, leader: Option<NodeId>) {
        let id = replica.id;
        let before = {
            let mut followed = self.followed.lock();
            match leader {
                Some(leader) => followed.insert(id, leader),
                None => followed.remove(&id),
            }
        };
        if let Some(before) = before.filter(|before| Some(*before) != leader) {
            self.unfollow(id, before);
        }
        let Some(leader) = leader else { return };
        if self.link(leader).add(id) {
            replica.step(Input::LeaderConnected { leader });
        }
    }

    /// Forgets a partition that is no longer here.
    pub fn forget(&self, id: TopicIdPartition) {
        let before = self.followed.lock().remove(&id);
        if let Some(before) = before {
            self.unfollow(id, before);
        }
    }

    fn unfollow(&self, id: TopicIdPartition, leader: NodeId) {
        let mut links = self.links.lock();
        let Some(link) = links.get(&leader) else {
            return;
        };
        if link.remove(id) {
            link.stop();
            links.remove(&leader);
        }
    }

    fn link(&self, leader: NodeId) -> Arc<LeaderLink> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&leader) {
            return Arc::clone(link);
        }
        let link = Arc::new(LeaderLink::new(leader));
        links.insert(leader, Arc::clone(&link));
        if let Some(context) = self.context.get() {
            self.runtime
                .spawn(Arc::clone(&link).run(Arc::clone(context)));
        }
        link
    }

    /// Something is known to have changed about this broker: a stream that waits to be opened
    /// again need not wait.
    pub fn poke(&self, leader: NodeId) {
        if let Some(link) = self.links.lock().get(&leader) {
            link.poke();
        }
    }

    pub fn send_state(&self, leader: NodeId, id: TopicIdPartition, state: FollowerPosition) {
        if let Some(link) = self.links.lock().get(&leader) {
            link.send_state(id, state);
        }
    }

    pub fn send_ack(&self, leader: NodeId, id: TopicIdPartition, durable: Durable) {
        if let Some(link) = self.links.lock().get(&leader) {
            link.send_ack(id, durable);
        }
    }

    pub fn stop(&self) {
        for link in std::mem::take(&mut *self.links.lock()).into_values() {
            link.stop();
        }
    }
}
