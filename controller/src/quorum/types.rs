//! The types that the consensus works with. An entry carries an encoded metadata batch; one leader
//! per term, so that the term is the controller's epoch.

use std::fmt;

use bytes::Bytes;
use ottla_model::{DirectoryId, MetadataOffset, NodeId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

openraft::declare_raft_types!(
    /// The consensus over the metadata log.
    pub TypeConfig:
        D = EntryData,
        R = Applied,
        NodeId = u64,
        Node = VoterNode,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        Vote = openraft::impls::Vote<Self::LeaderId>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Bytes>;
pub type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;

/// A voter as the quorum's membership knows it: a node id *and* the directory it votes from, so
/// that a replaced disk is not taken for the voter that was lost with the old one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VoterNode {
    pub directory: [u8; 16],
    pub host: String,
    pub port: u16,
}

impl VoterNode {
    pub fn directory_id(&self) -> DirectoryId {
        DirectoryId::from_bytes(self.directory)
    }
}

/// An encoded metadata batch.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryData(pub Bytes);

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for EntryData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EntryData, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes::copy_from_slice(bytes))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(bytes.into())
            }
        }
        deserializer.deserialize_bytes(Visitor).map(EntryData)
    }
}

/// What became of an entry when it was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// Its records were replayed; the image now ends here.
    Replayed(MetadataOffset),
    /// It was decided on a stale image and skipped, as on every node.
    Skipped,
    /// It carried no records.
    Nothing,
}

/// The consensus' name of a node.
pub fn raft_id(node: NodeId) -> u64 {
    u64::try_from(node.0).unwrap_or(u64::MAX)
}

/// Our name of a node of the consensus.
pub fn node_id(raft: u64) -> NodeId {
    NodeId(i32::try_from(raft).unwrap_or(i32::MAX))
}
