//! One bidirectional stream of bulk data to a broker: carries requests there and responses back,
//! until it ends. What is sent and what an end means is its user's business.

use std::sync::Arc;

use ottla_model::limits::CLIENT_MESSAGE_BYTES_MAX;
use ottla_proto::messages::{MessageLimits, open_stream};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use crate::connection::Connections;
use crate::failure::Failure;

/// What an answer may be. A broker is trusted with how many partitions it puts into one.
const ANSWERS: MessageLimits = MessageLimits::of_bytes(CLIENT_MESSAGE_BYTES_MAX);

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

impl<Q: Message + Default + 'static> BidiStream<Q> {
    /// Opens a stream with room for `capacity` requests that are not on their way yet. `path` is
    /// that of the method: service and name.
    pub(crate) fn open<R: Message + Default + 'static>(
        connections: Arc<Connections>,
        path: &'static str,
        stream: u64,
        endpoint: String,
        capacity: usize,
        events: mpsc::Sender<StreamEvent<R>>,
    ) -> BidiStream<Q> {
        let (requests, receiver) = mpsc::channel(capacity);
        let task = tokio::spawn(async move {
            let receiver = ReceiverStream::new(receiver);
            let (may_have_arrived, reason) =
                carry(&connections, path, &endpoint, receiver, &events).await;
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

async fn carry<Q, R>(
    connections: &Connections,
    path: &'static str,
    endpoint: &str,
    requests: ReceiverStream<Q>,
    events: &mpsc::Sender<StreamEvent<R>>,
) -> (bool, String)
where
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
{
    let channel = match connections.data(endpoint) {
        Ok(channel) => channel,
        Err(failure) => return (false, failure.reason()),
    };
    // A connection attempt has its own limit; this one is for a broker that accepts and is silent.
    let limit = connections.config().request_timeout;
    let opening = open_stream::<Q, R>(channel, path, requests, ANSWERS);
    let mut responses = match timeout(limit, opening).await {
        Ok(Ok(responses)) => responses,
        Ok(Err(status)) => {
            let failure = Failure::classify(&status);
            return (matches!(failure, Failure::Broken(_)), failure.reason());
        }
        Err(_) => return (true, format!("no stream within {limit:?}")),
    };
    loop {
        match responses.next().await {
            Ok(Some(response)) => {
                if events.send(StreamEvent::Response(response)).await.is_err() {
                    return (true, "its user is gone".to_owned());
                }
            }
            Err(status) => return (true, Failure::classify(&status).reason()),
            Ok(None) => return (true, "the broker ended the stream".to_owned()),
        }
    }
}
