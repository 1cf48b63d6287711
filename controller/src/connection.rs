//! Connections to other nodes' internal ports: nodelay, the windows of the design, and a signal
//! when the connection closes, because a closed connection is how a dead process is noticed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use ottla_metadata::Endpoint;
use ottla_model::limits;
use ottla_shell::HeldStream;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tonic::transport::{Channel, Uri};

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A channel that connects when it is first used, and again after it was closed. `closed` is
/// notified whenever a connection of it ends.
pub fn channel(endpoint: &Endpoint, closed: Arc<Notify>) -> Channel {
    let address = (endpoint.host.clone(), endpoint.port);
    let connector = tower::service_fn(move |_: Uri| {
        let (address, closed) = (address.clone(), Arc::clone(&closed));
        async move {
            let connecting = TcpStream::connect((address.0.as_str(), address.1));
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            stream.set_nodelay(true)?;
            let watched = HeldStream::new(stream, NotifyOnDrop(closed));
            Ok::<_, io::Error>(TokioIo::new(watched))
        }
    });
    // The connector knows where to go; the address here is only what requests call the server.
    Channel::builder(Uri::from_static("http://controller.internal"))
        .initial_stream_window_size(limits::H2_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_with_connector_lazy(connector)
}

/// Whether nobody listens at an endpoint: the answer of a machine that is there, without the
/// process. A timeout or an unreachable machine says nothing.
pub async fn is_refused(endpoint: &Endpoint, timeout: Duration) -> bool {
    let connecting = TcpStream::connect((endpoint.host.as_str(), endpoint.port));
    let connected = tokio::time::timeout(timeout, connecting).await;
    matches!(connected, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}
