//! What a failed call means: a refusal that Ottla spelled out, or a broken way there. Decides
//! whether a request can have reached the other side.

use std::error::Error;
use std::io;

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

/// What went wrong on the way, as one line for people: in words where the cause is a common one,
/// else the status and its causes, without saying anything twice.
fn describe(status: &Status) -> String {
    let mut causes: Vec<&(dyn Error + 'static)> = Vec::new();
    let mut source = status.source();
    while let Some(error) = source {
        causes.push(error);
        source = error.source();
    }
    let io = causes.iter().rev().find_map(|error| error.downcast_ref());
    if let Some(words) = io.and_then(io_words) {
        return words.to_owned();
    }
    let mut parts: Vec<String> = Vec::new();
    if !status.message().is_empty() {
        parts.push(status.message().to_owned());
    }
    for error in causes {
        let text = error.to_string();
        if text != "transport error" && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    if status.code() == Code::DeadlineExceeded || status.code() == Code::Cancelled {
        parts.insert(0, "no answer in time".to_owned());
    }
    match peer_words(status.code(), &parts.join(": ")) {
        Some(words) => words.to_owned(),
        None if parts.is_empty() => format!("failed with gRPC status {:?}", status.code()),
        None => parts.join(": "),
    }
}

/// What the operating system said of the connection, in words.
fn io_words(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there (connection refused)",
        io::ErrorKind::TimedOut => "it did not answer in time",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no way to it in the network"
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => "the connection broke",
        _ => return None,
    })
}

/// What the other side seems to be, where its answer is none of a broker's to a client.
fn peer_words(code: Code, text: &str) -> Option<&'static str> {
    let is_foreign = [
        "frame with invalid size",
        "grpc-status header missing",
        "answered with HTTP status",
    ];
    if text.contains("dns error") {
        Some("its host name cannot be resolved")
    } else if is_foreign.iter().any(|part| text.contains(part)) {
        Some("what answers there is no broker: it does not speak gRPC")
    } else if code == Code::Unimplemented {
        Some("what answers there takes no such call: is it a broker's client port?")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::ErrorCode;
    use ottla_proto::status::to_status;

    use super::*;

    #[test]
    fn common_causes_are_told_in_words() {
        let caused = |kind| {
            let error = io::Error::from(kind);
            let mut status = Status::unavailable("tcp connect error");
            status.set_source(std::sync::Arc::new(error));
            describe(&status)
        };
        let refused = caused(io::ErrorKind::ConnectionRefused);
        assert_eq!(refused, "nothing listens there (connection refused)");
        assert_eq!(caused(io::ErrorKind::BrokenPipe), "the connection broke");
        for foreign in [
            "grpc-status header missing, mapped from 404",
            "the peer answered with HTTP status 404 Not Found",
        ] {
            let told = describe(&Status::unknown(foreign));
            assert!(told.contains("no broker"), "{told}");
        }
        let other = describe(&Status::internal("a word of its own"));
        assert_eq!(other, "a word of its own");
        let silent = describe(&Status::deadline_exceeded("late"));
        assert_eq!(silent, "no answer in time: late");
    }

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
