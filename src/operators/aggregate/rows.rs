//! The rows of an aggregate: one per key, or per window and key, in a write-back cache over the node's store.
//!
//! A row's key is the record's key, or `[window start, 8 bytes in order][the record's key]`: rows of one window lie
//! together, in the order in which they are sent.

use bytes::Bytes;

use super::accumulator::Row;
use super::functions::{Plan, Unfit};
use crate::model::{Json, Record, Timestamp, Value, Window};
use crate::state::codec::{ordered_i64, read_ordered_i64};
use crate::state::{Cells, StateError, Store};

/// Decoded rows that one node of one task keeps in memory between epochs, bytes.
const RESIDENT_BYTES: usize = 32 << 20;

/// Why a record was not added.
pub(super) enum Fail {
    Unfit(Unfit),
    State(StateError),
}

impl From<Unfit> for Fail {
    fn from(unfit: Unfit) -> Self {
        Fail::Unfit(unfit)
    }
}

impl From<StateError> for Fail {
    fn from(error: StateError) -> Self {
        Fail::State(error)
    }
}

/// A record to be added to its windows.
#[derive(Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) plan: &'a Plan,
    /// The key it is grouped by.
    pub(super) key: &'a Bytes,
    pub(super) record: &'a Record,
    /// One value for each function.
    pub(super) inputs: &'a [Json],
}

impl Incoming<'_> {
    pub(super) fn ts(&self) -> i64 {
        self.record.ts.0
    }

    /// A result that this record causes: with its headers and origin.
    pub(super) fn result(&self, value: Value, ts: i64, window: Option<(i64, i64)>) -> Record {
        Record {
            key: Some(self.key.clone()),
            value,
            ts: Timestamp(ts),
            window: window.map(to_window),
            headers: self.record.headers.clone(),
            origin: self.record.origin,
            change: None,
        }
    }
}

fn to_window((start, end): (i64, i64)) -> Window {
    Window { start: Timestamp(start), end: Timestamp(end) }
}

/// A final result: it is caused by time, not by a record.
pub(super) fn final_result(key: &[u8], value: Value, ts: i64, window: (i64, i64)) -> Record {
    Record {
        key: Some(Bytes::copy_from_slice(key)),
        value,
        ts: Timestamp(ts),
        window: Some(to_window(window)),
        ..Record::default()
    }
}

/// Writes the key of a windowed row into `out`.
pub(super) fn row_key(start: i64, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&ordered_i64(start));
    out.extend_from_slice(key);
}

/// The key of a windowed row.
pub(super) fn row_key_of(start: i64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    row_key(start, key, &mut out);
    out
}

/// Window start and key of a windowed row.
pub(super) fn read_row_key(row: &[u8]) -> Result<(i64, &[u8]), StateError> {
    let (start, key) = row
        .split_first_chunk::<8>()
        .ok_or_else(|| StateError("an aggregate's row has a key that is too short".into()))?;
    Ok((read_ordered_i64(*start), key))
}

/// The outcome for one row.
pub(super) struct Taken {
    /// Its slot; `None` if the result is nothing.
    pub(super) id: Option<u32>,
    pub(super) value: Value,
    pub(super) ts: i64,
    /// Values that found no room in a bounded list.
    pub(super) left_out: u64,
}

/// The rows of an aggregate, with a cache of those in use.
pub(super) struct Rows {
    pub(super) cells: Cells<Row>,
    /// Whether the store had anything in it when the task opened.
    pub(super) stored: bool,
    /// A buffer, kept to save allocations.
    pub(super) key: Vec<u8>,
}

impl Rows {
    pub(super) fn new() -> Rows {
        Rows { cells: Cells::new(RESIDENT_BYTES), stored: false, key: Vec::new() }
    }

    /// The row of a key, if there is one.
    pub(super) fn find(&mut self, store: &Store, key: &[u8]) -> Result<Option<u32>, StateError> {
        let may_be_stored = self.stored || self.cells.has_evicted();
        self.cells.find(store, key, may_be_stored)
    }

    /// Reads the memory that finding these windowed rows will need.
    pub(super) fn warm<'k>(&self, rows: impl Iterator<Item = (i64, &'k Bytes)>) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (start, key) in rows {
            bytes.extend_from_slice(&ordered_i64(start));
            bytes.extend_from_slice(key);
            ends.push(bytes.len());
        }
        self.cells.warm_packed(&bytes, ends);
    }

    /// The slot of a windowed row that is known to exist.
    pub(super) fn existing(&mut self, store: &Store, start: i64, key: &[u8]) -> Result<u32, StateError> {
        row_key(start, key, &mut self.key);
        self.cells
            .find(store, &self.key, true)?
            .ok_or_else(|| StateError("a window's row is gone from the store".into()))
    }

    /// Removes a windowed row, wherever it is.
    pub(super) fn forget(&mut self, store: &mut Store, start: i64, key: &[u8]) -> Result<(), StateError> {
        row_key(start, key, &mut self.key);
        match self.cells.find(store, &self.key, false)? {
            Some(id) => {
                self.cells.remove(store, id);
            }
            None => store.delete(&self.key),
        }
        Ok(())
    }

    /// Adds a record to one row, which is made if there is none.
    pub(super) fn take_in(
        &mut self,
        store: &mut Store,
        id: Option<u32>,
        row_key: &[u8],
        incoming: Incoming<'_>,
        step: Option<Json>,
    ) -> Taken {
        let Incoming { plan, inputs, .. } = incoming;
        match id {
            Some(id) => {
                let row = self.cells.value_mut(id);
                let left_out = plan.apply(&mut row.acc, inputs, step);
                row.ts = row.ts.max(incoming.ts());
                let (value, ts) = (plan.result(&row.acc), row.ts);
                if row.acc.is_nothing() {
                    self.cells.remove(store, id);
                    return Taken { id: None, value, ts, left_out };
                }
                Taken { id: Some(id), value, ts, left_out }
            }
            None => {
                let mut row = Row { ts: incoming.ts(), acc: plan.init() };
                let left_out = plan.apply(&mut row.acc, inputs, step);
                let (value, ts) = (plan.result(&row.acc), row.ts);
                let id = (!row.acc.is_nothing()).then(|| self.cells.insert(row_key, row));
                Taken { id, value, ts, left_out }
            }
        }
    }
}
