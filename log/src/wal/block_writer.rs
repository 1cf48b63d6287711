//! Writes a log past the page cache: gathers frames in memory of its own and writes them as whole
//! blocks. What the frames are, and what a failure means, is the log's business.
//!
//! A write begins with the block that the log ended in, whose first bytes are kept, and its last
//! block is filled up with zeros, which are no frame. So the block with the log's end is written
//! again, with the frames in it that are synced already, as the page cache writes a page again:
//! should the disk tear a block it was asked to write as a whole, they are lost with it either way.

use std::fmt::Debug;
use std::io::{self, IoSlice};

use crate::disk::{AlignedBuffer, BLOCK_BYTES, DiskFile};

/// What an idle log keeps: enough for a small append on either side of a block's end.
const BYTES_IDLE: usize = 2 * BLOCK_BYTES;
/// The most memory that is taken: room for a batch of 1 MiB with what stands around it. More bytes
/// are written in several writes.
const BYTES_MAX: usize = (1024 + 64) * 1024;
/// After so many appends it is seen how much memory they needed.
const APPENDS_PER_LOOK: u32 = 256;

/// The memory, and what it holds of the block that the log ends in.
#[derive(Debug)]
pub(super) struct BlockWriter {
    buffer: AlignedBuffer,
    /// So many bytes of it hold what is in the log: between appends, what is in its last block.
    filled: usize,
    /// The place in the file of what the buffer holds.
    block: u64,
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
            filled: kept,
            block: 0,
            appends: 0,
            needed: 0,
        }
    }

    /// The log goes on at the beginning of another file.
    pub fn begin_file(&mut self) {
        self.filled = 0;
    }

    /// An append begins where the last one ended, at `end` in the file, with so many bytes in all.
    pub fn begin(&mut self, end: u64, bytes: usize) {
        self.block = end - self.filled as u64;
        assert!(
            self.block.is_multiple_of(BLOCK_BYTES as u64),
            "{} bytes are kept of the block with the log's end at {end}",
            self.filled
        );
        self.make_room_for(self.filled + bytes);
    }

    /// Takes the next bytes of the append; writes when there is no room for more.
    pub fn push(&mut self, file: &dyn DiskFile, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.filled == self.buffer.len() {
                file.write_at(&[IoSlice::new(&self.buffer)], self.block)?;
                self.block += self.filled as u64;
                self.filled = 0;
            }
            let room = self.buffer.len() - self.filled;
            let (fitting, rest) = bytes.split_at(bytes.len().min(room));
            self.buffer[self.filled..self.filled + fitting.len()].copy_from_slice(fitting);
            self.filled += fitting.len();
            bytes = rest;
        }
        Ok(())
    }

    /// Writes what was not written yet of the append.
    pub fn finish(&mut self, file: &dyn DiskFile) -> io::Result<()> {
        let whole = self.filled.next_multiple_of(BLOCK_BYTES);
        self.buffer[self.filled..whole].fill(0);
        file.write_at(&[IoSlice::new(&self.buffer[..whole])], self.block)?;
        let kept = self.filled % BLOCK_BYTES;
        self.buffer.copy_within(self.filled - kept..self.filled, 0);
        self.filled = kept;
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
        let useful = bytes.max(BYTES_IDLE).next_power_of_two().min(BYTES_MAX);
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
            buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
            self.buffer = buffer;
        }
    }
}
