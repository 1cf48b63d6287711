//! `WatchMetadata`: what this controller has applied, from the watcher's offset on, or a snapshot
//! first. A watcher that takes nothing for too long is dropped, and begins again where it stood.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ottla_metadata::{MetadataImage, encode_snapshot};
use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, MetadataOffset, NodeId};
use ottla_proto::v1;
use ottla_proto::v1::watch_metadata_response::Message;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::ControllerHandler;
use crate::feed::{CommittedBatch, Current, Feed, Next};
use crate::quorum::{Guard, QuorumStatus};

/// How often a watcher hears something although nothing happens.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Messages that wait for one watcher.
const BUFFERED_MAX: usize = 8;
/// The bytes of records that one message carries, about.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// Begins to serve a watcher.
///
/// # Errors
/// `InconsistentClusterId` for a node of another cluster; `NotController` while the quorum has not
/// taken this controller in.
pub fn serve(
    handler: &ControllerHandler,
    request: v1::WatchMetadataRequest,
) -> Result<BoxStream<'static, Result<v1::WatchMetadataResponse, Status>>, ApiError> {
    let v1::WatchMetadataRequest {
        cluster_id,
        node_id,
        from_offset,
    } = request;
    if let Some(ours) = handler.feed.current().image.cluster_id
        && !cluster_id.is_empty()
        && cluster_id != ours.to_string()
    {
        let message =
            format!("this is cluster {ours}, but the watcher belongs to cluster {cluster_id}");
        return Err(ApiError::new(ErrorCode::InconsistentClusterId, message).in_field("cluster_id"));
    }
    let guard = Arc::clone(handler.quorum.guard());
    if guard.is_outside() {
        let message = "the quorum has not taken this controller in yet";
        return Err(ApiError::new(ErrorCode::NotController, message));
    }
    let (sender, receiver) = mpsc::channel(BUFFERED_MAX);
    let watcher = Watcher {
        node: NodeId(node_id),
        offset: MetadataOffset(from_offset.max(0)),
        sender,
        guard,
        stall: handler.timings.watch_stall,
        status: handler.quorum.status(),
    };
    let feed = Arc::clone(&handler.feed);
    tokio::spawn(async move {
        let node = watcher.node;
        if let Err(Gone::Stalled) = watcher.run(&feed).await {
            tracing::warn!(%node, "a watcher of the metadata took nothing for too long and is dropped");
        }
    });
    Ok(ReceiverStream::new(receiver).boxed())
}

/// What a watcher that has everything wakes for.
enum Event {
    Changed,
    Quiet,
    Left,
}

/// Why a watcher is not served any more.
enum Gone {
    Left,
    Stalled,
}

struct Watcher {
    node: NodeId,
    /// The next offset it needs.
    offset: MetadataOffset,
    sender: mpsc::Sender<Result<v1::WatchMetadataResponse, Status>>,
    guard: Arc<Guard>,
    stall: Duration,
    status: watch::Receiver<QuorumStatus>,
}

impl Watcher {
    async fn run(mut self, feed: &Feed) -> Result<(), Gone> {
        let mut changes: watch::Receiver<Current> = feed.subscribe();
        let mut told = None;
        loop {
            changes.borrow_and_update();
            match feed.next(self.offset) {
                Next::Batches(batches) => self.send_batches(&batches, feed).await?,
                Next::Snapshot(image) => self.send_snapshot(image).await?,
                Next::Nothing => {
                    let leader = self.status.borrow_and_update().leader;
                    if told != Some(leader) {
                        // Who is active is told at once, and whenever it changes.
                        told = Some(leader);
                        self.send_sign_of_life(feed).await?;
                    }
                    match self.next_event(&mut changes).await {
                        Event::Changed => {}
                        // Nothing may ever come here; others know more.
                        Event::Quiet if self.guard.is_outside() => return Err(Gone::Left),
                        Event::Quiet => self.send_sign_of_life(feed).await?,
                        Event::Left => return Err(Gone::Left),
                    }
                }
            }
        }
    }

    async fn next_event(&mut self, changes: &mut watch::Receiver<Current>) -> Event {
        let happened = |changed: Result<(), watch::error::RecvError>| match changed {
            Ok(()) => Event::Changed,
            Err(_) => Event::Left,
        };
        tokio::select! {
            changed = changes.changed() => happened(changed),
            changed = self.status.changed() => happened(changed),
            () = tokio::time::sleep(SIGN_OF_LIFE) => Event::Quiet,
            () = self.sender.closed() => Event::Left,
        }
    }

    async fn send(&self, message: Message) -> Result<(), Gone> {
        let response = v1::WatchMetadataResponse {
            message: Some(message),
            active_controller_id: self.status.borrow().leader.map(|leader| leader.0),
        };
        match tokio::time::timeout(self.stall, self.sender.send(Ok(response))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Gone::Left),
            Err(_) => Err(Gone::Stalled),
        }
    }

    /// No records, and the end of what was sent.
    async fn send_sign_of_life(&self, feed: &Feed) -> Result<(), Gone> {
        let image = feed.current().image;
        let none = records_from(&image, self.offset, Vec::new());
        self.send(Message::Records(none)).await
    }

    async fn send_batches(
        &mut self,
        batches: &[Arc<CommittedBatch>],
        feed: &Feed,
    ) -> Result<(), Gone> {
        let image = feed.current().image;
        let mut records = Vec::new();
        let (mut base, mut bytes) = (self.offset, 0);
        for batch in batches {
            let skip = usize::try_from(self.offset - batch.base_offset).unwrap_or(0);
            for record in batch.records.iter().skip(skip) {
                bytes += record.len();
                records.push(record.clone());
                self.offset += 1;
                if bytes >= MESSAGE_BYTES {
                    let full = records_from(&image, base, std::mem::take(&mut records));
                    self.send(Message::Records(full)).await?;
                    (base, bytes) = (self.offset, 0);
                }
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        let rest = records_from(&image, base, records);
        self.send(Message::Records(rest)).await
    }

    async fn send_snapshot(&mut self, image: Arc<MetadataImage>) -> Result<(), Gone> {
        let end = image.offset;
        // A large image takes a while; the others served here shall not wait for it.
        let encoding = tokio::task::spawn_blocking(move || encode_snapshot(&image));
        let rows = encoding.await.map_err(|_| Gone::Left)?;
        let mut parts = vec![Vec::new()];
        let mut bytes = 0;
        for row in rows {
            if bytes + row.len() > MESSAGE_BYTES {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += row.len();
            if let Some(last) = parts.last_mut() {
                last.push(row);
            }
        }
        let count = parts.len();
        for (number, records) in parts.into_iter().enumerate() {
            let part = v1::MetadataSnapshotPart {
                end_offset: end.0,
                first: number == 0,
                last: number + 1 == count,
                records,
            };
            self.send(Message::Snapshot(part)).await?;
        }
        self.offset = end;
        Ok(())
    }
}

/// Records from `base` on, and which history they belong to. A watcher may have asked for more than
/// this controller knows of.
fn records_from(
    image: &MetadataImage,
    base: MetadataOffset,
    records: Vec<Bytes>,
) -> v1::MetadataRecords {
    let activation = image.activations.before(base);
    let known = activation.filter(|_| base <= image.offset);
    v1::MetadataRecords {
        base_offset: base.0,
        records,
        activation: known.map(|activation| v1::Activation {
            offset: activation.offset.0,
            id: activation.id,
        }),
    }
}
