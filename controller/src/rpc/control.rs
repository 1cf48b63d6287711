//! `Control`: the stream of one broker to the active controller. It registers, beats, and asks to
//! shut down; when it closes, the broker's port is looked at.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use ottla_controller_core::{BeatState, Reply, Request};
use ottla_metadata::Endpoint;
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, ErrorCode, IncarnationId, MetadataOffset, NodeId};
use ottla_proto::v1;
use ottla_proto::v1::control_request::Message as FromBroker;
use ottla_proto::v1::control_response::Message as ToBroker;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::convert::{endpoint_to_wire, registration};
use super::{ControllerHandler, DECISION_TIMEOUT};
use crate::liveness::{self, Suspect};

/// Answers that wait for one broker.
const BUFFERED_MAX: usize = 16;
/// How long the first message may take.
const HELLO_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

type Responses = mpsc::Sender<Result<v1::ControlResponse, Status>>;

/// Serves a stream until it ends.
pub fn serve(
    handler: ControllerHandler,
    messages: Streaming<v1::ControlRequest>,
) -> BoxStream<'static, Result<v1::ControlResponse, Status>> {
    let (sender, receiver) = mpsc::channel(BUFFERED_MAX);
    tokio::spawn(async move {
        if let Err(last) = follow(&handler, messages, &sender).await {
            // Whoever went away does not want the last word.
            drop(sender.send(last).await);
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// A registered broker.
struct Registered {
    broker: NodeId,
    epoch: BrokerEpoch,
    incarnation: IncarnationId,
    internal_endpoint: Endpoint,
}

/// The last message of a stream.
type Last = Result<v1::ControlResponse, Status>;

async fn follow(
    handler: &ControllerHandler,
    mut messages: Streaming<v1::ControlRequest>,
    responses: &Responses,
) -> Result<(), Last> {
    let hello = tokio::time::timeout(HELLO_TIMEOUT, messages.message()).await;
    let hello = match hello {
        Ok(Ok(Some(message))) => message.message,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(status)) => return Err(Err(status)),
        Err(_) => {
            let late = "the stream did not begin with a registration in time";
            return Err(Err(Status::deadline_exceeded(late)));
        }
    };
    let Some(FromBroker::Registration(wire)) = hello else {
        let text = "the first message of a control stream is a registration";
        return Err(Err(Status::invalid_argument(text)));
    };
    let broker = register(handler, wire).await.map_err(Ok)?;
    tracing::info!(broker = %broker.broker, epoch = %broker.epoch, "a broker registered");
    handler.decisions.on_connected(broker.broker, broker.epoch);
    let ended = converse(handler, &mut messages, responses, &broker).await;
    handler
        .decisions
        .on_disconnected(broker.broker, broker.epoch);
    let suspect = Suspect {
        broker: broker.broker,
        epoch: broker.epoch,
        incarnation: broker.incarnation,
        internal_endpoint: broker.internal_endpoint,
    };
    if handler.decisions.status().borrow().is_leader {
        tokio::spawn(liveness::look_after(
            handler.decisions.clone(),
            suspect,
            handler.timings.probe_timeout,
        ));
    }
    ended
}

async fn register(
    handler: &ControllerHandler,
    wire: v1::BrokerRegistration,
) -> Result<Registered, v1::ControlResponse> {
    if !handler.decisions.status().borrow().is_leader {
        return Err(not_active(handler));
    }
    let ours = handler.feed.current().image.cluster_id;
    let request = registration(wire, ours).map_err(refused)?;
    let (broker, incarnation) = (request.broker, request.incarnation);
    let internal_endpoint = request.internal_endpoint.clone();
    let last_known = request.last_broker_epoch;
    let request = Request::RegisterBroker(request);
    let decided = handler.decide_by(request, DECISION_TIMEOUT).await;
    match decided {
        Ok(decided) => match decided.reply {
            Reply::BrokerRegistered {
                broker_epoch,
                outdated,
            } => {
                if let Some(served) = outdated {
                    tracing::warn!(broker = %broker, served_epoch = %served,
                        last_known_epoch = ?last_known, "the broker's data directory is an older \
                        copy, from before it served last; nothing in it counts as in sync, and \
                        it is refilled from the other replicas");
                }
                Ok(Registered {
                    broker,
                    epoch: broker_epoch,
                    incarnation,
                    internal_endpoint,
                })
            }
            other => Err(refused(ApiError::new(
                ErrorCode::UnknownServerError,
                format!("a registration was answered by {other:?}"),
            ))),
        },
        Err(error)
            if matches!(
                error.code,
                ErrorCode::NotController | ErrorCode::NoControllerQuorum
            ) =>
        {
            Err(not_active(handler))
        }
        Err(error) => Err(refused(error)),
    }
}

/// Tells the broker its epoch, then answers its beats until the stream or the leadership ends.
async fn converse(
    handler: &ControllerHandler,
    messages: &mut Streaming<v1::ControlRequest>,
    responses: &Responses,
    broker: &Registered,
) -> Result<(), Last> {
    let millis =
        |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    let registered = v1::Registered {
        broker_epoch: broker.epoch.0,
        beat_interval_ms: millis(handler.timings.beat_interval),
        session_timeout_ms: millis(handler.timings.session_timeout),
    };
    let registered = response(ToBroker::Registered(registered));
    if responses.send(Ok(registered)).await.is_err() {
        return Ok(());
    }
    let mut status = handler.decisions.status();
    let mut deciding = tokio::task::JoinSet::new();
    loop {
        let message = tokio::select! {
            _ = status.wait_for(|now| !now.is_leader) => return Err(Ok(not_active(handler))),
            message = messages.message() => message,
        };
        let beat = match message {
            Ok(Some(message)) => message.message,
            // The connection's end is all that matters, not its manner.
            Ok(None) | Err(_) => return Ok(()),
        };
        let Some(FromBroker::Beat(beat)) = beat else {
            let text = "a broker registers once per control stream";
            return Err(Err(Status::invalid_argument(text)));
        };
        let state = BeatState {
            applied: MetadataOffset(beat.metadata_offset),
            ready: beat.ready,
            wants_shutdown: beat.wants_shutdown,
        };
        let outcome = handler
            .decisions
            .on_beat(broker.broker, broker.epoch, state);
        if !outcome.registered && status.borrow().is_leader {
            let id = broker.broker;
            let message = format!("another process registered as broker {id}");
            let error = ApiError::new(ErrorCode::StaleBrokerEpoch, message);
            return Err(Ok(refused(error)));
        }
        while deciding.try_join_next().is_some() {}
        if let Some(request) = outcome.needs_decision.filter(|_| deciding.is_empty()) {
            let decisions = handler.decisions.clone();
            deciding.spawn(async move {
                if let Err(error) = decisions.ask(request, DECISION_TIMEOUT).await {
                    tracing::debug!(%error, "what a beat asked for was refused");
                }
            });
        }
        let reply = v1::BeatReply {
            fenced: outcome.fenced,
            may_shut_down: outcome.may_shut_down,
            ahead: outcome.ahead,
        };
        let reply = response(ToBroker::BeatReply(reply));
        if responses.send(Ok(reply)).await.is_err() {
            return Ok(());
        }
    }
}

fn response(message: ToBroker) -> v1::ControlResponse {
    v1::ControlResponse {
        message: Some(message),
    }
}

fn refused(error: ApiError) -> v1::ControlResponse {
    response(ToBroker::Refused((&error).into()))
}

/// Says who is active, where that is known.
fn not_active(handler: &ControllerHandler) -> v1::ControlResponse {
    let status = *handler.decisions.status().borrow();
    let leader = status.leader.filter(|_| !status.is_leader);
    let endpoint = leader.and_then(|leader| handler.quorum.endpoint(leader));
    response(ToBroker::NotActive(v1::NotActive {
        active_id: leader.map(|leader| leader.0),
        endpoint: endpoint.as_ref().map(endpoint_to_wire),
    }))
}
