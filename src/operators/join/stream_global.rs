//! A stream and a global table: each record of the stream is joined with the row that `on` names. Changes of rows send
//! nothing.
//!
//! The row is the one in the table when the record is processed. The result has the record's key, timestamp and
//! headers. A record without a value is dropped; one whose `on` gives null is dropped or, in a left join, passed on
//! alone.

use super::RIGHT_ONLY;
use super::config::{JoinConfig, JoinType};
use super::plan::JoinPlan;
use super::result::{Around, Maker};
use crate::model::{Expr, Reason, Record, Scope, Value, key_text};
use crate::operators::table::TableView;
use crate::operators::{Cx, Operator, OperatorError};

/// The join of a stream with a global table.
pub(super) struct StreamGlobal {
    left: bool,
    on: Option<Expr>,
    table: TableView,
    maker: Maker,
}

impl StreamGlobal {
    pub(super) fn new(config: &JoinConfig, plan: &JoinPlan) -> StreamGlobal {
        StreamGlobal {
            left: config.kind != JoinType::Inner,
            on: config.on.clone(),
            table: plan.right.expect("planned with a table"),
            maker: Maker::new(config),
        }
    }
}

impl Operator for StreamGlobal {
    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        if record.value.is_null() {
            cx.drop(Reason::NullValue);
            return Ok(());
        }
        let key = match &self.on {
            None => record.key.clone(),
            Some(on) => match on.eval(&Scope::of(&record)) {
                Ok(key) => key_text(&key),
                Err(e) => return Err(OperatorError::expression(record, &e)),
            },
        };
        let row = match key {
            Some(key) => self.table.latest(cx.store(RIGHT_ONLY), &key)?,
            None if self.left => None,
            None => {
                cx.drop(Reason::NullKey);
                return Ok(());
            }
        };
        if row.is_none() && !self.left {
            return Ok(());
        }
        let right = row.map_or(Value::Null, |row| row.value);
        match self.maker.make(&Around::of(&record), &record.value, &right) {
            Ok(value) => record.value = value,
            Err(e) => return Err(OperatorError::expression(record, &e)),
        }
        cx.forward(record);
        Ok(())
    }
}
