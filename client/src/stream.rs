//! One bidirectional stream of bulk data to a broker: carries requests there and responses back,
//! until it ends. What is sent and what an end means is its user's business.

use std::future::Future;
use std::sync::Arc;

use ottla_proto::v1::log_service_client::LogServiceClient;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use crate::connection::Connections;
use crate::failure::Failure;

pub(crate) type DataClient = LogServiceClient<Channel>;

/// What a stream tells.
#[derive(Debug)]
pub(crate) enum StreamEvent<R> {
    Response(R),
    Closed {
        stream: u64,
        /// Whether requests on it may have arrived.
        may_have_arrived: bool,
        reason: String,
    },
}

/// The near end of a stream. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct BidiStream<Q> {
    requests: mpsc::Sender<Q>,
    task: JoinHandle<()>,
}

impl<Q: Send + 'static> BidiStream<Q> {
    /// Opens a stream with room for `capacity` requests that are not on their way yet.
    pub(crate) fn open<R, F, Fut>(
        connections: Arc<Connections>,
        stream: u64,
        endpoint: String,
        capacity: usize,
        events: mpsc::Sender<StreamEvent<R>>,
        call: F,
    ) -> BidiStream<Q>
    where
        R: Send + 'static,
        F: FnOnce(DataClient, ReceiverStream<Q>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Response<Streaming<R>>, Status>> + Send + 'static,
    {
        let (requests, receiver) = mpsc::channel(capacity);
        let task = tokio::spawn(async move {
            let receiver = ReceiverStream::new(receiver);
            let (may_have_arrived, reason) =
                carry(&connections, &endpoint, receiver, &events, call).await;
            tracing::debug!(endpoint, reason, "a stream ended");
            let closed = StreamEvent::Closed {
                stream,
                may_have_arrived,
                reason: format!("{endpoint}: {reason}"),
            };
            // If nobody listens, the stream's user is gone.
            let _ = events.send(closed).await;
        });
        BidiStream { requests, task }
    }

    /// False if the stream has ended, which it tells by itself.
    pub(crate) fn send(&self, request: Q) -> bool {
        self.requests.try_send(request).is_ok()
    }
}

impl<Q> Drop for BidiStream<Q> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry<Q, R, F, Fut>(
    connections: &Connections,
    endpoint: &str,
    requests: ReceiverStream<Q>,
    events: &mpsc::Sender<StreamEvent<R>>,
    call: F,
) -> (bool, String)
where
    F: FnOnce(DataClient, ReceiverStream<Q>) -> Fut,
    Fut: Future<Output = Result<Response<Streaming<R>>, Status>>,
{
    let client = match connections.data(endpoint) {
        Ok(client) => client,
        Err(failure) => return (false, failure.reason()),
    };
    // A connection attempt has its own limit; this one is for a broker that accepts and is silent.
    let limit = connections.config().request_timeout;
    let mut responses = match timeout(limit, call(client, requests)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => {
            let failure = Failure::classify(&status);
            return (matches!(failure, Failure::Broken(_)), failure.reason());
        }
        Err(_) => return (true, format!("no stream within {limit:?}")),
    };
    loop {
        match responses.next().await {
            Some(Ok(response)) => {
                if events.send(StreamEvent::Response(response)).await.is_err() {
                    return (true, "its user is gone".to_owned());
                }
            }
            Some(Err(status)) => return (true, Failure::classify(&status).reason()),
            None => return (true, "the broker ended the stream".to_owned()),
        }
    }
}
