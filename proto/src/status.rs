//! Errors on the wire: the one table from error code to gRPC code, and the details
//! (`google.rpc.ErrorInfo`, `BadRequest`, `RetryInfo`) that travel with a status.

use std::collections::HashMap;
use std::time::Duration;

use ottla_model::ErrorCode;
use ottla_model::error::ApiError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::v1;

/// The domain of our error reasons in `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "ottla";

/// How long a client does well to wait before it tries a retriable error again.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The gRPC code that stands for an error code.
pub fn grpc_code(code: ErrorCode) -> Code {
    use ErrorCode as E;
    match code {
        E::UnknownServerError | E::StorageError => Code::Internal,
        E::OffsetOutOfRange => Code::OutOfRange,
        E::CorruptMessage
        | E::InvalidTopic
        | E::InvalidRequiredAcks
        | E::InvalidTimestamp
        | E::InvalidPartitions
        | E::InvalidReplicationFactor
        | E::InvalidReplicaAssignment
        | E::InvalidConfig
        | E::InvalidRequest
        | E::UnsupportedForMessageFormat
        | E::UnsupportedCompressionType
        | E::MessageTooLarge
        | E::RecordListTooLarge
        | E::InvalidRecord => Code::InvalidArgument,
        E::UnknownTopicOrPartition | E::UnknownTopicId | E::BrokerIdNotRegistered => Code::NotFound,
        E::TopicAlreadyExists | E::DuplicateBrokerRegistration => Code::AlreadyExists,
        E::PolicyViolation => Code::PermissionDenied,
        E::UnsupportedVersion => Code::Unimplemented,
        E::RequestTimedOut => Code::DeadlineExceeded,
        E::ThrottlingQuotaExceeded | E::DiskFull => Code::ResourceExhausted,
        E::InvalidUpdateVersion => Code::Aborted,
        E::LeaderNotAvailable
        | E::NetworkException
        | E::NotEnoughReplicas
        | E::NotEnoughReplicasAfterAppend
        | E::OffsetNotAvailable
        | E::PreferredLeaderNotAvailable
        | E::EligibleLeadersNotAvailable
        | E::NotController
        | E::NoControllerQuorum
        | E::NodeStarting
        | E::NodeShuttingDown => Code::Unavailable,
        E::NotLeaderOrFollower
        | E::OutOfOrderSequenceNumber
        | E::DuplicateSequenceNumber
        | E::InvalidProducerEpoch
        | E::UnknownProducerId
        | E::FencedLeaderEpoch
        | E::UnknownLeaderEpoch
        | E::StaleBrokerEpoch
        | E::ElectionNotNeeded
        | E::InconsistentTopicId
        | E::InconsistentClusterId
        | E::IneligibleReplica
        | E::NewLeaderElected => Code::FailedPrecondition,
    }
}

/// The longest message of a status, in bytes. It travels in headers, which have limits of their
/// own: a message that echoes a request whole would break the caller's connection.
const MESSAGE_BYTES_MAX: usize = 1_024;

fn capped(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(MESSAGE_BYTES_MAX);
    format!("{}…", &message[..end])
}

/// The status for a refusal, with its details.
pub fn to_status(error: &ApiError) -> Status {
    let mut details = ErrorDetails::with_error_info(
        error.code.name(),
        ERROR_DOMAIN,
        HashMap::from([("code".to_owned(), error.code.number().to_string())]),
    );
    if let Some(field) = &error.field {
        details.add_bad_request_violation(capped(field), capped(&error.message));
    }
    if error.code.is_retriable() {
        details.set_retry_info(Some(RETRY_DELAY));
    }
    Status::with_error_details(grpc_code(error.code), capped(&error.message), details)
}

/// The refusal in a status, if it came from Ottla.
pub fn from_status(status: &Status) -> Option<ApiError> {
    let details = status.get_error_details();
    let info = details
        .error_info()
        .filter(|info| info.domain == ERROR_DOMAIN)?;
    let code = ErrorCode::from_name(&info.reason)?;
    let field = details
        .bad_request()
        .and_then(|bad| bad.field_violations.first())
        .map(|violation| violation.field.clone());
    Some(ApiError {
        code,
        message: status.message().to_owned(),
        field,
    })
}

impl From<&ApiError> for v1::Error {
    fn from(error: &ApiError) -> v1::Error {
        v1::Error {
            code: i32::from(error.code.number()),
            reason: error.code.name().to_owned(),
            message: error.message.clone(),
            leader: None,
            field: error.field.clone().unwrap_or_default(),
        }
    }
}

impl From<&v1::Error> for ApiError {
    fn from(error: &v1::Error) -> ApiError {
        let code = i16::try_from(error.code)
            .ok()
            .and_then(ErrorCode::from_number)
            .unwrap_or(ErrorCode::UnknownServerError);
        let field = Some(error.field.clone()).filter(|field| !field.is_empty());
        ApiError {
            code,
            message: error.message.clone(),
            field,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_survives_the_wire() {
        for code in ErrorCode::ALL {
            let error = ApiError::new(*code, "what, where, and what to do").in_field("topic");
            let status = to_status(&error);
            assert_eq!(from_status(&status), Some(error.clone()));
            assert_eq!(ApiError::from(&v1::Error::from(&error)), error);
            assert_eq!(
                status.get_details_retry_info().is_some(),
                code.is_retriable()
            );
        }
    }

    #[test]
    fn a_message_that_echoes_too_much_is_cut() {
        let error = ApiError::new(ErrorCode::InvalidTopic, "ä".repeat(100_000)).in_field("name");
        let status = to_status(&error);
        assert!(status.message().len() < 1_100);
        assert!(status.details().len() < 3_000);
    }

    #[test]
    fn a_foreign_status_is_no_refusal_of_ours() {
        assert_eq!(from_status(&Status::unavailable("proxy")), None);
    }
}
