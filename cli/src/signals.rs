//! The signals that ask a process to stop.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGINT (Ctrl-C) and SIGTERM.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

/// Begins to listen; from now on these signals no longer end the process on their own.
pub fn stop() -> anyhow::Result<StopSignals> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    Ok(StopSignals {
        interrupt: listen(SignalKind::interrupt())?,
        terminate: listen(SignalKind::terminate())?,
    })
}

impl StopSignals {
    /// Waits for the next signal and gives its name.
    pub async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
