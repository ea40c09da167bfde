//! `table`: a stream read as a table, one row per key. On a source (`table: {}` beside `kafka`) and as an operator.
//!
//! A record sets the row of its key, a tombstone deletes it, a record without a key is dropped. Every record goes on as
//! it came, with the row's old value attached ([`Change`]) for the nodes below that ask for it. A windowed record has
//! the row of its key and window.
//!
//! A plain table takes records in the order in which they arrive, whatever their timestamps. With `versions` it keeps
//! the history of each row (`versions.rs`), and a record out of order changes that history.
//!
//! The node owns the store; joins in the same task read it through a [`TableView`]. Rows that were read lately are
//! cached in memory, up to a bound.
//!
//! Plain row: `id -> [version = 1][timestamp, 8 bytes][value]`. The `id` is the key, followed by the window's bounds if
//! it has a window.

mod versions;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use schemars::JsonSchema;
use serde::Deserialize;

use self::versions::{Put, Versions};
use super::settings::Sends;
use super::shared::describe;
use super::shared::describe::Described;
use super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings, Query, Timing};
use crate::model::{Change, Json, Millis, Problem, Reason, Record, Timestamp, Value, Window};
use crate::state::codec::{ordered_i64, read_ordered_i64};
use crate::state::{StateError, Store};

/// Reads a stream as a table: the newest value of each key. `table: {}` needs no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// Keeps the earlier versions of each row for this long, so that a join can look up what a row was at a record's
    /// time. A record older than this is dropped as late. Default: no versions, a row is what came last.
    #[serde(default)]
    pub versions: Option<Millis>,
    /// Every instance holds all partitions of the topic, so that streams can be joined with it by any key (`on`). Only
    /// on a source. Default false.
    #[serde(default)]
    pub global: bool,
}

impl TableConfig {
    /// What is wrong with the settings; `operator`: not a source's.
    #[must_use]
    pub fn check(&self, operator: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if self.versions.is_some_and(|history| history <= Millis::ZERO) {
            problem(
                "versions",
                "no time at all",
                "write how long versions are kept, for example `versions: 1h`",
            );
        }
        if self.global && operator {
            problem(
                "global",
                "only a source can be a global table",
                "put `table: { global: true }` on a source",
            );
        }
        if self.global && self.versions.is_some() {
            problem("versions", "a global table has no versions", "remove `versions`, or `global`");
        }
        problems
    }

    /// For graphs: `table`, `table 1h`, `global table`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.versions {
            Some(history) => format!("table, versions {history}"),
            None if self.global => "global table".into(),
            None => "table".into(),
        }
    }

    /// What the rows of the store depend on: another name means other rows.
    #[must_use]
    pub fn state_kind(&self) -> &'static str {
        if self.versions.is_some() { "versioned table" } else { "table" }
    }

    /// A row of its store for people; `None` where the bytes are no such row.
    #[must_use]
    pub fn describe_row(&self, key: &[u8], value: &[u8]) -> Option<Described> {
        if self.versions.is_some() {
            return versions::describe_row(key, value);
        }
        let TableRow { ts, value } = decode(Bytes::copy_from_slice(value)).ok()?;
        let (key, window) = read_row_id(key);
        let value = value.bytes().map_or(Json::Null, |value| describe::bytes(&value));
        Some(Described::of_key(key, value).window(window).at("ts", ts.0))
    }

    /// How joins read its rows.
    #[must_use]
    pub fn view(&self) -> TableView {
        TableView { history: self.versions }
    }
}

/// The only store: rows.
const ROWS: usize = 0;
/// Memory for rows that were read, in bytes per table and task.
const READS_BYTES: usize = 48 << 20;
/// Format of a plain row.
const VERSION: u8 = 1;

/// The bytes that identify the row a record belongs to.
#[must_use]
pub fn row_id(key: &Bytes, window: Option<Window>) -> Bytes {
    let Some(window) = window else { return key.clone() };
    let mut id = BytesMut::with_capacity(key.len() + 16);
    id.put_slice(key);
    id.put_slice(&ordered_i64(window.start.0));
    id.put_slice(&ordered_i64(window.end.0));
    id.freeze()
}

/// The key and the window that a [`row_id`] was made of, for people. A window's start is no continuation of a text, so
/// what is a text has none.
#[must_use]
pub fn read_row_id(id: &[u8]) -> (&[u8], Option<Window>) {
    let plain = (id, None);
    if std::str::from_utf8(id).is_ok() {
        return plain;
    }
    let Some((key, bounds)) = id.split_last_chunk::<16>() else { return plain };
    let ([start, end], []) = bounds.as_chunks::<8>() else { return plain };
    let [start, end] = [start, end].map(|at| Timestamp(read_ordered_i64(*at)));
    if Timestamp(0) <= start && start <= end { (key, Some(Window { start, end })) } else { plain }
}

/// Adds the rows of a key, without a window and with any, of a store whose keys are `prefix` and a [`row_id`].
///
/// # Errors
/// The state failed.
pub(in crate::operators) fn query_ids(query: &mut Query<'_>, prefix: &[u8]) -> Result<(), StateError> {
    let plain = [prefix, query.key()].concat();
    query.get(&plain)?;
    // Windows start at 0 or later.
    let [from, to] = [0x80, 0x81].map(|first| [&plain[..], &[first]].concat());
    let wanted = query.key();
    query.scan(&from, &to, |key| read_row_id(&key[prefix.len()..]).0 == wanted)
}

/// A row, as it is now or was at some time.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    /// Timestamp of the record that set it.
    pub ts: Timestamp,
    /// Its value, never null.
    pub value: Value,
}

/// Reads the rows of a table. Used by the table itself and by joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableView {
    history: Option<Millis>,
}

impl TableView {
    /// The row as it is now.
    ///
    /// # Errors
    /// The state failed.
    pub fn latest(&self, store: &Store, id: &[u8]) -> Result<Option<TableRow>, StateError> {
        if self.history.is_some() {
            return versions::latest(store, id);
        }
        store.get(id)?.map(decode).transpose()
    }

    /// The row as it was at a time; in a table without versions, as it is now.
    ///
    /// # Errors
    /// The state failed.
    pub fn as_of(&self, store: &Store, id: &[u8], ts: Timestamp) -> Result<Option<TableRow>, StateError> {
        match self.history {
            Some(history) => versions::as_of(store, id, ts.0, history.0),
            None => self.latest(store, id),
        }
    }
}

fn encode(ts: Timestamp, value: &Bytes) -> Bytes {
    let mut row = BytesMut::with_capacity(9 + value.len());
    row.put_u8(VERSION);
    row.put_i64(ts.0);
    row.put_slice(value);
    row.freeze()
}

fn decode(mut row: Bytes) -> Result<TableRow, StateError> {
    match row.split_first_chunk::<9>() {
        Some(([VERSION, ts @ ..], _)) => {
            let ts = Timestamp(i64::from_be_bytes(*ts));
            row.advance(9);
            Ok(TableRow { ts, value: Value::Bytes(row) })
        }
        _ => Err(StateError("a table's row is damaged or of another version".into())),
    }
}

/// The operator.
pub struct Table {
    versions: Option<Versions>,
}

impl Table {
    /// A table with those settings.
    #[must_use]
    pub fn new(config: &TableConfig) -> Table {
        Table { versions: config.versions.map(|history| Versions::new(history.0)) }
    }

    /// Called before the first record.
    pub fn open(cx: &mut Cx<'_>) {
        cx.store(ROWS).keep_reads(READS_BYTES);
    }

    /// Sets or deletes the record's row and attaches the change to the record; `None` if the record is dropped.
    ///
    /// # Errors
    /// The state failed.
    pub fn update(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<Option<Record>, StateError> {
        let Some(key) = &record.key else {
            cx.drop(Reason::NullKey);
            return Ok(None);
        };
        let id = row_id(key, record.window);
        let value = record.value.bytes();
        let store = cx.store(ROWS);
        let (old, latest) = match &mut self.versions {
            None => (put(store, &id, record.ts, value)?, true),
            Some(versions) => match versions.put(store, &id, record.ts.0, value.as_ref())? {
                Put::Newest(old) => (old, true),
                Put::Earlier(old) => (old, false),
                Put::Late => {
                    cx.drop(Reason::Late);
                    return Ok(None);
                }
            },
        };
        let old = old.map_or(Value::Null, |row| row.value);
        record.change = Some(Box::new(Change { old, latest }));
        Ok(Some(record))
    }
}

/// Sets or deletes a plain row. Returns what it was before.
fn put(
    store: &mut Store,
    id: &[u8],
    ts: Timestamp,
    value: Option<Bytes>,
) -> Result<Option<TableRow>, StateError> {
    let old = store.get(id)?.map(decode).transpose()?;
    match value {
        Some(value) if old.is_none() => store.put_new(id, encode(ts, &value)),
        Some(value) => store.put(id, encode(ts, &value)),
        None if old.is_some() => store.delete(id),
        None => {}
    }
    Ok(old)
}

impl Operator for Table {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        Table::open(cx);
        Ok(())
    }

    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        if let Some(record) = self.update(record, cx)? {
            cx.forward(record);
        }
        Ok(())
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        match self.versions {
            Some(_) => versions::query(query),
            None => query_ids(query, b""),
        }
    }
}

impl OperatorSettings for TableConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Table::new(self))
    }
    fn state_kind(&self, _kind: &'static str, _: &NodePlan) -> Option<&'static str> {
        Some(self.state_kind())
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    fn timing(&self, _: &NodePlan) -> Timing {
        Timing { refuses_late: self.versions.is_some(), ..Timing::default() }
    }
    fn sends(&self, _: &NodePlan) -> Sends {
        Sends::Stream
    }
    fn keeps_values(&self) -> bool {
        true
    }
    fn table(&self) -> Option<&TableConfig> {
        Some(self)
    }
    fn describe(&self, key: &[u8], value: &[u8], _: &NodePlan) -> Option<Described> {
        self.describe_row(key, value)
    }
    fn input_count(&self) -> Option<(std::ops::RangeInclusive<usize>, &'static str)> {
        Some((1..=1, "a table reads one node; put a `merge` before it"))
    }
    fn check(&self) -> Vec<Problem> {
        self.check(true)
    }
    fn label(&self, _kind: &'static str) -> String {
        self.label()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never edit: rows on users' disks have this format.
    const ROW_V1: &[u8] = &[1, 0, 0, 0, 0, 0, 0, 1, 2, b'"', b'x', b'"'];

    #[test]
    fn version_1_is_written_and_read_as_on_users_disks() {
        assert_eq!(encode(Timestamp(258), &Bytes::from("\"x\"")), ROW_V1);
        let row = TableRow { ts: Timestamp(258), value: Value::Bytes(Bytes::from("\"x\"")) };
        assert_eq!(decode(Bytes::from_static(ROW_V1)).expect("decodes"), row);
        for bad in [&b""[..], &[1, 0, 0, 0, 0, 0, 0, 1], &[2, 0, 0, 0, 0, 0, 0, 1, 2, 3]] {
            assert!(decode(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_windowed_record_has_a_row_of_its_own() {
        let key = Bytes::from("a");
        let window = |start, end| Some(Window { start: Timestamp(start), end: Timestamp(end) });
        assert_eq!(row_id(&key, None), key);
        let ids = [row_id(&key, window(0, 10)), row_id(&key, window(0, 11)), row_id(&key, window(10, 20))];
        assert!(ids.is_sorted() && ids[0] != ids[1]);
        assert_eq!(ids[0].len(), 17);
    }
}
