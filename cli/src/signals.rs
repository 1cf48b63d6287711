//! The signals that ask a process to stop.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for SIGINT (Ctrl-C) and SIGTERM.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    quit: Option<Signal>,
}

/// The name of the signal that tells a node that the whole cluster stops.
pub const QUIT: &str = "SIGQUIT";

/// Begins to listen; from now on these signals no longer end the process on their own.
pub fn stop() -> anyhow::Result<StopSignals> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    Ok(StopSignals {
        interrupt: listen(SignalKind::interrupt())?,
        terminate: listen(SignalKind::terminate())?,
        quit: None,
    })
}

/// As [`stop`], and listens for SIGQUIT as well, with which `ottla dev` stops a whole cluster.
pub fn stop_or_quit() -> anyhow::Result<StopSignals> {
    let quit = signal(SignalKind::quit()).context("cannot listen for signals")?;
    Ok(StopSignals {
        quit: Some(quit),
        ..stop()?
    })
}

impl StopSignals {
    /// Waits for the next signal and gives its name.
    pub async fn wait(&mut self) -> &'static str {
        let quit = async {
            match &mut self.quit {
                Some(quit) => quit.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = quit => QUIT,
        }
    }
}
