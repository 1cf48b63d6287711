//! Creating, growing and deleting topics.

use ottla_metadata::{
    ConfigChanged, ConfigResource, MetadataImage, PartitionCreated, TopicCreated, TopicDeleted,
    TopicImage,
};
use ottla_model::error::ApiError;
use ottla_model::limits::{
    METADATA_RECORDS_PER_REQUEST_MAX, PARTITIONS_PER_TOPIC_MAX, REPLICATION_FACTOR_MAX,
};
use ottla_model::name::TopicName;
use ottla_model::{ErrorCode, NodeId, PartitionIndex, TopicId};

use crate::config::ControllerConfig;
use crate::draft::Draft;
use crate::placement::{place, usable_brokers};
use crate::request::{CreatePartitions, CreateTopic, DeleteTopic, Reply};
use crate::topic_config::check_configs;

#[cfg(test)]
mod tests;

/// Creates a topic, or with `validate_only` says what would be created.
pub(crate) fn create_topic(
    draft: &mut Draft,
    config: &ControllerConfig,
    random: u128,
    request: CreateTopic,
) -> Result<Reply, ApiError> {
    check_name(draft.image(), &request.name)?;
    check_configs(&request.configs)?;
    let assignments = assignments_of(draft.image(), config, random, &request)?;
    check_record_count(1 + request.configs.len() + assignments.len())?;
    let topic = TopicId::from_random(random);
    let reply = Reply::TopicCreated {
        topic,
        partitions: i32::try_from(assignments.len()).unwrap_or(i32::MAX),
        replication_factor: i16::try_from(assignments[0].len()).unwrap_or(i16::MAX),
    };
    if request.validate_only {
        return Ok(reply);
    }
    let name = request.name;
    draft.push(TopicCreated { topic, name })?;
    for (name, value) in request.configs {
        draft.push(ConfigChanged {
            resource: ConfigResource::Topic(topic),
            name,
            value: Some(value),
        })?;
    }
    push_partitions(draft, topic, 0, assignments)?;
    Ok(reply)
}

/// Gives a topic more partitions.
pub(crate) fn create_partitions(
    draft: &mut Draft,
    random: u128,
    request: CreatePartitions,
) -> Result<Reply, ApiError> {
    let image = draft.image();
    let topic = find_topic(image, &request.name)?;
    let (id, present) = (topic.id, topic.partition_count());
    let total = check_partition_count(request.total).map_err(|error| error.in_field("total"))?;
    if total <= present {
        let message = format!(
            "the number of partitions of topic {} is {present}; it can only rise, not become {total}",
            request.name
        );
        return Err(ApiError::new(ErrorCode::InvalidPartitions, message).in_field("total"));
    }
    let count = total - present;
    check_record_count(count)?;
    let replication_factor = topic.partitions.front().map_or(1, |p| p.replicas.len());
    let assignments = if request.assignments.is_empty() {
        check_replication_factor(image, replication_factor)?;
        place(image, Some(topic), count, replication_factor, seed(random))
    } else if request.assignments.len() == count {
        check_assignments(image, &request.assignments, Some(replication_factor))?;
        request.assignments
    } else {
        let given = request.assignments.len();
        let message = format!("{count} partitions are to be added, but {given} are assigned");
        let error = ApiError::new(ErrorCode::InvalidReplicaAssignment, message);
        return Err(error.in_field("assignments"));
    };
    if !request.validate_only {
        push_partitions(draft, id, present, assignments)?;
    }
    Ok(Reply::Done)
}

/// Deletes a topic with everything in it.
pub(crate) fn delete_topic(draft: &mut Draft, request: DeleteTopic) -> Result<Reply, ApiError> {
    let topic = find_topic(draft.image(), &request.name)?.id;
    if let Some(asked) = request.topic.filter(|asked| *asked != topic) {
        let name = request.name;
        let message = format!("topic {name} has id {topic}, not {asked}; it was created again");
        return Err(ApiError::new(ErrorCode::InconsistentTopicId, message).in_field("topic"));
    }
    draft.push(TopicDeleted { topic })?;
    Ok(Reply::TopicDeleted { topic })
}

/// The topic of this name.
pub(crate) fn find_topic<'a>(
    image: &'a MetadataImage,
    name: &TopicName,
) -> Result<&'a TopicImage, ApiError> {
    image.topic_by_name(name.as_str()).ok_or_else(|| {
        let message = format!("topic {name} does not exist");
        ApiError::new(ErrorCode::UnknownTopicOrPartition, message).in_field("name")
    })
}

fn check_name(image: &MetadataImage, name: &TopicName) -> Result<(), ApiError> {
    if let Err(reserved) = name.check_not_reserved() {
        let message = format!("topic {name} cannot be created: {reserved}");
        return Err(ApiError::new(ErrorCode::InvalidTopic, message).in_field("name"));
    }
    let Some(taken) = image.topics.colliding_with(name) else {
        return Ok(());
    };
    let error = if taken.name == *name {
        let message = format!("topic {name} exists, with id {}", taken.id);
        ApiError::new(ErrorCode::TopicAlreadyExists, message)
    } else {
        let message = format!(
            "topic {name} would collide with topic {}: '.' and '_' count as equal in metric names",
            taken.name
        );
        ApiError::new(ErrorCode::InvalidTopic, message)
    };
    Err(error.in_field("name"))
}

fn assignments_of(
    image: &MetadataImage,
    config: &ControllerConfig,
    random: u128,
    request: &CreateTopic,
) -> Result<Vec<Vec<NodeId>>, ApiError> {
    if request.assignments.is_empty() {
        let partitions = request.partitions.unwrap_or(config.default_partitions);
        let partitions = check_partition_count(partitions).map_err(|e| e.in_field("partitions"))?;
        check_record_count(partitions)?;
        // Of those that are registered, not of those that are up: a topic created during an outage
        // is to be worth as much as any other once it is over.
        let registered = image.brokers.len();
        let default = || usize::try_from(config.default_replication_factor).unwrap_or(1);
        let factor = match request.replication_factor {
            Some(asked) => usize::try_from(asked).unwrap_or(0),
            None => default().min(registered).max(1),
        };
        check_replication_factor(image, factor)?;
        return Ok(place(image, None, partitions, factor, seed(random)));
    }
    check_record_count(request.assignments.len())?;
    check_assignments(image, &request.assignments, None)?;
    let (partitions, factor) = (request.assignments.len(), request.assignments[0].len());
    let agrees = |asked: i64, assigned: usize| i64::try_from(assigned) == Ok(asked);
    let fault = match (request.partitions, request.replication_factor) {
        (Some(asked), _) if !agrees(i64::from(asked), partitions) => "partitions",
        (_, Some(asked)) if !agrees(i64::from(asked), factor) => "replication_factor",
        _ => return Ok(request.assignments.clone()),
    };
    let message = format!(
        "{fault} contradicts the assignments, which name {partitions} partitions with {factor} \
         replicas each; leave it out"
    );
    Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field(fault))
}

fn check_partition_count(count: i32) -> Result<usize, ApiError> {
    match usize::try_from(count) {
        Ok(count) if (1..=PARTITIONS_PER_TOPIC_MAX).contains(&count) => Ok(count),
        _ => {
            let most = PARTITIONS_PER_TOPIC_MAX;
            let message = format!("a topic has from 1 to {most} partitions, not {count}");
            Err(ApiError::new(ErrorCode::InvalidPartitions, message))
        }
    }
}

fn check_record_count(count: usize) -> Result<(), ApiError> {
    let most = METADATA_RECORDS_PER_REQUEST_MAX;
    if count <= most {
        return Ok(());
    }
    let message = format!(
        "the request would take {count} metadata records; at most {most} are allowed at once, so \
         add partitions in several steps"
    );
    Err(ApiError::new(ErrorCode::PolicyViolation, message).in_field("partitions"))
}

fn check_replication_factor(image: &MetadataImage, factor: usize) -> Result<(), ApiError> {
    let (usable, registered) = (usable_brokers(image).len(), image.brokers.len());
    let (most, majority) = (REPLICATION_FACTOR_MAX, factor / 2 + 1);
    let message = match factor {
        0 => "the replication factor must be at least 1".to_owned(),
        _ if factor > most => {
            format!("the replication factor is {factor}; at most {most} is allowed")
        }
        _ if factor > registered => {
            format!(
                "the replication factor is {factor}, but only {registered} brokers are registered"
            )
        }
        _ if usable < majority => format!(
            "the replication factor is {factor}, but only {usable} of {registered} registered \
             brokers are up (the others are fenced or shutting down), and at least {majority} must \
             be, or the topic could not be written; start them or ask for a smaller one"
        ),
        _ => return Ok(()),
    };
    let error = ApiError::new(ErrorCode::InvalidReplicationFactor, message);
    Err(error.in_field("replication_factor"))
}

/// Checks replicas that the caller chose.
fn check_assignments(
    image: &MetadataImage,
    assignments: &[Vec<NodeId>],
    factor: Option<usize>,
) -> Result<(), ApiError> {
    let factor = factor.unwrap_or_else(|| assignments.first().map_or(0, Vec::len));
    for (at, replicas) in assignments.iter().enumerate() {
        let fault = assignment_fault(image, replicas, factor);
        if let Some(fault) = fault {
            let message = format!("the assignment {} is wrong: {fault}", listed(replicas));
            let error = ApiError::new(ErrorCode::InvalidReplicaAssignment, message);
            return Err(error.in_field(format!("assignments[{at}]")));
        }
    }
    Ok(())
}

/// The brokers as a user writes them.
fn listed(replicas: &[NodeId]) -> String {
    let names: Vec<String> = replicas.iter().map(ToString::to_string).collect();
    match names.is_empty() {
        true => "of no broker".to_owned(),
        false => names.join(","),
    }
}

fn assignment_fault(image: &MetadataImage, replicas: &[NodeId], factor: usize) -> Option<String> {
    let repeated = |(at, node): (usize, &NodeId)| replicas[..at].contains(node);
    let unknown = replicas.iter().find(|node| image.broker(**node).is_none());
    match unknown {
        _ if replicas.is_empty() => Some("it names no broker".to_owned()),
        _ if replicas.len() > REPLICATION_FACTOR_MAX => Some(format!(
            "it has {} replicas; at most {REPLICATION_FACTOR_MAX} are allowed",
            replicas.len()
        )),
        _ if replicas.len() != factor => Some(format!(
            "it has {} replicas, the other partitions have {factor}",
            replicas.len()
        )),
        _ if replicas.iter().enumerate().any(repeated) => {
            Some("a broker is named twice".to_owned())
        }
        Some(broker) => Some(format!("broker {broker} is not registered")),
        None if !replicas.iter().any(|node| image.is_eligible(*node)) => {
            Some("every broker in it is fenced or shutting down".to_owned())
        }
        None => None,
    }
}

fn push_partitions(
    draft: &mut Draft,
    topic: TopicId,
    first: usize,
    assignments: Vec<Vec<NodeId>>,
) -> Result<(), ApiError> {
    for (at, replicas) in assignments.into_iter().enumerate() {
        let eligible = |node: &NodeId| draft.image().is_eligible(*node);
        let isr: Vec<NodeId> = replicas.iter().copied().filter(eligible).collect();
        let Some(leader) = isr.first().copied() else {
            let message = format!("no broker of {} can lead", listed(&replicas));
            return Err(ApiError::new(ErrorCode::InvalidReplicaAssignment, message));
        };
        draft.push(PartitionCreated {
            topic,
            partition: PartitionIndex(i32::try_from(first + at).unwrap_or(i32::MAX)),
            replicas,
            isr,
            leader,
        })?;
    }
    Ok(())
}

fn seed(random: u128) -> u64 {
    (random ^ (random >> 64)) as u64
}
