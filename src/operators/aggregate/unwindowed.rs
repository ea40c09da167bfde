//! An aggregate without windows: one row per key, for ever.

use std::ops::ControlFlow;

use super::Grouping;
use super::rows::{Fail, Incoming, Rows};
use crate::model::{Reason, Record};
use crate::operators::Cx;
use crate::state::StateError;

/// An aggregate without windows.
pub(super) struct Plain {
    pub(super) rows: Rows,
}

impl Plain {
    pub(super) fn new() -> Plain {
        Plain { rows: Rows::new() }
    }
}

impl Grouping for Plain {
    fn rows(&self) -> &Rows {
        &self.rows
    }

    fn rows_mut(&mut self) -> &mut Rows {
        &mut self.rows
    }

    fn row_keys(&self, key: &[u8]) -> Vec<Vec<u8>> {
        vec![key.to_vec()]
    }

    fn warm(&self, records: &[Record]) {
        self.rows.cells.warm(records.iter().filter_map(|r| r.key.as_deref()));
    }

    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let mut stored = false;
        cx.store(0).scan(b"", None, &mut |_, _| {
            stored = true;
            ControlFlow::Break(())
        })?;
        self.rows.stored = stored;
        Ok(())
    }

    fn on_record(&mut self, incoming: Incoming<'_>, cx: &mut Cx<'_>) -> Result<(), Fail> {
        if incoming.record.value.is_null() {
            cx.drop(Reason::NullValue);
            return Ok(());
        }
        let store = cx.store(0);
        let id = self.rows.find(store, incoming.key)?;
        let acc = id.map(|id| &self.rows.cells.value(id).acc);
        let step = incoming.plan.step(acc, incoming.record, incoming.inputs)?;
        let taken = self.rows.take_in(store, id, incoming.key, incoming, step);
        for _ in 0..taken.left_out {
            cx.drop(Reason::Full);
        }
        cx.forward(incoming.result(taken.value, taken.ts, None));
        Ok(())
    }
}
