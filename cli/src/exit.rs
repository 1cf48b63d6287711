//! How a command ends: its exit code, and the one line that says why.

use std::fmt;

use ottla_client::{ClientError, ConsumeError, ProduceError};
use ottla_model::ErrorCode;
use ottla_model::error::ApiError;

use crate::output::StdoutClosed;

/// The exit codes of every command. 0 is success alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for was not done.
    Failure = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The command did its work, and the condition it checks does not hold: an unhealthy cluster,
    /// damaged files, a drill that lost records.
    Condition = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// The time given was not enough.
    TimedOut = 6,
}

/// A failed command: the code to exit with and the reason for people.
#[derive(Debug)]
pub struct CommandError {
    pub exit: Exit,
    pub reason: anyhow::Error,
    /// The reason was already told, so nothing more is printed.
    pub told: bool,
}

/// What every command returns.
pub type CommandResult<T = ()> = Result<T, CommandError>;

impl CommandError {
    /// A failure with this code.
    pub fn new(exit: Exit, reason: impl Into<anyhow::Error>) -> CommandError {
        CommandError {
            exit,
            reason: reason.into(),
            told: false,
        }
    }

    /// A wrong command line or configuration.
    pub fn usage(reason: impl fmt::Display) -> CommandError {
        CommandError::new(Exit::Usage, anyhow::anyhow!("{reason}"))
    }

    /// A condition that does not hold and that the output has already explained.
    pub fn condition_told(reason: &'static str) -> CommandError {
        CommandError {
            exit: Exit::Condition,
            reason: anyhow::Error::msg(reason),
            told: true,
        }
    }

    /// Puts what was being done in front of the reason.
    #[must_use]
    pub fn context(self, what: impl fmt::Display + Send + Sync + 'static) -> CommandError {
        CommandError {
            reason: self.reason.context(what),
            ..self
        }
    }

    /// Whether the reader of standard output went away, which is no failure.
    pub fn is_stdout_closed(&self) -> bool {
        self.reason.chain().any(|cause| cause.is::<StdoutClosed>())
    }
}

impl fmt::Display for CommandError {
    /// The reason and its causes on one line; a cause that its parent already quotes is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = String::new();
        for cause in self.reason.chain() {
            let text = cause.to_string().replace('\n', " ");
            if said.contains(&text) {
                continue;
            }
            if !said.is_empty() {
                said.push_str(": ");
            }
            said.push_str(&text);
        }
        f.write_str(&said)
    }
}

impl<E: Into<anyhow::Error>> From<E> for CommandError {
    fn from(error: E) -> CommandError {
        let reason = error.into();
        CommandError {
            exit: exit_for(&reason),
            reason,
            told: false,
        }
    }
}

/// The exit code that an error's chain asks for.
fn exit_for(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(code) = error_code(cause) {
            return exit_for_code(code);
        }
        match cause.downcast_ref::<ClientError>() {
            Some(ClientError::Config(_)) => return Exit::Usage,
            Some(ClientError::Unavailable { .. } | ClientError::TimedOut { .. }) => {
                return Exit::TimedOut;
            }
            _ => {}
        }
        if let Some(status) = cause.downcast_ref::<tonic::Status>() {
            return match status.code() {
                tonic::Code::DeadlineExceeded => Exit::TimedOut,
                tonic::Code::NotFound => Exit::NotFound,
                _ => Exit::Failure,
            };
        }
    }
    Exit::Failure
}

/// Ottla's error code, if this error carries one.
fn error_code(cause: &(dyn std::error::Error + 'static)) -> Option<ErrorCode> {
    if let Some(error) = cause.downcast_ref::<ApiError>() {
        return Some(error.code);
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return error.code();
    }
    if let Some(error) = cause.downcast_ref::<ConsumeError>() {
        return error.code();
    }
    if let Some(error) = cause.downcast_ref::<ProduceError>() {
        return Some(error.code);
    }
    let status = cause.downcast_ref::<tonic::Status>()?;
    ottla_proto::status::from_status(status).map(|error| error.code)
}

/// The exit code for an error of the cluster.
pub fn exit_for_code(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::UnknownTopicId
        | ErrorCode::BrokerIdNotRegistered => Exit::NotFound,
        ErrorCode::RequestTimedOut => Exit::TimedOut,
        _ => Exit::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_topic_exits_with_not_found_and_a_timeout_with_timed_out() {
        let of = |code| CommandError::from(ApiError::new(code, "no")).exit;
        assert_eq!(of(ErrorCode::UnknownTopicOrPartition), Exit::NotFound);
        assert_eq!(of(ErrorCode::RequestTimedOut), Exit::TimedOut);
        assert_eq!(of(ErrorCode::TopicAlreadyExists), Exit::Failure);
        let status = tonic::Status::deadline_exceeded("late");
        assert_eq!(CommandError::from(status).exit, Exit::TimedOut);
    }

    #[test]
    fn causes_are_joined_on_one_line_and_never_said_twice() {
        let inner = anyhow::anyhow!("connection refused");
        let error = inner
            .context("cannot reach b:1: connection refused")
            .context("no\ncluster");
        assert_eq!(
            CommandError::from(error).to_string(),
            "no cluster: cannot reach b:1: connection refused"
        );
    }
}
