//! A table in memory, in place of a database, for `dev` and `test`.
//!
//! Rows are JSON objects by their key columns, shared by every clone. There is no schema: values are kept as they came
//! and no type is checked. The tests on the real emulator do that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Map;

use super::{Answers, Connected, Lane, Operation, Sink, SinkError, Table};
use crate::model::{Cell, Clock, Json, Payload, SinkRow};

/// A local table. Cheap to clone.
#[derive(Clone)]
pub struct TableSink {
    columns: Arc<[String]>,
    /// Positions of the key's columns.
    key: Arc<[usize]>,
    operation: Operation,
    clock: Arc<dyn Clock>,
    /// Shared by the lanes, which write, and by the readers of the table (the live view, `expect`).
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    rows: BTreeMap<Vec<String>, Map<String, Json>>,
    written: u64,
}

impl TableSink {
    /// An empty table; `clock` gives the commit timestamps. Names in `key` that are no columns are left out.
    #[must_use]
    pub fn new(columns: &[String], key: &[String], operation: Operation, clock: Arc<dyn Clock>) -> TableSink {
        let key = key.iter().filter_map(|name| columns.iter().position(|c| c == name)).collect();
        TableSink { columns: columns.into(), key, operation, clock, content: Arc::default() }
    }

    /// Stands for the table of a sink. Since there is no database to ask, its key is the columns that are `key`, or
    /// else the first column.
    #[must_use]
    pub fn standing_for(table: Table<'_>, clock: Arc<dyn Clock>) -> TableSink {
        let columns: Vec<String> = table.names().cloned().collect();
        TableSink::new(&columns, &table.likely_key(), table.operation, clock)
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
        let now = self.clock.now().rfc3339();
        let mut content = self.content();
        let mut changed: BTreeMap<Vec<String>, Map<String, Json>> = BTreeMap::new();
        for row in batch {
            let cells = match &row.payload {
                Payload::Columns(cells) if cells.len() == self.columns.len() => cells,
                _ => return Err(refused("was given a row without one cell per column".to_owned())),
            };
            let cells: Vec<Json> = cells
                .iter()
                .map(|cell| match cell {
                    Cell::Json(json) => json.clone(),
                    Cell::CommitTimestamp => Json::String(now.clone()),
                })
                .collect();
            let mut key = Vec::with_capacity(self.key.len());
            for &at in self.key.iter() {
                match &cells[at] {
                    Json::Null => {
                        return Err(refused(format!("column `{}`: null in the key", self.columns[at])));
                    }
                    Json::String(s) => key.push(s.clone()),
                    other => key.push(other.to_string()),
                }
            }
            let old = changed.get(&key).or_else(|| content.rows.get(&key));
            let mut new = match (self.operation, old) {
                (Operation::Insert, Some(_)) => return Err(refused(format!("row {key:?} already exists"))),
                (Operation::Update, None) => return Err(refused(format!("row {key:?} does not exist"))),
                (Operation::Upsert | Operation::Update, Some(old)) => old.clone(),
                _ => Map::new(),
            };
            new.extend(self.columns.iter().cloned().zip(cells));
            changed.insert(key, new);
        }
        content.rows.extend(changed);
        content.written += batch.len() as u64;
        Ok(())
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
    async fn deliver(&mut self, batch: &[SinkRow], _: &mut Answers) -> Result<(), SinkError> {
        self.write(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Expr, ManualClock, Record, Timestamp, Value};
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
        let upsert = Table { columns: &columns, operation: Operation::Upsert };
        let table = TableSink::standing_for(upsert, clock.clone());
        table
            .write(&[row(json!("a"), json!(1)), row(json!("b"), json!(2)), row(json!("a"), json!(3))])
            .unwrap();
        assert_eq!((table.len(), table.written()), (2, 3));
        assert_eq!(table.get(&["a"]), Some(json!({"State": 3, "Id": "a", "At": "1970-01-01T00:00:00Z"})));

        assert!(table.write(&[row(json!("c"), json!(1)), row(Json::Null, json!(1))]).is_err());
        assert_eq!(table.len(), 2, "one bad row: nothing of its commit is there");

        let insert = Table { columns: &columns, operation: Operation::Insert };
        let insert = TableSink::standing_for(insert, clock);
        insert.write(&[row(json!("a"), json!(1))]).unwrap();
        let again = insert.write(&[row(json!("a"), json!(1))]);
        assert!(matches!(again, Err(SinkError::Refused { .. })));
    }
}
