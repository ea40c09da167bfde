//! A run: rows that a cache writes into a sealed epoch, some thousands at a time, copied into one buffer and sorted by
//! key.
//!
//! [`Cells`](super::Cells) makes runs, [`Store`](super::Store) keeps them until the epoch is applied. A sorted map
//! would do too, but inserting the rows into one cost as much as everything else that a `count` does.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use bytes::Bytes;

use super::StateError;
use super::order::order;

/// Where a row lies in the buffer: its key, and the value right after it.
#[derive(Clone, Copy)]
struct Place {
    at: usize,
    key_len: usize,
    row_len: usize,
}

impl Place {
    fn key(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.at..self.at + self.key_len]
    }
}

/// A run that is being filled, in any order.
pub struct RunBuilder {
    prefix: Bytes,
    bytes: Vec<u8>,
    places: Vec<Place>,
}

impl RunBuilder {
    /// An empty run; every key gets `prefix` in front.
    pub(super) fn new(prefix: Bytes) -> RunBuilder {
        RunBuilder { prefix, bytes: Vec::new(), places: Vec::new() }
    }

    /// Reserves room for this many rows of about `row_bytes` bytes.
    pub fn reserve(&mut self, rows: usize, row_bytes: usize) {
        self.places.reserve(rows);
        self.bytes.reserve(rows * (self.prefix.len() + row_bytes));
    }

    /// Adds a row: `write` appends its value to the buffer. Returns the value's length in bytes. No key may be added
    /// twice.
    ///
    /// # Errors
    /// `write` failed: the row was not added.
    pub fn push(
        &mut self,
        key: &[u8],
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), StateError>,
    ) -> Result<usize, StateError> {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&self.prefix);
        self.bytes.extend_from_slice(key);
        let key_len = self.bytes.len() - at;
        if let Err(error) = write(&mut self.bytes) {
            self.bytes.truncate(at);
            return Err(error);
        }
        let row_len = self.bytes.len() - at - key_len;
        self.places.push(Place { at, key_len, row_len });
        Ok(row_len)
    }

    /// Whether the run has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn build(self) -> Run {
        let (bytes, places) = (self.bytes, self.places);
        let order = order(places.len(), |n| places[n].key(&bytes));
        let places = order.into_iter().map(|n| places[n as usize]).collect();
        Run { bytes: Bytes::from(bytes), places }
    }
}

/// Rows with their full keys, sorted, each key once.
pub(super) struct Run {
    bytes: Bytes,
    places: Vec<Place>,
}

impl Run {
    fn key(&self, n: usize) -> &[u8] {
        self.places[n].key(&self.bytes)
    }

    fn row(&self, n: usize) -> &[u8] {
        let Place { at, key_len, row_len } = self.places[n];
        &self.bytes[at + key_len..at + key_len + row_len]
    }

    /// Full keys, ascending.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.places.iter().map(|place| place.key(&self.bytes))
    }

    /// Key and value of row `n`, sharing the buffer.
    fn shared(&self, n: usize) -> (Bytes, Bytes) {
        let Place { at, key_len, row_len } = self.places[n];
        (self.bytes.slice(at..at + key_len), self.bytes.slice(at + key_len..at + key_len + row_len))
    }
}

/// The row of a full key. No two of the runs may have a key in common.
pub(super) fn get<'r>(runs: &'r [Run], key: &[u8]) -> Option<&'r [u8]> {
    runs.iter().find_map(|run| {
        let found = run.places.binary_search_by(|place| place.key(&run.bytes).cmp(key));
        found.ok().map(|n| run.row(n))
    })
}

/// The rows of all runs, sorted by key. No two of the runs may have a key in common.
pub(super) fn sorted(runs: &[Run]) -> impl Iterator<Item = (Bytes, Bytes)> + '_ {
    let all: Vec<(usize, usize)> = runs
        .iter()
        .enumerate()
        .flat_map(|(run, rows)| (0..rows.places.len()).map(move |n| (run, n)))
        .collect();
    let order = order(all.len(), |n| runs[all[n].0].key(all[n].1));
    order.into_iter().map(move |n| {
        let (run, n) = all[n as usize];
        runs[run].shared(n)
    })
}

/// The rows of such runs with `from <= key < to`, sorted by key. Lazy: it takes no time in advance, however many rows
/// there are.
pub(super) fn range<'r>(
    runs: &'r [Run],
    from: &[u8],
    to: &'r [u8],
) -> impl Iterator<Item = (&'r [u8], &'r [u8])> + use<'r> {
    let first = |(run, rows): (usize, &'r Run)| {
        let n = rows.places.partition_point(|place| place.key(&rows.bytes) < from);
        (n < rows.places.len()).then(|| Reverse((rows.key(n), run, n)))
    };
    let mut next: BinaryHeap<_> = runs.iter().enumerate().filter_map(first).collect();
    std::iter::from_fn(move || {
        let mut top = next.peek_mut()?;
        let Reverse((key, run, n)) = *top;
        if key >= to {
            return None;
        }
        let rows = &runs[run];
        if n + 1 < rows.places.len() {
            *top = Reverse((rows.key(n + 1), run, n + 1));
        } else {
            PeekMut::pop(top);
        }
        Some((key, rows.row(n)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::order::tests::keys;
    use super::*;

    proptest! {
        #[test]
        fn runs_read_as_one_map(keys in keys(), lengths in prop::collection::vec(0..40usize, 1..6), from in 0..100usize) {
            let model: std::collections::BTreeMap<Vec<u8>, Vec<u8>> =
                keys.into_iter().enumerate().map(|(n, key)| (key, n.to_string().into_bytes())).collect();
            let mut rows = model.iter().collect::<Vec<_>>();
            // An arbitrary order, so that the runs do not get sorted rows.
            rows.sort_by_key(|(key, _)| key.iter().fold(7u64, |sum, b| sum.wrapping_mul(31) ^ u64::from(*b)));
            let mut runs = Vec::new();
            let mut rest = rows.as_slice();
            for len in lengths.iter().cycle().take(400) {
                let (now, later) = rest.split_at((*len).min(rest.len()));
                let mut run = RunBuilder::new(Bytes::from_static(b"n\0"));
                for (key, row) in now {
                    run.push(key, |out| { out.extend_from_slice(row); Ok(()) }).unwrap();
                    run.push(key, |out| { out.push(1); Err(StateError("no".into())) }).unwrap_err();
                }
                runs.push(run.build());
                rest = later;
            }
            prop_assume!(rest.is_empty());
            let full = |key: &[u8]| [b"n\0", key].concat();
            let want: Vec<(Vec<u8>, Vec<u8>)> = model.iter().map(|(k, v)| (full(k), v.clone())).collect();
            let got: Vec<_> = sorted(&runs).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(&got, &want);
            let map: std::collections::BTreeMap<_, _> = want.iter().cloned().collect();
            for key in map.keys().flat_map(|key| [key.clone(), [key.as_slice(), b"-"].concat()]) {
                prop_assert_eq!(get(&runs, &key), map.get(&key).map(Vec::as_slice));
            }
            let from = want.get(from).map_or_else(|| b"n\0".to_vec(), |(key, _)| key.clone());
            let to = want.get(want.len() * 2 / 3).map_or_else(|| b"n\x01".to_vec(), |(key, _)| key.clone());
            let got: Vec<_> = range(&runs, &from, &to).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            let within: Vec<_> = want.into_iter().filter(|(key, _)| from <= *key && *key < to).collect();
            prop_assert_eq!(got, within);
        }
    }
}
