//! Received bytes, in the pieces in which they came.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// A part smaller than this is copied out of its piece, which would otherwise stay in memory as
/// long as the part.
const VIEWED_BYTES_MIN: usize = 16 * 1024;
/// Smaller pieces are gathered in one place: a peer that sends a byte at a time must not take forty
/// for each.
const PIECE_BYTES_MIN: usize = 4 * 1024;

/// Bytes behind each other that are not in one place. A part that makes up half of its piece or
/// more is taken without a copy; what is kept of it keeps at most as much again in memory.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    pieces: VecDeque<Piece>,
    /// Small pieces, behind all others.
    gathered: BytesMut,
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    rest: Bytes,
    /// Its size when it came.
    whole: usize,
}

impl Rope {
    pub fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if piece.len() < PIECE_BYTES_MIN {
            self.gathered.extend_from_slice(&piece);
            return;
        }
        let gathered = self.gathered.split().freeze();
        for piece in [gathered, piece] {
            if !piece.is_empty() {
                self.pieces.push_back(Piece {
                    whole: piece.len(),
                    rest: piece,
                });
            }
        }
    }

    /// The first bytes, if there are so many.
    pub fn peek<const N: usize>(&self) -> Option<[u8; N]> {
        if self.bytes < N {
            return None;
        }
        let mut out = [0; N];
        let bytes = self.pieces.iter().flat_map(|piece| piece.rest.iter());
        let bytes = bytes.chain(self.gathered.iter());
        out.iter_mut()
            .zip(bytes)
            .for_each(|(out, byte)| *out = *byte);
        Some(out)
    }
}

/// Looks at the bytes of a rope without taking them.
pub(crate) struct Look<'a> {
    chunks: Vec<&'a [u8]>,
    at: usize,
    bytes: usize,
}

impl Rope {
    /// A look at the first bytes, `count` of which must be there.
    pub fn look(&self, count: usize) -> Look<'_> {
        assert!(count <= self.bytes, "{count} of {} bytes", self.bytes);
        let pieces = self.pieces.iter().map(|piece| &piece.rest[..]);
        let mut left = count;
        let chunks = pieces.chain([&self.gathered[..]]).map_while(|chunk| {
            let part = &chunk[..chunk.len().min(left)];
            left -= part.len();
            (!part.is_empty()).then_some(part)
        });
        Look {
            chunks: chunks.collect(),
            at: 0,
            bytes: count,
        }
    }
}

impl Buf for Look<'_> {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.get(self.at).copied().unwrap_or_default()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "{count} of {} bytes", self.bytes);
        self.bytes -= count;
        while let Some(chunk) = self.chunks.get_mut(self.at) {
            if count < chunk.len() {
                *chunk = &chunk[count..];
                return;
            }
            count -= chunk.len();
            self.at += 1;
        }
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        let first = self.pieces.front();
        first.map_or(&self.gathered[..], |piece| &piece.rest)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "{count} of {} bytes", self.bytes);
        self.bytes -= count;
        while let Some(front) = self.pieces.front_mut() {
            if count < front.rest.len() {
                front.rest.advance(count);
                return;
            }
            count -= front.rest.len();
            self.pieces.pop_front();
        }
        self.gathered.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        assert!(count <= self.bytes, "{count} of {} bytes", self.bytes);
        if let Some(front) = self.pieces.front_mut() {
            let is_most = count >= VIEWED_BYTES_MIN && count >= front.whole / 2;
            if is_most && count <= front.rest.len() {
                let view = front.rest.slice(..count);
                self.advance(count);
                return view;
            }
        }
        let mut out = Vec::with_capacity(count);
        while out.len() < count {
            let chunk = self.chunk();
            let part = chunk.len().min(count - out.len());
            out.extend_from_slice(&chunk[..part]);
            self.advance(part);
        }
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(pieces: &[&[u8]]) -> Rope {
        let mut rope = Rope::default();
        for piece in pieces {
            rope.push(Bytes::copy_from_slice(piece));
        }
        rope
    }

    #[test]
    fn parts_are_found_across_pieces() {
        let mut rope = rope(&[b"ab", b"", b"cde", b"f"]);
        assert_eq!(rope.remaining(), 6);
        assert_eq!(rope.peek(), Some(*b"abcd"));
        assert_eq!(rope.peek::<7>(), None);
        assert_eq!(&rope.copy_to_bytes(3)[..], b"abc");
        rope.advance(1);
        assert_eq!(rope.peek(), Some(*b"ef"));
        assert_eq!(&rope.copy_to_bytes(2)[..], b"ef");
        assert!(!rope.has_remaining());
        assert_eq!(rope.chunk(), b"");
    }

    #[test]
    fn small_pieces_are_gathered_and_stay_in_their_place() {
        let large = vec![9; PIECE_BYTES_MIN];
        let mut parts: Vec<Vec<u8>> = (0..200).map(|byte| vec![byte]).collect();
        parts.insert(100, large.clone());
        parts.push(large);
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        let mut rope = rope(&parts);
        assert_eq!(rope.pieces.len(), 4);
        rope.push(Bytes::from_static(b"end"));
        let whole = [parts.concat(), b"end".to_vec()].concat();
        assert_eq!(rope.peek(), Some([0, 1, 2, 3, 4]));
        assert_eq!(rope.copy_to_bytes(whole.len())[..], whole);
        assert_eq!((rope.remaining(), rope.chunk()), (0, &[][..]));
    }

    #[test]
    fn most_of_a_piece_is_taken_without_a_copy() {
        let piece = Bytes::from(vec![7; 2 * VIEWED_BYTES_MIN]);
        let mut rope = Rope::default();
        rope.push(piece.clone());
        rope.advance(10);
        let view = rope.copy_to_bytes(VIEWED_BYTES_MIN);
        assert_eq!(view.as_ptr(), piece[10..].as_ptr());
        // The rest is less than half, and would keep all of it.
        let copy = rope.copy_to_bytes(VIEWED_BYTES_MIN - 10);
        assert_ne!(copy.as_ptr(), piece[10 + VIEWED_BYTES_MIN..].as_ptr());
        assert_eq!(copy[..], piece[10 + VIEWED_BYTES_MIN..]);
    }
}
