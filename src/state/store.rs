//! A store: an operator's view of its state, a sorted map of bytes with the current epoch's changes on top.
//!
//! It has three layers: the open epoch, the sealed epoch (committing, not applied yet), and the backend. A read takes
//! the first that has the key. [`Store::begin_seal`] turns the open layer into the sealed one; a cache with changes of
//! its own adds them piece by piece ([`Store::put_run`]), and reads see them from then on; [`Store::end_seal`] hands
//! the layer to the committer, and [`Store::applied`] drops it once the backend has the rows. None of these calls takes
//! longer for more rows: the commit thread encodes the rows and frees their memory. A key that is added and removed
//! within one epoch is never written at all.
//!
//! A store may cache rows that it read from the backend ([`Store::keep_reads`]). Setting or deleting a row drops it
//! from that cache at once; until the backend has the change, the upper layers answer for the key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::read_cache::Reads;
use super::run::{self, Run, RunBuilder};
use super::{Backend, LateRows, Row, StateError, Visit, after_prefix};

/// Rows are copied into buffers of this size.
const BUFFER_BYTES: usize = 1 << 20;

#[derive(Debug)]
struct Change {
    value: Option<Bytes>,
    /// The key is known to be in no lower layer, so deleting it needs no row.
    fresh: bool,
}

type Layer = BTreeMap<Bytes, Change>;

/// The changes of the sealed epoch. If a key is in both, the run counts.
#[derive(Default)]
struct SealedLayer {
    changes: Layer,
    runs: Vec<Run>,
}

impl SealedLayer {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.runs.is_empty()
    }

    fn append_to(&self, rows: &mut Vec<Row>) {
        let mut changes = self.changes.iter().peekable();
        for (key, row) in run::sorted(&self.runs) {
            while let Some((k, change)) = changes.next_if(|(k, _)| **k < key) {
                rows.push((k.clone(), change.value.clone()));
            }
            changes.next_if(|(k, _)| **k == key);
            rows.push((key, Some(row)));
        }
        rows.extend(changes.map(|(k, c)| (k.clone(), c.value.clone())));
    }
}

/// A layer that is no longer needed. Dropping it takes time proportional to its rows, so leave that to a thread that
/// has the time.
pub struct Spent {
    _layer: Arc<SealedLayer>,
}

#[derive(Clone)]
enum LateKind {
    Resident { prefix: Bytes, rows: Box<dyn LateRows> },
    Layer(Arc<SealedLayer>),
}

/// Merges two sorted sequences of changes; if both have a key, `upper` counts.
fn over<'a>(
    upper: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    lower: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
    let (mut upper, mut lower) = (upper.peekable(), lower.peekable());
    std::iter::from_fn(move || {
        let Some((key, _)) = upper.peek() else { return lower.next() };
        if let Some(first) = lower.next_if(|(k, _)| k < key) {
            return Some(first);
        }
        lower.next_if(|(k, _)| k == key);
        upper.next()
    })
}

fn within<'a>(
    layer: &'a Layer,
    from: &[u8],
    to: &[u8],
) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> {
    let range = (Bound::Included(from), Bound::Excluded(to));
    layer.range::<[u8], _>(range).map(|(k, change)| (&k[..], change.value.as_deref()))
}

/// Rows of a sealed epoch that are not encoded yet.
#[derive(Clone)]
pub struct Late(LateKind);

impl Late {
    /// Appends the rows with their full keys, sorted. Rows of resident operators are copied into shared buffers.
    pub fn append_to(self, rows: &mut Vec<Row>) {
        let (prefix, mut late) = match self.0 {
            LateKind::Layer(layer) => return layer.append_to(rows),
            LateKind::Resident { prefix, rows } => (prefix, rows),
        };
        let mut buffer = BytesMut::new();
        late.visit(&mut |key, value| {
            let need = prefix.len() + key.len() + value.map_or(0, <[u8]>::len);
            if buffer.capacity() < need {
                buffer = BytesMut::with_capacity(BUFFER_BYTES.max(need));
            }
            buffer.put_slice(&prefix);
            buffer.put_slice(key);
            let full = buffer.split().freeze();
            let value = value.map(|value| {
                buffer.put_slice(value);
                buffer.split().freeze()
            });
            rows.push((full, value));
        });
    }
}

impl Clone for Box<dyn LateRows> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Late").finish_non_exhaustive()
    }
}

/// One store of one node of one task. Callers give and get keys without the store's prefix.
pub struct Store {
    prefix: Bytes,
    open: Layer,
    late: Vec<Late>,
    /// Shared with the commit thread only between `end_seal` and `applied`.
    sealed: Arc<SealedLayer>,
    /// The cache behind [`Store::keep_reads`], by key without the prefix. A cell, because a read does not change the
    /// store.
    reads: Option<RefCell<Reads>>,
    /// A buffer for the full key of a row that is looked up, kept to save allocations.
    scratch: RefCell<Vec<u8>>,
    backend: Arc<dyn Backend>,
}

impl Store {
    /// The store called `name`. The name is part of every key on disk, so renaming a store loses its rows.
    #[must_use]
    pub fn new(name: &str, backend: Arc<dyn Backend>) -> Store {
        let mut prefix = BytesMut::with_capacity(name.len() + 1);
        prefix.put_slice(name.as_bytes());
        prefix.put_u8(0);
        Store {
            prefix: prefix.freeze(),
            open: BTreeMap::new(),
            late: Vec::new(),
            sealed: Arc::default(),
            reads: None,
            scratch: RefCell::default(),
            backend,
        }
    }

    /// Caches rows that were read, up to `bytes` of them: for operators that have no cache of their own.
    pub fn keep_reads(&mut self, bytes: usize) {
        self.reads = Some(RefCell::new(Reads::new(bytes)));
    }

    /// Drops a row from the read cache, since it is about to change.
    fn forget_read(&mut self, key: &[u8]) {
        if let Some(reads) = &mut self.reads {
            reads.get_mut().forget(key);
        }
    }

    /// Touches the memory that [`Store::get`] will need for these keys, so that the cache misses of many keys overlap.
    /// Changes nothing. Only for stores with a read cache.
    pub fn warm<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>) {
        if let Some(reads) = &self.reads {
            reads.borrow().warm(keys);
        }
    }

    fn full(&self, key: &[u8]) -> Bytes {
        let mut full = BytesMut::with_capacity(self.prefix.len() + key.len());
        full.put_slice(&self.prefix);
        full.put_slice(key);
        full.freeze()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The backend failed.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        self.look_up(key, &self.sealed.runs)
    }

    /// [`Store::get`] without searching the runs: for the cache that wrote them. It has those rows in memory until the
    /// epoch is applied, so it never asks for one of them.
    ///
    /// # Errors
    /// The backend failed.
    pub(super) fn get_beside_runs(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let row = self.look_up(key, &[])?;
        debug_assert!(
            self.sealed.runs.is_empty() || row == self.get(key)?,
            "a row of a run is resident, or was removed since"
        );
        Ok(row)
    }

    fn look_up(&self, key: &[u8], runs: &[Run]) -> Result<Option<Bytes>, StateError> {
        let changed = !self.open.is_empty() || !self.sealed.changes.is_empty() || !runs.is_empty();
        if !changed
            && let Some(reads) = &self.reads
            && let Some(value) = reads.borrow_mut().get(key)
        {
            return Ok(value);
        }
        let mut full = self.scratch.borrow_mut();
        full.clear();
        full.extend_from_slice(&self.prefix);
        full.extend_from_slice(key);
        if let Some(change) = self.open.get(&full[..]) {
            return Ok(change.value.clone());
        }
        if let Some(row) = run::get(runs, &full) {
            // A slice would keep the memory of the whole run alive.
            return Ok(Some(Bytes::copy_from_slice(row)));
        }
        if let Some(change) = self.sealed.changes.get(&full[..]) {
            return Ok(change.value.clone());
        }
        let Some(reads) = &self.reads else { return self.backend.get(&full) };
        if changed && let Some(value) = reads.borrow_mut().get(key) {
            return Ok(value);
        }
        let value = self.backend.get(&full)?;
        reads.borrow_mut().put(Bytes::copy_from_slice(key), value.clone());
        Ok(value)
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: Bytes) {
        let full = self.full(key);
        self.forget_read(key);
        let fresh = self.open.get(&full).is_some_and(|c| c.fresh);
        self.open.insert(full, Change { value: Some(value), fresh });
    }

    /// Sets a key that is known not to exist: removing it within the same epoch leaves no trace.
    pub fn put_new(&mut self, key: &[u8], value: Bytes) {
        let full = self.full(key);
        self.forget_read(key);
        let fresh = self.open.get(&full).is_none_or(|c| c.fresh);
        self.open.insert(full, Change { value: Some(value), fresh });
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        let full = self.full(key);
        self.forget_read(key);
        if self.open.get(&full).is_some_and(|c| c.fresh) {
            self.open.remove(&full);
        } else {
            self.open.insert(full, Change { value: None, fresh: false });
        }
    }

    /// Adds rows of an operator that has its whole state in memory. [`Store::end_seal`] hands them on; `get` does not
    /// see them.
    pub fn push_rows(&mut self, rows: Box<dyn LateRows>) {
        if !rows.is_empty() {
            self.late.push(Late(LateKind::Resident { prefix: self.prefix.clone(), rows }));
        }
    }

    /// Visits `from <= key < to` in key order; a `to` of `None` is the end of the store.
    ///
    /// # Errors
    /// The backend failed.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StateError> {
        let start = self.full(from);
        let end = to.map_or_else(|| Bytes::from(after_prefix(&self.prefix)), |to| self.full(to));
        if start >= end {
            return Ok(());
        }
        let runs = run::range(&self.sealed.runs, &start, &end).map(|(key, row)| (key, Some(row)));
        let overlay =
            over(within(&self.open, &start, &end), over(runs, within(&self.sealed.changes, &start, &end)));
        let skip = self.prefix.len();
        let mut over = overlay.peekable();
        let mut stopped = false;
        self.backend.scan(&start, &end, &mut |key, value| {
            while let Some((k, v)) = over.next_if(|(k, _)| *k < key) {
                if let Some(v) = v
                    && visit(&k[skip..], v).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match over.next_if(|(k, _)| *k == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(v))) => visit(&key[skip..], v),
                None => visit(&key[skip..], value),
            };
            stopped = flow.is_break();
            flow
        })?;
        if !stopped {
            for (k, v) in over {
                if let Some(v) = v
                    && visit(&k[skip..], v).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether the sealed epoch has changes so far.
    #[must_use]
    pub fn has_sealed(&self) -> bool {
        !self.sealed.is_empty() || !self.late.is_empty()
    }

    /// [`Store::begin_seal`] and [`Store::end_seal`] in one, with everything encoded into rows, sorted by key.
    pub fn seal(&mut self, rows: &mut Vec<Row>) {
        self.begin_seal();
        self.end_seal_rows(rows);
    }

    /// [`Store::end_seal`] with everything encoded into rows, sorted by key.
    pub fn end_seal_rows(&mut self, rows: &mut Vec<Row>) {
        let (from, mut late) = (rows.len(), Vec::new());
        self.end_seal(&mut late);
        late.into_iter().for_each(|l| l.append_to(rows));
        rows[from..].sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Ends the epoch: its changes become the sealed layer. The epoch sealed before must have been applied, since there
    /// is only one sealed layer.
    pub fn begin_seal(&mut self) {
        debug_assert!(self.sealed.is_empty(), "one sealed epoch at a time");
        self.sealed = Arc::new(SealedLayer { changes: std::mem::take(&mut self.open), runs: Vec::new() });
    }

    /// An empty run for [`Store::put_run`].
    #[must_use]
    pub fn new_run(&self) -> RunBuilder {
        RunBuilder::new(self.prefix.clone())
    }

    /// Adds rows as they were when the epoch was sealed. Only between `begin_seal` and `end_seal`, and each key once.
    pub fn put_run(&mut self, run: RunBuilder) {
        if run.is_empty() {
            return;
        }
        let run = run.build();
        if self.reads.is_some() {
            let skip = self.prefix.len();
            run.keys().for_each(|key| self.forget_read(&key[skip..]));
        }
        let sealed = Arc::get_mut(&mut self.sealed).expect("the layer has not been handed out");
        sealed.runs.push(run);
    }

    /// Completes the sealed epoch: hands out its rows, and those of operators with their whole state in memory.
    pub fn end_seal(&mut self, late: &mut Vec<Late>) {
        late.append(&mut self.late);
        if !self.sealed.is_empty() {
            late.push(Late(LateKind::Layer(Arc::clone(&self.sealed))));
        }
    }

    /// Called when the backend has the sealed rows. The returned layer may be dropped on any thread.
    pub fn applied(&mut self) -> Option<Spent> {
        let layer = std::mem::take(&mut self.sealed);
        (!layer.is_empty()).then_some(Spent { _layer: layer })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: u8 = 12;

    /// What can happen to a store and to a cache in front of it that writes its rows as runs.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Put(u8),
        PutNew(u8),
        Delete(u8),
        BeginSeal,
        /// This key's row as it was when the epoch ended; the flag says whether more rows go into the same run.
        Run(u8, bool),
        EndSeal,
        Apply,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = || 0..KEYS;
        prop::collection::vec(
            prop_oneof![
                4 => key().prop_map(Step::Put),
                1 => key().prop_map(Step::PutNew),
                3 => key().prop_map(Step::Delete),
                1 => Just(Step::BeginSeal),
                6 => (key(), any::<bool>()).prop_map(|(key, more)| Step::Run(key, more)),
                1 => Just(Step::EndSeal),
                1 => Just(Step::Apply),
            ],
            0..120,
        )
    }

    /// The store's layers as plain maps.
    #[derive(Default)]
    struct Model {
        open: BTreeMap<u8, Option<Bytes>>,
        sealed: BTreeMap<u8, Option<Bytes>>,
        applied: BTreeMap<u8, Bytes>,
    }

    impl Model {
        fn is_new(&self, key: u8) -> bool {
            !self.open.contains_key(&key)
                && !self.sealed.contains_key(&key)
                && !self.applied.contains_key(&key)
        }

        fn get(&self, key: u8) -> Option<Bytes> {
            let changed = self.open.get(&key).or_else(|| self.sealed.get(&key)).cloned();
            changed.unwrap_or_else(|| self.applied.get(&key).cloned())
        }

        fn apply(&mut self) {
            for (key, value) in std::mem::take(&mut self.sealed) {
                self.applied.remove(&key);
                self.applied.extend(value.map(|value| (key, value)));
            }
        }
    }

    /// An epoch that is being sealed.
    struct Sealing {
        /// Keys that are in runs.
        keys: std::collections::BTreeSet<u8>,
        run: RunBuilder,
        /// Rows in `run`, which the store does not have yet.
        rows: Vec<(u8, Bytes)>,
    }

    /// Plays the steps. After each one, `get` and `scan` must agree with the model for every key, and what is applied
    /// must be the map as it was when the epoch ended.
    fn play(steps: &[Step], kept: Option<usize>) -> Result<(), TestCaseError> {
        let backend = Arc::new(MemoryBackend::default());
        let mut store = Store::new("n", Arc::clone(&backend) as Arc<dyn Backend>);
        kept.into_iter().for_each(|bytes| store.keep_reads(bytes));
        let mut model = Model::default();
        let (mut sealing, mut handed_out): (Option<Sealing>, Option<Vec<Row>>) = (None, None);
        for (n, step) in steps.iter().enumerate() {
            let value = Bytes::from(format!("value {n}"));
            match *step {
                Step::Put(key) => {
                    store.put(&[key], value.clone());
                    model.open.insert(key, Some(value));
                }
                Step::PutNew(key) if model.is_new(key) && sealing.is_none() => {
                    store.put_new(&[key], value.clone());
                    model.open.insert(key, Some(value));
                }
                Step::Delete(key) => {
                    store.delete(&[key]);
                    model.open.insert(key, None);
                }
                Step::BeginSeal if sealing.is_none() && handed_out.is_none() => {
                    store.begin_seal();
                    model.sealed = std::mem::take(&mut model.open);
                    let (run, keys) = (store.new_run(), Default::default());
                    sealing = Some(Sealing { keys, run, rows: Vec::new() });
                }
                Step::Run(key, more) => {
                    let Some(Sealing { keys, run, rows }) = &mut sealing else { continue };
                    if keys.insert(key) {
                        let write = |out: &mut Vec<u8>| {
                            out.extend_from_slice(&value);
                            Ok(())
                        };
                        run.push(&[key], write).expect("is written");
                        rows.push((key, value));
                    }
                    if !more {
                        store.put_run(std::mem::replace(run, store.new_run()));
                        model.sealed.extend(rows.drain(..).map(|(key, value)| (key, Some(value))));
                    }
                }
                Step::EndSeal if sealing.is_some() => {
                    let Sealing { run, rows, .. } = sealing.take().expect("it is sealing");
                    store.put_run(run);
                    model.sealed.extend(rows.into_iter().map(|(key, value)| (key, Some(value))));
                    let mut rows = Vec::new();
                    store.end_seal_rows(&mut rows);
                    handed_out = Some(rows);
                }
                Step::Apply if handed_out.is_some() => {
                    backend.write(&handed_out.take().expect("an epoch")).expect("writes");
                    drop(store.applied());
                    model.apply();
                    let rows: Vec<Bytes> =
                        backend.snapshot().iter().map(|(_, row)| Bytes::copy_from_slice(row)).collect();
                    prop_assert_eq!(rows, model.applied.values().cloned().collect::<Vec<_>>(), "step {}", n);
                }
                _ => continue,
            }
            let mut rows = Vec::new();
            for key in 0..KEYS {
                let got = store.get(&[key]).expect("gets");
                prop_assert_eq!(&got, &model.get(key), "key {} after step {}", key, n);
                rows.extend(got.map(|row| (key, row)));
            }
            let mut scanned = Vec::new();
            let visit: Visit<'_> = &mut |key, row| {
                scanned.push((key[0], Bytes::copy_from_slice(row)));
                ControlFlow::Continue(())
            };
            store.scan(b"", None, visit).expect("scans");
            prop_assert_eq!(scanned, rows, "scan after step {}", n);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn it_reads_as_a_map_would_also_rows_in_runs(steps in steps(), kept in prop::option::of(200..2_000usize)) {
            play(&steps, kept)?;
        }
    }

    #[test]
    fn what_was_read_is_kept_and_never_hides_a_change() {
        let backend = Arc::new(MemoryBackend::default());
        // Room for a few rows only.
        let mut kept = Store::new("n", Arc::clone(&backend) as Arc<dyn Backend>);
        kept.keep_reads(1000);
        let mut seed = 7_u64;
        let mut model: BTreeMap<u8, Option<Bytes>> = BTreeMap::new();
        let mut sealed = Vec::new();
        for step in 0..20_000_u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (what, key) = ((seed >> 40) % 10, u8::try_from((seed >> 33) % 30).unwrap());
            match what {
                0 => {
                    let value = Bytes::from(step.to_string());
                    kept.put(&[key], value.clone());
                    model.insert(key, Some(value));
                }
                1 => {
                    kept.delete(&[key]);
                    model.insert(key, None);
                }
                2 if sealed.is_empty() => kept.seal(&mut sealed),
                3 => {
                    backend.write(&sealed).expect("writes");
                    kept.applied();
                    sealed.clear();
                }
                _ => {
                    assert_eq!(kept.get(&[key]).expect("gets"), model.get(&key).cloned().flatten(), "{step}")
                }
            }
        }
    }
    use crate::state::MemoryBackend;

    fn all(store: &Store) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        store
            .scan(b"", None, &mut |k, v| {
                out.push((text(k), text(v)));
                ControlFlow::Continue(())
            })
            .expect("scans");
        out
    }

    #[test]
    fn the_newest_layer_wins_and_scans_merge_all_three() {
        let backend = Arc::new(MemoryBackend::default());
        let mut store = Store::new("n", Arc::clone(&backend) as Arc<dyn Backend>);
        let mut rows = Vec::new();
        for k in ["a", "b", "c", "d"] {
            store.put(k.as_bytes(), Bytes::from("0"));
        }
        store.seal(&mut rows);
        backend.write(&rows).expect("writes");
        store.applied();
        store.put(b"b", Bytes::from("1"));
        store.delete(b"c");
        store.put(b"e", Bytes::from("1"));
        rows.clear();
        store.seal(&mut rows);
        assert_eq!(rows.len(), 3);
        store.put(b"e", Bytes::from("2"));
        store.put_new(b"f", Bytes::from("2"));
        store.delete(b"f");
        store.delete(b"a");
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
        };
        assert_eq!(all(&store), pairs(&[("b", "1"), ("d", "0"), ("e", "2")]));
        assert_eq!(store.get(b"c").expect("gets"), None);
        backend.write(&rows).expect("writes");
        store.applied();
        assert_eq!(all(&store), pairs(&[("b", "1"), ("d", "0"), ("e", "2")]));
        rows.clear();
        store.seal(&mut rows);
        let keys: Vec<_> =
            rows.iter().map(|(k, v)| (String::from_utf8_lossy(k).into_owned(), v.is_some())).collect();
        assert_eq!(keys, vec![("n\0a".into(), false), ("n\0e".into(), true)], "f left no trace");
    }
}
