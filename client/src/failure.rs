//! What a failed call means: a refusal that Ottla spelled out, or a broken way there. Decides
//! whether a request can have reached the other side.

use std::error::Error;

use ottla_model::error::ApiError;
use ottla_proto::status::from_status;
use tonic::{Code, Status};

/// A failed call, classified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The broker answered with a refusal.
    Refused(ApiError),
    /// No connection came about: nothing was sent.
    NotConnected(String),
    /// The connection or the stream broke: what was sent may have arrived.
    Broken(String),
}

impl Failure {
    pub(crate) fn classify(status: &Status) -> Failure {
        if let Some(error) = from_status(status) {
            return Failure::Refused(error);
        }
        let text = describe(status);
        if is_connect_error(status) {
            Failure::NotConnected(text)
        } else {
            Failure::Broken(text)
        }
    }

    pub(crate) fn reason(&self) -> String {
        match self {
            Failure::Refused(error) => format!("{}: {}", error.code, error.message),
            Failure::NotConnected(text) | Failure::Broken(text) => text.clone(),
        }
    }
}

fn is_connect_error(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The status and its causes as one line, without saying anything twice.
fn describe(status: &Status) -> String {
    let mut parts: Vec<String> = Vec::new();
    if !status.message().is_empty() {
        parts.push(status.message().to_owned());
    }
    let mut source = status.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        source = error.source();
    }
    if status.code() == Code::DeadlineExceeded || status.code() == Code::Cancelled {
        parts.insert(0, "no answer in time".to_owned());
    }
    if parts.is_empty() {
        return format!("failed with gRPC status {:?}", status.code());
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use ottla_model::ErrorCode;
    use ottla_proto::status::to_status;

    use super::*;

    #[test]
    fn a_refusal_is_told_from_a_broken_connection() {
        let refusal = ApiError::new(ErrorCode::NodeStarting, "the node is starting");
        assert_eq!(
            Failure::classify(&to_status(&refusal)),
            Failure::Refused(refusal)
        );
        assert!(matches!(
            Failure::classify(&Status::unavailable("gone")),
            Failure::Broken(_)
        ));
    }
}
