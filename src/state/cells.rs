//! A bounded write-back cache of decoded rows over one store: what aggregates and buffers keep hot.
//!
//! Called by operators whose state may be larger than memory. A row is decoded when it is first asked for, changed in
//! memory as often as the epoch wants, and encoded once, when the epoch ends: [`Cells::freeze`] fixes at one moment which
//! rows it has, [`Cells::flush_frozen`] encodes some of them at a time, with the next epoch's changes in between, and a
//! row that is about to change before its turn has come is encoded first. Whether a row has changed, and in which epoch,
//! is its mark. After that, rows that were not used lately leave memory while there are more than `bytes_max` of them
//! ([`Cells::evict`], second chance). Nothing is evicted that has changed since, nor what the sealed epoch has of it: so a
//! row that is not resident is in no run of the store, and nobody has to search them for it.
//!
//! Invariants: a resident row is the newest one; what a scan of the store sees is only right after [`Cells::flush`]. Which rows
//! are resident depends on use alone, never on hashes, and never shows in an operator's output.

use hashbrown::HashTable;

use super::chunked::Chunked;
use super::{StateError, Store};

/// A row as an operator works on it.
pub trait Cell: Sized {
    /// Appends the row's bytes.
    ///
    /// # Errors
    /// It is too large; what was appended is to be thrown away.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError>;

    /// Reads what [`Cell::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are no such row.
    fn decode(bytes: &[u8]) -> Result<Self, StateError>;
}

struct Slot<V> {
    key: Box<[u8]>,
    /// `None`: the slot is free.
    value: Option<V>,
    /// Bytes of the row when it was last encoded or decoded.
    row_bytes: usize,
    /// The epoch in which it changed: the open one's mark, the frozen one's, or [`CLEAN`].
    mark: u8,
    /// The number of the seal that has it as it is, or an earlier one.
    written: u32,
    /// The store may have a row of this key.
    persisted: bool,
    used: bool,
}

impl<V> Slot<V> {
    fn row(&self) -> &V {
        self.value.as_ref().expect("a changed slot is in use")
    }

    /// Its row has so many bytes now, of `bytes` in all.
    fn resize(&mut self, row_bytes: usize, bytes: &mut usize) {
        *bytes = *bytes - self.row_bytes + row_bytes;
        self.row_bytes = row_bytes;
    }
}

/// The mark of a row that the store has as it is. The others are 1 and 2, in turn.
const CLEAN: u8 = 0;

/// Rows from which on [`Cells::warm`] does something.
const WARM_FROM: usize = 4096;

/// Memory of a slot besides its key and value, about.
const SLOT_BYTES: usize = 96;

/// A slot in the table, with the hash of its key: so the table grows, and finds out that it is not this one, without a look
/// at the slot.
struct Known {
    hash: u32,
    id: u32,
}

/// A hash for the table, which uses the first bits and the last.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// See the module. Slots are named by number; a number is good until its row is removed or evicted.
pub struct Cells<V> {
    table: HashTable<Known>,
    hasher: ahash::RandomState,
    slots: Chunked<Slot<V>>,
    free: Vec<u32>,
    /// The mark of what changes now.
    mark: u8,
    /// Epochs that have ended.
    seals: u32,
    /// Changed in the open epoch.
    dirty: Vec<u32>,
    /// Changed in the epoch before, and not encoded yet.
    frozen: Vec<u32>,
    /// Rows of the epoch before that were encoded because they changed again.
    early: Vec<(Box<[u8]>, Vec<u8>)>,
    failed: Option<StateError>,
    /// Rows that this epoch's eviction may still look at.
    evictions: usize,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    evicted: bool,
}

impl<V: Cell> Cells<V> {
    /// Nothing resident; rows beyond `bytes_max` are evicted when an epoch ends.
    #[must_use]
    pub fn new(bytes_max: usize) -> Cells<V> {
        Cells {
            table: HashTable::new(),
            hasher: ahash::RandomState::new(),
            slots: Chunked::new(),
            free: Vec::new(),
            mark: CLEAN + 1,
            seals: 0,
            dirty: Vec::new(),
            frozen: Vec::new(),
            early: Vec::new(),
            failed: None,
            evictions: 0,
            hand: 0,
            bytes: 0,
            bytes_max,
            evicted: false,
        }
    }

    /// Rows in memory.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// No row in memory?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes in memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Has a row ever left memory for the store? Until then, and if the store was empty at the start, a row that is not
    /// resident does not exist.
    #[must_use]
    pub fn has_evicted(&self) -> bool {
        self.evicted
    }

    fn resident(&self, hash: u32, key: &[u8]) -> Option<u32> {
        let is_it = |known: &Known| known.hash == hash && *self.slots[at(known.id)].key == *key;
        self.table.find(spread(hash), is_it).map(|known| known.id)
    }

    fn hash(&self, key: &[u8]) -> u32 {
        // Any half of it will do.
        (self.hasher.hash_one(key) >> 32) as u32
    }

    /// The slot of a row, read from the store if it `may_be_stored` and is not resident.
    ///
    /// # Errors
    /// The store failed, or its row cannot be read.
    pub fn find(
        &mut self,
        store: &Store,
        key: &[u8],
        may_be_stored: bool,
    ) -> Result<Option<u32>, StateError> {
        let hash = self.hash(key);
        if let Some(id) = self.resident(hash, key) {
            return Ok(Some(id));
        }
        if !may_be_stored {
            return Ok(None);
        }
        let Some(row) = store.get_beside_runs(key)? else { return Ok(None) };
        let value = V::decode(&row)?;
        Ok(Some(self.add(hash, key, value, row.len(), true)))
    }

    /// Reads what [`Cells::find`] of these keys will need, so that the cache misses of many keys overlap. Worth it for
    /// groups of 16 to 64 keys of a table that is larger than the processor's caches.
    pub fn warm<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) {
        if self.table.len() < WARM_FROM {
            return;
        }
        const GROUP: usize = 64;
        let (mut hashes, mut ids) = ([0; GROUP], [0; GROUP]);
        let mut keys = keys.into_iter();
        loop {
            // Each loop does nothing but independent reads, so that the processor runs far ahead of the slow ones.
            let mut n = 0;
            for (hash, key) in hashes.iter_mut().zip(&mut keys) {
                *hash = self.hash(key);
                n += 1;
            }
            for (id, hash) in ids.iter_mut().zip(&hashes[..n]) {
                *id = self.table.find(spread(*hash), |known| known.hash == *hash).map_or(0, |known| known.id);
            }
            self.warm_slots(&ids[..n]);
            if n < GROUP {
                return;
            }
        }
    }

    /// [`Cells::warm`] for keys that stand one behind the other in `bytes`, each up to its end.
    pub fn warm_packed(&self, bytes: &[u8], ends: impl IntoIterator<Item = usize>) {
        let mut from = 0;
        self.warm(ends.into_iter().map(|end| &bytes[std::mem::replace(&mut from, end)..end]));
    }

    /// Reads what using these slots will need.
    pub fn warm_slots(&self, ids: &[u32]) {
        let slots = || ids.iter().filter_map(|id| self.slots.get(at(*id)));
        std::hint::black_box(slots().fold(0, |sum, slot| sum ^ slot.key.len() ^ usize::from(slot.used)));
        std::hint::black_box(slots().fold(0, |sum, slot| sum ^ slot.key.first().copied().unwrap_or(0)));
    }

    fn add(&mut self, hash: u32, key: &[u8], value: V, row_bytes: usize, persisted: bool) -> u32 {
        let (key, value) = (key.into(), Some(value));
        let slot = Slot { key, value, row_bytes, mark: CLEAN, written: 0, persisted, used: true };
        self.bytes += slot.key.len() + row_bytes + SLOT_BYTES;
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[at(id)] = slot;
                id
            }
            None => {
                let id = u32::try_from(self.slots.len()).expect("fewer than 4 Gi rows fit in memory");
                self.slots.push(slot);
                id
            }
        };
        self.table.insert_unique(spread(hash), Known { hash, id }, |known| spread(known.hash));
        id
    }

    /// A row that is neither resident nor stored.
    pub fn insert(&mut self, key: &[u8], value: V) -> u32 {
        let hash = self.hash(key);
        debug_assert!(self.resident(hash, key).is_none(), "the row is new");
        let id = self.add(hash, key, value, 0, false);
        self.slots[at(id)].mark = self.mark;
        self.dirty.push(id);
        id
    }

    /// Key and row of a slot; `None` where it is free.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<(&[u8], &V)> {
        let slot = self.slots.get(at(id))?;
        Some((&slot.key, slot.value.as_ref()?))
    }

    /// The row's key.
    #[must_use]
    pub fn key(&self, id: u32) -> &[u8] {
        &self.slots[at(id)].key
    }

    /// The row.
    #[must_use]
    pub fn value(&self, id: u32) -> &V {
        self.slots[at(id)].value.as_ref().expect("the slot is in use")
    }

    /// The row, to be changed.
    pub fn value_mut(&mut self, id: u32) -> &mut V {
        if self.slots[at(id)].mark != self.mark {
            self.copy_before_write(id);
            self.slots[at(id)].mark = self.mark;
            self.dirty.push(id);
        }
        let slot = &mut self.slots[at(id)];
        slot.used = true;
        slot.value.as_mut().expect("the slot is in use")
    }

    /// Removes a row from memory and from the store.
    pub fn remove(&mut self, store: &mut Store, id: u32) -> V {
        self.copy_before_write(id);
        if self.slots[at(id)].persisted {
            store.delete(&self.slots[at(id)].key);
        }
        self.release(id)
    }

    /// Removes a row by its key, where the caller knows it to be stored.
    pub fn remove_stored(&mut self, store: &mut Store, key: &[u8]) {
        store.delete(key);
        if let Some(id) = self.resident(self.hash(key), key) {
            self.copy_before_write(id);
            self.release(id);
        }
    }

    /// Before a row changes or goes: the epoch that is being sealed may still want it as it is. A failure shows in
    /// [`Cells::flush_frozen`].
    fn copy_before_write(&mut self, id: u32) {
        let slot = &mut self.slots[at(id)];
        if slot.mark == CLEAN || slot.mark == self.mark {
            return;
        }
        let mut row = Vec::new();
        match slot.row().encode(&mut row) {
            Ok(()) => {
                slot.resize(row.len(), &mut self.bytes);
                self.early.push((slot.key.clone(), row));
            }
            Err(error) => self.failed = Some(error),
        }
        slot.persisted = true;
        slot.mark = CLEAN;
    }

    fn release(&mut self, id: u32) -> V {
        let hash = self.hash(&self.slots[at(id)].key);
        if let Ok(entry) = self.table.find_entry(spread(hash), |known| known.id == id) {
            entry.remove();
        }
        let slot = &mut self.slots[at(id)];
        self.bytes -= slot.key.len() + slot.row_bytes + SLOT_BYTES;
        slot.key = Box::default();
        slot.mark = CLEAN;
        self.free.push(id);
        slot.value.take().expect("the slot is in use")
    }

    /// The epoch ends: what changed in it, as it is now, is what [`Cells::flush_frozen`] writes. The store's seal begins
    /// at the same moment.
    pub fn freeze(&mut self) {
        assert!(self.frozen.is_empty() && self.early.is_empty(), "one sealed epoch at a time");
        std::mem::swap(&mut self.dirty, &mut self.frozen);
        self.mark = other(self.mark);
        self.seals += 1;
        // Twice around: once for those that were used.
        self.evictions = if self.bytes > self.bytes_max { 2 * self.slots.len() } else { 0 };
    }

    /// Writes about `rows_max` more rows of the epoch that [`Cells::freeze`] ended to the store's sealed one. True once
    /// it has them all.
    ///
    /// # Errors
    /// A row is too large: the epoch must not be committed.
    pub fn flush_frozen(&mut self, store: &mut Store, rows_max: usize) -> Result<bool, StateError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let theirs = other(self.mark);
        let mut run = store.new_run();
        let rows = rows_max.min(self.early.len() + self.frozen.len());
        run.reserve(rows, self.bytes / self.table.len().max(1));
        for _ in 0..rows {
            if let Some((key, row)) = self.early.pop() {
                run.push(&key, |out| {
                    out.extend_from_slice(&row);
                    Ok(())
                })?;
                continue;
            }
            let Some(id) = self.frozen.pop() else { break };
            let slot = &mut self.slots[at(id)];
            if slot.mark == theirs {
                let row_bytes = run.push(&slot.key, |out| slot.row().encode(out))?;
                slot.resize(row_bytes, &mut self.bytes);
                slot.persisted = true;
                slot.mark = CLEAN;
                slot.written = self.seals;
            }
        }
        store.put_run(run);
        // One epoch with many rows must not keep its memory for ever.
        let done = self.frozen.is_empty() && self.early.is_empty();
        if done {
            self.frozen.shrink_to(KEPT);
            self.early.shrink_to(KEPT);
        }
        Ok(done)
    }

    /// Writes every changed row to the store, so that a scan sees it.
    ///
    /// # Errors
    /// A row is too large: it stays changed, and so do those after it.
    pub fn flush(&mut self, store: &mut Store) -> Result<(), StateError> {
        self.flush_frozen(store, usize::MAX)?;
        while let Some(id) = self.dirty.last().copied() {
            let slot = &mut self.slots[at(id)];
            if slot.mark == self.mark {
                let mut row = Vec::new();
                slot.row().encode(&mut row)?;
                slot.resize(row.len(), &mut self.bytes);
                if slot.persisted {
                    store.put(&slot.key, row.into());
                } else {
                    store.put_new(&slot.key, row.into());
                }
                slot.persisted = true;
                slot.mark = CLEAN;
            }
            self.dirty.pop();
        }
        Ok(())
    }

    /// Lets rows go that were not used since the last time, until memory is within its bound; looks at `max` rows. True
    /// when it has done what it can for this epoch. Once [`Cells::flush_frozen`] is done.
    pub fn evict(&mut self, max: usize) -> bool {
        let goal = self.bytes_max / 4 * 3;
        for _ in 0..max {
            if self.bytes <= goal || self.evictions == 0 {
                self.evictions = 0;
                return true;
            }
            self.evictions -= 1;
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            let slot = &mut self.slots[self.hand];
            if slot.value.is_none() || slot.mark != CLEAN || slot.written == self.seals {
                continue;
            }
            if slot.used {
                slot.used = false;
                continue;
            }
            self.evicted = true;
            let id = u32::try_from(self.hand).expect("fewer than 4 Gi rows fit in memory");
            self.release(id);
        }
        self.evictions == 0
    }
}

/// Ids that a list keeps room for.
const KEPT: usize = 16 * 1024;

fn other(mark: u8) -> u8 {
    if mark == CLEAN + 1 { CLEAN + 2 } else { CLEAN + 1 }
}

fn at(id: u32) -> usize {
    id as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::state::{Backend, MemoryBackend};

    #[derive(Clone, Debug, PartialEq)]
    struct Number(u64);

    impl Cell for Number {
        fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
            if self.0 == u64::MAX {
                return Err(StateError("too large".into()));
            }
            out.extend_from_slice(&self.0.to_be_bytes());
            Ok(())
        }
        fn decode(bytes: &[u8]) -> Result<Self, StateError> {
            bytes.try_into().map(|b| Number(u64::from_be_bytes(b))).map_err(|_| StateError("length".into()))
        }
    }

    fn store() -> (Arc<MemoryBackend>, Store) {
        let backend = Arc::new(MemoryBackend::default());
        let store = Store::new("n", Arc::clone(&backend) as Arc<dyn Backend>);
        (backend, store)
    }

    fn checkpoint(cells: &mut Cells<Number>, store: &mut Store, backend: &MemoryBackend) -> usize {
        cells.freeze();
        store.begin_seal();
        end(cells, store, backend)
    }

    fn end(cells: &mut Cells<Number>, store: &mut Store, backend: &MemoryBackend) -> usize {
        let mut rows = Vec::new();
        assert!(cells.flush_frozen(store, usize::MAX).expect("flushes"));
        store.end_seal_rows(&mut rows);
        assert!(rows.windows(2).all(|w| w[0].0 < w[1].0), "each key once");
        backend.write(&rows).expect("writes");
        drop(store.applied());
        rows.len()
    }

    #[test]
    fn a_row_is_written_once_per_epoch_and_read_back_after_its_eviction() {
        let (backend, mut store) = store();
        let mut cells = Cells::<Number>::new(0);
        let id = cells.insert(b"a", Number(1));
        cells.value_mut(id).0 += 1;
        assert_eq!(checkpoint(&mut cells, &mut store, &backend), 1);
        assert!(cells.evict(usize::MAX));
        assert_eq!(cells.len(), 1, "a row of the sealed epoch stays until it is applied");
        assert_eq!(checkpoint(&mut cells, &mut store, &backend), 0);
        assert!(cells.evict(usize::MAX));
        assert!(cells.is_empty() && cells.has_evicted());
        assert_eq!(cells.bytes(), 0);
        assert_eq!(cells.find(&store, b"a", false).expect("finds"), None);
        let id = cells.find(&store, b"a", true).expect("finds").expect("is stored");
        assert_eq!(cells.value(id), &Number(2));
        assert_eq!(checkpoint(&mut cells, &mut store, &backend), 0, "reading changes nothing");
        cells.remove(&mut store, id);
        assert_eq!(checkpoint(&mut cells, &mut store, &backend), 1);
        assert_eq!(backend.snapshot(), vec![]);
    }

    #[test]
    fn a_row_that_comes_and_goes_within_an_epoch_leaves_no_trace() {
        let (backend, mut store) = store();
        let mut cells = Cells::<Number>::new(1000);
        let id = cells.insert(b"a", Number(1));
        cells.remove(&mut store, id);
        let id = cells.insert(b"b", Number(1));
        cells.flush(&mut store).expect("flushes");
        cells.remove(&mut store, id);
        assert_eq!(checkpoint(&mut cells, &mut store, &backend), 0);
        let id = cells.insert(b"c", Number(1));
        checkpoint(&mut cells, &mut store, &backend);
        cells.remove(&mut store, id);
        cells.insert(b"c", Number(5));
        checkpoint(&mut cells, &mut store, &backend);
        assert_eq!(store.get(b"c").expect("gets"), Some(Bytes::copy_from_slice(&5u64.to_be_bytes())));
    }

    #[test]
    fn a_row_that_cannot_be_encoded_stays_changed() {
        let (backend, mut store) = store();
        let mut cells = Cells::<Number>::new(1000);
        let id = cells.insert(b"a", Number(u64::MAX));
        assert!(cells.flush(&mut store).is_err());
        cells.value_mut(id).0 = 1;
        assert_eq!(checkpoint(&mut cells, &mut store, &backend), 1);
    }

    /// Random use against a plain map, with little memory; the backend has what the map was when an epoch ended.
    #[test]
    fn it_answers_as_a_map_would() {
        let (backend, mut store) = store();
        let mut cells = Cells::<Number>::new(600);
        let mut model = std::collections::BTreeMap::new();
        let mut sealed = None;
        let mut seed = 7u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % n
        };
        for step in 0..60_000u64 {
            let key = [u8::try_from(random(40)).expect("is small")];
            let found = cells.find(&store, &key, true).expect("finds");
            assert_eq!(found.map(|id| cells.value(id).0), model.get(&key).copied());
            match (random(5), found) {
                (0, Some(id)) => {
                    cells.remove(&mut store, id);
                    model.remove(&key);
                }
                (1, Some(_)) if random(3) == 0 => {
                    cells.remove_stored(&mut store, &key);
                    model.remove(&key);
                }
                (1 | 2, Some(id)) => {
                    cells.value_mut(id).0 = step;
                    model.insert(key, step);
                }
                (1 | 2, None) => {
                    cells.insert(&key, Number(step));
                    model.insert(key, step);
                }
                _ => {}
            }
            match (random(60), &sealed) {
                (0, None) => {
                    cells.freeze();
                    store.begin_seal();
                    sealed = Some(model.clone());
                }
                (0 | 1, Some(at_seal)) => {
                    end(&mut cells, &mut store, &backend);
                    let rows: Vec<_> = backend.snapshot().into_iter().map(|(_, row)| row).collect();
                    let want: Vec<_> = at_seal.values().map(|n: &u64| n.to_be_bytes().to_vec()).collect();
                    assert_eq!(rows, want, "step {step}");
                    sealed = None;
                }
                (2..8, Some(_)) if cells.flush_frozen(&mut store, 2).expect("flushes") => {
                    cells.evict(5);
                }
                (8, _) => {
                    cells.flush(&mut store).expect("flushes");
                    let mut rows = 0;
                    let count: crate::state::Visit<'_> = &mut |_, _| {
                        rows += 1;
                        std::ops::ControlFlow::Continue(())
                    };
                    store.scan(b"", None, count).expect("scans");
                    assert_eq!(rows, model.len(), "step {step}");
                }
                _ => {}
            }
        }
        assert!(cells.has_evicted());
    }
}
