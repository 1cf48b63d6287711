//! Looking records up by time.

use std::path::Path;

use bytes::Bytes;
use ottla_model::batch::{BatchHeader, decode_records};
use ottla_model::{Offset, TimestampMs};

use super::PartitionLog;
use super::read::{Place, check_range, place};
use crate::disk::DiskFile;
use crate::error::ReadError;
use crate::segment::{Scanner, SparseIndex, TimeFloor, read_batches};

/// The most bytes that one batch's records may unpack to when a record is looked for.
const UNPACKED_BYTES_MAX: usize = 256 * 1024 * 1024;

impl PartitionLog {
    /// The first record with a timestamp of `timestamp` or later, below `limit`. Blocks.
    pub fn offset_for_timestamp(
        &self,
        timestamp: TimestampMs,
        limit: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
        loop {
            let (places, cached, log_start) = self.candidates(timestamp, limit)?;
            let mut found = Ok(None);
            let mut current = true;
            for place in &places {
                found = self.find_in_segment(place, timestamp, log_start);
                current = self.is_current(place)?;
                if !current || !matches!(found, Ok(None)) {
                    break;
                }
            }
            if !current {
                continue;
            }
            if let Some(found) = found? {
                return Ok(Some(found).filter(|(offset, _)| *offset < limit));
            }
            for batch in cached {
                if let Some(found) = find_in_batch(&batch, timestamp, log_start) {
                    return Ok(Some(found).filter(|(offset, _)| *offset < limit));
                }
            }
            return Ok(None);
        }
    }

    /// The first of the records with the largest timestamp; `None` for a log without records.
    /// Blocks.
    pub fn max_timestamp(&self) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
        let most = {
            let state = self.state.lock();
            let in_tail = state
                .tail
                .from(state.disk_end)
                .map(|batch| batch.meta.max_timestamp);
            let in_segments = state
                .physical
                .segments
                .iter()
                .filter(|segment| segment.base < state.disk_end)
                .map(|segment| segment.max_timestamp);
            in_tail.chain(in_segments).max()
        };
        match most {
            Some(most) => self.offset_for_timestamp(most, Offset(i64::MAX)),
            None => Ok(None),
        }
    }

    /// Segments that may hold such a record, and batches in memory behind them that do.
    fn candidates(
        &self,
        timestamp: TimestampMs,
        limit: Offset,
    ) -> Result<(Vec<Place>, Vec<Bytes>, Offset), ReadError> {
        let state = self.state.lock();
        check_range(&state, state.log_start)?;
        let places = (0..state.physical.segments.len())
            .filter(|index| {
                let segment = &state.physical.segments[*index];
                segment.max_timestamp >= timestamp
                    && segment.base < state.disk_end.min(limit)
                    && state.physical.end_of(*index) > state.log_start
            })
            .map(|index| {
                let base = state.physical.segments[index].base;
                place(&state, index, base, limit)
            })
            .collect();
        let cached = state
            .tail
            .from(state.disk_end)
            .filter(|batch| batch.meta.max_timestamp >= timestamp && batch.meta.base < limit)
            .map(|batch| batch.bytes.clone())
            .collect();
        Ok((places, cached, state.log_start))
    }

    fn find_in_segment(
        &self,
        place: &Place,
        timestamp: TimestampMs,
        log_start: Offset,
    ) -> Result<Option<(Offset, TimestampMs)>, ReadError> {
        let (file, path) = self.open_place(place)?;
        let file = &*file;
        let wanted = Wanted {
            timestamp,
            log_start,
        };
        let index = self.index(file, place)?;
        if let Lookup::Done(found) = wanted.find(file, &path, place, &index)? {
            return Ok(found);
        }
        let index = self.index_anew(file, place)?;
        match wanted.find(file, &path, place, &index)? {
            Lookup::Done(found) => Ok(found),
            Lookup::IndexIsWrong => {
                let what = "it reads differently every time";
                Err(ReadError::damaged(&path, 0, what.to_owned()))
            }
        }
    }
}

type Found = Option<(Offset, TimestampMs)>;

/// How looking through a segment ended.
enum Lookup {
    Done(Found),
    /// The segment is not as its index says.
    IndexIsWrong,
}

/// A record that is looked for: the first of this time or later, not below the log's start.
struct Wanted {
    timestamp: TimestampMs,
    log_start: Offset,
}

impl Wanted {
    fn find(
        &self,
        file: &dyn DiskFile,
        path: &Path,
        place: &Place,
        index: &SparseIndex,
    ) -> Result<Lookup, ReadError> {
        let TimeFloor { offset, reached } = index.time_floor(self.timestamp);
        let floor = index.floor(offset.max(self.log_start));
        let mut scanner = Scanner::new(file, path, floor.at, place.bytes, floor.base);
        if !floor.holds(&mut scanner)? {
            return Ok(Lookup::IndexIsWrong);
        }
        let mut unproved = reached.filter(|_| offset >= self.log_start);
        while let Some((at, header)) = scanner.next()? {
            if header.base_offset >= place.limit {
                return Ok(Lookup::Done(None));
            }
            if let Some(reached) = unproved {
                if header.next_offset() <= offset {
                    continue;
                }
                if header.base_offset != offset || header.max_timestamp != reached {
                    return Ok(Lookup::IndexIsWrong);
                }
                unproved = None;
            }
            if header.max_timestamp < self.timestamp || header.next_offset() <= self.log_start {
                continue;
            }
            let range = at..place.bytes;
            let batch = read_batches(file, path, range, header.base_offset, place.limit, 0)?;
            let found = find_in_batch(&batch, self.timestamp, self.log_start);
            if found.is_some() {
                return Ok(Lookup::Done(found));
            }
        }
        match unproved {
            Some(_) => Ok(Lookup::IndexIsWrong),
            None => Ok(Lookup::Done(None)),
        }
    }
}

fn find_in_batch(
    batch: &Bytes,
    timestamp: TimestampMs,
    log_start: Offset,
) -> Option<(Offset, TimestampMs)> {
    let header = BatchHeader::decode(batch)?;
    match decode_records(batch, UNPACKED_BYTES_MAX) {
        Ok(records) => records
            .into_iter()
            .find(|record| record.timestamp >= timestamp && record.offset >= log_start)
            .map(|record| (record.offset, record.timestamp)),
        // Its producer wrote it so, for its checksum is right. Whoever reads from here comes
        // upon the batch, and hears what is wrong with it.
        Err(_) if header.max_timestamp >= timestamp => {
            Some((header.base_offset.max(log_start), header.max_timestamp))
        }
        Err(_) => None,
    }
}
