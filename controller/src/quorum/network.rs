//! The consensus' calls to its peers: appends over a pipelined stream, votes, snapshots in parts.
//! Every call carries who sends and who shall receive, and ends within its deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse,
};
use openraft::{OptionalSend, alias::VoteOf};
use ottla_metadata::Endpoint;
use ottla_model::NodeId;
use ottla_model::checksum::crc32c;
use ottla_model::limits::INTERNAL_MESSAGE_BYTES_MAX;
use ottla_proto::v1;
use ottla_proto::v1::raft_service_client::RaftServiceClient;
use tokio::sync::Notify;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::guard::Guard;
use super::types::{
    AppendRequest, Snapshot, TypeConfig, VoteRequest, VoteResponse, VoterNode, node_id, raft_id,
};
use super::wire::{PreVoteBody, SnapshotHead, decode, encode};
use crate::connection::channel;

/// The size of one part of a snapshot, in bytes.
const SNAPSHOT_PART_BYTES: usize = 1024 * 1024;
/// How long one part of a snapshot may take.
const SNAPSHOT_PART_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the receiver may take to install a whole snapshot.
const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_secs(60);

type Failure = RPCError<TypeConfig>;

/// The ways to the peers: one connection for what must not wait (heartbeats, votes), one for
/// entries and snapshots.
#[derive(Clone)]
pub struct Peers {
    guard: Arc<Guard>,
    configured: Arc<BTreeMap<NodeId, Endpoint>>,
    urgent: Arc<BTreeMap<NodeId, Channel>>,
    bulk: Arc<BTreeMap<NodeId, Channel>>,
}

impl Peers {
    pub fn new(guard: Arc<Guard>, configured: BTreeMap<NodeId, Endpoint>) -> Peers {
        let channels = || {
            let made = configured
                .iter()
                .map(|(id, endpoint)| (*id, channel(endpoint, Arc::new(Notify::new()))));
            Arc::new(made.collect())
        };
        Peers {
            guard,
            urgent: channels(),
            bulk: channels(),
            configured: Arc::new(configured),
        }
    }

    /// Where a controller's internal port is reached.
    pub fn endpoint(&self, id: NodeId) -> Option<&Endpoint> {
        self.configured.get(&id)
    }

    /// Every configured controller but this one.
    pub fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        let me = self.guard.identity().node_id;
        let ids = self.configured.keys().copied();
        ids.filter(move |id| *id != me)
    }

    /// Asks a controller who it is.
    pub async fn greet(&self, to: NodeId, ttl: Duration) -> Result<v1::GreetResponse, Status> {
        self.greet_with(self.guard.envelope(to), to, ttl).await
    }

    /// Asks a controller who it is, whichever its directory.
    pub async fn greet_any(&self, to: NodeId, ttl: Duration) -> Result<v1::GreetResponse, Status> {
        self.greet_with(self.guard.envelope_to_any(to), to, ttl)
            .await
    }

    async fn greet_with(
        &self,
        envelope: v1::RaftEnvelope,
        to: NodeId,
        ttl: Duration,
    ) -> Result<v1::GreetResponse, Status> {
        let Some(channel) = self.urgent.get(&to) else {
            return Err(Status::not_found(format!(
                "controller {to} is not configured"
            )));
        };
        let message = v1::GreetRequest {
            envelope: Some(envelope),
        };
        let mut client = RaftServiceClient::new(channel.clone());
        let answer = within(ttl, client.greet(with_ttl(message, ttl))).await;
        let answer = answer.inspect_err(|status| self.guard.on_refusal(status))?;
        if answer.node_id != to.0 {
            return Err(Status::failed_precondition(format!(
                "where controller {to} should be, controller {} answers",
                answer.node_id
            )));
        }
        Ok(answer)
    }

    /// Asks a controller whether it, too, finds the active controller's process gone, and would
    /// vote for this node.
    pub async fn ask_leader_gone(&self, to: NodeId, ask: &PreVoteBody, ttl: Duration) -> bool {
        let Ok(peer) = self.peer(raft_id(to), &self.urgent) else {
            return false;
        };
        let Ok(body) = encode(ask) else {
            return false;
        };
        let answer = peer.pre_vote_body(body, ttl).await;
        answer.is_ok_and(|answer| decode::<bool>(&answer).unwrap_or(false))
    }

    fn peer(&self, target: u64, from: &BTreeMap<NodeId, Channel>) -> Result<Peer, Status> {
        let id = node_id(target);
        let channel = from
            .get(&id)
            .ok_or_else(|| Status::not_found(format!("controller {id} is not configured")))?;
        let client = RaftServiceClient::new(channel.clone())
            .max_decoding_message_size(INTERNAL_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(INTERNAL_MESSAGE_BYTES_MAX);
        Ok(Peer {
            guard: Arc::clone(&self.guard),
            target: id,
            client,
        })
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, _node: &VoterNode) -> PeerNetwork {
        PeerNetwork(self.peer(target, &self.bulk).map_err(unreachable))
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &VoterNode) -> PeerNetwork {
        PeerNetwork(self.peer(target, &self.urgent).map_err(unreachable))
    }
}

/// The calls to one peer, or why there can be none.
pub struct PeerNetwork(Result<Peer, Unreachable<TypeConfig>>);

impl PeerNetwork {
    fn peer(&self) -> Result<Peer, Failure> {
        match &self.0 {
            Ok(peer) => Ok(peer.clone()),
            Err(error) => Err(RPCError::Unreachable(error.clone())),
        }
    }

    /// The peer, for a candidate: a new directory that catches up reads in its log that this node
    /// is a voter, but that was the directory it stands in for.
    fn candidate_to(&self) -> Result<Peer, Failure> {
        let peer = self.peer()?;
        if peer.guard.is_another_registered() {
            return Err(RPCError::Unreachable(Unreachable::from_string(
                "this directory is not the voter's",
            )));
        }
        Ok(peer)
    }
}

#[derive(Clone)]
struct Peer {
    guard: Arc<Guard>,
    target: NodeId,
    client: RaftServiceClient<Channel>,
}

impl Peer {
    fn envelope(&self) -> Option<v1::RaftEnvelope> {
        Some(self.guard.envelope(self.target))
    }

    fn failed(&self, status: Status, action: RPCTypes, ttl: Duration) -> Failure {
        self.guard.on_refusal(&status);
        if status.code() == tonic::Code::DeadlineExceeded {
            return RPCError::Timeout(Timeout {
                action,
                id: raft_id(self.guard.identity().node_id),
                target: raft_id(self.target),
                timeout: ttl,
            });
        }
        RPCError::Unreachable(unreachable(status))
    }

    async fn pre_vote_body(&self, body: Bytes, ttl: Duration) -> Result<Bytes, Status> {
        let message = v1::PreVoteRequest {
            envelope: self.envelope(),
            body,
        };
        let mut client = self.client.clone();
        let answer = within(ttl, client.pre_vote(with_ttl(message, ttl))).await;
        let answer = answer.inspect_err(|status| self.guard.on_refusal(status))?;
        Ok(answer.body)
    }

    /// Opens an append stream. The requests go out as they come; each answer must follow within
    /// the deadline as long as one is owed.
    async fn append_stream(
        &self,
        mut requests: impl Stream<Item = AppendRequest> + Send + Unpin + 'static,
        ttl: Duration,
    ) -> Result<BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Failure>>, Failure> {
        // The consensus holds the first request back for as long as it backs off; the deadline
        // begins after it.
        let Some(first) = requests.next().await else {
            return Ok(futures::stream::empty().boxed());
        };
        let requests = futures::stream::iter([first]).chain(requests);
        let owed = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&owed);
        let mut envelope = self.envelope();
        let outgoing = requests.filter_map(move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            let envelope = envelope.take();
            let body = encode(&request);
            // A request of our own types always has an encoding; without one, the stream ends in
            // a deadline.
            futures::future::ready(body.ok().map(|body| v1::AppendRequest { envelope, body }))
        });
        let mut client = self.client.clone();
        let answers = within(ttl, client.append(Request::new(outgoing))).await;
        let action = RPCTypes::AppendEntries;
        let mut answers = answers.map_err(|status| self.failed(status, action, ttl))?;
        let peer = self.clone();
        let results = async_stream::stream! {
            loop {
                let next = match tokio::time::timeout(ttl, answers.next()).await {
                    Ok(next) => next,
                    Err(_) if owed.load(Ordering::Relaxed) == 0 => continue,
                    Err(_) => Some(Err(Status::deadline_exceeded("an append was not answered"))),
                };
                let Some(next) = next else { break };
                owed.fetch_sub(1, Ordering::Relaxed);
                let decoded = next.and_then(|answer| decode(&answer.body));
                let failed = decoded.is_err();
                yield decoded.map_err(|status| peer.failed(status, action, ttl));
                if failed {
                    break;
                }
            }
        };
        Ok(results.boxed())
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Failure> {
        let requests = futures::stream::iter([rpc]);
        let ttl = option.soft_ttl();
        let mut answers = self.peer()?.append_stream(requests, ttl).await?;
        match answers.next().await {
            Some(answer) => answer.map(AppendEntriesResponse::from),
            None => Err(RPCError::Network(NetworkError::from_string(
                "an append stream ended without an answer",
            ))),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Failure>>, Failure>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let results = self.peer()?.append_stream(input, option.soft_ttl()).await?;
            let results: BoxStream<'s, _> = results;
            Ok(results)
        })
    }

    async fn vote(&mut self, rpc: VoteRequest, option: RPCOption) -> Result<VoteResponse, Failure> {
        let (peer, ttl) = (self.candidate_to()?, option.soft_ttl());
        let failed = |status| peer.failed(status, RPCTypes::Vote, ttl);
        let message = v1::VoteRequest {
            envelope: peer.envelope(),
            body: encode(&rpc).map_err(&failed)?,
        };
        let mut client = peer.client.clone();
        let answer = within(ttl, client.vote(with_ttl(message, ttl))).await;
        let decoded = answer.and_then(|answer| decode(&answer.body));
        decoded.map_err(failed)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, Failure> {
        let (peer, ttl) = (self.candidate_to()?, option.soft_ttl());
        let failed = |status| peer.failed(status, RPCTypes::Vote, ttl);
        let body = encode(&PreVoteBody::Vote(rpc)).map_err(&failed)?;
        let answer = peer.pre_vote_body(body, ttl).await.map_err(&failed)?;
        decode(&answer).map_err(failed)
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let peer = self.peer()?;
        let ttl = SNAPSHOT_INSTALL_TIMEOUT;
        let failed = |status| peer.failed(status, RPCTypes::InstallSnapshot, ttl);
        let head = SnapshotHead {
            vote,
            meta: snapshot.meta,
            bytes: snapshot.snapshot.len() as u64,
        };
        let head = encode(&head).map_err(&failed)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        let parts = send_parts(sender, peer.envelope(), head, snapshot.snapshot);
        let mut client = peer.client.clone();
        let messages = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answer = async {
            let sent = client.install_snapshot(Request::new(messages));
            let (stalled, answer) = tokio::join!(parts, within(ttl, sent));
            stalled.and(answer)
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = answer => {
                let decoded = answer.and_then(|answer| decode(&answer.body));
                Ok(decoded.map_err(failed)?)
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Failure> {
        let (peer, ttl) = (self.peer()?, option.soft_ttl());
        let failed = |status| peer.failed(status, RPCTypes::TransferLeader, ttl);
        let message = v1::TransferLeaderRequest {
            envelope: peer.envelope(),
            body: encode(&req).map_err(&failed)?,
        };
        let mut client = peer.client.clone();
        let answer = within(ttl, client.transfer_leader(with_ttl(message, ttl))).await;
        answer.map_err(failed)?;
        Ok(Ok(()))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
}

/// Hands the parts of a snapshot to the call, each within its deadline.
async fn send_parts(
    sender: tokio::sync::mpsc::Sender<v1::InstallSnapshotRequest>,
    mut envelope: Option<v1::RaftEnvelope>,
    mut head: Bytes,
    snapshot: Bytes,
) -> Result<(), Status> {
    let mut rest = snapshot;
    loop {
        let part = rest.split_to(rest.len().min(SNAPSHOT_PART_BYTES));
        let message = v1::InstallSnapshotRequest {
            envelope: envelope.take(),
            head: std::mem::take(&mut head),
            crc: crc32c(&part),
            part,
        };
        let sent = tokio::time::timeout(SNAPSHOT_PART_TIMEOUT, sender.send(message)).await;
        match sent {
            Ok(Ok(())) if !rest.is_empty() => {}
            // A call that ended early has its own answer.
            Ok(_) => return Ok(()),
            Err(_) => {
                return Err(Status::deadline_exceeded(
                    "a part of a snapshot was not taken",
                ));
            }
        }
    }
}

/// Ends a call at its deadline, and takes its answer's message.
async fn within<T>(
    ttl: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(ttl, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("the call was not answered")),
    }
}

/// Tells the receiver the deadline too.
fn with_ttl<T>(message: T, ttl: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(ttl);
    request
}

fn unreachable(status: Status) -> Unreachable<TypeConfig> {
    Unreachable::from_string(status)
}
