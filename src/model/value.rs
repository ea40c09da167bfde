//! Values: bytes until something asks for a field.

use std::sync::Arc;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::scan;

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
/// It is not JSON, or not UTF-8.
pub fn check_json(bytes: &[u8]) -> Result<(), NotJson> {
    if scan::is_json(bytes) {
        return Ok(());
    }
    let text = std::str::from_utf8(bytes).map_err(|e| NotJson(e.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|e| NotJson(e.to_string()))
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
    /// The bytes are not JSON.
    pub fn json(&self) -> Result<Arc<Json>, NotJson> {
        match self {
            Value::Null => Ok(Arc::new(Json::Null)),
            Value::Bytes(bytes) => {
                serde_json::from_slice(bytes).map(Arc::new).map_err(|e| NotJson(e.to_string()))
            }
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
            Value::Bytes(bytes) => serde_json::from_slice(bytes)
                .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(bytes).into_owned())),
            Value::Json(json) => (**json).clone(),
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

/// The bytes of a key made from JSON: a string as it is, anything else as JSON text. `null` gives no key.
#[must_use]
pub fn key_text(json: &Json) -> Option<Bytes> {
    match json {
        Json::Null => None,
        Json::String(s) => Some(Bytes::from(s.clone())),
        other => Some(Bytes::from(other.to_string())),
    }
}
