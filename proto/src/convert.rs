//! Conversions between the wire and the model. Each checks the shape of what came in; what is
//! allowed is decided elsewhere.

use ottla_model::error::ApiError;
use ottla_model::{ErrorCode, PartitionIndex, TopicId, TopicIdPartition};

use crate::v1;

/// The topic id in a field of sixteen bytes.
pub fn topic_id(bytes: &[u8], field: &str) -> Result<TopicId, ApiError> {
    TopicId::from_slice(bytes).ok_or_else(|| {
        let message = format!("a topic id has 16 bytes, not {}", bytes.len());
        ApiError::new(ErrorCode::InvalidRequest, message).in_field(field)
    })
}

/// The partition named by an id and an index.
pub fn topic_id_partition(
    id: &[u8],
    partition: i32,
    field: &str,
) -> Result<TopicIdPartition, ApiError> {
    Ok(TopicIdPartition::new(
        topic_id(id, field)?,
        PartitionIndex(partition),
    ))
}

/// An endpoint as `host:port`; IPv6 addresses in brackets.
pub fn endpoint_text(endpoint: &v1::Endpoint) -> String {
    if endpoint.host.contains(':') {
        format!("[{}]:{}", endpoint.host, endpoint.port)
    } else {
        format!("{}:{}", endpoint.host, endpoint.port)
    }
}
