//! The shared parts of the records' bytes: framing, ids, lists and checks.

use bytes::Bytes;
use ottla_model::NodeId;
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};

use super::RecordError;

/// How a record maps onto its protobuf body.
pub(crate) trait WireRecord: Sized {
    /// The persisted id. Never reused, never changed.
    const ID: u32;
    /// The version that is written, and the highest that is read.
    const VERSION: u32;
    type Wire: Message + Default;

    fn to_wire(&self) -> Self::Wire;
    fn from_wire(version: u32, wire: Self::Wire) -> Result<Self, RecordError>;
}

/// The framed bytes of a record.
pub(crate) fn frame<R: WireRecord>(record: &R) -> Bytes {
    let wire = record.to_wire();
    let mut out = Vec::with_capacity(wire.encoded_len() + 4);
    encode_varint(u64::from(R::ID), &mut out);
    encode_varint(u64::from(R::VERSION), &mut out);
    out.extend_from_slice(&wire.encode_to_vec());
    out.into()
}

/// Id, version and body of framed bytes.
pub(crate) fn unframe(mut bytes: &[u8]) -> Result<(u32, u32, &[u8]), RecordError> {
    let mut number = || {
        let value = decode_varint(&mut bytes).map_err(|_| RecordError::Truncated)?;
        u32::try_from(value).map_err(|_| RecordError::Truncated)
    };
    let id = number()?;
    let version = number()?;
    Ok((id, version, bytes))
}

/// The record with this version and body.
pub(crate) fn open<R: WireRecord>(version: u32, body: &[u8]) -> Result<R, RecordError> {
    if version > R::VERSION {
        return Err(RecordError::UnknownVersion {
            id: R::ID,
            version,
            newest: R::VERSION,
        });
    }
    let wire = R::Wire::decode(body).map_err(|source| RecordError::Body { id: R::ID, source })?;
    R::from_wire(version, wire)
}

/// A list of nodes that may be absent.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeList {
    #[prost(int32, repeated, tag = "1")]
    pub nodes: Vec<i32>,
}

pub(crate) fn node_list(nodes: &Option<Vec<NodeId>>) -> Option<NodeList> {
    nodes.as_ref().map(|nodes| NodeList {
        nodes: numbers(nodes),
    })
}

pub(crate) fn nodes_of(list: Option<NodeList>) -> Option<Vec<NodeId>> {
    list.map(|list| nodes(list.nodes))
}

pub(crate) fn numbers(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

pub(crate) fn nodes(numbers: Vec<i32>) -> Vec<NodeId> {
    numbers.into_iter().map(NodeId).collect()
}

/// A field whose value no writer of this record would have produced.
pub(crate) fn bad(record: u32, field: &'static str) -> RecordError {
    RecordError::Field { id: record, field }
}

/// A sixteen-byte id, made by the id type's own `from_slice`.
pub(crate) fn uuid<T>(
    record: u32,
    field: &'static str,
    from_slice: impl Fn(&[u8]) -> Option<T>,
    bytes: &[u8],
) -> Result<T, RecordError> {
    from_slice(bytes).ok_or_else(|| bad(record, field))
}
