//! `suppress`: holds the newest result of each key back, until its window is closed or for a time.
//!
//! With C the node's clock: a result that waits for its window leaves when `end <= C - G`, G the window's grace (of a
//! session: grace and gap); one that waits for a time `d` leaves when `first <= C - d`, `first` being the timestamp of the
//! first update that was held. A later update takes the place of the earlier one and not its time. The record at hand is
//! put first, then what is due leaves, by time, then key bytes; a record keeps its own timestamp. Deletions go on where
//! a time is waited for; where the window is, they only remove what is held.
//!
//! Bounds: more than `max_records` or `max_bytes` held, and the oldest leave early, or the task stops.
//!
//! The buffer is in the store; in memory are its order and, up to a bound, its newest rows. A watermark is held back to
//! the oldest row, so that it is not late below.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use super::{Cx, Load, Operator, OperatorError, Problem, Reason};
use crate::model::{Millis, Record, Size, Timestamp, Value, Window};
use crate::state::codec::ordered_i64;
use crate::state::{Cell, Cells, StateError, codec, decode_record, encode_record};

/// Holds results back until their window is closed, or for a time.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuppressConfig {
    /// `window_closes`: one result per window, when it is closed. A time such as `30s`: the newest result of a key, so
    /// long after the first that was held.
    pub until: Until,
    /// With `window_closes`: how long after the window's end its result is held. Default: what the aggregate above
    /// allows for late records (its grace; for sessions grace and gap).
    #[serde(default)]
    pub grace: Option<Millis>,
    /// Results held at most. Default: no bound.
    #[serde(default)]
    pub max_records: Option<u64>,
    /// Bytes of keys and values held at most. Default: no bound.
    #[serde(default)]
    pub max_bytes: Option<Size>,
    /// When a bound is passed: `emit_early` (the default with a time) sends the oldest on, `stop` (the default with
    /// `window_closes`) stops the task.
    #[serde(default)]
    pub on_full: Option<OnFull>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The end of the result's window.
    WindowCloses,
    /// So long after the first held update of the key.
    Time(Millis),
}

impl<'de> Deserialize<'de> for Until {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text.trim() == "window_closes" {
            return Ok(Until::WindowCloses);
        }
        let time = text.parse().map(Until::Time);
        time.map_err(|_| {
            de::Error::custom(format!("`{text}` is neither `window_closes` nor a time such as `30s`"))
        })
    }
}

impl JsonSchema for Until {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Until".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "pattern": "^(window_closes|([0-9]+(ms|s|m|h|d))+)$", "examples": ["window_closes", "30s"]
        })
    }
}

/// What happens when a bound is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The oldest leave.
    EmitEarly,
    /// The task stops.
    Stop,
}

impl SuppressConfig {
    /// One result per window. For the Rust DSL.
    #[must_use]
    pub fn until_window_closes() -> SuppressConfig {
        SuppressConfig {
            until: Until::WindowCloses,
            grace: None,
            max_records: None,
            max_bytes: None,
            on_full: None,
        }
    }

    /// The newest result, so long after the first. For the Rust DSL.
    #[must_use]
    pub fn until_time(limit: Millis) -> SuppressConfig {
        SuppressConfig { until: Until::Time(limit), ..SuppressConfig::until_window_closes() }
    }

    /// Does it need the grace of an aggregate above?
    #[must_use]
    pub fn wants_grace(&self) -> bool {
        self.until == Until::WindowCloses && self.grace.is_none()
    }

    fn policy(&self) -> OnFull {
        let default = if self.until == Until::WindowCloses { OnFull::Stop } else { OnFull::EmitEarly };
        self.on_full.unwrap_or(default)
    }

    /// What is wrong with the settings: field, message, help.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: &str, help: &str| {
            problems.push((format!("suppress{field}"), message.to_owned(), help.to_owned()));
        };
        if let Until::Time(limit) = self.until {
            if limit < Millis::ZERO {
                problem(".until", "it is negative", "write a time such as `30s`");
            }
            if self.grace.is_some() {
                problem(".grace", "only `until: window_closes` has a grace", "remove it");
            }
        }
        if self.grace.is_some_and(|grace| grace < Millis::ZERO) {
            problem(".grace", "it is negative", "write a time such as `10s`, or leave it out");
        }
        if self.max_records == Some(0) {
            problem(".max_records", "it could hold nothing", "write 1 or more");
        }
        if self.max_bytes == Some(Size(0)) {
            problem(".max_bytes", "it could hold nothing", "write a size such as `64MiB`");
        }
        if self.on_full.is_some() && self.max_records.is_none() && self.max_bytes.is_none() {
            problem(".on_full", "nothing says when it is full", "add `max_records` or `max_bytes`");
        }
        if self.until == Until::WindowCloses && self.on_full == Some(OnFull::EmitEarly) {
            problem(
                ".on_full",
                "a result sent early is not the window's final one",
                "write `on_full: stop`, or `until: 30s`",
            );
        }
        problems
    }

    /// For graphs: `window_closes`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.until {
            Until::WindowCloses => "window_closes".into(),
            Until::Time(limit) => limit.to_string(),
        }
    }
}

/// Rows that leave in one call of `on_time`: bounds what is between the nodes.
const LEAVE_MAX: usize = 1024;
/// Decoded rows kept in memory between epochs, bytes.
const RESIDENT_BYTES: usize = 32 << 20;
/// Version of the rows.
const VERSION: u8 = 1;
/// Memory of one entry of the order, about.
const ORDER_BYTES: usize = 120;

/// One held record.
struct Held {
    time: i64,
    size: u64,
    record: Record,
}

impl Cell for Held {
    fn encode(&self) -> Result<Bytes, StateError> {
        codec::encode(VERSION, &(self.time, self.size, encode_record(&self.record)?.to_vec()))
    }

    fn decode(bytes: &[u8]) -> Result<Held, StateError> {
        let (time, size, record): (i64, u64, Vec<u8>) = codec::decode(VERSION, bytes)?;
        Ok(Held { time, size, record: decode_record(&record)? })
    }
}

/// Order of leaving: time, key, window end, window start.
type Place = (i64, Bytes, Option<(i64, i64)>);

fn bounds(window: Option<Window>) -> Option<(i64, i64)> {
    window.map(|w| (w.end.0, w.start.0))
}

/// Key of a row: a result is known by its key and window.
fn row_key(key: &[u8], window: Option<(i64, i64)>, out: &mut Vec<u8>) {
    out.clear();
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

/// Keys and values that are parts of a larger buffer get a buffer of their own: they may stay for long.
fn own(mut record: Record) -> Record {
    record.key = record.key.map(|key| Bytes::copy_from_slice(&key));
    if let Value::Bytes(bytes) = &record.value {
        record.value = Value::Bytes(Bytes::copy_from_slice(bytes));
    }
    record
}

/// See the module. One store: the buffer.
pub struct Suppress {
    until: Until,
    wait: i64,
    max_records: u64,
    max_bytes: Option<u64>,
    policy: OnFull,
    cells: Cells<Held>,
    stored: bool,
    order: BTreeSet<Place>,
    bytes: u64,
    row: Vec<u8>,
    broken: Option<StateError>,
}

impl Suppress {
    /// The operator with nothing held. The settings have been checked.
    #[must_use]
    pub fn new(config: &SuppressConfig) -> Suppress {
        let wait = match config.until {
            Until::WindowCloses => config.grace.unwrap_or_default().0,
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
            order: BTreeSet::new(),
            bytes: 0,
            row: Vec::new(),
            broken: None,
        }
    }

    fn find(
        &mut self,
        key: &[u8],
        window: Option<(i64, i64)>,
        cx: &mut Cx<'_>,
    ) -> Result<Option<u32>, StateError> {
        row_key(key, window, &mut self.row);
        let may_be_stored = self.stored || self.cells.has_evicted();
        self.cells.find(cx.store(0), &self.row, may_be_stored)
    }

    /// Takes one record out of the buffer.
    fn take(&mut self, id: u32, cx: &mut Cx<'_>) -> Record {
        let held = self.cells.remove(cx.store(0), id);
        self.bytes -= held.size;
        held.record
    }

    /// Sends the oldest on.
    fn leave(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let Some((_, key, window)) = self.order.pop_first() else { return Ok(()) };
        let id = self.find(&key, window, cx)?;
        let id = id.ok_or_else(|| StateError("a held row is gone from the store".into()))?;
        let record = self.take(id, cx);
        cx.forward(record);
        Ok(())
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
                self.order.remove(&(time, key.clone(), window));
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
                self.order.insert((time, key, window));
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
                // The settings may have got a bound since the row was written.
                let value = held.record.value.size();
                let size = held.record.key.as_ref().map_or(0, Bytes::len) + value;
                let size = if bounded { size as u64 } else { 0 };
                if size != held.size {
                    resized.push((Bytes::copy_from_slice(key), size));
                }
                *bytes += size;
                order.insert((held.time, held.record.key.unwrap_or_default(), bounds(held.record.window)));
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
        if let Some(error) = &self.broken {
            return Err(OperatorError::Fatal(error.clone()));
        }
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
        self.order.first().map(|(time, ..)| Timestamp(time.saturating_add(self.wait)))
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        for _ in 0..LEAVE_MAX {
            if !self.is_due(cx.clock) {
                break;
            }
            self.leave(cx)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        let held =
            self.order.first().map(|(time, _, window)| window.map_or(*time, |(_, start)| start.min(*time)));
        cx.watermark(held.map_or(cx.clock, |at| cx.clock.min(Timestamp(at))));
    }

    fn seal(&mut self, cx: &mut Cx<'_>) {
        match self.cells.flush(cx.store(0)) {
            Ok(()) => self.cells.evict(),
            Err(error) => self.broken = Some(error),
        }
    }

    fn load(&self) -> Load {
        let bytes = self.cells.bytes() + self.order.len() * ORDER_BYTES;
        Load { keys: self.order.len(), bytes, ..Load::default() }
    }
}
