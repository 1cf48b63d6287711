//! Producing on a stream: limits, then each partition's batch to its replica; answers as they come.

use std::sync::Arc;
use std::time::Duration;

use ottla_broker_core::partition::Acks;
use ottla_metadata::MetadataImage;
use ottla_model::batch::{BatchHeader, TimestampWindow, validate_produced};
use ottla_model::config::{TimestampType, TopicConfig};
use ottla_model::error::ApiError;
use ottla_model::limits::{
    BATCH_BYTES_MAX, CLIENT_MESSAGE_BYTES_MAX, FIELDS_PER_MESSAGE_MAX, PARTITIONS_PER_MESSAGE_MAX,
    PRODUCE_IN_FLIGHT_MAX,
};
use ottla_model::{ErrorCode, LeaderEpoch, TimestampMs};
use ottla_proto::messages::{MessageLimits, Messages, Room};
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_shell::Connection;
use tokio::sync::{AcquireError, Semaphore, mpsc, oneshot};
use tokio_stream::Stream;
use tonic::Status;

use super::keys::require_keys;
use super::unread::{CallBudget, Unread};
use crate::broker::{Broker, PRODUCE_BYTES_IN_FLIGHT, write_patience};
use crate::produce::{Answer, Explain, PendingProduce, Place, Responder};
use crate::replica::{ProduceInput, Replica};

/// What a request may be.
pub const LIMITS: MessageLimits = MessageLimits {
    bytes: CLIENT_MESSAGE_BYTES_MAX,
    fields: FIELDS_PER_MESSAGE_MAX,
};

/// About what a partition's result takes in memory beside the topic's name: an error with its
/// texts.
const RESULT_BYTES: usize = 768;

/// How long a request waits for others to be written before it is refused.
const BUDGET_PATIENCE: Duration = Duration::from_secs(10);

/// Serves one produce stream. A malformed request ends it with a status, after the answers of the
/// requests before it.
pub fn serve(
    broker: Arc<Broker>,
    mut requests: Messages<v1::ProduceRequest, Incoming>,
    connection: Option<&Connection>,
) -> impl Stream<Item = Result<v1::ProduceResponse, Status>> + Send + 'static {
    let (responses, mut receiver) = mpsc::channel::<Answer>(PRODUCE_IN_FLIGHT_MAX);
    let places = Places {
        permits: Arc::new(Semaphore::new(PRODUCE_IN_FLIGHT_MAX)),
        answers: CallBudget::of_call(&broker.answers, connection),
    };
    let reading = tokio::spawn(async move {
        while let Some(request) = requests.next().await? {
            let responder = Responder::Stream(responses.clone());
            begin(&broker, request, responder, Some(&places))
                .await
                .map_err(|error| to_status(&error))?;
        }
        Ok::<(), Status>(())
    });
    async_stream::stream! {
        // Ends once the reader and every request under way have let go of the channel.
        while let Some(answer) = receiver.recv().await {
            if let Some(place) = &answer.place {
                place.unread.left();
            }
            yield Ok(answer.response);
            drop(answer.place);
        }
        if let Ok(Err(status)) = reading.await {
            yield Err(status);
        }
    }
}

/// Where a stream's requests find room while they come.
pub struct Incoming(CallBudget);

impl Incoming {
    pub fn of(broker: &Broker, connection: Option<&Connection>) -> Incoming {
        Incoming(CallBudget::of_call(&broker.incoming, connection))
    }
}

impl Room for Incoming {
    type Part = Unread;

    async fn take(&self, bytes: usize) -> Result<Unread, Status> {
        let taken = self.0.reserve_request(bytes).await;
        taken.map_err(|error| to_status(&error))
    }

    fn progressed(part: &Unread) {
        part.left();
    }
}

/// What the requests of a stream take until their answers leave.
struct Places {
    permits: Arc<Semaphore>,
    answers: CallBudget,
}

impl Places {
    /// Waits until this stream's earlier answers are taken, and a bounded time for those of others.
    async fn take(&self, request: &v1::ProduceRequest) -> Result<Place, ApiError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let names = request.partitions.iter().map(|part| {
            let named = part.partition.as_ref();
            RESULT_BYTES + named.map_or(0, |partition| partition.topic.len())
        });
        Ok(Place {
            permit: permit.map_err(closed)?,
            unread: self.answers.reserve_answer(names.sum()).await?,
        })
    }
}

fn closed(_: AcquireError) -> ApiError {
    ApiError::new(ErrorCode::NodeShuttingDown, "the broker is shutting down")
}

/// Serves one request by itself.
pub async fn once(
    broker: &Arc<Broker>,
    request: v1::ProduceRequest,
) -> Result<v1::ProduceResponse, ApiError> {
    let (sender, receiver) = oneshot::channel();
    begin(broker, request, Responder::Once(sender), None).await?;
    receiver
        .await
        .map_err(|_| ApiError::new(ErrorCode::NodeShuttingDown, "the broker is shutting down"))
}

/// Hands each partition's batch to its replica. Returns once all are handed over; the responder
/// gets the answer.
async fn begin(
    broker: &Arc<Broker>,
    request: v1::ProduceRequest,
    responder: Responder,
    places: Option<&Places>,
) -> Result<(), ApiError> {
    let (acks, timeout) = check(&request)?;
    let bytes: usize = request.partitions.iter().map(|part| part.batch.len()).sum();
    let place = match places {
        Some(places) => Some(places.take(&request).await?),
        None => None,
    };
    let share = u32::try_from(bytes.clamp(1, PRODUCE_BYTES_IN_FLIGHT)).unwrap_or(u32::MAX);
    let budget = Arc::clone(&broker.produce_bytes);
    let granted = tokio::time::timeout(BUDGET_PATIENCE, async {
        let granted = budget.acquire_many_owned(share).await;
        // What is answered is not in flight any more, but may still wait to be written.
        broker.manager.wait_for_journal().await;
        granted
    });
    let granted = granted.await.map_err(|_| {
        let message = "too many records wait to be written; nothing of this request was appended, \
                       try again in a moment";
        ApiError::new(ErrorCode::ThrottlingQuotaExceeded, message)
    })?;
    let granted = granted.map_err(closed)?;

    let names: Vec<_> = request
        .partitions
        .iter()
        .map(|part| part.partition.clone().unwrap_or_default())
        .collect();
    let explain: Explain = {
        let broker = Arc::clone(broker);
        Arc::new(move |partition, error| broker.add_leader_hint(partition, error))
    };
    let pending = PendingProduce::new(
        request.request_id,
        names,
        responder,
        granted,
        place,
        explain,
    );
    let pending = Arc::new(pending);
    let deadline = broker.clock.now() + timeout;
    let (image, wall) = (broker.image.current(), broker.clock.wall());
    for (index, part) in request.partitions.into_iter().enumerate() {
        let room = broker.space.admit(part.batch.len());
        match room.and_then(|()| accept(broker, &image, wall, &part)) {
            Ok((replica, header)) => {
                let input = ProduceInput {
                    acks,
                    deadline,
                    expected_leader_epoch: part.leader_epoch.map(LeaderEpoch),
                    header,
                    batch: part.batch,
                };
                replica.produce(input, &pending, index);
            }
            Err(error) => pending.fail(index, error.code, &error.message),
        }
    }
    Ok(())
}

fn check(request: &v1::ProduceRequest) -> Result<(Acks, Duration), ApiError> {
    let acks = match v1::Acks::try_from(request.acks) {
        Ok(v1::Acks::Unspecified | v1::Acks::All) => Acks::All,
        Ok(v1::Acks::Leader) => Acks::Leader,
        Ok(v1::Acks::None) => Acks::None,
        Err(_) => {
            let message = format!("acks {} is none of NONE, LEADER and ALL", request.acks);
            return Err(ApiError::new(ErrorCode::InvalidRequiredAcks, message).in_field("acks"));
        }
    };
    let count = request.partitions.len();
    if count == 0 || count > PARTITIONS_PER_MESSAGE_MAX {
        let message = format!(
            "a produce request names 1 to {PARTITIONS_PER_MESSAGE_MAX} partitions, not {count}"
        );
        return Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field("partitions"));
    }
    Ok((acks, write_patience(request.timeout_ms)))
}

fn accept(
    broker: &Broker,
    image: &MetadataImage,
    wall: TimestampMs,
    part: &v1::ProducePartition,
) -> Result<(Arc<Replica>, BatchHeader), ApiError> {
    let Some(named) = &part.partition else {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "no partition is named",
        ));
    };
    let replica = broker.replica(image, named)?;
    let window = image
        .topic(replica.id.topic)
        .and_then(|topic| window(&topic.config, wall));
    let size = part.batch.len();
    if size > BATCH_BYTES_MAX {
        let message = format!("the batch has {size} bytes; at most {BATCH_BYTES_MAX} are allowed");
        return Err(ApiError::new(ErrorCode::MessageTooLarge, message));
    }
    let header = validate_produced(&part.batch, window)
        .map_err(|error| ApiError::new(error.code(), error.to_string()))?;
    let compacts = image
        .topic(replica.id.topic)
        .is_some_and(|topic| topic.config.cleanup.compact);
    if compacts {
        require_keys(&part.batch)?;
    }
    Ok((replica, header))
}

/// Which times a topic takes from producers; `None` where it gives its own.
fn window(config: &TopicConfig, now: TimestampMs) -> Option<TimestampWindow> {
    match config.timestamp_type {
        TimestampType::CreateTime => Some(TimestampWindow {
            now,
            before_max_ms: config.timestamp_before_max_ms,
            after_max_ms: config.timestamp_after_max_ms,
        }),
        TimestampType::LogAppendTime => None,
    }
}
