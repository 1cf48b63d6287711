//! Requests of the wire as the core's, and its replies as the wire's. Shapes only: what is allowed
//! is the core's to say.

use ottla_controller_core::{
    AlterPartition, AlterPartitions, AlterTopic, CreatePartitions, CreateTopic, DeleteTopic,
    RegisterBroker, Reply, ReportDamage, Request, UnregisterBroker,
};
use ottla_metadata::{Endpoint, MetadataImage};
use ottla_model::error::ApiError;
use ottla_model::limits::NODE_TEXT_BYTES_MAX;
use ottla_model::name::TopicName;
use ottla_model::{
    BrokerEpoch, ClusterId, DirectoryId, ErrorCode, IncarnationId, LeaderEpoch, NodeId,
    PartitionEpoch, PartitionIndex, TopicIdPartition,
};
use ottla_proto::convert::{topic_id, topic_id_partition};
use ottla_proto::v1;

type Converted<T> = Result<T, ApiError>;

fn invalid(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, message).in_field(field)
}

fn unexpected(reply: &Reply) -> ApiError {
    let message = format!("the controller gave an answer to another question: {reply:?}");
    ApiError::new(ErrorCode::UnknownServerError, message)
}

pub fn endpoint(wire: Option<v1::Endpoint>, field: &str) -> Converted<Endpoint> {
    let v1::Endpoint { host, port } =
        wire.ok_or_else(|| invalid(field, format!("{field} is missing")))?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    match port {
        Some(port) if !host.is_empty() => Ok(Endpoint {
            host: short(host, field)?,
            port,
        }),
        _ => Err(invalid(field, format!("{field} needs a host and a port"))),
    }
}

/// A text that is kept in the metadata and told to every client.
fn short(text: String, field: &str) -> Converted<String> {
    if text.len() > NODE_TEXT_BYTES_MAX {
        let length = text.len();
        let message = format!("{field} has {length} bytes; at most {NODE_TEXT_BYTES_MAX} are kept");
        return Err(invalid(field, message));
    }
    Ok(text)
}

pub fn endpoint_to_wire(endpoint: &Endpoint) -> v1::Endpoint {
    v1::Endpoint {
        host: endpoint.host.clone(),
        port: u32::from(endpoint.port),
    }
}

/// A broker's registration. A broker with an empty directory names no cluster, and joins ours.
pub fn registration(
    wire: v1::BrokerRegistration,
    ours: Option<ClusterId>,
) -> Converted<RegisterBroker> {
    let v1::BrokerRegistration {
        cluster_id,
        broker_id,
        incarnation_id,
        directory_id,
        client_endpoint,
        internal_endpoint,
        rack,
        version,
        previous_broker_epoch,
        last_broker_epoch,
    } = wire;
    let not_founded = || {
        let message = "the cluster is not founded yet; try again";
        ApiError::new(ErrorCode::NodeStarting, message)
    };
    let cluster_id = if cluster_id.is_empty() {
        ours.ok_or_else(not_founded)?
    } else {
        let parsed = cluster_id.parse::<ClusterId>();
        parsed.map_err(|error| invalid("cluster_id", error.to_string()))?
    };
    if broker_id < 0 {
        return Err(invalid(
            "broker_id",
            format!("{broker_id} is no broker id: it is negative"),
        ));
    }
    let sixteen = |field| invalid(field, format!("{field} has 16 bytes"));
    Ok(RegisterBroker {
        cluster_id,
        broker: NodeId(broker_id),
        incarnation: IncarnationId::from_slice(&incarnation_id)
            .ok_or_else(|| sixteen("incarnation_id"))?,
        directory: DirectoryId::from_slice(&directory_id).ok_or_else(|| sixteen("directory_id"))?,
        client_endpoint: endpoint(client_endpoint, "client_endpoint")?,
        internal_endpoint: endpoint(internal_endpoint, "internal_endpoint")?,
        rack: Some(short(rack, "rack")?).filter(|rack| !rack.is_empty()),
        version: short(version, "version")?,
        previous_broker_epoch: previous_broker_epoch.map(BrokerEpoch),
        last_broker_epoch: last_broker_epoch.map(BrokerEpoch),
    })
}

pub fn alter_partitions(wire: v1::AlterPartitionsRequest) -> Converted<Request> {
    let v1::AlterPartitionsRequest {
        broker_id,
        broker_epoch,
        partitions,
    } = wire;
    let change = |wire: v1::AlterPartition| {
        let v1::AlterPartition {
            topic_id,
            partition,
            leader_epoch,
            partition_epoch,
            isr,
        } = wire;
        let isr = isr
            .into_iter()
            .map(|member| (NodeId(member.broker_id), BrokerEpoch(member.broker_epoch)));
        Ok(AlterPartition {
            id: topic_id_partition(&topic_id, partition, "partitions.topic_id")?,
            leader_epoch: LeaderEpoch(leader_epoch),
            partition_epoch: PartitionEpoch(partition_epoch),
            isr: isr.collect(),
        })
    };
    let changes = partitions.into_iter().map(change);
    Ok(Request::AlterPartitions(AlterPartitions {
        broker: NodeId(broker_id),
        broker_epoch: BrokerEpoch(broker_epoch),
        changes: changes.collect::<Converted<_>>()?,
    }))
}

pub fn report_damage(wire: v1::ReportDamageRequest) -> Converted<Request> {
    let v1::ReportDamageRequest {
        broker_id,
        broker_epoch,
        all,
        partitions,
    } = wire;
    let id = |wire: v1::DamagedPartition| {
        topic_id_partition(&wire.topic_id, wire.partition, "partitions.topic_id")
    };
    let partitions: Vec<_> = partitions.into_iter().map(id).collect::<Converted<_>>()?;
    if all != partitions.is_empty() {
        let message = "a report names damaged partitions, or all of them";
        return Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field("partitions"));
    }
    Ok(Request::ReportDamage(ReportDamage {
        broker: NodeId(broker_id),
        broker_epoch: BrokerEpoch(broker_epoch),
        partitions: (!all).then_some(partitions),
    }))
}

pub fn partitions_altered(reply: Reply) -> Converted<v1::AlterPartitionsResponse> {
    let Reply::PartitionsAltered(results) = reply else {
        return Err(unexpected(&reply));
    };
    let result = |result| match result {
        Ok(()) => v1::AlterPartitionResult {
            error_code: 0,
            message: String::new(),
        },
        Err(ApiError { code, message, .. }) => v1::AlterPartitionResult {
            error_code: i32::from(code.number()),
            message,
        },
    };
    let results = results.into_iter().map(result).collect();
    Ok(v1::AlterPartitionsResponse { results })
}

pub fn allocate_producer_ids(wire: v1::AllocateProducerIdsRequest) -> Request {
    let v1::AllocateProducerIdsRequest {
        broker_id,
        broker_epoch,
    } = wire;
    Request::AllocateProducerIds {
        broker: NodeId(broker_id),
        broker_epoch: BrokerEpoch(broker_epoch),
    }
}

pub fn producer_ids(reply: Reply) -> Converted<v1::AllocateProducerIdsResponse> {
    match reply {
        Reply::ProducerIds { first, count } => Ok(v1::AllocateProducerIdsResponse {
            first_producer_id: first.0,
            count,
        }),
        other => Err(unexpected(&other)),
    }
}

fn name(text: String) -> Converted<TopicName> {
    TopicName::new(text)
        .map_err(|error| ApiError::new(ErrorCode::InvalidTopic, error.to_string()).in_field("name"))
}

fn configs(wire: Vec<v1::ConfigEntry>) -> Vec<(String, String)> {
    let pair = |v1::ConfigEntry { name, value }| (name, value);
    wire.into_iter().map(pair).collect()
}

fn assignments(wire: Vec<v1::ReplicaAssignment>) -> Vec<Vec<NodeId>> {
    let nodes = |v1::ReplicaAssignment { replicas }| replicas.into_iter().map(NodeId).collect();
    wire.into_iter().map(nodes).collect()
}

pub fn create_topic(wire: v1::CreateTopicRequest) -> Converted<Request> {
    let v1::CreateTopicRequest {
        name: text,
        partitions,
        replication_factor,
        assignments: replicas,
        configs: entries,
        validate_only,
    } = wire;
    let too_many = |_| {
        let message = format!("a replication factor of {replication_factor} is impossible");
        ApiError::new(ErrorCode::InvalidReplicationFactor, message).in_field("replication_factor")
    };
    let factor = i16::try_from(replication_factor).map_err(too_many)?;
    Ok(Request::CreateTopic(CreateTopic {
        name: name(text)?,
        partitions: Some(partitions).filter(|partitions| *partitions != 0),
        replication_factor: Some(factor).filter(|factor| *factor != 0),
        assignments: assignments(replicas),
        configs: configs(entries),
        validate_only,
    }))
}

pub fn topic_created(reply: Reply, name: String) -> Converted<v1::CreateTopicResponse> {
    match reply {
        Reply::TopicCreated {
            topic,
            partitions,
            replication_factor,
        } => Ok(v1::CreateTopicResponse {
            topic_id: topic.as_bytes().to_vec().into(),
            name,
            partitions,
            replication_factor: i32::from(replication_factor),
        }),
        other => Err(unexpected(&other)),
    }
}

pub fn alter_topic(wire: v1::AlterTopicRequest) -> Converted<Request> {
    let v1::AlterTopicRequest {
        name: text,
        set,
        unset,
        validate_only,
    } = wire;
    Ok(Request::AlterTopic(AlterTopic {
        name: name(text)?,
        set: configs(set),
        unset,
        validate_only,
    }))
}

pub fn create_partitions(wire: v1::CreatePartitionsRequest) -> Converted<Request> {
    let v1::CreatePartitionsRequest {
        name: text,
        total,
        assignments: replicas,
        validate_only,
    } = wire;
    Ok(Request::CreatePartitions(CreatePartitions {
        name: name(text)?,
        total,
        assignments: assignments(replicas),
        validate_only,
    }))
}

pub fn delete_topic(wire: v1::DeleteTopicRequest) -> Converted<Request> {
    let v1::DeleteTopicRequest {
        name: text,
        topic_id: id,
    } = wire;
    let topic = match id.is_empty() {
        true => None,
        false => Some(topic_id(&id, "topic_id")?),
    };
    Ok(Request::DeleteTopic(DeleteTopic {
        name: name(text)?,
        topic,
    }))
}

pub fn topic_deleted(reply: Reply) -> Converted<v1::DeleteTopicResponse> {
    match reply {
        Reply::TopicDeleted { topic } => Ok(v1::DeleteTopicResponse {
            topic_id: topic.as_bytes().to_vec().into(),
        }),
        other => Err(unexpected(&other)),
    }
}

/// Partitions may be named by the topic's name; `image` knows their ids.
pub fn unregister_broker(wire: v1::UnregisterBrokerRequest) -> Converted<Request> {
    let v1::UnregisterBrokerRequest { broker_id, force } = wire;
    let broker = NodeId(broker_id);
    Ok(Request::UnregisterBroker(UnregisterBroker {
        broker,
        force,
    }))
}

pub fn elect_leaders(wire: v1::ElectLeadersRequest, image: &MetadataImage) -> Converted<Request> {
    let v1::ElectLeadersRequest { partitions } = wire;
    if partitions.is_empty() {
        return Ok(Request::ElectLeaders { partitions: None });
    }
    let id = |wire: v1::TopicPartition| {
        let v1::TopicPartition {
            topic,
            topic_id: id,
            partition,
        } = wire;
        if !id.is_empty() {
            return topic_id_partition(&id, partition, "partitions.topic_id");
        }
        let known = image.topic_by_name(&topic).ok_or_else(|| {
            let message = format!("topic {topic} does not exist");
            ApiError::new(ErrorCode::UnknownTopicOrPartition, message).in_field("partitions.topic")
        })?;
        Ok(TopicIdPartition::new(known.id, PartitionIndex(partition)))
    };
    let ids = partitions.into_iter().map(id).collect::<Converted<_>>()?;
    Ok(Request::ElectLeaders {
        partitions: Some(ids),
    })
}

pub fn elected(reply: Reply) -> Converted<v1::ElectLeadersResponse> {
    match reply {
        Reply::Elected(elected) => Ok(v1::ElectLeadersResponse { elected }),
        other => Err(unexpected(&other)),
    }
}

/// A reply that says no more than that it is done.
pub fn done(reply: Reply) -> Converted<()> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> v1::BrokerRegistration {
        let endpoint = || {
            Some(v1::Endpoint {
                host: "broker-4".to_owned(),
                port: 9093,
            })
        };
        v1::BrokerRegistration {
            broker_id: 4,
            incarnation_id: vec![1; 16].into(),
            directory_id: vec![2; 16].into(),
            client_endpoint: endpoint(),
            internal_endpoint: endpoint(),
            ..v1::BrokerRegistration::default()
        }
    }

    #[test]
    fn a_registration_that_everybody_would_have_to_keep_is_refused() {
        let ours = Some(ClusterId::from_random(1));
        assert!(registration(wire(), ours).is_ok());
        let refused = |change: fn(&mut v1::BrokerRegistration)| {
            let mut wire = wire();
            change(&mut wire);
            registration(wire, ours).unwrap_err().field
        };
        assert_eq!(
            refused(|wire| wire.broker_id = -5).as_deref(),
            Some("broker_id")
        );
        assert_eq!(
            refused(|wire| wire.rack = "r".repeat(256)).as_deref(),
            Some("rack")
        );
        assert_eq!(
            refused(|wire| wire.version = "1".repeat(256)).as_deref(),
            Some("version")
        );
        let long_host = refused(|wire| {
            wire.client_endpoint = Some(v1::Endpoint {
                host: "h".repeat(256),
                port: 1,
            });
        });
        assert_eq!(long_host.as_deref(), Some("client_endpoint"));
    }
}
