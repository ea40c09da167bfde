//! Values: bytes until something asks for a field.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::{number, scan, text};

/// Parsed JSON: what expressions read and write.
pub type Json = serde_json::Value;

/// A record's value. Bytes from Kafka stay bytes until a node asks for a field; what a node computed stays parsed
/// until something writes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// A tombstone: Kafka's null value.
    #[default]
    Null,
    /// The bytes, as they were read.
    Bytes(Bytes),
    /// A value that a node computed.
    Json(Arc<Json>),
}

/// The bytes are not JSON.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the value is not JSON: {0}")]
pub struct NotJson(pub String);

/// Checks that bytes are JSON without building the value.
///
/// # Errors
/// It is not JSON, or not UTF-8, or has a number beyond the greatest double.
pub fn check_json(bytes: &[u8]) -> Result<(), NotJson> {
    if scan::is_json(bytes) {
        return Ok(());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| NotJson(e.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|e| NotJson(e.to_string()))?;
    number::check_finite(text)
}

impl Value {
    /// Is this a tombstone?
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The value as JSON; a tombstone is `null`. Parses bytes each time: a node that needs fields keeps the result.
    ///
    /// # Errors
    /// The bytes are not JSON, or have a number that JSON here cannot hold.
    pub fn json(&self) -> Result<Arc<Json>, NotJson> {
        match self {
            Value::Null => Ok(Arc::new(Json::Null)),
            Value::Bytes(bytes) => number::read_json(bytes).map(Arc::new),
            Value::Json(json) => Ok(Arc::clone(json)),
        }
    }

    /// The value as bytes to write: `None` is a tombstone.
    #[must_use]
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            Value::Null => None,
            Value::Bytes(bytes) => Some(bytes.clone()),
            Value::Json(json) => Some(Bytes::from(json.to_string())),
        }
    }

    /// For display: JSON if it is JSON, otherwise text (bytes that are not UTF-8 are replaced).
    #[must_use]
    pub fn show(&self) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Bytes(bytes) => number::read_json(bytes)
                .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(bytes).into_owned())),
            Value::Json(json) => (**json).clone(),
        }
    }

    /// As [`Value::show`], as JSON text. A value that is JSON but has a number that nothing here reads stays as it is
    /// written.
    #[must_use]
    pub fn show_text(&self) -> String {
        match self {
            Value::Bytes(bytes) if number::read_json(bytes).is_err() && check_json(bytes).is_ok() => {
                text::compact(&String::from_utf8_lossy(bytes))
            }
            value => value.show().to_string(),
        }
    }

    /// Approximate size in memory, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Value::Null => 0,
            Value::Bytes(bytes) => bytes.len(),
            Value::Json(json) => json_size(json),
        }
    }
}

fn json_size(json: &Json) -> usize {
    match json {
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
        Json::String(s) => s.len() + 24,
        Json::Array(items) => items.iter().map(json_size).sum::<usize>() + 24,
        Json::Object(fields) => fields.iter().map(|(k, v)| k.len() + 24 + json_size(v)).sum::<usize>() + 24,
    }
}

impl From<Json> for Value {
    /// JSON `null` made by a node becomes a tombstone.
    fn from(json: Json) -> Self {
        match json {
            Json::Null => Value::Null,
            json => Value::Json(Arc::new(json)),
        }
    }
}
