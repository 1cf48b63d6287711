//! Compression of a batch's records, in the framings that Kafka's clients use.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

/// How a batch's records are compressed: bits 0 to 2 of its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// Records that could not be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    #[error("the {compression} data is damaged")]
    Damaged {
        compression: Compression,
        #[source]
        source: io::Error,
    },
    #[error("the {compression} data unpacks to more than {limit} bytes")]
    TooLarge {
        compression: Compression,
        limit: usize,
    },
}

/// A name that is no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no compression; known are none, gzip, snappy, lz4 and zstd")]
pub struct UnknownCompression(String);

/// The eight bytes that open snappy data as Java's clients frame it, before two version numbers.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_BLOCK: usize = 32 * 1024;

impl Compression {
    pub const ALL: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    /// The number in a batch's attributes. Persisted, never reused.
    pub const fn id(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Snappy => 2,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    pub const fn from_id(id: u8) -> Option<Compression> {
        match id {
            0 => Some(Compression::None),
            1 => Some(Compression::Gzip),
            2 => Some(Compression::Snappy),
            3 => Some(Compression::Lz4),
            4 => Some(Compression::Zstd),
            _ => None,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// Compresses `data`, appending to `out`. Writing to memory does not fail; the error is the
    /// encoder's.
    pub fn compress(self, data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Compression::None => out.extend_from_slice(data),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(6));
                encoder.write_all(data)?;
                encoder.finish()?;
            }
            Compression::Snappy => compress_xerial(data, out)?,
            Compression::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(out);
                encoder.write_all(data)?;
                encoder.finish().map_err(io::Error::other)?;
            }
            Compression::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, 3)?;
                encoder.write_all(data)?;
                encoder.finish()?;
            }
        }
        Ok(())
    }

    /// Decompresses `data` into at most `limit` bytes; reads no further once they are exceeded,
    /// whatever sizes the data claims.
    pub fn decompress(self, data: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
        let damaged = |source| DecompressError::Damaged {
            compression: self,
            source,
        };
        let out = match self {
            Compression::None => {
                if data.len() > limit {
                    return Err(DecompressError::TooLarge {
                        compression: self,
                        limit,
                    });
                }
                return Ok(data.to_vec());
            }
            Compression::Snappy => return decompress_snappy(data, limit),
            Compression::Gzip => read_limited(flate2::read::MultiGzDecoder::new(data), limit),
            Compression::Lz4 => read_limited(lz4_flex::frame::FrameDecoder::new(data), limit),
            Compression::Zstd => zstd::stream::read::Decoder::new(data)
                .and_then(|decoder| read_limited(decoder, limit)),
        }
        .map_err(damaged)?;
        out.ok_or(DecompressError::TooLarge {
            compression: self,
            limit,
        })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Compression, UnknownCompression> {
        Compression::ALL
            .into_iter()
            .find(|compression| compression.name() == text)
            .ok_or_else(|| UnknownCompression(text.to_owned()))
    }
}

/// Reads to the end, or gives `None` once more than `limit` bytes came.
fn read_limited(reader: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(bound).read_to_end(&mut out)?;
    Ok((out.len() <= limit).then_some(out))
}

fn compress_xerial(data: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&1u32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in data.chunks(XERIAL_BLOCK) {
        let packed = encoder.compress_vec(block)?;
        let length = u32::try_from(packed.len()).map_err(io::Error::other)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(())
}

/// Unpacks snappy data, whether framed as Java's clients do or as one plain block, as librdkafka
/// sends it.
fn decompress_snappy(data: &[u8], limit: usize) -> Result<Vec<u8>, DecompressError> {
    let compression = Compression::Snappy;
    let damaged = |source| DecompressError::Damaged {
        compression,
        source,
    };
    let mut out = Vec::new();
    let unpack = |block: &[u8], out: &mut Vec<u8>| {
        let length = snap::raw::decompress_len(block).map_err(|e| damaged(e.into()))?;
        if out.len().saturating_add(length) > limit {
            return Err(DecompressError::TooLarge { compression, limit });
        }
        let block = snap::raw::Decoder::new()
            .decompress_vec(block)
            .map_err(|e| damaged(e.into()))?;
        out.extend_from_slice(&block);
        Ok(())
    };
    let Some(framed) = data.strip_prefix(&XERIAL_MAGIC) else {
        unpack(data, &mut out)?;
        return Ok(out);
    };
    let cut_off = || damaged(io::ErrorKind::UnexpectedEof.into());
    let mut rest = framed.get(8..).ok_or_else(cut_off)?;
    while !rest.is_empty() {
        let (length, body) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = body.get(..length).ok_or_else(cut_off)?;
        unpack(block, &mut out)?;
        rest = &body[length..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(compression: Compression, data: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        compression.compress(data, &mut packed).unwrap();
        packed
    }

    #[test]
    fn every_compression_round_trips() {
        let data: Vec<u8> = (0..100_000u32)
            .flat_map(|i| (i / 7).to_le_bytes())
            .collect();
        for compression in Compression::ALL {
            let packed = pack(compression, &data);
            let unpacked = compression.decompress(&packed, data.len()).unwrap();
            assert!(unpacked == data, "{compression}");
            assert_eq!(Compression::from_id(compression.id()), Some(compression));
            assert_eq!(compression.name().parse(), Ok(compression));
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let zeros = vec![0; 1 << 20];
        for compression in Compression::ALL {
            let packed = pack(compression, &zeros);
            assert!(
                matches!(
                    compression.decompress(&packed, (1 << 20) - 1),
                    Err(DecompressError::TooLarge { .. })
                ),
                "{compression}"
            );
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for compression in [
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ] {
            assert!(
                compression.decompress(&[0xff; 64], 1 << 20).is_err(),
                "{compression}"
            );
        }
    }

    #[test]
    fn a_plain_snappy_block_is_accepted() {
        let packed = snap::raw::Encoder::new().compress_vec(b"hello").unwrap();
        assert_eq!(
            Compression::Snappy.decompress(&packed, 5).unwrap(),
            b"hello"
        );
    }
}
