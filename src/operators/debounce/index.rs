//! From a key's hash to its block: open addressing over 8-byte slots.
//!
//! Called by `table.rs` only. A slot is the upper 32 bits of the key's hash and the handle of the block; its home is
//! given by the top bits of the same 32, so growing and removing never touch a block. Linear probing, at most 3/4 full;
//! removing shifts the followers back, so there are no tombstones and a probe stays short for ever.
//!
//! Not here: keys. The caller compares them, and the order of slots is never seen outside.

use super::slab::{NONE, low32};

const EMPTY: u64 = NONE as u64;
const BITS_MIN: u32 = 4;

/// The index of one table.
#[derive(Debug)]
pub(super) struct Index {
    slots: Vec<u64>,
    bits: u32,
    len: usize,
}

impl Index {
    pub(super) fn new() -> Index {
        Index { slots: vec![EMPTY; 1 << BITS_MIN], bits: BITS_MIN, len: 0 }
    }

    #[inline]
    fn home(&self, slot: u64) -> usize {
        low32(slot >> (64 - self.bits)) as usize
    }

    /// The handle whose hash's upper half is that of `hash` and that `is` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at & mask];
            if slot == EMPTY {
                return None;
            }
            if (slot ^ hash) >> 32 == 0 && is(low32(slot)) {
                return Some(low32(slot));
            }
            at += 1;
        }
    }

    /// The slot at the hash's home, whatever it is: for warming caches.
    #[inline]
    pub(super) fn home_slot(&self, hash: u64) -> u64 {
        self.slots[self.home(hash) & (self.slots.len() - 1)]
    }

    /// The handle that a key with this hash has most likely, given its [`Index::home_slot`]; keys are not compared.
    #[inline]
    pub(super) fn guess(&self, hash: u64, slot: u64) -> Option<u32> {
        if (slot ^ hash) >> 32 == 0 && slot != EMPTY {
            return Some(low32(slot));
        }
        self.find(hash, |_| true)
    }

    /// Adds a handle that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, handle: u32) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.resize(self.bits + 1);
        }
        self.len += 1;
        self.place((hash & !u64::from(NONE)) | u64::from(handle));
    }

    fn place(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.home(slot);
        while self.slots[at & mask] != EMPTY {
            at += 1;
        }
        self.slots[at & mask] = slot;
    }

    /// Removes a handle; nothing if it is not there.
    pub(super) fn remove(&mut self, hash: u64, handle: u32) {
        let mask = self.slots.len() - 1;
        let wanted = (hash & !u64::from(NONE)) | u64::from(handle);
        let mut hole = self.home(hash);
        loop {
            let slot = self.slots[hole & mask];
            if slot == EMPTY {
                return;
            }
            if slot == wanted {
                break;
            }
            hole += 1;
        }
        let mut at = hole;
        loop {
            at += 1;
            let slot = self.slots[at & mask];
            if slot == EMPTY {
                break;
            }
            // A follower may fill the hole unless its home lies behind the hole.
            let from_home = at.wrapping_sub(self.home(slot)) & mask;
            if from_home >= (at - hole) {
                self.slots[hole & mask] = slot;
                hole = at;
            }
        }
        self.slots[hole & mask] = EMPTY;
        self.len -= 1;
        if self.bits > 10 && self.len * 8 < self.slots.len() {
            self.resize(self.bits - 1);
        }
    }

    fn resize(&mut self, bits: u32) {
        assert!(bits <= 32, "one table holds at most 3 billion keys");
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; 1 << bits]);
        self.bits = bits;
        for slot in old {
            if slot != EMPTY {
                self.place(slot);
            }
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn behaves_like_a_map_with_colliding_hashes() {
        let mut index = Index::new();
        let mut model: BTreeMap<u32, u64> = BTreeMap::new();
        let mut seed = 7u64;
        for n in 0..200_000u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Few homes, so that runs are long and wrap around the end.
            let hash = (seed >> 32) << 32 & 0xf00f_0000_0000_0000 | 0xfff0_0000_0000_0000 & (seed << 7);
            if seed >> 60 < 9 && model.len() < 300 {
                index.insert(hash, n);
                model.insert(n, hash);
            } else if let Some((handle, hash)) = model.pop_first() {
                assert_eq!(index.find(hash, |h| h == handle), Some(handle));
                index.remove(hash, handle);
                assert_eq!(index.find(hash, |h| h == handle), None);
            }
            assert_eq!(index.len, model.len());
            if n % 1000 == 0 {
                for (handle, hash) in &model {
                    assert_eq!(index.find(*hash, |h| h == *handle), Some(*handle));
                }
            }
        }
    }

    #[test]
    fn grows_and_shrinks() {
        let mut index = Index::new();
        let hash = |n: u32| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for n in 0..100_000 {
            index.insert(hash(n), n);
        }
        let full = index.bytes();
        for n in 0..100_000 {
            assert_eq!(index.find(hash(n), |h| h == n), Some(n));
            index.remove(hash(n), n);
        }
        assert!(index.bytes() * 16 < full);
    }
}
