//! Verifying a log's segments on disk, batch by batch, whether or not anybody reads them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ottla_model::Offset;
use ottla_model::batch::{BatchHeader, HEADER_BYTES};

use super::PartitionLog;
use crate::disk::{AlignedBuffer, DiskFile, OpenMode};
use crate::error::{IoContext as _, ReadError};
use crate::segment::{check_batch, log_path};

/// How much is read at a time. A multiple of any disk's block.
const BLOCK_BYTES: usize = 256 * 1024;

/// What a segment held when the log was looked at. It stays as it is: more may come behind it, and
/// a segment that is cut counts as another one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    serial: u64,
    base: Offset,
    bytes: u64,
    /// Where the next segment begins, or the last batch ends.
    end: Offset,
}

impl PartitionLog {
    pub(crate) fn written(&self) -> Vec<Written> {
        let state = self.lock();
        let physical = &state.physical;
        let segments = physical.segments.iter().enumerate();
        let written = segments.map(|(index, segment)| Written {
            serial: segment.serial,
            base: segment.base,
            bytes: segment.bytes,
            end: physical.end_of(index),
        });
        written.collect()
    }

    /// Verifies one segment as the disk has it; returns what is wrong with it, if anything. `pace`
    /// is told the bytes of each read and says whether to go on. Blocks.
    pub(crate) fn scrub(
        &self,
        written: &Written,
        pace: &mut dyn FnMut(usize) -> bool,
    ) -> Option<String> {
        let path = log_path(&self.dir, written.base);
        let error = self.verify_written(written, &path, pace).err()?;
        if !error.is_damage() {
            tracing::warn!(path = %path.display(), %error, "a segment could not be verified");
            return None;
        }
        // A segment that was deleted or replaced meanwhile is no news.
        let state = self.lock();
        let still = |segment: &crate::segment::Segment| segment.serial == written.serial;
        let current = !state.gone && state.physical.segments.iter().any(still);
        current.then(|| error.to_string())
    }

    fn verify_written(
        &self,
        written: &Written,
        path: &Path,
        pace: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), ReadError> {
        let file = self.shared.disk.open(path, OpenMode::PastCache);
        let file = file.or_read("open", path)?;
        let mut reader = BlockReader::new(file, path);
        let (mut at, mut next) = (0, written.base);
        while at < written.bytes {
            if !reader.fill(HEADER_BYTES, pace)? {
                return Ok(());
            }
            let Some(header) = BatchHeader::decode(reader.bytes()) else {
                return Err(ReadError::damaged(path, at, "no header of a batch"));
            };
            if header.size < HEADER_BYTES || at + header.size as u64 > written.bytes {
                let what = format!("a batch of {} bytes", header.size);
                return Err(ReadError::damaged(path, at, what));
            }
            if !reader.fill(header.size, pace)? {
                return Ok(());
            }
            let Some(batch) = reader.bytes().get(..header.size) else {
                return Err(ReadError::damaged(path, at, "the file ends within a batch"));
            };
            check_batch(path, at, batch)?;
            self.check_place(path, at, &header, next..written.end)?;
            next = header.next_offset();
            at += header.size as u64;
            reader.consume(header.size);
        }
        Ok(())
    }

    /// Holds where a batch says that it stands against what the log knows.
    pub(crate) fn check_place(
        &self,
        path: &Path,
        at: u64,
        header: &BatchHeader,
        within: Range<Offset>,
    ) -> Result<(), ReadError> {
        match self.lock().physical.misplacement(header, within) {
            Some(what) => Err(ReadError::damaged(path, at, what)),
            None => Ok(()),
        }
    }
}

/// Reads a file from its start in aligned blocks, and keeps what was not yet consumed.
struct BlockReader<'a> {
    file: Arc<dyn DiskFile>,
    path: &'a Path,
    /// Where the next block is read.
    at: u64,
    block: AlignedBuffer,
    kept: Vec<u8>,
    ended: bool,
}

impl<'a> BlockReader<'a> {
    fn new(file: Arc<dyn DiskFile>, path: &'a Path) -> BlockReader<'a> {
        BlockReader {
            file,
            path,
            at: 0,
            block: AlignedBuffer::zeroed(BLOCK_BYTES),
            kept: Vec::new(),
            ended: false,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.kept
    }

    fn consume(&mut self, bytes: usize) {
        self.kept.drain(..bytes);
    }

    /// Reads on until `wanted` bytes are there or the file ends. False if `pace` said to stop.
    fn fill(
        &mut self,
        wanted: usize,
        pace: &mut dyn FnMut(usize) -> bool,
    ) -> Result<bool, ReadError> {
        while self.kept.len() < wanted && !self.ended {
            let read = self.file.read_at(&mut self.block, self.at);
            let read = read.or_read("read", self.path)?;
            self.kept.extend_from_slice(&self.block[..read]);
            self.at += read as u64;
            self.ended = read < BLOCK_BYTES;
            if !pace(read) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
