//! A source as an operator: it decodes a record that was read, and takes key and time from it.

use std::sync::Arc;

use crate::formats::{Bad, Decoder, Formats};
use crate::model::{
    CHANGE_HEADER, Change, EvalError, Expr, Millis, Reason, Record, Scope, Timestamp, TimestampFormat,
    WINDOW_HEADER, Window, key_text,
};
use crate::operators::table::{Table, TableConfig};
use crate::operators::{Count, Cx, Operator, OperatorError, Query};
use crate::sources::SourceConfig;
use crate::state::StateError;
use crate::topology::{ClockMode, Topology};

/// Records whose timestamp was ahead of the wall clock by more than `max_skew`.
pub(in crate::runtime) static SKEWED: Count = Count {
    name: "records_skewed_total",
    help: "Records stamped further ahead of the wall clock than max_skew.",
    label: None,
};

/// The source: turns values into JSON by their format, or checks that they are, takes key and timestamp from
/// expressions, and keeps a single producer with a wrong clock from moving all clocks. A source that is read as a table
/// keeps the table in its store.
pub(in crate::runtime) struct SourceNode {
    decoder: Decoder,
    timestamp: Option<EventTime>,
    key: Option<Expr>,
    skew: Option<Millis>,
    table: Option<Table>,
    /// It reads a topic of the topology's own: windows and changes travel in headers there.
    internal: bool,
}

impl SourceNode {
    pub(in crate::runtime) fn new(
        topology: &Topology,
        formats: &Arc<Formats>,
        name: &str,
        config: &SourceConfig,
        table: Option<&TableConfig>,
        internal: bool,
    ) -> SourceNode {
        let (shape, formats) = (topology.schemas.get(name).cloned(), Arc::clone(formats));
        let time = &topology.settings.time;
        SourceNode {
            decoder: Decoder::new(config.key_format(), config.format(), formats, name, shape),
            timestamp: EventTime::of(config),
            key: config.key().cloned(),
            skew: (time.clock == ClockMode::Hybrid).then_some(time.max_skew),
            table: table.map(Table::new),
            internal,
        }
    }
}

impl Operator for SourceNode {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        if self.table.is_some() {
            Table::open(cx);
        }
        Ok(())
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        self.table.as_ref().map_or(Ok(()), |table| table.query(query))
    }

    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        // Both are decoded before the record changes, so a refused record keeps its bytes.
        let key = record.key.as_ref().map_or(Ok(None), |key| self.decoder.key(key));
        match (key, self.decoder.value(&record.value)) {
            (Ok(key), Ok(value)) => {
                record.key = key;
                record.value = value.unwrap_or(record.value);
            }
            (Err(bad), _) | (_, Err(bad)) => {
                let reason = match bad {
                    Bad::NotJson(_) => Reason::NotJson,
                    Bad::Format(_) => Reason::BadFormat,
                    Bad::Schema(_) => Reason::Schema,
                };
                return Err(OperatorError::reject(record, reason, bad.to_string()));
            }
        }
        if self.internal && !record.headers.is_empty() {
            record.window = record.headers.get(WINDOW_HEADER).and_then(|bytes| Window::from_bytes(bytes));
            record.headers = record.headers.without(WINDOW_HEADER);
            if let Some(bytes) = record.headers.get(CHANGE_HEADER) {
                let Some(change) = Change::from_bytes(bytes) else {
                    let detail = "a repartition topic's record was written by another version".to_owned();
                    return Err(OperatorError::Fatal(StateError(detail)));
                };
                record.change = Some(Box::new(change));
                record.headers = record.headers.without(CHANGE_HEADER);
            }
        }
        if let Some(expr) = &self.key {
            match expr.eval(&Scope::of(&record)) {
                Ok(key) => record.key = key_text(&key),
                Err(e) => return Err(OperatorError::expression(record, &e)),
            }
        }
        if let Some(time) = &self.timestamp {
            match time.read(&record) {
                Ok(ts) => record.ts = ts,
                Err(e) => return Err(OperatorError::reject(record, Reason::BadTimestamp, e.to_string())),
            }
        }
        if record.ts.0 < 0 {
            let detail = match record.ts {
                Timestamp::NONE => "the record has no timestamp".to_owned(),
                ts => format!("the timestamp {ts} is before 1970"),
            };
            return Err(OperatorError::reject(record, Reason::BadTimestamp, detail));
        }
        let mut stream = record.ts;
        if let Some(skew) = self.skew {
            let latest = cx.now.plus(skew);
            if stream > latest {
                cx.tally.add(&SKEWED, 1);
                stream = latest;
            }
        }
        let record = match &mut self.table {
            Some(table) => table.update(record, cx)?,
            None => Some(record),
        };
        if let Some(record) = record {
            cx.forward_held(record, stream);
        }
        Ok(())
    }
}

/// Where a source takes the times of its records from.
pub(in crate::runtime) struct EventTime {
    expr: Expr,
    format: TimestampFormat,
}

impl EventTime {
    /// What the source says; `None` where its records keep the time they came with.
    pub(in crate::runtime) fn of(config: &SourceConfig) -> Option<EventTime> {
        config.timestamp().map(|(expr, format)| EventTime { expr: expr.clone(), format })
    }

    /// The time that a record has in the task. A tombstone has no field to take a time from: where the expression gives
    /// it none, it keeps its own.
    ///
    /// # Errors
    /// The expression fails, or gives no time.
    pub(in crate::runtime) fn read(&self, record: &Record) -> Result<Timestamp, EvalError> {
        let result = self.expr.eval(&Scope::of(record)).and_then(|json| {
            self.format.read(&json).ok_or_else(|| {
                let (text, noun) = (self.expr.text(), self.format.noun());
                let neither = if self.format == TimestampFormat::Auto { "neither" } else { "no" };
                EvalError::Failed(format!("`{text}` gave {json}, {neither} {noun}"))
            })
        });
        if record.value.is_null() { result.or(Ok(record.ts)) } else { result }
    }
}
