//! Finding out whether a broker whose connection closed is gone, or only out of reach.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use ottla_controller_core::Request;
use ottla_metadata::{Cause, Endpoint};
use ottla_model::{BrokerEpoch, IncarnationId, NodeId};
use ottla_proto::v1;
use ottla_proto::v1::replica_service_client::ReplicaServiceClient;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

use crate::active::ActiveController;
use crate::sessions::ControlStreams;

/// How long a broker gets to answer a probe.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);
const PROBE_PAUSE: Duration = Duration::from_millis(100);
/// How long a fencing may wait for its decision.
const FENCE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long after becoming active the brokers may take to connect before they are probed.
const CONNECT_GRACE: Duration = Duration::from_millis(250);

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nobody listens, or another process does.
    Gone,
    /// The same process answers.
    Alive,
    /// No answer: the network or the host may be at fault. Only time can tell.
    Unknown,
}

/// Asks who is at a broker's internal port.
pub async fn probe(endpoint: &Endpoint, incarnation: IncarnationId) -> Found {
    let address = (endpoint.host.as_str(), endpoint.port);
    match timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => return Found::Gone,
        Ok(Err(_)) | Err(_) => return Found::Unknown,
    }
    let Ok(channel) = Channel::from_shared(format!("http://{endpoint}")) else {
        return Found::Unknown;
    };
    let asked = async {
        let channel = channel.connect().await.ok()?;
        let answer = ReplicaServiceClient::new(channel)
            .probe(v1::ProbeRequest {})
            .await
            .ok()?;
        Some(answer.into_inner())
    };
    match timeout(PROBE_TIMEOUT, asked).await {
        Ok(Some(answer)) if answer.incarnation_id == incarnation.as_bytes()[..] => Found::Alive,
        Ok(Some(_)) => Found::Gone,
        Ok(None) | Err(_) => Found::Unknown,
    }
}

/// Follows up on a broker whose control stream closed, or that never opened one: fences it once it
/// is known to be gone. Ends when it is connected again, fenced, or this controller is no longer
/// active; a broker that cannot be reached is left to its session timeout.
pub async fn investigate(
    active: Arc<ActiveController>,
    streams: Arc<ControlStreams>,
    broker: NodeId,
    epoch: BrokerEpoch,
) {
    while active.is_active() && !streams.is_connected(broker) {
        let image = active.quorum.image();
        let Some(registration) = image.brokers.get(&broker) else {
            return;
        };
        if registration.epoch != epoch || registration.fenced {
            return;
        }
        match probe(&registration.internal_endpoint, registration.incarnation).await {
            Found::Gone if !streams.is_connected(broker) => {
                tracing::info!(%broker, "the broker's process is gone");
                let request = Request::Fence {
                    broker,
                    broker_epoch: epoch,
                    cause: Cause::ConnectionClosed,
                };
                match active.ask(request, Instant::now() + FENCE_TIMEOUT).await {
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%broker, %error, "the broker was not fenced"),
                }
            }
            Found::Gone | Found::Alive | Found::Unknown => {}
        }
        sleep(PROBE_PAUSE).await;
    }
}

/// Whenever this controller becomes active: looks after the brokers that do not connect to it.
/// They may have died while nobody was active.
pub async fn look_after_activation(active: Arc<ActiveController>, streams: Arc<ControlStreams>) {
    let mut status = active.status();
    loop {
        let term = status.borrow_and_update().active_term;
        if term.is_some() {
            sleep(CONNECT_GRACE).await;
            for registration in active.quorum.image().brokers.values() {
                if !registration.fenced && !streams.is_connected(registration.broker) {
                    let (broker, epoch) = (registration.broker, registration.epoch);
                    tokio::spawn(investigate(
                        Arc::clone(&active),
                        Arc::clone(&streams),
                        broker,
                        epoch,
                    ));
                }
            }
        }
        let moved_on = status.wait_for(|status| status.active_term != term).await;
        if moved_on.is_err() {
            return;
        }
    }
}
