//! What a sink writes of a record.

use bytes::Bytes;

use super::record::Record;
use super::value::Json;

/// A row that a sink node made of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkRow {
    /// `Some(call)`: the node waits for the acknowledgement as a reply to that call (a sink that is read from).
    pub reply_to: Option<u64>,
    /// The record as it came in, for order per key and for the dead letter.
    pub record: Record,
    /// What to write.
    pub payload: Payload,
}

impl SinkRow {
    /// Is its message, without the frame around it, larger than that? Measures only what may be.
    #[must_use]
    pub fn exceeds(&self, bytes_max: usize) -> bool {
        let headers: usize = self.record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let old =
            self.record.change.as_ref().and_then(|change| change.old.bytes()).map_or(0, |old| old.len());
        let content = match &self.payload {
            Payload::Texts(texts) => texts.iter().flatten().map(Bytes::len).sum(),
            // A control character in a text is one byte here and six in JSON.
            _ if self.record.size() + headers < bytes_max / 8 => 0,
            Payload::Record | Payload::Columns(_) => {
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
    /// Text made from templates (redis keys and values, HTTP bodies), in the sink's own order.
    Texts(Vec<Option<Bytes>>),
}

/// One column of a table row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A value.
    Json(Json),
    /// The time of the write, set by the database where it can.
    CommitTimestamp,
}
