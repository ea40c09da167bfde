//! A bounded write-back cache of decoded rows over one store: the rows that aggregates and buffers have in use.
//!
//! Used by operators whose state may be larger than memory. A row is decoded when it is first asked for, changed in
//! memory as often as the epoch wants, and encoded once, when the epoch ends. Sealing is spread over time, so that no
//! checkpoint stops the task: [`Cells::freeze`] fixes which rows belong to the epoch, [`Cells::flush_frozen`] encodes
//! some of them per call while the next epoch already makes changes, and a row that is about to change before it was
//! encoded is encoded first (copy on write). A mark per row says whether it has changed, and in which epoch.
//!
//! Afterwards, while more than `bytes_max` bytes are resident, rows that were not used lately leave memory
//! ([`Cells::evict`], the second-chance algorithm). A row that has changed, or that belongs to the sealed epoch, stays.
//! So a row that is not resident is in no run of the store, and a read from the store need not search the runs.
//!
//! Invariants: a resident row is the newest one; a scan of the store is right only after [`Cells::flush`]. Which rows
//! are resident depends on use alone, never on hashes, and never shows in an operator's output.

use bytes::Bytes;
use hashbrown::HashTable;

use super::chunked::Chunked;
use super::{StateError, Store};

/// A row as an operator works on it.
pub trait Cell: Sized {
    /// Appends the row's bytes.
    ///
    /// # Errors
    /// The row is too large. What was appended so far must be thrown away.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError>;

    /// Reads what [`Cell::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are not a row of this kind.
    fn decode(bytes: &[u8]) -> Result<Self, StateError>;
}

struct Slot<V> {
    key: Box<[u8]>,
    /// `None` if the slot is free.
    value: Option<V>,
    /// Bytes of the row when it was last encoded or decoded.
    row_bytes: usize,
    /// The epoch in which it changed: the open one's mark, the frozen one's, or [`CLEAN`].
    mark: u8,
    /// The number of the last seal that wrote this row. A row of the seal that is under way must not be evicted.
    written: u32,
    /// Whether the store may have a row of this key: only then does removing it need a delete.
    persisted: bool,
    used: bool,
}

impl<V> Slot<V> {
    fn row(&self) -> &V {
        self.value.as_ref().expect("a changed slot is in use")
    }

    /// Sets the row's size and corrects the sum `bytes` of all rows.
    fn resize(&mut self, row_bytes: usize, bytes: &mut usize) {
        *bytes = *bytes - self.row_bytes + row_bytes;
        self.row_bytes = row_bytes;
    }
}

/// The mark of a row that is in the store as it is in memory. Epochs have the marks 1 and 2, alternating.
const CLEAN: u8 = 0;

/// From this many rows on [`Cells::warm`] pays off; with fewer it does nothing.
const WARM_FROM: usize = 4096;

/// Approximate memory of a slot besides its key and value.
const SLOT_BYTES: usize = 96;

/// An entry of the hash table: the slot's number and the hash of its key. With the hash at hand, the table can grow and
/// can rule a slot out without touching the slot's memory.
struct Known {
    hash: u32,
    id: u32,
}

/// A 64-bit hash for the table, which uses the highest and the lowest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// The cache (see the page of this module). Slots are named by number; a number stays valid until its row is removed or
/// evicted.
pub struct Cells<V> {
    table: HashTable<Known>,
    hasher: ahash::RandomState,
    slots: Chunked<Slot<V>>,
    free: Vec<u32>,
    /// The mark of the open epoch.
    mark: u8,
    /// How many epochs have ended.
    seals: u32,
    /// Slots that changed in the open epoch.
    dirty: Vec<u32>,
    /// Slots that changed in the sealed epoch and are not encoded yet.
    frozen: Vec<u32>,
    /// Encoded rows of the sealed epoch that changed again before their turn: key and bytes.
    early: Vec<(Box<[u8]>, Vec<u8>)>,
    failed: Option<StateError>,
    /// How many slots this epoch's eviction may still look at.
    evictions: usize,
    hand: usize,
    bytes: usize,
    bytes_max: usize,
    evicted: bool,
}

impl<V: Cell> Cells<V> {
    /// An empty cache; from `bytes_max` bytes on, rows are evicted when an epoch ends.
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

    /// The number of resident rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no row is resident.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Approximate memory of the resident rows, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a row has ever left memory for the store. Until then, if the store was empty at the start, a row that is
    /// not resident does not exist.
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

    /// The slot of a row. A row that is not resident is read from the store, unless the caller knows that it is not
    /// there (`may_be_stored` is false).
    ///
    /// # Errors
    /// The store failed, or its row cannot be decoded.
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

    /// A row's bytes as they would be in the store if it were written now. Changes nothing, not even which rows stay.
    ///
    /// # Errors
    /// The store failed, or the row is too large.
    pub fn peek(&self, store: &Store, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let Some(id) = self.resident(self.hash(key), key) else { return store.get(key) };
        let mut row = Vec::new();
        self.value(id).encode(&mut row)?;
        Ok(Some(Bytes::from(row)))
    }

    /// Touches the memory that [`Cells::find`] will need for these keys, so that the cache misses of many keys overlap.
    /// Pays off for groups of 16 to 64 keys in a table that is larger than the processor's caches.
    pub fn warm<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) {
        if self.table.len() < WARM_FROM {
            return;
        }
        const GROUP: usize = 64;
        let (mut hashes, mut ids) = ([0; GROUP], [0; GROUP]);
        let mut keys = keys.into_iter();
        loop {
            // Each loop does independent reads only, so the processor need not wait for one before it starts the next.
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

    /// [`Cells::warm`] for keys that lie one after the other in `bytes`; `ends` says where each one ends.
    pub fn warm_packed(&self, bytes: &[u8], ends: impl IntoIterator<Item = usize>) {
        let mut from = 0;
        self.warm(ends.into_iter().map(|end| &bytes[std::mem::replace(&mut from, end)..end]));
    }

    /// Touches the memory that using these slots will need.
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

    /// Adds a row that is neither resident nor in the store.
    pub fn insert(&mut self, key: &[u8], value: V) -> u32 {
        let hash = self.hash(key);
        debug_assert!(self.resident(hash, key).is_none(), "the row is new");
        let id = self.add(hash, key, value, 0, false);
        self.slots[at(id)].mark = self.mark;
        self.dirty.push(id);
        id
    }

    /// Key and row of a slot; `None` if it is free.
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

    /// The row, for changing it: it counts as changed in the open epoch.
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

    /// Removes a row that is in the store, by its key.
    pub fn remove_stored(&mut self, store: &mut Store, key: &[u8]) {
        store.delete(key);
        if let Some(id) = self.resident(self.hash(key), key) {
            self.copy_before_write(id);
            self.release(id);
        }
    }

    /// Called before a row changes or is removed: if the sealed epoch still needs it as it is now, encodes it first. A
    /// failure is reported by [`Cells::flush_frozen`].
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

    /// Ends the epoch: [`Cells::flush_frozen`] writes the rows as they are at this moment. Call it together with the
    /// store's [`Store::begin_seal`].
    pub fn freeze(&mut self) {
        assert!(self.frozen.is_empty() && self.early.is_empty(), "one sealed epoch at a time");
        std::mem::swap(&mut self.dirty, &mut self.frozen);
        self.mark = other(self.mark);
        self.seals += 1;
        // Twice around: the first round only takes the "used" mark from rows that have it.
        self.evictions = if self.bytes > self.bytes_max { 2 * self.slots.len() } else { 0 };
    }

    /// Writes about `rows_max` more rows of the epoch that [`Cells::freeze`] ended to the store's sealed layer. True
    /// once all are written.
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
        // The memory of one epoch with many rows is given back.
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
    /// A row is too large: it and those after it stay marked as changed.
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

    /// Evicts rows that were not used since the last call, until memory is within its bound; looks at `max` rows at
    /// most. True when there is nothing more to do in this epoch. Call it after [`Cells::flush_frozen`] is done.
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

/// A list of slot numbers keeps at most this capacity from one epoch to the next.
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

    /// Random use, compared with a plain map, with little memory; the backend ends up with the map as it was when an
    /// epoch ended.
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
