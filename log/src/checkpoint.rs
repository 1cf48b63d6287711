//! The checkpoint: what the segments of every log durably hold, and from where the journal must be
//! replayed over them. Persisted; replaced whole, by a rename.
//!
//! Big endian: magic, version, position; number of logs; for each its id, the position up to which
//! it contains the journal, its start and end, up to where it was compacted, its leader epochs and
//! its segments; CRC-32C of all.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use ottla_model::checksum::crc32c;
use ottla_model::{LeaderEpoch, Offset, PartitionIndex, TimestampMs, TopicId, TopicIdPartition};

use crate::disk::{Disk, OpenMode};
use crate::error::{IoContext as _, LogError};
use crate::partition::{Epochs, Physical};
use crate::planted::{self, Bug};
use crate::segment::{Segment, SegmentIndex};
use crate::wal::WalPosition;

const MAGIC: u32 = 0x4f54_434b;
/// Version 1 did not say up to where logs were compacted.
const VERSION: u32 = 2;
const FILE: &str = "checkpoint";

/// What a checkpoint says.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    /// Everything before it in the journal is contained.
    pub position: WalPosition,
    pub logs: BTreeMap<TopicIdPartition, Physical>,
}

impl Checkpoint {
    /// Where the checkpoint of the store in `root` stands.
    pub fn path(root: &Path) -> PathBuf {
        root.join(FILE)
    }

    /// Replaces the checkpoint in `root`.
    pub fn save(&self, disk: &dyn Disk, root: &Path) -> Result<(), LogError> {
        let temporary = root.join("checkpoint.tmp");
        let file = disk
            .open(&temporary, OpenMode::CreateEmpty)
            .or_log("create", &temporary)?;
        file.write_at(&[IoSlice::new(&self.encode())], 0)
            .or_log("write", &temporary)?;
        file.sync_data().or_log("sync", &temporary)?;
        disk.rename(&temporary, &Checkpoint::path(root))
            .or_log("rename", &temporary)?;
        if planted::in_disk(disk, Bug::NoDirectorySyncAfterRename) {
            return Ok(());
        }
        disk.sync_dir(root).or_log("sync", root)
    }

    /// Reads the checkpoint in `root`; `None` if there is none. Segments get their serials from
    /// `next_serial`.
    pub fn load(
        disk: &dyn Disk,
        root: &Path,
        next_serial: &mut dyn FnMut() -> u64,
    ) -> Result<Option<Checkpoint>, LogError> {
        let path = Checkpoint::path(root);
        let file = match disk.open(&path, OpenMode::Existing).or_log("open", &path) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = vec![0; file.size().or_log("measure", &path)? as usize];
        let read = file.read_at(&mut bytes, 0).or_log("read", &path)?;
        bytes.truncate(read);
        if let Some(version) = version_of(&bytes).filter(|version| *version > VERSION) {
            let what = format!("version {version}");
            return Err(LogError::Newer { path, what });
        }
        Checkpoint::decode(&bytes, next_serial)
            .map(Some)
            .ok_or_else(|| LogError::corrupt(&path, 0, "its checksum or its structure is wrong"))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC.to_be_bytes());
        out.extend(VERSION.to_be_bytes());
        out.extend(self.position.0.to_be_bytes());
        out.extend((self.logs.len() as u32).to_be_bytes());
        for (id, log) in &self.logs {
            out.extend(id.topic.as_bytes());
            out.extend(id.partition.0.to_be_bytes());
            out.extend(log.applied.0.to_be_bytes());
            out.extend(log.log_start.0.to_be_bytes());
            out.extend(log.end.0.to_be_bytes());
            out.extend(log.cleaned_to.0.to_be_bytes());
            out.extend((log.epochs.entries().len() as u32).to_be_bytes());
            for (epoch, start) in log.epochs.entries() {
                out.extend(epoch.0.to_be_bytes());
                out.extend(start.0.to_be_bytes());
            }
            out.extend((log.segments.len() as u32).to_be_bytes());
            for segment in &log.segments {
                out.extend(segment.base.0.to_be_bytes());
                out.extend(segment.bytes.to_be_bytes());
                out.extend(segment.last_batch_at.to_be_bytes());
                out.extend(segment.first_timestamp.0.to_be_bytes());
                out.extend(segment.max_timestamp.0.to_be_bytes());
            }
        }
        let crc = crc32c(&out);
        out.extend(crc.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8], next_serial: &mut dyn FnMut() -> u64) -> Option<Checkpoint> {
        let (body, crc) = bytes.split_last_chunk()?;
        if crc32c(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut reader = Reader { rest: body };
        if reader.u32()? != MAGIC {
            return None;
        }
        let version = reader.u32()?;
        if !(1..=VERSION).contains(&version) {
            return None;
        }
        let position = WalPosition(reader.u64()?);
        let mut logs = BTreeMap::new();
        for _ in 0..reader.u32()? {
            let topic = TopicId::from_bytes(reader.take()?);
            let partition = PartitionIndex(reader.u32()? as i32);
            let log = reader.log(version, next_serial)?;
            logs.insert(TopicIdPartition::new(topic, partition), log);
        }
        reader
            .rest
            .is_empty()
            .then_some(Checkpoint { position, logs })
    }
}

/// The version of a checkpoint that is whole.
fn version_of(bytes: &[u8]) -> Option<u32> {
    let (body, crc) = bytes.split_last_chunk()?;
    let mut reader = Reader { rest: body };
    let whole = crc32c(body) == u32::from_be_bytes(*crc) && reader.u32()? == MAGIC;
    if whole { reader.u32() } else { None }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn offset(&mut self) -> Option<Offset> {
        self.take().map(|bytes| Offset(i64::from_be_bytes(bytes)))
    }

    fn timestamp(&mut self) -> Option<TimestampMs> {
        self.take()
            .map(|bytes| TimestampMs(i64::from_be_bytes(bytes)))
    }

    fn log(&mut self, version: u32, next_serial: &mut dyn FnMut() -> u64) -> Option<Physical> {
        let applied = WalPosition(self.u64()?);
        let log_start = self.offset()?;
        let end = self.offset()?;
        let cleaned_to = match version {
            1 => Offset::ZERO,
            _ => self.offset()?,
        };
        let mut epochs = Vec::new();
        for _ in 0..self.u32()? {
            let epoch = LeaderEpoch(self.u32()? as i32);
            epochs.push((epoch, self.offset()?));
        }
        let mut segments = Vec::new();
        for _ in 0..self.u32()? {
            let base = self.offset()?;
            let bytes = self.u64()?;
            segments.push(Segment {
                serial: next_serial(),
                base,
                bytes,
                last_batch_at: self.u64()?,
                first_timestamp: self.timestamp()?,
                max_timestamp: self.timestamp()?,
                index: SegmentIndex::Files,
                indexed_bytes: bytes,
            });
        }
        if let Some(active) = segments.last_mut() {
            active.index = SegmentIndex::Unknown;
        }
        Some(Physical {
            log_start,
            end,
            epochs: Epochs::from_entries(epochs),
            dir_exists: !segments.is_empty(),
            segments,
            applied,
            cleaned_to,
            generation: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Checkpoint {
        let id = TopicIdPartition::new(TopicId::from_bytes([7; 16]), PartitionIndex(2));
        let log = Physical {
            log_start: Offset(3),
            end: Offset(9),
            epochs: Epochs::from_entries(vec![(LeaderEpoch(1), Offset(3))]),
            segments: vec![Segment {
                bytes: 500,
                last_batch_at: 400,
                first_timestamp: TimestampMs(10),
                max_timestamp: TimestampMs(11),
                ..Segment::new(1, Offset(0))
            }],
            applied: WalPosition(64),
            cleaned_to: Offset(5),
            ..Physical::empty(Offset(9))
        };
        Checkpoint {
            position: WalPosition(48),
            logs: BTreeMap::from([(id, log)]),
        }
    }

    #[test]
    fn the_bytes_of_a_checkpoint_never_change() {
        let bytes = example().encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = [
            "4f54434b00000002",
            "0000000000000030",
            "00000001",
            "07070707070707070707070707070707",
            "00000002",
            "0000000000000040",
            "0000000000000003",
            "0000000000000009",
            "0000000000000005",
            "00000001",
            "00000001",
            "0000000000000003",
            "00000001",
            "0000000000000000",
            "00000000000001f4",
            "0000000000000190",
            "000000000000000a",
            "000000000000000b",
        ]
        .concat();
        assert_eq!(hex[..hex.len() - 8], expected);
        let read = Checkpoint::decode(&bytes, &mut || 1).unwrap();
        assert_eq!(read.encode(), bytes);
        let logs: Vec<_> = read.logs.values().collect();
        assert_eq!(logs[0].cleaned_to, Offset(5));
    }

    #[test]
    fn a_checkpoint_of_the_first_version_is_read() {
        let mut bytes = example().encode();
        let cleaned_to = 20 + 20 + 24;
        bytes.drain(cleaned_to..cleaned_to + 8);
        bytes[7] = 1;
        let body = bytes.len() - 4;
        let crc = crc32c(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.to_be_bytes());
        let read = Checkpoint::decode(&bytes, &mut || 1).unwrap();
        let logs: Vec<_> = read.logs.values().collect();
        assert_eq!(logs[0].cleaned_to, Offset::ZERO);
        assert_eq!(logs[0].segments[0].bytes, 500);
    }

    #[test]
    fn a_checkpoint_with_any_byte_changed_or_missing_is_none() {
        let bytes = example().encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(Checkpoint::decode(&changed, &mut || 1).is_none(), "{at}");
            assert!(Checkpoint::decode(&bytes[..at], &mut || 1).is_none());
        }
    }
}
