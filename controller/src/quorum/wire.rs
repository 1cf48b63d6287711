//! The bodies of the calls between controllers: the consensus' own messages, in postcard.

use bytes::Bytes;
use ottla_model::NodeId;
use ottla_model::checksum::crc32c;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tonic::Status;

use super::types::{LogId, SnapshotMeta, Vote, VoteRequest, node_id};

/// The greatest term that is believed: an election in every millisecond of nine thousand years. How
/// far a term is ahead of the receiver's own is no reason to refuse it, because a controller that
/// was away for long must be able to return; but a term near the end of its type would end all
/// elections.
const TERM_MAX: u64 = 1 << 48;

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

/// The body of a call: the message, and behind it the CRC-32C of its bytes.
pub fn encode(body: &impl Serialize) -> Result<Bytes, Status> {
    let no_encoding = |error| Status::internal(format!("a message has no encoding: {error}"));
    let mut bytes = postcard::to_stdvec(body).map_err(no_encoding)?;
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    Ok(bytes.into())
}

/// The message in a body. Postcard finds a message in almost any bytes and passes over what stands
/// behind it, and a message that was never sent could carry any term and any vote: so a body counts
/// only with its checksum, and only if the message is all of it.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    let unreadable = |why: &str| Status::invalid_argument(format!("a body cannot be read: {why}"));
    let Some((message, crc)) = body.split_last_chunk::<4>() else {
        return Err(unreadable("it is too short"));
    };
    if crc32c(message) != u32::from_be_bytes(*crc) {
        return Err(unreadable("its checksum does not match"));
    }
    match postcard::take_from_bytes(message) {
        Ok((decoded, [])) => Ok(decoded),
        Ok((_, rest)) => Err(unreadable(&format!("{} bytes too many", rest.len()))),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

/// Checks that a controller speaks in its own name and of a term that elections can have reached.
pub fn check_vote(vote: &Vote, from: NodeId) -> Result<(), Status> {
    let named = node_id(vote.leader_id.voted_for);
    if named != from {
        return Err(Status::invalid_argument(format!(
            "controller {from} sent a message in the name of controller {named}"
        )));
    }
    let term = vote.leader_id.term;
    if term > TERM_MAX {
        return Err(Status::invalid_argument(format!(
            "controller {from} sent a message of term {term}; no elections lead beyond {TERM_MAX}"
        )));
    }
    Ok(())
}
