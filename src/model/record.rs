//! Records: what moves through a topology.

use std::sync::Arc;

use bytes::Bytes;

use super::time::Timestamp;
use super::value::Value;

/// What a record did to a row of a table. A table's records carry it to the nodes that ask for changes (joins of two
/// tables, aggregates); everywhere else the task takes it off, and what is left is the plain stream of new values.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The row's value before; null where there was no row.
    pub old: Value,
    /// The record is the row's newest version. False only for a record that a versioned table took out of order: it
    /// changed the past, not the row.
    pub latest: bool,
}

/// Where a record was read: the source's position in the topology, partition and offset. A record made by an operator
/// carries the origin of the record that caused it; one made by a timer carries the default (offset -1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Index of the source topic in the task's list of topics.
    pub topic: u16,
    /// Kafka partition.
    pub partition: i32,
    /// Kafka offset; -1 for a record that was not read.
    pub offset: i64,
}

impl Default for Origin {
    fn default() -> Self {
        Origin { topic: 0, partition: -1, offset: -1 }
    }
}

/// A window, in milliseconds: `[start, end)` for time windows, `[start, end]` for sessions and sliding windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// First millisecond.
    pub start: Timestamp,
    /// End, exclusive or inclusive by the kind of window.
    pub end: Timestamp,
}

/// The header in which a repartition topic carries a record's window. Part of the format of those topics.
pub const WINDOW_HEADER: &str = "slackwater-window";

impl Window {
    /// Start and end as 16 bytes, big-endian.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        Bytes::from([self.start.0.to_be_bytes(), self.end.0.to_be_bytes()].concat())
    }

    /// Reads [`Window::to_bytes`]; `None` for other bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Window> {
        let (start, end) = bytes.split_first_chunk::<8>()?;
        let end = <[u8; 8]>::try_from(end).ok()?;
        let at = |bytes: [u8; 8]| Timestamp(i64::from_be_bytes(bytes));
        Some(Window { start: at(*start), end: at(end) })
    }
}

impl Change {
    /// The row is new.
    #[must_use]
    pub fn first() -> Change {
        Change { old: Value::Null, latest: true }
    }
}

/// Record headers in order. Shared, since most records only pass them on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers(Option<Arc<Vec<(String, Bytes)>>>);

impl Headers {
    /// Headers from a list, in order; names may repeat.
    #[must_use]
    pub fn new(list: Vec<(String, Bytes)>) -> Headers {
        if list.is_empty() { Headers(None) } else { Headers(Some(Arc::new(list))) }
    }

    /// All headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().flat_map(|list| list.iter().map(|(name, value)| (name.as_str(), value)))
    }

    /// The last header of that name, as Kafka's `lastHeader`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.as_ref()?.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// These headers with `name` set to `value` (an older one of that name is replaced).
    #[must_use]
    pub fn with(&self, name: &str, value: impl Into<Bytes>) -> Headers {
        let mut list: Vec<_> =
            self.0.iter().flat_map(|l| l.iter()).filter(|(n, _)| n != name).cloned().collect();
        list.push((name.to_owned(), value.into()));
        Headers(Some(Arc::new(list)))
    }

    /// These headers without those of that name.
    #[must_use]
    pub fn without(&self, name: &str) -> Headers {
        if self.get(name).is_none() {
            return self.clone();
        }
        Headers::new(self.0.iter().flat_map(|l| l.iter()).filter(|(n, _)| n != name).cloned().collect())
    }

    /// No headers?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// One record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Key bytes; `None` is Kafka's null key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Value,
    /// The record's own timestamp (event time).
    pub ts: Timestamp,
    /// The window that the record is a result of, if any.
    pub window: Option<Window>,
    /// Headers.
    pub headers: Headers,
    /// Where it was read.
    pub origin: Origin,
    /// The table's change that this record is, if it comes from a table.
    pub change: Option<Box<Change>>,
}

impl Record {
    /// A record with a key, a value and a timestamp, nothing else.
    #[must_use]
    pub fn new(key: impl Into<Bytes>, value: Value, ts: Timestamp) -> Record {
        Record { key: Some(key.into()), value, ts, ..Record::default() }
    }

    /// Bytes this record holds in memory, about.
    #[must_use]
    pub fn size(&self) -> usize {
        std::mem::size_of::<Record>() + self.key.as_ref().map_or(0, Bytes::len) + self.value.size()
    }
}
