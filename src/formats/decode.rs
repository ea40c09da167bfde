//! How a source decodes the keys and values it reads.

use std::sync::Arc;

use bytes::Bytes;

use super::named::Parsed;
use super::schemas::{Formats, Found, NodeFormats};
use super::settings::Format;
use super::{key, primitive, protobuf, wire};
use crate::model::{Json, Shape, Value, check_json, key_text, read_json};

/// Why a key or a value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// It is not JSON.
    #[error("the value is not JSON: {0}")]
    NotJson(String),
    /// The bytes are not of the format.
    #[error("{0}")]
    Format(String),
    /// The value does not fit the source's `schema`.
    #[error("{0}")]
    Schema(String),
}

/// Decodes the keys and values of one source. Pure, except that it looks up schemas in [`Formats`]; those never change.
pub struct Decoder {
    key: Format,
    value: Format,
    formats: Arc<Formats>,
    node: NodeFormats,
    shape: Option<Shape>,
}

impl Decoder {
    /// A decoder for a source with these formats. `shape`: what its values must look like (the source's `schema`).
    #[must_use]
    pub fn new(
        key: Format,
        value: Format,
        formats: Arc<Formats>,
        name: &str,
        shape: Option<Shape>,
    ) -> Decoder {
        let node = formats.node(name);
        Decoder { key, value, formats, node, shape }
    }

    /// The key as the topology sees it, which is text.
    ///
    /// # Errors
    /// See [`Bad`].
    pub fn key(&self, bytes: &Bytes) -> Result<Option<Bytes>, Bad> {
        if self.key == Format::Bytes || !self.formats.is_live() {
            return Ok(Some(bytes.clone()));
        }
        let key = match self.key {
            Format::Json => key::decode(bytes),
            format => self.json(format, bytes, None).map(|json| key_text(&json)),
        };
        key.map_err(|e| Bad::Format(format!("the key: {e}")))
    }

    /// The value as the topology sees it; `None` if the bytes stay as they are. JSON `null` is no value, as everywhere.
    ///
    /// # Errors
    /// See [`Bad`].
    pub fn value(&self, value: &Value) -> Result<Option<Value>, Bad> {
        let bytes = match value {
            Value::Null => return Ok(None),
            Value::Bytes(bytes) => bytes,
            Value::Json(json) if json.is_null() => return Ok(Some(Value::Null)),
            Value::Json(json) => {
                self.check(json)?;
                return Ok(None);
            }
        };
        let format =
            if self.formats.is_live() || self.value == Format::Bytes { self.value } else { Format::Json };
        match format {
            Format::Bytes => Ok(None),
            Format::Json if bytes.trim_ascii() == b"null" => Ok(Some(Value::Null)),
            // Only checked: no field is asked for yet.
            Format::Json if self.shape.is_none() => {
                check_json(bytes).map_err(|e| Bad::NotJson(e.0))?;
                Ok(None)
            }
            Format::Json => {
                let json = read_json(bytes).map_err(|e| Bad::NotJson(e.0))?;
                self.check(&json)?;
                Ok(Some(Value::Json(Arc::new(json))))
            }
            format => {
                let json = self
                    .json(format, bytes, self.node.reader.as_deref())
                    .map_err(|e| Bad::Format(format!("the value: {e}")))?;
                if !json.is_null() {
                    self.check(&json)?;
                }
                Ok(Some(Value::from(json)))
            }
        }
    }

    fn check(&self, json: &Json) -> Result<(), Bad> {
        self.shape.as_ref().map_or(Ok(()), |shape| shape.check(json).map_err(Bad::Schema))
    }

    fn json(&self, format: Format, bytes: &[u8], reader: Option<&Parsed>) -> Result<Json, String> {
        if !format.has_schema() {
            return primitive::decode(format, bytes);
        }
        let (id, rest) = wire::split(bytes)?;
        let parsed = match self.formats.known(id) {
            Some(Found::Schema(parsed)) => parsed,
            Some(Found::None(why)) => return Err(why.to_string()),
            None => return Err(format!("the schema id {id} was not looked up")),
        };
        match (&*parsed, format) {
            (Parsed::Avro(schema), Format::Avro) => {
                let reader = match reader {
                    Some(Parsed::Avro(reader)) => Some(&**reader),
                    _ => None,
                };
                schema.decode(rest, reader)
            }
            (Parsed::Protobuf(schema), Format::Protobuf) => {
                let (path, rest) = wire::split_path(rest)?;
                protobuf::decode(&schema.message_at(&path)?, rest)
            }
            (Parsed::Avro(_), _) => Err(format!("the schema {id} is Avro, and the format is protobuf")),
            (Parsed::Protobuf(_), _) => Err(format!("the schema {id} is Protobuf, and the format is avro")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::NamedSchemas;
    use serde_json::json;

    fn decoder(key: Format, value: Format, live: bool, shape: Option<Json>) -> Decoder {
        let schemas = NamedSchemas::default();
        let formats = if live { Formats::live(&schemas) } else { Formats::unconnected(&schemas) };
        let formats = Arc::new(formats);
        formats.put(
            1,
            "AVRO",
            r#"{"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"}]}"#,
        );
        formats.put(2, "PROTOBUF", "syntax = \"proto3\"; message P { int32 id = 1; }");
        formats.put(3, "JSON", "{}");
        let shape =
            shape.map(|json| serde_json::from_value::<crate::model::Field>(json).expect("is a shape").shape);
        Decoder::new(key, value, formats, "n", shape)
    }

    fn check(format: Format, bytes: &[u8], expected: Result<Json, &str>) {
        let decoder = decoder(Format::Json, format, true, None);
        let got = decoder.value(&Value::Bytes(Bytes::copy_from_slice(bytes)));
        match (got, expected) {
            (Ok(value), Ok(json)) => assert_eq!(value.map(|v| v.show()).unwrap_or_default(), json),
            (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
            (got, expected) => panic!("{got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn bytes_become_json_by_their_format() {
        check(Format::Json, b"{\"a\":1}", Ok(Json::Null));
        check(Format::Json, b"{", Err("the value is not JSON"));
        check(Format::Json, b"\"\xff\"", Err("the value is not JSON: invalid utf-8"));
        check(Format::Bytes, b"\xff", Ok(Json::Null));
        check(Format::String, b"hi", Ok(json!("hi")));
        check(Format::Long, &7i64.to_be_bytes(), Ok(json!(7)));
        check(Format::Long, b"7", Err("the value: 1 bytes are no long"));
        check(Format::Avro, &[0, 0, 0, 0, 1, 14], Ok(json!({"id": 7})));
        check(Format::Protobuf, &[0, 0, 0, 0, 2, 0, 8, 7], Ok(json!({"id": 7})));
    }

    #[test]
    fn bad_bytes_say_why() {
        check(Format::Avro, &[1, 0, 0, 0, 1, 14], Err("the first byte is 1, not 0"));
        check(Format::Avro, &[0, 0], Err("2 bytes are too few"));
        check(Format::Avro, &[0, 0, 0, 0, 1], Err("no value of the Avro schema"));
        check(Format::Avro, &[0, 0, 0, 0, 2, 14], Err("the schema 2 is Protobuf, and the format is avro"));
        check(Format::Protobuf, &[0, 0, 0, 0, 1, 0], Err("the schema 1 is Avro, and the format is protobuf"));
        check(Format::Avro, &[0, 0, 0, 0, 3, 14], Err("it is a schema of type JSON"));
        check(Format::Avro, &[0, 0, 0, 0, 9, 14], Err("the schema id 9 was not looked up"));
        check(Format::Protobuf, &[0, 0, 0, 0, 2, 2, 10], Err("no message at index [5]"));
    }

    #[test]
    fn keys_become_text() {
        let check = |format: Format, bytes: &[u8], expected: Result<&str, &str>| {
            let got = decoder(format, Format::Json, true, None).key(&Bytes::copy_from_slice(bytes));
            match (got, expected) {
                (Ok(key), Ok(text)) => assert_eq!(key.as_deref(), Some(text.as_bytes())),
                (Err(e), Err(part)) => assert!(e.to_string().contains(part), "{e}"),
                (got, expected) => panic!("{got:?}, not {expected:?}"),
            }
        };
        check(Format::Long, &42i64.to_be_bytes(), Ok("42"));
        check(Format::String, b"a", Ok("a"));
        check(Format::Avro, &[0, 0, 0, 0, 1, 14], Ok("{\"id\":7}"));
        check(Format::Long, b"42", Err("the key: 2 bytes are no long"));
        check(Format::Double, &100f64.to_be_bytes(), Ok("100"));
        check(Format::Json, b"{\"b\": 1.0, \"a\": 2}", Ok("{\"a\":2,\"b\":1}"));
        check(Format::Json, b"\"a\"", Ok("a"));
        check(Format::Json, b"a", Err("the key: it is not JSON"));
        check(Format::String, b"\xff", Err("the key: the bytes are no UTF-8 text"));
        check(Format::Bytes, b"x", Ok("x"));
    }

    #[test]
    fn null_is_no_value_and_no_key_in_any_format() {
        for live in [true, false] {
            for shape in [None, Some(json!({"id": "integer"}))] {
                let decoder = decoder(Format::Json, Format::Json, live, shape);
                for value in [Value::Bytes(" null\n".into()), Value::Json(Arc::new(Json::Null))] {
                    assert_eq!(decoder.value(&value), Ok(Some(Value::Null)));
                }
                assert_eq!(decoder.value(&Value::Null), Ok(None));
            }
        }
        let of = |key, value| decoder(key, value, true, None);
        assert_eq!(of(Format::Json, Format::Json).key(&"null".into()), Ok(None));
        assert_eq!(of(Format::Bytes, Format::Json).key(&"null".into()), Ok(Some("null".into())), "text");
        assert_eq!(
            of(Format::Bytes, Format::Json).key(&Bytes::new()),
            Ok(Some(Bytes::new())),
            "an empty key"
        );
        let text = Value::from(json!("null"));
        assert_eq!(of(Format::Bytes, Format::String).value(&Value::Bytes("null".into())), Ok(Some(text)));
        let nullable = of(Format::Avro, Format::Avro);
        nullable.formats.put(4, "AVRO", r#"["null", "long"]"#);
        let null = Bytes::from_static(&[0, 0, 0, 0, 4, 0]);
        assert_eq!(nullable.value(&Value::Bytes(null.clone())), Ok(Some(Value::Null)));
        assert_eq!(nullable.key(&null), Ok(None));
    }

    #[test]
    fn a_value_that_does_not_fit_the_schema_is_refused() {
        let decoder = |live| decoder(Format::Json, Format::Json, live, Some(json!({"id": "integer"})));
        for live in [true, false] {
            let value = |text: &'static str| decoder(live).value(&Value::Bytes(Bytes::from(text)));
            assert_eq!(value("{\"id\":1}"), Ok(Some(Value::from(json!({"id": 1})))));
            assert_eq!(
                value("{\"id\":\"x\"}"),
                Err(Bad::Schema("the field `id` is \"x\", no integer".into()))
            );
            assert_eq!(decoder(live).value(&Value::Null), Ok(None));
        }
    }

    #[test]
    fn where_nothing_is_connected_values_are_json() {
        let decoder = decoder(Format::Long, Format::Avro, false, None);
        assert_eq!(decoder.value(&Value::Bytes(Bytes::from("{\"id\":7}"))), Ok(None));
        assert_eq!(decoder.key(&Bytes::from("42")), Ok(Some(Bytes::from("42"))));
    }
}
