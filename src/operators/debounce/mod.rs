//! `debounce`: gathers the events of each key and sends one record when the key has gone quiet.
//!
//! An event counts from its own timestamp or from the node's clock, whichever is later, so late events of a burst are
//! collapsed like any others. What is due at a record's time fires before the record is processed: an event exactly
//! `quiet` after the last one begins a new entry. The fired record has its deadline as timestamp, and as headers, in
//! decimal text, how many events it stands for and the timestamps of the first and the last event.
//!
//! [`PendingTable`] holds the state in memory: an index, blocks and a lazy timer wheel, about 230 bytes per pending key
//! of 20 + 128 bytes. It is read from the store when the task opens and never again; when an epoch ends, the changes go
//! to the store as sorted rows. Deadlines follow from the rows, so no timer is stored.
//!
//! With `trailing`, an entry that fires because of `max_wait` stays pending with a count of 0 and fires once more when
//! its key is quiet. This serves readers of other state: at the first firing that state has not settled after the last
//! event. A new event takes the place of such an entry.
//!
//! Invariants: what fires, and in which order, depends on the input alone, by (deadline, key bytes), never on hashes,
//! memory or restarts. No event is lost: each is folded into an entry or refused.

mod batch;
mod config;
mod describe;
mod entry;
mod headers;
mod index;
mod origins;
pub(crate) mod row;
mod slab;
mod table;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;
mod wheel;

use std::ops::ControlFlow;

use bytes::Bytes;

pub use batch::DirtyBatch;
pub use config::{DebounceConfig, KeepConfig};
pub use row::{Row, RowError};
pub use table::{Fired, Keep, Pending, PendingTable, Reason as FireReason, Rule, Upserted};

use self::origins::Origins;
use super::{Count, Cx, Gauge, Load, Operator, OperatorError, OwnMetrics, Query, Stores};
use crate::model::{
    EvalError, Headers, Json, NotJson, Reason, Record, Scope, Timestamp, Value, check_json, read_json,
};
use crate::state::StateError;

/// Header of a fired record: how many events it stands for.
pub const HEADER_COUNT: &str = "slackwater-count";
/// Header of a fired record: the first event's own timestamp, milliseconds.
pub const HEADER_FIRST: &str = "slackwater-first";
/// Header of a fired record: the last event's own timestamp, milliseconds.
pub const HEADER_LAST: &str = "slackwater-last";

/// The headers of the record that a pending entry's row would become.
///
/// # Errors
/// The row's extra bytes are damaged.
pub fn pending_headers(row: &Row<'_>) -> Result<Headers, StateError> {
    headers::decode(row.extra).map(Headers::new)
}

/// Entries fired by one call of `on_time`, which bounds how many records are between nodes at once.
const FIRE_MAX: usize = 1024;

/// With fewer pending keys than this, the table fits the processor's caches and needs no warming.
const WARM_FROM: usize = 4096;

const fn fired(reason: &'static str) -> Count {
    Count { name: "debounce_fired_total", help: "Entries fired, by reason.", label: Some(("reason", reason)) }
}

/// Events folded into an entry that was there already.
pub static COLLAPSED: Count = Count {
    name: "debounce_events_collapsed_total",
    help: "Events folded into a waiting entry.",
    label: None,
};
/// Entries fired after the quiet time (or settle time).
pub static FIRED_QUIET: Count = fired("quiet");
/// Entries fired because of `max_wait`.
pub static FIRED_MAX_WAIT: Count = fired("max_wait");
/// Keys that wait.
pub static PENDING_KEYS: Gauge = Gauge { name: "debounce_pending_keys", help: "Keys waiting to go quiet." };
const METRICS: OwnMetrics =
    OwnMetrics { counts: &[&COLLAPSED, &FIRED_QUIET, &FIRED_MAX_WAIT], gauges: &[&PENDING_KEYS] };

/// The store of pending entries: key -> row.
const PENDING: usize = 0;

/// The operator. Its one store has the pending entries.
pub struct Debounce {
    keep: KeepConfig,
    /// Whether an entry that fires at `max_wait` stays until its key is quiet.
    trailing: bool,
    items_max: u32,
    table: PendingTable,
    /// Only without a changelog: where each entry's first event was read. No rows are written then.
    origins: Option<Origins>,
    /// A buffer, kept to save allocations.
    extra: Vec<u8>,
    value: Vec<u8>,
}

/// Why a value cannot be added to an entry.
enum Unfit {
    NotJson(String),
    Expression(EvalError),
    Full,
}

impl Debounce {
    /// The operator with nothing pending.
    #[must_use]
    pub fn new(config: &DebounceConfig) -> Debounce {
        Debounce {
            keep: config.keep.clone(),
            trailing: config.trailing,
            items_max: config.max_items.map_or(DebounceConfig::MAX_ITEMS, Into::into),
            table: match config.trailing {
                true => PendingTable::new(config.rule()).trailing(),
                false => PendingTable::new(config.rule()),
            },
            origins: None,
            extra: Vec::new(),
            value: Vec::new(),
        }
    }

    /// From now on it notes where each entry's first event was read, and writes no rows.
    pub(super) fn track_origins(&mut self) {
        self.origins = Some(Origins::default());
    }

    /// Puts the value to store into `self.value`, unless it is stored as it came. Returns how to store it.
    fn fold(&mut self, key: &[u8], record: &Record) -> Result<(Keep, Option<Bytes>), Unfit> {
        match &self.keep {
            KeepConfig::Last => Ok((Keep::Last, record.value.bytes())),
            KeepConfig::First => Ok((Keep::First, record.value.bytes())),
            KeepConfig::All => {
                // The list is stored without its brackets, so that appending copies only the new item.
                let pending = self.table.get(key);
                if pending.is_some_and(|p| p.row.count >= self.items_max) {
                    return Err(Unfit::Full);
                }
                self.value.clear();
                if pending.is_some() {
                    self.value.push(b',');
                }
                match &record.value {
                    Value::Null => self.value.extend_from_slice(b"null"),
                    Value::Json(json) => self.value.extend_from_slice(json.to_string().as_bytes()),
                    Value::Bytes(bytes) => {
                        check_json(bytes).map_err(|e| Unfit::NotJson(e.0))?;
                        self.value.extend_from_slice(bytes);
                    }
                }
                Ok((Keep::Append, Some(Bytes::copy_from_slice(&self.value))))
            }
            KeepConfig::Merge(merge) => {
                let Some(pending) = self.table.get(key) else {
                    return Ok((Keep::Last, record.value.bytes()));
                };
                let acc: Json = match pending.row.value {
                    Some(bytes) => read_json(bytes)
                        .map_err(|NotJson(e)| Unfit::NotJson(format!("the value so far: {e}")))?,
                    None => Json::Null,
                };
                let vars = [("acc", &acc)];
                let merged = merge.eval(&Scope::of(record).with(&vars)).map_err(Unfit::Expression)?;
                Ok((Keep::Last, Value::from(merged).bytes()))
            }
        }
    }

    /// The record that a fired entry becomes.
    fn record(list: bool, fired: &Fired<'_>) -> Result<Record, StateError> {
        let row = &fired.row;
        let mut headers = headers::decode(row.extra)?;
        for (name, number) in
            [(HEADER_COUNT, i64::from(row.count)), (HEADER_FIRST, row.first_ts), (HEADER_LAST, row.last_ts)]
        {
            headers.retain(|(n, _)| n != name);
            headers.push((name.to_owned(), Some(Bytes::from(number.to_string()))));
        }
        let value = match row.value {
            None => Value::Null,
            Some(items) if list => {
                let mut text = Vec::with_capacity(items.len() + 2);
                text.push(b'[');
                text.extend_from_slice(items);
                text.push(b']');
                Value::Bytes(Bytes::from(text))
            }
            Some(value) => Value::Bytes(Bytes::copy_from_slice(value)),
        };
        Ok(Record {
            key: Some(Bytes::copy_from_slice(fired.key)),
            value,
            ts: Timestamp(fired.deadline),
            headers: Headers::new(headers),
            ..Record::default()
        })
    }
}

impl Operator for Debounce {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let table = &mut self.table;
        let mut failed = None;
        cx.store(PENDING).scan(b"", None, &mut |key, row| match table.insert_row(key, row) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(StateError(format!("key {:?}: {error}", String::from_utf8_lossy(key))));
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let Some(key) = record.key.clone() else {
            return Err(OperatorError::reject(
                record,
                Reason::NullKey,
                "debounce waits for each key by itself",
            ));
        };
        self.table.start(cx.clock.0);
        let (keep, value) = match self.fold(&key, &record) {
            Ok(folded) => folded,
            Err(Unfit::NotJson(e)) => {
                let detail = format!("the value is not JSON: {e}");
                return Err(OperatorError::reject(record, Reason::NotJson, detail));
            }
            Err(Unfit::Expression(e)) => return Err(OperatorError::expression(record, &e)),
            Err(Unfit::Full) => {
                let detail = format!("the key's list has {} items, as many as it may", self.items_max);
                return Err(OperatorError::reject(record, Reason::Full, detail));
            }
        };
        self.extra.clear();
        headers::encode(&record.headers, &mut self.extra);
        let counted = record.ts.max(cx.clock);
        let done = self.table.upsert(&key, counted.0, record.ts.0, value.as_deref(), &self.extra, keep);
        if !done.created {
            cx.tally.add(&COLLAPSED, 1);
        }
        if let Some(origins) = &mut self.origins {
            if done.created {
                // The entry had fired at `max_wait`: from now on it begins with this event.
                origins.take(&key);
            }
            origins.add(&key, record.origin);
        }
        Ok(())
    }

    fn warm(&self, records: &[Record], _: &Stores<'_>) {
        // A small table is in the processor's caches anyway.
        if self.table.len() > WARM_FROM {
            self.table.warm(records.iter().filter_map(|r| r.key.as_deref()));
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        self.table.next_deadline().map(Timestamp)
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let list = self.keep == KeepConfig::All;
        let mut failed = None;
        let (origins, trailing) = (&mut self.origins, self.trailing);
        self.table.pop_due(cx.clock.0, FIRE_MAX, |fired| match Debounce::record(list, &fired) {
            Ok(mut record) => {
                if let Some(origins) = origins {
                    // An entry that will fire again still holds the committed offset back.
                    record.origin = match trailing && fired.reason == FireReason::MaxWait {
                        true => origins.get(fired.key),
                        false => origins.take(fired.key),
                    };
                }
                match fired.reason {
                    FireReason::MaxWait => cx.tally.add(&FIRED_MAX_WAIT, 1),
                    FireReason::Quiet | FireReason::Settle | FireReason::Taken => {
                        cx.tally.add(&FIRED_QUIET, 1);
                    }
                }
                cx.forward(record);
            }
            Err(error) => failed = Some(error),
        });
        failed.map_or(Ok(()), |error| Err(OperatorError::Fatal(error)))
    }

    fn seal(&mut self, _: &mut Cx<'_>) {
        // Without a changelog the input is read again after a restart, so rows would never be used.
        if self.origins.is_none() {
            self.table.freeze();
        }
    }

    fn seal_more(&mut self, cx: &mut Cx<'_>, rows_max: usize) -> Result<bool, StateError> {
        // Only copied here; the commit thread sorts and writes it.
        if let Some(batch) = self.table.copy_frozen(rows_max) {
            cx.hand_over(PENDING, Box::new(batch));
        }
        Ok(!self.table.is_frozen())
    }

    fn oldest(&self, topic: u16) -> Option<i64> {
        self.origins.as_ref()?.oldest(topic)
    }

    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        if let Some(pending) = self.table.get(query.key()) {
            let mut row = Vec::with_capacity(pending.row.encoded_len());
            pending.row.encode(&mut row);
            query.push(query.key(), Bytes::from(row));
        }
        Ok(())
    }

    fn load(&self) -> Load {
        Load { keys: self.table.len(), bytes: self.table.bytes(), ..Load::default() }
    }

    fn gauges(&self, show: &mut dyn FnMut(&'static Gauge, usize)) {
        show(&PENDING_KEYS, self.table.len());
    }
}
