//! Two tables, where the left row names the right row by a foreign key (`on`). The result is a table with the left
//! table's keys, kept up to date by both sides.
//!
//! A changed left row is joined with the right row that its key now names; the result has the later timestamp of the
//! two. A changed right row goes to all left rows that name it, in key order, with its own timestamp. As in Kafka
//! Streams (4.3), an inner join sends a tombstone whenever a left row is deleted or moves to a key that has no row,
//! needed or not, and none if the key stays the same; a left join sends each change of a row once. In an inner join, a
//! left row that names no key counts as dropped, even if it retracts an earlier result. A versioned table's
//! out-of-order change does not change the row, and is dropped.
//!
//! Own store: which left rows name a key, `[key length, 4][foreign key][left row] -> [window of the left row, 0 or 16
//! bytes]`. The task must have both tables whole, so there is one partition.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::config::{JoinConfig, JoinType};
use super::plan::JoinPlan;
use super::result::{Around, Maker, refuse};
use super::{LEFT, OWN, RIGHT, Side};
use crate::model::{
    Change, EvalError, Expr, Json, Reason, Record, Scope, Timestamp, Value, Window, key_text,
};
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;
use crate::operators::table::{TableRow, TableView, row_id};
use crate::operators::{Cx, Operator, OperatorError, Query};
use crate::state::{StateError, after_prefix};

/// A join by foreign key within one task.
pub(super) struct ForeignKey {
    left_join: bool,
    on: Expr,
    left: TableView,
    right: TableView,
    sends_changes: bool,
    maker: Maker,
}

/// A left row whose result changes: the record that results are sent for, and the last result.
struct Target<'a> {
    record: &'a Record,
    value: &'a Value,
    last: Value,
}

impl ForeignKey {
    pub(super) fn new(config: &JoinConfig, plan: &JoinPlan) -> ForeignKey {
        let (left, right) = plan.left.zip(plan.right).expect("planned with two tables");
        ForeignKey {
            left_join: config.kind != JoinType::Inner,
            on: config.on.clone().expect("planned with a foreign key"),
            left,
            right,
            sends_changes: plan.sends_changes,
            maker: Maker::new(config),
        }
    }

    /// The key that a left value names; `None` if it names none, or if there is no value.
    fn foreign_key(&self, record: &Record, value: &Value) -> Result<Option<Bytes>, EvalError> {
        if value.is_null() {
            return Ok(None);
        }
        self.on.eval(&Scope { value, ..Scope::of(record) }).map(|key| key_text(&key))
    }

    fn result(&self, around: &Around<'_>, left: &Value, right: Option<&Value>) -> Result<Value, EvalError> {
        match right {
            _ if left.is_null() => Ok(Value::Null),
            None if !self.left_join => Ok(Value::Null),
            right => self.maker.make(around, left, right.unwrap_or(&Value::Null)),
        }
    }

    /// The previous result; null if no node below asks for it. A result that could not be made was never sent.
    fn before(&self, around: &Around<'_>, left: &Value, right: Option<&Value>) -> Value {
        if self.sends_changes { self.result(around, left, right).unwrap_or_default() } else { Value::Null }
    }

    /// Sends a left row's result on.
    fn send(&self, to: &mut Target<'_>, ts: Timestamp, right: Option<&Value>, cx: &mut Cx<'_>) {
        let record = to.record;
        let around = Around { ts, ..Around::of(record) };
        match self.result(&around, to.value, right) {
            Ok(value) => {
                let change = self.sends_changes.then(|| {
                    let old = std::mem::replace(&mut to.last, value.clone());
                    Box::new(Change { old, latest: true })
                });
                cx.forward(Record { value, ts, change, ..record.clone() });
            }
            Err(e) => refuse(record.clone(), &e, cx),
        }
    }

    fn left_change(&self, record: &Record, old: &Value, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let Some(key) = &record.key else { return Ok(()) };
        let id = row_id(key, record.window);
        // A value whose key cannot be computed was never joined.
        let old_key = self.foreign_key(record, old).unwrap_or_default();
        let (new_key, failed) = match self.foreign_key(record, &record.value) {
            Ok(key) => (key, None),
            Err(e) => (None, Some(e)),
        };
        if let Some(old_key) = old_key.as_ref().filter(|old_key| new_key.as_ref() != Some(*old_key)) {
            cx.store(OWN).delete(&subscription(old_key, &id));
        }
        if let Some(e) = failed {
            return Err(OperatorError::expression(record.clone(), &e));
        }
        if let Some(new_key) = new_key.as_ref().filter(|new_key| old_key.as_ref() != Some(*new_key)) {
            cx.store(OWN).put(&subscription(new_key, &id), window_bytes(record.window));
        }
        let old_row = self.row(old_key.as_ref(), cx)?;
        let new_row = self.row(new_key.as_ref(), cx)?;
        let ts_of = |row: &Option<TableRow>| row.as_ref().map_or(record.ts, |row| record.ts.max(row.ts));
        let around = Around::of(record);
        let last = self.before(&around, old, old_row.as_ref().map(|row| &row.value));
        let mut to = Target { record, value: &record.value, last };
        let new_value = new_row.as_ref().map(|row| &row.value);
        if self.left_join {
            if !(old.is_null() && record.value.is_null()) {
                self.send(&mut to, ts_of(&new_row), new_value, cx);
            }
            return Ok(());
        }
        if new_key.is_none() && !record.value.is_null() {
            cx.drop(Reason::NullKey);
        }
        match (&old_key, &new_key) {
            (None, None) => {}
            (Some(_), None) => self.send(&mut to, ts_of(&old_row), None, cx),
            (old_key, Some(new_key))
                if new_row.is_none() && old_key.as_ref().is_none_or(|old| old == new_key) => {}
            (_, Some(_)) => self.send(&mut to, ts_of(&new_row), new_value, cx),
        }
        Ok(())
    }

    fn row(&self, key: Option<&Bytes>, cx: &mut Cx<'_>) -> Result<Option<TableRow>, StateError> {
        key.map_or(Ok(None), |key| self.right.latest(cx.store(RIGHT), key))
    }

    fn right_change(&self, record: &Record, old: &Value, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let Some(key) = &record.key else { return Ok(()) };
        let prefix = subscription(&row_id(key, record.window), b"");
        let skip = prefix.len();
        let mut found: Vec<(Bytes, Bytes)> = Vec::new();
        cx.store(OWN).scan(&prefix, Some(&after_prefix(&prefix)), &mut |key, window| {
            found.push((Bytes::copy_from_slice(&key[skip..]), Bytes::copy_from_slice(window)));
            ControlFlow::Continue(())
        })?;
        for (id, window) in found {
            let Some(row) = self.left.latest(cx.store(LEFT), &id)? else { continue };
            let window = read_window(&window)?;
            let key = id.slice(..id.len() - if window.is_some() { 16 } else { 0 });
            let left = Record { key: Some(key), window, change: None, ..record.clone() };
            let around = Around::of(&left);
            let right = |value: &Value| if value.is_null() { None } else { Some(value.clone()) };
            let last = self.before(&around, &row.value, right(old).as_ref());
            let mut to = Target { record: &left, value: &row.value, last };
            self.send(&mut to, record.ts, right(&record.value).as_ref(), cx);
        }
        Ok(())
    }
}

pub(super) fn subscription(foreign_key: &[u8], id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(4 + foreign_key.len() + id.len());
    let length = u32::try_from(foreign_key.len()).expect("a record is under 4 GiB");
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(foreign_key);
    key.extend_from_slice(id);
    key
}

pub(super) fn window_bytes(window: Option<Window>) -> Bytes {
    let Some(window) = window else { return Bytes::new() };
    Bytes::from([window.start.0.to_be_bytes(), window.end.0.to_be_bytes()].concat())
}

pub(super) fn read_window(bytes: &[u8]) -> Result<Option<Window>, StateError> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let at = |bytes: [u8; 8]| Timestamp(i64::from_be_bytes(bytes));
    match (numbers, rest) {
        ([], []) => Ok(None),
        ([start, end], []) => Ok(Some(Window { start: at(*start), end: at(*end) })),
        _ => Err(StateError("a foreign-key join's row is damaged".into())),
    }
}

/// A row that says which left row names a foreign key, for people: the foreign key is its key. `None` where it is no such
/// row.
pub(super) fn describe_subscription(key: &[u8], window: &[u8]) -> Option<Described> {
    let (length, rest) = key.split_first_chunk::<4>()?;
    let (foreign, id) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let window = read_window(window).ok()?;
    let left = id.get(..id.len().checked_sub(if window.is_some() { 16 } else { 0 })?)?;
    Some(Described::of_key(foreign, Json::Null).window(window).at("named_by", describe::text(left)))
}

impl Operator for ForeignKey {
    /// The left rows that name the key.
    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        query.prefix(&subscription(query.key(), b""))
    }

    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        if record.key.is_none() {
            cx.drop(Reason::NullKey);
            return Ok(());
        }
        let change = record.change.take().map_or_else(Change::first, |change| *change);
        if !change.latest {
            cx.drop(Reason::Late);
            return Ok(());
        }
        match Side::of(cx.input) {
            Side::Left => self.left_change(&record, &change.old, cx),
            Side::Right => self.right_change(&record, &change.old, cx),
        }
    }
}
