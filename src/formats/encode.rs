//! How a sink encodes the keys and values it writes.

use std::sync::Arc;

use bytes::Bytes;

use super::named::{Parsed, Writer};
use super::schemas::{Formats, NodeFormats, Slot};
use super::settings::Format;
use super::{key, primitive, protobuf, wire};
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
        let failed = |e: String| EvalError::Failed(format!("the key: {e}"));
        let text = std::str::from_utf8(key).map_err(|e| failed(format!("it is no text: {e}")))?;
        if self.key == Format::Json {
            return key::encode(text).map(Some).map_err(failed);
        }
        let slot = self.node.key.as_deref();
        let is_text = match slot.and_then(|slot| self.writer(slot)).map(|(_, writer)| &*writer.schema) {
            Some(Parsed::Avro(schema)) => schema.is_text(),
            _ => false,
        };
        let mut refused = None;
        for json in key::candidates(text).filter(|json| !is_text || json.is_string()) {
            match self.bytes(self.key, &json, slot) {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(e) => refused = refused.or(Some(e)),
            }
        }
        Err(failed(refused.unwrap_or_default()))
    }

    /// Encodes a value; a tombstone stays a tombstone, and JSON `null` is one.
    ///
    /// # Errors
    /// The value does not fit.
    pub fn value(&self, value: &Value) -> Result<Option<Bytes>, EvalError> {
        if value.is_null() || matches!(self.value, Format::Json | Format::Bytes) {
            return Ok(value.bytes());
        }
        let json = value.json()?;
        if json.is_null() {
            return Ok(None);
        }
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
        slot.local().map(|writer| (0, writer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{NamedSchemas, WriterSchema};
    use serde_json::json;

    #[test]
    fn a_sink_that_changes_nothing_has_no_encoder() {
        let formats = Arc::new(Formats::default());
        let plain = |key, value| Encoder::new(key, value, &formats, "n").is_none();
        assert!(plain(Format::String, Format::Json) && plain(Format::Bytes, Format::Bytes));
        assert!(!plain(Format::Json, Format::Json), "keys in JSON are not their text");
        assert!(!plain(Format::Long, Format::Json) && !plain(Format::Json, Format::String));
    }

    #[test]
    fn keys_and_values_are_written_in_their_format() {
        let formats = Arc::new(Formats::live(&NamedSchemas::default()));
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
    fn a_key_is_what_its_text_was_before() {
        let encoder = |schema: &str| {
            let mut schemas = NamedSchemas::default();
            let schema = WriterSchema { inline: Some(schema.into()), ..WriterSchema::default() };
            schemas.add_writer("n", "t", true, Format::Avro, &schema).expect("is a schema");
            let formats = Arc::new(Formats::unconnected(&schemas));
            Encoder::new(Format::Avro, Format::Json, &formats, "n").expect("changes something")
        };
        let check = |schema: &str, text: &str, want: &[u8]| {
            let bytes = encoder(schema).key(Some(&Bytes::copy_from_slice(text.as_bytes())));
            let header: &[u8] = &[0, 0, 0, 0, 0];
            assert_eq!(bytes, Ok(Some(Bytes::from([header, want].concat()))), "{schema} {text}");
        };
        for text in ["123", "true", "{}", "null", "\"q\"", "a", ""] {
            let length = u8::try_from(text.len() * 2).expect("short");
            check("\"string\"", text, &[&[length][..], text.as_bytes()].concat());
            check(r#"["null", "string"]"#, text, &[&[2, length][..], text.as_bytes()].concat());
        }
        check("\"long\"", "5", &[10]);
        check(r#"["null", "long"]"#, "5", &[2, 10]);
        check(r#"["null", "long", "string"]"#, "5", &[2, 10]);
        check(r#"["null", "long", "string"]"#, "5x", &[4, 4, b'5', b'x']);
        check(r#"["null", "long", "string"]"#, "null", &[4, 8, b'n', b'u', b'l', b'l']);
        for (schema, text) in
            [("\"long\"", ""), ("\"long\"", "null"), (r#"["null", "long"]"#, "null"), ("\"long\"", "1e30")]
        {
            assert!(encoder(schema).key(Some(&Bytes::from(text))).is_err(), "{schema} {text}");
        }
        assert_eq!(encoder(r#"["null", "string"]"#).key(None), Ok(None), "no key is Kafka's null key");
        assert!(encoder("\"string\"").key(Some(&Bytes::from_static(b"\xff"))).is_err());
    }

    #[test]
    fn a_schema_beside_the_file_is_held_to_without_a_registry() {
        let mut schemas = NamedSchemas::default();
        let schema = WriterSchema {
            inline: Some(
                r#"{"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"}]}"#.into(),
            ),
            ..WriterSchema::default()
        };
        schemas.add_writer("n", "t", false, Format::Avro, &schema).expect("is a schema");
        let encoder =
            Encoder::new(Format::Json, Format::Avro, &Arc::new(Formats::unconnected(&schemas)), "n")
                .expect("changes something");
        assert!(!encoder.is_live());
        assert_eq!(
            encoder.value(&Value::from(json!({"id": 7}))),
            Ok(Some(Bytes::from_static(&[0, 0, 0, 0, 0, 14])))
        );
        let error = encoder.value(&Value::from(json!({"id": "x"}))).expect_err("does not fit");
        assert_eq!(error.to_string(), "the value cannot be written as avro: `id`: \"x\" is no long");
    }
}
