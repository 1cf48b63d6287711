//! `AdminService`: what must be decided goes to the active controller; what is known is answered
//! from this broker's own image.

use std::time::Duration;

use ottla_broker_core::partition::Role;
use ottla_model::config::TOPIC_CONFIGS;
use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, MetadataOffset};
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::admin_service_server::AdminService;
use ottla_proto::v1::decide_request::Request as Ask;
use ottla_proto::v1::decide_response::Response as Answer;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::view;
use crate::broker::{Broker, BrokerCell, time_left};

const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);
/// Kept back of a call's time for the answer's way back.
const MARGIN: Duration = Duration::from_millis(50);
const PAGE_SIZE_MAX: usize = 10_000;

/// The service over one broker.
#[derive(Clone)]
pub struct AdminRpc(pub BrokerCell);

impl AdminRpc {
    /// Has the active controller decide, then waits until this broker knows the outcome too, so
    /// that whoever asked sees it here at once.
    async fn decide<T>(&self, request: &Request<T>, ask: Ask) -> Result<Answer, Status> {
        let broker = self.0.get()?;
        let patience = time_left(request, DEFAULT_PATIENCE);
        let deadline = Instant::now() + patience.saturating_sub(MARGIN);
        decide(broker, deadline, ask)
            .await
            .map_err(|error| to_status(&error))
    }
}

async fn decide(broker: &Broker, deadline: Instant, ask: Ask) -> Result<Answer, ApiError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let request = v1::DecideRequest {
        timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        request: Some(ask),
    };
    let response = broker
        .controllers
        .call(deadline, |mut client| {
            let request = request.clone();
            async move { client.decide(request).await.map(Response::into_inner) }
        })
        .await?;
    let answer = match response.response {
        Some(Answer::Error(error)) => return Err(ApiError::from(&error)),
        Some(answer) => answer,
        None => {
            let message = "the controller gave an empty answer";
            return Err(ApiError::new(ErrorCode::UnknownServerError, message));
        }
    };
    let known = broker
        .image
        .wait_for(MetadataOffset(response.metadata_offset));
    // Decided all the same; this broker only learns of it a little later.
    let _ = timeout_at(deadline, known).await;
    Ok(answer)
}

fn out_of_turn() -> Status {
    Status::internal("the controller gave an answer to another question")
}

#[tonic::async_trait]
impl AdminService for AdminRpc {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let ask = Ask::CreateTopic(request.get_ref().clone());
        match self.decide(&request, ask).await? {
            Answer::CreateTopic(response) => Ok(Response::new(response)),
            _ => Err(out_of_turn()),
        }
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let broker = self.0.get()?;
        Ok(Response::new(list_topics(broker, &request.into_inner())))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let broker = self.0.get()?;
        let name = request.into_inner().name;
        describe_topic(broker, &name)
            .map(Response::new)
            .map_err(|error| to_status(&error))
    }

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        let ask = Ask::AlterTopic(request.get_ref().clone());
        match self.decide(&request, ask).await? {
            Answer::AlterTopic(response) => Ok(Response::new(response)),
            _ => Err(out_of_turn()),
        }
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let ask = Ask::CreatePartitions(request.get_ref().clone());
        match self.decide(&request, ask).await? {
            Answer::CreatePartitions(response) => Ok(Response::new(response)),
            _ => Err(out_of_turn()),
        }
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let ask = Ask::DeleteTopic(request.get_ref().clone());
        match self.decide(&request, ask).await? {
            Answer::DeleteTopic(response) => Ok(Response::new(response)),
            _ => Err(out_of_turn()),
        }
    }

    async fn describe_broker(
        &self,
        _request: Request<v1::DescribeBrokerRequest>,
    ) -> Result<Response<v1::DescribeBrokerResponse>, Status> {
        Ok(Response::new(describe_broker(self.0.get()?)))
    }

    async fn unregister_broker(
        &self,
        request: Request<v1::UnregisterBrokerRequest>,
    ) -> Result<Response<v1::UnregisterBrokerResponse>, Status> {
        let ask = Ask::UnregisterBroker(*request.get_ref());
        match self.decide(&request, ask).await? {
            Answer::UnregisterBroker(response) => Ok(Response::new(response)),
            _ => Err(out_of_turn()),
        }
    }

    async fn elect_leaders(
        &self,
        request: Request<v1::ElectLeadersRequest>,
    ) -> Result<Response<v1::ElectLeadersResponse>, Status> {
        let ask = Ask::ElectLeaders(request.get_ref().clone());
        match self.decide(&request, ask).await? {
            Answer::ElectLeaders(response) => Ok(Response::new(response)),
            _ => Err(out_of_turn()),
        }
    }

    async fn describe_quorum(
        &self,
        request: Request<v1::DescribeQuorumRequest>,
    ) -> Result<Response<v1::DescribeQuorumResponse>, Status> {
        let broker = self.0.get()?;
        let patience = time_left(&request, DEFAULT_PATIENCE);
        let deadline = Instant::now() + patience.saturating_sub(MARGIN);
        // Whichever controller answers first knows; the active one is asked first.
        let response = broker
            .controllers
            .call(deadline, |mut client| async move {
                client
                    .inspect_quorum(v1::InspectQuorumRequest {})
                    .await
                    .map(Response::into_inner)
            })
            .await
            .map_err(|error| to_status(&error))?;
        response.quorum.map(Response::new).ok_or_else(out_of_turn)
    }
}

fn list_topics(broker: &Broker, request: &v1::ListTopicsRequest) -> v1::ListTopicsResponse {
    let image = broker.image.current();
    let size = match usize::try_from(request.page_size) {
        Ok(size) if size > 0 => size.min(PAGE_SIZE_MAX),
        _ => usize::MAX,
    };
    let mut topics: Vec<_> = image
        .topics
        .iter()
        .filter(|topic| request.include_internal || !topic.name.is_internal())
        .filter(|topic| topic.name.as_str() > request.page_token.as_str())
        .collect();
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let has_more = topics.len() > size;
    topics.truncate(size);
    let next_page_token = match topics.last() {
        Some(last) if has_more => last.name.to_string(),
        _ => String::new(),
    };
    let topics = topics.into_iter().map(view::topic_summary).collect();
    v1::ListTopicsResponse {
        topics,
        next_page_token,
    }
}

fn describe_topic(broker: &Broker, name: &str) -> Result<v1::DescribeTopicResponse, ApiError> {
    let image = broker.image.current();
    let Some(topic) = image.topic_by_name(name) else {
        let message = format!("there is no topic '{name}'");
        let error = ApiError::new(ErrorCode::UnknownTopicOrPartition, message);
        return Err(error.in_field("name"));
    };
    let configs = TOPIC_CONFIGS
        .iter()
        .map(|key| {
            let set = topic.configs.get(key.name);
            v1::DescribedConfig {
                name: key.name.to_owned(),
                value: set.cloned().unwrap_or_else(|| key.default.to_owned()),
                is_set: set.is_some(),
                documentation: key.doc.to_owned(),
            }
        })
        .collect();
    Ok(v1::DescribeTopicResponse {
        topic: Some(view::topic(&image, topic)),
        configs,
    })
}

fn describe_broker(broker: &Broker) -> v1::DescribeBrokerResponse {
    let image = broker.image.current();
    let mut replicas: Vec<_> = broker
        .manager
        .all()
        .into_iter()
        .map(|replica| {
            let topic = image
                .topic(replica.id.topic)
                .map(|topic| topic.name.to_string());
            let size_bytes = replica.log.size_bytes();
            replica.with_core(|core| v1::ReplicaView {
                partition: Some(v1::TopicPartition {
                    topic: topic.unwrap_or_default(),
                    topic_id: bytes::Bytes::copy_from_slice(replica.id.topic.as_bytes()),
                    partition: replica.id.partition.0,
                }),
                leader: core.role() == Role::Leader,
                leader_epoch: core.leader_epoch().0,
                log_start_offset: core.log_start().0,
                high_watermark: core.high_watermark().0,
                log_end_offset: core.log_end().0,
                size_bytes,
            })
        })
        .collect();
    replicas.sort_by_key(|replica| {
        replica
            .partition
            .as_ref()
            .map(|named| (named.topic.clone(), named.partition))
    });
    v1::DescribeBrokerResponse {
        broker: image
            .brokers
            .get(&broker.config.node_id)
            .map(view::broker_view),
        roles: broker.config.roles.clone(),
        data_dir: broker.config.data_dir.display().to_string(),
        replicas,
        pid: u64::from(std::process::id()),
        disk_full: broker.space.is_short(),
    }
}
