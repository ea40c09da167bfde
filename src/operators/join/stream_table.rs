//! A stream and a table: each record of the stream with the row of its key. Rows alone send nothing.
//!
//! The row is the one that the table has when the record is joined, or, of a versioned table, had at the record's
//! timestamp. The result has the record's key, timestamp and headers. A record without a value is dropped; one without
//! a key is dropped, or, in a left join, passed on alone. A windowed record finds the row of its key and window, else that
//! of its key.

use super::config::{JoinConfig, JoinType};
use super::plan::JoinPlan;
use super::result::{Around, Maker};
use crate::model::{Record, Value};
use crate::operators::table::{TableRow, TableView, row_id};
use crate::operators::{Cx, Operator, OperatorError, Reason};
use crate::state::StateError;

/// The table's store.
const TABLE: usize = 1;

/// See the module.
pub(super) struct StreamTable {
    left: bool,
    table: TableView,
    maker: Maker,
}

impl StreamTable {
    pub(super) fn new(config: &JoinConfig, plan: &JoinPlan) -> StreamTable {
        StreamTable {
            left: config.kind != JoinType::Inner,
            table: plan.right.expect("planned with a table"),
            maker: Maker::new(config),
        }
    }

    fn row(&self, record: &Record, cx: &mut Cx<'_>) -> Result<Option<TableRow>, StateError> {
        let Some(key) = &record.key else { return Ok(None) };
        let store = cx.store(TABLE);
        if record.window.is_some()
            && let Some(row) = self.table.latest(store, &row_id(key, record.window))?
        {
            return Ok(Some(row));
        }
        self.table.latest(store, key)
    }

    fn join(&self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let row = self.row(&record, cx)?;
        if row.is_none() && !self.left {
            return Ok(());
        }
        let right = row.map_or(Value::Null, |row| row.value);
        let around = Around {
            key: record.key.as_ref(),
            ts: record.ts,
            window: record.window,
            headers: &record.headers,
        };
        match self.maker.make(&around, &record.value, &right) {
            Ok(value) => record.value = value,
            Err(e) => return Err(OperatorError::expression(record, &e)),
        }
        cx.forward(record);
        Ok(())
    }
}

impl Operator for StreamTable {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        if record.value.is_null() {
            cx.drop(if record.key.is_none() && !self.left { Reason::NullKey } else { Reason::NullValue });
            return Ok(());
        }
        if record.key.is_none() && !self.left {
            cx.drop(Reason::NullKey);
            return Ok(());
        }
        self.join(record, cx)
    }
}
