//! `WatchMetadata`: committed records as they come, a snapshot first for those far behind.

use std::time::Duration;

use ottla_model::MetadataOffset;
use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, NodeId};
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::watch_metadata_response::Message;
use tokio_stream::Stream;
use tonic::Status;

use super::ControllerRpc;
use crate::feed::{Next, snapshot_parts};

/// How often a quiet controller says that it is still there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// The size of one part of a snapshot, in bytes.
const PART_BYTES: usize = 1024 * 1024;
/// The most records in one message.
const RECORDS_PER_MESSAGE: usize = 20_000;

/// Serves one watcher. It is sent nothing ahead of what its connection takes, so a slow one costs
/// no memory: it finds its place again in the recent records, or gets a snapshot.
pub fn serve(
    rpc: ControllerRpc,
    request: &v1::WatchMetadataRequest,
) -> Result<impl Stream<Item = Result<v1::WatchMetadataResponse, Status>> + Send + 'static, Status>
{
    check(&rpc, request).map_err(|error| to_status(&error))?;
    let mut from = MetadataOffset(request.from_offset);
    Ok(async_stream::stream! {
        let mut end = rpc.feed.end();
        let mut status = rpc.active.status();
        loop {
            // Marked as seen before looking, so that nothing falls between.
            end.borrow_and_update();
            let leader = status.borrow_and_update().leader;
            match rpc.feed.next(from) {
                Next::Nothing => {
                    yield Ok(response(leader, records(from, Vec::new())));
                    // Whichever comes first; all of them are a reason to look again.
                    tokio::select! {
                        changed = end.changed() => if changed.is_err() { return },
                        changed = status.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(SIGN_OF_LIFE) => {}
                    }
                }
                Next::Entries(entries) => {
                    for entry in entries {
                        let known = usize::try_from(from - entry.base_offset).unwrap_or(0);
                        let news = entry.records.get(known..).unwrap_or_default();
                        for chunk in news.chunks(RECORDS_PER_MESSAGE) {
                            yield Ok(response(leader, records(from, chunk.to_vec())));
                            from += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
                        }
                    }
                }
                Next::Snapshot(image) => {
                    let parts = snapshot_parts(&image, PART_BYTES);
                    let last = parts.len() - 1;
                    for (index, rows) in parts.into_iter().enumerate() {
                        let part = v1::MetadataSnapshotPart {
                            end_offset: image.offset.0,
                            first: index == 0,
                            last: index == last,
                            records: rows,
                        };
                        yield Ok(response(leader, Message::Snapshot(part)));
                    }
                    from = image.offset;
                }
            }
        }
    })
}

/// Refuses a watcher of another cluster, or one that knows more than this cluster ever wrote.
fn check(rpc: &ControllerRpc, request: &v1::WatchMetadataRequest) -> Result<(), ApiError> {
    let own = rpc.active.quorum.image().cluster_id;
    if let Some(own) = own
        && !request.cluster_id.is_empty()
        && request.cluster_id != own.to_string()
    {
        let message = format!(
            "node {} belongs to cluster {}, but these controllers to {own}",
            request.node_id, request.cluster_id
        );
        return Err(ApiError::new(ErrorCode::InconsistentClusterId, message));
    }
    if request.from_offset < 0 {
        let message = format!("metadata offset {} is negative", request.from_offset);
        return Err(ApiError::new(ErrorCode::InvalidRequest, message).in_field("from_offset"));
    }
    Ok(())
}

fn records(from: MetadataOffset, records: Vec<bytes::Bytes>) -> Message {
    Message::Records(v1::MetadataRecords {
        base_offset: from.0,
        records,
    })
}

fn response(leader: Option<NodeId>, message: Message) -> v1::WatchMetadataResponse {
    v1::WatchMetadataResponse {
        active_controller_id: leader.map(|id| id.0),
        message: Some(message),
    }
}
