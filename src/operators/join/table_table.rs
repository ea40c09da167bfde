//! Two tables by their keys: a table of the joined rows, kept up to date by both sides.
//!
//! A changed row is joined with the present row of the other side. The result has the later timestamp of the two rows,
//! even if it is a tombstone, and is a change itself: it carries the previous result. An inner join sends nothing while
//! the other side has no row, a left join nothing while the left side has none. A versioned table's out-of-order change
//! does not change the row, and is dropped.

use super::config::{JoinConfig, JoinType};
use super::plan::JoinPlan;
use super::result::{Around, Maker};
use super::{LEFT, RIGHT, Side};
use crate::model::{Change, EvalError, Reason, Record, Value};
use crate::operators::table::{TableView, row_id};
use crate::operators::{Cx, Operator, OperatorError};

/// The join of two tables by key.
pub(super) struct TableTable {
    kind: JoinType,
    left: TableView,
    right: TableView,
    sends_changes: bool,
    maker: Maker,
}

impl TableTable {
    pub(super) fn new(config: &JoinConfig, plan: &JoinPlan) -> TableTable {
        let (left, right) = plan.left.zip(plan.right).expect("planned with two tables");
        TableTable {
            kind: config.kind,
            left,
            right,
            sends_changes: plan.sends_changes,
            maker: Maker::new(config),
        }
    }

    /// Whether a result needs a row of this side.
    fn needs(&self, side: Side) -> bool {
        match side {
            Side::Left => self.kind != JoinType::Outer,
            Side::Right => self.kind == JoinType::Inner,
        }
    }

    /// The result that a value of one side and the other side's make; null where there is none.
    fn result(
        &self,
        around: &Around<'_>,
        side: Side,
        own: &Value,
        other: &Value,
    ) -> Result<Value, EvalError> {
        let (left, right) = match side {
            Side::Left => (own, other),
            Side::Right => (other, own),
        };
        let lacks = |side: Side, value: &Value| value.is_null() && self.needs(side);
        if lacks(Side::Left, left) || lacks(Side::Right, right) || left.is_null() && right.is_null() {
            return Ok(Value::Null);
        }
        self.maker.make(around, left, right)
    }
}

impl Operator for TableTable {
    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let side = Side::of(cx.input);
        let Some(key) = &record.key else {
            cx.drop(Reason::NullKey);
            return Ok(());
        };
        let Change { old, latest } = record.change.take().map_or_else(Change::first, |change| *change);
        if !latest {
            cx.drop(Reason::Late);
            return Ok(());
        }
        let (view, store) = match side {
            Side::Left => (self.right, RIGHT),
            Side::Right => (self.left, LEFT),
        };
        let other = view.latest(cx.store(store), &row_id(key, record.window))?;
        let ts = match &other {
            Some(row) => record.ts.max(row.ts),
            None if self.needs(side.other()) || record.value.is_null() && old.is_null() => return Ok(()),
            None => record.ts,
        };
        let other = other.map_or(Value::Null, |row| row.value);
        let around = Around { ts, ..Around::of(&record) };
        let value = match self.result(&around, side, &record.value, &other) {
            Ok(value) => value,
            Err(e) => return Err(OperatorError::expression(record, &e)),
        };
        if self.sends_changes {
            // A result that could not be made was never sent.
            let old = self.result(&around, side, &old, &other).unwrap_or_default();
            record.change = Some(Box::new(Change { old, latest: true }));
        }
        cx.forward(Record { value, ts, ..record });
        Ok(())
    }
}
