//! An in-memory cluster: a few nodes on real sockets over one shared state, so that a new leader
//! has everything. Each node has a runtime of its own and can be killed.

mod rpc;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ottla_client::{Client, ClientConfig};
use ottla_model::batch::{BatchHeader, stamp, validate_batch};
use ottla_model::{ErrorCode, LeaderEpoch, Offset, TopicId};
use ottla_proto::v1;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What goes wrong with the next append at a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused without being carried out.
    Refuse(ErrorCode),
    /// Carried out and then refused.
    AppendAndRefuse(ErrorCode),
    /// Carried out; then the stream breaks instead of an answer.
    AppendAndBreak,
    /// Never answered, and not carried out.
    Ignore,
}

#[derive(Debug, Default)]
pub struct Partition {
    pub leader: i32,
    pub epoch: i32,
    pub log_start: i64,
    pub batches: Vec<Bytes>,
    pub faults: VecDeque<Fault>,
    producers: BTreeMap<i64, VecDeque<(i32, i32, i64)>>,
}

impl Partition {
    pub fn end(&self) -> i64 {
        let last = self
            .batches
            .last()
            .and_then(|batch| BatchHeader::decode(batch));
        last.map_or(0, |header| header.next_offset().0)
    }

    /// Appends with Kafka's rules for sequences.
    fn append(&mut self, batch: &Bytes) -> Result<i64, ErrorCode> {
        let header = validate_batch(batch).map_err(|_| ErrorCode::CorruptMessage)?;
        let base = self.end();
        if header.is_idempotent() {
            let known = self.producers.entry(header.producer_id.0).or_default();
            let (first, last) = (header.base_sequence, header.last_sequence());
            if let Some((_, _, base)) = known.iter().find(|(f, l, _)| (*f, *l) == (first, last)) {
                return Ok(*base);
            }
            if first != known.back().map_or(0, |(_, last, _)| last + 1) {
                return Err(ErrorCode::OutOfOrderSequenceNumber);
            }
            known.push_back((first, last, base));
            if known.len() > 5 {
                known.pop_front();
            }
        }
        let mut bytes = BytesMut::from(&batch[..]);
        stamp(&mut bytes, Offset(base), LeaderEpoch(self.epoch), None);
        self.batches.push(bytes.freeze());
        Ok(base)
    }
}

#[derive(Debug)]
pub struct Topic {
    pub id: TopicId,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Default)]
pub struct State {
    pub topics: BTreeMap<String, Topic>,
    endpoints: BTreeMap<i32, u16>,
    offset: i64,
    producer_ids: i64,
}

#[derive(Clone)]
pub struct Shared {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<i64>,
}

impl Shared {
    /// Changes the cluster and tells the watchers and those who wait for records.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        state.offset += 1;
        self.changes.send_replace(state.offset);
        result
    }

    fn view(&self) -> v1::ClusterView {
        let state = self.state.lock();
        let endpoint = |port: u16| v1::Endpoint {
            host: "127.0.0.1".to_owned(),
            port: u32::from(port),
        };
        let brokers = state.endpoints.iter().map(|(node, port)| v1::BrokerView {
            node_id: *node,
            client_endpoint: Some(endpoint(*port)),
            ..v1::BrokerView::default()
        });
        let partition = |(index, p): (usize, &Partition)| v1::PartitionView {
            partition: index as i32,
            leader_id: Some(p.leader),
            leader_epoch: p.epoch,
            ..v1::PartitionView::default()
        };
        let topics = state.topics.iter().map(|(name, topic)| v1::TopicView {
            name: name.clone(),
            topic_id: Bytes::copy_from_slice(topic.id.as_bytes()),
            partitions: topic.partitions.iter().enumerate().map(partition).collect(),
            internal: false,
        });
        v1::ClusterView {
            cluster_id: "fake".to_owned(),
            metadata_offset: state.offset,
            brokers: brokers.collect(),
            topics: topics.collect(),
            ..v1::ClusterView::default()
        }
    }
}

pub struct FakeCluster {
    pub shared: Shared,
    runtimes: BTreeMap<i32, Runtime>,
}

impl FakeCluster {
    pub fn start(nodes: i32) -> FakeCluster {
        let shared = Shared {
            state: Arc::new(Mutex::new(State::default())),
            changes: watch::Sender::new(0),
        };
        let mut runtimes = BTreeMap::new();
        for node in 0..nodes {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            shared.change(|state| state.endpoints.insert(node, port));
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.spawn(rpc::serve(node, shared.clone(), listener));
            runtimes.insert(node, runtime);
        }
        FakeCluster { shared, runtimes }
    }

    /// A cluster with a topic whose partitions are led by the nodes in turn.
    pub fn with_topic(nodes: i32, name: &str, partitions: i32) -> FakeCluster {
        let cluster = FakeCluster::start(nodes);
        cluster.create_topic(name, partitions);
        cluster
    }

    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.shared.change(|state| {
            let nodes = state.endpoints.len() as i32;
            let partition = |index| Partition {
                leader: index % nodes,
                ..Partition::default()
            };
            let topic = Topic {
                id: TopicId::from_random(state.topics.len() as u128 + 1),
                partitions: (0..partitions).map(partition).collect(),
            };
            state.topics.insert(name.to_owned(), topic);
        });
    }

    pub fn bootstrap(&self) -> Vec<String> {
        let state = self.shared.state.lock();
        state
            .endpoints
            .values()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect()
    }

    pub async fn client(&self) -> Client {
        Client::connect(ClientConfig::new(self.bootstrap()))
            .await
            .unwrap()
    }

    pub fn partition<T>(
        &self,
        topic: &str,
        index: usize,
        use_it: impl FnOnce(&mut Partition) -> T,
    ) -> T {
        let mut state = self.shared.state.lock();
        use_it(&mut state.topics.get_mut(topic).unwrap().partitions[index])
    }

    /// Gives a partition another leader and announces it.
    pub fn move_leader(&self, topic: &str, index: usize, leader: i32) {
        self.shared.change(|state| {
            let partition = &mut state.topics.get_mut(topic).unwrap().partitions[index];
            partition.leader = leader;
            partition.epoch += 1;
        });
    }

    /// Ends a node as kill -9 would: its sockets close, nobody is told.
    pub fn kill(&mut self, node: i32) {
        self.runtimes.remove(&node).unwrap().shutdown_background();
    }

    /// The values in a partition's log, in order.
    pub fn values(&self, topic: &str, index: usize) -> Vec<String> {
        let batches = self.partition(topic, index, |partition| partition.batches.clone());
        let records = batches
            .iter()
            .flat_map(|batch| ottla_model::batch::decode_records(batch, 1 << 26).unwrap());
        let text = |value: Bytes| String::from_utf8(value.to_vec()).unwrap();
        records.map(|record| text(record.value.unwrap())).collect()
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        for (_, runtime) in std::mem::take(&mut self.runtimes) {
            runtime.shutdown_background();
        }
    }
}
