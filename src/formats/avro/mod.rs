//! Avro: schemas, and values as JSON. The only place that uses `apache_avro`.
//!
//! The JSON is the plain one that people write, not Avro's JSON encoding: a union is the value itself, bytes are
//! base64, dates and times are text (`2024-01-02`, `12:34:56.789`, `2024-01-02T03:04:05.678Z`), a decimal is text with
//! all its digits. `to_json` and `from_json` have the details; `docs/formats.md` has them as a table.

mod depth;
mod from_json;
mod resolve;
mod time_text;
mod to_json;

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{Name, NamesRef, ResolvedSchema};

use crate::model::{Json, Shape};

/// A schema.
pub struct AvroSchema {
    schema: Schema,
    /// Records, enums and fixed types by full name.
    names: HashMap<Name, Schema>,
    recursive: bool,
}

/// Largest part of a value, in bytes; no Kafka message is larger. The library's own limit is 512 MiB.
const BYTES_MAX: usize = 16 << 20;

impl AvroSchema {
    /// Parses a schema, and those that it refers to.
    ///
    /// # Errors
    /// The text is not an Avro schema, with the reason in words.
    pub fn parse(text: &str, references: &[(String, String)]) -> Result<AvroSchema, String> {
        apache_avro::util::max_allocation_bytes(BYTES_MAX);
        let others: Vec<&str> = references.iter().map(|(_, text)| text.as_str()).collect();
        let (schema, others) = if others.is_empty() {
            (Schema::parse_str(text).map_err(|e| e.to_string())?, Vec::new())
        } else {
            Schema::parse_str_with_list(text, &others).map_err(|e| e.to_string())?
        };
        let mut all: Vec<&Schema> = others.iter().collect();
        all.push(&schema);
        let resolved = ResolvedSchema::try_from(all).map_err(|e| e.to_string())?;
        let names: &NamesRef<'_> = resolved.get_names();
        let names = names.iter().map(|(name, schema)| (name.clone(), (*schema).clone())).collect();
        let recursive = depth::is_recursive(&schema, &names);
        Ok(AvroSchema { schema, names, recursive })
    }

    /// Decodes bytes to JSON. `reader`: the schema to see the value with.
    ///
    /// # Errors
    /// The bytes do not fit the schema, or the schema cannot be resolved to the reader's.
    pub fn decode(&self, mut bytes: &[u8], reader: Option<&AvroSchema>) -> Result<Json, String> {
        if self.recursive {
            depth::check(bytes, &self.schema, &self.names)?;
        }
        let others = self.others();
        let value = apache_avro::from_avro_datum_schemata(&self.schema, others, &mut bytes, None)
            .map_err(|e| format!("no value of the Avro schema: {e}"))?;
        if !bytes.is_empty() {
            return Err(format!("{} bytes are left behind the Avro value", bytes.len()));
        }
        let (value, schema) = match reader {
            Some(reader) => {
                let value = resolve::resolve(value, self, reader)
                    .map_err(|e| format!("cannot be seen with `reader_schema`: {e}"))?;
                (value, reader)
            }
            None => (value, self),
        };
        to_json::json(value, &schema.schema, &schema.names)
    }

    /// Encodes a JSON value, appending to `out`.
    ///
    /// # Errors
    /// The value does not fit; the message names the field.
    pub fn encode(&self, json: &Json, out: &mut Vec<u8>) -> Result<(), String> {
        let value = from_json::value(json, &self.schema, &self.names)?;
        let bytes = if self.names.is_empty() {
            apache_avro::to_avro_datum(&self.schema, value)
        } else {
            apache_avro::to_avro_datum_schemata(&self.schema, self.others(), value)
        };
        out.extend_from_slice(&bytes.map_err(|e| e.to_string())?);
        Ok(())
    }

    /// Whether the schema is text, or text or null. The text of a key is such a schema's value as it is, and may be JSON
    /// for any other schema.
    #[must_use]
    pub fn is_text(&self) -> bool {
        let is_text = |schema: &Schema| matches!(schema, Schema::String | Schema::Uuid | Schema::Enum(_));
        match &self.schema {
            Schema::Union(union) => {
                union.variants().iter().all(|branch| *branch == Schema::Null || is_text(branch))
            }
            schema => is_text(schema),
        }
    }

    /// What is known of its values before any record.
    #[must_use]
    pub fn shape(&self) -> Shape {
        to_json::shape(&self.schema, &self.names, 0)
    }

    /// Schemas that parsing values may refer to: only this one, since it holds all of its names.
    fn others(&self) -> Vec<&Schema> {
        vec![&self.schema]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(json: Json) -> AvroSchema {
        AvroSchema::parse(&json.to_string(), &[]).expect("is a schema")
    }

    fn round(kind: Json, value: Json, bytes: &[u8]) {
        let schema = schema(kind.clone());
        let mut out = Vec::new();
        schema.encode(&value, &mut out).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(out, bytes, "{kind} {value}");
        assert_eq!(schema.decode(bytes, None), Ok(value), "{kind}");
    }

    /// The bytes are written by hand after the specification's section "Binary Encoding".
    #[test]
    fn every_type_has_its_json() {
        round(json!("boolean"), json!(true), &[1]);
        round(json!("int"), json!(-1), &[1]);
        round(json!("long"), json!(64), &[0x80, 1]);
        round(json!("double"), json!(1.5), &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f]);
        round(json!("string"), json!("foo"), &[6, b'f', b'o', b'o']);
        round(json!("bytes"), json!("AP8="), &[4, 0, 255]);
        round(json!({"type": "fixed", "name": "f", "size": 2}), json!("AP8="), &[0, 255]);
        round(json!({"type": "enum", "name": "e", "symbols": ["A", "B"]}), json!("B"), &[2]);
        round(json!({"type": "array", "items": "long"}), json!([3, 27]), &[4, 6, 54, 0]);
        round(json!({"type": "map", "values": "long"}), json!({"a": 1}), &[2, 2, b'a', 2, 0]);
        round(json!(["null", "string"]), Json::Null, &[0]);
        round(json!(["null", "string"]), json!("a"), &[2, 2, b'a']);
        round(json!(["null", "long", "string"]), json!("a"), &[4, 2, b'a']);
    }

    #[test]
    fn logical_types_are_text() {
        round(json!({"type": "int", "logicalType": "date"}), json!("1970-01-03"), &[4]);
        round(json!({"type": "int", "logicalType": "date"}), json!("1969-12-31"), &[1]);
        round(json!({"type": "int", "logicalType": "time-millis"}), json!("00:00:00.064"), &[0x80, 1]);
        let stamp = |unit: &str| json!({"type": "long", "logicalType": unit});
        round(stamp("time-micros"), json!("00:00:00.000064"), &[0x80, 1]);
        round(stamp("timestamp-millis"), json!("1970-01-01T00:00:00.064Z"), &[0x80, 1]);
        round(stamp("timestamp-micros"), json!("1970-01-01T00:00:00.000064Z"), &[0x80, 1]);
        round(stamp("local-timestamp-millis"), json!("1970-01-01T00:00:00.064"), &[0x80, 1]);
        let decimal =
            |scale: u32| json!({"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": scale});
        round(decimal(2), json!("1.28"), &[4, 0, 128]);
        round(decimal(2), json!("-0.01"), &[2, 255]);
        round(decimal(0), json!("5"), &[2, 5]);
        let id = "2b8ba2e8-9c1b-4c4c-8a59-0e2a6c3d9a11";
        let mut bytes = vec![72];
        bytes.extend_from_slice(id.as_bytes());
        round(json!({"type": "string", "logicalType": "uuid"}), json!(id), &bytes);
    }

    fn order() -> AvroSchema {
        schema(json!({"type": "record", "name": "Order", "namespace": "shop", "fields": [
            {"name": "id", "type": "long"},
            {"name": "note", "type": ["null", "string"], "default": null},
            {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
                {"name": "sku", "type": "string"}, {"name": "n", "type": "int", "default": 1}]}}},
            {"name": "first", "type": ["null", "Line"], "default": null}
        ]}))
    }

    #[test]
    fn records_take_defaults_and_name_the_field_that_does_not_fit() {
        let mut out = Vec::new();
        order()
            .encode(&json!({"id": 1, "lines": [{"sku": "a"}], "first": {"sku": "b", "n": 2}}), &mut out)
            .expect("fits");
        let expected =
            json!({"id": 1, "note": null, "lines": [{"sku": "a", "n": 1}], "first": {"sku": "b", "n": 2}});
        assert_eq!(order().decode(&out, None), Ok(expected));
        let refused = |json: Json, part: &str| {
            let error = order().encode(&json, &mut Vec::new()).expect_err("does not fit");
            assert!(error.contains(part), "{error}");
        };
        refused(json!({"id": "x", "lines": []}), "`id`: \"x\" is no long");
        refused(json!({"lines": []}), "`id` is missing");
        refused(json!({"id": 1, "lines": [{"sku": 3}]}), "`lines[0].sku`: 3 is no string");
        refused(json!({"id": 1, "lines": [], "more": 1}), "`more` is not in the schema");
        refused(json!({"id": 1, "lines": [], "first": {}}), "`first.sku` is missing");
        refused(json!(5), "5 is no record Order");
        out.push(0);
        assert!(order().decode(&out, None).is_err_and(|e| e.contains("1 bytes are left")));
        assert!(order().decode(&[2], None).is_err());
    }

    #[test]
    fn a_reader_sees_what_it_knows() {
        let old = schema(json!({"type": "record", "name": "R", "fields": [
            {"name": "id", "type": "int"}, {"name": "gone", "type": "string"}]}));
        let new = schema(json!({"type": "record", "name": "R", "fields": [
            {"name": "id", "type": "long"}, {"name": "tier", "type": "string", "default": "basic"}]}));
        let mut out = Vec::new();
        old.encode(&json!({"id": 7, "gone": "x"}), &mut out).expect("fits");
        assert_eq!(old.decode(&out, Some(&new)), Ok(json!({"id": 7, "tier": "basic"})));
        let other =
            schema(json!({"type": "record", "name": "R", "fields": [{"name": "must", "type": "string"}]}));
        assert!(old.decode(&out, Some(&other)).is_err_and(|e| e.contains("reader_schema")));
    }

    #[test]
    fn types_are_promoted_as_the_specification_says() {
        let round = |writer: Json, value: Json, reader: Json| {
            let (writer, mut out) = (schema(writer), Vec::new());
            writer.encode(&value, &mut out).expect("fits");
            writer.decode(&out, Some(&schema(reader)))
        };
        let logical = |kind: &str, name: &str| json!({"type": kind, "logicalType": name});
        let symbols = |list: Json| json!({"type": "enum", "name": "E", "symbols": list, "default": "A"});
        assert_eq!(round(json!("int"), json!(1), json!("double")), Ok(json!(1.0)));
        assert_eq!(round(json!("string"), json!("a"), json!("bytes")), Ok(json!("YQ==")));
        assert_eq!(round(json!("bytes"), json!("YQ=="), json!(["null", "string"])), Ok(json!("a")));
        assert_eq!(round(json!(["null", "int"]), json!(3), json!("long")), Ok(json!(3)));
        assert_eq!(round(json!(["null", "int"]), Json::Null, json!(["int", "null"])), Ok(Json::Null));
        assert!(round(json!(["null", "int"]), Json::Null, json!("int")).is_err());
        assert_eq!(round(symbols(json!(["A", "B"])), json!("B"), symbols(json!(["A"]))), Ok(json!("A")));
        let millis = logical("long", "timestamp-millis");
        assert_eq!(round(json!("long"), json!(64), millis.clone()), Ok(json!("1970-01-01T00:00:00.064Z")));
        assert_eq!(round(millis.clone(), json!(64), json!("long")), Ok(json!(64)));
        assert!(round(millis, json!(64), logical("long", "timestamp-micros")).is_err());
    }

    /// Reads bytes that fastavro wrote; `make.py` beside them wrote the files.
    #[test]
    fn what_others_wrote_is_read() {
        let all: Json = serde_json::from_str(include_str!("../../../tests/fixtures/registry/fixtures.json"))
            .expect("JSON");
        let hex = all["order_v1_1"].as_str().expect("a fixture");
        let byte = |n| u8::from_str_radix(&hex[n..n + 2], 16).expect("hex");
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        let parse = |text: &str| AvroSchema::parse(text, &[]).expect("is a schema");
        let v1 = parse(include_str!("../../../tests/fixtures/registry/order_v1.avsc"));
        let v2 = parse(include_str!("../../../tests/fixtures/registry/order_v2.avsc"));
        let mut expected = json!({
            "id": 1, "customer": "ann", "amount": "1.25", "count": -1, "at": "2024-01-02T03:04:05.678Z",
            "seen": "2024-01-02T03:04:05.678901Z", "day": "1969-12-31", "uid": "2b8ba2e8-9c1b-4c4c-8a59-0e2a6c3d9a11",
            "status": "PAID", "note": null, "lines": [{"sku": "a", "price": 1.5}, {"sku": "b", "price": 0.25}],
            "attrs": {"gift": true}, "raw": "AP8="
        });
        assert_eq!(v1.decode(&bytes, None), Ok(expected.clone()));
        let mut again = Vec::new();
        v1.encode(&expected, &mut again).expect("fits");
        assert_eq!(again, bytes);
        expected["tier"] = json!("basic");
        expected["weight"] = Json::Null;
        assert_eq!(v1.decode(&bytes, Some(&v2)), Ok(expected));
    }

    #[test]
    fn a_value_without_an_end_is_refused() {
        let list = schema(json!({"type": "record", "name": "L", "fields": [
            {"name": "n", "type": "int"}, {"name": "next", "type": ["null", "L"], "default": null}]}));
        let mut out = Vec::new();
        let value = json!({"n": 1, "next": {"n": 2, "next": null}});
        list.encode(&value, &mut out).expect("fits");
        assert_eq!(list.decode(&out, None), Ok(value));
        let deep = [2, 2].repeat(1_000_000);
        assert_eq!(list.decode(&deep, None), Err("the Avro value is more than 64 levels deep".into()));
        assert_eq!(list.decode(&[2, 2], None), Err("the Avro value ends too early".into()));
        assert_eq!(list.shape().to_string().matches("n: integer").count(), 16);
    }

    #[test]
    fn a_schema_knows_the_types_of_its_fields() {
        let shape = order().shape();
        assert_eq!(
            shape.to_string(),
            "{ id: integer, note: string?, lines: [{ sku: string, n: integer }], first: { sku: string, n: integer }? }"
        );
    }
}
