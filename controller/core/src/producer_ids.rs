//! Hands out blocks of producer ids (KIP-730).

use ottla_metadata::ProducerIdsAllocated;
use ottla_model::error::ApiError;
use ottla_model::limits::PRODUCER_ID_BLOCK;
use ottla_model::{BrokerEpoch, ErrorCode, NodeId, ProducerId};

use crate::broker::current_registration;
use crate::draft::Draft;
use crate::request::Reply;

/// Gives the broker the next block. No id is ever given twice.
pub(crate) fn allocate(
    draft: &mut Draft,
    broker: NodeId,
    broker_epoch: BrokerEpoch,
) -> Result<Reply, ApiError> {
    current_registration(draft.image(), broker, broker_epoch)?;
    let first = draft.image().next_producer_id;
    let Some(next) = first.0.checked_add(PRODUCER_ID_BLOCK) else {
        let message = format!("no producer ids are left after {first}");
        return Err(ApiError::new(ErrorCode::UnknownServerError, message));
    };
    draft.push(ProducerIdsAllocated {
        broker,
        broker_epoch,
        next_producer_id: ProducerId(next),
    })?;
    Ok(Reply::ProducerIds {
        first,
        count: PRODUCER_ID_BLOCK,
    })
}
