//! Following the metadata log: committed records from any controller, replayed and applied to the
//! replicas as they come, and kept on disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_metadata::{Activation, MetadataDelta, MetadataRecord, decode_snapshot};
use ottla_model::{MetadataOffset, NodeId};
use ottla_proto::v1;
use ottla_proto::v1::watch_metadata_response::Message as Event;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use crate::controllers::Controllers;
use crate::image::{ImageChange, ImageStore};
use crate::manager::ReplicaManager;
use crate::registration::refusal::Refused;

/// A controller gives a sign of life every second; silence beyond this means it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(4);
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How often a changed image is written to disk.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);
/// The most records of one snapshot.
const SNAPSHOT_ROWS_MAX: usize = 20_000_000;

/// Follows the metadata log for one broker.
pub struct Watcher {
    pub node_id: NodeId,
    pub image: Arc<ImageStore>,
    pub manager: Arc<ReplicaManager>,
    pub controllers: Arc<Controllers>,
    pub refused: Refused,
}

impl Watcher {
    /// Watches for the life of the broker, moving to another controller when one fails.
    pub async fn run(self: Arc<Self>) {
        let save = tokio::spawn(Arc::clone(&self.image).save_changes());
        // Each broker begins at another controller, so that the load spreads.
        let mut order = self.controllers.in_order();
        let begin = self.node_id.0.unsigned_abs() as usize % order.len().max(1);
        order.sort_unstable();
        order.rotate_left(begin);
        loop {
            for id in order.clone() {
                if let Err(status) = self.watch(id).await {
                    tracing::debug!(controller = %id, error = %status.message(), "the metadata watch ended");
                }
                if save.is_finished() {
                    return;
                }
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn watch(&self, id: NodeId) -> Result<(), Status> {
        let Some(mut client) = self.controllers.client(id) else {
            return Ok(());
        };
        let image = self.image.current();
        let request = v1::WatchMetadataRequest {
            cluster_id: image
                .cluster_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            node_id: self.node_id.0,
            from_offset: image.offset.0,
        };
        let stream = timeout(OPEN_TIMEOUT, client.watch_metadata(request))
            .await
            .map_err(|_| Status::deadline_exceeded("no answer"))??
            .into_inner();
        self.follow(stream).await
    }

    async fn follow(&self, mut stream: Streaming<v1::WatchMetadataResponse>) -> Result<(), Status> {
        let mut snapshot: Vec<Bytes> = Vec::new();
        loop {
            let message = timeout(SILENCE_MAX, stream.message())
                .await
                .map_err(|_| Status::deadline_exceeded("the controller is silent"))??;
            let Some(message) = message else {
                return Ok(());
            };
            let active = message.active_controller_id.map(NodeId);
            if active.is_some() {
                self.image.set_likely_controller(active);
            }
            match message.message {
                Some(Event::Records(records)) => self.take_records(records).await?,
                Some(Event::Snapshot(part)) => {
                    if part.first {
                        snapshot.clear();
                    }
                    if snapshot.len() + part.records.len() > SNAPSHOT_ROWS_MAX {
                        return Err(Status::internal("the snapshot is too large"));
                    }
                    snapshot.extend(part.records);
                    if part.last {
                        self.take_snapshot(std::mem::take(&mut snapshot)).await?;
                    }
                }
                None => {}
            }
        }
    }

    async fn take_records(&self, records: v1::MetadataRecords) -> Result<(), Status> {
        let image = self.image.current();
        let base = MetadataOffset(records.base_offset);
        if base <= image.offset {
            let theirs = records.activation.map(|activation| Activation {
                offset: MetadataOffset(activation.offset),
                id: activation.id,
            });
            self.check_history(base, theirs)?;
        }
        if records.records.is_empty() {
            return Ok(());
        }
        if base > image.offset {
            return Err(Status::internal(format!(
                "records begin at {base}, but {} is next",
                image.offset
            )));
        }
        // Records that are known already may come again after a reconnection.
        let known = usize::try_from(image.offset - base).unwrap_or(usize::MAX);
        let mut delta = MetadataDelta::new(image);
        for bytes in records.records.iter().skip(known) {
            let malformed = |error: &dyn std::fmt::Display| {
                tracing::error!(
                    %error,
                    "the controllers' records do not follow from what this broker knows; it keeps \
                     what it has"
                );
                Status::internal(format!("a metadata record cannot be replayed: {error}"))
            };
            let record = MetadataRecord::decode(bytes).map_err(|error| malformed(&error))?;
            delta.replay(&record).map_err(|error| malformed(&error))?;
        }
        let image = Arc::new(delta.apply());
        self.apply(ImageChange {
            image,
            delta: Some(Arc::new(delta)),
        })
        .await
    }

    async fn take_snapshot(&self, rows: Vec<Bytes>) -> Result<(), Status> {
        let image = decode_snapshot(rows)
            .map_err(|error| Status::internal(format!("the snapshot is malformed: {error}")))?;
        if image.offset < self.image.current().offset {
            return Err(Status::internal("the snapshot is older than what is known"));
        }
        let known = self.image.current().offset;
        self.check_history(known, image.activations.before(known))?;
        self.apply(ImageChange {
            image: Arc::new(image),
            delta: None,
        })
        .await
    }

    /// Refuses what continues another history than the one that this broker has followed: `theirs`
    /// is its last activation before `offset`.
    fn check_history(
        &self,
        offset: MetadataOffset,
        theirs: Option<Activation>,
    ) -> Result<(), Status> {
        let own = self.image.current();
        if !own.activations.contradict(offset, theirs) {
            return Ok(());
        }
        tracing::warn!(%offset, own = ?own.activations.before(offset), ?theirs,
            "the controllers' metadata and this broker's have parted before this offset");
        (self.refused)(&self.image.forget_history());
        Err(Status::data_loss("the controllers follow another history"))
    }

    /// The replicas first, then everybody else.
    async fn apply(&self, change: ImageChange) -> Result<(), Status> {
        self.image
            .check_cluster(&change.image)
            .map_err(Status::failed_precondition)?;
        let manager = Arc::clone(&self.manager);
        let image = Arc::clone(&self.image);
        let applied = tokio::task::spawn_blocking(move || {
            manager.apply(&change);
            image.publish(change);
        });
        if applied.await.is_err() {
            tracing::error!("applying metadata panicked");
        }
        Ok(())
    }
}

impl ImageStore {
    /// Writes the image to disk when it changed, at most every [`SAVE_INTERVAL`].
    async fn save_changes(self: Arc<Self>) {
        let mut applied = self.applied();
        while applied.changed().await.is_ok() {
            let next = Instant::now() + SAVE_INTERVAL;
            let store = Arc::clone(&self);
            let saved = tokio::task::spawn_blocking(move || store.save()).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, "cannot keep a copy of the metadata on disk");
            }
            tokio::time::sleep_until(next).await;
        }
    }
}
