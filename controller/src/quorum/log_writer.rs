//! The one thread that writes the consensus log. Commands are carried out in the order in which
//! they were queued; those that wait while a sync runs share the next one, and are completed, in
//! order, after it.

use std::collections::VecDeque;
use std::io;
use std::thread;

use bytes::Bytes;
use openraft::storage::IOFlushed;
use ottla_log::LogError;
use ottla_log::wal::{Wal, WalPosition};
use ottla_shell::told;
use tokio::sync::{mpsc, oneshot};

use super::frame::{Checkpoint, Frame};
use super::types::{LogId, TypeConfig, Vote};
use crate::dir_lock::DirLock;

/// The most commands that share one sync.
const GROUP_MAX: usize = 512;
/// The most commands that wait.
const QUEUE_MAX: usize = 1_024;

/// Something to be written.
#[derive(Debug)]
pub enum Change {
    /// Entries, by their first index and their frames.
    Append {
        first: u64,
        frames: Vec<Bytes>,
    },
    Vote(Vote),
    Committed(Option<LogId>),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// Who is told once a change is durable.
pub enum Waiter {
    /// Nobody, and no sync is needed for it.
    Nobody,
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    fn complete(self, result: &Result<(), LogError>) {
        let result = match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(told(error))),
        };
        match self {
            Waiter::Nobody => {}
            Waiter::Raft(flushed) => flushed.io_completed(result),
            // A caller that went away does not wait any more.
            Waiter::Caller(caller) => drop(caller.send(result)),
        }
    }
}

type Command = (Change, Waiter);

/// The way to the writer's thread. The thread ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct LogWriter {
    commands: mpsc::Sender<Command>,
}

impl LogWriter {
    /// Starts the thread. `positions` are the places of the live entries, from `first` on.
    /// `lock` is held as long as the thread may write.
    pub fn start(
        wal: Wal,
        lock: Option<DirLock>,
        checkpoint: Checkpoint,
        first: u64,
        positions: VecDeque<WalPosition>,
    ) -> io::Result<LogWriter> {
        let (commands, receiver) = mpsc::channel(QUEUE_MAX);
        let writer = Writer {
            wal,
            _lock: lock,
            checkpoint,
            first,
            positions,
        };
        thread::Builder::new()
            .name("raft-log".to_owned())
            .spawn(move || writer.run(receiver))?;
        Ok(LogWriter { commands })
    }

    /// Queues a change. Changes happen in the order of these calls.
    pub async fn enqueue(&self, change: Change, waiter: Waiter) -> io::Result<()> {
        let sent = self.commands.send((change, waiter)).await;
        sent.map_err(|_| io::Error::other("the consensus log's writer has stopped"))
    }

    /// Queues a change and waits until it is durable.
    pub async fn write(&self, change: Change) -> io::Result<()> {
        let (sender, done) = oneshot::channel();
        self.enqueue(change, Waiter::Caller(sender)).await?;
        done.await
            .map_err(|_| io::Error::other("the consensus log's writer has stopped"))?
    }
}

struct Writer {
    wal: Wal,
    _lock: Option<DirLock>,
    checkpoint: Checkpoint,
    /// The index of the first live entry.
    first: u64,
    /// Where the live entries stand.
    positions: VecDeque<WalPosition>,
}

impl Writer {
    fn run(mut self, mut receiver: mpsc::Receiver<Command>) {
        while let Some(command) = receiver.blocking_recv() {
            let mut group = vec![command];
            while group.len() < GROUP_MAX
                && let Ok(command) = receiver.try_recv()
            {
                group.push(command);
            }
            self.write_group(group);
        }
    }

    fn write_group(&mut self, group: Vec<Command>) {
        let mut waiters = Vec::with_capacity(group.len());
        let mut trim_to = None;
        let mut written = Ok(());
        for (change, waiter) in group {
            if written.is_ok() {
                written = self.write(change, &mut trim_to);
            }
            waiters.push(waiter);
        }
        let needs_sync = waiters
            .iter()
            .any(|waiter| !matches!(waiter, Waiter::Nobody));
        if written.is_ok() && needs_sync {
            written = self.wal.sync();
        }
        // What a purge makes unneeded may go only once its checkpoint is durable.
        if let (Ok(()), Some(position)) = (&written, trim_to) {
            written = self.wal.trim(position);
        }
        if let Err(error) = &written {
            // The consensus stops because of it, and the node tells why.
            tracing::debug!(error = %told(error), "the consensus log cannot be written");
        }
        for waiter in waiters {
            waiter.complete(&written);
        }
    }

    fn write(&mut self, change: Change, trim_to: &mut Option<WalPosition>) -> Result<(), LogError> {
        match change {
            Change::Append { first, frames } => {
                if self.positions.is_empty() {
                    self.first = first;
                }
                let payloads: Vec<_> = frames.iter().map(std::slice::from_ref).collect();
                let mut position = self.wal.append(&payloads)?;
                for frame in &frames {
                    self.positions.push_back(position);
                    position = Wal::position_after(position, frame.len());
                }
                Ok(())
            }
            Change::Vote(vote) => {
                self.checkpoint.vote = Some(vote);
                self.append(&Frame::Vote(vote)).map(drop)
            }
            Change::Committed(log_id) => {
                self.checkpoint.committed = log_id;
                self.append(&Frame::Committed(log_id)).map(drop)
            }
            Change::Truncate(log_id) => {
                let end = log_id.map_or(0, |log_id| log_id.index + 1);
                let keep = end.saturating_sub(self.first) as usize;
                self.positions.truncate(keep);
                self.append(&Frame::Truncate(log_id)).map(drop)
            }
            Change::Purge(log_id) => {
                let gone = (log_id.index + 1).saturating_sub(self.first) as usize;
                let gone = gone.min(self.positions.len());
                self.positions.drain(..gone);
                self.first = log_id.index + 1;
                self.checkpoint.purged = Some(log_id);
                let own = self.append(&Frame::Checkpoint(self.checkpoint.clone()))?;
                *trim_to = Some(self.positions.front().map_or(own, |first| *first.min(&own)));
                Ok(())
            }
        }
    }

    fn append(&mut self, frame: &Frame) -> Result<WalPosition, LogError> {
        let bytes = frame.encode().map_err(|source| LogError::Io {
            action: "encode a frame for",
            path: "the consensus log".into(),
            source: std::sync::Arc::new(source),
        })?;
        self.wal.append(&[&[bytes]])
    }
}
