//! What stands in a frame of the write-ahead log: a log entry, a vote, a truncation, a purge, or
//! how far is committed. Kinds are persisted and never reused.

use std::io;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{Entry, LogId, Vote};

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE: u8 = 4;
const CHECKPOINT: u8 = 5;

/// All that must survive when older files of the write-ahead log are given up.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Checkpoint {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    /// Every entry up to this one is covered by a snapshot and gone from the log.
    pub purged: Option<LogId>,
}

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    Entry(Entry),
    Vote(Vote),
    Committed(Option<LogId>),
    /// Entries after this one are void.
    Truncate(Option<LogId>),
    Checkpoint(Checkpoint),
}

impl Frame {
    pub fn encode(&self) -> io::Result<Bytes> {
        match self {
            Frame::Entry(entry) => encode_entry(entry),
            Frame::Vote(vote) => encode(VOTE, vote),
            Frame::Committed(log_id) => encode(COMMITTED, log_id),
            Frame::Truncate(log_id) => encode(TRUNCATE, log_id),
            Frame::Checkpoint(checkpoint) => encode(CHECKPOINT, checkpoint),
        }
    }

    /// The frame in these bytes.
    ///
    /// # Errors
    /// `InvalidData` for bytes that no build of this kind wrote.
    pub fn decode(bytes: &[u8]) -> io::Result<Frame> {
        let Some((kind, body)) = bytes.split_first() else {
            return Err(invalid("a frame of the consensus log is empty"));
        };
        match *kind {
            ENTRY => decode(body).map(Frame::Entry),
            VOTE => decode(body).map(Frame::Vote),
            COMMITTED => decode(body).map(Frame::Committed),
            TRUNCATE => decode(body).map(Frame::Truncate),
            CHECKPOINT => decode(body).map(Frame::Checkpoint),
            other => Err(invalid(format!(
                "a frame of the consensus log is of kind {other}, which this build does not know"
            ))),
        }
    }
}

/// The frame of an entry, without a copy of the entry.
pub fn encode_entry(entry: &Entry) -> io::Result<Bytes> {
    encode(ENTRY, entry)
}

fn encode(kind: u8, body: &impl Serialize) -> io::Result<Bytes> {
    let bytes = postcard::to_extend(body, vec![kind]).map_err(io::Error::other)?;
    Ok(bytes.into())
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body)
        .map_err(|error| invalid(format!("a frame of the consensus log is damaged: {error}")))
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}
