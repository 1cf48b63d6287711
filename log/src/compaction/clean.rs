//! Rewriting neighbouring segments into one, and handing it to the journal.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ottla_model::batch::{BatchHeader, RecordView, UnpackedBatch, empty_batches, next_batch};
use ottla_model::limits::COMPACTED_UNPACKED_BYTES_MAX;
use ottla_model::{LeaderEpoch, Offset, TimestampMs};

use super::{Compacted, Compactor, Pass};
use crate::disk::{DiskFile, OpenMode};
use crate::error::{IoContext as _, LogError};
use crate::segment::{BatchMeta, Segment, SegmentIndex};
use crate::shared::{Done, Shared};
use crate::swap::{Swap, file_name};

/// After so many bytes the new file is synced: one sync of all of it would hold up the journal's.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;
const WRITE_BYTES: usize = 256 * 1024;

/// What becomes of a batch.
enum Fate {
    Unchanged,
    /// Without some of its records, or marked with a delete horizon.
    Changed(Vec<u8>),
    Gone,
}

/// The file that is being written. What is left out becomes batches without records, so that
/// batches follow each other without a gap.
struct Output<'a> {
    shared: &'a Shared,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    segment: Segment,
    /// The offset behind the last batch.
    next: Offset,
    /// The epoch of the last batch, written or left out.
    epoch: LeaderEpoch,
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
}

impl Compactor {
    /// Rewrites a group of segments and swaps the result in; false if the log changed meanwhile in
    /// a way that forbids it.
    pub(super) fn clean_group(
        &mut self,
        pass: &Pass<'_>,
        group: std::ops::Range<usize>,
        done: &mut Compacted,
    ) -> Result<bool, LogError> {
        let segments = &pass.seen.segments[group.clone()];
        let shared = self.shared.clone();
        let token = pass.log.swap_token();
        let base = segments[0].base;
        let name = file_name(pass.log.id(), base, token);
        let path = shared.dirs.compacting.join(name);
        let written = self.write_group(pass, group.clone(), &path, done);
        let (changed, new) = match written {
            Ok(written) => written,
            Err(error) => {
                remove(&shared, &path);
                return Err(error);
            }
        };
        let before: u64 = segments.iter().map(|segment| segment.bytes).sum();
        if !changed && segments.len() == 1 {
            remove(&shared, &path);
            return Ok(true);
        }
        let SegmentIndex::Memory(index) = new.index else {
            unreachable!("a segment that is written has its index in memory");
        };
        let swap = Swap {
            token,
            end: pass.seen.end_of(group.end - 1),
            bytes: new.bytes,
            last_batch_at: new.last_batch_at,
            first_timestamp: new.first_timestamp,
            max_timestamp: new.max_timestamp,
            replaced: segments.iter().map(|segment| segment.base).collect(),
        };
        let (told, outcome) = Done::new(&shared);
        match pass.log.begin_swap(&pass.seen, swap, index, told) {
            Ok(true) => {}
            refused => {
                remove(&shared, &path);
                return refused;
            }
        }
        outcome.wait()?;
        done.replaced += segments.len();
        done.by += 1;
        done.bytes_before += before;
        done.bytes_after += new.bytes;
        Ok(true)
    }

    /// Writes what stays of the segments, durably. Returns whether anything changed.
    fn write_group(
        &mut self,
        pass: &Pass<'_>,
        group: std::ops::Range<usize>,
        path: &Path,
        done: &mut Compacted,
    ) -> Result<(bool, Segment), LogError> {
        let shared = self.shared.clone();
        let base = pass.seen.segments[group.start].base;
        let mut output = Output::create(&shared, path, base, pass.epoch_at(base))?;
        let mut changed = false;
        for index in group.clone() {
            let segment = &pass.seen.segments[index];
            let is_last = index + 1 == group.end;
            let last_batch_at = is_last.then_some(segment.last_batch_at);
            let mut position = 0;
            let mut copied = 0;
            let end = pass.seen.end_of(index);
            self.read_segment(pass.log, segment, end, &mut |header, batch| {
                let must_stay = last_batch_at == Some(position);
                position += batch.len() as u64;
                let before = output.segment.bytes;
                match pass.fate(header, batch, must_stay, done) {
                    Fate::Unchanged => output.push(batch)?,
                    Fate::Changed(bytes) => {
                        changed = true;
                        output.push(&bytes)?;
                    }
                    Fate::Gone => {
                        output.epoch = header.leader_epoch;
                        // One that has no records comes back with what is left out around it.
                        changed |= !header.is_filler();
                    }
                }
                copied += output.segment.bytes - before;
                Ok(true)
            })?;
            self.pace.spend(&shared, copied)?;
        }
        let end = pass.seen.end_of(group.end - 1);
        output.finish(end).map(|segment| (changed, segment))
    }
}

impl Pass<'_> {
    /// What becomes of a batch. One that must stay loses its records at most.
    fn fate(
        &self,
        header: &BatchHeader,
        batch: &Bytes,
        must_stay: bool,
        done: &mut Compacted,
    ) -> Fate {
        if header.attributes.is_control() {
            return Fate::Unchanged;
        }
        if header.is_filler() {
            return match self.begins_epoch(header) {
                true => Fate::Unchanged,
                false => Fate::Gone,
            };
        }
        let Ok(unpacked) = UnpackedBatch::open(batch, COMPACTED_UNPACKED_BYTES_MAX) else {
            done.unreadable_batches += 1;
            return Fate::Unchanged;
        };
        let horizon = header.delete_horizon();
        let (mut kept, mut tombstones) = (0, 0);
        let counted = unpacked.for_each(&mut |record| {
            if self.stays(record, horizon) {
                kept += 1;
                tombstones += i32::from(record.is_tombstone);
            }
        });
        if counted.is_err() {
            done.unreadable_batches += 1;
            return Fate::Unchanged;
        }
        let is_known = header.next_offset() <= self.known_to;
        let new_horizon = (tombstones > 0 && horizon.is_none() && is_known)
            .then(|| TimestampMs(self.now.0.saturating_add(self.delete_retention_ms)));
        let must_stay = must_stay || self.begins_epoch(header) || self.is_remembered(header);
        if kept == 0 && !must_stay {
            return Fate::Gone;
        }
        if kept == header.record_count && new_horizon.is_none() {
            return Fate::Unchanged;
        }
        let keep = &mut |record: &RecordView<'_>| self.stays(record, horizon);
        match unpacked.retain(new_horizon, keep) {
            Ok(bytes) => Fate::Changed(bytes),
            Err(_) => Fate::Unchanged,
        }
    }

    /// Whether a record stays, in a batch with this delete horizon.
    fn stays(&self, record: &RecordView<'_>, horizon: Option<TimestampMs>) -> bool {
        if record.offset < self.seen.log_start {
            return false;
        }
        if record.offset >= self.known_to {
            return true;
        }
        let Some(key) = record.key else {
            return false;
        };
        if self.keys.last(key).is_some_and(|last| last > record.offset) {
            return false;
        }
        !record.is_tombstone || horizon.is_none_or(|horizon| self.now < horizon)
    }

    fn begins_epoch(&self, header: &BatchHeader) -> bool {
        let starts = self
            .epochs
            .binary_search_by_key(&header.base_offset, |it| it.1);
        starts.is_ok()
    }

    /// The epoch of a batch at this offset; below the log's start, the first that is known.
    fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        let behind = self.epochs.partition_point(|(_, start)| *start <= offset);
        let epoch = self.epochs.get(behind.saturating_sub(1));
        epoch.map_or(LeaderEpoch::NONE, |(epoch, _)| *epoch)
    }

    /// Whether a producer is known by this batch.
    fn is_remembered(&self, header: &BatchHeader) -> bool {
        let last: Offset = header.last_offset();
        header.is_idempotent() && self.remembered.binary_search(&last).is_ok()
    }
}

impl Output<'_> {
    fn create<'a>(
        shared: &'a Shared,
        path: &Path,
        base: Offset,
        epoch: LeaderEpoch,
    ) -> Result<Output<'a>, LogError> {
        let file = shared.impatient_disk.open(path, OpenMode::CreateEmpty);
        Ok(Output {
            shared,
            path: path.to_owned(),
            file: file.or_log("create", path)?,
            segment: Segment::new(0, base),
            next: base,
            epoch,
            buffer: Vec::new(),
            written: 0,
            synced: 0,
        })
    }

    fn push(&mut self, batch: &[u8]) -> Result<(), LogError> {
        if let Some(header) = BatchHeader::decode(batch) {
            self.fill_to(header.base_offset);
            self.segment.push(&BatchMeta::of(&header));
            (self.next, self.epoch) = (header.next_offset(), header.leader_epoch);
        }
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        if self.written - self.synced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Goes on at `to`. No epoch begins among what was left out, or its first batch had stayed.
    fn fill_to(&mut self, to: Offset) {
        let filler = empty_batches(self.next, to, self.epoch);
        let mut rest: &[u8] = &filler;
        while let Ok((header, _, behind)) = next_batch(rest) {
            self.segment.push(&BatchMeta::of(&header));
            rest = behind;
        }
        self.buffer.extend_from_slice(&filler);
        self.next = self.next.max(to);
    }

    fn write(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = self
            .file
            .write_at(&[IoSlice::new(&self.buffer)], self.written);
        written.or_log("write", &self.path)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.file.sync_data().or_log("sync", &self.path)?;
        self.synced = self.written;
        Ok(())
    }

    /// Makes the file and its name durable; it reaches to `end`.
    fn finish(mut self, end: Offset) -> Result<Segment, LogError> {
        self.fill_to(end);
        self.write()?;
        self.sync()?;
        let dir = &self.shared.dirs.compacting;
        self.shared.disk.sync_dir(dir).or_log("sync", dir)?;
        assert!(
            self.segment.bytes == self.written && self.written > 0,
            "{} bytes were to be written, {} were",
            self.segment.bytes,
            self.written
        );
        Ok(self.segment)
    }
}

/// Removes a file that is not needed. If that fails, the next start does it.
fn remove(shared: &Shared, path: &Path) {
    if let Err(error) = shared.disk.unlink(path) {
        tracing::debug!(path = %path.display(), %error, "an unfinished compacted file stays");
    }
}
