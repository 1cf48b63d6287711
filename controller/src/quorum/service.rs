//! The consensus' side of the calls from its peers. Runs where the node's internal port is
//! served, and hands everything over to the consensus' own thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use ottla_model::NodeId;
use ottla_model::checksum::crc32c;
use ottla_proto::v1;
use ottla_proto::v1::raft_service_server::RaftService;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::member::Member;
use super::types::{AppendRequest, Snapshot, TransferLeaderRequest, VoteRequest, node_id};
use super::wire::{PreVoteBody, SnapshotHead, check_vote, decode, encode};
use crate::connection::is_refused;

/// Answers of one append stream that wait for the network.
const ANSWERS_MAX: usize = 64;
/// The largest snapshot that is accepted, in bytes.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// How long a look at the leader's port may take.
const LOOK_TIMEOUT: Duration = Duration::from_millis(150);
/// For how long a leader found gone is not respected.
const GONE_FOR: Duration = Duration::from_secs(1);

/// The service.
#[derive(Clone)]
pub struct RaftHandler {
    member: Member,
    /// The consensus' own thread.
    runtime: tokio::runtime::Handle,
    /// The leader whose process was last found gone, and when.
    gone: Arc<Mutex<Option<(NodeId, Instant)>>>,
}

impl RaftHandler {
    /// To be called on the consensus' own thread.
    pub fn new(member: Member) -> RaftHandler {
        RaftHandler {
            member,
            runtime: tokio::runtime::Handle::current(),
            gone: Arc::default(),
        }
    }

    /// Whether this node, too, finds the leader's process gone, and the candidate's log is long
    /// enough for its vote.
    async fn would_replace(&self, ask: &PreVoteBody) -> bool {
        let PreVoteBody::LeaderGone {
            leader,
            term,
            last_log_id,
        } = ask
        else {
            return false;
        };
        let leader = node_id(*leader);
        if self.member.guard.is_another_registered() {
            return false;
        }
        let status = *self.member.status.borrow();
        let same = status.term <= *term && status.leader.is_none_or(|own| own == leader);
        if status.is_leader || !same || *last_log_id < self.member.store.last_log_id() {
            return false;
        }
        let Some(endpoint) = self.member.peers.endpoint(leader) else {
            return false;
        };
        let refused = is_refused(endpoint, LOOK_TIMEOUT).await;
        if refused {
            *self.gone.lock() = Some((leader, Instant::now()));
        }
        refused
    }

    /// A leader that was just found gone holds no lease: the vote is then judged as in a transfer
    /// of leadership, which leases do not hold up.
    fn without_lease_of_the_dead(&self, mut vote: VoteRequest) -> VoteRequest {
        let status = *self.member.status.borrow();
        if let Some((leader, found)) = *self.gone.lock()
            && status.leader == Some(leader)
            && !status.is_leader
            && found.elapsed() < GONE_FOR
        {
            vote.leadership_transfer = true;
        }
        vote
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the consensus is not running: {error}"))
}

/// An append request of this controller.
fn append_request(from: NodeId, body: &[u8]) -> Result<AppendRequest, Status> {
    let request: AppendRequest = decode(body)?;
    check_vote(&request.vote, from)?;
    Ok(request)
}

/// The requests of an append stream, until it ends or one cannot be read.
fn requests(
    from: NodeId,
    first: AppendRequest,
    rest: Streaming<v1::AppendRequest>,
) -> impl Stream<Item = AppendRequest> + Send + 'static {
    let rest = rest.scan((), move |(), message| {
        let request = message.and_then(|message| append_request(from, &message.body));
        let request = request
            .inspect_err(|status| tracing::debug!(%status, "an append stream ended"))
            .ok();
        futures::future::ready(request)
    });
    futures::stream::iter([first]).chain(rest)
}

#[tonic::async_trait]
impl RaftService for RaftHandler {
    type AppendStream = BoxStream<'static, Result<v1::AppendResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut messages = request.into_inner();
        let Some(first) = messages.message().await? else {
            return Ok(Response::new(futures::stream::empty().boxed()));
        };
        let from = self.member.guard.check(first.envelope.as_ref())?;
        let first = append_request(from, &first.body)?;
        let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
        let raft = self.member.raft.clone();
        self.runtime.spawn(async move {
            let answers = raft.stream_append(requests(from, first, messages));
            futures::pin_mut!(answers);
            while let Some(answer) = answers.next().await {
                let answer = answer.map_err(stopped).and_then(|answer| encode(&answer));
                let answer = answer.map(|body| v1::AppendResponse { body });
                if sender.send(answer).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn vote(
        &self,
        request: Request<v1::VoteRequest>,
    ) -> Result<Response<v1::VoteResponse>, Status> {
        let message = request.into_inner();
        let from = self.member.guard.check(message.envelope.as_ref())?;
        let vote: VoteRequest = decode(&message.body)?;
        check_vote(&vote.vote, from)?;
        let vote = self.without_lease_of_the_dead(vote);
        let answer = self.member.raft.vote(vote).await.map_err(stopped)?;
        let body = encode(&answer)?;
        Ok(Response::new(v1::VoteResponse { body }))
    }

    async fn pre_vote(
        &self,
        request: Request<v1::PreVoteRequest>,
    ) -> Result<Response<v1::PreVoteResponse>, Status> {
        let message = request.into_inner();
        let from = self.member.guard.check(message.envelope.as_ref())?;
        let body = match decode(&message.body)? {
            PreVoteBody::Vote(vote) => {
                check_vote(&vote.vote, from)?;
                encode(&self.member.raft.pre_vote(vote).await.map_err(stopped)?)?
            }
            ask @ PreVoteBody::LeaderGone { .. } => encode(&self.would_replace(&ask).await)?,
        };
        Ok(Response::new(v1::PreVoteResponse { body }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::InstallSnapshotRequest>>,
    ) -> Result<Response<v1::InstallSnapshotResponse>, Status> {
        let mut messages = request.into_inner();
        let Some(first) = messages.message().await? else {
            return Err(Status::invalid_argument("a snapshot has no parts"));
        };
        let from = self.member.guard.check(first.envelope.as_ref())?;
        let head: SnapshotHead = decode(&first.head)?;
        check_vote(&head.vote, from)?;
        let image = receive_parts(&head, first, messages).await?;
        let snapshot = Snapshot {
            meta: head.meta,
            snapshot: image,
        };
        let (raft, vote) = (self.member.raft.clone(), head.vote);
        let installing = self
            .runtime
            .spawn(async move { raft.install_full_snapshot(vote, snapshot).await });
        let answer = installing.await.map_err(stopped)?.map_err(stopped)?;
        let body = encode(&answer)?;
        Ok(Response::new(v1::InstallSnapshotResponse { body }))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let message = request.into_inner();
        let from = self.member.guard.check(message.envelope.as_ref())?;
        let transfer: TransferLeaderRequest = decode(&message.body)?;
        check_vote(transfer.from_leader(), from)?;
        let handled = self.member.raft.handle_transfer_leader(transfer).await;
        handled
            .map_err(stopped)?
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(v1::TransferLeaderResponse {}))
    }

    async fn greet(
        &self,
        request: Request<v1::GreetRequest>,
    ) -> Result<Response<v1::GreetResponse>, Status> {
        self.member
            .guard
            .check_greeting(request.into_inner().envelope.as_ref())?;
        let identity = self.member.guard.identity();
        Ok(Response::new(v1::GreetResponse {
            node_id: identity.node_id.0,
            directory_id: identity.directory_id.as_bytes().to_vec().into(),
            cluster_id: identity
                .cluster_id()
                .map_or(String::new(), |id| id.to_string()),
            has_state: !self.member.store.is_empty() || self.member.status.borrow().has_members,
            lost_state: identity.lost_state,
        }))
    }
}

/// Takes the parts of a snapshot, each checked.
async fn receive_parts(
    head: &SnapshotHead,
    first: v1::InstallSnapshotRequest,
    mut messages: Streaming<v1::InstallSnapshotRequest>,
) -> Result<Bytes, Status> {
    if head.bytes > SNAPSHOT_BYTES_MAX {
        let bytes = head.bytes;
        return Err(Status::resource_exhausted(format!(
            "a snapshot of {bytes} bytes is more than {SNAPSHOT_BYTES_MAX}"
        )));
    }
    let mut image = BytesMut::new();
    let mut next = Some(first);
    while let Some(message) = next {
        if crc32c(&message.part) != message.crc {
            return Err(Status::data_loss(
                "a part of a snapshot was damaged on its way",
            ));
        }
        image.extend_from_slice(&message.part);
        if image.len() as u64 > head.bytes {
            return Err(Status::invalid_argument(
                "a snapshot is longer than announced",
            ));
        }
        next = messages.message().await?;
    }
    if image.len() as u64 != head.bytes {
        return Err(Status::data_loss("a snapshot is shorter than announced"));
    }
    Ok(image.freeze())
}
