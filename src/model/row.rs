//! The row that a sink node makes of a record, for its sink to write.

use bytes::Bytes;

use super::record::Record;
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
        let headers = self.record.headers.size();
        let old =
            self.record.change.as_ref().and_then(|change| change.old.bytes()).map_or(0, |old| old.len());
        let content = match &self.payload {
            Payload::Texts(texts) => texts.iter().flatten().map(Bytes::len).sum(),
            // A control character in text takes one byte here but six in JSON.
            _ if self.record.size() + headers < bytes_max / 8 => 0,
            Payload::Record | Payload::Columns(_) | Payload::Delete(_) => {
                self.record.key.as_ref().map_or(0, Bytes::len)
                    + self.record.value.bytes().map_or(0, |bytes| bytes.len())
            }
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
    /// Text made from templates (redis keys and values, HTTP bodies), in the sink's own order.
    Texts(Vec<Option<Bytes>>),
}

/// One column of a table row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A value.
    Json(Json),
    /// The commit time of the write, set by the database if it can.
    CommitTimestamp,
}
