//! A sink as an operator: it makes of a record the row that the sink's driver writes.

use std::sync::Arc;

use crate::formats::{Encoder, Formats};
use crate::model::{Json, Reason, Record, Reply, SinkRow};
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;
use crate::operators::shared::pending::{Arrival, Pending, RowFormat};
use crate::operators::{Cx, Load, Operator, OperatorError, Query};
use crate::sinks::SinkConfig;
use crate::state::{StateError, decode_record, encode_record};

/// Makes rows. A sink that nothing reads is done with a record when the epoch's deliveries are; one that is read from
/// keeps the record as a pending delivery in its store until the row is durable, then sends it on.
pub(in crate::runtime) struct SinkNode {
    config: SinkConfig,
    encoder: Option<Encoder>,
    read_from: bool,
    pending: Pending<()>,
}

/// Deliveries that a sink which is read from waits for; at this the task takes no more input.
const DELIVERIES_PENDING_MAX: usize = 10_000;

/// A pending delivery's row is the record alone.
const DELIVERY: RowFormat = RowFormat {
    encode: |arrival| encode_record(&arrival.record),
    decode: |row, clock| Ok(Arrival::restored(decode_record(row)?, clock)),
};

impl SinkNode {
    pub(in crate::runtime) fn new(
        formats: &Arc<Formats>,
        name: &str,
        config: &SinkConfig,
        read_from: bool,
    ) -> SinkNode {
        let encoder = config.kafka().and_then(|k| Encoder::new(k.key_format, k.format, formats, name));
        let config = config.clone();
        SinkNode { config, encoder, read_from, pending: Pending::new(DELIVERY, DELIVERIES_PENDING_MAX) }
    }

    fn row(&self, record: Record, reply_to: Option<u64>) -> Result<SinkRow, OperatorError> {
        let payload = match self.config.payload(&record) {
            Ok(payload) => payload,
            Err(e) => return Err(OperatorError::expression(record, &e)),
        };
        let encoded = match (self.config.kafka(), &self.encoder) {
            (Some(kafka), Some(encoder)) => kafka.encoded(&record, payload, encoder),
            _ => Ok(payload),
        };
        match encoded {
            Ok(payload) => Ok(SinkRow { reply_to, record, payload }),
            Err(e) => Err(OperatorError::reject(record, Reason::BadFormat, e.to_string())),
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

/// A delivery that a sink which is read from waits for, for people; `None` where the bytes are no such row.
pub(in crate::runtime) fn describe_delivery(key: &[u8], value: &[u8]) -> Option<Described> {
    let id = u64::from_be_bytes(key.try_into().ok()?);
    let delivery = describe::record(&decode_record(value).ok()?);
    let key = delivery.get("key").cloned().unwrap_or_default();
    Some(Described { key, at: serde_json::Map::new(), value: delivery }.at("delivery", id))
}
