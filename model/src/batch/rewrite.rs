//! Looking at the records of a batch without copying them, and taking some of them out: what
//! compaction needs. Offsets, sequences, epochs and the span of the batch never change.

use bytes::Bytes;

use super::header::{Attributes, BatchHeader, CRC_START, HEADER_BYTES};
use super::records::{RecordsError, unpack};
use super::varint::{put_varlong, take_varint, take_varlong};
use crate::checksum::crc32c;
use crate::ids::{LeaderEpoch, ProducerEpoch, ProducerId};
use crate::offset::Offset;
use crate::time::TimestampMs;

/// A record where it stands in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub offset: Offset,
    pub timestamp: TimestampMs,
    pub key: Option<&'a [u8]>,
    /// Without a value: on a compacted topic it deletes its key.
    pub is_tombstone: bool,
}

/// A batch whose records can be walked.
#[derive(Debug, Clone)]
pub struct UnpackedBatch {
    header: BatchHeader,
    records: Bytes,
}

/// The parts of a record that a new base timestamp does not change.
struct Parts<'a> {
    attributes: u8,
    timestamp_delta: i64,
    /// From the offset delta to the record's end.
    rest: &'a [u8],
    view: RecordView<'a>,
}

impl UnpackedBatch {
    /// Unpacks a batch whose checksum is right, into at most `limit` bytes.
    pub fn open(batch: &Bytes, limit: usize) -> Result<UnpackedBatch, RecordsError> {
        let (header, records) = unpack(batch, limit)?;
        Ok(UnpackedBatch { header, records })
    }

    pub(super) fn of(header: BatchHeader, records: Bytes) -> UnpackedBatch {
        UnpackedBatch { header, records }
    }

    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Shows every record to `visit`.
    ///
    /// # Errors
    /// The index of the first record that is malformed, or behind which offsets do not rise or
    /// leave the batch's span. Records before it were shown.
    pub fn for_each(&self, visit: &mut dyn FnMut(&RecordView<'_>)) -> Result<(), i32> {
        self.walk(&mut |parts, _| visit(&parts.view))
    }

    /// The batch with only those records that `keep` wants. With a delete horizon, the batch is
    /// marked to have been compacted with tombstones that may go at that time (KIP-534); the
    /// records' timestamps stay what they are.
    ///
    /// # Errors
    /// The index of a malformed record, or -1 if the records could not be compressed again.
    pub fn retain(
        &self,
        delete_horizon: Option<TimestampMs>,
        keep: &mut dyn FnMut(&RecordView<'_>) -> bool,
    ) -> Result<Vec<u8>, i32> {
        let mut header = self.header;
        if let Some(horizon) = delete_horizon {
            header.attributes.0 |= Attributes::DELETE_HORIZON;
            header.base_timestamp = horizon;
        }
        let shift = self
            .header
            .base_timestamp
            .0
            .wrapping_sub(header.base_timestamp.0);
        let mut kept = Vec::with_capacity(self.records.len());
        let mut count = 0;
        let mut max_timestamp = TimestampMs::NONE;
        let mut fits = true;
        self.walk(&mut |parts, raw| {
            if !keep(&parts.view) {
                return;
            }
            count += 1;
            max_timestamp = max_timestamp.max(parts.view.timestamp);
            if shift == 0 {
                kept.extend_from_slice(raw);
            } else {
                match parts.timestamp_delta.checked_add(shift) {
                    Some(delta) => put_record(&mut kept, parts, delta),
                    None => fits = false,
                }
            }
        })?;
        if !fits {
            return Err(-1);
        }
        header.record_count = count;
        if count > 0 && !header.attributes.is_log_append_time() {
            header.max_timestamp = max_timestamp;
        }
        seal(header, &kept).ok_or(-1)
    }

    fn walk(&self, visit: &mut dyn FnMut(&Parts<'_>, &[u8])) -> Result<(), i32> {
        let mut rest: &[u8] = &self.records;
        let mut lowest = 0;
        for index in 0..self.header.record_count {
            let before = rest;
            let (delta, parts) = take_record(&mut rest, &self.header).ok_or(index)?;
            if delta < lowest || delta > self.header.last_offset_delta {
                return Err(index);
            }
            lowest = delta + 1;
            visit(&parts, &before[..before.len() - rest.len()]);
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err(self.header.record_count),
        }
    }
}

/// Batches without records over all offsets from `from` up to `to`: one, or as many as it takes.
///
/// No checksum covers the offset of a batch. In a log whose batches follow each other without a
/// gap, a wrong one shows all the same: its batch overlaps another.
pub fn empty_batches(from: Offset, to: Offset, epoch: LeaderEpoch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut base = from;
    while base < to {
        let offsets = (to.0 - base.0).min(i64::from(i32::MAX));
        let header = BatchHeader {
            base_offset: base,
            size: HEADER_BYTES,
            leader_epoch: epoch,
            magic: 2,
            crc: 0,
            attributes: Attributes(0),
            last_offset_delta: (offsets - 1) as i32,
            base_timestamp: TimestampMs::NONE,
            max_timestamp: TimestampMs::NONE,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            record_count: 0,
        };
        out.extend(seal(header, &[]).unwrap_or_default());
        base = header.next_offset();
    }
    out
}

/// The batch of these records.
fn seal(mut header: BatchHeader, records: &[u8]) -> Option<Vec<u8>> {
    let compression = header.attributes.compression()?;
    let mut out = vec![0; HEADER_BYTES];
    if header.record_count == 0 {
        // There is nothing to be unpacked.
        header.attributes.0 &= !0b111;
    } else {
        compression.compress(records, &mut out).ok()?;
    }
    header.size = out.len();
    i32::try_from(header.size).ok()?;
    header.encode(&mut out);
    header.crc = crc32c(&out[CRC_START..]);
    header.encode(&mut out);
    Some(out)
}

fn put_record(out: &mut Vec<u8>, parts: &Parts<'_>, timestamp_delta: i64) {
    let length = 1 + super::varint::varlong_bytes(timestamp_delta) + parts.rest.len();
    put_varlong(out, length as i64);
    out.push(parts.attributes);
    put_varlong(out, timestamp_delta);
    out.extend_from_slice(parts.rest);
}

/// Takes a record off the front of `bytes`, with its offset delta.
fn take_record<'a>(bytes: &mut &'a [u8], header: &BatchHeader) -> Option<(i32, Parts<'a>)> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (mut body, behind) = bytes.split_at_checked(length)?;
    *bytes = behind;
    let (attributes, rest) = body.split_first()?;
    body = rest;
    let timestamp_delta = take_varlong(&mut body)?;
    let rest = body;
    let offset_delta = take_varint(&mut body)?;
    let key = take_nullable(&mut body)?;
    let value = take_nullable(&mut body)?;
    for _ in 0..u32::try_from(take_varint(&mut body)?).ok()? {
        std::str::from_utf8(take_nullable(&mut body)??).ok()?;
        take_nullable(&mut body)?;
    }
    if !body.is_empty() {
        return None;
    }
    let timestamp = if header.attributes.is_log_append_time() {
        header.max_timestamp
    } else {
        TimestampMs(header.base_timestamp.0.checked_add(timestamp_delta)?)
    };
    let view = RecordView {
        offset: header.base_offset + i64::from(offset_delta),
        timestamp,
        key,
        is_tombstone: value.is_none(),
    };
    let parts = Parts {
        attributes: *attributes,
        timestamp_delta,
        rest,
        view,
    };
    Some((offset_delta, parts))
}

/// A length and as many bytes; a length of -1 is null.
fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = take_varint(bytes)?;
    if length == -1 {
        return Some(None);
    }
    let (value, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(Some(value))
}

#[cfg(test)]
mod tests;
