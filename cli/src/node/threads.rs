//! Threads with a single-threaded runtime each. One hot connection moves twice as much on such a
//! runtime as on a work-stealing one, and a busy client cannot delay the nodes' own traffic.

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A thread that runs asynchronous work until it is stopped.
#[derive(Debug)]
pub struct IoThread {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl IoThread {
    pub fn start(name: &str) -> Result<IoThread, String> {
        let cannot = |error| format!("cannot start the thread '{name}': {error}");
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(16)
            .thread_name(format!("{name}-blocking"))
            .build()
            .map_err(cannot)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Dropped or sent: either way the thread ends.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_background();
            })
            .map_err(cannot)?;
        Ok(IoThread {
            handle,
            stop,
            thread,
        })
    }

    /// Where work for this thread is spawned.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends the thread; its tasks are dropped where they stand.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let joined = tokio::task::spawn_blocking(move || self.thread.join());
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!("an IO thread panicked");
        }
    }
}
