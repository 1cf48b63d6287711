//! Connections to the controllers, and finding the active one.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ottla_metadata::Endpoint;
use ottla_model::error::ApiError;
use ottla_model::limits::INTERNAL_MESSAGE_BYTES_MAX;
use ottla_model::{ErrorCode, NodeId};
use ottla_proto::status::from_status;
use ottla_proto::v1::controller_service_client::ControllerServiceClient;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::image::ImageStore;
use crate::net::internal_channel;

/// The pause between two rounds over all controllers.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// How long one controller gets to answer before another is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client of one controller.
pub type ControllerClient = ControllerServiceClient<Channel>;

/// The controllers that this broker knows.
#[derive(Debug)]
pub struct Controllers {
    endpoints: BTreeMap<NodeId, Endpoint>,
    channels: Mutex<BTreeMap<NodeId, Channel>>,
    image: Arc<ImageStore>,
}

impl Controllers {
    pub fn new(endpoints: Vec<(NodeId, Endpoint)>, image: Arc<ImageStore>) -> Controllers {
        let endpoints = endpoints.into_iter().collect();
        Controllers {
            endpoints,
            channels: Mutex::new(BTreeMap::new()),
            image,
        }
    }

    /// All controllers, the one thought active first.
    pub fn in_order(&self) -> Vec<NodeId> {
        let active = self.image.likely_controller();
        let mut ids: Vec<_> = self.endpoints.keys().copied().collect();
        ids.sort_by_key(|id| Some(*id) != active);
        ids
    }

    /// A client of this controller, connecting when first used. `None` for an unknown id.
    pub fn client(&self, id: NodeId) -> Option<ControllerClient> {
        let endpoint = self.endpoints.get(&id)?;
        let mut channels = self.channels.lock();
        let channel = channels
            .entry(id)
            .or_insert_with(|| internal_channel(endpoint))
            .clone();
        drop(channels);
        Some(
            ControllerServiceClient::new(channel)
                .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX),
        )
    }

    /// Calls the active controller, looking for it until `deadline`.
    ///
    /// A call that may have reached a controller and failed on the way back is not repeated for
    /// statuses that say so; the answer is then indefinite.
    pub async fn call<T, F, Fut>(&self, deadline: Instant, call: F) -> Result<T, ApiError>
    where
        F: Fn(ControllerClient) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let mut last = String::from("none was reachable");
        loop {
            for id in self.in_order() {
                let Some(client) = self.client(id) else {
                    continue;
                };
                let limit = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
                match timeout_at(limit, call(client)).await {
                    Ok(Ok(value)) => return Ok(value),
                    Ok(Err(status)) => match refusal(&status) {
                        Some(error) if error.code != ErrorCode::NotController => return Err(error),
                        Some(error) => last = format!("controller {id}: {}", error.message),
                        None if from_status(&status).is_none() => {
                            last = format!("controller {id} cannot be reached");
                        }
                        None => last = format!("controller {id}: {}", status.message()),
                    },
                    Err(_) => last = format!("controller {id} did not answer in time"),
                }
                if Instant::now() >= deadline {
                    return Err(no_quorum(&last));
                }
            }
            if Instant::now() + ROUND_PAUSE >= deadline {
                return Err(no_quorum(&last));
            }
            sleep(ROUND_PAUSE).await;
        }
    }
}

/// The answer of an active controller, or `None` if the status says only that this one was not to
/// be reached or is not active.
fn refusal(status: &Status) -> Option<ApiError> {
    match from_status(status) {
        Some(error) if error.code == ErrorCode::NoControllerQuorum => None,
        Some(error) => Some(error),
        None => match status.code() {
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => None,
            _ => Some(ApiError::new(
                ErrorCode::UnknownServerError,
                status.message(),
            )),
        },
    }
}

fn no_quorum(last: &str) -> ApiError {
    ApiError::new(
        ErrorCode::NoControllerQuorum,
        format!(
            "there is no controller quorum: no active controller answered in time ({last}); \
             check that a majority of the controllers is running"
        ),
    )
}
