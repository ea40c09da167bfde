//! `aggregate`: one result per key, or per key and window, from all its records.
//!
//! The rules are Kafka Streams', to the millisecond, with T the node's clock (the record at hand included): which records
//! are late, which windows are closed, which timestamp and which window a result carries, in which order results leave.
//! Two of its faults are not copied: a window whose end is jumped over still gives its final result, and a session is
//! found as long as it takes records. A record without a key is dropped and counted; one without a value is dropped
//! where Kafka Streams drops it (no window, sliding windows) and counted by `count`, `reduce` and `fold` elsewhere. What is
//! dropped for its missing key or value moves no clock.
//!
//! Over a table rows are added and taken back (`over_table`).
//!
//! `config` and `fields` are the settings, `plan` what is computed, `part` what is remembered, `rows` where; `plain`,
//! `time`, `session` and `sliding` are the four ways of grouping in time.
//!
//! Invariants: a record that is refused changes nothing; results depend on the input alone, never on what is in memory
//! or on restarts. With `emit: final` a watermark is held back to the first open window, so that its result is not
//! late below.
//!
//! The store's rows are written when the epoch ends: who reads a node's results reads the records it sends.

mod accumulator;
mod config;
mod fields;
mod functions;
mod over_table;
mod rows;
mod session;
mod sketch;
mod sliding;
#[cfg(test)]
pub(super) mod tests;
mod time_windows;
mod unwindowed;

use bytes::Bytes;

pub use config::{AggregateConfig, CollectConfig, CountConfig, EmitConfig, FoldConfig, TopConfig};
pub use fields::{FieldConfig, FieldFunction, FieldsConfig};
use functions::Plan;
use over_table::OverTable;
use rows::{Fail, Incoming, Rows};
use session::Sessions;
use sliding::Sliding;
use time_windows::TimeWindows;
use unwindowed::Plain;

use super::shared::window::WindowKind;
use super::{Cx, Load, Operator, OperatorError, Stores};
use crate::model::{Json, Reason, Record, Timestamp};
use crate::state::StateError;

/// Results sent by one call of `on_time`: bounds what is between the nodes.
const FINALS_MAX: usize = 1024;

enum Grouping {
    Plain(Plain),
    Table(OverTable),
    Time(TimeWindows),
    Session(Sessions),
    Sliding(Sliding),
}

/// The operator. One store: the rows.
pub struct Aggregate {
    plan: Plan,
    is_final: bool,
    grouping: Grouping,
    /// Kept for its memory.
    inputs: Vec<Json>,
}

impl Aggregate {
    /// The operator without state. The settings have been checked.
    #[must_use]
    pub fn new(config: &AggregateConfig) -> Aggregate {
        let is_final = config.emit == EmitConfig::Final;
        let grace = config.window.map_or(0, |w| w.grace().0);
        let kind = config.window.and_then(|w| w.kind());
        let grouping = match kind {
            _ if config.over_table => Grouping::Table(OverTable::new()),
            None => Grouping::Plain(Plain::new()),
            Some(WindowKind::Time { size, advance }) => {
                Grouping::Time(TimeWindows::new(size, advance, grace, is_final))
            }
            Some(WindowKind::Session { gap }) => Grouping::Session(Sessions::new(gap, grace, is_final)),
            Some(WindowKind::Sliding { difference }) => {
                Grouping::Sliding(Sliding::new(difference, grace, is_final))
            }
        };
        let overlapping = match kind {
            Some(WindowKind::Time { size, advance }) => advance < size,
            Some(WindowKind::Sliding { .. } | WindowKind::Session { .. }) => true,
            None => false,
        };
        let plan = Plan::new(config, overlapping);
        Aggregate { plan, is_final, grouping, inputs: Vec::new() }
    }

    fn rows(&self) -> &Rows {
        match &self.grouping {
            Grouping::Plain(g) | Grouping::Table(OverTable { plain: g }) => &g.rows,
            Grouping::Time(g) => &g.rows,
            Grouping::Session(g) => &g.rows,
            Grouping::Sliding(g) => &g.rows,
        }
    }

    fn rows_mut(&mut self) -> &mut Rows {
        match &mut self.grouping {
            Grouping::Plain(g) | Grouping::Table(OverTable { plain: g }) => &mut g.rows,
            Grouping::Time(g) => &mut g.rows,
            Grouping::Session(g) => &mut g.rows,
            Grouping::Sliding(g) => &mut g.rows,
        }
    }

    fn take(&mut self, key: &Bytes, record: &Record, cx: &mut Cx<'_>) -> Result<(), Fail> {
        self.plan.inputs(record, &mut self.inputs)?;
        let incoming = Incoming { plan: &self.plan, key, record, inputs: &self.inputs };
        match &mut self.grouping {
            Grouping::Plain(g) | Grouping::Table(OverTable { plain: g }) => g.on_record(incoming, cx),
            Grouping::Time(g) => g.on_record(incoming, cx),
            Grouping::Session(g) => g.on_record(incoming, cx),
            Grouping::Sliding(g) => g.on_record(incoming, cx),
        }
    }
}

impl Operator for Aggregate {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        match &mut self.grouping {
            Grouping::Plain(g) | Grouping::Table(OverTable { plain: g }) => g.open(cx),
            Grouping::Time(g) => g.open(cx),
            Grouping::Session(g) => g.open(cx),
            Grouping::Sliding(g) => g.open(cx),
        }
    }

    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        if let Grouping::Table(table) = &mut self.grouping {
            return table.on_record(&self.plan, record, cx);
        }
        self.plan.parse(&mut record);
        let key = match self.plan.key(&record) {
            Ok(Some(key)) => key,
            Ok(None) => {
                cx.drop(Reason::NullKey);
                return Ok(());
            }
            Err(e) => return Err(OperatorError::expression(record, &e)),
        };
        match self.take(&key, &record, cx) {
            Ok(()) => Ok(()),
            Err(Fail::State(error)) => Err(OperatorError::Fatal(error)),
            Err(Fail::Unfit(unfit)) => Err(unfit.reject(record)),
        }
    }

    fn warm(&self, records: &[Record], _: &Stores<'_>) {
        if !self.plan.groups_by_key() {
            return;
        }
        match &self.grouping {
            Grouping::Plain(g) | Grouping::Table(OverTable { plain: g }) => {
                g.rows.cells.warm(records.iter().filter_map(|r| r.key.as_deref()));
            }
            Grouping::Time(g) => g.warm(records),
            Grouping::Session(g) => g.warm(records),
            Grouping::Sliding(_) => {}
        }
    }

    fn moves_time(&self, record: &Record) -> bool {
        let needs_value = matches!(self.grouping, Grouping::Sliding(_));
        record.key.is_some() && !(needs_value && record.value.is_null())
    }

    fn refuses_late(&self) -> bool {
        !matches!(self.grouping, Grouping::Plain(_) | Grouping::Table(_))
    }

    fn deadline(&self) -> Option<Timestamp> {
        match &self.grouping {
            Grouping::Plain(_) | Grouping::Table(_) => None,
            Grouping::Time(g) => g.deadline(),
            Grouping::Session(g) => g.deadline(),
            Grouping::Sliding(g) => g.deadline(),
        }
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        match &mut self.grouping {
            Grouping::Plain(_) | Grouping::Table(_) => {}
            Grouping::Time(g) => g.on_time(&self.plan, cx)?,
            Grouping::Session(g) => g.on_time(&self.plan, cx)?,
            Grouping::Sliding(g) => g.on_time(&self.plan, cx)?,
        }
        Ok(())
    }

    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        let held = match &self.grouping {
            _ if !self.is_final => None,
            Grouping::Plain(_) | Grouping::Table(_) => None,
            Grouping::Time(g) => g.held(),
            Grouping::Session(g) => g.held(),
            Grouping::Sliding(g) => g.held(),
        };
        cx.watermark(held.map_or(cx.clock, |at| cx.clock.min(Timestamp(at))));
    }

    fn seal(&mut self, _: &mut Cx<'_>) {
        match &mut self.grouping {
            Grouping::Plain(g) | Grouping::Table(OverTable { plain: g }) => g.rows.seal(),
            Grouping::Time(g) => g.seal(),
            Grouping::Session(g) => g.seal(),
            Grouping::Sliding(g) => g.seal(),
        }
    }

    fn seal_more(&mut self, cx: &mut Cx<'_>, rows_max: usize) -> Result<bool, StateError> {
        let may_evict = match &self.grouping {
            Grouping::Time(g) => g.may_evict(),
            Grouping::Plain(_) | Grouping::Table(_) | Grouping::Session(_) | Grouping::Sliding(_) => true,
        };
        let cells = &mut self.rows_mut().cells;
        Ok(cells.flush_frozen(cx.store(0), rows_max)?
            && (!may_evict || cells.evict(rows_max.saturating_mul(4))))
    }

    fn load(&self) -> Load {
        let (rows, open) = (
            self.rows(),
            match &self.grouping {
                Grouping::Plain(_) | Grouping::Table(_) | Grouping::Time(_) => 0,
                Grouping::Session(g) => g.len(),
                Grouping::Sliding(g) => g.len(),
            },
        );
        let keys = rows.cells.len().max(open);
        Load { keys, bytes: rows.cells.bytes() + open * INDEX_BYTES, ..Load::default() }
    }
}

/// Memory of one session or sliding window in the indexes, about.
const INDEX_BYTES: usize = 120;
