//! The row that a sink node makes of a record, for its sink to write.

use bytes::Bytes;

use super::record::{Headers, Record};
use super::value::Json;

/// A row that a sink node made of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkRow {
    /// `Some(call)`: the acknowledgement goes back to the node as the reply to this call (a sink that is read from).
    pub reply_to: Option<u64>,
    /// The record as it came in, for order per key and for the dead letter.
    pub record: Record,
    /// What to write.
    pub payload: Payload,
}

impl SinkRow {
    /// Whether the row's message, without framing, is larger than `bytes_max`. Rows that are certainly smaller are not
    /// measured.
    #[must_use]
    pub fn exceeds(&self, bytes_max: usize) -> bool {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        if let Payload::Message(Message { key, value, headers }) = &self.payload {
            return length(key) + length(value) + headers.size() > bytes_max;
        }
        let record = &self.record;
        let headers = record.headers.size();
        let old = record.change.as_ref().map_or(0, |change| length(&change.old.bytes()));
        // A control character in text takes one byte here but six in JSON.
        let content = match record.size() + headers < bytes_max / 8 {
            true => 0,
            false => length(&record.key) + length(&record.value.bytes()),
        };
        content + headers + old > bytes_max
    }
}

/// What a sink writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Key, value, headers and timestamp of the record itself.
    Record,
    /// One table row, in the order of the sink's columns.
    Columns(Vec<Cell>),
    /// No row of its key any more. The cells that could be made of the record, in the order of the sink's columns; the key's
    /// are among them.
    Delete(Vec<Cell>),
    /// A message of a topic that is not the record as it is.
    Message(Message),
}

/// What a topic keeps of a record, beside its timestamp.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// All headers.
    pub headers: Headers,
}

/// One column of a table row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A value.
    Json(Json),
    /// The commit time of the write, set by the database if it can.
    CommitTimestamp,
}
