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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ottla_proto::messages::FETCH_PATH;
    use ottla_proto::v1;

    use super::*;
    use crate::config::ClientConfig;

    /// What a stream to this port ends with.
    async fn end_of(port: u16) -> (bool, String) {
        let connections = Arc::new(Connections::new(ClientConfig {
            request_timeout: Duration::from_millis(100),
            ..ClientConfig::default()
        }));
        let (sender, mut events) = mpsc::channel::<StreamEvent<v1::FetchResponse>>(1);
        let endpoint = format!("127.0.0.1:{port}");
        let stream = BidiStream::open(connections, FETCH_PATH, 7, endpoint, 1, sender);
        stream.send(v1::FetchRequest::default());
        let event = timeout(Duration::from_secs(10), events.recv()).await;
        match event.expect("it ends").expect("it is told") {
            StreamEvent::Closed {
                stream: 7,
                may_have_arrived,
                reason,
            } => (may_have_arrived, reason),
            other => panic!("not the end of stream 7: {other:?}"),
        }
    }

    #[tokio::test]
    async fn nothing_has_arrived_where_nothing_listens_and_may_have_where_nothing_answers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let (may_have_arrived, reason) = end_of(port).await;
        assert!(
            may_have_arrived && reason.contains("no stream within"),
            "{reason}"
        );
        drop(listener);
        let (may_have_arrived, reason) = end_of(port).await;
        assert!(
            !may_have_arrived && reason.contains("nothing listens"),
            "{reason}"
        );
    }
}
