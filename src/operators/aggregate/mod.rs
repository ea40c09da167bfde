//! `aggregate`: one result per key, or per key and window, from all its records.
//!
//! The rules are Kafka Streams', to the millisecond: which records are late, which windows are closed, which timestamp
//! and window a result carries, in which order results are sent. T is the node's clock, the current record included.
//! Two faults of Kafka Streams are not copied: a window whose end is jumped over still gives its final result, and a
//! session is found as long as it takes records. A record without a key is dropped and counted. One without a value is
//! dropped where Kafka Streams drops it (no window, sliding windows), and counted by `count`, `reduce` and `fold`
//! elsewhere. A record dropped for its missing key or value moves no clock.
//!
//! Over a table, rows are added and taken back (`over_table`).
//!
//! `config` and `fields` are the settings, `functions` what is computed, `accumulator` what is remembered between
//! records, `rows` where it is kept. `unwindowed`, `time_windows`, `session`, `sliding` and `over_table` are the ways
//! of grouping.
//!
//! Invariants: a record that is refused changes nothing; results depend on the input alone, never on what is in memory
//! or on restarts. With `emit: final` a watermark is held back to the first open window, so that its result is not late
//! below.
//!
//! The store's rows are written only when the epoch ends. Nodes below read the results as records, never from the
//! store.

mod accumulator;
mod config;
mod describe;
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
use super::{Cx, Load, Operator, OperatorError, Query, Stores};
use crate::model::{Json, Reason, Record, Timestamp};
use crate::state::StateError;

/// Most results sent by one call of `on_time`, which bounds how many records are between nodes at once.
const FINALS_MAX: usize = 1024;

/// How an aggregate groups in time: which rows there are and when they leave.
trait Grouping: Send {
    fn rows(&self) -> &Rows;

    fn rows_mut(&mut self) -> &mut Rows;

    /// Reads back what it keeps in memory besides the rows.
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError>;

    /// Adds a record to its rows.
    fn on_record(&mut self, incoming: Incoming<'_>, cx: &mut Cx<'_>) -> Result<(), Fail>;

    /// The keys in the store of the rows that a record's key has, or may have.
    fn row_keys(&self, key: &[u8]) -> Vec<Vec<u8>>;

    /// Takes a record as it came into the node; `inputs` is a buffer, kept to save allocations.
    fn take(
        &mut self,
        plan: &Plan,
        mut record: Record,
        inputs: &mut Vec<Json>,
        cx: &mut Cx<'_>,
    ) -> Result<(), OperatorError> {
        plan.parse(&mut record);
        let key = match plan.key(&record) {
            Ok(Some(key)) => key,
            Ok(None) => {
                cx.drop(Reason::NullKey);
                return Ok(());
            }
            Err(e) => return Err(OperatorError::expression(record, &e)),
        };
        let taken = plan.inputs(&record, inputs).map_err(Fail::Unfit).and_then(|()| {
            let incoming = Incoming { plan, key: &key, record: &record, inputs };
            self.on_record(incoming, cx)
        });
        match taken {
            Ok(()) => Ok(()),
            Err(Fail::State(error)) => Err(OperatorError::Fatal(error)),
            Err(Fail::Unfit(unfit)) => Err(unfit.reject(record)),
        }
    }

    /// Reads what rows of these records' own keys will need.
    fn warm(&self, records: &[Record]) {
        let _ = records;
    }

    /// When the first window is closed.
    fn deadline(&self) -> Option<Timestamp> {
        None
    }

    /// Closes windows whose time has come, some at a time.
    fn on_time(&mut self, plan: &Plan, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let _ = (plan, cx);
        Ok(())
    }

    /// The earliest timestamp that a final result to come may have.
    fn held(&self) -> Option<i64> {
        None
    }

    /// May rows leave memory now?
    fn may_evict(&self) -> bool {
        true
    }

    /// How many windows there are in memory beside the rows.
    fn indexed(&self) -> usize {
        0
    }
}

/// The operator. Its one store has the rows.
struct Aggregate<G> {
    plan: Plan,
    is_final: bool,
    grouping: G,
    /// A buffer, kept to save allocations.
    inputs: Vec<Json>,
}

/// The operator without state. The settings have been checked. `over_table`: what it reads are tables.
#[must_use]
pub fn build(config: &AggregateConfig, over_table: bool) -> Box<dyn Operator> {
    let is_final = config.emit == EmitConfig::Final;
    let grace = config.window.map_or(0, |w| w.grace().0);
    let kind = config.window.and_then(|w| w.kind()).filter(|_| !over_table);
    match kind {
        None if over_table => node(config, OverTable::new()),
        None => node(config, Plain::new()),
        Some(WindowKind::Time { size, advance }) => {
            node(config, TimeWindows::new(size, advance, grace, is_final))
        }
        Some(WindowKind::Session { gap }) => node(config, Sessions::new(gap, grace, is_final)),
        Some(WindowKind::Sliding { difference }) => node(config, Sliding::new(difference, grace, is_final)),
    }
}

fn node(config: &AggregateConfig, grouping: impl Grouping + 'static) -> Box<dyn Operator> {
    let kind = config.window.and_then(|w| w.kind());
    let overlapping = match kind {
        Some(WindowKind::Time { size, advance }) => advance < size,
        Some(WindowKind::Sliding { .. } | WindowKind::Session { .. }) => true,
        None => false,
    };
    Box::new(Aggregate {
        plan: Plan::new(config, overlapping),
        is_final: config.emit == EmitConfig::Final,
        grouping,
        inputs: Vec::new(),
    })
}

impl<G: Grouping> Operator for Aggregate<G> {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        self.grouping.open(cx)
    }

    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        self.grouping.take(&self.plan, record, &mut self.inputs, cx)
    }

    fn warm(&self, records: &[Record], _: &Stores<'_>) {
        if self.plan.groups_by_key() {
            self.grouping.warm(records);
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.grouping.deadline()
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        Ok(self.grouping.on_time(&self.plan, cx)?)
    }

    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        let held = if self.is_final { self.grouping.held() } else { None };
        cx.watermark(held.map_or(cx.clock, |at| cx.clock.min(Timestamp(at))));
    }

    fn seal(&mut self, _: &mut Cx<'_>) {
        self.grouping.rows_mut().cells.freeze();
    }

    fn seal_more(&mut self, cx: &mut Cx<'_>, rows_max: usize) -> Result<bool, StateError> {
        let may_evict = self.grouping.may_evict();
        let cells = &mut self.grouping.rows_mut().cells;
        Ok(cells.flush_frozen(cx.store(0), rows_max)?
            && (!may_evict || cells.evict(rows_max.saturating_mul(4))))
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        for key in self.grouping.row_keys(query.key()) {
            if let Some(row) = self.grouping.rows().cells.peek(query.store(), &key)? {
                query.push(&key, row);
            }
        }
        Ok(())
    }

    fn load(&self) -> Load {
        let (cells, indexed) = (&self.grouping.rows().cells, self.grouping.indexed());
        let bytes = cells.bytes() + indexed * INDEX_BYTES;
        Load { keys: cells.len().max(indexed), bytes, ..Load::default() }
    }
}

/// Approximate memory of one session or sliding window in the indexes.
const INDEX_BYTES: usize = 120;
