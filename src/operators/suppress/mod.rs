//! `suppress`: holds the newest result of each key back, until its window closes or for a time.
//!
//! When a result is sent, with C the node's clock: one that waits for its window at `end <= C - G`, where G is the
//! window's grace (for a session: grace plus gap); one that waits for a time `d` at `first <= C - d`, where `first` is
//! the timestamp of the first update that was held. A later update replaces the earlier one but keeps its time. The
//! current record is stored first; then what is due is sent, by time, then key bytes, each record with its own
//! timestamp. When waiting for a time, deletions are sent on like updates; when waiting for a window, they only remove
//! what is held.
//!
//! Bounds: if more than `max_records` or `max_bytes` are held, the oldest are sent early, or the task stops.
//!
//! The buffer is in the store; in memory are its order and, up to a bound, recently used rows. A watermark is held back
//! to the oldest row, so that the row is not late for the nodes below.

mod config;
mod order;

use std::ops::ControlFlow;

use bytes::Bytes;

pub use config::{OnFull, SuppressConfig, Until};
use order::{Bounds, Order, Spot};

use super::shared::describe;
use super::shared::describe::Described;
use super::{Cx, Load, Operator, OperatorError, Query};
use crate::model::{Millis, Reason, Record, Timestamp, Value, Window};
use crate::state::codec::ordered_i64;
use crate::state::{Cell, Cells, StateError, codec, decode_record, encode_record_into};

/// Rows sent by one call of `on_time`, which bounds how many records are between nodes at once.
const LEAVE_MAX: usize = 1024;
/// Rows that are looked up together, so that their cache misses overlap.
const WARM_GROUP: usize = 64;
/// Memory for decoded rows that are kept from one epoch to the next.
const RESIDENT_BYTES: usize = 32 << 20;
/// Version of the rows.
const VERSION: u8 = 1;
/// Approximate memory of one entry of the order.
const ORDER_BYTES: usize = 120;

/// One held record.
struct Held {
    time: i64,
    size: u64,
    record: Record,
}

impl Cell for Held {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        // The record is encoded as a byte list: its length (filled in afterwards), then its bytes.
        codec::encode_into(VERSION, &(self.time, self.size, 0u64), out)?;
        let start = out.len();
        encode_record_into(&self.record, out)?;
        let len = (out.len() - start) as u64;
        out[start - 8..start].copy_from_slice(&len.to_le_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Held, StateError> {
        let (time, size, record): (i64, u64, Vec<u8>) = codec::decode(VERSION, bytes)?;
        Ok(Held { time, size, record: decode_record(&record)? })
    }
}

fn bounds(window: Option<Window>) -> Bounds {
    window.map(|w| (w.end.0, w.start.0))
}

/// The key of a row: a result is identified by its key and window.
fn row_key(key: &[u8], window: Bounds, out: &mut Vec<u8>) {
    match window {
        Some((end, start)) => {
            out.push(1);
            out.extend_from_slice(&ordered_i64(end));
            out.extend_from_slice(&ordered_i64(start));
        }
        None => out.push(0),
    }
    out.extend_from_slice(key);
}

/// A held result for people: since when it is held, by its node's clock. `None` where the bytes are no such row.
fn describe_row(value: &[u8]) -> Option<Described> {
    let Held { time, record, .. } = Held::decode(value).ok()?;
    let key = record.key.as_deref().unwrap_or_default();
    Some(Described::of_key(key, describe::record(&record)).window(record.window).at("held", time))
}

/// Copies a key or value that is a slice of a larger buffer: it may be held long, and would keep the whole buffer
/// alive.
fn own(mut record: Record) -> Record {
    record.key = record.key.map(|key| Bytes::copy_from_slice(&key));
    if let Value::Bytes(bytes) = &record.value {
        record.value = Value::Bytes(Bytes::copy_from_slice(bytes));
    }
    record
}

/// The operator. Its one store is the buffer.
pub struct Suppress {
    until: Until,
    wait: i64,
    max_records: u64,
    max_bytes: Option<u64>,
    policy: OnFull,
    cells: Cells<Held>,
    stored: bool,
    order: Order,
    bytes: u64,
    row: Vec<u8>,
}

impl Suppress {
    /// The operator with nothing held. The settings were checked before. `grace`: how long the windows above still change
    /// after their ends.
    #[must_use]
    pub fn new(config: &SuppressConfig, grace: Option<Millis>) -> Suppress {
        let wait = match config.until {
            Until::WindowCloses => config.grace.or(grace).unwrap_or_default().0,
            Until::Time(limit) => limit.0,
        };
        Suppress {
            until: config.until,
            wait,
            max_records: config.max_records.unwrap_or(u64::MAX),
            max_bytes: config.max_bytes.map(|size| size.0),
            policy: config.policy(),
            cells: Cells::new(RESIDENT_BYTES),
            stored: false,
            order: Order::default(),
            bytes: 0,
            row: Vec::new(),
        }
    }

    fn find(&mut self, key: &[u8], window: Bounds, cx: &mut Cx<'_>) -> Result<Option<u32>, StateError> {
        self.row.clear();
        row_key(key, window, &mut self.row);
        let may_be_stored = self.stored || self.cells.has_evicted();
        self.cells.find(cx.store(0), &self.row, may_be_stored)
    }

    /// Removes a record from the buffer.
    fn take(&mut self, id: u32, cx: &mut Cx<'_>) -> Record {
        let held = self.cells.remove(cx.store(0), id);
        self.bytes -= held.size;
        held.record
    }

    /// Sends the oldest record on.
    fn leave(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let Some(Spot { key, window }) = self.order.pop() else { return Ok(()) };
        let id = self.find(&key, window, cx)?;
        let id = id.ok_or_else(|| StateError("a held row is gone from the store".into()))?;
        let record = self.take(id, cx);
        cx.forward(record);
        Ok(())
    }

    /// Touches the memory that removing the next records will need, so that cache misses overlap.
    fn warm_next(&mut self) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for Spot { key, window } in self.order.next(WARM_GROUP) {
            row_key(key, *window, &mut bytes);
            ends.push(bytes.len());
        }
        self.cells.warm_packed(&bytes, ends);
    }

    fn is_over(&self) -> bool {
        self.order.len() as u64 > self.max_records || self.max_bytes.is_some_and(|max| self.bytes > max)
    }

    fn is_due(&self, clock: Timestamp) -> bool {
        self.deadline().is_some_and(|at| at <= clock)
    }

    fn put(&mut self, record: Record, key: &Bytes, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let window = bounds(record.window);
        let found = self.find(key, window, cx)?;
        let size = match self.max_bytes {
            Some(_) => (key.len() + record.value.bytes().map_or(0, |v| v.len())) as u64,
            None => 0,
        };
        let time = match (self.until, window) {
            (Until::WindowCloses, Some((end, _))) => end,
            _ => record.ts.0,
        };
        match found {
            Some(id) if self.until == Until::WindowCloses && record.value.is_null() => {
                let held_since = self.cells.value(id).time;
                self.order.remove(held_since, &Spot { key: key.clone(), window });
                self.take(id, cx);
            }
            None if self.until == Until::WindowCloses && record.value.is_null() => {}
            Some(id) => {
                let held = self.cells.value_mut(id);
                self.bytes = self.bytes - held.size + size;
                held.size = size;
                held.record = own(record);
            }
            None => {
                let record = own(record);
                let key = record.key.clone().unwrap_or_default();
                self.order.insert(time, Spot { key, window });
                self.bytes += size;
                self.cells.insert(&self.row, Held { time, size, record });
            }
        }
        Ok(())
    }
}

impl Operator for Suppress {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let bounded = self.max_bytes.is_some();
        let (order, bytes) = (&mut self.order, &mut self.bytes);
        let mut failed = None;
        let mut resized = Vec::new();
        cx.store(0).scan(b"", None, &mut |key, row| match Held::decode(row) {
            Ok(held) => {
                // Computed again, since a bound may have been added to the settings after the row was written.
                let value = held.record.value.size();
                let size = held.record.key.as_ref().map_or(0, Bytes::len) + value;
                let size = if bounded { size as u64 } else { 0 };
                if size != held.size {
                    resized.push((Bytes::copy_from_slice(key), size));
                }
                *bytes += size;
                let window = bounds(held.record.window);
                order.insert(held.time, Spot { key: held.record.key.unwrap_or_default(), window });
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        self.stored = !self.order.is_empty();
        for (key, size) in resized {
            if let Some(id) = self.cells.find(cx.store(0), &key, true)? {
                self.cells.value_mut(id).size = size;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let Some(key) = record.key.clone() else {
            cx.drop(Reason::NullKey);
            return Ok(());
        };
        if self.until == Until::WindowCloses && record.window.is_none() {
            let detail = "the record has no window to wait for";
            return Err(OperatorError::reject(record, Reason::Expression, detail));
        }
        self.put(record, &key, cx)?;
        while self.is_over() && self.is_due(cx.clock) {
            self.leave(cx)?;
        }
        while self.is_over() {
            if self.policy == OnFull::Stop {
                let held = self.order.len();
                return Err(OperatorError::Fatal(StateError(format!(
                    "suppress holds {held} results, more than it may, and `on_full` is `stop`: raise `max_records` or \
                     `max_bytes`"
                ))));
            }
            self.leave(cx)?;
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.order.first_time().map(|time| Timestamp(time.saturating_add(self.wait)))
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        for n in 0..LEAVE_MAX {
            if !self.is_due(cx.clock) {
                break;
            }
            if n % WARM_GROUP == 0 {
                self.warm_next();
            }
            self.leave(cx)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        let held = self.order.earliest();
        cx.watermark(held.map_or(cx.clock, |at| cx.clock.min(Timestamp(at))));
    }

    fn seal(&mut self, _: &mut Cx<'_>) {
        self.cells.freeze();
    }

    fn seal_more(&mut self, cx: &mut Cx<'_>, rows_max: usize) -> Result<bool, StateError> {
        Ok(self.cells.flush_frozen(cx.store(0), rows_max)? && self.cells.evict(rows_max.saturating_mul(4)))
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        let mut row = Vec::new();
        for window in self.order.windows_of(query.key()) {
            row.clear();
            row_key(query.key(), window, &mut row);
            if let Some(held) = self.cells.peek(query.store(), &row)? {
                query.push(&row, held);
            }
        }
        Ok(())
    }

    fn load(&self) -> Load {
        let bytes = self.cells.bytes() + self.order.len() * ORDER_BYTES;
        Load { keys: self.order.len(), bytes, ..Load::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::aggregate::tests::rig::{Out, Rig, out};
    use super::*;
    use crate::model::Json;
    use crate::operators::OperatorSettings;

    fn rig(config: Json) -> Rig {
        let config: SuppressConfig = serde_json::from_value(config).unwrap();
        assert_eq!(config.check(), []);
        Rig::new(move || Box::new(Suppress::new(&config, None)))
    }

    fn send(n: &mut Rig, key: &str, window: (i64, i64), value: Json, ts: i64) -> Vec<Out> {
        let window = Window { start: Timestamp(window.0), end: Timestamp(window.1) };
        let record =
            Record { window: Some(window), ..Record::new(key.to_owned(), Value::from(value), Timestamp(ts)) };
        super::super::aggregate::tests::rig::show(&n.record(record).unwrap())
    }

    fn plain(key: &str, value: Json, ts: i64) -> Out {
        (key.to_owned(), None, value, ts)
    }

    #[test]
    fn a_window_s_newest_result_leaves_when_it_is_closed() {
        let mut n = rig(json!({ "until": "window_closes", "grace": "5ms" }));
        assert_eq!(send(&mut n, "b", (0, 10), json!(1), 3), []);
        assert_eq!(send(&mut n, "a", (0, 10), json!(1), 4), []);
        assert_eq!(send(&mut n, "b", (0, 10), json!(2), 2), []);
        n.restart();
        assert_eq!(send(&mut n, "a", (10, 20), json!(1), 14), [], "10 > 14 - 5");
        assert_eq!(n.watermark, None);
        assert_eq!(
            send(&mut n, "a", (10, 20), json!(2), 15),
            [out("a", (0, 10), json!(1), 4), out("b", (0, 10), json!(2), 2)]
        );
        assert_eq!(n.at(24), []);
        assert_eq!(n.watermark, Some(Timestamp(10)), "held to what is held");
        assert_eq!(n.at(25), [out("a", (10, 20), json!(2), 15)]);
        assert_eq!(n.watermark, Some(Timestamp(25)));
        assert_eq!(
            send(&mut n, "a", (0, 10), json!(9), 5),
            [out("a", (0, 10), json!(9), 5)],
            "put, then due"
        );
        assert_eq!(n.rows(), 0);
    }

    #[test]
    fn deletions_only_remove_where_the_window_is_waited_for() {
        let mut n = rig(json!({ "until": "window_closes" }));
        send(&mut n, "a", (0, 10), json!(1), 3);
        assert_eq!(send(&mut n, "a", (0, 10), Json::Null, 4), []);
        assert_eq!(send(&mut n, "b", (0, 10), Json::Null, 4), []);
        assert_eq!(n.rows(), 0);
        assert_eq!(n.at(10), []);
        let mut n = rig(json!({ "until": "10ms" }));
        n.send("a", json!(1), 0);
        assert_eq!(n.send("a", Json::Null, 5), []);
        assert_eq!(n.at(9), []);
        assert_eq!(n.at(10), [plain("a", Json::Null, 5)]);
    }

    #[test]
    fn a_time_counts_from_the_first_update_that_was_held() {
        let mut n = rig(json!({ "until": "10ms" }));
        assert_eq!(n.send("a", json!(1), 5), []);
        assert_eq!(n.send("a", json!(2), 14), []);
        n.restart();
        assert_eq!(n.send("b", json!(1), 15), [plain("a", json!(2), 14)]);
        assert_eq!(n.send("a", json!(3), 16), []);
        assert_eq!(n.send("a", json!(4), 2), [], "the later update keeps the time of the first");
        assert_eq!(n.at(25), [plain("b", json!(1), 15)]);
        assert_eq!(n.at(26), [plain("a", json!(4), 2)]);
        assert_eq!(n.rows(), 0);
        let mut n = rig(json!({ "until": "0s" }));
        assert_eq!(n.send("a", json!(1), 5), [plain("a", json!(1), 5)]);
    }

    #[test]
    fn the_oldest_leave_early_or_the_task_stops_when_it_is_full() {
        let mut n = rig(json!({ "until": "100ms", "max_records": 2 }));
        n.send("b", json!(1), 5);
        n.send("a", json!(1), 5);
        assert_eq!(n.send("b", json!(2), 6), [], "two are not too many");
        assert_eq!(n.send("c", json!(1), 7), [plain("a", json!(1), 5)]);
        n.restart();
        assert_eq!(n.send("d", json!(1), 8), [plain("b", json!(2), 6)]);

        let mut n = rig(json!({ "until": "100ms", "max_bytes": "4B" }));
        assert_eq!(n.send("a", json!(1), 0), []);
        n.restart();
        assert_eq!(n.send("b", json!(1), 0), [], "four bytes are not too many");
        assert_eq!(n.send("b", json!(12), 0), [plain("a", json!(1), 0)]);
        assert_eq!(n.send("b", json!(12345), 0), [plain("b", json!(12345), 0)]);

        let mut n = rig(json!({ "until": "10ms", "max_records": 1, "on_full": "stop" }));
        n.send("a", json!(1), 0);
        assert_eq!(n.send("b", json!(1), 10), [plain("a", json!(1), 0)], "what is due leaves first");
        let error = n.record(Record::new("c", Value::from(json!(1)), Timestamp(11))).unwrap_err();
        assert!(error.1.contains("holds 2 results"), "{error:?}");
    }

    #[test]
    fn records_without_key_or_window_do_not_stay() {
        let mut n = rig(json!({ "until": "window_closes" }));
        let error = n.record(Record::new("c", Value::from(json!(1)), Timestamp(11))).unwrap_err();
        assert_eq!(error.0, Reason::Expression);
        let keyless = Record { key: None, ..Record::new("", Value::Null, Timestamp(0)) };
        assert!(n.record(keyless).unwrap().is_empty());
        assert_eq!(n.dropped(), [Reason::NullKey]);
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let check = |json: Json, want: &[&str]| {
            let config: SuppressConfig = serde_json::from_value(json).unwrap();
            let got: Vec<_> = config.check().into_iter().map(|p| p.field).collect();
            assert_eq!(got, want);
        };
        check(json!({ "until": "window_closes", "max_records": 5, "on_full": "stop" }), &[]);
        check(json!({ "until": "30s", "max_bytes": "1MiB", "on_full": "emit_early" }), &[]);
        check(json!({ "until": "30s", "grace": "1s" }), &["grace"]);
        check(json!({ "until": "30s", "on_full": "stop" }), &["on_full"]);
        check(json!({ "until": "30s", "max_records": 0 }), &["max_records"]);
        check(json!({ "until": "30s", "max_bytes": "0B" }), &["max_bytes"]);
        let early = json!({ "until": "window_closes", "max_records": 1, "on_full": "emit_early" });
        check(early, &["on_full"]);
        for bad in [json!({ "until": "never" }), json!({}), json!({ "until": "1s", "max": 1 })] {
            assert!(serde_json::from_value::<SuppressConfig>(bad).is_err());
        }
    }
}
