//! Records encoded as rows: what pending calls and pending deliveries keep.

use bincode::{Decode, Encode};
use bytes::Bytes;

use super::StateError;
use super::codec::{decode, encode_into};
use crate::model::{Headers, Origin, Record, Timestamp, Value, Window};

const VERSION: u8 = 1;

/// What is encoded: a [`StoredRecord`] that borrows instead of copying.
#[derive(Encode)]
struct RecordRow<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    ts: i64,
    window: Option<(i64, i64)>,
    headers: Vec<(&'a str, &'a [u8])>,
    topic: u16,
    partition: i32,
    offset: i64,
}

#[derive(Decode)]
struct StoredRecord {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    ts: i64,
    window: Option<(i64, i64)>,
    headers: Vec<(String, Vec<u8>)>,
    topic: u16,
    partition: i32,
    offset: i64,
}

/// Encodes a record.
///
/// # Errors
/// The record is larger than 64 MiB.
pub fn encode_record(record: &Record) -> Result<Bytes, StateError> {
    let mut out = Vec::new();
    encode_record_into(record, &mut out)?;
    Ok(Bytes::from(out))
}

/// Like [`encode_record`], appending to `out`.
///
/// # Errors
/// The record is larger than 64 MiB; a part of it has been written.
pub fn encode_record_into(record: &Record, out: &mut Vec<u8>) -> Result<(), StateError> {
    let value = record.value.bytes();
    let row = RecordRow {
        key: record.key.as_deref(),
        value: value.as_deref(),
        ts: record.ts.0,
        window: record.window.map(|w| (w.start.0, w.end.0)),
        headers: record.headers.iter().map(|(name, value)| (name, &value[..])).collect(),
        topic: record.origin.topic,
        partition: record.origin.partition,
        offset: record.origin.offset,
    };
    encode_into(VERSION, &row, out)
}

/// Decodes what [`encode_record`] wrote.
///
/// # Errors
/// The bytes are not a record of this format.
pub fn decode_record(bytes: &[u8]) -> Result<Record, StateError> {
    let stored: StoredRecord = decode(VERSION, bytes)?;
    Ok(Record {
        key: stored.key.map(Bytes::from),
        value: stored.value.map_or(Value::Null, |v| Value::Bytes(Bytes::from(v))),
        ts: Timestamp(stored.ts),
        window: stored.window.map(|(s, e)| Window { start: Timestamp(s), end: Timestamp(e) }),
        headers: Headers::new(stored.headers.into_iter().map(|(n, v)| (n, Bytes::from(v))).collect()),
        origin: Origin { topic: stored.topic, partition: stored.partition, offset: stored.offset },
        change: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_whole() {
        let record = Record {
            key: None,
            value: Value::Bytes(Bytes::from("{\"n\":1}")),
            ts: Timestamp(5),
            window: Some(Window { start: Timestamp(0), end: Timestamp(10) }),
            headers: Headers::new(vec![("a".into(), Bytes::from("b"))]),
            origin: Origin { topic: 1, partition: 2, offset: 3 },
            change: None,
        };
        assert_eq!(decode_record(&encode_record(&record).expect("encodes")).expect("decodes"), record);
    }
}
