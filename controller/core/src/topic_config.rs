//! Changing the settings of topics, with what follows for their partitions.

use std::collections::BTreeSet;

use ottla_metadata::{Cause, ConfigChanged, ConfigResource, PartitionChanged, TopicImage};
use ottla_model::config::{TopicConfig, TopicConfigKey, check_topic_config};
use ottla_model::error::ApiError;
use ottla_model::limits::{CONFIG_VALUE_BYTES_MAX, METADATA_RECORDS_PER_REQUEST_MAX};
use ottla_model::{ErrorCode, NodeId, TopicIdPartition};

use crate::draft::Draft;
use crate::election::elect_leaderless;
use crate::request::{AlterTopic, Reply};
use crate::topic::find_topic;

/// Changes a topic's settings. Where the ISR is large enough under the new
/// `min.insync.replicas`, the ELR is emptied, before brokers learn that they may commit with
/// fewer; where unclean election becomes allowed, it happens at once.
pub(crate) fn alter_topic(
    draft: &mut Draft,
    gone: &BTreeSet<NodeId>,
    request: AlterTopic,
) -> Result<Reply, ApiError> {
    let topic = find_topic(draft.image(), &request.name)?;
    let id = topic.id;
    check_configs(&request.set)?;
    check_unset(&request)?;
    let changes = changes_of(topic, &request);
    let overrides = changes
        .iter()
        .fold(topic.configs.clone(), |map, change| match &change.value {
            Some(value) => map.update(change.name.clone(), value.clone()),
            None => map.without(&change.name),
        });
    let config = draft.image().resolve_config(&overrides);
    let emptied = emptied_elrs(topic, &config);
    let records = changes.len() + emptied.len();
    if records > METADATA_RECORDS_PER_REQUEST_MAX {
        let message = format!(
            "the change would take {records} metadata records, more than the \
             {METADATA_RECORDS_PER_REQUEST_MAX} allowed at once; wait until the topic's replicas \
             are in sync"
        );
        return Err(ApiError::new(ErrorCode::PolicyViolation, message));
    }
    if request.validate_only || changes.is_empty() {
        return Ok(Reply::Done);
    }
    for change in emptied {
        draft.push(change)?;
    }
    for change in changes {
        draft.push(change)?;
    }
    let image = draft.image();
    let of_topic = |partition: &TopicIdPartition| partition.topic == id;
    let leaderless: Vec<_> = image.leaderless_partitions().filter(of_topic).collect();
    let rest = METADATA_RECORDS_PER_REQUEST_MAX - records;
    elect_leaderless(draft, gone, &leaderless, rest, Cause::Requested)?;
    Ok(Reply::Done)
}

/// Checks settings: known names, each once, with values that can be.
pub(crate) fn check_configs(configs: &[(String, String)]) -> Result<(), ApiError> {
    for (at, (name, value)) in configs.iter().enumerate() {
        let refuse = |message: String| {
            let error = ApiError::new(ErrorCode::InvalidConfig, message);
            Err(error.in_field(format!("configs[{name}]")))
        };
        if configs[..at].iter().any(|(other, _)| other == name) {
            return refuse(format!("the topic setting {name} is given twice"));
        }
        if value.len() > CONFIG_VALUE_BYTES_MAX {
            let length = value.len();
            return refuse(format!(
                "the value of {name} has {length} bytes; at most {CONFIG_VALUE_BYTES_MAX} are \
                 allowed"
            ));
        }
        if let Err(error) = check_topic_config(name, value) {
            return refuse(error.to_string());
        }
    }
    Ok(())
}

fn check_unset(request: &AlterTopic) -> Result<(), ApiError> {
    for name in &request.unset {
        let message = if TopicConfigKey::find(name).is_none() {
            format!("there is no topic setting '{name}' to return to its default")
        } else if request.set.iter().any(|(other, _)| other == name) {
            format!("the topic setting {name} is both set and returned to its default")
        } else {
            continue;
        };
        let error = ApiError::new(ErrorCode::InvalidConfig, message);
        return Err(error.in_field(format!("configs[{name}]")));
    }
    Ok(())
}

/// The settings that really change.
fn changes_of(topic: &TopicImage, request: &AlterTopic) -> Vec<ConfigChanged> {
    let set = request.set.iter().map(|(name, value)| (name, Some(value)));
    let unset: BTreeSet<_> = request.unset.iter().collect();
    let all = set.chain(unset.into_iter().map(|name| (name, None)));
    let changed = all.filter(|(name, value)| topic.configs.get(*name) != *value);
    changed
        .map(|(name, value)| ConfigChanged {
            resource: ConfigResource::Topic(topic.id),
            name: name.clone(),
            value: value.cloned(),
        })
        .collect()
}

/// The partitions whose ISR is large enough under the new settings although they have an ELR.
fn emptied_elrs(topic: &TopicImage, config: &TopicConfig) -> Vec<PartitionChanged> {
    let partitions = topic.iter().filter(|(_, partition)| {
        let fewest = config.min_insync_replicas_for(partition.replicas.len());
        !partition.elr.is_empty() && partition.isr.len() >= fewest
    });
    partitions
        .map(|(id, _)| PartitionChanged {
            elr: Some(Vec::new()),
            ..PartitionChanged::new(id, Cause::Requested)
        })
        .collect()
}
