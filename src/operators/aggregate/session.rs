//! Session windows: records of a key with at most `gap` between them.
//!
//! With T the node's clock and G the grace: a record at `ts` joins every session with `end >= ts - gap` and `start <=
//! ts + gap`; all of these become one session. The record is late if that session has `end < T - G - gap`. A session is
//! closed when `T > end + gap + G`; closed sessions are sent by end, then start, then key bytes. For each session that
//! is merged into another, a result without a value is sent, before the new result.
//!
//! In memory are the bounds of all open sessions, and a lazy agenda; a row may be on disk only.
//!
//! Invariant of the agenda: every open session has an entry with its own start and an end that is not after its own.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use hashbrown::HashMap;

use super::accumulator::{Row, row_ts};
use super::functions::Plan;
use super::rows::{Fail, Incoming, Rows, final_result, read_row_key, row_key, row_key_of};
use super::{FINALS_MAX, Grouping};
use crate::model::{Reason, Record, Timestamp, Value};
use crate::operators::Cx;
use crate::state::StateError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: i64,
    end: i64,
}

/// An aggregate in session windows.
pub(super) struct Sessions {
    gap: i64,
    grace: i64,
    is_final: bool,
    pub(super) rows: Rows,
    /// Open sessions by key, ascending. They lie more than `gap` apart.
    keys: HashMap<Bytes, Vec<Span>, ahash::RandomState>,
    /// End, start and key, in the order in which sessions are closed.
    agenda: BTreeSet<(i64, i64, Bytes)>,
}

impl Sessions {
    pub(super) fn new(gap: i64, grace: i64, is_final: bool) -> Sessions {
        Sessions {
            gap,
            grace,
            is_final,
            rows: Rows::new(),
            keys: HashMap::default(),
            agenda: BTreeSet::new(),
        }
    }

    /// Replaces some sessions of a key by one, or by none.
    fn replace(&mut self, key: &Bytes, place: std::ops::Range<usize>, new: Option<Span>) {
        let Some(spans) = self.keys.get_mut(key) else {
            if let Some(new) = new {
                let key = Bytes::copy_from_slice(key);
                self.agenda.insert((new.end, new.start, key.clone()));
                self.keys.insert(key, vec![new]);
            }
            return;
        };
        let started = spans[place.clone()].iter().any(|s| Some(s.start) == new.map(|n| n.start));
        spans.splice(place, new);
        if let Some(new) = new
            && !started
        {
            self.agenda.insert((new.end, new.start, Bytes::copy_from_slice(key)));
        }
        if spans.is_empty() {
            self.keys.remove(key);
        }
    }
}

impl Grouping for Sessions {
    fn rows(&self) -> &Rows {
        &self.rows
    }

    fn rows_mut(&mut self) -> &mut Rows {
        &mut self.rows
    }

    fn row_keys(&self, key: &[u8]) -> Vec<Vec<u8>> {
        let spans = self.keys.get(key).map_or(&[] as &[Span], Vec::as_slice);
        spans.iter().map(|span| row_key_of(span.start, key)).collect()
    }

    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let (keys, agenda) = (&mut self.keys, &mut self.agenda);
        let mut failed = None;
        cx.store(0).scan(b"", None, &mut |row_key, row| {
            match read_row_key(row_key).and_then(|(start, key)| Ok((start, key, row_ts(row)?))) {
                Ok((start, key, end)) => {
                    let key = Bytes::copy_from_slice(key);
                    agenda.insert((end, start, key.clone()));
                    // Rows come by start: the spans of a key are ascending.
                    keys.entry(key).or_default().push(Span { start, end });
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn on_record(&mut self, incoming: Incoming<'_>, cx: &mut Cx<'_>) -> Result<(), Fail> {
        let Incoming { plan, key, record, inputs } = incoming;
        let ts = incoming.ts();
        let spans = self.keys.get(key).map_or(&[] as &[Span], Vec::as_slice);
        let from = spans.partition_point(|s| s.end < ts.saturating_sub(self.gap));
        let to = spans.partition_point(|s| s.start <= ts.saturating_add(self.gap)).max(from);
        let found: Vec<Span> = spans[from..to].to_vec();
        let merged = Span {
            start: found.first().map_or(ts, |s| s.start.min(ts)),
            end: found.last().map_or(ts, |s| s.end.max(ts)),
        };
        if merged.end < cx.clock.0.saturating_sub(self.grace).saturating_sub(self.gap) {
            cx.drop(Reason::Late);
            return Ok(());
        }
        let mut left_out = 0;
        let (value, exists) = match found.as_slice() {
            // The session keeps its start, so its row is changed in place.
            [one] if one.start == merged.start && plan.merges_plainly() => {
                let id = self.rows.existing(cx.store(0), one.start, key)?;
                let step = plan.step(Some(&self.rows.cells.value(id).acc), record, inputs)?;
                let row = self.rows.cells.value_mut(id);
                left_out += plan.apply(&mut row.acc, inputs, step);
                row.ts = merged.end;
                let (value, nothing) = (plan.result(&row.acc), row.acc.is_nothing());
                if nothing {
                    self.rows.cells.remove(cx.store(0), id);
                }
                (value, !nothing)
            }
            found => {
                let mut acc = None;
                let mut ids = Vec::with_capacity(found.len());
                for span in found {
                    let id = self.rows.existing(cx.store(0), span.start, key)?;
                    let (next, out) = plan.merged(acc, &self.rows.cells.value(id).acc, record)?;
                    acc = Some(next);
                    left_out += out;
                    ids.push(id);
                }
                let step = plan.step(acc.as_ref(), record, inputs)?;
                let mut acc = acc.unwrap_or_else(|| plan.init());
                left_out += plan.apply(&mut acc, inputs, step);
                let value = plan.result(&acc);
                for id in ids {
                    self.rows.cells.remove(cx.store(0), id);
                }
                let exists = !acc.is_nothing();
                if exists {
                    row_key(merged.start, key, &mut self.rows.key);
                    self.rows.cells.insert(&self.rows.key, Row { ts: merged.end, acc });
                }
                (value, exists)
            }
        };
        self.replace(key, from..to, exists.then_some(merged));
        for _ in 0..left_out {
            cx.drop(Reason::Full);
        }
        if self.is_final {
            return Ok(());
        }
        if merged != (Span { start: ts, end: ts }) {
            for old in found {
                cx.forward(incoming.result(Value::Null, old.end, Some((old.start, old.end))));
            }
        }
        cx.forward(incoming.result(value, merged.end, Some((merged.start, merged.end))));
        Ok(())
    }

    /// The newest session of a key is the likeliest.
    fn warm(&self, records: &[Record]) {
        let keys = records.iter().filter_map(|record| record.key.as_ref());
        self.rows.warm(keys.filter_map(|key| Some((self.keys.get(key)?.last()?.start, key))));
    }

    /// When the first session may be closed: one past `end + gap + grace`. Early where it has grown since.
    fn deadline(&self) -> Option<Timestamp> {
        let (end, ..) = self.agenda.first()?;
        Some(Timestamp(end.saturating_add(self.gap).saturating_add(self.grace).saturating_add(1)))
    }

    /// No later result has an earlier timestamp than this.
    fn held(&self) -> Option<i64> {
        self.agenda.first().map(|(end, ..)| *end)
    }

    /// Closes sessions whose time has come.
    fn on_time(&mut self, plan: &Plan, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let mut sent = 0;
        while sent < FINALS_MAX && self.deadline().is_some_and(|at| at <= cx.clock) {
            let Some((end, start, key)) = self.agenda.pop_first() else { break };
            let Some(spans) = self.keys.get_mut(&key) else { continue };
            let Some(at) = spans.iter().position(|s| s.start == start) else { continue };
            if spans[at].end != end {
                self.agenda.insert((spans[at].end, start, key));
                continue;
            }
            spans.remove(at);
            if spans.is_empty() {
                self.keys.remove(&key);
            }
            if self.is_final {
                let id = self.rows.existing(cx.store(0), start, &key)?;
                let row = self.rows.cells.remove(cx.store(0), id);
                cx.forward(final_result(&key, plan.result(&row.acc), end, (start, end)));
                sent += 1;
            } else {
                self.rows.forget(cx.store(0), start, &key)?;
            }
        }
        Ok(())
    }

    fn indexed(&self) -> usize {
        self.agenda.len()
    }
}
