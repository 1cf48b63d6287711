//! Admin calls that brokers forward: from the wire to a request, and back.

use std::time::Duration;

use bytes::Bytes;
use ottla_controller_core::{
    AlterTopic, CreatePartitions, CreateTopic, DeleteTopic, Reply, Request,
};
use ottla_model::error::ApiError;
use ottla_model::name::TopicName;
use ottla_model::{ErrorCode, NodeId, PartitionIndex, TopicIdPartition};
use ottla_proto::convert::topic_id;
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::decide_request::Request as Asked;
use ottla_proto::v1::decide_response::Response as Answer;
use tokio::time::Instant;
use tonic::Status;

use crate::active::ActiveController;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Decides one forwarded call. A refusal is part of the answer; a status says that this controller
/// could not decide.
pub async fn decide(
    active: &ActiveController,
    request: v1::DecideRequest,
) -> Result<v1::DecideResponse, Status> {
    let timeout = match request.timeout_ms {
        0 => TIMEOUT_DEFAULT,
        ms => Duration::from_millis(u64::from(ms)).min(TIMEOUT_MAX),
    };
    let asked = request.request.ok_or_else(|| {
        to_status(&ApiError::new(
            ErrorCode::InvalidRequest,
            "there is nothing to decide",
        ))
    })?;
    let name = name_of(&asked).to_owned();
    let done = match &asked {
        Asked::CreatePartitions(_) => Answer::CreatePartitions(v1::CreatePartitionsResponse {}),
        _ => Answer::AlterTopic(v1::AlterTopicResponse {}),
    };
    let decided = match convert(active, asked) {
        Ok(request) => active.ask(request, Instant::now() + timeout).await,
        Err(error) => Err(error),
    };
    match decided {
        Ok((reply, end)) => Ok(v1::DecideResponse {
            metadata_offset: end.0,
            response: Some(answer(reply, name, done)),
        }),
        Err(error)
            if matches!(
                error.code,
                ErrorCode::NotController | ErrorCode::NoControllerQuorum
            ) =>
        {
            Err(to_status(&error))
        }
        Err(error) => Ok(v1::DecideResponse {
            metadata_offset: 0,
            response: Some(Answer::Error(v1::Error::from(&error))),
        }),
    }
}

fn name_of(asked: &Asked) -> &str {
    match asked {
        Asked::CreateTopic(request) => &request.name,
        Asked::AlterTopic(request) => &request.name,
        Asked::CreatePartitions(request) => &request.name,
        Asked::DeleteTopic(request) => &request.name,
        Asked::ElectLeaders(_) => "",
    }
}

/// The answer of the same kind as the question. A reply that says only that it is done becomes
/// `done`.
fn answer(reply: Reply, name: String, done: Answer) -> Answer {
    let bytes = |id: ottla_model::TopicId| Bytes::copy_from_slice(id.as_bytes());
    match reply {
        Reply::TopicCreated {
            topic,
            partitions,
            replication_factor,
        } => Answer::CreateTopic(v1::CreateTopicResponse {
            topic_id: bytes(topic),
            name,
            partitions,
            replication_factor: i32::from(replication_factor),
        }),
        Reply::TopicDeleted { topic } => Answer::DeleteTopic(v1::DeleteTopicResponse {
            topic_id: bytes(topic),
        }),
        Reply::Elected(elected) => Answer::ElectLeaders(v1::ElectLeadersResponse { elected }),
        Reply::Done => done,
        other => {
            let message = format!("an admin call was answered with {other:?}");
            let error = ApiError::new(ErrorCode::UnknownServerError, message);
            Answer::Error(v1::Error::from(&error))
        }
    }
}

fn topic_name(text: String) -> Result<TopicName, ApiError> {
    TopicName::new(text)
        .map_err(|error| ApiError::new(ErrorCode::InvalidTopic, error.to_string()).in_field("name"))
}

fn pairs(entries: Vec<v1::ConfigEntry>) -> Vec<(String, String)> {
    entries
        .into_iter()
        .map(|entry| (entry.name, entry.value))
        .collect()
}

fn assignments(assignments: Vec<v1::ReplicaAssignment>) -> Vec<Vec<NodeId>> {
    let nodes =
        |assignment: v1::ReplicaAssignment| assignment.replicas.into_iter().map(NodeId).collect();
    assignments.into_iter().map(nodes).collect()
}

fn convert(active: &ActiveController, asked: Asked) -> Result<Request, ApiError> {
    Ok(match asked {
        Asked::CreateTopic(v1::CreateTopicRequest {
            name,
            partitions,
            replication_factor,
            assignments: wanted,
            configs,
            validate_only,
        }) => {
            let factor = i16::try_from(replication_factor).map_err(|_| {
                let message = format!("{replication_factor} is no replication factor");
                ApiError::new(ErrorCode::InvalidReplicationFactor, message)
                    .in_field("replication_factor")
            })?;
            Request::CreateTopic(CreateTopic {
                name: topic_name(name)?,
                partitions: Some(partitions).filter(|count| *count != 0),
                replication_factor: Some(factor).filter(|factor| *factor != 0),
                assignments: assignments(wanted),
                configs: pairs(configs),
                validate_only,
            })
        }
        Asked::AlterTopic(v1::AlterTopicRequest {
            name,
            set,
            unset,
            validate_only,
        }) => {
            let (name, set) = (topic_name(name)?, pairs(set));
            Request::AlterTopic(AlterTopic {
                name,
                set,
                unset,
                validate_only,
            })
        }
        Asked::CreatePartitions(v1::CreatePartitionsRequest {
            name,
            total,
            assignments: wanted,
            validate_only,
        }) => Request::CreatePartitions(CreatePartitions {
            name: topic_name(name)?,
            total,
            assignments: assignments(wanted),
            validate_only,
        }),
        Asked::DeleteTopic(v1::DeleteTopicRequest { name, topic_id: id }) => {
            let topic = match id.is_empty() {
                true => None,
                false => Some(topic_id(&id, "topic_id")?),
            };
            Request::DeleteTopic(DeleteTopic {
                name: topic_name(name)?,
                topic,
            })
        }
        Asked::ElectLeaders(v1::ElectLeadersRequest { partitions }) => Request::ElectLeaders {
            partitions: match partitions.is_empty() {
                true => None,
                false => Some(find_all(active, &partitions)?),
            },
        },
    })
}

/// The partitions that a request names, by id or by name.
fn find_all(
    active: &ActiveController,
    named: &[v1::TopicPartition],
) -> Result<Vec<TopicIdPartition>, ApiError> {
    let image = active.quorum.image();
    let find = |named: &v1::TopicPartition| {
        let topic = match named.topic_id.is_empty() {
            true => image.topic_by_name(&named.topic).map(|topic| topic.id),
            false => Some(topic_id(&named.topic_id, "partitions")?),
        };
        topic
            .map(|topic| TopicIdPartition::new(topic, PartitionIndex(named.partition)))
            .ok_or_else(|| {
                let message = format!("there is no topic '{}'", named.topic);
                ApiError::new(ErrorCode::UnknownTopicOrPartition, message).in_field("partitions")
            })
    };
    named.iter().map(find).collect()
}
