//! Who may take part in the consensus: the right cluster, the right node, and each voter with the
//! directory it was registered with, checked on every call by who receives it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ottla_model::{DirectoryId, NodeId};
use ottla_proto::v1;
use parking_lot::RwLock;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::error::FatalError;
use crate::identity::Identity;

/// Marks a refusal that says: the caller's directory is not the registered one.
const REFUSED_DIRECTORY: &str = "ottla-registered-directory";
const REFUSED_CLUSTER: &str = "ottla-cluster";

/// Called when the node must stop.
pub type OnFatal = Arc<dyn Fn(FatalError) + Send + Sync>;

/// Checks and makes the envelopes of calls between controllers.
pub struct Guard {
    identity: Arc<Identity>,
    /// The directories of the voters, as the quorum's membership has them; empty before founding.
    registered: RwLock<BTreeMap<NodeId, DirectoryId>>,
    on_fatal: OnFatal,
    fatal: AtomicBool,
}

impl Guard {
    pub fn new(identity: Arc<Identity>, on_fatal: OnFatal) -> Guard {
        Guard {
            identity,
            registered: RwLock::default(),
            on_fatal,
            fatal: AtomicBool::new(false),
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The membership became known or changed. A membership that knows this node by another
    /// directory means that this directory is not the voter's.
    pub fn set_registered(&self, registered: BTreeMap<NodeId, DirectoryId>) {
        let own = registered.get(&self.identity.node_id).copied();
        if *self.registered.read() != registered {
            *self.registered.write() = registered;
        }
        if let Some(own) = own.filter(|own| *own != self.identity.directory_id) {
            self.fatal(self.replaced(self.cluster_text(), own));
        }
    }

    /// The node must stop. Only the first cause is told.
    pub fn fatal(&self, error: FatalError) {
        if !self.fatal.swap(true, Ordering::SeqCst) {
            // Whoever runs the node tells why it ends, and nobody shall read it twice.
            tracing::debug!(%error, "this controller must stop");
            (self.on_fatal)(error);
        }
    }

    /// The envelope of a call to a controller.
    pub fn envelope(&self, to: NodeId) -> v1::RaftEnvelope {
        let to_directory = self.registered.read().get(&to).copied();
        v1::RaftEnvelope {
            cluster_id: self.cluster_text(),
            from_node_id: self.identity.node_id.0,
            from_directory_id: self.identity.directory_id.as_bytes().to_vec().into(),
            to_node_id: to.0,
            to_directory_id: to_directory
                .map(|id| id.as_bytes().to_vec())
                .unwrap_or_default()
                .into(),
        }
    }

    /// Accepts or refuses a call by its envelope, and says who calls.
    ///
    /// # Errors
    /// `FailedPrecondition` with the reason.
    pub fn check(&self, envelope: Option<&v1::RaftEnvelope>) -> Result<NodeId, Status> {
        let Some(envelope) = envelope else {
            return Err(Status::invalid_argument(
                "the first message has no envelope",
            ));
        };
        let me = self.identity.node_id;
        if envelope.to_node_id != me.0 {
            return Err(Status::failed_precondition(format!(
                "this is controller {me}, not controller {}",
                envelope.to_node_id
            )));
        }
        let ours = self.cluster_text();
        let both_known = !envelope.cluster_id.is_empty() && !ours.is_empty();
        if both_known && envelope.cluster_id != ours {
            return Err(Status::failed_precondition(format!(
                "controller {me} belongs to cluster {ours}, not to cluster {}",
                envelope.cluster_id
            )));
        }
        self.check_directories(envelope)
    }

    /// Accepts or refuses a greeting: whoever asks may learn which cluster this is, unless it
    /// pretends to be a voter that it is not.
    ///
    /// # Errors
    /// `FailedPrecondition` with the reason.
    pub fn check_greeting(&self, envelope: Option<&v1::RaftEnvelope>) -> Result<(), Status> {
        let Some(envelope) = envelope else {
            return Ok(());
        };
        let ours = self.cluster_text();
        if !envelope.cluster_id.is_empty() && !ours.is_empty() && envelope.cluster_id != ours {
            return Ok(());
        }
        self.check_directories(envelope).map(drop)
    }

    fn check_directories(&self, envelope: &v1::RaftEnvelope) -> Result<NodeId, Status> {
        let me = self.identity.node_id;
        let meant = DirectoryId::from_slice(&envelope.to_directory_id);
        if let Some(meant) = meant.filter(|meant| *meant != self.identity.directory_id) {
            // Only refused: a caller's word alone must not stop a node. If this directory is not
            // the voter's, the voters that this node calls say so in their refusals.
            return Err(Status::failed_precondition(format!(
                "controller {me} is registered with directory {meant}, but this is directory {}",
                self.identity.directory_id
            )));
        }
        let from = NodeId(envelope.from_node_id);
        let Some(directory) = DirectoryId::from_slice(&envelope.from_directory_id) else {
            return Err(Status::invalid_argument(
                "the envelope names no directory of the sender",
            ));
        };
        let voters = self.registered.read();
        if !voters.is_empty() && !voters.contains_key(&from) {
            return Err(Status::permission_denied(format!(
                "node {from} is no voter of this quorum"
            )));
        }
        let registered = voters.get(&from).copied();
        drop(voters);
        match registered.filter(|registered| *registered != directory) {
            Some(registered) => Err(self.refuse_directory(from, registered, directory)),
            None => Ok(from),
        }
    }

    /// A peer refused a call of ours. If it says that our directory is not the registered one,
    /// and it is of our cluster, this node must stop.
    pub fn on_refusal(&self, status: &Status) {
        let text = |key| {
            let value = status.metadata().get(key)?;
            value.to_str().ok().map(str::to_owned)
        };
        let Some(registered) = text(REFUSED_DIRECTORY).and_then(|id| id.parse().ok()) else {
            return;
        };
        let cluster = text(REFUSED_CLUSTER).unwrap_or_default();
        let ours = self.cluster_text();
        if ours.is_empty() || ours == cluster {
            self.fatal(self.replaced(cluster, registered));
        }
    }

    fn refuse_directory(
        &self,
        from: NodeId,
        registered: DirectoryId,
        directory: DirectoryId,
    ) -> Status {
        let cluster = self.cluster_text();
        let mut status = Status::failed_precondition(format!(
            "controller {from} of cluster {cluster} is registered with directory {registered}, not with directory {directory}"
        ));
        let pairs = [
            (REFUSED_DIRECTORY, registered.to_string()),
            (REFUSED_CLUSTER, cluster),
        ];
        for (key, text) in pairs {
            if let Ok(value) = MetadataValue::try_from(text) {
                status.metadata_mut().insert(key, value);
            }
        }
        status
    }

    fn replaced(&self, cluster: String, registered: DirectoryId) -> FatalError {
        FatalError::ReplacedDirectory {
            node: self.identity.node_id,
            cluster,
            registered,
            ours: self.identity.directory_id,
        }
    }

    fn cluster_text(&self) -> String {
        let id = self.identity.cluster_id();
        id.map_or(String::new(), |id| id.to_string())
    }
}
