//! The control stream of one broker: its registration, its beats, its wish to leave. That it
//! closes is the first sign that the broker is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ottla_controller_core::{BeatState, RegisterBroker, Reply, Request};
use ottla_metadata::Endpoint;
use ottla_model::error::ApiError;
use ottla_model::{
    BrokerEpoch, ClusterId, DirectoryId, ErrorCode, IncarnationId, MetadataOffset, NodeId,
};
use ottla_proto::v1;
use ottla_proto::v1::control_request::Message as Hear;
use ottla_proto::v1::control_response::Message as Say;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{ControllerRpc, Pace};
use crate::active::ActiveController;
use crate::probe::investigate;
use crate::quorum::QuorumStatus;
use crate::sessions::ControlStreams;

/// How long a new stream may take to say who it is.
const FIRST_TIMEOUT: Duration = Duration::from_secs(2);
const DECISION_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves one stream until it closes or this controller is no longer active.
pub fn serve(
    rpc: ControllerRpc,
    mut requests: Streaming<v1::ControlRequest>,
) -> impl Stream<Item = Result<v1::ControlResponse, Status>> + Send + 'static {
    async_stream::stream! {
        let first = match timeout(FIRST_TIMEOUT, requests.message()).await {
            Ok(Ok(Some(v1::ControlRequest { message: Some(Hear::Registration(first)) }))) => first,
            Ok(Err(status)) => {
                yield Err(status);
                return;
            }
            _ => {
                yield Err(Status::invalid_argument("the first message must be a registration"));
                return;
            }
        };
        let broker = NodeId(first.broker_id);
        let epoch = match register(&rpc.active, first).await {
            Ok(epoch) => epoch,
            Err(error) => {
                yield Ok(refusal(&rpc.active, &error));
                return;
            }
        };
        let session = Session::open(&rpc, broker, epoch);
        yield Ok(registered(epoch, rpc.pace));
        let mut status = rpc.active.status();
        loop {
            let message = tokio::select! {
                message = requests.message() => message,
                () = no_longer_active(&mut status) => {
                    yield Ok(not_active(&rpc.active));
                    return;
                }
            };
            match message {
                Ok(Some(v1::ControlRequest { message: Some(Hear::Beat(beat)) })) => {
                    match session.beat(beat) {
                        Some(reply) => yield Ok(say(Say::BeatReply(reply))),
                        // Registered anew elsewhere, or unregistered: the broker must say again
                        // who it is.
                        None => return,
                    }
                }
                Ok(Some(_)) => {
                    yield Err(Status::invalid_argument("expected a beat"));
                    return;
                }
                Ok(None) | Err(_) => return,
            }
        }
    }
}

async fn no_longer_active(status: &mut watch::Receiver<QuorumStatus>) {
    // An ended channel means that the node stops, which is as good a reason.
    let _ = status.wait_for(|status| status.active_term.is_none()).await;
}

/// One registered broker's open stream. Dropping it, for whatever reason, looks after the broker.
struct Session {
    active: Arc<ActiveController>,
    streams: Arc<ControlStreams>,
    broker: NodeId,
    epoch: BrokerEpoch,
    id: u64,
    deciding: Arc<AtomicBool>,
}

impl Session {
    fn open(rpc: &ControllerRpc, broker: NodeId, epoch: BrokerEpoch) -> Session {
        let id = rpc.streams.open(broker);
        rpc.active.connected(broker, epoch);
        Session {
            active: Arc::clone(&rpc.active),
            streams: Arc::clone(&rpc.streams),
            broker,
            epoch,
            id,
            deciding: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Takes a beat in; `None` if the registration is no longer the broker's current one.
    fn beat(&self, beat: v1::Beat) -> Option<v1::BeatReply> {
        let state = BeatState {
            applied: MetadataOffset(beat.metadata_offset),
            ready: beat.ready,
            wants_shutdown: beat.wants_shutdown,
        };
        let outcome = self.active.beat(self.broker, self.epoch, state);
        if !outcome.registered {
            return None;
        }
        if let Some(request) = outcome.needs_decision
            && !self.deciding.swap(true, Ordering::AcqRel)
        {
            // Decided beside the stream: beats go on meanwhile.
            let active = Arc::clone(&self.active);
            let deciding = Arc::clone(&self.deciding);
            tokio::spawn(async move {
                let deadline = Instant::now() + DECISION_TIMEOUT;
                if let Err(error) = active.ask(request, deadline).await {
                    tracing::debug!(%error, "a beat's decision was refused; the next beat asks again");
                }
                deciding.store(false, Ordering::Release);
            });
        }
        Some(v1::BeatReply {
            fenced: outcome.fenced,
            may_shut_down: outcome.may_shut_down,
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.streams.close(self.broker, self.id) {
            return;
        }
        self.active.disconnected(self.broker, self.epoch);
        let task = investigate(
            Arc::clone(&self.active),
            Arc::clone(&self.streams),
            self.broker,
            self.epoch,
        );
        // Without a runtime the node is going down, and there is nothing to look after.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(task);
        }
    }
}

async fn register(
    active: &ActiveController,
    registration: v1::BrokerRegistration,
) -> Result<BrokerEpoch, ApiError> {
    let own = active.quorum.image().cluster_id;
    let request = convert(registration, own)?;
    match active
        .ask(
            Request::RegisterBroker(request),
            Instant::now() + DECISION_TIMEOUT,
        )
        .await?
    {
        (Reply::BrokerRegistered { broker_epoch }, _) => Ok(broker_epoch),
        (other, _) => {
            let message = format!("a registration was answered with {other:?}");
            Err(ApiError::new(ErrorCode::UnknownServerError, message))
        }
    }
}

/// A registration in our own types. A broker with a new directory knows no cluster yet and joins
/// the one that its configuration led it to.
fn convert(
    registration: v1::BrokerRegistration,
    own: Option<ClusterId>,
) -> Result<RegisterBroker, ApiError> {
    let v1::BrokerRegistration {
        cluster_id,
        broker_id,
        incarnation_id,
        directory_id,
        client_endpoint,
        internal_endpoint,
        rack,
        version,
        previous_broker_epoch,
    } = registration;
    let malformed = |field: &str| {
        let message = format!("the registration's {field} is missing or malformed");
        ApiError::new(ErrorCode::InvalidRequest, message).in_field(field)
    };
    let cluster_id = match (cluster_id.is_empty(), own) {
        (true, Some(own)) => own,
        (true, None) => {
            let message = "the cluster is being founded; register again in a moment";
            return Err(ApiError::new(ErrorCode::NoControllerQuorum, message));
        }
        (false, _) => cluster_id.parse().map_err(|_| malformed("cluster_id"))?,
    };
    let endpoint = |endpoint: Option<v1::Endpoint>, field: &str| {
        let endpoint = endpoint
            .filter(|e| !e.host.is_empty())
            .ok_or_else(|| malformed(field))?;
        let port = u16::try_from(endpoint.port).map_err(|_| malformed(field))?;
        Ok::<_, ApiError>(Endpoint {
            host: endpoint.host,
            port,
        })
    };
    Ok(RegisterBroker {
        cluster_id,
        broker: NodeId(broker_id),
        incarnation: IncarnationId::from_slice(&incarnation_id)
            .ok_or_else(|| malformed("incarnation_id"))?,
        directory: DirectoryId::from_slice(&directory_id)
            .ok_or_else(|| malformed("directory_id"))?,
        client_endpoint: endpoint(client_endpoint, "client_endpoint")?,
        internal_endpoint: endpoint(internal_endpoint, "internal_endpoint")?,
        rack: Some(rack).filter(|rack| !rack.is_empty()),
        version,
        previous_broker_epoch: previous_broker_epoch.map(BrokerEpoch),
    })
}

fn say(message: Say) -> v1::ControlResponse {
    v1::ControlResponse {
        message: Some(message),
    }
}

fn registered(epoch: BrokerEpoch, pace: Pace) -> v1::ControlResponse {
    let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    say(Say::Registered(v1::Registered {
        broker_epoch: epoch.0,
        beat_interval_ms: millis(pace.beat_interval),
        session_timeout_ms: millis(pace.session_timeout),
    }))
}

fn not_active(active: &ActiveController) -> v1::ControlResponse {
    let leader = active.status().borrow().leader;
    let endpoint = leader.and_then(|leader| {
        let image = active.quorum.image();
        let controller = image.controllers.get(&leader)?;
        Some(v1::Endpoint {
            host: controller.internal_endpoint.host.clone(),
            port: u32::from(controller.internal_endpoint.port),
        })
    });
    say(Say::NotActive(v1::NotActive {
        active_id: leader.map(|id| id.0),
        endpoint,
    }))
}

fn refusal(active: &ActiveController, error: &ApiError) -> v1::ControlResponse {
    match error.code {
        ErrorCode::NotController | ErrorCode::NoControllerQuorum => not_active(active),
        _ => say(Say::Refused(v1::Error::from(error))),
    }
}
