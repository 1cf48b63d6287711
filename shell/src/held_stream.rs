//! A TCP connection that holds something as long as it lives: its place among the open ones, or
//! whoever wants to know when it ends. It can be closed by those who serve its calls.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

use crate::connection::Connection;

/// A connection and what is dropped with it.
#[derive(Debug)]
pub struct HeldStream<H> {
    stream: TcpStream,
    connection: Connection,
    _held: H,
}

impl<H> HeldStream<H> {
    pub fn new(stream: TcpStream, held: H) -> HeldStream<H> {
        // A peer without an address is gone already.
        let peer = stream.peer_addr().ok().map(|address| address.ip());
        HeldStream {
            stream,
            connection: Connection::new(peer),
            _held: held,
        }
    }

    /// Ends with an error once the connection is to be closed, and hears of it as the current task.
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        self.connection.on_close(context.waker());
        match self.connection.is_closed() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(()),
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
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<H: Unpin> AsyncWrite for HeldStream<H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
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
