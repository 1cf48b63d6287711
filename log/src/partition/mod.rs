//! The log of one partition: appends, cuts and reads. Changes are taken at once, become durable
//! through the store's journal and reach the segments behind it; until then their batches are read
//! from memory.

mod apply;
mod cut;
mod epochs;
mod index_files;
mod lookup;
mod producers;
mod read;
mod retention;
mod scrub;
mod state;
mod swap;
mod tail;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use ottla_model::batch::empty_batches;
use ottla_model::{LeaderEpoch, Offset, TopicIdPartition};
use parking_lot::{Mutex, MutexGuard};

use crate::entry::{Op, encoded_bytes};
use crate::error::LogError;
use crate::segment::{BatchMeta, split_batches};
use crate::shared::{Done, Queued, Shared};
use crate::store::LogSettings;
pub(crate) use epochs::Epochs;
pub use producers::{LogMoment, SavedProducers};
pub use read::ReadOutcome;
pub(crate) use state::{Physical, State};
pub(crate) use swap::Cleanable;

/// One partition's log. All methods may be called from many threads.
#[derive(Debug)]
pub struct PartitionLog {
    id: TopicIdPartition,
    dir: PathBuf,
    me: Weak<PartitionLog>,
    shared: Arc<Shared>,
    /// Up to which offsets the producers were saved, ascending. Taken before the state, and held
    /// while their files change.
    saved_producers: Mutex<Vec<Offset>>,
    /// Taken before the state, and held while the files of segments' indexes change.
    index_files: Mutex<()>,
    state: Mutex<State>,
}

impl PartitionLog {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        id: TopicIdPartition,
        physical: Physical,
        settings: LogSettings,
    ) -> Arc<PartitionLog> {
        Arc::new_cyclic(|me| PartitionLog {
            id,
            dir: shared.dirs.of(id),
            me: me.clone(),
            shared: shared.clone(),
            saved_producers: Mutex::default(),
            index_files: Mutex::default(),
            state: Mutex::new(State::new(physical, settings)),
        })
    }

    pub fn id(&self) -> TopicIdPartition {
        self.id
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// The first offset that can be read.
    pub fn log_start(&self) -> Offset {
        self.state.lock().log_start
    }

    /// The offset that the next record will have.
    pub fn log_end(&self) -> Offset {
        self.state.lock().log_end
    }

    /// Bytes of batches, in segments and on their way there.
    pub fn size_bytes(&self) -> u64 {
        let state = self.state.lock();
        state.physical.bytes() + state.tail.bytes_from(state.disk_end)
    }

    /// The first offset of each leader epoch in the log, both ascending.
    pub fn epochs(&self) -> Vec<(LeaderEpoch, Offset)> {
        self.state.lock().epochs.entries().to_vec()
    }

    pub fn settings(&self) -> LogSettings {
        self.state.lock().settings
    }

    pub fn set_settings(&self, settings: LogSettings) {
        self.state.lock().settings = settings;
    }

    /// Appends whole, valid, stamped batches, the first of which starts at the log's end. They can
    /// be read at once; they are durable when the store's observer has been told of `ticket`.
    /// Tickets of one log must not fall. Changes of one log enter the journal in the order of
    /// these calls.
    ///
    /// # Errors
    /// Nothing is changed if the batches do not continue the log, are malformed, carry a leader
    /// epoch below the log's last, or are too large for the journal.
    pub fn append(&self, ticket: u64, batches: Bytes) -> Result<(), LogError> {
        self.append_batches(ticket, batches, false)
    }

    /// Like [`PartitionLog::append`], for batches that another replica holds: between them, and
    /// between the log's end and the first, offsets may be missing that compaction removed there.
    /// Batches without records take their place.
    pub fn append_replicated(&self, ticket: u64, batches: Bytes) -> Result<(), LogError> {
        self.append_batches(ticket, batches, true)
    }

    fn append_batches(&self, ticket: u64, batches: Bytes, gaps: bool) -> Result<(), LogError> {
        let mut metas = self.split(&batches)?;
        let mut batches = batches;
        let mut state = self.lock_present()?;
        self.check_continues(&state, &metas, gaps)?;
        if let Some(filled) = filled(&state, &batches, &metas) {
            batches = filled;
            metas = self.split(&batches)?;
        }
        self.take_in(&mut state, ticket, batches, metas)
    }

    fn split(&self, batches: &Bytes) -> Result<Vec<BatchMeta>, LogError> {
        split_batches(batches).map_err(|(at, source)| LogError::Batch {
            id: self.id,
            at,
            source,
        })
    }

    /// Puts batches that continue the log in the journal's queue and in memory.
    fn take_in(
        &self,
        state: &mut State,
        ticket: u64,
        batches: Bytes,
        metas: Vec<BatchMeta>,
    ) -> Result<(), LogError> {
        let Some(first) = metas.first() else {
            return Ok(());
        };
        let first = first.base;
        let op = Op::Append {
            ticket,
            bytes: batches.clone(),
            metas: metas.clone(),
        };
        self.check_size(&op)?;
        self.enqueue(op, None)?;
        state.last_ticket = ticket;
        self.shared
            .cached_bytes
            .fetch_add(batches.len() as u64, Ordering::Relaxed);
        state.goes_on_at(first);
        state.appended_bytes += batches.len() as u64;
        let mut at = 0;
        for meta in metas {
            state.epochs.note(meta.epoch, meta.base);
            state.log_end = meta.next;
            state.tail.push(meta, batches.slice(at..at + meta.size));
            at += meta.size;
        }
        Ok(())
    }

    fn check_continues(
        &self,
        state: &State,
        metas: &[BatchMeta],
        gaps: bool,
    ) -> Result<(), LogError> {
        let mut log_end = state.log_end;
        let mut last = state.last_epoch();
        for meta in metas {
            if meta.base < log_end || (meta.base > log_end && !gaps) {
                return Err(LogError::NotContinuing {
                    id: self.id,
                    base: meta.base,
                    log_end,
                });
            }
            if meta.epoch < last {
                return Err(LogError::EpochWentBack {
                    id: self.id,
                    epoch: meta.epoch,
                    last,
                });
            }
            log_end = meta.next;
            last = meta.epoch;
        }
        Ok(())
    }

    fn check_size(&self, op: &Op) -> Result<(), LogError> {
        // A frame's header and padding need room in the file too.
        let limit = self.shared.config.journal_file_bytes - 64;
        let bytes = encoded_bytes(op) as u64;
        if bytes > limit {
            return Err(LogError::TooLarge { bytes, limit });
        }
        Ok(())
    }

    /// Removes everything at and above `to`. A batch that contains `to` goes whole, so the log may
    /// end below it. May read a few blocks from disk.
    pub fn truncate(&self, to: Offset) -> Result<(), LogError> {
        let to = to.max(Offset::ZERO);
        loop {
            let cut = self.find_cut(to).map_err(|source| LogError::Read {
                id: self.id,
                source: Box::new(source),
            })?;
            let mut state = self.lock_present()?;
            // Another thread may have cut the log meanwhile, and batches may lie otherwise now.
            if state.cuts != cut.seen {
                continue;
            }
            if to >= state.log_end {
                return Ok(());
            }
            let bytes = if cut.log_end <= state.log_start {
                let at = to.min(state.log_start);
                self.enqueue(Op::Restart(at), None)?;
                state.restart(at)
            } else {
                let batches_end = cut.batches_end.max(state.log_start);
                self.enqueue(Op::Truncate(batches_end), None)?;
                let bytes = state.cut(batches_end);
                self.go_on_at(&mut state, cut.log_end)?;
                bytes
            };
            self.uncache(bytes);
            return Ok(());
        }
    }

    /// Drops everything; the log continues at `offset`.
    pub fn restart_at(&self, offset: Offset) -> Result<(), LogError> {
        let offset = offset.max(Offset::ZERO);
        let mut state = self.lock_present()?;
        self.enqueue(Op::Restart(offset), None)?;
        let bytes = state.restart(offset);
        self.uncache(bytes);
        Ok(())
    }

    /// Moves the log's start up to `to`; segments wholly below it are deleted. Nothing happens if
    /// the log starts there or later.
    ///
    /// # Errors
    /// [`LogError::LogStartBeyondEnd`] if the log ends before `to`.
    pub fn advance_log_start(&self, to: Offset) -> Result<(), LogError> {
        self.move_log_start(to, None)
    }

    /// Like [`PartitionLog::advance_log_start`]; the store's observer is told of `ticket` when the
    /// new start is durable, so that no restart brings back what was below it.
    pub fn advance_log_start_told(&self, ticket: u64, to: Offset) -> Result<(), LogError> {
        self.move_log_start(to, Some(ticket))
    }

    fn move_log_start(&self, to: Offset, ticket: Option<u64>) -> Result<(), LogError> {
        let mut state = self.lock_present()?;
        if to <= state.log_start && ticket.is_none() {
            return Ok(());
        }
        if to > state.log_end {
            return Err(LogError::LogStartBeyondEnd {
                id: self.id,
                to,
                log_end: state.log_end,
            });
        }
        self.enqueue(Op::LogStart { to, ticket }, None)?;
        if to > state.log_start {
            state.log_start = to;
            state.epochs.trim(to);
        }
        Ok(())
    }

    /// The log goes on at `to`: another replica holds no records between this log's end and
    /// there. Nothing happens if the log reaches that far.
    pub fn skip_to(&self, to: Offset) -> Result<(), LogError> {
        let mut state = self.lock_present()?;
        self.go_on_at(&mut state, to)
    }

    fn go_on_at(&self, state: &mut State, to: Offset) -> Result<(), LogError> {
        if to <= state.log_end {
            return Ok(());
        }
        if state.epochs.entries().is_empty() {
            self.enqueue(Op::Skip(to), None)?;
            state.skip(to);
            return Ok(());
        }
        let filler = Bytes::from(empty_batches(state.log_end, to, state.last_epoch()));
        let metas = self.split(&filler)?;
        // Whoever is told of that ticket again has heard of it before, or will soon.
        let ticket = state.last_ticket;
        self.take_in(state, ticket, filler, metas)
    }

    /// Puts the log's end in the journal: nothing can follow. What `op` says happens to the files.
    pub(crate) fn leave(&self, op: Op, done: Option<Done>) -> Result<(), LogError> {
        let mut state = self.lock_present()?;
        self.enqueue(op, done)?;
        state.gone = true;
        let bytes = state.tail.cut(Offset(i64::MIN));
        self.uncache(bytes);
        Ok(())
    }

    /// Puts the log's beginning in the journal.
    pub(crate) fn announce(&self) -> Result<(), LogError> {
        self.enqueue(Op::Create, None)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn lock_present(&self) -> Result<MutexGuard<'_, State>, LogError> {
        let state = self.state.lock();
        if state.gone {
            return Err(LogError::Gone { id: self.id });
        }
        Ok(state)
    }

    fn enqueue(&self, op: Op, done: Option<Done>) -> Result<(), LogError> {
        let Some(log) = self.me.upgrade() else {
            return Err(LogError::Gone { id: self.id });
        };
        let bytes = encoded_bytes(&op);
        let queued = Queued { log, op, done };
        self.shared
            .journal
            .push(queued, bytes)
            .map_err(|_| self.shared.why_closed())
    }

    fn uncache(&self, bytes: u64) {
        self.shared.cached_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Drops batches from memory that end at or below `to` and are in segments, until `enough`
    /// bytes are gone. Whether more could go.
    pub(crate) fn evict(&self, to: Offset, enough: u64) -> bool {
        let mut state = self.state.lock();
        let (bytes, more) = state.evict(to, enough);
        self.uncache(bytes);
        more
    }
}

/// The batches with others without records where offsets are missing; `None` where none is. An
/// empty log begins with the first batch.
fn filled(state: &State, batches: &Bytes, metas: &[BatchMeta]) -> Option<Bytes> {
    let mut next = match state.epochs.entries().is_empty() {
        true => metas.first()?.base,
        false => state.log_end,
    };
    let bases = metas.iter().map(|meta| meta.base);
    let ends = std::iter::once(next).chain(metas.iter().map(|meta| meta.next));
    if bases.eq(ends.take(metas.len())) {
        return None;
    }
    let mut epoch = state.last_epoch();
    let mut out = Vec::new();
    let mut at = 0;
    for meta in metas {
        out.extend(empty_batches(next, meta.base, epoch));
        out.extend_from_slice(&batches[at..at + meta.size]);
        at += meta.size;
        (next, epoch) = (meta.next, meta.epoch);
    }
    Some(Bytes::from(out))
}
