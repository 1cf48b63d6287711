//! The bodies of the calls between controllers: the consensus' own messages, in postcard.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::types::{LogId, SnapshotMeta, Vote, VoteRequest};

/// What the `PreVote` call carries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum PreVoteBody {
    /// The consensus' own question; answered by its own answer.
    Vote(VoteRequest),
    /// "The leader's process is gone. Do you find so too, and is my log as long as yours?"
    /// Answered by yes or no. It lets an election begin before the lease ends, because a process
    /// that two machines find gone holds no lease.
    LeaderGone {
        leader: u64,
        term: u64,
        last_log_id: Option<LogId>,
    },
}

/// What comes before the parts of a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotHead {
    pub vote: Vote,
    pub meta: SnapshotMeta,
    pub bytes: u64,
}

pub fn encode(body: &impl Serialize) -> Result<Bytes, Status> {
    let encoded = postcard::to_stdvec(body).map(Bytes::from);
    encoded.map_err(|error| Status::internal(format!("a message has no encoding: {error}")))
}

pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    postcard::from_bytes(body)
        .map_err(|error| Status::invalid_argument(format!("a body cannot be read: {error}")))
}
