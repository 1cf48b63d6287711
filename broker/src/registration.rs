//! This broker's standing with the active controller: its control stream, its broker epoch, its
//! wish to serve and to leave.

pub mod refusal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ottla_model::error::ApiError;
use ottla_model::{BrokerEpoch, DirectoryId, NodeId};
use ottla_proto::v1;
use ottla_proto::v1::control_request::Message as Say;
use ottla_proto::v1::control_response::Message as Hear;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::config::BrokerConfig;
use crate::controllers::Controllers;
use crate::image::ImageStore;
use refusal::Refused;

/// How long a controller gets for the first answer on a control stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// While something is awaited (being unfenced, being let go), beats come this often.
const EAGER_BEAT: Duration = Duration::from_millis(50);

/// How long a controller may seem to be behind this broker. One that is active no more notices so
/// itself much earlier.
const DIVERGED_AFTER: Duration = Duration::from_secs(10);

/// Where this broker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// `None` until the first registration of this run.
    pub epoch: Option<BrokerEpoch>,
    pub connected: bool,
    pub fenced: bool,
    pub may_shut_down: bool,
}

/// The registration of this run of the broker.
pub struct Registration {
    config: BrokerConfig,
    previous_epoch: Option<BrokerEpoch>,
    standing: watch::Sender<Standing>,
    ready: AtomicBool,
    wants_shutdown: watch::Sender<bool>,
}

enum Ended {
    /// The stream broke; the controller may be gone.
    Broken(Status),
    /// Another controller is active, if known which.
    NotActive(Option<NodeId>),
    /// The controller will not have this broker.
    Refused(ApiError),
    /// The controllers' log ends before what this broker has applied.
    Diverged,
}

impl Registration {
    /// `previous_epoch` is the epoch of the last run, if it ended cleanly.
    pub fn new(config: BrokerConfig, previous_epoch: Option<BrokerEpoch>) -> Registration {
        let fenced = Standing {
            fenced: true,
            ..Standing::default()
        };
        Registration {
            config,
            previous_epoch,
            standing: watch::channel(fenced).0,
            ready: AtomicBool::new(false),
            wants_shutdown: watch::channel(false).0,
        }
    }

    pub fn node_id(&self) -> NodeId {
        self.config.node_id
    }

    pub fn directory(&self) -> DirectoryId {
        self.config.identity.directory_id
    }

    /// The epoch of the current registration.
    pub fn epoch(&self) -> Option<BrokerEpoch> {
        self.standing.borrow().epoch
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// The broker has recovered and wants to serve.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Asks for a controlled shutdown and waits until it is granted, at most for `patience`.
    pub async fn leave(&self, patience: Duration) -> bool {
        self.wants_shutdown.send_replace(true);
        let mut standing = self.standing.subscribe();
        let granted = standing.wait_for(|standing| standing.may_shut_down);
        matches!(timeout(patience, granted).await, Ok(Ok(_)))
    }

    /// Keeps the control stream up, for the life of the broker. `refused` hears why the cluster
    /// will not have this broker, each time it says so.
    pub async fn run(
        self: Arc<Self>,
        controllers: Arc<Controllers>,
        image: Arc<ImageStore>,
        refused: Refused,
    ) {
        loop {
            for id in controllers.in_order() {
                let ended = self.serve(id, &controllers, &image).await;
                self.standing
                    .send_modify(|standing| standing.connected = false);
                image.set_active_controller(None);
                match ended {
                    Ended::NotActive(Some(active)) if active != id => {
                        image.set_likely_controller(Some(active));
                        break;
                    }
                    Ended::NotActive(_) => {}
                    Ended::Broken(status) => {
                        tracing::debug!(controller = %id, error = %status.message(), "the control stream ended");
                    }
                    Ended::Diverged => {
                        refused(&image.forget_history());
                        sleep(RETRY_PAUSE * 4).await;
                    }
                    Ended::Refused(error) => {
                        refused(&error);
                        sleep(RETRY_PAUSE * 4).await;
                    }
                }
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// One control stream with one controller, until it ends.
    async fn serve(&self, id: NodeId, controllers: &Controllers, image: &Arc<ImageStore>) -> Ended {
        let Some(mut client) = controllers.client(id) else {
            return Ended::NotActive(None);
        };
        let (sender, receiver) = mpsc::channel(16);
        let first = Say::Registration(self.message(image));
        // The channel is new and has room.
        let _ = sender.try_send(v1::ControlRequest {
            message: Some(first),
        });
        let open = async {
            let mut stream = client
                .control(ReceiverStream::new(receiver))
                .await?
                .into_inner();
            let answer = stream.message().await?;
            Ok::<_, Status>((stream, answer))
        };
        let (stream, answer) = match timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return Ended::Broken(status),
            Err(_) => return Ended::Broken(Status::deadline_exceeded("no answer")),
        };
        let registered = match answer.and_then(|answer| answer.message) {
            Some(Hear::Registered(registered)) => registered,
            Some(Hear::NotActive(other)) => return Ended::NotActive(other.active_id.map(NodeId)),
            Some(Hear::Refused(error)) => return Ended::Refused(ApiError::from(&error)),
            _ => return Ended::Broken(Status::internal("an answer out of turn")),
        };
        let epoch = BrokerEpoch(registered.broker_epoch);
        if let Err(reason) = note(image, epoch).await {
            tracing::error!(broker_epoch = %epoch, reason, "cannot note the broker epoch, and so not \
                serve under it; trying again");
            sleep(RETRY_PAUSE * 4).await;
            return Ended::Broken(Status::internal("the broker epoch could not be noted"));
        }
        tracing::info!(controller = %id, broker_epoch = %epoch, "registered");
        image.set_likely_controller(Some(id));
        image.set_active_controller(Some(id));
        self.standing.send_modify(|standing| {
            standing.epoch = Some(epoch);
            standing.connected = true;
        });
        let interval = Duration::from_millis(u64::from(registered.beat_interval_ms.max(10)));
        let silence = Duration::from_millis(u64::from(registered.session_timeout_ms.max(100)));
        self.beat(stream, sender, image, interval, silence).await
    }

    fn message(&self, image: &ImageStore) -> v1::BrokerRegistration {
        let config = &self.config;
        let endpoint = |endpoint: &ottla_metadata::Endpoint| v1::Endpoint {
            host: endpoint.host.clone(),
            port: u32::from(endpoint.port),
        };
        v1::BrokerRegistration {
            cluster_id: image.cluster_text(),
            broker_id: config.node_id.0,
            incarnation_id: Bytes::copy_from_slice(config.incarnation.as_bytes()),
            directory_id: Bytes::copy_from_slice(config.identity.directory_id.as_bytes()),
            client_endpoint: Some(endpoint(&config.client_endpoint)),
            internal_endpoint: Some(endpoint(&config.internal_endpoint)),
            rack: config.rack.clone().unwrap_or_default(),
            version: config.version.clone(),
            previous_broker_epoch: self.previous_epoch.map(|epoch| epoch.0),
            last_broker_epoch: image.last_broker_epoch().map(|epoch| epoch.0),
        }
    }

    /// Beats on an open stream until it ends or the controller falls silent.
    async fn beat(
        &self,
        mut stream: Streaming<v1::ControlResponse>,
        sender: mpsc::Sender<v1::ControlRequest>,
        image: &ImageStore,
        interval: Duration,
        silence: Duration,
    ) -> Ended {
        let mut wants_shutdown = self.wants_shutdown.subscribe();
        let mut applied = image.applied();
        let mut heard = Instant::now();
        let mut ahead_since = None;
        let mut next = Instant::now();
        loop {
            let eager = {
                let standing = self.standing.borrow();
                standing.fenced || *wants_shutdown.borrow()
            };
            tokio::select! {
                answer = stream.message() => {
                    heard = Instant::now();
                    match answer {
                        Ok(Some(answer)) => {
                            if is_ahead(&answer) {
                                let since = *ahead_since.get_or_insert(heard);
                                if since.elapsed() > DIVERGED_AFTER {
                                    return Ended::Diverged;
                                }
                            } else if matches!(answer.message, Some(Hear::BeatReply(_))) {
                                ahead_since = None;
                            }
                            if let Some(ended) = self.hear(answer) {
                                return ended;
                            }
                        }
                        Ok(None) => return Ended::Broken(Status::unavailable("closed")),
                        Err(status) => return Ended::Broken(status),
                    }
                }
                () = tokio::time::sleep_until(next) => {
                    if heard.elapsed() > silence {
                        return Ended::Broken(Status::deadline_exceeded("the controller is silent"));
                    }
                    let beat = v1::Beat {
                        metadata_offset: applied.borrow().0,
                        ready: self.ready.load(Ordering::Acquire),
                        wants_shutdown: *wants_shutdown.borrow(),
                    };
                    // A full channel means the last beats are still on their way.
                    let _ = sender.try_send(v1::ControlRequest { message: Some(Say::Beat(beat)) });
                    next = Instant::now() + if eager { EAGER_BEAT } else { interval };
                }
                changed = wants_shutdown.changed() => {
                    if changed.is_ok() {
                        next = Instant::now();
                    }
                }
                changed = applied.changed(), if eager => {
                    if changed.is_ok() {
                        next = Instant::now();
                    }
                }
            }
        }
    }

    fn hear(&self, answer: v1::ControlResponse) -> Option<Ended> {
        match answer.message {
            Some(Hear::BeatReply(reply)) => {
                self.standing.send_if_modified(|standing| {
                    let before = *standing;
                    standing.fenced = reply.fenced;
                    standing.may_shut_down = reply.may_shut_down;
                    before != *standing
                });
                None
            }
            Some(Hear::NotActive(other)) => Some(Ended::NotActive(other.active_id.map(NodeId))),
            Some(Hear::Refused(error)) => Some(Ended::Refused(ApiError::from(&error))),
            Some(Hear::Registered(_)) | None => None,
        }
    }
}

/// Has the directory know an epoch before anything is done under it: nobody is unfenced who has not
/// beaten.
async fn note(image: &Arc<ImageStore>, epoch: BrokerEpoch) -> Result<(), String> {
    let image = Arc::clone(image);
    let noting = tokio::task::spawn_blocking(move || image.note_broker_epoch(epoch));
    match noting.await {
        Ok(noted) => noted.map_err(|error| error.to_string()),
        Err(_) => Err("noting it panicked".to_owned()),
    }
}

fn is_ahead(answer: &v1::ControlResponse) -> bool {
    matches!(&answer.message, Some(Hear::BeatReply(reply)) if reply.ahead)
}

#[cfg(test)]
mod tests;
