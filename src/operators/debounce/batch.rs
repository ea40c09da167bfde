//! What changed since the last checkpoint: rows and tombstones, copied out of the table.
//!
//! Filled on the task's thread, which only copies; sorted on the thread that commits. It holds no reference to the
//! table. The bytes are in pieces of 1 MiB, so that what was copied is never moved again.
//!
//! Invariants after `sort`: keys ascend and each appears once; a key that was removed and came back has its new row.

use super::row::{Row, length};
use super::slab::low32;
use crate::state;

const PIECE_BYTES: usize = 1 << 20;
/// The piece of a tombstone's key: `removed`.
const REMOVED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Place {
    piece: u32,
    start: u32,
    key_len: u32,
    /// `None` is a tombstone.
    row_len: Option<u32>,
}

/// Keys that were removed, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Removed {
    /// Each key has its length, u32, in front.
    keys: Vec<u8>,
    count: usize,
}

impl Removed {
    pub(super) fn push(&mut self, key: &[u8]) {
        self.keys.extend_from_slice(&length(key).to_le_bytes());
        self.keys.extend_from_slice(key);
        self.count += 1;
    }

    /// The current position, for [`Removed::back_to`].
    pub(super) fn mark(&self) -> (usize, usize) {
        (self.keys.len(), self.count)
    }

    /// Drops what was added after the mark.
    pub(super) fn back_to(&mut self, mark: (usize, usize)) {
        self.keys.truncate(mark.0);
        self.count = mark.1;
    }

    /// Memory in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.capacity()
    }

    /// Start and length of each key.
    fn places(&self) -> impl Iterator<Item = (usize, u32)> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let len = self.keys.get(at..)?.first_chunk::<4>().map(|n| u32::from_le_bytes(*n))?;
            let start = at + 4;
            at = start + len as usize;
            Some((start, len))
        })
    }
}

/// The changes of one checkpoint.
#[derive(Clone, Debug, Default)]
pub struct DirtyBatch {
    pieces: Vec<Vec<u8>>,
    /// Pieces in use.
    used: usize,
    places: Vec<Place>,
    removed: Removed,
    /// Positions in `places`, by key; empty until sorted.
    order: Vec<u32>,
}

impl DirtyBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> DirtyBatch {
        DirtyBatch::default()
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.removed.count == 0
    }

    /// Rows and tombstones. Before [`DirtyBatch::sort`] a key that was removed and came back counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        if self.order.is_empty() { self.places.len() + self.removed.count } else { self.order.len() }
    }

    /// Bytes of keys and rows, without removed keys.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pieces[..self.used].iter().map(Vec::len).sum()
    }

    /// Reserves room for `rows`, and takes over the removed keys.
    pub(super) fn begin(&mut self, rows: usize, removed: &mut Removed) {
        self.places.reserve(rows);
        std::mem::swap(&mut self.removed, removed);
    }

    pub(super) fn push(&mut self, key: &[u8], row: &Row<'_>) {
        let row_len = row.encoded_len();
        let need = key.len() + row_len;
        if self.used == 0 || self.pieces[self.used - 1].capacity() - self.pieces[self.used - 1].len() < need {
            if self.used == self.pieces.len() {
                self.pieces.push(Vec::new());
            }
            let piece = &mut self.pieces[self.used];
            piece.clear();
            piece.reserve(PIECE_BYTES.max(need));
            self.used += 1;
        }
        let piece = &mut self.pieces[self.used - 1];
        let place = Place {
            piece: low32(self.used as u64 - 1),
            start: low32(piece.len() as u64),
            key_len: length(key),
            row_len: Some(u32::try_from(row_len).expect("a record is under 4 GiB")),
        };
        piece.extend_from_slice(key);
        row.encode(piece);
        self.places.push(place);
    }

    fn key(&self, place: &Place) -> &[u8] {
        let start = place.start as usize;
        let bytes =
            if place.piece == REMOVED { &self.removed.keys } else { &self.pieces[place.piece as usize] };
        &bytes[start..start + place.key_len as usize]
    }

    /// Sorts by key. Takes a while, so call it on the thread that commits.
    pub fn sort(&mut self) {
        if !self.order.is_empty() {
            return;
        }
        let gone = self.removed.places().map(|(start, key_len)| Place {
            piece: REMOVED,
            start: u32::try_from(start).expect("a batch has under 4 GiB of removed keys"),
            key_len,
            row_len: None,
        });
        self.places.extend(gone);
        // A row comes before a tombstone of the same key, and replaces it.
        let mut order = state::order(self.places.len(), |n| self.key(&self.places[n]));
        if self.removed.count > 0 {
            order.dedup_by_key(|n| self.key(&self.places[*n as usize]));
        }
        self.order = order;
    }

    /// Keys in order, each with its row, or `None` if the key was removed. Sort first.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        debug_assert!(!self.order.is_empty() || self.is_empty(), "sort the batch first");
        self.order.iter().map(|n| {
            let place = &self.places[*n as usize];
            let row = place.row_len.map(|len| {
                let start = (place.start + place.key_len) as usize;
                &self.pieces[place.piece as usize][start..start + len as usize]
            });
            (self.key(place), row)
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
        let (mut batch, mut removed) = (DirtyBatch::new(), Removed::default());
        for key in ["acc-10", "acc-3", "acc-"] {
            removed.push(key.as_bytes());
        }
        batch.begin(8, &mut removed);
        let value = [7; 300_000];
        let row =
            Row { count: 1, first: 0, last: 0, first_ts: 0, last_ts: 0, extra: b"", value: Some(&value) };
        for key in ["acc-2", "acc-10", "acc-", "acc-1\0", "acc-1", "acc-123456789b", "acc-123456789a"] {
            batch.push(key.as_bytes(), &row);
        }
        assert_eq!((batch.len(), batch.used, removed.count), (10, 3, 0), "several pieces");
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
        assert!(batch.iter().all(|(_, got)| got.is_none_or(|got| Row::decode(got) == Ok(row))));
        assert_eq!(batch.len(), 8);
    }
}
