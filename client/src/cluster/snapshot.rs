//! The cluster as this client last saw it, and how a broker's account is merged into it. Epochs
//! only rise: a broker that lags behind cannot take a leader back that a newer one announced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_model::{LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex, TopicId};
use ottla_proto::convert::endpoint_text;
use ottla_proto::v1;

/// A broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    pub node_id: NodeId,
    /// Where clients reach it, as `host:port`.
    pub endpoint: String,
    /// Where other nodes reach it; empty if unknown.
    pub internal_endpoint: String,
    pub rack: String,
    /// A fenced broker leads nothing.
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    pub broker_epoch: i64,
    pub version: String,
}

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerInfo {
    pub node_id: NodeId,
    pub internal_endpoint: String,
}

/// Who leads and holds a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    pub partition: PartitionIndex,
    /// `None` while it has no leader.
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    pub replicas: Vec<NodeId>,
    pub isr: Vec<NodeId>,
    pub elr: Vec<NodeId>,
    pub min_insync_replicas: i32,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: Arc<str>,
    pub id: TopicId,
    pub internal: bool,
    /// In order of their index.
    pub partitions: Vec<PartitionInfo>,
}

impl TopicInfo {
    pub fn partition(&self, index: PartitionIndex) -> Option<&PartitionInfo> {
        let at = self
            .partitions
            .binary_search_by_key(&index, |p| p.partition);
        at.ok().map(|at| &self.partitions[at])
    }

    /// How many partitions the topic has.
    pub fn partition_count(&self) -> i32 {
        self.partitions
            .last()
            .map_or(0, |last| last.partition.0 + 1)
    }
}

/// The cluster as one or more brokers described it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterSnapshot {
    pub cluster_id: String,
    /// The highest metadata offset that a broker's account stood at.
    pub metadata_offset: i64,
    /// `None` if the broker that answered knew of none.
    pub active_controller: Option<NodeId>,
    pub controllers: Vec<ControllerInfo>,
    pub brokers: BTreeMap<NodeId, BrokerInfo>,
    topics: BTreeMap<TopicId, Arc<TopicInfo>>,
    names: BTreeMap<Arc<str>, TopicId>,
}

impl ClusterSnapshot {
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicInfo>> {
        self.topics.get(self.names.get(name)?)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicInfo>> {
        self.topics.get(&id)
    }

    /// All topics, in order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicInfo>> {
        self.names.values().filter_map(|id| self.topics.get(id))
    }

    pub fn partition(&self, topic: TopicId, index: PartitionIndex) -> Option<&PartitionInfo> {
        self.topics.get(&topic)?.partition(index)
    }

    /// The leader of a partition and where to reach it; `None` if it has none that is known.
    pub fn leader(
        &self,
        topic: TopicId,
        index: PartitionIndex,
    ) -> Option<(&BrokerInfo, LeaderEpoch)> {
        let partition = self.partition(topic, index)?;
        let broker = self.brokers.get(&partition.leader?)?;
        Some((broker, partition.leader_epoch))
    }

    /// Merges the first response of a watch, which describes everything. What it leaves out is
    /// gone, unless the broker that answered lags behind what is known here.
    pub(crate) fn merge_all(&mut self, view: &v1::ClusterView) {
        let current = view.metadata_offset >= self.metadata_offset;
        if current {
            self.brokers.clear();
            self.controllers.clear();
            let ids = view
                .topics
                .iter()
                .map(|topic| TopicId::from_slice(&topic.topic_id));
            let kept: BTreeSet<TopicId> = ids.flatten().collect();
            let gone: Vec<_> = self
                .topics
                .keys()
                .filter(|id| !kept.contains(id))
                .copied()
                .collect();
            for id in gone {
                self.remove_topic(id);
            }
        }
        self.merge_change(view, &[]);
    }

    /// Merges a later response, which describes what changed.
    pub(crate) fn merge_change(&mut self, view: &v1::ClusterView, deleted: &[bytes::Bytes]) {
        let lags = view.metadata_offset < self.metadata_offset;
        if !view.cluster_id.is_empty() {
            self.cluster_id.clone_from(&view.cluster_id);
        }
        if !lags {
            self.metadata_offset = view.metadata_offset;
            self.active_controller = view.active_controller_id.map(NodeId);
            if !view.controllers.is_empty() {
                self.controllers = view.controllers.iter().map(controller_info).collect();
            }
        }
        for broker in &view.brokers {
            self.merge_broker(broker, lags);
        }
        for topic in &view.topics {
            self.merge_topic(topic, lags);
        }
        for id in deleted.iter().filter_map(|id| TopicId::from_slice(id)) {
            self.remove_topic(id);
        }
    }

    /// Merges what a refusal says about the leader. True if it is news.
    pub(crate) fn merge_leader(
        &mut self,
        topic: TopicId,
        index: PartitionIndex,
        hint: &v1::LeaderHint,
    ) -> bool {
        let Some(info) = self.topics.get_mut(&topic) else {
            return false;
        };
        let Ok(at) = info
            .partitions
            .binary_search_by_key(&index, |p| p.partition)
        else {
            return false;
        };
        if hint.leader_epoch <= info.partitions[at].leader_epoch.0 {
            return false;
        }
        let node = NodeId(hint.node_id);
        if let Some(endpoint) = &hint.endpoint {
            let endpoint = endpoint_text(endpoint);
            self.brokers
                .entry(node)
                .and_modify(|broker| broker.endpoint.clone_from(&endpoint))
                .or_insert_with(|| unknown_broker(node, endpoint));
        }
        let partition = &mut Arc::make_mut(info).partitions[at];
        partition.leader = Some(node);
        partition.leader_epoch = LeaderEpoch(hint.leader_epoch);
        true
    }

    fn merge_broker(&mut self, view: &v1::BrokerView, lags: bool) {
        let info = broker_info(view);
        let known = self.brokers.get(&info.node_id);
        let older = known.is_some_and(|known| known.broker_epoch > info.broker_epoch);
        let outdated = older || (lags && known.is_some());
        if !outdated {
            self.brokers.insert(info.node_id, info);
        }
    }

    fn merge_topic(&mut self, view: &v1::TopicView, lags: bool) {
        let Some(id) = TopicId::from_slice(&view.topic_id) else {
            return;
        };
        if let Some(other) = self
            .names
            .get(view.name.as_str())
            .copied()
            .filter(|o| *o != id)
        {
            // Deleted and created again. A lagging broker may still show the old one.
            if lags {
                return;
            }
            self.remove_topic(other);
        }
        let name: Arc<str> = Arc::from(view.name.as_str());
        self.names.insert(Arc::clone(&name), id);
        let info = self.topics.entry(id).or_insert_with(|| {
            Arc::new(TopicInfo {
                name,
                id,
                internal: view.internal,
                partitions: Vec::new(),
            })
        });
        let info = Arc::make_mut(info);
        for partition in view.partitions.iter().map(partition_info) {
            merge_partition(&mut info.partitions, partition);
        }
    }

    fn remove_topic(&mut self, id: TopicId) {
        if let Some(info) = self.topics.remove(&id)
            && self.names.get(&info.name) == Some(&id)
        {
            self.names.remove(&info.name);
        }
    }
}

fn merge_partition(partitions: &mut Vec<PartitionInfo>, new: PartitionInfo) {
    match partitions.binary_search_by_key(&new.partition, |p| p.partition) {
        Err(at) => partitions.insert(at, new),
        Ok(at) => {
            let known = &mut partitions[at];
            let rank = |p: &PartitionInfo| (p.leader_epoch, p.partition_epoch);
            if rank(&new) >= rank(known) {
                *known = new;
            }
        }
    }
}

fn partition_info(view: &v1::PartitionView) -> PartitionInfo {
    let nodes = |ids: &[i32]| ids.iter().copied().map(NodeId).collect();
    PartitionInfo {
        partition: PartitionIndex(view.partition),
        leader: view.leader_id.map(NodeId),
        leader_epoch: LeaderEpoch(view.leader_epoch),
        partition_epoch: PartitionEpoch(view.partition_epoch),
        replicas: nodes(&view.replicas),
        isr: nodes(&view.isr),
        elr: nodes(&view.elr),
        min_insync_replicas: view.min_insync_replicas,
    }
}

fn broker_info(view: &v1::BrokerView) -> BrokerInfo {
    let text = |endpoint: &Option<v1::Endpoint>| endpoint.as_ref().map(endpoint_text);
    BrokerInfo {
        node_id: NodeId(view.node_id),
        endpoint: text(&view.client_endpoint).unwrap_or_default(),
        internal_endpoint: text(&view.internal_endpoint).unwrap_or_default(),
        rack: view.rack.clone(),
        fenced: view.fenced,
        in_controlled_shutdown: view.in_controlled_shutdown,
        broker_epoch: view.broker_epoch,
        version: view.version.clone(),
    }
}

fn controller_info(view: &v1::ControllerView) -> ControllerInfo {
    ControllerInfo {
        node_id: NodeId(view.node_id),
        internal_endpoint: view
            .internal_endpoint
            .as_ref()
            .map(endpoint_text)
            .unwrap_or_default(),
    }
}

/// A broker known only from a hint, until the watch describes it.
fn unknown_broker(node_id: NodeId, endpoint: String) -> BrokerInfo {
    BrokerInfo {
        node_id,
        endpoint,
        internal_endpoint: String::new(),
        rack: String::new(),
        fenced: false,
        in_controlled_shutdown: false,
        broker_epoch: -1,
        version: String::new(),
    }
}

#[cfg(test)]
mod tests;
