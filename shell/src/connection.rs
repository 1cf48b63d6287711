//! What the calls of one connection share: who is at the other end, how much may be made ready for
//! it, when it last took something, and the means to close it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures::task::AtomicWaker;
use ottla_model::limits::{FETCH_BYTES_PER_CONNECTION, FETCH_BYTES_PER_CONNECTION_AT_FIRST};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// One connection, as its calls see it. Each finds it among its request's extensions.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    peer: Option<IpAddr>,
    unread_bytes: Arc<Semaphore>,
    share: AtomicUsize,
    taken: Progress,
    closed: AtomicBool,
    task: AtomicWaker,
}

impl Connection {
    pub fn new(peer: Option<IpAddr>) -> Connection {
        Connection(Arc::new(Shared {
            peer,
            unread_bytes: Arc::new(Semaphore::new(FETCH_BYTES_PER_CONNECTION_AT_FIRST)),
            share: AtomicUsize::new(FETCH_BYTES_PER_CONNECTION_AT_FIRST),
            taken: Progress::begin(),
            closed: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }))
    }

    /// The address of the other end, unless it was gone before it was asked for.
    pub fn peer(&self) -> Option<IpAddr> {
        self.0.peer
    }

    /// Bytes that may still be made ready for the connection before it takes what is.
    pub fn unread_bytes(&self) -> &Arc<Semaphore> {
        &self.0.unread_bytes
    }

    /// How many bytes may be made ready for the connection at once. Little for one that has taken
    /// nothing yet, so that many of them that never do hold little.
    pub fn share(&self) -> usize {
        self.0.share.load(Ordering::Relaxed)
    }

    /// The connection took so many bytes: its share grows by as many.
    pub fn took(&self, bytes: usize) {
        self.0.taken.mark();
        let most = FETCH_BYTES_PER_CONNECTION;
        let grow = |share: usize| (share < most).then(|| share.saturating_add(bytes).min(most));
        let before = self
            .0
            .share
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow);
        if let Ok(before) = before {
            let grown = bytes.min(most - before);
            self.0.unread_bytes.add_permits(grown);
        }
    }

    /// How long ago the connection last took something that was made for it, or began.
    pub fn idle(&self) -> Duration {
        self.0.taken.idle()
    }

    /// Closes the connection, and drops whatever waits to be sent on it.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.task.wake();
    }

    /// Whether the connection is closed, or about to be.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Wakes this task when the connection is to be closed.
    pub(crate) fn on_close(&self, task: &Waker) {
        self.0.task.register(task);
    }
}

/// When something last went on.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    /// Milliseconds after `began`.
    last: AtomicU64,
}

impl Progress {
    pub fn begin() -> Progress {
        Progress {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// It goes on now.
    pub fn mark(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// How long it has not gone on.
    pub fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_with_what_is_taken_up_to_its_limit() {
        let connection = Connection::new(None);
        assert_eq!(connection.share(), FETCH_BYTES_PER_CONNECTION_AT_FIRST);
        connection.took(1_000);
        let share = FETCH_BYTES_PER_CONNECTION_AT_FIRST + 1_000;
        assert_eq!(connection.share(), share);
        assert_eq!(connection.unread_bytes().available_permits(), share);
        for _ in 0..3 {
            connection.took(FETCH_BYTES_PER_CONNECTION - 7);
            assert_eq!(connection.share(), FETCH_BYTES_PER_CONNECTION);
            let permits = connection.unread_bytes().available_permits();
            assert_eq!(permits, FETCH_BYTES_PER_CONNECTION);
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_ends_at_its_other_end() {
        use tokio::io::AsyncReadExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut held = crate::HeldStream::new(stream, ());
        let connection = tonic::transport::server::Connected::connect_info(&held);
        assert!(connection.peer().is_some());
        let reading = tokio::spawn(async move { held.read_u8().await });
        tokio::task::yield_now().await;
        connection.close();
        let ended = reading.await.unwrap().expect_err("closed");
        assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}
