//! Changing and inspecting the cluster. Any broker answers; a call goes to the next one when its
//! broker does not, until the client's request timeout.

mod delete_records;
mod offsets;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use ottla_model::{NodeId, Offset, PartitionIndex, TopicId};
use ottla_proto::v1;
use ottla_proto::v1::admin_service_client::AdminServiceClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

pub use delete_records::Trimmed;
pub(crate) use offsets::list_offsets;
pub use offsets::{ListedOffset, OffsetSpec};

use crate::client::Client;
use crate::error::ClientError;
use crate::failure::Failure;
use crate::retry::Call;

/// A topic to be created.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    pub name: String,
    /// `None`: the cluster's default.
    pub partitions: Option<i32>,
    /// `None`: the cluster's default, min(3, brokers).
    pub replication_factor: Option<i16>,
    /// The replicas of each partition, preferred leader first, instead of a count and a factor.
    pub assignments: Vec<Vec<NodeId>>,
    /// Settings by their Kafka name.
    pub configs: Vec<(String, String)>,
    /// Only check whether it would succeed.
    pub validate_only: bool,
}

impl NewTopic {
    pub fn new(name: impl Into<String>) -> NewTopic {
        NewTopic {
            name: name.into(),
            ..NewTopic::default()
        }
    }
}

/// Which broker to ask about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerTarget {
    Node(NodeId),
    /// As `host:port`.
    Endpoint(String),
}

/// The administration of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Admin {
        Admin { client }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// [`ClientError::Config`] if a count is given that is below 1; only `None` asks for a default.
    pub async fn create_topic(
        &self,
        topic: NewTopic,
    ) -> Result<v1::CreateTopicResponse, ClientError> {
        check_count("the number of partitions", topic.partitions)?;
        check_count(
            "the replication factor",
            topic.replication_factor.map(i32::from),
        )?;
        let request = v1::CreateTopicRequest {
            name: topic.name,
            partitions: topic.partitions.unwrap_or(0),
            replication_factor: topic.replication_factor.map_or(0, i32::from),
            assignments: assignments(&topic.assignments),
            configs: entries(topic.configs),
            validate_only: topic.validate_only,
        };
        self.call("creating the topic", request, |mut c, r| async move {
            c.create_topic(r).await
        })
        .await
    }

    /// All topics, page by page.
    pub async fn list_topics(
        &self,
        include_internal: bool,
    ) -> Result<Vec<v1::TopicSummary>, ClientError> {
        let mut topics = Vec::new();
        let mut request = v1::ListTopicsRequest {
            include_internal,
            ..v1::ListTopicsRequest::default()
        };
        loop {
            let page = self
                .call(
                    "listing the topics",
                    request.clone(),
                    |mut c, r| async move { c.list_topics(r).await },
                )
                .await?;
            topics.extend(page.topics);
            // A token that does not move on would never end.
            if page.next_page_token.is_empty() || page.next_page_token == request.page_token {
                return Ok(topics);
            }
            request.page_token = page.next_page_token;
        }
    }

    pub async fn describe_topic(
        &self,
        name: &str,
    ) -> Result<v1::DescribeTopicResponse, ClientError> {
        let name = name.to_owned();
        let request = v1::DescribeTopicRequest { name };
        self.call("describing the topic", request, |mut c, r| async move {
            c.describe_topic(r).await
        })
        .await
    }

    /// Sets settings, and returns others to their default.
    pub async fn alter_topic(
        &self,
        name: &str,
        set: Vec<(String, String)>,
        unset: Vec<String>,
    ) -> Result<(), ClientError> {
        let request = v1::AlterTopicRequest {
            name: name.to_owned(),
            set: entries(set),
            unset,
            validate_only: false,
        };
        self.call("altering the topic", request, |mut c, r| async move {
            c.alter_topic(r).await
        })
        .await
        .map(|v1::AlterTopicResponse {}| ())
    }

    /// Grows a topic to `total` partitions.
    pub async fn create_partitions(&self, name: &str, total: i32) -> Result<(), ClientError> {
        let request = v1::CreatePartitionsRequest {
            name: name.to_owned(),
            total,
            assignments: Vec::new(),
            validate_only: false,
        };
        self.call("creating partitions", request, |mut c, r| async move {
            c.create_partitions(r).await
        })
        .await
        .map(|v1::CreatePartitionsResponse {}| ())
    }

    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let request = v1::DeleteTopicRequest {
            name: name.to_owned(),
            topic_id: bytes::Bytes::new(),
        };
        self.call("deleting the topic", request, |mut c, r| async move {
            c.delete_topic(r).await
        })
        .await
        .map(|v1::DeleteTopicResponse { .. }| ())
    }

    /// The cluster as one broker sees it now.
    pub async fn describe_cluster(&self) -> Result<v1::ClusterView, ClientError> {
        Call::new(&self.client, "describing the cluster")
            .run(|connections, endpoint, _| async move {
                let mut client = connections.cluster(&endpoint)?;
                let request = v1::DescribeClusterRequest::default();
                let response = client.describe_cluster(request).await;
                let response = response.map_err(|status| Failure::classify(&status))?;
                let empty = || Failure::Broken("the answer has no view".to_owned());
                response.into_inner().cluster.ok_or_else(empty)
            })
            .await
    }

    /// What a broker knows of itself, its replicas among it. It is asked once: that it does not
    /// answer is an answer too, and [`Admin::describe_cluster`] has what others know of it.
    ///
    /// # Errors
    /// [`ClientError::Config`] if no broker has the node id, [`ClientError::Unavailable`] if it
    /// does not answer.
    pub async fn describe_broker(
        &self,
        broker: BrokerTarget,
    ) -> Result<v1::DescribeBrokerResponse, ClientError> {
        let endpoint = match broker {
            BrokerTarget::Endpoint(endpoint) => endpoint,
            BrokerTarget::Node(node) => {
                let cluster = self.client.cluster();
                let known = cluster.brokers.get(&node).map(|b| b.endpoint.clone());
                known.ok_or_else(|| ClientError::Config(format!("no broker has node id {node}")))?
            }
        };
        let call = Call::new(&self.client, "describing the broker").once_at(endpoint);
        self.send(call, v1::DescribeBrokerRequest {}, |mut c, r| async move {
            c.describe_broker(r).await
        })
        .await
    }

    /// Takes a broker that is stopped out of the cluster for good; with `force`, even if partitions
    /// list it as a replica.
    ///
    /// # Errors
    /// `POLICY_VIOLATION` if it is alive, or has replicas and it is not forced;
    /// `BROKER_ID_NOT_REGISTERED` if there is no such broker.
    pub async fn unregister_broker(&self, broker: NodeId, force: bool) -> Result<(), ClientError> {
        let broker_id = broker.0;
        let request = v1::UnregisterBrokerRequest { broker_id, force };
        self.call("unregistering the broker", request, |mut c, r| async move {
            c.unregister_broker(r).await
        })
        .await
        .map(|_: v1::UnregisterBrokerResponse| ())
    }

    pub async fn describe_quorum(&self) -> Result<v1::DescribeQuorumResponse, ClientError> {
        let request = v1::DescribeQuorumRequest {};
        self.call("describing the quorum", request, |mut c, r| async move {
            c.describe_quorum(r).await
        })
        .await
    }

    /// Lets the preferred replicas lead, of these partitions or, if there are none, of all.
    /// Returns how many leaders changed.
    pub async fn elect_leaders(
        &self,
        partitions: Vec<(String, PartitionIndex)>,
    ) -> Result<i32, ClientError> {
        let partitions = partitions.into_iter().map(|(topic, partition)| {
            let topic_id = bytes::Bytes::new();
            let partition = partition.0;
            v1::TopicPartition {
                topic,
                topic_id,
                partition,
            }
        });
        let request = v1::ElectLeadersRequest {
            partitions: partitions.collect(),
        };
        self.call("electing leaders", request, |mut c, r| async move {
            c.elect_leaders(r).await
        })
        .await
        .map(|response: v1::ElectLeadersResponse| response.elected)
    }

    /// Where partitions begin, end, or stood at a time. Each partition's leader is asked.
    pub async fn list_offsets(
        &self,
        topic: &str,
        partitions: Vec<(PartitionIndex, OffsetSpec)>,
    ) -> Result<Vec<ListedOffset>, ClientError> {
        list_offsets(&self.client, topic, None::<TopicId>, partitions).await
    }

    /// Like [`Admin::list_offsets`], but each leader is asked once and given up after `limit`: what
    /// the others answered is there all the same, and each partition without an answer says why.
    ///
    /// # Errors
    /// If the topic or a partition does not exist.
    pub async fn list_offsets_once(
        &self,
        topic: &str,
        partitions: Vec<(PartitionIndex, OffsetSpec)>,
        limit: Duration,
    ) -> Result<BTreeMap<PartitionIndex, Result<ListedOffset, ClientError>>, ClientError> {
        offsets::list_offsets_once(&self.client, topic, partitions, limit).await
    }

    /// Drops the records before an offset, or all that are acknowledged now where none is given.
    /// Each partition's leader is asked; done once no change of leader can bring them back.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` for an offset above the high watermark. Other partitions may be
    /// trimmed already.
    pub async fn delete_records(
        &self,
        topic: &str,
        partitions: Vec<(PartitionIndex, Option<Offset>)>,
    ) -> Result<Vec<Trimmed>, ClientError> {
        delete_records::delete_records(&self.client, topic, partitions).await
    }

    async fn call<R, T, F, Fut>(
        &self,
        what: &'static str,
        request: R,
        send: F,
    ) -> Result<T, ClientError>
    where
        R: Clone,
        F: Fn(AdminServiceClient<Channel>, Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.send(Call::new(&self.client, what), request, send)
            .await
    }

    async fn send<R, T, F, Fut>(
        &self,
        call: Call<'_>,
        request: R,
        send: F,
    ) -> Result<T, ClientError>
    where
        R: Clone,
        F: Fn(AdminServiceClient<Channel>, Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let send = &send;
        call.run(|connections, endpoint, limit| {
            let mut request = Request::new(request.clone());
            request.set_timeout(limit);
            async move {
                let client = connections.admin(&endpoint)?;
                let response = send(client, request).await;
                Ok(response
                    .map_err(|status| Failure::classify(&status))?
                    .into_inner())
            }
        })
        .await
    }
}

/// On the wire 0 stands for the default, which nobody who says 0 means.
fn check_count(what: &str, count: Option<i32>) -> Result<(), ClientError> {
    match count {
        Some(count) if count < 1 => {
            let message =
                format!("{what} is {count}; it is 1 or more, or left out for the default");
            Err(ClientError::Config(message))
        }
        _ => Ok(()),
    }
}

fn entries(configs: Vec<(String, String)>) -> Vec<v1::ConfigEntry> {
    let entry = |(name, value)| v1::ConfigEntry { name, value };
    configs.into_iter().map(entry).collect()
}

fn assignments(assignments: &[Vec<NodeId>]) -> Vec<v1::ReplicaAssignment> {
    let assignment = |replicas: &Vec<NodeId>| v1::ReplicaAssignment {
        replicas: replicas.iter().map(|node| node.0).collect(),
    };
    assignments.iter().map(assignment).collect()
}
