//! Writes a log past the page cache: gathers frames in memory of its own and writes them as whole
//! blocks. What the frames are, and what a failure means, is the log's business.
//!
//! A write begins with the block that the log ended in, whose first bytes are kept, and its last
//! block is filled up with zeros, which are no frame. So the block with the log's end is written
//! again, with the frames in it that are synced already, as the page cache writes a page again:
//! should the disk tear a block it was asked to write as a whole, they are lost with it, either way.

use std::fmt::Debug;
use std::io::{self, IoSlice};

use crate::disk::{AlignedBuffer, BLOCK_BYTES, DiskFile};

/// What an idle log keeps: enough for a small append on either side of a block's end.
const BYTES_IDLE: usize = 2 * BLOCK_BYTES;
/// The most memory that is taken; more bytes are written in several writes.
const BYTES_MAX: usize = 1024 * 1024;
/// After so many appends it is seen how much memory they needed.
const APPENDS_PER_LOOK: u32 = 256;

/// The memory, and what it holds of the block that the log ends in.
#[derive(Debug)]
pub(super) struct BlockWriter {
    buffer: AlignedBuffer,
    /// So many bytes of the log's last block, from its beginning, stand in the buffer.
    kept: usize,
    appends: u32,
    /// The most that any append needed since the last look.
    needed: usize,
}

impl BlockWriter {
    /// For a file that holds these bytes of the log.
    pub fn behind(written: &[u8]) -> BlockWriter {
        let kept = written.len() % BLOCK_BYTES;
        let mut buffer = AlignedBuffer::zeroed(BYTES_IDLE);
        buffer[..kept].copy_from_slice(&written[written.len() - kept..]);
        BlockWriter {
            buffer,
            kept,
            appends: 0,
            needed: 0,
        }
    }

    /// The log goes on at the beginning of another file.
    pub fn begin_file(&mut self) {
        self.kept = 0;
    }

    /// Writes all parts, one after the other, from `end`, which is where the last append ended.
    pub fn append(
        &mut self,
        file: &dyn DiskFile,
        end: u64,
        parts: &[IoSlice<'_>],
    ) -> io::Result<()> {
        let mut block = end - self.kept as u64;
        assert!(
            block.is_multiple_of(BLOCK_BYTES as u64),
            "{} bytes are kept of the block with the log's end at {end}",
            self.kept
        );
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.make_room_for(self.kept + bytes);
        let mut filled = self.kept;
        for part in parts {
            let mut rest = &part[..];
            while !rest.is_empty() {
                if filled == self.buffer.len() {
                    file.write_at(&[IoSlice::new(&self.buffer)], block)?;
                    block += filled as u64;
                    filled = 0;
                }
                let (fitting, behind) = rest.split_at(rest.len().min(self.buffer.len() - filled));
                self.buffer[filled..filled + fitting.len()].copy_from_slice(fitting);
                filled += fitting.len();
                rest = behind;
            }
        }
        let whole = filled.next_multiple_of(BLOCK_BYTES);
        self.buffer[filled..whole].fill(0);
        file.write_at(&[IoSlice::new(&self.buffer[..whole])], block)?;
        self.kept = filled % BLOCK_BYTES;
        self.buffer.copy_within(filled - self.kept..filled, 0);
        Ok(())
    }

    /// Whether it has more memory than an idle log should.
    pub fn has_memory_to_give(&self) -> bool {
        self.buffer.len() > BYTES_IDLE
    }

    /// Gives the rest back.
    pub fn give_memory_back(&mut self) {
        self.resize(BYTES_IDLE);
    }

    /// Takes more memory if an append of so many bytes can use it, and gives some back if none has
    /// for long.
    fn make_room_for(&mut self, bytes: usize) {
        let useful = bytes.clamp(BYTES_IDLE, BYTES_MAX).next_power_of_two();
        self.needed = self.needed.max(useful);
        self.appends += 1;
        if self.appends >= APPENDS_PER_LOOK {
            self.resize(self.needed);
            (self.appends, self.needed) = (0, useful);
        } else if useful > self.buffer.len() {
            self.resize(useful);
        }
    }

    fn resize(&mut self, bytes: usize) {
        if bytes != self.buffer.len() {
            let mut buffer = AlignedBuffer::zeroed(bytes);
            buffer[..self.kept].copy_from_slice(&self.buffer[..self.kept]);
            self.buffer = buffer;
        }
    }
}
