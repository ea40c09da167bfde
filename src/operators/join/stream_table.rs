//! A stream and a table: each record of the stream is joined with the row of its key. Changes of rows send nothing.
//!
//! The row is the one in the table when the record is joined; in a versioned table, the one valid at the record's
//! timestamp. The result has the record's key, timestamp and headers. A record without a value is dropped; one without
//! a key is dropped or, in a left join, passed on alone. A windowed record finds the row of its key and window,
//! otherwise that of its key.
//!
//! With `grace` (versioned tables only) a record waits for late rows until the clock is `grace` past it. The clock is
//! the stream's time (of records with key and value); the table's records do not advance it. Records leave by
//! timestamp, then key; one that is too old to wait when it comes is joined at once.
//!
//! Own store, only with `grace`: `[0][timestamp, 8][key][number, 8] -> record`, and `[1] -> [1][next number, 8]`.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::config::{JoinConfig, JoinType};
use super::plan::JoinPlan;
use super::result::{Around, Maker, refuse};
use super::{OWN, RIGHT_ONLY};
use crate::model::{EvalError, Reason, Record, Timestamp, Value};
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;
use crate::operators::table::{TableRow, TableView, row_id};
use crate::operators::{Cx, Operator, OperatorError, Query, Stores};
use crate::state::codec::{ordered_i64, read_ordered_i64};
use crate::state::{StateError, Store, decode_record, encode_record};

/// Records joined by one call of `on_time`.
const LEAVE_MAX: usize = 1024;
const WAITING: u8 = 0;
const NEXT: u8 = 1;
const VERSION: u8 = 1;

/// The join of a stream with a table.
pub(super) struct StreamTable {
    left: bool,
    table: TableView,
    maker: Maker,
    room: Option<Room>,
}

/// The records that wait for late rows.
struct Room {
    grace: i64,
    next: u64,
    /// Whether `next` has changed since it was stored.
    dirty: bool,
    /// A time that no waiting record is older than; `None` if none waits.
    first: Option<i64>,
}

impl StreamTable {
    pub(super) fn new(config: &JoinConfig, plan: &JoinPlan) -> StreamTable {
        let room = |grace: i64| Room { grace, next: 0, dirty: false, first: None };
        StreamTable {
            left: config.kind != JoinType::Inner,
            table: plan.right.expect("planned with a table"),
            maker: Maker::new(config),
            room: config.grace.map(|grace| room(grace.0)),
        }
    }

    fn row(&self, record: &Record, cx: &mut Cx<'_>) -> Result<Option<TableRow>, StateError> {
        let Some(key) = &record.key else { return Ok(None) };
        let store = cx.store(RIGHT_ONLY);
        if record.window.is_some()
            && let Some(row) = self.table.as_of(store, &row_id(key, record.window), record.ts)?
        {
            return Ok(Some(row));
        }
        self.table.as_of(store, key, record.ts)
    }

    /// Sends the record on with its row; returns it if the result cannot be made.
    fn join(
        &self,
        mut record: Record,
        cx: &mut Cx<'_>,
    ) -> Result<Result<(), (Record, EvalError)>, StateError> {
        let row = self.row(&record, cx)?;
        if row.is_none() && !self.left {
            return Ok(Ok(()));
        }
        let right = row.map_or(Value::Null, |row| row.value);
        match self.maker.make(&Around::of(&record), &record.value, &right) {
            Ok(value) => record.value = value,
            Err(e) => return Ok(Err((record, e))),
        }
        cx.forward(record);
        Ok(Ok(()))
    }

    /// Joins some of the records that have waited long enough.
    fn leave(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let Some(room) = &mut self.room else { return Ok(()) };
        let last = cx.clock.0.saturating_sub(room.grace);
        let end = waiting_key(last.saturating_add(1), b"", 0);
        let mut due: Vec<(Vec<u8>, Bytes)> = Vec::new();
        cx.store(OWN).scan(&[WAITING], Some(&end), &mut |key, row| {
            due.push((key.to_vec(), Bytes::copy_from_slice(row)));
            if due.len() < LEAVE_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        for (key, _) in &due {
            cx.store(OWN).delete(key);
        }
        room.first = first_waiting(cx.store(OWN))?;
        for (_, row) in due {
            if let Err((record, e)) = self.join(decode_record(&row)?, cx)? {
                refuse(record, &e, cx);
            }
        }
        Ok(())
    }
}

fn waiting_key(ts: i64, key: &[u8], number: u64) -> Vec<u8> {
    let mut row_key = Vec::with_capacity(17 + key.len());
    row_key.push(WAITING);
    row_key.extend_from_slice(&ordered_i64(ts));
    row_key.extend_from_slice(key);
    row_key.extend_from_slice(&number.to_be_bytes());
    row_key
}

/// The key of a record that waits.
fn key_of(row_key: &[u8]) -> Option<&[u8]> {
    Some(row_key.get(9..)?.split_last_chunk::<8>()?.0)
}

/// A row for people; `None` where the bytes are no such row.
pub(super) fn describe_row(key: &[u8], value: &[u8]) -> Option<Described> {
    match *key.first()? {
        WAITING => {
            let record = decode_record(value).ok()?;
            let row = Described::of_key(key_of(key)?, describe::record(&record)).window(record.window);
            Some(row.at("waits_since", record.ts.0))
        }
        NEXT => {
            let (_, next) = value.split_last_chunk::<8>()?;
            Some(Described::of_key(b"", u64::from_be_bytes(*next).into()).at("next_number", true))
        }
        _ => None,
    }
}

fn damaged() -> StateError {
    StateError("a join's row is damaged".into())
}

fn first_waiting(store: &Store) -> Result<Option<i64>, StateError> {
    let mut first = Ok(None);
    store.scan(&[WAITING], Some(&[WAITING + 1]), &mut |key, _| {
        let ts = key.get(1..).and_then(|rest| rest.first_chunk::<8>());
        first = ts.map(|ts| Some(read_ordered_i64(*ts))).ok_or_else(damaged);
        ControlFlow::Break(())
    })?;
    first
}

impl Operator for StreamTable {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let Some(room) = &mut self.room else { return Ok(()) };
        let store = cx.store(OWN);
        if let Some(row) = store.get(&[NEXT])? {
            match <[u8; 9]>::try_from(&row[..]) {
                Ok([VERSION, next @ ..]) => room.next = u64::from_be_bytes(next),
                _ => return Err(damaged()),
            }
        }
        room.first = first_waiting(store)?;
        Ok(())
    }

    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        if record.key.is_none() && !self.left {
            cx.drop(Reason::NullKey);
            return Ok(());
        }
        if record.value.is_null() {
            cx.drop(Reason::NullValue);
            return Ok(());
        }
        let ts = record.ts.0;
        if let (Some(room), Some(key)) = (&mut self.room, &record.key)
            && ts >= cx.clock.0.saturating_sub(room.grace)
        {
            let row_key = waiting_key(ts, key, room.next);
            cx.store(OWN).put_new(&row_key, encode_record(&record)?);
            room.next += 1;
            room.dirty = true;
            room.first = Some(room.first.map_or(ts, |first| first.min(ts)));
            return Ok(());
        }
        self.join(record, cx)?.map_err(|(record, e)| OperatorError::expression(record, &e))
    }

    fn warm(&self, records: &[Record], stores: &Stores<'_>) {
        stores.get(RIGHT_ONLY).warm(records.iter().filter_map(|record| record.key.as_deref()));
    }

    fn deadline(&self) -> Option<Timestamp> {
        let room = self.room.as_ref()?;
        // For timestamps near the end of the range there is no clock that is `grace` later; such records wait for ever.
        room.first.and_then(|first| first.checked_add(room.grace)).map(Timestamp)
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        // The task only calls again at once if something was sent.
        let sent = cx.tally.records_out;
        while cx.tally.records_out == sent && self.deadline().is_some_and(|at| at <= cx.clock) {
            self.leave(cx)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        // Waiting records will be sent with their own timestamps, so the watermark below must not pass them.
        let first = self.room.as_ref().and_then(|room| room.first).map_or(cx.clock, Timestamp);
        cx.watermark(cx.clock.min(first));
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        let wanted = query.key();
        query.scan(&[WAITING], &[WAITING + 1], |row_key| key_of(row_key) == Some(wanted))
    }

    fn seal(&mut self, cx: &mut Cx<'_>) {
        if let Some(room) = &mut self.room
            && room.dirty
        {
            let mut row = vec![VERSION];
            row.extend_from_slice(&room.next.to_be_bytes());
            cx.store(OWN).put(&[NEXT], Bytes::from(row));
            room.dirty = false;
        }
    }
}
