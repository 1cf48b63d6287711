//! What a store is asked for: one step, and random steps.

use std::path::Path;

use bytes::Bytes;
use ottla_log::disk::Call;
use ottla_log::{Disk as _, LogError, PartitionLog, SimDisk};
use ottla_model::{Offset, TimestampMs};

use super::model::{Model, Random, batch, id};
use super::world::{Aside, DIR, LOGS, Store, settings};

/// One call, or one wait. Numbers of logs are taken modulo [`LOGS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Appends so many batches, of so many records and bytes each, in one call.
    Append {
        log: usize,
        batches: usize,
        bytes: usize,
    },
    NextEpoch,
    /// Cuts so many records, from anywhere in a batch.
    Truncate {
        log: usize,
        records: i64,
    },
    RestartAt {
        log: usize,
        at: i64,
    },
    /// Moves the log's start up to so many records before its end.
    AdvanceLogStart {
        log: usize,
        records: i64,
    },
    /// The same, told with a ticket when it is durable.
    AdvanceLogStartTold {
        log: usize,
        records: i64,
    },
    /// Goes on so many offsets behind the log's end.
    Skip {
        log: usize,
        records: i64,
    },
    Retention {
        log: usize,
    },
    /// Saves what its owner knows of the producers: here, all batches' places and checksums.
    SaveProducers {
        log: usize,
    },
    Delete {
        log: usize,
    },
    SetAside {
        log: usize,
    },
    /// Waits until the log's last append is durable.
    WaitFor {
        log: usize,
    },
    /// Asks for a checkpoint and goes on.
    RequestCheckpoint,
    /// Waits for a checkpoint with something new in it.
    Checkpoint,
    /// Waits until the segments hold everything.
    Settle,
}

impl Step {
    /// Whether the call returns at once, with the change on its way.
    fn is_queued(&self) -> bool {
        matches!(
            self,
            Step::Append { .. }
                | Step::NextEpoch
                | Step::Truncate { .. }
                | Step::RestartAt { .. }
                | Step::AdvanceLogStart { .. }
                | Step::AdvanceLogStartTold { .. }
                | Step::Skip { .. }
                | Step::Retention { .. }
        )
    }
}

/// The numbers of logs that nobody checks.
const MARKS: usize = LOGS;
const HEADS: usize = LOGS + 1;

/// Asks a store, step by step, and notes what it asks for.
pub struct Worker {
    pub ticket: u64,
    pub epoch: i32,
}

impl Worker {
    /// One step. An error means that storage is gone; the call may or may not have an effect.
    pub fn step(&mut self, store: &Store, step: &Step) -> Result<(), LogError> {
        match *step {
            Step::Append {
                log,
                batches,
                bytes,
            } => self.append(store, log % LOGS, batches, bytes),
            Step::NextEpoch => {
                self.epoch += 1;
                Ok(())
            }
            Step::Truncate { log, records } => {
                with(store, log, |n, log| truncate(store, n, log, records))
            }
            Step::RestartAt { log, at } => with(store, log, |n, log| {
                store.world.known().logs[n].next(|model| model.restart(at));
                log.restart_at(Offset(at))
            }),
            Step::AdvanceLogStart { log, records } => {
                with(store, log, |n, log| advance(store, n, log, records, None))
            }
            Step::AdvanceLogStartTold { log, records } => {
                self.ticket += 1;
                let ticket = Some(self.ticket);
                with(store, log, |n, log| advance(store, n, log, records, ticket))
            }
            Step::Skip { log, records } => with(store, log, |n, log| {
                let to = log.log_end().0 + records;
                store.world.known().logs[n].next(|model| model.go_on_at(to));
                log.skip_to(Offset(to))
            }),
            Step::Retention { log } => with(store, log, |n, log| {
                let moved = log.apply_retention(TimestampMs(0), Offset(i64::MAX))?;
                if let Some(start) = moved {
                    store.world.known().logs[n].next_late(|model| model.log_start = start.0);
                }
                Ok(())
            }),
            Step::SaveProducers { log } => with(store, log, |n, log| {
                let state = store.world.known().logs[n].current().producers();
                // A disk that cannot keep it is no failure of the store.
                drop(log.save_producers(log.moment(), &state));
                Ok(())
            }),
            Step::Delete { log } => with(store, log, |n, _| {
                store.world.known().logs[n].next(|model| *model = Default::default());
                store.delete(id(n))?;
                store.world.known().logs[n].note_durable();
                Ok(())
            }),
            Step::SetAside { log } => with(store, log, |n, _| set_aside(store, n)),
            Step::WaitFor { log } => {
                let n = log % LOGS;
                let ticket = store.world.known().logs[n].last_ticket();
                match ticket {
                    Some(ticket) if !store.world.wait_for(id(n), ticket) => Err(LogError::Closed),
                    _ => Ok(()),
                }
            }
            Step::RequestCheckpoint => {
                store.request_checkpoint();
                Ok(())
            }
            Step::Checkpoint => {
                // So that there is something new to put in it.
                self.settle(store)?;
                store.checkpoint()
            }
            Step::Settle => self.settle(store),
        }
    }

    /// Waits until the segments hold everything.
    fn settle(&mut self, store: &Store) -> Result<(), LogError> {
        self.mark(store)?;
        store.wait_until("the segments", || store.stats().backlog_bytes == 0)
    }

    /// Appends to a log that nobody checks, and waits until that and all before it is durable.
    fn mark(&mut self, store: &Store) -> Result<(), LogError> {
        let ticket = self.append_mark(store)?;
        match store.world.wait_for(id(MARKS), ticket) {
            true => Ok(()),
            false => Err(LogError::Closed),
        }
    }

    fn append_mark(&mut self, store: &Store) -> Result<u64, LogError> {
        let log = store.get_or_create(id(MARKS), settings())?;
        self.ticket += 1;
        let mark = batch(log.log_end().0, 0, 1, 10, 0);
        log.append(self.ticket, mark).map(|()| self.ticket)
    }

    /// All the steps, as fast as the store takes them: what its threads make of them is left to
    /// chance.
    pub fn hurry(&mut self, store: &Store, steps: &[Step]) -> Result<(), LogError> {
        steps.iter().try_for_each(|step| self.step(store, step))
    }

    /// All the steps, so that the same steps always lead to the same operations of the disk: only
    /// one of the store's threads has something to do at a time. What is queued while the journal
    /// is held becomes one group.
    pub fn march(
        &mut self,
        store: &Store,
        disk: &SimDisk,
        random: &mut Random,
        steps: &[Step],
    ) -> Result<(), LogError> {
        let hold = disk.hold(Call::Write, "journal");
        let is_new = store.get(id(MARKS)).is_none();
        store.get_or_create(id(MARKS), settings())?;
        if is_new {
            store.wait_until("the held journal", || hold.is_reached())?;
        }
        hold.release();
        self.settle(store)?;
        let mut rest = steps;
        while !rest.is_empty() {
            let most = 1 + random.below(5) as usize;
            let queued = rest.iter().take(most).take_while(|step| step.is_queued());
            let (burst, behind) = rest.split_at(queued.count());
            if burst.is_empty() {
                self.alone(store, disk, &rest[0])?;
                rest = &rest[1..];
            } else {
                self.burst(store, disk, burst)?;
                rest = behind;
            }
        }
        Ok(())
    }

    fn burst(&mut self, store: &Store, disk: &SimDisk, steps: &[Step]) -> Result<(), LogError> {
        let hold = disk.hold(Call::Write, "journal");
        // The head of a burst does nothing to the disk once it is in the journal.
        self.ticket += 1;
        let head = store.get_or_create(id(HEADS), settings())?;
        head.restart_at(Offset(self.ticket as i64))?;
        store.wait_until("the held journal", || hold.is_reached())?;
        self.hurry(store, steps)?;
        let ticket = self.append_mark(store)?;
        hold.release();
        if !store.world.wait_for(id(MARKS), ticket) {
            return Err(LogError::Closed);
        }
        store.wait_until("the segments", || store.stats().backlog_bytes == 0)
    }

    fn alone(&mut self, store: &Store, disk: &SimDisk, step: &Step) -> Result<(), LogError> {
        match step {
            Step::WaitFor { .. } | Step::Settle => Ok(()),
            Step::Checkpoint | Step::RequestCheckpoint => {
                self.settle(store)?;
                let hold = disk.hold(Call::Unlink, "discarded");
                store.checkpoint()?;
                // The journal lets go of files before it writes.
                self.settle(store)?;
                hold.release();
                let discarded = Path::new(DIR).join("discarded");
                store.wait_until("the discarded files", || {
                    disk.list(&discarded).is_ok_and(|names| names.is_empty())
                })
            }
            step => {
                self.step(store, step)?;
                store.wait_until("the segments", || store.stats().backlog_bytes == 0)
            }
        }
    }

    fn append(
        &mut self,
        store: &Store,
        n: usize,
        batches: usize,
        bytes: usize,
    ) -> Result<(), LogError> {
        if store.get(id(n)).is_none() {
            store.world.known().logs[n].next(|model| model.exists = true);
        }
        let log = store.get_or_create(id(n), settings())?;
        let mut base = log.log_end().0;
        self.ticket += 1;
        let mut made = Vec::new();
        for number in 0..batches as u64 {
            let count = 1 + (self.ticket + number) as i64 % 4;
            let timestamp = 10 + self.ticket as i64 * 4;
            made.push(batch(base, self.epoch, count, bytes, timestamp));
            base += count;
        }
        {
            let mut known = store.world.known();
            known.logs[n].next(|model| model.append(&made));
            known.logs[n].note_ticket(self.ticket);
        }
        log.append(self.ticket, Bytes::from(made.concat()))
    }
}

/// Asks a log, if it is there.
fn with(
    store: &Store,
    log: usize,
    ask: impl FnOnce(usize, &PartitionLog) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let n = log % LOGS;
    match store.get(id(n)) {
        Some(log) => ask(n, &log),
        None => Ok(()),
    }
}

fn truncate(store: &Store, n: usize, log: &PartitionLog, records: i64) -> Result<(), LogError> {
    let to = (log.log_end().0 - records).max(0);
    {
        let mut known = store.world.known();
        let history = &mut known.logs[n];
        let mut cut = Model::clone(history.current());
        if to < cut.log_end {
            let first = cut.truncate(to);
            history.next(|model| *model = first);
        }
        history.next(|model| *model = cut);
    }
    log.truncate(Offset(to))
}

fn advance(
    store: &Store,
    n: usize,
    log: &PartitionLog,
    records: i64,
    ticket: Option<u64>,
) -> Result<(), LogError> {
    let to = (log.log_end().0 - records).max(0);
    {
        let mut known = store.world.known();
        let history = &mut known.logs[n];
        history.next(|model| model.log_start = model.log_start.max(to));
        if let Some(ticket) = ticket {
            history.note_ticket(ticket);
        }
    }
    match ticket {
        Some(ticket) => log.advance_log_start_told(ticket, Offset(to)),
        None => log.advance_log_start(Offset(to)),
    }
}

fn set_aside(store: &Store, n: usize) -> Result<(), LogError> {
    let before = {
        let mut known = store.world.known();
        let before = known.logs[n].current().clone();
        known.logs[n].next(|model| *model = Default::default());
        before
    };
    let path = store.set_aside(id(n))?;
    let mut known = store.world.known();
    known.logs[n].note_durable();
    known.asides.push(Aside {
        path,
        batches: before.readable().cloned().collect(),
    });
    Ok(())
}

/// Steps that a seed decides.
pub fn random_steps(random: &mut Random) -> Vec<Step> {
    let count = 15 + random.below(50);
    (0..count).map(|_| random_step(random)).collect()
}

fn random_step(random: &mut Random) -> Step {
    let log = random.below(LOGS as u64) as usize;
    match random.below(64) {
        0..34 => Step::Append {
            log,
            batches: 1 + random.below(3) as usize,
            bytes: 20 + random.below(900) as usize,
        },
        34..36 => Step::NextEpoch,
        36..39 => Step::SaveProducers { log },
        39..43 => Step::Truncate {
            log,
            records: random.below(12) as i64,
        },
        43 => Step::RestartAt {
            log,
            at: random.below(100) as i64,
        },
        44..46 => Step::AdvanceLogStart {
            log,
            records: random.below(20) as i64,
        },
        46 => Step::AdvanceLogStartTold {
            log,
            records: random.below(20) as i64,
        },
        47..49 => Step::Retention { log },
        49 => Step::Delete { log },
        50 => Step::SetAside { log },
        51..55 => Step::WaitFor { log },
        55 => Step::Skip {
            log,
            records: random.below(30) as i64,
        },
        56..60 => Step::RequestCheckpoint,
        _ => Step::Settle,
    }
}
