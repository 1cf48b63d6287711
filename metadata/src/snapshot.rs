//! An image as bytes: rows that restore it exactly, epochs and offset included, and a checksummed
//! file of them. Writing the file is the caller's.

mod row;

#[cfg(test)]
mod tests;

use bytes::{Buf, Bytes};
use ottla_model::checksum::crc32c;

use crate::image::MetadataImage;
use crate::record::RecordError;
use row::Row;

const MAGIC: &[u8; 8] = b"OTTLAMDS";
const VERSION: u32 = 1;
/// Magic, version, number of rows; then the rows; then the checksum.
const HEAD_BYTES: usize = 8 + 4 + 8;
const CHECKSUM_BYTES: usize = 4;

/// The rows of an image. The first tells how many follow, so a cut is noticed.
pub fn encode_snapshot(image: &MetadataImage) -> Vec<Bytes> {
    row::rows_of(image).iter().map(Row::encode).collect()
}

/// The image of these rows.
pub fn decode_snapshot(
    rows: impl IntoIterator<Item = Bytes>,
) -> Result<MetadataImage, RecordError> {
    let mut restore = row::Restore::default();
    for bytes in rows {
        restore.add(Row::decode(&bytes)?)?;
    }
    restore.finish()
}

/// A snapshot as the bytes of a file: magic, version, rows, and a checksum over all of it.
pub fn snapshot_to_bytes(image: &MetadataImage) -> Bytes {
    let rows = encode_snapshot(image);
    let size: usize = rows.iter().map(|row| row.len() + 4).sum();
    let mut out = Vec::with_capacity(HEAD_BYTES + size + CHECKSUM_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&(rows.len() as u64).to_be_bytes());
    for row in rows {
        out.extend_from_slice(&(row.len() as u32).to_be_bytes());
        out.extend_from_slice(&row);
    }
    let checksum = crc32c(&out);
    out.extend_from_slice(&checksum.to_be_bytes());
    out.into()
}

/// The image of a snapshot file's bytes; an error if a single bit is wrong.
pub fn snapshot_from_bytes(bytes: &[u8]) -> Result<MetadataImage, RecordError> {
    let damaged = |reason: String| RecordError::Snapshot { reason };
    if bytes.len() < HEAD_BYTES + CHECKSUM_BYTES {
        let length = bytes.len();
        return Err(damaged(format!("it has only {length} bytes")));
    }
    if &bytes[..8] != MAGIC {
        return Err(damaged("it is not a metadata snapshot".to_owned()));
    }
    let (content, mut checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    let (written, computed) = (checksum.get_u32(), crc32c(content));
    if written != computed {
        return Err(damaged(format!(
            "its checksum is {written:08x}, but its bytes have {computed:08x}"
        )));
    }
    let mut rest = &content[8..];
    let version = rest.get_u32();
    if version != VERSION {
        return Err(damaged(format!(
            "its version is {version}, but this build reads {VERSION}"
        )));
    }
    let count = rest.get_u64();
    let mut rows = Vec::new();
    for number in 0..count {
        let row = take_row(&mut rest);
        rows.push(row.ok_or_else(|| damaged(format!("it ends in row {number} of {count}")))?);
    }
    decode_snapshot(rows)
}

fn take_row(rest: &mut &[u8]) -> Option<Bytes> {
    let length = rest.try_get_u32().ok()? as usize;
    let (row, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(Bytes::copy_from_slice(row))
}
