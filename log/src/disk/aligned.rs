//! Memory for what goes past the page cache, and the rule that it keeps.

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::{Deref, DerefMut};

/// What offsets, lengths and memory are multiples of, in bytes: the page of most machines and the
/// largest block of most disks.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// Memory that begins at a multiple of [`BLOCK_BYTES`]; zeros at first.
pub(crate) struct AlignedBuffer {
    /// Longer than what is used, so that an aligned part of it can be.
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    pub fn zeroed(len: usize) -> AlignedBuffer {
        let memory = vec![0; len + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        AlignedBuffer { memory, start, len }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Refuses what no disk takes past the page cache, so that every disk refuses the same.
pub(super) fn check_aligned(memory: &[u8], offset: u64) -> io::Result<()> {
    let is_aligned = offset.is_multiple_of(BLOCK_BYTES as u64)
        && memory.len().is_multiple_of(BLOCK_BYTES)
        && memory.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
    if is_aligned {
        return Ok(());
    }
    let what = format!(
        "{} bytes at offset {offset} cannot go past the page cache: they are not in whole blocks \
         of {BLOCK_BYTES} bytes",
        memory.len()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// The same for all parts of a write.
pub(super) fn check_all_aligned(parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    parts
        .iter()
        .try_for_each(|part| check_aligned(part, offset))
}
