//! What records hold: perhaps a key out of so many; letters that do not repeat soon, and in front
//! of them, where the end-to-end time is measured, the run and the moment at which the record was
//! due. Pure.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

/// What the run and the moment take.
pub const STAMP_BYTES: usize = 16;
/// How many bytes of letters there are beyond one record's; slices of them fill the records.
const POOL_BYTES: usize = 1 << 20;
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// Makes values of one size.
#[derive(Debug, Clone)]
pub struct Payload {
    pool: Bytes,
    size: usize,
    next: usize,
}

impl Payload {
    /// Values of this size; the same seed makes the same values.
    pub fn new(size: usize, seed: u64) -> Payload {
        let mut random = Random::new(seed);
        // Incompressible beyond its 6 bits a byte.
        let mut letter = || LETTERS[(random.next() >> 58) as usize];
        let pool: Vec<u8> = (0..POOL_BYTES + size).map(|_| letter()).collect();
        Payload {
            pool: Bytes::from(pool),
            size,
            next: 0,
        }
    }

    /// The next value; its bytes are shared, not copied.
    pub fn value(&mut self) -> Bytes {
        let from = self.next;
        // On from about where the last one ended: memory is read in order, so that the benchmark
        // costs little itself. An odd step visits every position before one comes again.
        self.next = (self.next + (self.size | 1)) % POOL_BYTES;
        self.pool.slice(from..from + self.size)
    }

    /// The next value with a stamp in front, as large as the others but never smaller than the
    /// stamp.
    pub fn stamped(&mut self, run: u64, due: Duration) -> Bytes {
        let rest = self.value();
        let mut value = BytesMut::with_capacity(self.size.max(STAMP_BYTES));
        value.put_u64(run);
        value.put_u64(u64::try_from(due.as_nanos()).unwrap_or(u64::MAX));
        value.put_slice(rest.get(STAMP_BYTES..).unwrap_or_default());
        value.freeze()
    }
}

/// Draws keys out of so many, each as likely as the others.
#[derive(Debug, Clone)]
pub struct Keys {
    count: u64,
    random: Random,
}

impl Keys {
    /// Out of `count` keys, at least one; the same seed draws the same keys.
    pub fn new(count: u64, seed: u64) -> Keys {
        Keys {
            count: count.max(1),
            random: Random::new(seed),
        }
    }

    /// The next record's key.
    pub fn key(&mut self) -> Bytes {
        Bytes::from((self.random.next() % self.count).to_string())
    }
}

/// xorshift64: quick, and good enough for loads.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// When a value of this run was due; `None` if it is no value of this run.
pub fn stamp(run: u64, value: &[u8]) -> Option<Duration> {
    let (theirs, rest) = value.split_first_chunk::<8>()?;
    let (due, _) = rest.split_first_chunk::<8>()?;
    (u64::from_be_bytes(*theirs) == run).then(|| Duration::from_nanos(u64::from_be_bytes(*due)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        let mut payload = Payload::new(100, 7);
        let (a, b) = (payload.value(), payload.value());
        assert_eq!((a.len(), b.len()), (100, 100));
        assert_ne!(a, b);
        assert_eq!(Payload::new(100, 7).value(), a);
        assert_eq!(Payload::new(0, 7).value(), Bytes::new());
    }

    #[test]
    fn keys_are_drawn_from_all_of_so_many() {
        let drawn = |seed| {
            let mut keys = Keys::new(10, seed);
            (0..200).map(|_| keys.key()).collect::<Vec<_>>()
        };
        let different: std::collections::BTreeSet<_> = drawn(7).into_iter().collect();
        assert_eq!(different.len(), 10);
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        assert_eq!(Keys::new(1, 7).key(), "0");
    }

    #[test]
    fn a_stamp_is_read_back_only_by_its_own_run() {
        let due = Duration::from_micros(1_234_567);
        let value = Payload::new(100, 7).stamped(42, due);
        assert_eq!(value.len(), 100);
        assert_eq!(stamp(42, &value), Some(due));
        assert_eq!(stamp(43, &value), None);
        assert_eq!(stamp(42, b"short"), None);
        assert_eq!(Payload::new(0, 7).stamped(42, due).len(), STAMP_BYTES);
    }
}
