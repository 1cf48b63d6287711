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
const REFUSED_MEMBERSHIP: &str = "ottla-membership";

/// Called when the node must stop.
pub type OnFatal = Arc<dyn Fn(FatalError) + Send + Sync>;

/// The quorum's members as the last membership that this node has in its log names them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registered {
    /// One more than the membership's index in the log; 0 before founding.
    pub at: u64,
    /// Whether it is committed: what is not may never have been.
    pub is_committed: bool,
    pub directories: BTreeMap<NodeId, DirectoryId>,
}

/// Checks and makes the envelopes of calls between controllers.
pub struct Guard {
    identity: Arc<Identity>,
    registered: RwLock<Registered>,
    /// Whether a membership has named this node with its directory since it started.
    was_registered: AtomicBool,
    /// Whether a peer has refused this directory as not the registered one.
    refused: AtomicBool,
    on_fatal: OnFatal,
    fatal: AtomicBool,
}

impl Guard {
    pub fn new(identity: Arc<Identity>, on_fatal: OnFatal) -> Guard {
        Guard {
            identity,
            registered: RwLock::default(),
            was_registered: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            on_fatal,
            fatal: AtomicBool::new(false),
        }
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The membership became known or changed. One that names this node with another directory
    /// means that this one was replaced, if it was registered before; if not, that this node is
    /// new and has not caught up with its own admission yet.
    pub fn set_registered(&self, registered: Registered) {
        let own = registered.directories.get(&self.identity.node_id).copied();
        let is_committed = registered.is_committed;
        if *self.registered.read() != registered {
            *self.registered.write() = registered;
        }
        let Some(own) = own else {
            return;
        };
        if own == self.identity.directory_id {
            self.was_registered.store(true, Ordering::SeqCst);
        } else if is_committed && self.was_registered.load(Ordering::SeqCst) {
            self.fatal(self.replaced(self.cluster_text(), own));
        }
    }

    /// Whether the membership, as far as this node has it, names another directory in this one's
    /// place: then this node must neither stand for election nor have a say in one.
    pub fn is_another_registered(&self) -> bool {
        let registered = self.registered.read();
        let own = registered.directories.get(&self.identity.node_id);
        own.is_some_and(|own| *own != self.identity.directory_id)
    }

    /// Whether a peer knows this node with another directory, and this one was never registered.
    pub fn is_waiting_for_admission(&self) -> bool {
        self.refused.load(Ordering::SeqCst) && !self.was_registered.load(Ordering::SeqCst)
    }

    /// Whether this node has nothing to tell others: it waits to be taken in, or catches up with
    /// that.
    pub fn is_outside(&self) -> bool {
        self.is_waiting_for_admission() || self.is_another_registered()
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
        let registered = self.registered.read();
        let to_directory = registered.directories.get(&to).copied();
        let own = registered.directories.get(&self.identity.node_id);
        let is_registered = own.is_some_and(|own| *own == self.identity.directory_id);
        v1::RaftEnvelope {
            cluster_id: self.cluster_text(),
            from_node_id: self.identity.node_id.0,
            from_directory_id: self.identity.directory_id.as_bytes().to_vec().into(),
            to_node_id: to.0,
            to_directory_id: to_directory
                .map(|id| id.as_bytes().to_vec())
                .unwrap_or_default()
                .into(),
            membership: if is_registered { registered.at } else { 0 },
        }
    }

    /// The envelope of a call to whichever directory answers for a controller.
    pub fn envelope_to_any(&self, to: NodeId) -> v1::RaftEnvelope {
        v1::RaftEnvelope {
            to_directory_id: bytes::Bytes::new(),
            ..self.envelope(to)
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
        let known = self.registered.read();
        // A node that was away does not know who was replaced meanwhile, and must hear of it from
        // whoever was.
        if known.directories.is_empty() || envelope.membership > known.at {
            return Ok(from);
        }
        let at = known.is_committed.then_some(known.at);
        let registered = known.directories.get(&from).copied();
        drop(known);
        match registered {
            None => Err(Status::permission_denied(format!(
                "node {from} is no voter of this quorum"
            ))),
            Some(registered) if registered != directory => {
                Err(self.refuse_directory(from, registered, directory, at))
            }
            Some(_) => Ok(from),
        }
    }

    /// A peer of our cluster refused a call of ours because another directory is registered. If
    /// ours was registered once and the peer knows a later membership, it was replaced, and this
    /// node must stop. If it never was, it is new.
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
        if !ours.is_empty() && ours != cluster {
            return;
        }
        let at = text(REFUSED_MEMBERSHIP).and_then(|at| at.parse().ok());
        if self.was_registered.load(Ordering::SeqCst) {
            if at.is_some_and(|at: u64| at > self.registered.read().at) {
                self.fatal(self.replaced(cluster, registered));
            }
        } else if !self.refused.swap(true, Ordering::SeqCst) {
            let (node, new) = (self.identity.node_id, self.identity.directory_id);
            tracing::warn!(%cluster, %registered, %new,
                "controller {node} is refused under its old identity: it is registered with another \
                 directory, and this one is new; nothing has to be done while most controllers \
                 run: the active one takes this one in as a new voter. If the registered directory \
                 is still there, stop this node before that and start it with it");
        }
    }

    fn refuse_directory(
        &self,
        from: NodeId,
        registered: DirectoryId,
        directory: DirectoryId,
        at: Option<u64>,
    ) -> Status {
        let cluster = self.cluster_text();
        let mut status = Status::failed_precondition(format!(
            "controller {from} of cluster {cluster} is registered with directory {registered}, not with directory {directory}"
        ));
        let pairs = [
            (REFUSED_DIRECTORY, registered.to_string()),
            (REFUSED_CLUSTER, cluster),
            // One that is not committed ends nobody.
            (REFUSED_MEMBERSHIP, at.unwrap_or(0).to_string()),
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
