//! `ReplicaService`: followers' streams, and the probe that tells a dead process from a lost
//! packet.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use ottla_broker_core::partition::{FollowerAck, FollowerState, Input, Partition};
use ottla_model::error::ApiError;
use ottla_model::{
    BrokerEpoch, DirectoryId, ErrorCode, IncarnationId, LeaderEpoch, NodeId, Offset,
    TopicIdPartition,
};
use ottla_proto::convert::topic_id_partition;
use ottla_proto::status::to_status;
use ottla_proto::v1;
use ottla_proto::v1::replica_service_server::ReplicaService;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::held_body::Encoded;
use crate::broker::{Broker, BrokerCell};
use crate::replication::{FollowerLink, StreamNumber};

/// Messages made ahead of the connection.
const MESSAGES_AHEAD: usize = 4;

/// How long the first message may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// What a probe answers, known before the broker has recovered.
#[derive(Debug, Clone)]
pub struct ProbeIdentity {
    pub node_id: NodeId,
    /// `None` on a node that is no broker.
    pub incarnation: Option<IncarnationId>,
    pub directory: DirectoryId,
    pub roles: Vec<String>,
}

/// The service over one broker.
#[derive(Clone)]
pub struct ReplicaRpc {
    pub cell: BrokerCell,
    pub identity: ProbeIdentity,
}

#[tonic::async_trait]
impl ReplicaService for ReplicaRpc {
    type ReplicateStream = tokio_stream::Empty<Result<v1::ReplicateResponse, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<v1::ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let broker = self.cell.get()?.clone();
        let number = StreamNumber::next();
        let mut requests = request.into_inner();
        let first = timeout(HELLO_TIMEOUT, requests.message()).await;
        let first = first.map_err(|_| {
            Status::deadline_exceeded("the stream did not say in time who follows")
        })??;
        let mut first = first.unwrap_or_default();
        let greeted = greet(&broker, first.hello.take());
        let (follower, epoch) = greeted.map_err(|error| to_status(&error))?;
        let link = Arc::new(FollowerLink::new(follower, number));
        let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
        tokio::spawn(push(Arc::clone(&broker), Arc::clone(&link), sender.clone()));
        // What else the first message says counts like what comes after it.
        let said = futures::stream::iter([Ok(first)]).chain(requests);
        tokio::spawn(take_in(broker, link, epoch, said, sender));
        let mut response = Response::new(tokio_stream::empty());
        Encoded::instead_of(&mut response, in_pieces(receiver));
        Ok(response)
    }

    async fn probe(
        &self,
        _request: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeResponse>, Status> {
        let broker = self.cell.ready();
        let cluster_id = broker
            .and_then(|broker| broker.image.current().cluster_id)
            .map(|id| id.to_string())
            .unwrap_or_default();
        let incarnation = self.identity.incarnation;
        Ok(Response::new(v1::ProbeResponse {
            cluster_id,
            node_id: self.identity.node_id.0,
            incarnation_id: incarnation
                .map(|id| Bytes::copy_from_slice(id.as_bytes()))
                .unwrap_or_default(),
            roles: self.identity.roles.clone(),
            state: if broker.is_some() {
                "serving"
            } else {
                "starting"
            }
            .to_owned(),
        }))
    }
}

fn greet(
    broker: &Broker,
    hello: Option<v1::ReplicateHello>,
) -> Result<(NodeId, BrokerEpoch), ApiError> {
    let refuse = |code, message: String| Err(ApiError::new(code, message));
    let Some(hello) = hello else {
        return refuse(
            ErrorCode::InvalidRequest,
            "the first message of a replication stream must say who follows".to_owned(),
        );
    };
    let image = broker.image.current();
    let here = image
        .cluster_id
        .map(|id| id.to_string())
        .unwrap_or_default();
    if hello.cluster_id != here {
        return refuse(
            ErrorCode::InconsistentClusterId,
            format!(
                "this broker belongs to cluster {here}, not to {}",
                hello.cluster_id
            ),
        );
    }
    if hello.leader_id != broker.config.node_id.0 {
        return refuse(
            ErrorCode::InvalidRequest,
            format!(
                "this is broker {}, not {}",
                broker.config.node_id, hello.leader_id
            ),
        );
    }
    let follower = NodeId(hello.broker_id);
    if follower == broker.config.node_id || !image.brokers.contains_key(&follower) {
        return refuse(
            ErrorCode::BrokerIdNotRegistered,
            format!("broker {follower} is not registered as another broker of this cluster"),
        );
    }
    let known = image.brokers.get(&follower).map(|broker| broker.epoch);
    let epoch = BrokerEpoch(hello.broker_epoch);
    // A newer registration than this broker has heard of will be known in a moment; the follower
    // tries again. Taking its word would let anybody push the real follower aside.
    if known != Some(epoch) {
        return refuse(
            ErrorCode::StaleBrokerEpoch,
            format!("broker {follower} is not known here under broker epoch {epoch}"),
        );
    }
    Ok((follower, epoch))
}

/// A message to a follower, in pieces, or what ends its stream.
type Outgoing = Result<Vec<Bytes>, Status>;

fn in_pieces(messages: mpsc::Receiver<Outgoing>) -> impl Stream<Item = Result<Bytes, Status>> {
    let pieces = |message: Outgoing| match message {
        Ok(pieces) => pieces.into_iter().map(Ok).collect(),
        Err(status) => vec![Err(status)],
    };
    let messages = ReceiverStream::new(messages);
    messages.flat_map(move |message| futures::stream::iter(pieces(message)))
}

/// Sends what there is to send until the follower's stream ends.
async fn push(broker: Arc<Broker>, link: Arc<FollowerLink>, sender: mpsc::Sender<Outgoing>) {
    loop {
        // The place first, then the message: what is read must also be sent.
        let place = tokio::select! {
            place = sender.reserve() => place,
            () = sender.closed() => return,
        };
        let Ok(place) = place else { return };
        tokio::select! {
            message = link.next_message(&broker.manager) => place.send(Ok(message)),
            () = sender.closed() => return,
        }
    }
}

/// Takes in a follower's statements and acknowledgements until its stream ends.
async fn take_in(
    broker: Arc<Broker>,
    link: Arc<FollowerLink>,
    epoch: BrokerEpoch,
    mut requests: impl Stream<Item = Result<v1::ReplicateRequest, Status>> + Unpin,
    sender: mpsc::Sender<Outgoing>,
) {
    let mut stated = std::collections::BTreeSet::new();
    let ended = loop {
        let message = tokio::select! {
            message = requests.next() => message.transpose(),
            () = sender.closed() => break None,
        };
        match message {
            Ok(Some(message)) => {
                match check(&message).and_then(|()| stated_here(&broker, &message)) {
                    Ok(ids) => stated.extend(ids),
                    Err(error) => {
                        // The stream ends with the refusal; nothing was taken in.
                        let _ = sender.send(Err(to_status(&error))).await;
                        break None;
                    }
                }
                hand_over(&broker, &link, epoch, message);
            }
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
    };
    if let Some(status) = ended {
        tracing::debug!(follower = %link.follower(), error = %status.message(), "a follower's stream ended");
    }
    for id in stated {
        if let Some(replica) = broker.manager.get(id) {
            replica.follower_gone(&link);
        }
    }
}

/// Refuses a message that says anew who follows.
fn check(message: &v1::ReplicateRequest) -> Result<(), ApiError> {
    match message.hello {
        None => Ok(()),
        Some(_) => Err(ApiError::new(
            ErrorCode::InvalidRequest,
            "only the first message of a replication stream says who follows",
        )
        .in_field("hello")),
    }
}

/// The partitions that a message states and that have a replica here.
fn stated_here(
    broker: &Broker,
    message: &v1::ReplicateRequest,
) -> Result<Vec<TopicIdPartition>, ApiError> {
    let mut here = Vec::new();
    for state in &message.states {
        let id = topic_id_partition(&state.topic_id, state.partition, "states")?;
        if broker.manager.get(id).is_some() {
            here.push(id);
        }
    }
    Ok(here)
}

fn hand_over(
    broker: &Broker,
    link: &Arc<FollowerLink>,
    broker_epoch: BrokerEpoch,
    message: v1::ReplicateRequest,
) {
    let follower = link.follower();
    link.received(message.received_bytes);
    for stop in message.stops {
        if let Ok(id) = topic_id_partition(&stop.topic_id, stop.partition, "stops") {
            link.stop(id);
        }
    }
    for state in message.states {
        let Ok(id) = topic_id_partition(&state.topic_id, state.partition, "states") else {
            continue;
        };
        let leader_epoch = LeaderEpoch(state.leader_epoch);
        let Some(replica) = broker.manager.get(id) else {
            link.refused(id, leader_epoch, ErrorCode::UnknownTopicOrPartition);
            continue;
        };
        // A stream becomes its follower's only with the epoch that is led here. One that is behind,
        // ahead or false hears so itself, and the stream that the follower has goes on.
        if let Err(error) = replica.fetch_bounds(Some(leader_epoch)) {
            link.refused(id, replica.with_core(Partition::leader_epoch), error);
            continue;
        }
        replica.follower_state(
            link,
            FollowerState {
                follower,
                broker_epoch,
                leader_epoch,
                log_end: Offset(state.log_end),
                durable_end: Offset(state.durable_end),
                last_epoch: LeaderEpoch(state.last_epoch),
                log_start: Offset(state.log_start_offset),
            },
        );
    }
    for ack in message.acks {
        let Ok(id) = topic_id_partition(&ack.topic_id, ack.partition, "acks") else {
            continue;
        };
        if let Some(replica) = broker.manager.get(id) {
            replica.step(Input::FollowerAck(FollowerAck {
                follower,
                broker_epoch,
                leader_epoch: LeaderEpoch(ack.leader_epoch),
                durable_end: Offset(ack.durable_end),
                log_start: Offset(ack.log_start_offset),
            }));
        }
    }
}
