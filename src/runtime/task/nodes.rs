//! The two ends of a task's graph as operators: the source, which decodes records, and the sink, which makes rows.

use std::sync::Arc;

use bytes::Bytes;

use crate::formats::{Bad, Decoder, Encoder};
use crate::model::secret::masked;
use crate::model::{
    CHANGE_HEADER, Change, EvalError, Expr, Json, Millis, Reason, Record, Reply, Scope, SinkRow, Timestamp,
    TimestampFormat, WINDOW_HEADER, Window, key_text,
};
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;
use crate::operators::shared::pending::{Arrival, Pending, RowFormat};
use crate::operators::table::{Table, TableConfig};
use crate::operators::{Count, Cx, Load, Operator, OperatorError, Query, Reject};
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;
use crate::state::{StateError, decode_record, encode_record};
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
        name: &str,
        config: &SourceConfig,
        table: Option<&TableConfig>,
        internal: bool,
    ) -> SourceNode {
        let (shape, formats) = (topology.schemas.get(name).cloned(), Arc::clone(&topology.formats));
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

/// The sink: makes rows. If no node reads it, a record is done when the deliveries of its epoch are. If one does, the
/// record is kept in the store as a pending delivery until its row is durable, and is then sent on.
pub(in crate::runtime) struct SinkNode {
    config: SinkConfig,
    encoder: Option<Encoder>,
    read_from: bool,
    pending: Pending<()>,
}

/// Most pending deliveries of a sink that is read from; at this number the task takes no more input.
const DELIVERIES_PENDING_MAX: usize = 10_000;

/// The row of a pending delivery is the record alone.
const DELIVERY: RowFormat = RowFormat {
    encode: |arrival| encode_record(&arrival.record),
    decode: |row, clock| Ok(Arrival::restored(decode_record(row)?, clock)),
};

impl SinkNode {
    pub(in crate::runtime) fn new(
        topology: &Topology,
        name: &str,
        config: &SinkConfig,
        read_from: bool,
    ) -> SinkNode {
        let encoder =
            config.kafka().and_then(|k| Encoder::new(k.key_format, k.format, &topology.formats, name));
        let config = config.clone();
        SinkNode { config, encoder, read_from, pending: Pending::new(DELIVERY, DELIVERIES_PENDING_MAX) }
    }

    fn row(&self, record: Record, reply_to: Option<u64>) -> Result<SinkRow, OperatorError> {
        let payload = match (self.config.payload(&record), self.config.kafka(), &self.encoder) {
            (Ok(payload), Some(kafka), Some(encoder)) => match kafka.encoded(&record, payload, encoder) {
                Ok(payload) => Ok(payload),
                Err(e) => return Err(OperatorError::reject(record, Reason::BadFormat, e.to_string())),
            },
            (payload, _, _) => payload,
        };
        match payload {
            Ok(payload) => Ok(SinkRow { reply_to, record, payload }),
            Err(e) => Err(OperatorError::expression(record, &e)),
        }
    }
}

impl SinkNode {
    /// Refuses a record that could not take the row, before anything is written of it.
    fn check_room(&self, record: &Record) -> Result<(), OperatorError> {
        let Some(path) = self.config.returning().filter(|path| !path.steps().is_empty()) else {
            return Ok(());
        };
        let refused = |detail: String| Err(OperatorError::reject(record.clone(), Reason::NotJson, detail));
        match record.value.json() {
            _ if record.value.is_null() => Ok(()),
            Ok(json) if path.fits(&json) => Ok(()),
            Ok(_) => refused(format!("`{}` cannot be set: the value there is no JSON object", path.text())),
            Err(e) => refused(e.to_string()),
        }
    }

    /// The record with its row in it, where the sink is asked for that and there is one.
    fn with_row(&self, record: Record, row: Option<Json>) -> Result<Record, OperatorError> {
        let (Some(path), Some(row)) = (self.config.returning(), row) else { return Ok(record) };
        match path.set(&record.value, row) {
            Ok(value) => Ok(Record { value, ..record }),
            Err(detail) => Err(OperatorError::reject(record, Reason::NotJson, detail)),
        }
    }
}

impl Operator for SinkNode {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        if !self.read_from {
            return Ok(());
        }
        for (id, arrival) in self.pending.rescan(cx)? {
            match self.row(arrival.record.clone(), Some(id)) {
                Ok(row) => cx.deliver(row),
                Err(OperatorError::Reject(reject)) => {
                    self.pending.forget(id, cx);
                    cx.reject(*reject);
                    continue;
                }
                Err(OperatorError::Fatal(e)) => return Err(e),
            }
            self.pending.resume(id, arrival, ());
        }
        Ok(())
    }

    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        if !self.read_from {
            let row = self.row(record, None)?;
            cx.deliver(row);
            return Ok(());
        }
        let arrival = self.pending.arrive(record, cx);
        self.check_room(&arrival.record)?;
        let row = self.row(arrival.record.clone(), Some(self.pending.next_id()))?;
        self.pending.hold(arrival, (), cx)?;
        cx.deliver(row);
        Ok(())
    }

    fn on_reply(&mut self, call: u64, reply: Reply, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let Some(done) = self.pending.remove(call, cx) else { return Ok(()) };
        let Arrival { record, clock, .. } = done.arrival;
        let result = match reply {
            Reply::Refused { message } => Err(OperatorError::reject(record, Reason::SinkRefused, message)),
            Reply::Delivered(row) => match self.with_row(record, row) {
                Ok(record) => {
                    self.pending.forward(clock, record, cx);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Reply::Answer(_) | Reply::Again { .. } => {
                self.pending.forward(clock, record, cx);
                Ok(())
            }
        };
        self.pending.catch_up(cx);
        result
    }

    fn on_watermark(&mut self, cx: &mut Cx<'_>) {
        self.pending.on_watermark(cx);
    }

    fn oldest(&self, topic: u16) -> Option<i64> {
        self.pending.oldest_offset(topic)
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        self.pending.query(query)
    }

    fn load(&self) -> Load {
        Load { calls: self.pending.len(), full: self.pending.is_full(), ..Load::default() }
    }
}

/// A pending delivery in readable form; `None` if the bytes are no such row.
pub(in crate::runtime) fn describe_delivery(key: &[u8], value: &[u8]) -> Option<Described> {
    let id = u64::from_be_bytes(key.try_into().ok()?);
    let delivery = describe::record(&decode_record(value).ok()?);
    let key = delivery.get("key").cloned().unwrap_or_default();
    Some(Described { key, at: serde_json::Map::new(), value: delivery }.at("delivery", id))
}

/// A dead letter: the original record, with what happened in its headers.
pub(in crate::runtime) fn dead_letter(reject: &Reject, node: &str, topic: Option<&str>) -> Record {
    let record = &reject.record;
    let text = |s: &str| Bytes::from(s.to_owned());
    let mut headers = record
        .headers
        // It may quote an expression, or what an API said.
        .with("slackwater-error", text(&masked(&reject.detail)))
        .with("slackwater-reason", text(reject.reason.name()))
        .with("slackwater-node", text(node))
        .with("slackwater-attempts", text(&reject.attempts.to_string()));
    if record.origin.offset >= 0 {
        if let Some(topic) = topic {
            headers = headers.with("slackwater-topic", text(topic));
        }
        headers = headers
            .with("slackwater-partition", text(&record.origin.partition.to_string()))
            .with("slackwater-offset", text(&record.origin.offset.to_string()));
    }
    Record { headers, ..record.clone() }
}
