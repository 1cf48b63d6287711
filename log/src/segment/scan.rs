//! Walking a segment's batches, and reading them with their checksums verified.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use ottla_model::Offset;
use ottla_model::batch::{BatchHeader, HEADER_BYTES, next_batch};
use ottla_model::checksum::crc32c;

use super::check_header;
use crate::disk::DiskFile;
use crate::error::{IoContext as _, ReadError};
use crate::planted::{self, Bug};

/// Where the checksummed part of a batch begins.
const CRC_START: usize = 21;
/// How much is read at a time to look at headers: little where batches are large and the next
/// header is far, more and more where they are small and every block holds some.
const BLOCK_BYTES: usize = 8 * 1024;
const BLOCK_BYTES_MAX: usize = 256 * 1024;

/// Goes from header to header over a range of a segment that consists of whole batches.
pub(crate) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    position: u64,
    end: u64,
    /// The lowest base offset that the next batch can have.
    lowest: Offset,
    block: Vec<u8>,
    block_at: u64,
    block_bytes: usize,
}

impl<'a> Scanner<'a> {
    /// Scans from the batch at `position`, which begins at `lowest` or above, to `end`.
    pub fn new(
        file: &'a dyn DiskFile,
        path: &'a Path,
        position: u64,
        end: u64,
        lowest: Offset,
    ) -> Scanner<'a> {
        Scanner {
            file,
            path,
            position,
            end,
            lowest,
            block: Vec::new(),
            block_at: 0,
            block_bytes: BLOCK_BYTES,
        }
    }

    /// The place of the next batch.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the next batch starts with `base`: what an index said of this place.
    pub fn is_at(&mut self, base: Offset) -> Result<bool, ReadError> {
        if self.position >= self.end {
            return Ok(false);
        }
        match self.header() {
            Ok(header) => Ok(header.base_offset == base && check_header(&header).is_ok()),
            Err(ReadError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The next batch's place and header, or `None` at the end of the range.
    pub fn next(&mut self) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let at = self.position;
        let header = self.header()?;
        check_header(&header)
            .map_err(|error| ReadError::damaged(self.path, at, error.to_string()))?;
        if at + header.size as u64 > self.end {
            return Err(ReadError::damaged(self.path, at, "the batch is cut off"));
        }
        check_order(self.path, at, self.lowest, &header)?;
        self.lowest = header.next_offset();
        self.position = at + header.size as u64;
        Ok(Some((at, header)))
    }

    fn header(&mut self) -> Result<BatchHeader, ReadError> {
        let held = self
            .position
            .checked_sub(self.block_at)
            .and_then(|from| self.block.get(from as usize..))
            .and_then(BatchHeader::decode);
        if let Some(header) = held {
            return Ok(header);
        }
        let block_end = self.block_at + self.block.len() as u64;
        let is_near = !self.block.is_empty() && self.position < block_end + BLOCK_BYTES as u64;
        self.block_bytes = match is_near {
            true => (self.block_bytes * 2).min(BLOCK_BYTES_MAX),
            false => BLOCK_BYTES,
        };
        let bytes = (self.end - self.position).min(self.block_bytes as u64) as usize;
        self.block.resize(bytes, 0);
        let read = self
            .file
            .read_at(&mut self.block, self.position)
            .or_read("read", self.path)?;
        self.block.truncate(read);
        self.block_at = self.position;
        BatchHeader::decode(&self.block)
            .ok_or_else(|| ReadError::damaged(self.path, self.position, "no header of a batch"))
    }
}

/// Whether a batch's bytes are those it was written with.
pub(crate) fn check_batch(path: &Path, at: u64, batch: &[u8]) -> Result<BatchHeader, ReadError> {
    let damaged = |what: String| ReadError::damaged(path, at, what);
    let header = BatchHeader::decode(batch)
        .filter(|header| header.size == batch.len() && header.size >= HEADER_BYTES)
        .ok_or_else(|| damaged("no header of a batch".to_owned()))?;
    check_header(&header).map_err(|error| damaged(error.to_string()))?;
    let computed = crc32c(&batch[CRC_START..]);
    if computed != header.crc {
        return Err(damaged(format!(
            "the batch's checksum is {:#010x}, but its bytes give {computed:#010x}",
            header.crc
        )));
    }
    Ok(header)
}

/// Reads whole batches from the one at `position` on, which begins at `lowest` or above: up to
/// `max_bytes`, but at least one; none that starts at or above `limit`; none behind `end`. Every
/// checksum is verified.
pub(crate) fn read_batches(
    file: &dyn DiskFile,
    path: &Path,
    Range {
        start: position,
        end,
    }: Range<u64>,
    lowest: Offset,
    limit: Offset,
    max_bytes: usize,
) -> Result<Bytes, ReadError> {
    let mut scanner = Scanner::new(file, path, position, end, lowest);
    let Some((_, first)) = scanner.next()? else {
        return Ok(Bytes::new());
    };
    let want = max_bytes.max(first.size) as u64;
    let mut bytes = vec![0; want.min(end - position) as usize];
    let read = file.read_at(&mut bytes, position).or_read("read", path)?;
    if read < first.size {
        let what = "the file ends within a batch";
        return Err(ReadError::damaged(path, position, what));
    }
    bytes.truncate(read);
    let mut whole = 0;
    let mut lowest = first.base_offset;
    // The bytes may end within a batch, because only their number was asked for.
    while let Ok((header, batch, _)) = next_batch(&bytes[whole..]) {
        if header.base_offset >= limit && whole > 0 {
            break;
        }
        if !planted::in_file(file, Bug::ChecksumSkipped) {
            check_batch(path, position + whole as u64, batch)?;
        }
        check_order(path, position + whole as u64, lowest, &header)?;
        lowest = header.next_offset();
        whole += batch.len();
    }
    if whole == 0 {
        return Err(ReadError::damaged(path, position, "no batch"));
    }
    // A batch whose offset is wrong would reach over the one behind it.
    Scanner::new(file, path, position + whole as u64, end, lowest).next()?;
    bytes.truncate(whole);
    Ok(Bytes::from(bytes))
}

/// No checksum covers a batch's offset.
fn check_order(
    path: &Path,
    at: u64,
    lowest: Offset,
    header: &BatchHeader,
) -> Result<(), ReadError> {
    if header.base_offset < lowest {
        let what = format!(
            "a batch starts at offset {}, though what is before it reaches to {lowest}",
            header.base_offset
        );
        return Err(ReadError::damaged(path, at, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice};

    use ottla_model::batch::{BatchBuilder, NewRecord, stamp};
    use ottla_model::compression::Compression;
    use ottla_model::{LeaderEpoch, TimestampMs};
    use parking_lot::Mutex;

    use super::*;

    /// A file that notes how much each read asks for.
    #[derive(Debug)]
    struct Noted {
        bytes: Vec<u8>,
        reads: Mutex<Vec<usize>>,
    }

    impl DiskFile for Noted {
        fn size(&self) -> io::Result<u64> {
            Ok(self.bytes.len() as u64)
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.reads.lock().push(buffer.len());
            let rest = &self.bytes[offset as usize..];
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        }

        fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn allocate(&self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A segment of so many batches with values of `value_bytes`.
    fn segment(count: i64, value_bytes: usize) -> Noted {
        let mut bytes = Vec::new();
        let value = vec![7; value_bytes];
        for base in 0..count {
            let mut builder = BatchBuilder::new(Compression::None);
            let record = NewRecord {
                timestamp: TimestampMs(base),
                value: Some(&value),
                ..NewRecord::default()
            };
            builder.push(&record).unwrap();
            let mut batch = builder.build().unwrap().to_vec();
            stamp(&mut batch, Offset(base), LeaderEpoch(0), None);
            bytes.extend(batch);
        }
        Noted {
            bytes,
            reads: Mutex::default(),
        }
    }

    fn scan(file: &Noted) -> Vec<i64> {
        let end = file.bytes.len() as u64;
        let mut scanner = Scanner::new(file, Path::new("segment"), 0, end, Offset::ZERO);
        let mut bases = Vec::new();
        while let Some((_, header)) = scanner.next().unwrap() {
            bases.push(header.base_offset.0);
        }
        bases
    }

    #[test]
    fn small_batches_are_gone_over_in_few_large_reads() {
        let file = segment(20_000, 100);
        assert_eq!(scan(&file), (0..20_000).collect::<Vec<_>>());
        let reads = file.reads.lock();
        assert!(
            reads.len() <= 8 + file.bytes.len() / BLOCK_BYTES_MAX,
            "{}",
            reads.len()
        );
    }

    #[test]
    fn of_large_batches_little_more_than_the_headers_is_read() {
        let file = segment(50, 100_000);
        assert_eq!(scan(&file), (0..50).collect::<Vec<_>>());
        let reads = file.reads.lock();
        assert_eq!(reads.len(), 50);
        assert!(reads.iter().all(|bytes| *bytes <= BLOCK_BYTES));
    }
}
