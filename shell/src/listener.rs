//! One port, several doors: the first bytes of a connection tell which protocol it speaks. gRPC
//! goes on to the services; Kafka and HTTP/1 clients are told clearly that their door is elsewhere
//! or not there yet, instead of hanging.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ottla_model::limits::{H2_CONNECTION_WINDOW, H2_FRAME_SIZE, H2_STREAM_WINDOW};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::door::{Door, OPENING_BYTES_MAX, door};
use crate::held_stream::HeldStream;

/// How long a new connection may take to say what it speaks, a gRPC client's settings included.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that says nothing is asked for a sign of life this often, and closed if none comes
/// in time: a peer that vanished, or that never finishes what it began, gives its place back.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest headers of one call, in bytes.
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const PEEK_PAUSE: Duration = Duration::from_millis(5);
/// What the port is for, so that a refusal can say where to go.
#[derive(Debug, Clone)]
pub struct PortPurpose {
    /// "client" or "internal".
    pub name: &'static str,
    /// What the client should do instead.
    pub hint: String,
}

/// How much a port lets its clients ask for at once.
#[derive(Debug, Clone, Copy)]
pub struct PortLimits {
    pub connections: usize,
    pub streams_per_connection: u32,
}

/// One place among the open connections; given back when it is dropped.
pub struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>, most: usize) -> Option<Place> {
        if open.fetch_add(1, Ordering::Relaxed) >= most {
            open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(Arc::clone(open)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An accepted connection, counted as long as it lives.
pub type Accepted = HeldStream<Place>;

/// Binds a port. The address is named in the error.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    // A restarted node must not wait for connections of its former self to time out.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Serves gRPC on the connections that come through the returned sender, on `runtime`.
pub fn serve_grpc(
    runtime: &Handle,
    routes: Routes,
    limits: PortLimits,
    mut stop: watch::Receiver<bool>,
) -> mpsc::Sender<io::Result<Accepted>> {
    let (sender, receiver) = mpsc::channel(64);
    let server = Server::builder()
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_frame_size(H2_FRAME_SIZE)
        .max_concurrent_streams(limits.streams_per_connection)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .add_routes(routes);
    runtime.spawn(async move {
        let stopped = async move {
            // A dropped sender means that the node is gone.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let incoming = ReceiverStream::new(receiver);
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "a gRPC server ended");
        }
    });
    sender
}

/// Accepts connections until told to stop and hands the gRPC ones to the servers in turn.
pub async fn accept(
    listener: std::net::TcpListener,
    servers: Vec<mpsc::Sender<io::Result<Accepted>>>,
    runtimes: Vec<Handle>,
    purpose: PortPurpose,
    limits: PortLimits,
    mut stop: watch::Receiver<bool>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot listen");
            return;
        }
    };
    let open = Arc::new(AtomicUsize::new(0));
    let mut turn = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, most likely; those who are connected go on.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(place) = Place::take(&open, limits.connections) else {
            tracing::warn!(%peer, open = limits.connections, "refused a connection: too many are open");
            continue;
        };
        turn = (turn + 1) % servers.len().max(1);
        let (Some(server), Some(runtime)) = (servers.get(turn), runtimes.get(turn)) else {
            return;
        };
        let server = server.clone();
        let purpose = purpose.clone();
        let Ok(stream) = stream.into_std() else {
            continue;
        };
        runtime.spawn(async move {
            // Registered again with the runtime that will serve it.
            if let Ok(stream) = TcpStream::from_std(stream) {
                greet(stream, place, peer, server, &purpose).await;
            }
        });
    }
}

async fn greet(
    stream: TcpStream,
    place: Place,
    peer: SocketAddr,
    server: mpsc::Sender<io::Result<Accepted>>,
    purpose: &PortPurpose,
) {
    // Without it, small answers wait for acknowledgements that come late.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Ok(Some(door)) = tokio::time::timeout(OPENING_TIMEOUT, opening(&stream)).await else {
        tracing::debug!(%peer, port = purpose.name, "a connection did not say what it speaks");
        return;
    };
    match door {
        Door::Grpc => {
            // The server may be stopping.
            let _ = server.send(Ok(HeldStream::new(stream, place))).await;
        }
        other => {
            tracing::info!(%peer, port = purpose.name, ?other, "refused a connection");
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream, other, purpose)).await;
        }
    }
}

/// What a connection speaks, with all that it said left in the socket. `None` if it ends before.
async fn opening(stream: &TcpStream) -> Option<Door> {
    let mut said = [0; OPENING_BYTES_MAX];
    loop {
        let count = match stream.peek(&mut said).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => count,
        };
        if let Some(door) = door(&said[..count]) {
            return Some(door);
        }
        // A peek does not wait for more than it found.
        tokio::time::sleep(PEEK_PAUSE).await;
    }
}

async fn refuse(mut stream: TcpStream, door: Door, purpose: &PortPurpose) {
    let text = format!(
        "This is the {} port of an Ottla node. {}\n",
        purpose.name, purpose.hint
    );
    let answer = match door {
        Door::Http1 => format!(
            "HTTP/1.1 426 Upgrade Required\r\nupgrade: h2c\r\nconnection: close\r\n\
             content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        )
        .into_bytes(),
        Door::Kafka => kafka_refusal(&stream).await,
        Door::Tls => vec![0x15, 3, 1, 0, 2, 2, 70],
        Door::Grpc | Door::Unknown => text.into_bytes(),
    };
    // The client may be gone already.
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
    drain(&mut stream).await;
}

/// Reads what the client still sends, so that closing does not discard the answer on its way.
async fn drain(stream: &mut TcpStream) {
    let mut scratch = [0; 4_096];
    let mut left: usize = 64 * 1024;
    while left > 0 {
        match stream.read(&mut scratch).await {
            Ok(0) | Err(_) => return,
            Ok(read) => left = left.saturating_sub(read),
        }
    }
}

/// What a Kafka client understands: an `ApiVersions` response, version 0, with error 35
/// (UNSUPPORTED_VERSION) and no APIs, under its request's correlation id.
async fn kafka_refusal(stream: &TcpStream) -> Vec<u8> {
    let mut request = [0; 12];
    let peeked = stream.peek(&mut request).await.unwrap_or(0);
    let mut answer = Vec::with_capacity(14);
    answer.extend_from_slice(&10u32.to_be_bytes());
    answer.extend_from_slice(if peeked == 12 {
        &request[8..12]
    } else {
        &[0; 4]
    });
    answer.extend_from_slice(&35i16.to_be_bytes());
    answer.extend_from_slice(&0u32.to_be_bytes());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_as_long_as_its_connection_lives() {
        let open = Arc::new(AtomicUsize::new(0));
        let first = Place::take(&open, 2);
        let second = Place::take(&open, 2);
        assert!(first.is_some() && second.is_some() && Place::take(&open, 2).is_none());
        drop(first);
        assert!(Place::take(&open, 2).is_some());
    }
}
