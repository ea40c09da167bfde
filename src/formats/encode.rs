//! How a sink encodes the keys and values it writes.

use std::sync::Arc;

use bytes::Bytes;

use super::schemas::{Formats, NodeFormats, Parsed, Slot, Writer};
use super::settings::Format;
use super::{primitive, protobuf, wire};
use crate::model::{EvalError, Json, Value};

/// Encodes the keys and values of one sink.
pub struct Encoder {
    key: Format,
    value: Format,
    formats: Arc<Formats>,
    node: NodeFormats,
}

impl Encoder {
    /// An encoder for a sink with these formats; `None` if keys and values are written as they are.
    #[must_use]
    pub fn new(key: Format, value: Format, formats: &Arc<Formats>, name: &str) -> Option<Encoder> {
        let plain = key.is_text() && matches!(value, Format::Json | Format::Bytes);
        (!plain).then(|| Encoder { key, value, formats: Arc::clone(formats), node: formats.node(name) })
    }

    /// Whether the results are what is to be written. Where nothing is connected (`test`, `simulate`, `dev`) they only
    /// tell whether a value would fit.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.formats.is_live()
    }

    /// Encodes a key.
    ///
    /// # Errors
    /// The key does not fit.
    pub fn key(&self, key: Option<&Bytes>) -> Result<Option<Bytes>, EvalError> {
        let Some(key) = key.filter(|_| !self.key.is_text()) else { return Ok(key.cloned()) };
        let text = String::from_utf8_lossy(key);
        let slot = self.node.key.as_deref();
        let json = match slot.and_then(|slot| self.writer(slot)).map(|(_, writer)| &*writer.schema) {
            Some(Parsed::Avro(schema)) if schema.is_text() => Json::String(text.into_owned()),
            _ => serde_json::from_str(&text).unwrap_or_else(|_| Json::String(text.into_owned())),
        };
        self.bytes(self.key, &json, slot).map(Some).map_err(|e| EvalError::Failed(format!("the key: {e}")))
    }

    /// Encodes a value; a tombstone stays a tombstone.
    ///
    /// # Errors
    /// The value does not fit.
    pub fn value(&self, value: &Value) -> Result<Option<Bytes>, EvalError> {
        if value.is_null() || matches!(self.value, Format::Json | Format::Bytes) {
            return Ok(value.bytes());
        }
        let json = value.json()?;
        let bytes = self.bytes(self.value, &json, self.node.value.as_deref());
        bytes.map(Some).map_err(|e| {
            EvalError::Failed(format!("the value cannot be written as {}: {e}", self.value.name()))
        })
    }

    fn bytes(&self, format: Format, json: &Json, slot: Option<&Slot>) -> Result<Bytes, String> {
        if !format.has_schema() {
            return primitive::encode(format, json);
        }
        let Some((id, writer)) = slot.and_then(|slot| self.writer(slot)) else {
            return if self.is_live() {
                Err("the sink's schema was not looked up".into())
            } else {
                // The schema is in the registry, which is not connected: there is nothing to check against.
                Ok(Bytes::new())
            };
        };
        let mut out = wire::header(id);
        match (&*writer.schema, &writer.message) {
            (Parsed::Avro(schema), _) => schema.encode(json, &mut out)?,
            (Parsed::Protobuf(_), Some((message, path))) => {
                wire::put_path(path, &mut out);
                protobuf::encode(message, json, &mut out)?;
            }
            (Parsed::Protobuf(_), None) => return Err("the schema has no message".into()),
        }
        Ok(Bytes::from(out))
    }

    /// The schema with the registry's id; where nothing is connected, the file's schema without an id.
    fn writer<'a>(&self, slot: &'a Slot) -> Option<(u32, &'a Writer)> {
        if self.is_live() {
            return slot.live.get().map(|(id, writer)| (*id, writer));
        }
        slot.local.as_ref().map(|writer| (0, writer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::WriterSchema;
    use serde_json::json;

    #[test]
    fn a_sink_that_changes_nothing_has_no_encoder() {
        let formats = Arc::new(Formats::default());
        let plain = |key, value| Encoder::new(key, value, &formats, "n").is_none();
        assert!(plain(Format::String, Format::Json) && plain(Format::Json, Format::Bytes));
        assert!(!plain(Format::Long, Format::Json) && !plain(Format::Json, Format::String));
    }

    #[test]
    fn keys_and_values_are_written_in_their_format() {
        let formats = Arc::new(Formats::default());
        formats.go_live();
        let encoder = Encoder::new(Format::Long, Format::String, &formats, "n").expect("changes something");
        assert_eq!(
            encoder.key(Some(&Bytes::from("42"))),
            Ok(Some(Bytes::copy_from_slice(&42i64.to_be_bytes())))
        );
        assert_eq!(encoder.key(None), Ok(None));
        assert!(
            encoder.key(Some(&Bytes::from("x"))).is_err_and(|e| e.to_string() == "the key: \"x\" is no long")
        );
        assert_eq!(encoder.value(&Value::from(json!("hi"))), Ok(Some(Bytes::from("hi"))));
        assert_eq!(encoder.value(&Value::Bytes(Bytes::from("\"hi\""))), Ok(Some(Bytes::from("hi"))));
        assert_eq!(encoder.value(&Value::Null), Ok(None));
        assert!(encoder.value(&Value::Bytes(Bytes::from("hi"))).is_err());
    }

    #[test]
    fn a_schema_beside_the_file_is_held_to_without_a_registry() {
        let mut formats = Formats::default();
        let schema = WriterSchema {
            inline: Some(
                r#"{"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"}]}"#.into(),
            ),
            ..WriterSchema::default()
        };
        formats.add_writer("n", "t", false, Format::Avro, &schema).expect("is a schema");
        let encoder =
            Encoder::new(Format::Json, Format::Avro, &Arc::new(formats), "n").expect("changes something");
        assert!(!encoder.is_live());
        assert_eq!(
            encoder.value(&Value::from(json!({"id": 7}))),
            Ok(Some(Bytes::from_static(&[0, 0, 0, 0, 0, 14])))
        );
        let error = encoder.value(&Value::from(json!({"id": "x"}))).expect_err("does not fit");
        assert_eq!(error.to_string(), "the value cannot be written as avro: `id`: \"x\" is no long");
    }
}
