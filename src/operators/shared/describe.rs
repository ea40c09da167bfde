//! Rows of state in readable form: what `slackwater state` and a running instance show.
//!
//! Nothing calls this while records are processed. A row that cannot be read is shown as bytes and never an error,
//! since this is how one looks into state that is broken.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::model::{Headers, Json, Record, Value, Window, read_json};

/// A row of a node's store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Described {
    /// The record's key, or a name for the row where it has none.
    pub key: Json,
    /// The other parts of the row's key (a window, a timestamp, a number), by name; empty for most.
    pub at: serde_json::Map<String, Json>,
    /// The value.
    pub value: Json,
}

impl Described {
    /// A row whose key is the record's.
    #[must_use]
    pub fn of_key(key: &[u8], value: Json) -> Described {
        Described { key: Json::String(text(key)), at: serde_json::Map::new(), value }
    }

    /// A row that cannot be read.
    #[must_use]
    pub fn raw(key: &[u8], value: &[u8]) -> Described {
        Described::of_key(key, bytes(value))
    }

    /// The same row with the window of its key, if it has one: start and end.
    #[must_use]
    pub fn window(self, window: Option<Window>) -> Described {
        match window {
            Some(window) => self.at("window", vec![window.start.0, window.end.0]),
            None => self,
        }
    }

    /// The row as a JSON object: task and node, key, other parts of the key, value.
    #[must_use]
    pub fn json(&self, task: &str, node: &str) -> Json {
        let mut line = serde_json::json!({ "task": task, "node": node, "key": self.key });
        for (name, part) in &self.at {
            line[name] = part.clone();
        }
        line["value"] = self.value.clone();
        line
    }

    /// The same row with a part of its key.
    #[must_use]
    pub fn at(mut self, name: &str, part: impl Into<Json>) -> Described {
        self.at.insert(name.into(), part.into());
        self
    }
}

/// A key as text; in hexadecimal if it is not UTF-8.
#[must_use]
pub fn text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => key.iter().fold("0x".to_owned(), |hex, byte| hex + &format!("{byte:02x}")),
    }
}

/// A value as JSON where it is JSON, as text where it is text, else `{ "base64": ... }`.
#[must_use]
pub fn bytes(value: &[u8]) -> Json {
    if let Ok(json) = read_json(value) {
        return json;
    }
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => Json::String(text.to_owned()),
        _ => serde_json::json!({ "base64": STANDARD.encode(value) }),
    }
}

/// Headers as an object; the last one of each name.
#[must_use]
pub fn headers(headers: &Headers) -> Json {
    headers
        .iter()
        .map(|(name, value)| (name.to_owned(), value.map(|value| text(value)).into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// A whole record.
#[must_use]
pub fn record(record: &Record) -> Json {
    let value = match &record.value {
        Value::Null => Json::Null,
        Value::Bytes(value) => bytes(value),
        Value::Json(json) => (**json).clone(),
    };
    let mut out = serde_json::json!({
        "key": record.key.as_ref().map(|k| text(k)),
        "value": value,
        "ts": record.ts.0,
    });
    if let Some(window) = record.window {
        out["window"] = serde_json::json!([window.start.0, window.end.0]);
    }
    if !record.headers.is_empty() {
        out["headers"] = headers(&record.headers);
    }
    if record.origin.offset >= 0 {
        out["partition"] = record.origin.partition.into();
        out["offset"] = record.origin.offset.into();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_can_be_read_is_shown_as_it_is() {
        assert_eq!(
            [text(b"a b"), text(b""), text(b"a\0"), text(b"\xff\x01")],
            ["a b", "", "0x6100", "0xff01"]
        );
        for (value, shown) in [
            (b"{\"a\":1}".as_slice(), json!({"a": 1})),
            (b"7", json!(7)),
            (b"plain", json!("plain")),
            (b"", json!("")),
            (b"\xff\0", json!({"base64": "/wA="})),
        ] {
            assert_eq!(bytes(value), shown);
        }
        assert_eq!(
            Described::raw(b"k", b"1").at("seq", 7).at,
            json!({"seq": 7}).as_object().cloned().unwrap()
        );
    }
}
