//! Records encoded as rows: what pending calls and pending deliveries keep.

use bincode::{Decode, Encode};
use bytes::Bytes;

use super::StateError;
use super::codec::{decode, encode_into};
use crate::model::{Headers, Origin, Record, Timestamp, Value, Window};

/// Without null headers.
const VERSION: u8 = 1;
/// With null headers.
const VERSION_NULLS: u8 = 2;

/// What is encoded: a [`StoredRecord`] that borrows instead of copying.
#[derive(Encode)]
struct RecordRow<'a, H: Encode> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    ts: i64,
    window: Option<(i64, i64)>,
    headers: Vec<(&'a str, H)>,
    topic: u16,
    partition: i32,
    offset: i64,
}

#[derive(Decode)]
struct StoredRecord<H> {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    ts: i64,
    window: Option<(i64, i64)>,
    headers: Vec<(String, H)>,
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
    let bytes = |value: Option<&Bytes>| value.map(|value| value.to_vec());
    if record.headers.has_null() {
        encode_into(VERSION_NULLS, &row(record, value.as_deref(), bytes), out)
    } else {
        encode_into(VERSION, &row(record, value.as_deref(), |value| bytes(value).unwrap_or_default()), out)
    }
}

fn row<'a, H: Encode>(
    record: &'a Record,
    value: Option<&'a [u8]>,
    header: impl Fn(Option<&Bytes>) -> H,
) -> RecordRow<'a, H> {
    RecordRow {
        key: record.key.as_deref(),
        value,
        ts: record.ts.0,
        window: record.window.map(|w| (w.start.0, w.end.0)),
        headers: record.headers.iter().map(|(name, value)| (name, header(value))).collect(),
        topic: record.origin.topic,
        partition: record.origin.partition,
        offset: record.origin.offset,
    }
}

/// Decodes what [`encode_record`] wrote.
///
/// # Errors
/// The bytes are not a record of this format.
pub fn decode_record(bytes: &[u8]) -> Result<Record, StateError> {
    if bytes.first() == Some(&VERSION_NULLS) {
        return decode::<StoredRecord<Option<Vec<u8>>>>(VERSION_NULLS, bytes).map(StoredRecord::record);
    }
    decode::<StoredRecord<Vec<u8>>>(VERSION, bytes).map(StoredRecord::record)
}

impl<H: Into<Option<Vec<u8>>>> StoredRecord<H> {
    fn record(self) -> Record {
        Record {
            key: self.key.map(Bytes::from),
            value: self.value.map_or(Value::Null, |v| Value::Bytes(Bytes::from(v))),
            ts: Timestamp(self.ts),
            window: self.window.map(|(s, e)| Window { start: Timestamp(s), end: Timestamp(e) }),
            headers: Headers::new(self.headers.into_iter().map(|(n, v)| (n, v.into().map(Bytes::from)))),
            origin: Origin { topic: self.topic, partition: self.partition, offset: self.offset },
            change: None,
        }
    }
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
        assert_eq!(encode_record(&record).expect("encodes"), V1);
        let headers = Headers::new([("a".to_owned(), Some(Bytes::from("b"))), ("n".to_owned(), None)]);
        let nulls = Record { headers, ..record };
        assert_eq!(decode_record(&encode_record(&nulls).expect("encodes")).expect("decodes"), nulls);
        assert_eq!(encode_record(&nulls).expect("encodes"), V2);
    }

    /// Never edit: rows on users' disks have these formats.
    const V1: &[u8] =
        b"\x01\0\x01\x07\0\0\0\0\0\0\0{\"n\":1}\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\
        \x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x01\0\0\0\0\0\0\0b\x01\0\x02\0\0\0\x03\0\0\0\0\0\0\0";
    const V2: &[u8] = b"\x02\0\x01\x07\0\0\0\0\0\0\0{\"n\":1}\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\
        \x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0a\x01\x01\0\0\0\0\0\0\0b\x01\0\0\0\0\0\0\0n\0\x01\0\x02\0\0\0\x03\0\0\0\0\0\0\0";
}
