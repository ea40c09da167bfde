//! A table in memory, in place of a database, for `dev` and `test`.
//!
//! Rows are JSON objects by their key columns, shared by every clone. There is no schema: values are kept as they came
//! and no type is checked. The tests on the real emulator do that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Map;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Answers, Connected, Lane, Operation, Sink, SinkError, Table};
use crate::model::{Cell, Clock, Json, Payload, SinkRow, canonical};

/// A local table. Cheap to clone.
#[derive(Clone)]
pub struct TableSink {
    columns: Arc<[String]>,
    /// Positions of the key's columns.
    key: Arc<[usize]>,
    operation: Operation,
    /// The position of the column in which a row must be greater than the one that it replaces.
    newer: Option<usize>,
    /// The position of a column with an object whose fields are added to those that are there; a null one is removed.
    merged: Option<usize>,
    clock: Arc<dyn Clock>,
    /// Shared by the lanes, which write, and by the readers of the table (the live view, `expect`).
    content: Arc<Mutex<Content>>,
}

type Row = Map<String, Json>;

#[derive(Default)]
struct Content {
    rows: BTreeMap<Vec<String>, Row>,
    written: u64,
}

impl TableSink {
    /// An empty table; `clock` gives the commit timestamps. Names in `key` that are no columns are left out; without a key
    /// every row is added.
    #[must_use]
    pub fn new(columns: &[String], key: &[String], operation: Operation, clock: Arc<dyn Clock>) -> TableSink {
        let key = key.iter().filter_map(|name| columns.iter().position(|c| c == name)).collect();
        TableSink {
            columns: columns.into(),
            key,
            operation,
            newer: None,
            merged: None,
            clock,
            content: Arc::default(),
        }
    }

    /// Stands for the table of a sink. If neither the file nor a database names its key, that is the columns that are `key`,
    /// or else the first column.
    #[must_use]
    pub fn standing_for(table: Table<'_>, clock: Arc<dyn Clock>) -> TableSink {
        let columns: Vec<String> = table.names().cloned().collect();
        let newer = table.newer_wins.and_then(|name| columns.iter().position(|c| c == name));
        TableSink { newer, ..TableSink::new(&columns, &table.likely_key(), table.operation, clock) }
    }

    /// Stands for what is no table: cells by name, of which some are the key, one may have to be greater than what is
    /// there (`newer`), and one may be an object whose fields are written one by one (`merged`).
    #[must_use]
    pub(super) fn of_cells(
        names: &[String],
        key: &[&str],
        newer: Option<&str>,
        merged: Option<&str>,
        clock: Arc<dyn Clock>,
    ) -> TableSink {
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        let place = |name: &str| names.iter().position(|n| n == name);
        let (newer, merged) = (newer.and_then(place), merged.and_then(place));
        TableSink { newer, merged, ..TableSink::new(names, &key, Operation::Upsert, clock) }
    }

    /// All rows, by key.
    #[must_use]
    pub fn rows(&self) -> Vec<Json> {
        self.content().rows.values().cloned().map(Json::Object).collect()
    }

    /// The row of a key: one text per key column, as in the record's key.
    #[must_use]
    pub fn get(&self, key: &[&str]) -> Option<Json> {
        let key: Vec<String> = key.iter().map(|&k| k.to_owned()).collect();
        self.content().rows.get(&key).cloned().map(Json::Object)
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.content().rows.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows written so far, each write of one key counted.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.content().written
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all rows or none, as one commit does.
    ///
    /// # Errors
    /// `Refused`: a row exists that must not, or does not exist and must.
    pub fn write(&self, batch: &[SinkRow]) -> Result<(), SinkError> {
        let mut content = self.content();
        let mut changed: BTreeMap<Vec<String>, Option<Row>> = BTreeMap::new();
        for (n, row) in (content.written..).zip(batch) {
            let (mut key, cells) = self.read(row).map_err(refused)?;
            if self.key.is_empty() {
                key.push(format!("{n:012}"));
            }
            let old = changed.get(&key).map_or_else(|| content.rows.get(&key), Option::as_ref);
            let new = self.apply(&key, old, cells).map_err(refused)?;
            changed.insert(key, new);
        }
        for (key, row) in changed {
            match row {
                Some(row) => content.rows.insert(key, row),
                None => content.rows.remove(&key),
            };
        }
        content.written += batch.len() as u64;
        Ok(())
    }

    /// Writes one row; the row as it stands afterwards.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn put(&self, row: &SinkRow) -> Result<Option<Json>, SinkError> {
        self.write(std::slice::from_ref(row))?;
        let (key, _) = self.read(row).map_err(refused)?;
        Ok(self.content().rows.get(&key).cloned().map(Json::Object))
    }

    /// The key of a row, and what is to be written; `None` removes.
    fn read(&self, row: &SinkRow) -> Result<(Vec<String>, Option<Row>), String> {
        let (cells, delete) = match &row.payload {
            Payload::Columns(cells) if cells.len() == self.columns.len() => (cells, false),
            Payload::Delete(cells) if cells.len() == self.columns.len() => (cells, true),
            _ => return Err("was given a row without one cell per column".to_owned()),
        };
        let now = self.clock.now().rfc3339();
        let cells = cells.iter().map(|cell| match cell {
            Cell::Json(json) => json.clone(),
            Cell::CommitTimestamp => Json::String(now.clone()),
        });
        let cells: Vec<Json> = cells.collect();
        let mut key = Vec::with_capacity(self.key.len());
        for &at in self.key.iter() {
            match &cells[at] {
                Json::Null => return Err(format!("column `{}`: null in the key", self.columns[at])),
                Json::String(s) => key.push(s.clone()),
                other => key.push(canonical(other)),
            }
        }
        Ok((key, (!delete).then(|| self.columns.iter().cloned().zip(cells).collect())))
    }

    /// What becomes of a row, given the one that is there.
    fn apply(&self, key: &[String], old: Option<&Row>, new: Option<Row>) -> Result<Option<Row>, String> {
        let Some(new) = new else { return Ok(None) };
        let Some(old) = old else {
            return match self.operation {
                Operation::Update => Err(format!("row {key:?} does not exist")),
                _ => Ok(Some(new)),
            };
        };
        let same = || new.iter().all(|(name, value)| old.get(name) == Some(value));
        match self.operation {
            Operation::Insert => Err(format!("row {key:?} already exists")),
            Operation::InsertOnce if !same() => Err(format!("another row {key:?} already exists")),
            Operation::InsertOnce | Operation::Keep => Ok(Some(old.clone())),
            Operation::Replace => Ok(Some(new)),
            Operation::Upsert | Operation::Update => {
                if let Some(name) = self.newer.map(|at| &self.columns[at])
                    && !is_newer(&new[name], &old[name])
                {
                    return Ok(Some(old.clone()));
                }
                let mut row = old.clone();
                let before = self.merged.and_then(|at| old.get(&self.columns[at])).cloned();
                row.extend(new);
                if let Some((at, before)) = self.merged.zip(before) {
                    let now = row.entry(&self.columns[at]).or_insert(Json::Null);
                    *now = merged(before, now.take());
                }
                Ok(Some(row))
            }
        }
    }
}

/// The fields of both objects, the later ones in place of the earlier; those that are null now are gone.
fn merged(before: Json, now: Json) -> Json {
    match (before, now) {
        (Json::Object(mut all), Json::Object(now)) => {
            all.extend(now);
            all.retain(|_, value| !value.is_null());
            Json::Object(all)
        }
        (_, now) => now,
    }
}

/// Is a version greater than another? Numbers and times by what they are, other text by its letters.
fn is_newer(new: &Json, old: &Json) -> bool {
    let time = |json: &Json| OffsetDateTime::parse(json.as_str()?, &Rfc3339).ok();
    match (new, old) {
        (Json::Null, old) => old.is_null(),
        (_, Json::Null) => true,
        (Json::Number(new), Json::Number(old)) => match (new.as_i64(), old.as_i64()) {
            (Some(new), Some(old)) => new > old,
            _ => new.as_f64() > old.as_f64(),
        },
        (new, old) => match (time(new), time(old)) {
            (Some(new), Some(old)) => new > old,
            _ => new.as_str() > old.as_str(),
        },
    }
}

fn refused(what: String) -> SinkError {
    SinkError::Refused { message: format!("local table: {what}") }
}

impl Connected for TableSink {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(self.clone())
    }
}

impl Sink for TableSink {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        for (at, row) in batch.iter().enumerate() {
            match self.put(row) {
                Ok(Some(as_it_is)) => out.wrote(at, as_it_is),
                Ok(None) => out.written(at),
                Err(SinkError::Refused { message }) => out.refused(at, message),
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Expr, ManualClock, Record, Timestamp, Value};
    use crate::sinks::Deletes;
    use crate::sinks::columns::Columns;
    use serde_json::json;

    fn row(id: Json, state: Json) -> SinkRow {
        let cells = vec![Cell::Json(state), Cell::Json(id), Cell::CommitTimestamp];
        SinkRow {
            reply_to: None,
            record: Record::new("k", Value::Null, Timestamp(0)),
            payload: Payload::Columns(cells),
        }
    }

    #[test]
    fn a_local_table_behaves_like_the_real_one() {
        let clock = Arc::new(ManualClock::default());
        let columns = [("State", "."), ("Id", "key"), ("At", "commit_timestamp()")];
        let columns = Columns::new(columns.map(|(name, text)| (name, Expr::new(text, None))));
        let upsert = Table::new(&columns, Operation::Upsert);
        let table = TableSink::standing_for(upsert, clock.clone());
        table
            .write(&[row(json!("a"), json!(1)), row(json!("b"), json!(2)), row(json!("a"), json!(3))])
            .unwrap();
        assert_eq!((table.len(), table.written()), (2, 3));
        assert_eq!(table.get(&["a"]), Some(json!({"State": 3, "Id": "a", "At": "1970-01-01T00:00:00Z"})));

        assert!(table.write(&[row(json!("c"), json!(1)), row(Json::Null, json!(1))]).is_err());
        assert_eq!(table.len(), 2, "one bad row: nothing of its commit is there");

        let insert = Table::new(&columns, Operation::Insert);
        let insert = TableSink::standing_for(insert, clock);
        insert.write(&[row(json!("a"), json!(1))]).unwrap();
        let again = insert.write(&[row(json!("a"), json!(1))]);
        assert!(matches!(again, Err(SinkError::Refused { .. })));
    }

    /// Writes rows `key=version:state` (`key!version` deletes) one after the other; the table after each.
    fn check(operation: Operation, newer_wins: Option<&str>, rows: &str, expected: &str) {
        let columns = ["Id", "Version", "State"].map(|name| (name, Expr::new("key", None)));
        let columns = Columns::new(columns);
        let (key, deletes) = (["Id".to_owned()], Deletes::Tombstones);
        let table = Table { key: Some(&key), newer_wins, deletes, ..Table::new(&columns, operation) };
        let table = TableSink::standing_for(table, Arc::new(ManualClock::default()));
        let mut seen = Vec::new();
        for row in rows.split(' ') {
            let (key, rest) = row.split_once(['=', '!']).expect("a key");
            let (version, state) = rest.rsplit_once(':').unwrap_or((rest, ""));
            let version: Json = serde_json::from_str(version).expect("a version");
            let cells = [json!(key), version, json!(state)].map(Cell::Json).to_vec();
            let payload = if row.contains('!') { Payload::Delete(cells) } else { Payload::Columns(cells) };
            let record = Record::new("k", Value::Null, Timestamp(0));
            let stands = match table.put(&SinkRow { reply_to: None, record, payload }) {
                Ok(row) => {
                    row.map_or_else(|| "none".into(), |row| row["State"].as_str().unwrap_or("?").to_owned())
                }
                Err(_) => "refused".to_owned(),
            };
            seen.push(stands);
        }
        assert_eq!(seen.join(" "), expected, "{operation:?} {rows}");
    }

    #[test]
    fn a_row_that_is_there_is_dealt_with_as_the_sink_says() {
        check(Operation::Upsert, None, "a=1:x a=1:y a!1 a=0:z", "x y none z");
        check(Operation::Keep, None, "a=1:x a=2:y b=1:y a!1 a=2:y", "x x y none y");
        check(Operation::InsertOnce, None, "a=1:x a=1:x a=1:y", "x x refused");
        check(Operation::Upsert, Some("Version"), "a=2:x a=1:y a=2:y a=10:z a=null:w", "x x x z z");
        let times = r#"a="2025-01-01T01:00:00+01:00":x a="2025-01-01T00:00:01Z":y"#;
        check(Operation::Upsert, Some("Version"), times, "x y");
    }
}
