//! The entries of the journal: every change of every log, in order. Persisted; numbers of kinds
//! are never reused.
//!
//! One byte of kind, sixteen of topic id, four of partition; then the batches of an append, the
//! eight bytes of the offset of a truncation, restart, log start or skip, a swap, or nothing.

use bytes::Bytes;
use ottla_model::{Offset, PartitionIndex, TopicId, TopicIdPartition};

use crate::segment::{BatchMeta, SparseIndex};
use crate::swap::Swap;

const HEADER_BYTES: usize = 21;
const CREATE: u8 = 1;
const APPEND: u8 = 2;
const TRUNCATE: u8 = 3;
const RESTART: u8 = 4;
const LOG_START: u8 = 5;
const DELETE: u8 = 6;
const SET_ASIDE: u8 = 7;
const SWAP: u8 = 8;
const SKIP: u8 = 9;

/// A change of one log.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Create,
    Append {
        ticket: u64,
        bytes: Bytes,
        metas: Vec<BatchMeta>,
    },
    /// Everything at and above the offset goes; it is the base of a batch, or the log's end.
    Truncate(Offset),
    /// Everything goes, and the log continues at the offset.
    Restart(Offset),
    LogStart {
        to: Offset,
        /// Told to the observer when it is durable, like an append's.
        ticket: Option<u64>,
    },
    Delete,
    /// A compacted segment takes the place of others.
    Swap {
        swap: Swap,
        index: SparseIndex,
    },
    /// The log goes on at the offset; there are no records between its end and there.
    Skip(Offset),
    /// The log leaves the store, and its files are kept at this path below the store's directory.
    SetAside(String),
}

/// What a journal entry says, as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Create,
    Append(Bytes),
    Truncate(Offset),
    Restart(Offset),
    LogStart(Offset),
    Delete,
    SetAside(String),
    Swap(Swap),
    Skip(Offset),
}

/// The parts of the entry's payload.
pub(crate) fn encode(id: TopicIdPartition, op: &Op) -> Vec<Bytes> {
    let (kind, offset) = match op {
        Op::Create => (CREATE, None),
        Op::Append { .. } => (APPEND, None),
        Op::Truncate(to) => (TRUNCATE, Some(*to)),
        Op::Restart(at) => (RESTART, Some(*at)),
        Op::LogStart { to, .. } => (LOG_START, Some(*to)),
        Op::Delete => (DELETE, None),
        Op::SetAside(_) => (SET_ASIDE, None),
        Op::Swap { .. } => (SWAP, None),
        Op::Skip(to) => (SKIP, Some(*to)),
    };
    let mut header = Vec::with_capacity(HEADER_BYTES + 8);
    header.push(kind);
    header.extend(id.topic.as_bytes());
    header.extend(id.partition.0.to_be_bytes());
    if let Some(offset) = offset {
        header.extend(offset.0.to_be_bytes());
    }
    if let Op::Swap { swap, .. } = op {
        swap.encode(&mut header);
    }
    match op {
        Op::Append { bytes, .. } => vec![Bytes::from(header), bytes.clone()],
        Op::SetAside(name) => vec![Bytes::from(header), Bytes::from(name.clone())],
        _ => vec![Bytes::from(header)],
    }
}

/// The bytes that the entry's payload has.
pub(crate) fn encoded_bytes(op: &Op) -> usize {
    HEADER_BYTES
        + match op {
            Op::Create | Op::Delete => 0,
            Op::Append { bytes, .. } => bytes.len(),
            Op::Truncate(_) | Op::Restart(_) | Op::LogStart { .. } | Op::Skip(_) => 8,
            Op::Swap { swap, .. } => swap.encoded_bytes(),
            Op::SetAside(name) => name.len(),
        }
}

/// Reads an entry, or `None` if it is none that this version knows.
pub(crate) fn decode(payload: &Bytes) -> Option<(TopicIdPartition, Entry)> {
    let header: &[u8; HEADER_BYTES] = payload.first_chunk()?;
    let topic = TopicId::from_slice(&header[1..17])?;
    let partition = PartitionIndex(i32::from_be_bytes(*header[17..].first_chunk()?));
    let rest = payload.slice(HEADER_BYTES..);
    let offset = || {
        let bytes: [u8; 8] = rest[..].try_into().ok()?;
        Some(Offset(i64::from_be_bytes(bytes)))
    };
    let entry = match header[0] {
        CREATE if rest.is_empty() => Entry::Create,
        APPEND => Entry::Append(rest),
        TRUNCATE => Entry::Truncate(offset()?),
        RESTART => Entry::Restart(offset()?),
        LOG_START => Entry::LogStart(offset()?),
        DELETE if rest.is_empty() => Entry::Delete,
        SWAP => Entry::Swap(Swap::decode(&rest)?),
        SKIP => Entry::Skip(offset()?),
        SET_ASIDE => Entry::SetAside(String::from_utf8(rest.to_vec()).ok()?),
        _ => return None,
    };
    Some((TopicIdPartition::new(topic, partition), entry))
}

#[cfg(test)]
mod tests {
    use ottla_model::TimestampMs;

    use super::*;

    fn swap() -> Swap {
        Swap {
            token: 9,
            end: Offset(20),
            bytes: 300,
            last_batch_at: 200,
            first_timestamp: TimestampMs(10),
            max_timestamp: TimestampMs(11),
            replaced: vec![Offset(6), Offset(12)],
        }
    }

    #[test]
    fn the_bytes_of_an_entry_never_change() {
        let id = TopicIdPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(258));
        let head = |kind: &str| format!("{kind}{}00000102", "07".repeat(16));
        let append = Op::Append {
            ticket: 1,
            bytes: Bytes::from_static(&[0xab]),
            metas: Vec::new(),
        };
        let swap = swap();
        let cases = [
            (Op::Create, Entry::Create, head("01")),
            (
                append,
                Entry::Append(Bytes::from_static(&[0xab])),
                head("02") + "ab",
            ),
            (
                Op::Truncate(Offset(5)),
                Entry::Truncate(Offset(5)),
                head("03") + "0000000000000005",
            ),
            (
                Op::Restart(Offset(6)),
                Entry::Restart(Offset(6)),
                head("04") + "0000000000000006",
            ),
            (
                Op::LogStart {
                    to: Offset(7),
                    ticket: Some(3),
                },
                Entry::LogStart(Offset(7)),
                head("05") + "0000000000000007",
            ),
            (Op::Delete, Entry::Delete, head("06")),
            (
                Op::SetAside("a".to_owned()),
                Entry::SetAside("a".to_owned()),
                head("07") + "61",
            ),
            (
                Op::Swap {
                    swap: swap.clone(),
                    index: SparseIndex::new(Offset(6)),
                },
                Entry::Swap(swap),
                head("08")
                    + "00000000000000090000000000000014000000000000012c00000000000000c8"
                    + "000000000000000a000000000000000b0000000000000006000000000000000c",
            ),
            (
                Op::Skip(Offset(8)),
                Entry::Skip(Offset(8)),
                head("09") + "0000000000000008",
            ),
        ];
        for (op, entry, expected) in cases {
            let payload = encode(id, &op).concat();
            let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected);
            assert_eq!(payload.len(), encoded_bytes(&op));
            assert_eq!(decode(&Bytes::from(payload)), Some((id, entry)));
        }
    }
}
