//! The check that a request comes from the current registration of a broker (KIP-380).

use ottla_metadata::{BrokerRegistration, MetadataImage};
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, ErrorCode, NodeId};

/// The registration of this broker, if it has this epoch.
pub(crate) fn current_registration(
    image: &MetadataImage,
    broker: NodeId,
    epoch: BrokerEpoch,
) -> Result<&BrokerRegistration, ApiError> {
    let Some(registration) = image.broker(broker) else {
        let message = format!("broker {broker} is not registered; it must register first");
        return Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, message));
    };
    if registration.epoch != epoch {
        let current = registration.epoch;
        let message = format!(
            "broker {broker} spoke with broker epoch {epoch}, but its registration has {current}; \
             it must register again"
        );
        return Err(ApiError::new(ErrorCode::StaleBrokerEpoch, message));
    }
    Ok(registration)
}
