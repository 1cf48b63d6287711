//! A TCP connection that holds something as long as it lives: its place among the open ones, or
//! whoever wants to know when it ends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ottla_model::limits::FETCH_BYTES_PER_CONNECTION;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tonic::transport::server::Connected;

/// What the calls of one connection share. Each finds it among its request's extensions.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Bytes that may still be made ready for the connection before it takes what is.
    pub unread_bytes: Arc<Semaphore>,
}

/// A connection and what is dropped with it.
#[derive(Debug)]
pub struct HeldStream<H> {
    stream: TcpStream,
    connection: Connection,
    _held: H,
}

impl<H> HeldStream<H> {
    pub fn new(stream: TcpStream, held: H) -> HeldStream<H> {
        let connection = Connection {
            unread_bytes: Arc::new(Semaphore::new(FETCH_BYTES_PER_CONNECTION)),
        };
        HeldStream {
            stream,
            connection,
            _held: held,
        }
    }
}

impl<H> Connected for HeldStream<H> {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl<H: Unpin> AsyncRead for HeldStream<H> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<H: Unpin> AsyncWrite for HeldStream<H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
