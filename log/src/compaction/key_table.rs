//! The last offset of each key, in bounded memory: keys are kept as hashes of 128 bits, drawn anew
//! for each pass, so that no two keys of a log are ever taken for one.

use std::hash::{BuildHasher, Hasher, RandomState};

use ottla_model::Offset;

/// A hash and an offset.
const SLOT_BYTES: usize = 24;
/// Nine of ten slots are used at most, so that looking for a key ends soon.
const USED_OF_TEN: usize = 9;
const EMPTY: i64 = -1;

#[derive(Debug)]
pub(super) struct KeyTable {
    states: [RandomState; 2],
    hashes: Vec<u128>,
    offsets: Vec<i64>,
    used: usize,
}

impl KeyTable {
    /// A table that takes at most `bytes`, and no more than `keys` keys need.
    pub fn new(bytes: usize, keys: usize) -> KeyTable {
        let needed = keys.saturating_mul(10) / USED_OF_TEN + 2;
        let slots = (bytes / SLOT_BYTES).min(needed).max(2);
        KeyTable {
            states: [RandomState::new(), RandomState::new()],
            hashes: vec![0; slots],
            offsets: vec![EMPTY; slots],
            used: 0,
        }
    }

    /// Notes a record of `key`; false if the key is new and there is no room for it.
    pub fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let hash = self.hash(key);
        let slot = self.slot_of(hash);
        if self.offsets[slot] == EMPTY {
            let room = (self.offsets.len() * USED_OF_TEN / 10).max(1);
            if self.used >= room {
                return false;
            }
            self.used += 1;
            self.hashes[slot] = hash;
        }
        self.offsets[slot] = self.offsets[slot].max(offset.0);
        true
    }

    /// The last offset that was noted for `key`.
    pub fn last(&self, key: &[u8]) -> Option<Offset> {
        let found = self.offsets[self.slot_of(self.hash(key))];
        (found != EMPTY).then_some(Offset(found))
    }

    fn hash(&self, key: &[u8]) -> u128 {
        let [high, low] = self.states.each_ref().map(|state| {
            let mut hasher = state.build_hasher();
            hasher.write(key);
            u128::from(hasher.finish())
        });
        high << 64 | low
    }

    /// Where the hash stands, or would. There is always an empty slot.
    fn slot_of(&self, hash: u128) -> usize {
        let slots = self.offsets.len();
        let mut slot = (hash % slots as u128) as usize;
        while self.offsets[slot] != EMPTY && self.hashes[slot] != hash {
            slot = (slot + 1) % slots;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_of_each_key_is_found() {
        let mut table = KeyTable::new(1 << 20, 1000);
        for offset in 0..3000i64 {
            let key = (offset % 1000).to_be_bytes();
            assert!(table.put(&key, Offset(offset)));
        }
        for key in 0..1000i64 {
            assert_eq!(table.last(&key.to_be_bytes()), Some(Offset(key + 2000)));
        }
        assert_eq!(table.last(b"another"), None);
    }

    #[test]
    fn a_full_table_takes_known_keys_only() {
        let mut table = KeyTable::new(20 * SLOT_BYTES, usize::MAX);
        let taken = (0..100i64)
            .take_while(|key| table.put(&key.to_be_bytes(), Offset(*key)))
            .count();
        assert_eq!(taken, 18);
        assert!(table.put(&3i64.to_be_bytes(), Offset(500)));
        assert_eq!(table.last(&3i64.to_be_bytes()), Some(Offset(500)));
        assert!(!table.put(&99i64.to_be_bytes(), Offset(501)));
    }

    #[test]
    fn the_smallest_table_still_takes_a_key() {
        let mut table = KeyTable::new(0, 0);
        assert!(table.put(b"a", Offset(1)));
        assert!(!table.put(b"b", Offset(2)));
        assert_eq!(table.last(b"a"), Some(Offset(1)));
        assert_eq!(table.last(b"b"), None);
    }
}
