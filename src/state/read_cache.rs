//! A cache of rows that were read from the backend lately, including keys that are known not to exist.
//!
//! Used by [`Store`](super::Store). It has two generations: when the young one is full it becomes the old one, and the
//! entries of the former old one that were not read in the meantime are dropped.

use bytes::Bytes;
use hashbrown::HashTable;

/// Approximate memory of an entry besides its key and value.
const ENTRY_BYTES: usize = 80;

struct Entry {
    key: Bytes,
    value: Option<Bytes>,
}

/// The cache.
pub(super) struct Reads {
    hasher: ahash::RandomState,
    half_bytes: usize,
    bytes: usize,
    young: HashTable<Entry>,
    old: HashTable<Entry>,
}

impl Reads {
    /// An empty cache, which uses at most about `bytes` of memory.
    pub(super) fn new(bytes: usize) -> Reads {
        Reads {
            hasher: ahash::RandomState::new(),
            half_bytes: bytes / 2,
            bytes: 0,
            young: HashTable::new(),
            old: HashTable::new(),
        }
    }

    /// The row, if it is cached. `Some(None)`: the key is known not to exist.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Option<Bytes>> {
        let hash = self.hasher.hash_one(key);
        if let Some(entry) = self.young.find(hash, |entry| entry.key == key) {
            return Some(entry.value.clone());
        }
        let (entry, _) = self.old.find_entry(hash, |entry| entry.key == key).ok()?.remove();
        let value = entry.value.clone();
        self.add(hash, entry);
        Some(value)
    }

    /// Adds a row that was read and is not cached yet.
    pub(super) fn put(&mut self, key: Bytes, value: Option<Bytes>) {
        self.add(self.hasher.hash_one(&key[..]), Entry { key, value });
    }

    fn add(&mut self, hash: u64, entry: Entry) {
        self.bytes += ENTRY_BYTES + entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len);
        let hasher = &self.hasher;
        self.young.insert_unique(hash, entry, |entry| hasher.hash_one(&entry.key[..]));
        if self.bytes > self.half_bytes {
            self.bytes = 0;
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// Drops a row that is about to change.
    pub(super) fn forget(&mut self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        for table in [&mut self.young, &mut self.old] {
            if let Ok(entry) = table.find_entry(hash, |entry| entry.key == key) {
                entry.remove();
            }
        }
    }

    /// Touches the memory that `get` will need for these keys, in groups. Each loop does independent reads only, so the
    /// processor need not wait for one before it starts the next.
    pub(super) fn warm<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) {
        const GROUP: usize = 64;
        let mut hashes = [0; GROUP];
        let mut found: [Option<&Entry>; GROUP] = [None; GROUP];
        let mut keys = keys.into_iter();
        loop {
            let mut n = 0;
            for (hash, key) in hashes.iter_mut().zip(&mut keys) {
                *hash = self.hasher.hash_one(key);
                n += 1;
            }
            for (found, hash) in found.iter_mut().zip(&hashes[..n]) {
                // The first entry with this hash is almost always the right one, and warming up promises nothing more.
                *found = self.young.find(*hash, |_| true);
            }
            let lengths = found[..n].iter().flatten().fold(0, |sum, entry| sum ^ entry.key.len());
            std::hint::black_box(lengths);
            let read = |entry: &Entry| {
                let row = entry.value.as_ref().and_then(|value| value.first());
                // A `Bytes` clone writes its reference count, which lies on another cache line than the data: touch
                // that too.
                let alone = entry.value.as_ref().is_some_and(Bytes::is_unique);
                entry.key.first().copied().unwrap_or(0) ^ row.copied().unwrap_or(0) ^ u8::from(alone)
            };
            std::hint::black_box(found[..n].iter().flatten().fold(0, |sum, entry| sum ^ read(entry)));
            if n < GROUP {
                return;
            }
        }
    }
}
