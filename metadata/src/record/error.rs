//! Why bytes are no metadata record, snapshot or batch.

/// Bytes that this build cannot read as metadata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the metadata ends in the middle of a record's frame")]
    Truncated,
    #[error(
        "metadata record kind {id} (version {version}) is unknown to this build; it was written by a newer one, so this node must be upgraded"
    )]
    UnknownRecord { id: u32, version: u32 },
    #[error(
        "metadata record kind {id} has version {version}, but this build reads up to {newest}; it was written by a newer one, so this node must be upgraded"
    )]
    UnknownVersion { id: u32, version: u32, newest: u32 },
    #[error("the body of metadata record kind {id} is damaged")]
    Body {
        id: u32,
        #[source]
        source: prost::DecodeError,
    },
    #[error("metadata record kind {id} has an impossible value in field {field}")]
    Field { id: u32, field: &'static str },
    #[error("the metadata batch is damaged: {reason}")]
    Batch { reason: &'static str },
    #[error("the metadata snapshot is damaged: {reason}")]
    Snapshot { reason: String },
}
