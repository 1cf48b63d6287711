//! Dropping the start of partitions on request (KIP-107).

use std::time::Duration;

use ottla_broker_core::partition::Partition;
use ottla_model::error::ApiError;
use ottla_model::limits::PARTITIONS_PER_MESSAGE_MAX;
use ottla_model::{ErrorCode, LeaderEpoch, Offset};
use ottla_proto::status::to_status;
use ottla_proto::v1;
use tonic::Status;

use crate::broker::{Broker, write_patience};

/// Stands for the high watermark.
const ALL: i64 = -1;

pub async fn delete_records(
    broker: &Broker,
    request: v1::DeleteRecordsRequest,
) -> Result<v1::DeleteRecordsResponse, Status> {
    let count = request.partitions.len();
    if count > PARTITIONS_PER_MESSAGE_MAX {
        let message = format!("at most {PARTITIONS_PER_MESSAGE_MAX} partitions, not {count}");
        return Err(to_status(&ApiError::new(
            ErrorCode::InvalidRequest,
            message,
        )));
    }
    let patience = write_patience(request.timeout_ms);
    // All begin at once; then each is waited for.
    let begun: Vec<_> = request
        .partitions
        .into_iter()
        .map(|part| {
            let begun = begin(broker, &part, patience);
            (part, begun)
        })
        .collect();
    let mut results = Vec::with_capacity(count);
    for (part, begun) in begun {
        let outcome = match begun {
            Ok(answer) => answer.await.unwrap_or(Err(ErrorCode::NotLeaderOrFollower)),
            Err(error) => {
                results.push(refused(broker, part, &error));
                continue;
            }
        };
        results.push(match outcome {
            Ok(low_watermark) => v1::DeleteRecordsResult {
                partition: part.partition,
                error: None,
                low_watermark: low_watermark.0,
            },
            Err(code) => {
                let error = ApiError::new(code, explain(broker, code, &part));
                refused(broker, part, &error)
            }
        });
    }
    Ok(v1::DeleteRecordsResponse { results })
}

type Answer = tokio::sync::oneshot::Receiver<Result<Offset, ErrorCode>>;

fn begin(
    broker: &Broker,
    part: &v1::DeleteRecordsPartition,
    patience: Duration,
) -> Result<Answer, ApiError> {
    let named = part.partition.clone().unwrap_or_default();
    let replica = broker.replica(&broker.image.current(), &named)?;
    let to = (part.before_offset != ALL).then_some(Offset(part.before_offset));
    Ok(replica.trim(to, part.leader_epoch.map(LeaderEpoch), patience))
}

fn refused(
    broker: &Broker,
    part: v1::DeleteRecordsPartition,
    error: &ApiError,
) -> v1::DeleteRecordsResult {
    let mut error = v1::Error::from(error);
    broker.add_leader_hint(&part.partition.clone().unwrap_or_default(), &mut error);
    v1::DeleteRecordsResult {
        partition: part.partition,
        error: Some(error),
        low_watermark: -1,
    }
}

fn explain(broker: &Broker, code: ErrorCode, part: &v1::DeleteRecordsPartition) -> String {
    let named = part.partition.clone().unwrap_or_default();
    let partition = format!("{}-{}", named.topic, named.partition);
    match code {
        ErrorCode::OffsetOutOfRange if part.before_offset < 0 => {
            format!("{} is no offset of {partition}", part.before_offset)
        }
        ErrorCode::OffsetOutOfRange => {
            let replica = broker.replica(&broker.image.current(), &named);
            let end = replica
                .ok()
                .and_then(|it| it.with_core(Partition::latest_offset).ok());
            let end = end.map(|end| format!(" ({end})")).unwrap_or_default();
            format!(
                "offset {} is beyond the end of the partition{end}: {partition} can be trimmed up \
                 to its last acknowledged record",
                part.before_offset
            )
        }
        ErrorCode::NotEnoughReplicas => format!(
            "{partition} has too few in-sync replicas: a replica that is away could bring the records back"
        ),
        ErrorCode::OffsetNotAvailable => {
            format!("the leader of {partition} does not know yet what is acknowledged")
        }
        ErrorCode::RequestTimedOut => format!(
            "the leader of {partition} dropped the records, but not all in-sync replicas did in time"
        ),
        ErrorCode::ThrottlingQuotaExceeded => {
            format!("too many trims of {partition} wait already")
        }
        _ => format!("{partition} is not led here in that epoch"),
    }
}
