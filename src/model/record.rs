//! Records: what moves through a topology.

use std::sync::Arc;

use bytes::Bytes;

use super::time::Timestamp;
use super::value::Value;

/// How a record changed a row of a table. Records of a table carry it to the nodes that ask for changes (joins of two
/// tables, aggregates); for all other nodes the task removes it, which leaves the plain stream of new values.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The row's value before; null where there was no row.
    pub old: Value,
    /// Whether the record is the row's newest version. False only if a versioned table received it out of order: then
    /// it changed the row's history, not the row.
    pub latest: bool,
}

/// Where a record was read: topic, partition and offset. A record that an operator made has the origin of the record
/// that caused it; a record made by a timer has the default (offset -1).
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

/// The header in which a repartition topic carries a row's change. Part of the format of those topics.
pub const CHANGE_HEADER: &str = "slackwater-change";

/// The header in which a repartition topic carries a record's own key, if the topic is keyed by an id instead. Part of
/// the format of those topics.
pub const KEY_HEADER: &str = "slackwater-key";

/// Format of [`Change::to_bytes`].
const CHANGE_VERSION: u8 = 1;
const CHANGE_LATEST: u8 = 1;
const CHANGE_HAS_OLD: u8 = 2;

impl Change {
    /// The row is new.
    #[must_use]
    pub fn first() -> Change {
        Change { old: Value::Null, latest: true }
    }

    /// `[version = 1][flags: 1 latest, 2 there was a row][the row's old value]`.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let old = self.old.bytes();
        let mut flags = if self.latest { CHANGE_LATEST } else { 0 };
        if old.is_some() {
            flags |= CHANGE_HAS_OLD;
        }
        let mut bytes = vec![CHANGE_VERSION, flags];
        bytes.extend_from_slice(&old.unwrap_or_default());
        Bytes::from(bytes)
    }

    /// Reads [`Change::to_bytes`]; `None` for other bytes.
    #[must_use]
    pub fn from_bytes(bytes: &Bytes) -> Option<Change> {
        let (&[version, flags], rest) = bytes.split_first_chunk::<2>()?;
        let has_old = flags & CHANGE_HAS_OLD != 0;
        if version != CHANGE_VERSION
            || flags > (CHANGE_LATEST | CHANGE_HAS_OLD)
            || !has_old && !rest.is_empty()
        {
            return None;
        }
        let old = if has_old { Value::Bytes(bytes.slice(2..)) } else { Value::Null };
        Some(Change { old, latest: flags & CHANGE_LATEST != 0 })
    }
}

/// A header: its name, and its value, which may be null as a record's may.
type Header = (String, Option<Bytes>);

/// Record headers in order. Shared (reference-counted), since most nodes only pass them on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers(Option<Arc<Vec<Header>>>);

impl Headers {
    /// Headers from a list, in order; names may repeat. A value is bytes, or `None` for null.
    #[must_use]
    pub fn new<V: Into<Option<Bytes>>>(list: impl IntoIterator<Item = (String, V)>) -> Headers {
        let list: Vec<Header> = list.into_iter().map(|(name, value)| (name, value.into())).collect();
        if list.is_empty() { Headers(None) } else { Headers(Some(Arc::new(list))) }
    }

    /// All headers in order; `None` is a null value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&Bytes>)> {
        self.0.iter().flat_map(|list| list.iter().map(|(name, value)| (name.as_str(), value.as_ref())))
    }

    /// The value of the last header of that name, as Kafka's `lastHeader`; `None` too where it is null.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.as_ref()?.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.as_ref())
    }

    /// Whether one has a null value.
    #[must_use]
    pub fn has_null(&self) -> bool {
        self.iter().any(|(_, value)| value.is_none())
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn size(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.map_or(0, Bytes::len)).sum()
    }

    /// These headers with `name` set to `value` (an older one of that name is replaced).
    #[must_use]
    pub fn with(&self, name: &str, value: impl Into<Bytes>) -> Headers {
        let mut list: Vec<_> =
            self.0.iter().flat_map(|l| l.iter()).filter(|(n, _)| n != name).cloned().collect();
        list.push((name.to_owned(), Some(value.into())));
        Headers(Some(Arc::new(list)))
    }

    /// These headers without those of that name.
    #[must_use]
    pub fn without(&self, name: &str) -> Headers {
        if !self.iter().any(|(n, _)| n == name) {
            return self.clone();
        }
        Headers::new(self.0.iter().flat_map(|l| l.iter()).filter(|(n, _)| n != name).cloned())
    }

    /// Whether there are no headers.
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
    /// How it changed a row, if it comes from a table.
    pub change: Option<Box<Change>>,
}

impl Record {
    /// A record with a key, a value and a timestamp, nothing else.
    #[must_use]
    pub fn new(key: impl Into<Bytes>, value: Value, ts: Timestamp) -> Record {
        Record { key: Some(key.into()), value, ts, ..Record::default() }
    }

    /// Approximate size in memory, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        std::mem::size_of::<Record>() + self.key.as_ref().map_or(0, Bytes::len) + self.value.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_null_header_is_neither_empty_nor_absent() {
        let headers = Headers::new([("a".to_owned(), None), ("b".to_owned(), Some(Bytes::new()))]);
        let list: Vec<_> = headers.iter().collect();
        assert_eq!(list, [("a", None), ("b", Some(&Bytes::new()))]);
        assert_eq!((headers.get("a"), headers.get("b"), headers.get("c")), (None, Some(&Bytes::new()), None));
        assert!(headers.has_null() && !headers.without("a").has_null() && !headers.with("a", "x").has_null());
        assert_eq!(headers.without("a").iter().count(), 1);
    }

    /// Never edit: records in users' topics have this format.
    #[test]
    fn a_change_travels_as_bytes() {
        let check = |old: Value, latest: bool, want: &[u8]| {
            let change = Change { old, latest };
            let bytes = change.to_bytes();
            assert_eq!(&bytes[..], want);
            assert_eq!(Change::from_bytes(&bytes), Some(change));
        };
        check(Value::Null, true, &[1, 1]);
        check(Value::Null, false, &[1, 0]);
        check(Value::Bytes(Bytes::from("{}")), true, b"\x01\x03{}");
        check(Value::Bytes(Bytes::new()), true, &[1, 3]);
        for bad in [&[][..], &[1], &[2, 1], &[1, 4], &[1, 1, b'x']] {
            assert_eq!(Change::from_bytes(&Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
    }
}
