//! Tumbling and hopping windows.
//!
//! With T the node's clock and G the grace: a window takes a record while `end > T - G` and is closed when `T >= end +
//! G`. Closed windows are sent in the order of their starts, the keys of one window in the order of their bytes; their
//! rows are deleted.
//!
//! In memory is which windows are open, and the rows of those that began since the task opened. Such a window, if it
//! was never written to disk, is closed without reading it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::accumulator::Row;
use super::functions::Plan;
use super::rows::{Fail, Incoming, Rows, final_result, read_row_key, row_key, row_key_of};
use super::{FINALS_MAX, Grouping};
use crate::model::{Json, Reason, Record, Timestamp};
use crate::operators::Cx;
use crate::operators::shared::window::starts;
use crate::state;
use crate::state::codec::ordered_i64;
use crate::state::{Cell, StateError, Store, after_prefix};

/// Rows whose memory is read together.
const WARM_GROUP: usize = 64;

#[derive(Default)]
struct Pane {
    /// It began since the task opened: unless something was evicted, `ids` are all of its rows.
    fresh: bool,
    ids: Vec<u32>,
}

/// How much of the first window has been closed: it may take several calls.
enum Closing {
    /// Its rows, last first.
    Resident(Vec<u32>),
    /// The rows after this key are left.
    Stored(Vec<u8>),
}

/// An aggregate in tumbling or hopping windows.
pub(super) struct TimeWindows {
    size: i64,
    advance: i64,
    grace: i64,
    is_final: bool,
    pub(super) rows: Rows,
    panes: BTreeMap<i64, Pane>,
    closing: Option<Closing>,
    /// A buffer, kept to save allocations: window start, row, the result of a step.
    targets: Vec<(i64, Option<u32>, Option<Json>)>,
}

impl TimeWindows {
    pub(super) fn new(size: i64, advance: i64, grace: i64, is_final: bool) -> TimeWindows {
        TimeWindows {
            size,
            advance,
            grace,
            is_final,
            rows: Rows::new(),
            panes: BTreeMap::new(),
            closing: None,
            targets: Vec::new(),
        }
    }

    fn end(&self, start: i64) -> i64 {
        start.saturating_add(self.size)
    }

    fn close_resident(
        &mut self,
        start: i64,
        mut ids: Vec<u32>,
        plan: &Plan,
        cx: &mut Cx<'_>,
    ) -> Option<Closing> {
        let (mut sent, mut warm) = (0, 0);
        while let Some(id) = ids.pop() {
            if warm == 0 {
                warm = WARM_GROUP;
                self.rows.cells.warm_slots(&ids[ids.len().saturating_sub(WARM_GROUP)..]);
            }
            warm -= 1;
            if self.is_final {
                let key = Bytes::copy_from_slice(&self.rows.cells.key(id)[8..]);
                let row = self.rows.cells.remove(cx.store(0), id);
                cx.forward(final_result(&key, plan.result(&row.acc), row.ts, (start, self.end(start))));
                sent += 1;
                if sent == FINALS_MAX {
                    return Some(Closing::Resident(ids));
                }
            } else {
                self.rows.cells.remove(cx.store(0), id);
            }
        }
        None
    }

    fn close_stored(
        &mut self,
        start: i64,
        from: Vec<u8>,
        plan: &Plan,
        cx: &mut Cx<'_>,
    ) -> Result<Option<Closing>, StateError> {
        let end = after_prefix(&ordered_i64(start));
        let mut from = from;
        loop {
            let store = cx.store(0);
            self.rows.cells.flush(store)?;
            let rows = rows_between(store, &from, &end, FINALS_MAX)?;
            for (key, row) in &rows {
                self.rows.cells.remove_stored(cx.store(0), key);
                if self.is_final {
                    let row = Row::decode(row)?;
                    let window = (start, self.end(start));
                    cx.forward(final_result(&key[8..], plan.result(&row.acc), row.ts, window));
                }
            }
            match rows.last() {
                Some((last, _)) if rows.len() == FINALS_MAX => {
                    from = last.to_vec();
                    from.push(0);
                    if self.is_final {
                        return Ok(Some(Closing::Stored(from)));
                    }
                }
                _ => return Ok(None),
            }
        }
    }
}

impl Grouping for TimeWindows {
    fn rows(&self) -> &Rows {
        &self.rows
    }

    fn rows_mut(&mut self) -> &mut Rows {
        &mut self.rows
    }

    fn row_keys(&self, key: &[u8]) -> Vec<Vec<u8>> {
        self.panes.keys().map(|start| row_key_of(*start, key)).collect()
    }

    /// Finds the open windows, by reading the first row of each.
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let store = cx.store(0);
        let mut from = Vec::new();
        loop {
            let mut found = None;
            store.scan(&from, None, &mut |key, _| {
                found = Some(read_row_key(key).map(|(start, _)| start));
                ControlFlow::Break(())
            })?;
            let Some(start) = found.transpose()? else { return Ok(()) };
            self.rows.stored = true;
            self.panes.insert(start, Pane::default());
            from = after_prefix(&ordered_i64(start));
        }
    }

    fn on_record(&mut self, incoming: Incoming<'_>, cx: &mut Cx<'_>) -> Result<(), Fail> {
        let late = cx.clock.minus(crate::model::Millis(self.grace)).0;
        let mut targets = std::mem::take(&mut self.targets);
        targets.clear();
        let mut expired = 0;
        for start in starts(incoming.ts(), self.size, self.advance) {
            if self.end(start) <= late {
                expired += 1;
                continue;
            }
            let known = self.panes.get(&start).is_some_and(|p| !p.fresh);
            row_key(start, incoming.key, &mut self.rows.key);
            let may_be_stored = known || self.rows.cells.has_evicted();
            let id = self.rows.cells.find(cx.store(0), &self.rows.key, may_be_stored)?;
            let acc = id.map(|id| &self.rows.cells.value(id).acc);
            let step = incoming.plan.step(acc, incoming.record, incoming.inputs)?;
            targets.push((start, id, step));
        }
        for _ in 0..expired {
            cx.drop(Reason::Late);
        }
        for (start, id, step) in targets.drain(..) {
            let mut key = std::mem::take(&mut self.rows.key);
            if id.is_none() {
                row_key(start, incoming.key, &mut key);
            }
            let taken = self.rows.take_in(cx.store(0), id, &key, incoming, step);
            self.rows.key = key;
            if let (None, Some(new)) = (id, taken.id) {
                let pane = self.panes.entry(start).or_insert(Pane { fresh: true, ids: Vec::new() });
                if pane.fresh {
                    pane.ids.push(new);
                }
            }
            for _ in 0..taken.left_out {
                cx.drop(Reason::Full);
            }
            if !self.is_final {
                let window = (start, self.end(start));
                cx.forward(incoming.result(taken.value, taken.ts, Some(window)));
            }
        }
        self.targets = targets;
        Ok(())
    }

    fn warm(&self, records: &[Record]) {
        self.rows.warm(
            records
                .iter()
                .filter_map(|r| Some((r.key.as_ref()?, r.ts.0)))
                .flat_map(|(key, ts)| starts(ts, self.size, self.advance).map(move |start| (start, key))),
        );
    }

    /// When the first window is closed: `end + grace`.
    fn deadline(&self) -> Option<Timestamp> {
        let (start, _) = self.panes.first_key_value()?;
        Some(Timestamp(self.end(*start).saturating_add(self.grace)))
    }

    /// No later result has an earlier timestamp than this.
    fn held(&self) -> Option<i64> {
        self.panes.first_key_value().map(|(start, _)| *start)
    }

    /// Closes windows that are due: as many results as one call may send, or one window without results.
    fn on_time(&mut self, plan: &Plan, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let Some((&start, pane)) = self.panes.first_key_value() else { return Ok(()) };
        if self.deadline().is_none_or(|at| at > cx.clock) {
            return Ok(());
        }
        let closing = match self.closing.take() {
            Some(closing) => closing,
            None if pane.fresh && !self.rows.cells.has_evicted() => {
                let cells = &self.rows.cells;
                let mut ids =
                    self.panes.get_mut(&start).map(|p| std::mem::take(&mut p.ids)).unwrap_or_default();
                // Rows whose result is nothing have freed their numbers, maybe for other rows.
                let prefix = ordered_i64(start);
                ids.retain(|id| cells.get(*id).is_some_and(|(key, _)| key.starts_with(&prefix)));
                let order = state::order(ids.len(), |n| cells.key(ids[n]));
                let mut ids: Vec<u32> = order.into_iter().rev().map(|n| ids[n as usize]).collect();
                ids.dedup();
                Closing::Resident(ids)
            }
            None => Closing::Stored(ordered_i64(start).to_vec()),
        };
        self.closing = match closing {
            Closing::Resident(ids) => self.close_resident(start, ids, plan, cx),
            Closing::Stored(from) => self.close_stored(start, from, plan, cx)?,
        };
        if self.closing.is_none() {
            self.panes.remove(&start);
        }
        Ok(())
    }

    /// While a window is being closed, the numbers of its rows are in use.
    fn may_evict(&self) -> bool {
        self.closing.is_none()
    }
}

/// At most `max` rows of a range of the store.
fn rows_between(
    store: &Store,
    from: &[u8],
    to: &[u8],
    max: usize,
) -> Result<Vec<(Bytes, Bytes)>, StateError> {
    let mut rows = Vec::new();
    store.scan(from, Some(to), &mut |key, row| {
        rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(row)));
        if rows.len() == max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(rows)
}
