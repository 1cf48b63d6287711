//! The broker's copy of the metadata: the current image, its changes as they come, and the copy on
//! disk from which the broker serves while no controller answers.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ottla_metadata::{MetadataDelta, MetadataImage, snapshot_from_bytes, snapshot_to_bytes};
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, ErrorCode, MetadataOffset, NodeId};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use crate::identity::BrokerIdentity;

/// The file with the last image, in the broker's folder.
const IMAGE_FILE: &str = "metadata-image";
/// How many changes a slow listener may be behind before it must read the whole image again.
const CHANGES_KEPT: usize = 1_024;

/// What one publication changed.
#[derive(Debug, Clone)]
pub struct ImageChange {
    pub image: Arc<MetadataImage>,
    /// What changed, or `None` if everything may have (a snapshot was loaded).
    pub delta: Option<Arc<MetadataDelta>>,
}

/// The current image and its listeners.
#[derive(Debug)]
pub struct ImageStore {
    current: ArcSwap<MetadataImage>,
    changes: broadcast::Sender<ImageChange>,
    applied: watch::Sender<MetadataOffset>,
    active_controller: watch::Sender<Option<NodeId>>,
    likely_controller: Mutex<Option<NodeId>>,
    dir: PathBuf,
    /// Whether the copy on disk is not to be written any more; held while it is written.
    forgotten: Mutex<bool>,
    /// Whose directory it is; learns the cluster id from the first image.
    identity: Mutex<BrokerIdentity>,
}

impl ImageStore {
    /// Opens the copy in `dir`. One that is missing or damaged counts as empty: it is rebuilt from
    /// the controllers.
    pub fn open(dir: &Path, identity: BrokerIdentity) -> ImageStore {
        let file = dir.join(IMAGE_FILE);
        let image = match std::fs::read(&file) {
            Ok(bytes) => snapshot_from_bytes(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "the kept metadata is unreadable; waiting for a controller");
                MetadataImage::default()
            }),
            Err(_) => MetadataImage::default(),
        };
        let offset = image.offset;
        ImageStore {
            current: ArcSwap::from_pointee(image),
            changes: broadcast::channel(CHANGES_KEPT).0,
            applied: watch::channel(offset).0,
            active_controller: watch::channel(None).0,
            likely_controller: Mutex::new(None),
            dir: dir.to_path_buf(),
            forgotten: Mutex::new(false),
            identity: Mutex::new(identity),
        }
    }

    pub fn current(&self) -> Arc<MetadataImage> {
        self.current.load_full()
    }

    /// Changes from now on. Subscribe before reading [`ImageStore::current`] to miss none.
    pub fn subscribe(&self) -> broadcast::Receiver<ImageChange> {
        self.changes.subscribe()
    }

    /// The offset up to which the broker has *applied* metadata to its replicas.
    pub fn applied(&self) -> watch::Receiver<MetadataOffset> {
        self.applied.subscribe()
    }

    /// Makes an image current. The replicas apply it before anybody else hears of it.
    pub fn publish(&self, change: ImageChange) {
        let offset = change.image.offset;
        self.current.store(Arc::clone(&change.image));
        // Nobody may be listening, and that is fine.
        let _ = self.changes.send(change);
        self.applied.send_replace(offset);
    }

    /// Waits until metadata up to `offset` is applied; the caller bounds the wait.
    pub async fn wait_for(&self, offset: MetadataOffset) {
        let mut applied = self.applied.subscribe();
        // The sender lives as long as this store.
        let _ = applied.wait_for(|at| *at >= offset).await;
    }

    /// The controller that this broker is registered with now: it decides, or the broker would not
    /// be. `None` while there is none.
    pub fn active_controller(&self) -> Option<NodeId> {
        *self.active_controller.borrow()
    }

    /// The controller that was last said to be active, by whomever: the one to ask first.
    pub fn likely_controller(&self) -> Option<NodeId> {
        *self.likely_controller.lock()
    }

    pub fn set_likely_controller(&self, controller: Option<NodeId>) {
        *self.likely_controller.lock() = controller;
    }

    pub fn watch_active_controller(&self) -> watch::Receiver<Option<NodeId>> {
        self.active_controller.subscribe()
    }

    pub fn set_active_controller(&self, controller: Option<NodeId>) {
        self.active_controller.send_if_modified(|current| {
            let changed = *current != controller;
            *current = controller;
            changed
        });
    }

    /// The id of the cluster that this directory belongs to, as it is sent; empty before it is
    /// known.
    pub fn cluster_text(&self) -> String {
        self.identity
            .lock()
            .cluster_id
            .map(|id| id.to_string())
            .unwrap_or_default()
    }

    /// The last broker epoch that this directory was granted.
    pub fn last_broker_epoch(&self) -> Option<BrokerEpoch> {
        self.identity.lock().last_broker_epoch
    }

    /// Notes a broker epoch that was granted, durably. Blocks.
    pub fn note_broker_epoch(&self, epoch: BrokerEpoch) -> io::Result<()> {
        let mut identity = self.identity.lock();
        if identity.last_broker_epoch == Some(epoch) {
            return Ok(());
        }
        let noted = BrokerIdentity {
            last_broker_epoch: Some(epoch),
            ..identity.clone()
        };
        noted.save(&self.dir)?;
        *identity = noted;
        Ok(())
    }

    /// Refuses an image of another cluster than the directory's; remembers the first one.
    pub fn check_cluster(&self, image: &MetadataImage) -> Result<(), String> {
        let Some(id) = image.cluster_id else {
            return Ok(());
        };
        let mut identity = self.identity.lock();
        match identity.cluster_id {
            Some(own) if own == id => Ok(()),
            Some(own) => Err(format!(
                "the controllers belong to cluster {id}, but this broker's directory {} to {own}",
                self.dir.display()
            )),
            None => {
                let known = BrokerIdentity {
                    cluster_id: Some(id),
                    ..identity.clone()
                };
                known.save(&self.dir).map_err(|error| {
                    format!(
                        "cannot note the cluster id in {}: {error}",
                        self.dir.display()
                    )
                })?;
                *identity = known;
                Ok(())
            }
        }
    }

    /// The controllers follow another history than this broker has. Removes the copy on disk for
    /// good, so that the next start takes everything from the controllers; gives what to tell.
    pub fn forget_history(&self) -> ApiError {
        let path = self.dir.join(IMAGE_FILE);
        let mut forgotten = self.forgotten.lock();
        *forgotten = true;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(path = %path.display(), %error, "cannot remove the copy of the metadata");
            }
            _ => {}
        }
        let message = "the controllers' metadata log is not the one that this broker has followed: \
                       they were restored from an older copy. The broker has forgotten its own \
                       copy; start it again, and logs of topics that the controllers do not know \
                       are set aside";
        ApiError::new(ErrorCode::InconsistentClusterId, message)
    }

    /// Writes the current image to disk: temporary name, sync, rename, directory sync.
    pub fn save(&self) -> io::Result<()> {
        let forgotten = self.forgotten.lock();
        if *forgotten {
            return Ok(());
        }
        let bytes = snapshot_to_bytes(&self.current());
        let path = self.dir.join(IMAGE_FILE);
        let temporary = path.with_extension("tmp");
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(&self.dir)?.sync_all()
    }
}
