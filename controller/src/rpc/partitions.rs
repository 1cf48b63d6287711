//! What brokers ask on behalf of their partitions and producers.

use std::time::Duration;

use ottla_controller_core::{AlterPartition, AlterPartitions, Reply, Request};
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, PartitionEpoch};
use ottla_proto::convert::topic_id_partition;
use ottla_proto::status::to_status;
use ottla_proto::v1;
use tokio::time::Instant;
use tonic::Status;

use crate::active::ActiveController;

const DECISION_TIMEOUT: Duration = Duration::from_secs(3);

pub async fn alter(
    active: &ActiveController,
    request: v1::AlterPartitionsRequest,
) -> Result<v1::AlterPartitionsResponse, Status> {
    let changes: Result<Vec<_>, ApiError> = request.partitions.iter().map(convert).collect();
    let request = Request::AlterPartitions(AlterPartitions {
        broker: NodeId(request.broker_id),
        broker_epoch: BrokerEpoch(request.broker_epoch),
        changes: changes.map_err(|error| to_status(&error))?,
    });
    match active.ask(request, Instant::now() + DECISION_TIMEOUT).await {
        Ok((Reply::PartitionsAltered(results), _)) => Ok(v1::AlterPartitionsResponse {
            results: results.iter().map(result).collect(),
        }),
        Ok((other, _)) => Err(out_of_turn(&other)),
        Err(error) => Err(to_status(&error)),
    }
}

fn convert(change: &v1::AlterPartition) -> Result<AlterPartition, ApiError> {
    Ok(AlterPartition {
        id: topic_id_partition(&change.topic_id, change.partition, "partitions")?,
        leader_epoch: LeaderEpoch(change.leader_epoch),
        partition_epoch: PartitionEpoch(change.partition_epoch),
        isr: change
            .isr
            .iter()
            .map(|member| (NodeId(member.broker_id), BrokerEpoch(member.broker_epoch)))
            .collect(),
    })
}

fn result(result: &Result<(), ApiError>) -> v1::AlterPartitionResult {
    match result {
        Ok(()) => v1::AlterPartitionResult::default(),
        Err(error) => v1::AlterPartitionResult {
            error_code: i32::from(error.code.number()),
            message: error.message.clone(),
        },
    }
}

pub async fn allocate_producer_ids(
    active: &ActiveController,
    request: &v1::AllocateProducerIdsRequest,
) -> Result<v1::AllocateProducerIdsResponse, Status> {
    let request = Request::AllocateProducerIds {
        broker: NodeId(request.broker_id),
        broker_epoch: BrokerEpoch(request.broker_epoch),
    };
    match active.ask(request, Instant::now() + DECISION_TIMEOUT).await {
        Ok((Reply::ProducerIds { first, count }, _)) => Ok(v1::AllocateProducerIdsResponse {
            first_producer_id: first.0,
            count,
        }),
        Ok((other, _)) => Err(out_of_turn(&other)),
        Err(error) => Err(to_status(&error)),
    }
}

pub(super) fn out_of_turn(reply: &Reply) -> Status {
    let message = format!("a request was answered with {reply:?}");
    to_status(&ApiError::new(ErrorCode::UnknownServerError, message))
}
