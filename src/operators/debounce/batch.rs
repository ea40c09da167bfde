//! What changed since the last checkpoint: rows and tombstones, copied out of the table in one go.
//!
//! Filled by `PendingTable::drain_into` on the task's thread, which only copies; sorted by whoever writes it (a
//! background thread). Holds no reference to the table. Reuse one (or two, in turn) to keep its memory.
//!
//! Invariants after `sort`: keys ascend and each appears once; a key that was removed and came back is its new row.

use std::cmp::Ordering;
use std::ops::Range;

#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    key_len: u32,
    /// `None` is a tombstone.
    row_len: Option<u32>,
}

impl Place {
    fn key(&self) -> Range<usize> {
        self.start..self.start + self.key_len as usize
    }
}

/// The changes of one checkpoint.
#[derive(Clone, Debug, Default)]
pub struct DirtyBatch {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Positions in `places`, by key; empty until sorted.
    order: Vec<u32>,
    tombstones: usize,
}

impl DirtyBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> DirtyBatch {
        DirtyBatch::default()
    }

    /// Forgets the changes, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
        self.order.clear();
        self.tombstones = 0;
    }

    /// Nothing changed?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Rows and tombstones. Before [`DirtyBatch::sort`] a key that was removed and came back counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.order.is_empty() { self.places.len() } else { self.order.len() }
    }

    /// Bytes of keys and rows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn push(&mut self, key: &[u8], row: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let before = self.bytes.len();
        row(&mut self.bytes);
        let row_len = Some(super::row::length(&self.bytes[before..]));
        self.places.push(Place { start, key_len: super::row::length(key), row_len });
    }

    pub(super) fn push_tombstone(&mut self, key: &[u8]) {
        let place = Place { start: self.bytes.len(), key_len: super::row::length(key), row_len: None };
        self.bytes.extend_from_slice(key);
        self.places.push(place);
        self.tombstones += 1;
    }

    /// Sorts by key bytes. Takes a while: for the thread that writes.
    pub fn sort(&mut self) {
        // Keys often share a beginning ("account-..."): what is compared first are the 8 bytes after it.
        let shared = self.shared_prefix();
        let head = |place: &Place| {
            let key = &self.bytes[place.key()];
            let mut head = [0; 8];
            let rest = &key[shared..key.len().min(shared + 8)];
            head[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(head)
        };
        let mut heads: Vec<(u64, u32)> = self
            .places
            .iter()
            .enumerate()
            .map(|(n, place)| (head(place), u32::try_from(n).expect("a batch has fewer than 4 billion rows")))
            .collect();
        let place = |n: u32| &self.places[n as usize];
        let by_key = |a: u32, b: u32| self.bytes[place(a).key()].cmp(&self.bytes[place(b).key()]);
        heads.sort_unstable_by(|a, b| match a.0.cmp(&b.0) {
            // A tombstone goes before the row of the same key, which then replaces it.
            Ordering::Equal => {
                by_key(a.1, b.1).then(place(a.1).row_len.is_some().cmp(&place(b.1).row_len.is_some()))
            }
            unequal => unequal,
        });
        let mut order: Vec<u32> = Vec::with_capacity(heads.len());
        for (_, n) in heads {
            match order.last_mut() {
                Some(last) if self.tombstones > 0 && by_key(*last, n).is_eq() => *last = n,
                _ => order.push(n),
            }
        }
        self.order = order;
    }

    fn shared_prefix(&self) -> usize {
        let Some((first, rest)) = self.places.split_first() else { return 0 };
        let first = &self.bytes[first.key()];
        let mut shared = first.len();
        for place in rest {
            let key = &self.bytes[place.key()];
            if !key.starts_with(&first[..shared]) {
                shared = first.iter().zip(key).take_while(|(a, b)| a == b).count();
            }
        }
        shared
    }

    /// Keys in order, each with its row, or `None` where the key was removed. Sort first.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        debug_assert!(!self.order.is_empty() || self.places.is_empty(), "sort the batch first");
        self.order.iter().map(|n| {
            let place = &self.places[*n as usize];
            let key = place.key();
            let end = key.end;
            (&self.bytes[key], place.row_len.map(|len| &self.bytes[end..end + len as usize]))
        })
    }
}

impl crate::state::LateRows for DirtyBatch {
    fn visit(&mut self, row: crate::state::VisitChanged<'_>) {
        self.sort();
        for (key, value) in self.iter() {
            row(key, value);
        }
    }

    fn is_empty(&self) -> bool {
        DirtyBatch::is_empty(self)
    }

    fn boxed(&self) -> Box<dyn crate::state::LateRows> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_order_once_and_a_new_row_replaces_its_tombstone() {
        let mut batch = DirtyBatch::new();
        for key in ["acc-2", "acc-10", "acc-", "acc-1\0", "acc-1", "acc-123456789b", "acc-123456789a"] {
            batch.push(key.as_bytes(), |out| out.extend_from_slice(b"row"));
        }
        for key in ["acc-10", "acc-3", "acc-"] {
            batch.push_tombstone(key.as_bytes());
        }
        batch.sort();
        let got: Vec<_> =
            batch.iter().map(|(k, row)| (String::from_utf8_lossy(k).into_owned(), row.is_some())).collect();
        let want = [
            ("acc-", true),
            ("acc-1", true),
            ("acc-1\0", true),
            ("acc-10", true),
            ("acc-123456789a", true),
            ("acc-123456789b", true),
            ("acc-2", true),
            ("acc-3", false),
        ];
        assert_eq!(got, want.map(|(k, row)| (k.to_owned(), row)));
        assert_eq!(batch.len(), 8);
        batch.clear();
        batch.sort();
        assert_eq!(batch.iter().count(), 0);
    }
}
