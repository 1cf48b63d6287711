//! Clients on threads of their own, so that one does not slow another, let off together.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};

use super::clock::Clock;

/// Where clients wait for the start.
#[derive(Debug, Clone)]
pub struct Gate {
    ready: mpsc::Sender<()>,
    started: watch::Receiver<Option<Clock>>,
}

impl Gate {
    /// Says that this client is ready, and waits for the others; `None` if the run is off.
    pub async fn pass(mut self) -> Option<Clock> {
        self.ready.send(()).await.ok()?;
        drop(self.ready);
        let started = self.started.wait_for(Option::is_some).await;
        started.ok().and_then(|clock| *clock)
    }
}

/// The clients of a run.
#[derive(Debug)]
pub struct Workers {
    running: Vec<oneshot::Receiver<anyhow::Result<()>>>,
    gate: Gate,
    ready: mpsc::Receiver<()>,
    start: watch::Sender<Option<Clock>>,
}

impl Workers {
    pub fn new() -> Workers {
        let (ready_sender, ready) = mpsc::channel(1);
        let (start, started) = watch::channel(None);
        Workers {
            running: Vec::new(),
            gate: Gate {
                ready: ready_sender,
                started,
            },
            ready,
            start,
        }
    }

    /// Runs a client on a thread with a runtime of its own. It connects, passes the gate, and
    /// works.
    pub fn add<F, Work>(&mut self, name: &str, work: F) -> anyhow::Result<()>
    where
        F: FnOnce(Gate) -> Work + Send + 'static,
        Work: Future<Output = anyhow::Result<()>>,
    {
        let (done, outcome) = oneshot::channel();
        let gate = self.gate.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                let result = match runtime {
                    Ok(runtime) => runtime.block_on(work(gate)),
                    Err(error) => Err(error).context("cannot start a client's runtime"),
                };
                // Nobody waits any more if another client failed first.
                let _ = done.send(result);
            })
            .context("cannot start a client's thread")?;
        self.running.push(outcome);
        Ok(())
    }

    /// Waits until every client is ready and lets them off.
    pub async fn start(self) -> anyhow::Result<(Clock, Running)> {
        let Workers {
            running,
            gate,
            mut ready,
            start,
        } = self;
        drop(gate);
        let mut waiting = running.len();
        while waiting > 0 && ready.recv().await.is_some() {
            waiting -= 1;
        }
        let running = Running { running };
        if waiting > 0 {
            drop(start);
            running.finish(&AtomicBool::new(false)).await?;
            bail!("a client ended before the run began");
        }
        let clock = Clock::start();
        start.send_replace(Some(clock));
        Ok((clock, running))
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Running {
    running: Vec<oneshot::Receiver<anyhow::Result<()>>>,
}

impl Running {
    /// Parts those added first, so many, from the rest, which is returned.
    pub fn split_off(&mut self, first: u32) -> Running {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        Running {
            running: self.running.split_off(first.min(self.running.len())),
        }
    }

    /// Waits for all of them. The first failure is returned, and sets `stop`, so that the others
    /// do not go on for nothing.
    pub async fn finish(self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut running: FuturesUnordered<_> = self.running.into_iter().collect();
        let mut outcome = Ok(());
        while let Some(result) = running.next().await {
            let result = result.context("a client's thread ended early");
            outcome = outcome.and(result.and_then(|result| result));
            if outcome.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_start_together_and_the_first_failure_is_told() {
        let mut workers = Workers::new();
        for number in 0..3 {
            let work = move |gate: Gate| async move {
                assert!(gate.pass().await.is_some());
                if number == 1 {
                    bail!("number {number}");
                }
                Ok(())
            };
            workers.add("test", work).unwrap();
        }
        let (_, mut running) = workers.start().await.unwrap();
        let rest = running.split_off(1);
        let stop = AtomicBool::new(false);
        assert!(running.finish(&stop).await.is_ok());
        assert!(!stop.load(Ordering::Relaxed));
        let error = rest.finish(&stop).await.unwrap_err();
        assert_eq!(error.to_string(), "number 1");
        assert!(stop.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_client_that_cannot_begin_calls_the_run_off_for_the_others() {
        let mut workers = Workers::new();
        let waits = |gate: Gate| async move {
            assert!(gate.pass().await.is_none());
            Ok(())
        };
        workers.add("waits", waits).unwrap();
        workers
            .add("fails", |_gate: Gate| async { bail!("no cluster") })
            .unwrap();
        let error = workers.start().await.unwrap_err();
        assert_eq!(error.to_string(), "no cluster");
    }
}
