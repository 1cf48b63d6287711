//! Calls that any broker may answer: tried at one after the other until one answers, refuses for
//! good, or the deadline passes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ottla_model::ErrorCode;
use ottla_model::error::ApiError;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::cluster::endpoints;
use crate::connection::Connections;
use crate::error::{ClientError, FailedAttempt};
use crate::failure::Failure;

/// A broker may learn of a new topic a moment after the controller; longer than this, an unknown
/// topic is taken for what it is.
const UNKNOWN_TOPIC_PATIENCE: Duration = Duration::from_millis(300);

pub(crate) struct Call<'a> {
    client: &'a Client,
    what: &'static str,
    /// The only endpoint to ask, if not any broker will do.
    endpoint: Option<String>,
    /// Whether what failed is tried again until the deadline.
    retries: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(client: &'a Client, what: &'static str) -> Call<'a> {
        Call {
            client,
            what,
            endpoint: None,
            retries: true,
        }
    }

    /// Asks this endpoint and no other, once: what it is about is whether this one answers.
    pub(crate) fn once_at(mut self, endpoint: String) -> Call<'a> {
        self.endpoint = Some(endpoint);
        self.retries = false;
        self
    }

    /// Runs the call. Each attempt is told how long it has: it says so to the broker, which can
    /// then answer in time why it could not.
    pub(crate) async fn run<T, F, Fut>(self, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(Arc<Connections>, String, Duration) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        let config = self.client.config();
        let limit = config.request_timeout;
        let started = Instant::now();
        let deadline = started + limit;
        // A broker that hangs must leave time for the next one.
        let per_attempt = (limit / 3).max(config.connect_timeout).min(limit);
        let mut backoff = Backoff::new(config.reconnect_backoff_min, config.reconnect_backoff_max);
        let mut progress = Progress::default();
        loop {
            for endpoint in self.candidates() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(progress.into_error(self.what, limit));
                }
                let connections = Arc::clone(self.client.connections());
                let limit = left.min(per_attempt);
                let answer = timeout(limit, attempt(connections, endpoint.clone(), limit));
                let failure = match answer.await {
                    Ok(Ok(value)) => return Ok(value),
                    Ok(Err(failure)) => failure,
                    Err(_) => Failure::Broken("no answer in time".to_owned()),
                };
                if let Some(error) = progress.note(endpoint, failure, started.elapsed()) {
                    return Err(error);
                }
            }
            if !self.retries {
                return Err(progress.into_error(self.what, started.elapsed()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = match progress.refusal.as_ref().map(|error| error.code) {
                Some(code) if is_unknown_topic(code) => {
                    left.min(UNKNOWN_TOPIC_PATIENCE.saturating_sub(started.elapsed()))
                }
                _ => left,
            };
            sleep(backoff.on_failure().min(left)).await;
        }
    }

    fn candidates(&self) -> Vec<String> {
        match &self.endpoint {
            Some(endpoint) => vec![endpoint.clone()],
            None => endpoints(&self.client.cluster(), &self.client.config().bootstrap),
        }
    }
}

/// What the attempts so far came to.
#[derive(Default)]
struct Progress {
    failed: BTreeMap<String, String>,
    refusal: Option<ApiError>,
    /// Whether the answer to an earlier attempt may have been lost.
    answer_lost: bool,
}

impl Progress {
    /// Takes note of a failure; returns the error that ends the call, if it does.
    fn note(
        &mut self,
        endpoint: String,
        failure: Failure,
        elapsed: Duration,
    ) -> Option<ClientError> {
        self.failed.insert(endpoint, failure.reason());
        match failure {
            Failure::NotConnected(_) => None,
            Failure::Broken(_) => {
                self.answer_lost = true;
                None
            }
            Failure::Refused(error) if is_worth_retrying(error.code, elapsed) => {
                self.refusal = Some(error);
                None
            }
            Failure::Refused(mut error) => {
                if self.answer_lost {
                    error.message.push_str(
                        " (the answer to an earlier attempt of this call was lost; it may have been carried out)",
                    );
                }
                Some(ClientError::Api(error))
            }
        }
    }

    fn into_error(self, what: &'static str, after: Duration) -> ClientError {
        if let Some(error) = self.refusal {
            return ClientError::Api(error);
        }
        let tried = self.failed.into_iter();
        ClientError::Unavailable {
            what,
            after,
            tried: tried
                .map(|(endpoint, reason)| FailedAttempt { endpoint, reason })
                .collect(),
        }
    }
}

fn is_worth_retrying(code: ErrorCode, elapsed: Duration) -> bool {
    match is_unknown_topic(code) {
        true => elapsed < UNKNOWN_TOPIC_PATIENCE,
        false => code.is_retriable(),
    }
}

/// Whether the cluster, or this broker, knows no such topic.
pub(crate) fn is_unknown_topic(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_a_lost_answer_says_that_the_call_may_have_been_carried_out() {
        let mut progress = Progress::default();
        let lost = Failure::Broken("reset".to_owned());
        assert_eq!(progress.note("a:1".to_owned(), lost, Duration::ZERO), None);
        let exists = ApiError::new(ErrorCode::TopicAlreadyExists, "the topic t exists");
        let error = progress
            .note("b:1".to_owned(), Failure::Refused(exists), Duration::ZERO)
            .unwrap();
        assert_eq!(error.code(), Some(ErrorCode::TopicAlreadyExists));
        assert!(
            error.to_string().contains("may have been carried out"),
            "{error}"
        );
    }

    #[test]
    fn without_any_refusal_the_error_names_all_that_were_tried() {
        let mut progress = Progress::default();
        for endpoint in ["a:1", "b:1"] {
            let failure = Failure::NotConnected("refused".to_owned());
            assert_eq!(
                progress.note(endpoint.to_owned(), failure, Duration::ZERO),
                None
            );
        }
        let text = progress
            .into_error("listing topics", Duration::from_secs(1))
            .to_string();
        assert!(text.contains("a:1: refused; b:1: refused"), "{text}");
    }

    #[test]
    fn an_unknown_topic_is_believed_after_a_moment() {
        let code = ErrorCode::UnknownTopicOrPartition;
        assert!(is_worth_retrying(code, Duration::ZERO));
        assert!(!is_worth_retrying(code, Duration::from_secs(1)));
    }
}
