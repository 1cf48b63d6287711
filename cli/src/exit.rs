//! How a command ends: its exit code, and the one line that says why.

use std::borrow::Cow;
use std::fmt;

use ottla_client::{ClientError, ConsumeError, ProduceError};
use ottla_model::ErrorCode;
use ottla_model::error::ApiError;

use crate::output::{self, StdoutClosed};

/// The exit codes of every command. 0 is success alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for was not done.
    Failure = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The command did its work, and the condition it checks does not hold: an unhealthy cluster,
    /// a quorum without a leader, damaged files, a drill that lost records, a bench of
    /// which records failed.
    Condition = 3,
    /// What was named does not exist.
    NotFound = 4,
    /// The time given was not enough.
    TimedOut = 6,
    /// Of several things that were asked for, some were done and some were not.
    Partly = 7,
}

/// A failed command: the code to exit with and the reason for people.
#[derive(Debug)]
pub struct CommandError {
    pub exit: Exit,
    pub reason: anyhow::Error,
    /// What to do about it.
    pub advice: Option<Cow<'static, str>>,
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
            advice: None,
            told: false,
        }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn advised(self, advice: impl Into<Cow<'static, str>>) -> CommandError {
        CommandError {
            advice: Some(advice.into()),
            ..self
        }
    }

    /// A wrong command line or configuration.
    pub fn usage(reason: impl fmt::Display) -> CommandError {
        CommandError::new(Exit::Usage, anyhow::anyhow!("{reason}"))
    }

    /// A condition that does not hold and that the output has already explained.
    pub fn condition_told(reason: &'static str) -> CommandError {
        CommandError {
            told: true,
            ..CommandError::new(Exit::Condition, anyhow::Error::msg(reason))
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
        f.write_str(&said)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for CommandError {
    fn from(error: E) -> CommandError {
        let reason = error.into();
        CommandError::new(exit_for(&reason), reason)
    }
}

/// What a command that does the same to several things came to: a failure of one is told and does
/// not keep it from the others.
#[derive(Debug, Default)]
pub struct Several {
    done: usize,
    failed: Vec<Exit>,
}

impl Several {
    /// Takes the outcome for one thing: its value, or nothing after its failure was told.
    pub fn take<T, E: Into<CommandError>>(&mut self, outcome: Result<T, E>) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.done += 1;
                Some(value)
            }
            Err(error) => {
                let error = error.into();
                output::note(format_args!("error: {error}"));
                self.failed.push(error.exit);
                None
            }
        }
    }

    /// Success if nothing failed. If all failed in the same way, that way's exit code.
    pub fn outcome(self) -> CommandResult {
        let Some(first) = self.failed.first().copied() else {
            return Ok(());
        };
        let exit = if self.done > 0 {
            Exit::Partly
        } else if self.failed.iter().all(|exit| *exit == first) {
            first
        } else {
            Exit::Failure
        };
        let reason = anyhow::anyhow!(
            "{} of {} failed",
            self.failed.len(),
            self.failed.len() + self.done
        );
        Err(CommandError {
            told: true,
            ..CommandError::new(exit, reason)
        })
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
        // A broker without controllers answers so once the time that it was given is over.
        ErrorCode::RequestTimedOut | ErrorCode::NoControllerQuorum => Exit::TimedOut,
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
        assert_eq!(of(ErrorCode::NoControllerQuorum), Exit::TimedOut);
        assert_eq!(of(ErrorCode::TopicAlreadyExists), Exit::Failure);
        let status = tonic::Status::deadline_exceeded("late");
        assert_eq!(CommandError::from(status).exit, Exit::TimedOut);
    }

    #[test]
    fn of_several_things_the_good_ones_count_and_the_bad_ones_show_in_the_exit_code() {
        let missing = || Err(ApiError::new(ErrorCode::UnknownTopicOrPartition, "no"));
        let late = || Err(ApiError::new(ErrorCode::RequestTimedOut, "late"));
        let exit = |outcomes: Vec<Result<(), ApiError>>| {
            let mut several = Several::default();
            for outcome in outcomes {
                several.take(outcome);
            }
            several.outcome().map_err(|error| error.exit)
        };
        assert_eq!(exit(vec![Ok(()), Ok(())]), Ok(()));
        assert_eq!(exit(vec![Ok(()), missing(), Ok(())]), Err(Exit::Partly));
        assert_eq!(exit(vec![missing(), missing()]), Err(Exit::NotFound));
        assert_eq!(exit(vec![missing(), late()]), Err(Exit::Failure));
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
