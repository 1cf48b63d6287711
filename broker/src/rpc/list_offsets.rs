//! Finding offsets: earliest, latest, or by time.

use std::sync::Arc;

use ottla_broker_core::partition::Partition;
use ottla_model::error::ApiError;
use ottla_model::limits::PARTITIONS_PER_MESSAGE_MAX;
use ottla_model::{ErrorCode, LeaderEpoch, Offset, TimestampMs};
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::list_offsets_partition::Position;
use tonic::Status;

use crate::broker::Broker;
use crate::replica::{Replica, chain};

pub async fn list_offsets(
    broker: &Broker,
    request: v1::ListOffsetsRequest,
) -> Result<v1::ListOffsetsResponse, Status> {
    let count = request.partitions.len();
    if count > PARTITIONS_PER_MESSAGE_MAX {
        let message = format!("at most {PARTITIONS_PER_MESSAGE_MAX} partitions, not {count}");
        return Err(to_status(&ApiError::new(
            ErrorCode::InvalidRequest,
            message,
        )));
    }
    let mut results = Vec::with_capacity(count);
    for part in request.partitions {
        let named = part.partition.clone().unwrap_or_default();
        let mut result = v1::ListOffsetsResult::default();
        match find(broker, &named, &part).await {
            Ok((found, epoch)) => {
                result.offset = found.map(|(offset, _)| offset.0);
                result.timestamp_ms = found
                    .and_then(|(_, time)| time)
                    .map(|TimestampMs(time)| time);
                result.leader_epoch = epoch.0;
            }
            Err(error) => {
                let mut error = v1::Error::from(&error);
                broker.add_leader_hint(&named, &mut error);
                result.error = Some(error);
            }
        }
        result.partition = Some(named);
        results.push(result);
    }
    Ok(v1::ListOffsetsResponse { results })
}

type FoundOffset = Option<(Offset, Option<TimestampMs>)>;

async fn find(
    broker: &Broker,
    named: &v1::TopicPartition,
    part: &v1::ListOffsetsPartition,
) -> Result<(FoundOffset, LeaderEpoch), ApiError> {
    let replica = broker.replica(&broker.image.current(), named)?;
    let refuse = |code| {
        let message = match code {
            ErrorCode::OffsetNotAvailable => "the new leader does not know the end offset yet",
            _ => "the partition is not led here in that epoch",
        };
        ApiError::new(
            code,
            format!("{}-{}: {message}", named.topic, named.partition),
        )
    };
    let bounds = replica
        .fetch_bounds(part.leader_epoch.map(LeaderEpoch))
        .map_err(refuse)?;
    let epoch = replica.with_core(Partition::leader_epoch);
    let found = match part.position {
        Some(Position::Earliest(_)) => Some((bounds.log_start, None)),
        Some(Position::Latest(_)) | None => Some((
            replica
                .with_core(Partition::latest_offset)
                .map_err(refuse)?,
            None,
        )),
        Some(Position::TimestampMs(time)) => {
            by_time(&replica, TimestampMs(time), bounds.limit).await?
        }
    };
    Ok((found, epoch))
}

async fn by_time(
    replica: &Arc<Replica>,
    time: TimestampMs,
    limit: Offset,
) -> Result<FoundOffset, ApiError> {
    let replica = Arc::clone(replica);
    let search = move || replica.checked(replica.log.offset_for_timestamp(time, limit));
    let found = tokio::task::spawn_blocking(search)
        .await
        .map_err(|_| ApiError::new(ErrorCode::NodeShuttingDown, "the broker is shutting down"))?
        .map_err(|error| ApiError::new(ErrorCode::StorageError, chain(&error)))?;
    Ok(found.map(|(offset, time)| (offset, Some(time))))
}
