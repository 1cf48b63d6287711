//! Batches that are wrong in one way each, with a checksum that is right unless it is meant not to
//! be, so that each is refused for its own fault.

use bytes::Bytes;
use ottla_model::batch::{BatchBuilder, NewRecord};
use ottla_model::compression::Compression;
use ottla_model::{ErrorCode, TimestampMs};
use ottla_model::{ProducerEpoch, ProducerId};

const LENGTH: usize = 8;
const MAGIC: usize = 16;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const LAST_OFFSET_DELTA: usize = 23;
const BASE_TIMESTAMP: usize = 27;
const MAX_TIMESTAMP: usize = 35;
const PRODUCER_ID: usize = 43;
const PRODUCER_EPOCH: usize = 51;
const BASE_SEQUENCE: usize = 53;
const RECORD_COUNT: usize = 57;
const HEADER_BYTES: usize = 61;

/// A batch of one record with this value.
pub fn good(value: &[u8]) -> Bytes {
    builder(value).build().expect("a batch")
}

/// A batch of an idempotent producer.
pub fn of_producer(id: i64, epoch: i16, sequence: i32) -> Bytes {
    let mut builder = builder(b"v");
    builder.set_producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    builder.build().expect("a batch")
}

fn builder(value: &[u8]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .push(&NewRecord {
            timestamp: TimestampMs(1_700_000_000_000),
            value: Some(value),
            ..NewRecord::default()
        })
        .expect("a record");
    builder
}

/// Batches that are damaged or contradict themselves, with what is wrong.
pub fn damaged() -> Vec<(&'static str, Bytes)> {
    let batch = good(b"value");
    let size = batch.len();
    let mut longer = batch.to_vec();
    longer.push(0);
    vec![
        ("nothing at all", Bytes::new()),
        ("half a header", batch.slice(..30)),
        ("the last byte missing", batch.slice(..size - 1)),
        ("a byte too many", longer.into()),
        ("two batches", [&batch[..], &batch[..]].concat().into()),
        ("a wrong checksum", patched(&batch, CRC, &[0; 4])),
        ("length 0", patched(&batch, LENGTH, &0i32.to_be_bytes())),
        ("length -1", patched(&batch, LENGTH, &(-1i32).to_be_bytes())),
        (
            "a huge length",
            patched(&batch, LENGTH, &i32::MAX.to_be_bytes()),
        ),
        ("magic 0", patched(&batch, MAGIC, &[0])),
        ("magic 1", patched(&batch, MAGIC, &[1])),
        ("magic 3", patched(&batch, MAGIC, &[3])),
        (
            "no record",
            resealed(&batch, RECORD_COUNT, &0i32.to_be_bytes()),
        ),
        (
            "-1 records",
            resealed(&batch, RECORD_COUNT, &(-1i32).to_be_bytes()),
        ),
        (
            "a record missing",
            resealed(&batch, RECORD_COUNT, &2i32.to_be_bytes()),
        ),
        (
            "a huge count",
            resealed(&batch, RECORD_COUNT, &i32::MAX.to_be_bytes()),
        ),
        (
            "a gap",
            resealed(&batch, LAST_OFFSET_DELTA, &7i32.to_be_bytes()),
        ),
        (
            "no such compression",
            resealed(&batch, ATTRIBUTES, &7i16.to_be_bytes()),
        ),
        (
            "a record's huge length",
            resealed(&batch, HEADER_BYTES, &[0xff]),
        ),
    ]
}

/// Sound batches that no producer may write, with the code of the refusal.
pub fn not_for_producers() -> Vec<(&'static str, ErrorCode, Bytes)> {
    let batch = good(b"value");
    let record = ErrorCode::InvalidRecord;
    let time = ErrorCode::InvalidTimestamp;
    let attributes = |bits: u16| resealed(&batch, ATTRIBUTES, &bits.to_be_bytes());
    let max_timestamp = |ms: i64| resealed(&batch, MAX_TIMESTAMP, &ms.to_be_bytes());
    let at = |ms: i64| {
        // One record whose own time is that of its batch.
        let moved = resealed(&batch, BASE_TIMESTAMP, &ms.to_be_bytes());
        resealed(&moved, MAX_TIMESTAMP, &ms.to_be_bytes())
    };
    vec![
        ("a control batch", record, attributes(0x20)),
        (
            "a transactional batch",
            ErrorCode::UnsupportedVersion,
            attributes(0x10),
        ),
        ("a claimed append time", time, attributes(0x08)),
        ("a delete horizon", record, attributes(0x40)),
        ("an attribute of nobody's", record, attributes(0x8000)),
        (
            "an offset of its own",
            record,
            patched(&batch, 0, &7i64.to_be_bytes()),
        ),
        (
            "a sequence of no producer",
            record,
            resealed(&batch, BASE_SEQUENCE, &3i32.to_be_bytes()),
        ),
        (
            "an epoch of no producer",
            record,
            resealed(&batch, PRODUCER_EPOCH, &0i16.to_be_bytes()),
        ),
        (
            "a producer without epoch and sequence",
            record,
            resealed(&batch, PRODUCER_ID, &9i64.to_be_bytes()),
        ),
        ("a greatest time that no record has", time, max_timestamp(1)),
        ("the end of time", time, at(i64::MAX)),
        ("the beginning of time", time, at(i64::MIN)),
        ("a time before 1970", time, at(-2)),
        ("a time in the year 3000", time, at(32_503_680_000_000)),
    ]
}

/// Sealed batches whose records no consumer could read.
pub fn unreadable() -> Vec<(&'static str, Bytes)> {
    let batch = good(b"value");
    // Behind the record's length, attributes and two deltas stands the length of its key.
    let key_length = HEADER_BYTES + 4;
    vec![
        (
            "a key longer than its record",
            resealed(&batch, key_length, &[0x7e]),
        ),
        (
            "a key of a negative length",
            resealed(&batch, key_length, &[0x03]),
        ),
    ]
}

fn patched(batch: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let mut bytes = batch.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes.into()
}

/// Patches a batch and gives it the checksum of what it is now.
fn resealed(batch: &Bytes, at: usize, with: &[u8]) -> Bytes {
    let changed = patched(batch, at, with);
    let crc = crc32c(&changed[ATTRIBUTES..]);
    patched(&changed, CRC, &crc.to_be_bytes())
}

/// CRC-32C (Castagnoli), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
