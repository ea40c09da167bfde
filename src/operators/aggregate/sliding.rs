//! Sliding windows: one window for every set of records of a key that lie at most `difference` apart.
//!
//! For a record at `t` there is the window `[t - difference, t]`, and `[t + 1, t + 1 + difference]` if a record is in it; both
//! ends belong to a window, none starts before 0, and all records before `difference` share `[0, difference]`. With T the
//! node's clock and G the grace: a record is late if `t + difference < T - G`; a window takes records while
//! `end >= T - G` and is closed when `end < T - G`. Closed windows leave by start, then key bytes.
//!
//! A closed window is kept for `2 * difference` longer: a late record may begin a window that starts as a copy of it.
//! (In Kafka Streams the store's default retention is shorter, and such a window comes out with too few records.) One
//! record updates its windows in Kafka Streams' order: the newest first, then the windows that it begins.
//!
//! In memory are the starts of all windows; a row may be on disk only.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use hashbrown::HashMap;

use super::accumulator::{Acc, Row};
use super::functions::Plan;
use super::rows::{Fail, Incoming, Rows, final_result, read_row_key, row_key, row_key_of};
use super::{FINALS_MAX, Grouping};
use crate::model::{Json, Reason, Timestamp};
use crate::operators::Cx;
use crate::state::{StateError, Store};

/// What a record does to one window.
enum Change {
    /// It is added to an existing window.
    Update(u32),
    /// It is added to a new window, which begins as a copy of these parts, or empty.
    Begin(Option<Acc>),
    /// A new window of later records only, those of this row.
    Copy(Row),
}

/// An aggregate in sliding windows.
pub(super) struct Sliding {
    difference: i64,
    grace: i64,
    is_final: bool,
    pub(super) rows: Rows,
    /// Starts by key, ascending.
    keys: HashMap<Bytes, Vec<i64>, ahash::RandomState>,
    /// Start, key: all windows, in the order in which they are closed.
    agenda: BTreeSet<(i64, Bytes)>,
    /// Windows before this have been sent (`emit: final`).
    sent_before: (i64, Bytes),
}

impl Sliding {
    pub(super) fn new(difference: i64, grace: i64, is_final: bool) -> Sliding {
        Sliding {
            difference,
            grace,
            is_final,
            rows: Rows::new(),
            keys: HashMap::default(),
            agenda: BTreeSet::new(),
            sent_before: (i64::MIN, Bytes::new()),
        }
    }

    fn end(&self, start: i64) -> i64 {
        start.saturating_add(self.difference)
    }

    /// Windows that start before this are closed at `clock`.
    fn closed_before(&self, clock: Timestamp) -> i64 {
        clock.0.saturating_sub(self.grace).saturating_sub(self.difference)
    }

    /// Windows that start before this cannot be changed by any record that is not late.
    fn needed_from(&self, clock: Timestamp) -> i64 {
        self.closed_before(clock).saturating_sub(self.difference.saturating_mul(2))
    }

    /// Removes windows that have been sent, or need not be.
    fn remove_before(&mut self, start: i64, cx: &mut Cx<'_>) -> Result<(), StateError> {
        while let Some(first) = self.agenda.first().filter(|first| first.0 < start) {
            if self.is_final && *first >= self.sent_before {
                break;
            }
            let (start, key) = first.clone();
            self.forget_start(start, &key);
            self.rows.forget(cx.store(0), start, &key)?;
        }
        Ok(())
    }

    /// Makes one change and sends its result.
    fn change(
        &mut self,
        start: i64,
        change: Change,
        step: Option<Json>,
        open_from: i64,
        incoming: Incoming<'_>,
        cx: &mut Cx<'_>,
    ) -> Result<(), StateError> {
        let Incoming { plan, key, inputs, .. } = incoming;
        let end = self.end(start);
        if end < open_from && !matches!(change, Change::Copy(_)) {
            cx.drop(Reason::Late);
            return Ok(());
        }
        let (value, ts, left_out) = match change {
            Change::Update(id) => {
                let taken = self.rows.take_in(cx.store(0), Some(id), b"", incoming, step);
                if taken.id.is_none() {
                    self.forget_start(start, key);
                }
                (taken.value, taken.ts, taken.left_out)
            }
            Change::Begin(acc) => {
                let mut acc = acc.unwrap_or_else(|| plan.init());
                let left_out = plan.apply(&mut acc, inputs, step);
                let (value, ts) = (plan.result(&acc), incoming.ts());
                if !acc.is_nothing() {
                    self.begin(start, key, Row { ts, acc }, cx.store(0))?;
                }
                (value, ts, left_out)
            }
            Change::Copy(row) => {
                let (value, ts) = (plan.result(&row.acc), row.ts);
                self.begin(start, key, row, cx.store(0))?;
                (value, ts, 0)
            }
        };
        for _ in 0..left_out {
            cx.drop(Reason::Full);
        }
        if !self.is_final {
            cx.forward(incoming.result(value, ts, Some((start, end))));
        }
        Ok(())
    }

    /// Makes a window. One record may do so twice, where the window that ends with it is also the one after the last
    /// record: Kafka Streams then sends the same result twice, and so does this.
    fn begin(&mut self, start: i64, key: &Bytes, row: Row, store: &Store) -> Result<(), StateError> {
        row_key(start, key, &mut self.rows.key);
        if let Some(id) = self.rows.cells.find(store, &self.rows.key, false)? {
            *self.rows.cells.value_mut(id) = row;
            return Ok(());
        }
        self.rows.cells.insert(&self.rows.key, row);
        let own = Bytes::copy_from_slice(key);
        self.agenda.insert((start, own.clone()));
        let starts = self.keys.entry(own).or_default();
        let at = starts.partition_point(|s| *s < start);
        starts.insert(at, start);
        Ok(())
    }

    fn forget_start(&mut self, start: i64, key: &Bytes) {
        self.agenda.remove(&(start, key.clone()));
        if let Some(starts) = self.keys.get_mut(key) {
            starts.retain(|s| *s != start);
            if starts.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// The windows of a key that start in `from..=to`, each with its row, ascending.
    fn between(
        &mut self,
        key: &Bytes,
        from: i64,
        to: i64,
        store: &Store,
    ) -> Result<Vec<(i64, u32)>, StateError> {
        let starts: Vec<i64> = self.keys.get(key).map_or_else(Vec::new, |starts| {
            let (a, b) = (starts.partition_point(|s| *s < from), starts.partition_point(|s| *s <= to));
            starts[a..b].to_vec()
        });
        starts.into_iter().map(|s| Ok((s, self.rows.existing(store, s, key)?))).collect()
    }

    /// A record at `difference` or later.
    fn changes(&mut self, key: &Bytes, ts: i64, store: &Store) -> Result<Vec<(i64, Change)>, StateError> {
        let difference = self.difference;
        let from = ts.saturating_sub(difference.saturating_mul(2)).max(0);
        let windows = self.between(key, from, ts.saturating_add(1), store)?;
        let cells = &self.rows.cells;
        let mut changes = Vec::with_capacity(windows.len() + 3);
        // The last record before this one; the newest window that ends before this one; the newest window that spans
        // it.
        let (mut previous, mut left, mut right) = (None, None, None);
        let (mut has_left, mut has_right) = (false, false);
        for &(start, id) in windows.iter().rev() {
            let (end, row) = (start.saturating_add(difference), cells.value(id));
            if start > ts {
                has_right = true;
            } else if end > ts {
                right = right.or(Some(row));
                changes.push((start, Change::Update(id)));
            } else if end == ts {
                has_left = true;
                changes.push((start, Change::Update(id)));
                if row.ts >= ts {
                    // A record with this timestamp has come before, so all its windows exist.
                    return Ok(changes);
                }
                previous = Some(row.ts);
            } else {
                left = Some(row);
                previous = Some(row.ts);
                break;
            }
        }
        if let Some(start) = previous.map(|p| p.saturating_add(1))
            && start.saturating_add(difference) >= ts
            && !windows.iter().any(|(s, _)| *s == start)
        {
            changes.push((start, Change::Begin(None)));
        }
        if !has_left {
            let start = ts - difference;
            let before = left.filter(|_| previous.is_some_and(|p| start <= p));
            changes.push((start, Change::Begin(before.map(|row| row.acc.clone()))));
        }
        if let Some(right) = right.filter(|row| !has_right && row.ts > ts) {
            changes.push((ts.saturating_add(1), Change::Copy(right.clone())));
        }
        Ok(changes)
    }

    /// A record before `difference`: it belongs to `[0, difference]`.
    fn early(&mut self, key: &Bytes, ts: i64, store: &Store) -> Result<Vec<(i64, Change)>, StateError> {
        let windows = self.between(key, 0, ts.saturating_add(1), store)?;
        let cells = &self.rows.cells;
        let mut changes = Vec::with_capacity(windows.len() + 3);
        let (mut previous, mut combined, mut right) = (None, None, None);
        let mut has_right = false;
        for &(start, id) in &windows {
            let row = cells.value(id);
            if start == 0 {
                combined = Some((id, row));
                previous = Some(row.ts).filter(|p| *p < ts);
            } else if start <= ts {
                right = Some(row);
                changes.push((start, Change::Update(id)));
            } else {
                has_right = true;
            }
        }
        let right = right.or(combined.map(|(_, row)| row)).filter(|row| !has_right && row.ts > ts);
        if let Some(right) = right {
            changes.push((ts.saturating_add(1), Change::Copy(right.clone())));
        }
        if let Some(start) = previous.map(|p| p.saturating_add(1))
            && !windows.iter().any(|(s, _)| *s == start)
        {
            changes.push((start, Change::Begin(None)));
        }
        changes.push((0, combined.map_or(Change::Begin(None), |(id, _)| Change::Update(id))));
        Ok(changes)
    }

    /// The first window that has not been sent.
    fn next(&self) -> Option<&(i64, Bytes)> {
        self.agenda.range((Bound::Included(&self.sent_before), Bound::Unbounded)).next()
    }
}

impl Grouping for Sliding {
    fn rows(&self) -> &Rows {
        &self.rows
    }

    fn rows_mut(&mut self) -> &mut Rows {
        &mut self.rows
    }

    fn row_keys(&self, key: &[u8]) -> Vec<Vec<u8>> {
        let starts = self.keys.get(key).map_or(&[] as &[i64], Vec::as_slice);
        starts.iter().map(|start| row_key_of(*start, key)).collect()
    }

    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        // All windows that were closed at the checkpoint's clock have been sent.
        self.sent_before = (self.closed_before(cx.clock), Bytes::new());
        let (keys, agenda) = (&mut self.keys, &mut self.agenda);
        let mut failed = None;
        cx.store(0).scan(b"", None, &mut |row, _| match read_row_key(row) {
            Ok((start, key)) => {
                let key = Bytes::copy_from_slice(key);
                agenda.insert((start, key.clone()));
                keys.entry(key).or_default().push(start);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn on_record(&mut self, incoming: Incoming<'_>, cx: &mut Cx<'_>) -> Result<(), Fail> {
        if incoming.record.value.is_null() {
            cx.drop(Reason::NullValue);
            return Ok(());
        }
        let ts = incoming.ts();
        let open_from = cx.clock.0.saturating_sub(self.grace);
        if self.end(ts) < open_from {
            cx.drop(Reason::Late);
            return Ok(());
        }
        let changes = if ts < self.difference {
            self.early(incoming.key, ts, cx.store(0))?
        } else {
            self.changes(incoming.key, ts, cx.store(0))?
        };
        // Everything that can fail comes before the first change.
        let mut steps: Vec<Option<Json>> = Vec::with_capacity(changes.len());
        for (start, change) in &changes {
            let acc = match change {
                Change::Update(id) => Some(&self.rows.cells.value(*id).acc),
                Change::Begin(acc) => acc.as_ref(),
                Change::Copy(_) => None,
            };
            let takes = self.end(*start) >= open_from && !matches!(change, Change::Copy(_));
            let step = if takes { incoming.plan.step(acc, incoming.record, incoming.inputs)? } else { None };
            steps.push(step);
        }
        for ((start, change), step) in changes.into_iter().zip(steps) {
            self.change(start, change, step, open_from, incoming, cx)?;
        }
        Ok(())
    }

    /// When the next window is closed (one past `end + grace`) or is not needed any more.
    fn deadline(&self) -> Option<Timestamp> {
        let closes = |start: i64| self.end(start).saturating_add(self.grace).saturating_add(1);
        let gone = self
            .agenda
            .first()
            .map(|(start, _)| closes(start.saturating_add(self.difference.saturating_mul(2))));
        let closed = self.next().filter(|_| self.is_final).map(|(start, _)| closes(*start));
        gone.into_iter().chain(closed).min().map(Timestamp)
    }

    /// No later result has an earlier timestamp than this.
    fn held(&self) -> Option<i64> {
        self.next().map(|(start, _)| *start)
    }

    /// Sends closed windows, and removes those that are not needed any more.
    fn on_time(&mut self, plan: &Plan, cx: &mut Cx<'_>) -> Result<(), StateError> {
        if self.is_final {
            let before = self.closed_before(cx.clock);
            let mut sent = 0;
            while let Some((start, key)) = self.next().filter(|(start, _)| *start < before).cloned() {
                let id = self.rows.existing(cx.store(0), start, &key)?;
                let row = self.rows.cells.value(id);
                cx.forward(final_result(&key, plan.result(&row.acc), row.ts, (start, self.end(start))));
                let mut after = key.to_vec();
                after.push(0);
                self.sent_before = (start, Bytes::from(after));
                sent += 1;
                if sent == FINALS_MAX {
                    return Ok(());
                }
            }
        }
        self.remove_before(self.needed_from(cx.clock), cx)
    }

    fn indexed(&self) -> usize {
        self.agenda.len()
    }
}
