//! What the journal says of segments that compaction replaced by one. Persisted.
//!
//! Big endian: the token of the compacted file's name; the offset behind what is replaced; the
//! bytes of the new segment, where its last batch begins, the largest timestamp of its first batch
//! and of all; then the base of each replaced segment, the first of which is the new one's too.

use ottla_model::{Offset, TimestampMs, TopicIdPartition};

use crate::segment::{Segment, SegmentIndex};

const FIXED_BYTES: usize = 48;

/// Neighbouring sealed segments that one compacted segment takes the place of. Its file waits,
/// durable, in the store's `compacting` directory until the swap is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Swap {
    /// Makes the file's name one that no other swap of the log has.
    pub token: u64,
    /// The offset behind the replaced segments.
    pub end: Offset,
    pub bytes: u64,
    pub last_batch_at: u64,
    pub first_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
    /// The bases of the replaced segments, ascending; never empty.
    pub replaced: Vec<Offset>,
}

impl Swap {
    pub fn base(&self) -> Offset {
        self.replaced[0]
    }

    /// The name of the compacted file.
    pub fn file_name(&self, id: TopicIdPartition) -> String {
        file_name(id, self.base(), self.token)
    }

    /// The segment that takes the place of the others.
    pub fn segment(&self, serial: u64) -> Segment {
        Segment {
            serial,
            base: self.base(),
            bytes: self.bytes,
            last_batch_at: self.last_batch_at,
            first_timestamp: self.first_timestamp,
            max_timestamp: self.max_timestamp,
            index: SegmentIndex::Files,
            indexed_bytes: self.bytes,
        }
    }

    /// Where the replaced segments stand among `segments`; `None` if they are not there, one
    /// behind the other.
    pub fn range(&self, segments: &[Segment]) -> Option<std::ops::Range<usize>> {
        let first = segments.iter().position(|s| s.base == self.base())?;
        let range = first..first + self.replaced.len();
        let found = segments.get(range.clone())?;
        let same = found
            .iter()
            .map(|s| s.base)
            .eq(self.replaced.iter().copied());
        same.then_some(range)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.token.to_be_bytes());
        out.extend(self.end.0.to_be_bytes());
        out.extend(self.bytes.to_be_bytes());
        out.extend(self.last_batch_at.to_be_bytes());
        out.extend(self.first_timestamp.0.to_be_bytes());
        out.extend(self.max_timestamp.0.to_be_bytes());
        for base in &self.replaced {
            out.extend(base.0.to_be_bytes());
        }
    }

    pub fn encoded_bytes(&self) -> usize {
        FIXED_BYTES + 8 * self.replaced.len()
    }

    pub fn decode(bytes: &[u8]) -> Option<Swap> {
        let numbers: Vec<i64> = bytes
            .chunks(8)
            .map(|chunk| Some(i64::from_be_bytes(chunk.try_into().ok()?)))
            .collect::<Option<_>>()?;
        let (fixed, bases) = numbers.split_first_chunk::<6>()?;
        let [
            token,
            end,
            size,
            last_batch_at,
            first_timestamp,
            max_timestamp,
        ] = *fixed;
        if bases.is_empty() {
            return None;
        }
        Some(Swap {
            token: token as u64,
            end: Offset(end),
            bytes: size as u64,
            last_batch_at: last_batch_at as u64,
            first_timestamp: TimestampMs(first_timestamp),
            max_timestamp: TimestampMs(max_timestamp),
            replaced: bases.iter().copied().map(Offset).collect(),
        })
    }
}

/// The name of a compacted file: of its log, its base, and a token that never comes again.
pub(crate) fn file_name(id: TopicIdPartition, base: Offset, token: u64) -> String {
    format!("{id}.{base:020}.{token}")
}
