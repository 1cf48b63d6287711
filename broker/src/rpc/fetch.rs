//! Fetching: what is there below the high watermark, or a wait for it within the consumer's bounds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use ottla_log::ReadError;
use ottla_metadata::MetadataImage;
use ottla_model::batch::joined;
use ottla_model::error::ApiError;
use ottla_model::limits::{FETCH_BYTES_MAX, PARTITIONS_PER_MESSAGE_MAX};
use ottla_model::{ErrorCode, LeaderEpoch, Offset};
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_shell::Connection;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};
use tonic::{Status, Streaming};

use super::held_body::Held;
use super::unread::{CallBudget, Unread};
use crate::broker::Broker;
use crate::replica::{Replica, chain};

const MAX_WAIT: Duration = Duration::from_secs(60);

/// The most requests of one stream that are worked on at once; a consumer that sends more waits.
const REQUESTS_AT_ONCE: usize = 16;

/// A response with what it holds of the budgets.
pub struct Fetched {
    pub response: v1::FetchResponse,
    pub unread: Unread,
}

/// Serves one fetch stream: one response for each request, as each is done, so that a partition
/// with records does not wait behind another's long poll. Nothing is read ahead of what the
/// consumer asked for, and no more than it takes.
pub fn serve(
    broker: Arc<Broker>,
    connection: Option<&Connection>,
    held: Held,
    requests: Streaming<v1::FetchRequest>,
) -> impl Stream<Item = Result<v1::FetchResponse, Status>> + Send + use<> {
    let budget = CallBudget::of_stream(&broker.unread, connection);
    let (sender, mut receiver) = mpsc::channel(1);
    // Apart from the stream, which nobody polls while its reader takes nothing: a fetch that waits
    // for room must go on once it is given some.
    tokio::spawn(async move {
        let fetching = requests.for_each_concurrent(REQUESTS_AT_ONCE, |request| async {
            let fetched = match request {
                Ok(request) => fetch(&broker, &request, &budget).await,
                Err(status) => Err(status),
            };
            // The reader may be gone.
            let _ = sender.send(fetched).await;
        });
        tokio::select! {
            () = fetching => {}
            () = sender.closed() => {}
        }
    });
    async_stream::stream! {
        while let Some(next) = receiver.recv().await {
            match next {
                Ok(fetched) => {
                    held.hold(fetched.unread);
                    yield Ok(fetched.response);
                }
                Err(status) => {
                    yield Err(status);
                    return;
                }
            }
        }
    }
}

/// One partition of a request, found here.
struct Target<'a> {
    named: &'a v1::TopicPartition,
    replica: Arc<Replica>,
    offset: Offset,
    max_bytes: usize,
    leader_epoch: Option<LeaderEpoch>,
}

/// Answers one request, waiting as it asks.
pub async fn fetch(
    broker: &Broker,
    request: &v1::FetchRequest,
    budget: &CallBudget,
) -> Result<Fetched, Status> {
    check(request).map_err(|error| to_status(&error))?;
    let deadline =
        Instant::now() + Duration::from_millis(u64::from(request.max_wait_ms)).min(MAX_WAIT);
    let max_bytes = match request.max_bytes as usize {
        0 => FETCH_BYTES_MAX,
        bytes => bytes.min(FETCH_BYTES_MAX),
    };
    let min_bytes = (request.min_bytes as usize).clamp(1, max_bytes);
    let changed = Arc::new(Notify::new());
    loop {
        // Registered before reading, so that no change falls between.
        let image = broker.image.current();
        let (targets, mut results) = find(broker, &image, request, max_bytes);
        for target in &targets {
            target.replica.wait_for_change(&changed);
        }
        let mut unread = budget
            .reserve(max_bytes)
            .await
            .map_err(|error| to_status(&error))?;
        let mut room = max_bytes.min(unread.bytes());
        // Batches come whole, so what there is room for now may fall short of it.
        let enough = match room == max_bytes {
            true => min_bytes,
            false => min_bytes.min(room / 2),
        };
        let mut read_bytes = 0;
        for target in &targets {
            let result = read(broker, target, room, read_bytes == 0).await;
            read_bytes += result.batches.len();
            room = room.saturating_sub(result.batches.len());
            if result.error.is_some() || !result.batches.is_empty() {
                results.push(result);
            }
        }
        let failed = results.iter().any(|result| result.error.is_some());
        let out_of_time = Instant::now() >= deadline;
        if failed || read_bytes >= enough || room == 0 || out_of_time {
            unread.answer(read_bytes);
            let response = v1::FetchResponse {
                request_id: request.request_id,
                results,
            };
            return Ok(Fetched { response, unread });
        }
        drop(unread);
        // On the deadline the loop reads once more and answers with what there is.
        let _ = timeout_at(deadline, changed.notified()).await;
    }
}

fn check(request: &v1::FetchRequest) -> Result<(), ApiError> {
    let count = request.partitions.len();
    if count == 0 || count > PARTITIONS_PER_MESSAGE_MAX {
        let message = format!(
            "a fetch request names 1 to {PARTITIONS_PER_MESSAGE_MAX} partitions, not {count}"
        );
        return Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field("partitions"));
    }
    let mut seen = BTreeSet::new();
    for part in &request.partitions {
        let named = part.partition.as_ref();
        let key = named.map(|named| (&named.topic, &named.topic_id, named.partition));
        if !seen.insert(key) {
            let message = "a fetch request names each partition once";
            return Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field("partitions"));
        }
    }
    Ok(())
}

fn find<'a>(
    broker: &Broker,
    image: &MetadataImage,
    request: &'a v1::FetchRequest,
    max_bytes: usize,
) -> (Vec<Target<'a>>, Vec<v1::FetchResult>) {
    let mut targets = Vec::with_capacity(request.partitions.len());
    let mut failed = Vec::new();
    for part in &request.partitions {
        let Some(named) = &part.partition else {
            let error = ApiError::new(ErrorCode::InvalidRequest, "no partition is named");
            failed.push(refusal(broker, &v1::TopicPartition::default(), &error));
            continue;
        };
        match broker.replica(image, named) {
            Ok(replica) => targets.push(Target {
                named,
                replica,
                offset: Offset(part.offset),
                max_bytes: match part.max_bytes as usize {
                    0 => max_bytes,
                    bytes => bytes,
                },
                leader_epoch: part.leader_epoch.map(LeaderEpoch),
            }),
            Err(error) => failed.push(refusal(broker, named, &error)),
        }
    }
    (targets, failed)
}

fn refusal(broker: &Broker, named: &v1::TopicPartition, error: &ApiError) -> v1::FetchResult {
    let mut error = v1::Error::from(error);
    broker.add_leader_hint(named, &mut error);
    v1::FetchResult {
        partition: Some(named.clone()),
        error: Some(error),
        ..Default::default()
    }
}

/// Reads one partition. A first batch larger than the room comes whole, so that a consumer always
/// gets on.
async fn read(broker: &Broker, target: &Target<'_>, room: usize, first: bool) -> v1::FetchResult {
    let bounds = match target.replica.fetch_bounds(target.leader_epoch) {
        Ok(bounds) => bounds,
        Err(code) => {
            let message = format!(
                "partition {}-{} is not led here in that epoch",
                target.named.topic, target.named.partition
            );
            return refusal(broker, target.named, &ApiError::new(code, message));
        }
    };
    let positions = v1::FetchResult {
        partition: Some(target.named.clone()),
        high_watermark: bounds.limit.0,
        log_start_offset: bounds.log_start.0,
        ..Default::default()
    };
    if target.offset < bounds.log_start || target.offset > bounds.log_end {
        let message = format!(
            "offset {} of {}-{} is out of range: the log holds offsets {} to {}",
            target.offset,
            target.named.topic,
            target.named.partition,
            bounds.log_start,
            bounds.log_end
        );
        let error = ApiError::new(ErrorCode::OffsetOutOfRange, message);
        return v1::FetchResult {
            error: Some(v1::Error::from(&error)),
            ..positions
        };
    }
    let max_bytes = target.max_bytes.min(room);
    // Behind the high watermark but within the log: a new leader may not know yet how far its
    // records are committed. The consumer waits.
    if target.offset >= bounds.limit || (max_bytes == 0 && !first) {
        return positions;
    }
    let reads = &broker.disk_reads;
    let read = reads.read(&target.replica, target.offset, bounds.limit, max_bytes);
    match read.await {
        Ok(batches) => v1::FetchResult {
            batches: joined(batches),
            ..positions
        },
        Err(error) => {
            let error = match error {
                ReadError::OutOfRange { .. } => {
                    ApiError::new(ErrorCode::OffsetOutOfRange, error.to_string())
                }
                _ => ApiError::new(ErrorCode::StorageError, chain(&error)),
            };
            v1::FetchResult {
                error: Some(v1::Error::from(&error)),
                ..positions
            }
        }
    }
}
