//! What a log must be: its batches after each call, and which of those states a crash may leave.

use std::sync::Arc;

use bytes::Bytes;
use ottla_log::PartitionLog;
use ottla_log::ReadError;
use ottla_model::batch::{
    BatchBuilder, BatchHeader, NewRecord, decode_records, empty_batches, next_batch, stamp,
};
use ottla_model::compression::Compression;
use ottla_model::{LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId, TopicIdPartition};

/// Small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

pub fn id(partition: usize) -> TopicIdPartition {
    let partition = PartitionIndex(partition as i32);
    TopicIdPartition::new(TopicId::from_bytes([9; 16]), partition)
}

/// A stamped batch of `count` records, about `bytes` large, whose timestamps rise by one from
/// `timestamp`.
pub fn batch(base: i64, epoch: i32, count: i64, bytes: usize, timestamp: i64) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![base as u8; bytes / count as usize];
    for index in 0..count {
        let record = NewRecord {
            timestamp: TimestampMs(timestamp + index),
            value: Some(&value),
            ..NewRecord::default()
        };
        builder.push(&record).unwrap();
    }
    let mut batch = builder.build().unwrap().to_vec();
    stamp(&mut batch, Offset(base), LeaderEpoch(epoch), None);
    Bytes::from(batch)
}

fn header(batch: &Bytes) -> BatchHeader {
    BatchHeader::decode(batch).unwrap()
}

/// One state of one log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Model {
    pub exists: bool,
    pub log_start: i64,
    pub log_end: i64,
    pub batches: Vec<Bytes>,
    /// That of the last batch, if there has been one.
    pub last_epoch: Option<LeaderEpoch>,
}

impl Model {
    /// What [`PartitionLog::truncate`] leaves below the last log end, in up to two entries: what
    /// there is after each.
    pub fn truncate(&mut self, to: i64) -> Model {
        let mut end = to;
        while let Some(last) = self.batches.last().map(header) {
            if last.next_offset().0 <= end {
                break;
            }
            let is_split = last.is_filler() && last.base_offset.0 < to;
            end = if is_split {
                end
            } else {
                end.min(last.base_offset.0)
            };
            self.batches.pop();
        }
        if end <= self.log_start {
            self.restart(to.min(self.log_start));
            return self.clone();
        }
        let batches_end = self.batches.last().map(|last| header(last).next_offset().0);
        self.log_end = batches_end.map_or(self.log_start, |end| end.max(self.log_start));
        self.last_epoch = self.readable().last().map(|last| header(last).leader_epoch);
        let first = self.clone();
        self.go_on_at(end);
        first
    }

    /// What [`PartitionLog::skip_to`] does.
    pub fn go_on_at(&mut self, to: i64) {
        if let Some(epoch) = self.last_epoch {
            let filler = empty_batches(Offset(self.log_end), Offset(to), epoch);
            if !filler.is_empty() {
                self.batches.push(Bytes::from(filler));
            }
        }
        self.log_end = self.log_end.max(to);
    }

    pub fn restart(&mut self, at: i64) {
        self.batches.clear();
        self.last_epoch = None;
        self.log_start = at;
        self.log_end = at;
    }

    pub fn append(&mut self, batches: &[Bytes]) {
        for batch in batches {
            self.log_end = header(batch).next_offset().0;
            self.last_epoch = Some(header(batch).leader_epoch);
            self.batches.push(batch.clone());
        }
    }

    /// What the matrix saves as the producers' state: each batch's place and checksum. Those below
    /// the log's start are still known, as producers are; a crash may take the new start back.
    pub fn producers(&self) -> Vec<u8> {
        let batches = self.batches.iter().map(header);
        batches
            .flat_map(|batch| {
                [
                    batch.base_offset.0,
                    batch.next_offset().0,
                    i64::from(batch.crc),
                ]
            })
            .flat_map(i64::to_be_bytes)
            .collect()
    }

    /// What is kept of the producers speaks of the batches that are there, and of all of them.
    pub fn check_producers(&self, log: &PartitionLog) -> Result<(), String> {
        let Some(saved) = log.saved_producers() else {
            return Ok(());
        };
        let numbers = saved.state.chunks(8);
        let numbers: Vec<_> = numbers
            .map(|number| i64::from_be_bytes(number.try_into().unwrap()))
            .collect();
        let of_saved = numbers.chunks(3).filter(|batch| batch[1] > self.log_start);
        let here: Vec<_> = self
            .readable()
            .map(header)
            .filter(|batch| batch.base_offset < saved.upto)
            .map(|batch| {
                vec![
                    batch.base_offset.0,
                    batch.next_offset().0,
                    i64::from(batch.crc),
                ]
            })
            .collect();
        if of_saved.eq(here.iter().map(Vec::as_slice)) {
            return Ok(());
        }
        Err(format!(
            "producers of {numbers:?} are kept up to {} of {}",
            saved.upto,
            self.describe()
        ))
    }

    /// Batches that a reader from the log's start sees.
    pub fn readable(&self) -> impl Iterator<Item = &Bytes> {
        self.batches
            .iter()
            .filter(|batch| header(batch).next_offset().0 > self.log_start)
    }

    /// The first offset of each leader epoch, after the batches.
    fn epochs(&self) -> Vec<(LeaderEpoch, Offset)> {
        let mut epochs: Vec<(LeaderEpoch, Offset)> = Vec::new();
        for batch in self.readable() {
            let header = header(batch);
            if epochs
                .last()
                .is_none_or(|last| last.0 < header.leader_epoch)
            {
                let start = header.base_offset.max(Offset(self.log_start));
                epochs.push((header.leader_epoch, start));
            }
        }
        epochs
    }

    fn first_at(&self, timestamp: i64) -> Option<(Offset, TimestampMs)> {
        let records = self
            .readable()
            .flat_map(|batch| decode_records(batch, 1 << 20).unwrap());
        records
            .map(|record| (record.offset, record.timestamp))
            .find(|(offset, at)| at.0 >= timestamp && offset.0 >= self.log_start)
    }

    pub fn describe(&self) -> String {
        let bases: Vec<_> = self.readable().map(|b| header(b).base_offset.0).collect();
        let (start, end) = (self.log_start, self.log_end);
        match self.exists {
            true => format!("{start}..{end} with batches at {bases:?}"),
            false => "none".to_owned(),
        }
    }

    /// What a log that is there holds.
    pub fn of(log: Option<&PartitionLog>) -> Result<Model, ReadError> {
        let Some(log) = log else {
            return Ok(Model::default());
        };
        Ok(Model {
            exists: true,
            log_start: log.log_start().0,
            log_end: log.log_end().0,
            batches: read_all(log)?,
            last_epoch: log.epochs().last().map(|(epoch, _)| *epoch),
        })
    }

    /// Whether a log that was found is in this state.
    pub fn is(&self, found: &Model) -> bool {
        self.exists == found.exists
            && self.log_start == found.log_start
            && self.log_end == found.log_end
            && self.readable().eq(found.readable())
    }

    /// What cannot be seen from the batches alone: epochs, and records looked up by time.
    pub fn check_lookups(&self, log: &PartitionLog) -> Result<(), String> {
        let epochs = self.epochs();
        if let Some((_, first)) = epochs.first()
            && epochs_from(*first, log.epochs()) != epochs
        {
            return Err(format!("epochs {:?}, not {epochs:?}", log.epochs()));
        }
        let Some(last) = self.readable().last() else {
            return Ok(());
        };
        let last = header(last).max_timestamp.0;
        for timestamp in [0, last / 3, last / 2, last - 1, last, last + 1] {
            let expected = self.first_at(timestamp);
            let found = log
                .offset_for_timestamp(TimestampMs(timestamp), Offset(i64::MAX))
                .map_err(|error| error.to_string())?;
            if found != expected {
                return Err(format!(
                    "the record at {timestamp} is {found:?}, not {expected:?}"
                ));
            }
        }
        Ok(())
    }
}

/// What epochs say of the offsets from `first` on. A log that starts where it has no records may
/// remember the epoch of those before.
fn epochs_from(
    first: Offset,
    mut epochs: Vec<(LeaderEpoch, Offset)>,
) -> Vec<(LeaderEpoch, Offset)> {
    let before = epochs.partition_point(|(_, start)| *start <= first);
    epochs.drain(..before.saturating_sub(1));
    if let Some(entry) = epochs.first_mut() {
        entry.1 = entry.1.max(first);
    }
    epochs
}

/// Everything from the log's start to its end.
pub fn read_all(log: &PartitionLog) -> Result<Vec<Bytes>, ReadError> {
    let mut batches = Vec::new();
    let mut next = log.log_start();
    loop {
        let pieces = log.read_blocking(next, Offset(i64::MAX), 1000)?;
        if pieces.is_empty() {
            return Ok(batches);
        }
        for piece in pieces {
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let (header, batch, behind) = next_batch(rest).unwrap();
                batches.push(Bytes::copy_from_slice(batch));
                next = header.next_offset();
                rest = behind;
            }
        }
    }
}

/// All that a log has been in one life of the process.
#[derive(Debug, Clone)]
pub struct History {
    pub id: TopicIdPartition,
    states: Vec<Arc<Model>>,
    /// States that were noted only after they could reach the disk.
    late: Vec<usize>,
    /// States before it are no longer what a crash may leave.
    durable: usize,
    /// For each ticket, the state it led to.
    tickets: Vec<(u64, usize)>,
}

/// Which states of a history a crash at some point may leave.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    durable: usize,
    known: usize,
}

impl History {
    pub fn new(id: TopicIdPartition) -> History {
        History {
            id,
            states: vec![Arc::default()],
            late: Vec::new(),
            durable: 0,
            tickets: Vec::new(),
        }
    }

    pub fn current(&self) -> &Arc<Model> {
        &self.states[self.states.len() - 1]
    }

    /// Notes a call that is about to be made.
    pub fn next(&mut self, change: impl FnOnce(&mut Model)) {
        let mut model = Model::clone(self.current());
        change(&mut model);
        self.states.push(Arc::new(model));
    }

    /// Notes a call whose outcome only its return has told.
    pub fn next_late(&mut self, change: impl FnOnce(&mut Model)) {
        self.late.push(self.states.len());
        self.next(change);
    }

    /// The last call's append has this ticket.
    pub fn note_ticket(&mut self, ticket: u64) {
        self.tickets.push((ticket, self.states.len() - 1));
    }

    pub fn last_ticket(&self) -> Option<u64> {
        self.tickets.last().map(|(ticket, _)| *ticket)
    }

    pub fn note_flushed(&mut self, ticket: u64) {
        let flushed = self
            .tickets
            .iter()
            .rev()
            .find(|(given, _)| *given <= ticket);
        if let Some((_, state)) = flushed {
            self.durable = self.durable.max(*state);
        }
    }

    /// Everything so far is durable.
    pub fn note_durable(&mut self) {
        self.durable = self.states.len() - 1;
    }

    pub fn bounds(&self) -> Bounds {
        Bounds {
            durable: self.durable,
            known: self.states.len(),
        }
    }

    /// The states that may be left.
    pub fn possible(&self, bounds: Bounds) -> &[Arc<Model>] {
        let mut end = bounds.known;
        while self.late.contains(&end) {
            end += 1;
        }
        &self.states[bounds.durable..end]
    }

    /// A history that begins where a crash within these bounds has left this one.
    pub fn after_crash(&self, bounds: Bounds) -> History {
        History {
            states: self.possible(bounds).to_vec(),
            ..History::new(self.id)
        }
    }

    /// The process has started again and found this; it is durable.
    pub fn note_recovered(&mut self, found: Model) {
        self.states.push(Arc::new(found));
        self.note_durable();
    }
}
