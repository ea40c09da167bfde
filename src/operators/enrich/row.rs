//! The row of a pending call: sequence number -> the record as it came, and the node's clock around its arrival.

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::model::{Headers, Origin, Record, Timestamp, Value, Window};
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;
use crate::operators::shared::pending::{Arrival, RowFormat};
use crate::state::{StateError, codec};

/// Format of the row without null headers. A change takes a new number and keeps a fixture of the old; these formats stay
/// readable.
const VERSION: u8 = 1;
/// Format of the row with null headers.
const VERSION_NULLS: u8 = 2;

#[derive(Encode, Decode)]
enum ValueRow {
    Null,
    Bytes(Vec<u8>),
    Json(Vec<u8>),
}

#[derive(Encode, Decode)]
struct PendingRow<H> {
    key: Option<Vec<u8>>,
    value: ValueRow,
    ts: i64,
    window: Option<(i64, i64)>,
    headers: Vec<(String, H)>,
    origin: (u16, i32, i64),
    before: i64,
    clock: i64,
}

/// The row holds the clocks too.
pub(super) const FORMAT: RowFormat = RowFormat { encode, decode: |row, _| decode(row) };

pub(super) fn encode(arrival: &Arrival) -> Result<Bytes, StateError> {
    let bytes = |value: Option<&Bytes>| value.map(|value| value.to_vec());
    if arrival.record.headers.has_null() {
        codec::encode(VERSION_NULLS, &row(arrival, bytes))
    } else {
        codec::encode(VERSION, &row(arrival, |value| bytes(value).unwrap_or_default()))
    }
}

fn row<H>(arrival: &Arrival, header: impl Fn(Option<&Bytes>) -> H) -> PendingRow<H> {
    let record = &arrival.record;
    let value = match &record.value {
        Value::Null => ValueRow::Null,
        Value::Bytes(bytes) => ValueRow::Bytes(bytes.to_vec()),
        Value::Json(json) => ValueRow::Json(json.to_string().into_bytes()),
    };
    PendingRow {
        key: record.key.as_ref().map(|k| k.to_vec()),
        value,
        ts: record.ts.0,
        window: record.window.map(|w| (w.start.0, w.end.0)),
        headers: record.headers.iter().map(|(n, v)| (n.to_owned(), header(v))).collect(),
        origin: (record.origin.topic, record.origin.partition, record.origin.offset),
        before: arrival.before.0,
        clock: arrival.clock.0,
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Arrival, StateError> {
    if bytes.first() == Some(&VERSION_NULLS) {
        return arrival::<Option<Vec<u8>>>(codec::decode(VERSION_NULLS, bytes)?);
    }
    arrival::<Vec<u8>>(codec::decode(VERSION, bytes)?)
}

fn arrival<H: Into<Option<Vec<u8>>>>(row: PendingRow<H>) -> Result<Arrival, StateError> {
    let value = match row.value {
        ValueRow::Null => Value::Null,
        ValueRow::Bytes(bytes) => Value::Bytes(Bytes::from(bytes)),
        ValueRow::Json(text) => Value::Json(
            serde_json::from_slice(&text).map_err(|e| StateError(format!("decode: pending call: {e}")))?,
        ),
    };
    let (topic, partition, offset) = row.origin;
    let record = Record {
        key: row.key.map(Bytes::from),
        value,
        ts: Timestamp(row.ts),
        window: row.window.map(|(start, end)| Window { start: Timestamp(start), end: Timestamp(end) }),
        headers: Headers::new(row.headers.into_iter().map(|(n, v)| (n, v.into().map(Bytes::from)))),
        origin: Origin { topic, partition, offset },
        change: None,
    };
    Ok(Arrival { record, before: Timestamp(row.before), clock: Timestamp(row.clock) })
}

/// A pending call in readable form: the record as it came in; `None` if the bytes are no such row.
#[must_use]
pub fn describe_row(key: &[u8], value: &[u8]) -> Option<Described> {
    let seq = u64::from_be_bytes(key.try_into().ok()?);
    let arrival = decode(value).ok()?;
    let call = describe::record(&arrival.record);
    let key = call.get("key").cloned().unwrap_or_default();
    Some(Described { key, at: serde_json::Map::new(), value: call }.at("call", seq))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Arrival {
        let record = Record {
            window: Some(Window { start: Timestamp(1), end: Timestamp(2) }),
            headers: Headers::new([("h".into(), Bytes::from("v"))]),
            origin: Origin { topic: 3, partition: 4, offset: 5 },
            ..Record::new("k", Value::from(json!({"b": 1, "a": [1.5]})), Timestamp(7))
        };
        Arrival { record, before: Timestamp::MIN, clock: Timestamp(9) }
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        for value in
            [Value::Null, Value::Bytes(Bytes::from(" {\"a\" :1}")), Value::from(json!({"b": 1, "a": 2}))]
        {
            for key in [None, Some(Bytes::from("k"))] {
                let record = Record { key, value: value.clone(), ..sample().record };
                let one = Arrival { record, ..sample() };
                assert_eq!(decode(&encode(&one).expect("encodes")).expect("decodes"), one);
            }
        }
    }

    #[test]
    fn a_pending_call_is_shown_as_its_record() {
        let bytes = encode(&sample()).expect("encodes");
        let shown = describe_row(&9u64.to_be_bytes(), &bytes).expect("is a row");
        assert_eq!((shown.key, shown.at["call"].clone()), (json!("k"), json!(9)));
        assert_eq!(shown.value["value"], json!({"b": 1, "a": [1.5]}));
        assert_eq!(shown.value["window"], json!([1, 2]));
        assert_eq!(describe_row(b"x", &bytes), None);
    }

    /// The bytes of format 1, written by an earlier version, can be read.
    #[test]
    fn format_1_is_read() {
        let hex: String = encode(&sample()).expect("encodes").iter().map(|b| format!("{b:02x}")).collect();
        let fixture = include_str!("row_v1.hex").trim();
        assert_eq!(hex, fixture);
    }

    #[test]
    fn format_2_has_null_headers() {
        let mut one = sample();
        one.record.headers = Headers::new([("h".to_owned(), Some(Bytes::from("v"))), ("n".to_owned(), None)]);
        let bytes = encode(&one).expect("encodes");
        assert_eq!(decode(&bytes).expect("decodes"), one);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("row_v2.hex").trim());
    }
}
