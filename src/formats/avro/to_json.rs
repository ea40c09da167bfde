//! From an Avro value to JSON.

use std::collections::{BTreeMap, HashMap};

use apache_avro::Schema;
use apache_avro::schema::Name;
use apache_avro::types::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::time_text;
use crate::model::number::shortest;
use crate::model::{Field, Json, Shape};

/// Deeper than this nothing is said about a type: the schema contains itself.
const DEPTH_MAX: usize = 16;

/// Follows a name to the schema it stands for.
pub(super) fn real<'a>(schema: &'a Schema, names: &'a HashMap<Name, Schema>) -> &'a Schema {
    match schema {
        Schema::Ref { name } => names.get(name).unwrap_or(schema),
        other => other,
    }
}

/// A value as JSON. The schema says how many decimal places a decimal has.
pub(super) fn json(value: Value, schema: &Schema, names: &HashMap<Name, Schema>) -> Result<Json, String> {
    let schema = real(schema, names);
    Ok(match value {
        Value::Null => Json::Null,
        Value::Boolean(b) => Json::Bool(b),
        Value::Int(n) => Json::from(n),
        Value::Long(n) => Json::from(n),
        // The shortest decimal that reads back as this float, rather than the exact value of the float as a double.
        Value::Float(n) => number(shortest(n))?,
        Value::Double(n) => number(n)?,
        Value::String(text) | Value::Enum(_, text) => Json::String(text),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => Json::String(BASE64.encode(bytes)),
        Value::Uuid(id) => Json::String(id.to_string()),
        Value::Union(at, value) => {
            let branch = match schema {
                Schema::Union(union) => union.variants().get(at as usize),
                _ => None,
            };
            json(*value, branch.unwrap_or(&Schema::Null), names)?
        }
        Value::Array(items) => {
            let Schema::Array(array) = schema else { return Err("an array without its schema".into()) };
            let items = items.into_iter().map(|item| json(item, &array.items, names));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Map(fields) => {
            let Schema::Map(map) = schema else { return Err("a map without its schema".into()) };
            // Sorted, since an Avro map has no order and the JSON text should be the same each time.
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            let fields = fields.into_iter().map(|(name, value)| Ok((name, json(value, &map.types, names)?)));
            Json::Object(fields.collect::<Result<_, String>>()?)
        }
        Value::Record(fields) => {
            let Schema::Record(record) = schema else { return Err("a record without its schema".into()) };
            let fields = fields.into_iter().zip(&record.fields);
            let fields = fields.map(|((name, value), field)| Ok((name, json(value, &field.schema, names)?)));
            Json::Object(fields.collect::<Result<_, String>>()?)
        }
        Value::Date(days) => Json::String(time_text::date(days)?),
        Value::TimeMillis(n) => Json::String(time_text::of_day(i64::from(n), 1_000)?),
        Value::TimeMicros(n) => Json::String(time_text::of_day(n, 1_000_000)?),
        Value::TimestampMillis(n) => Json::String(time_text::stamp(n, 1_000, false)?),
        Value::TimestampMicros(n) => Json::String(time_text::stamp(n, 1_000_000, false)?),
        Value::TimestampNanos(n) => Json::String(time_text::stamp(n, 1_000_000_000, false)?),
        Value::LocalTimestampMillis(n) => Json::String(time_text::stamp(n, 1_000, true)?),
        Value::LocalTimestampMicros(n) => Json::String(time_text::stamp(n, 1_000_000, true)?),
        Value::LocalTimestampNanos(n) => Json::String(time_text::stamp(n, 1_000_000_000, true)?),
        Value::Decimal(decimal) => {
            let Schema::Decimal(schema) = schema else { return Err("a decimal without its schema".into()) };
            let bytes = <Vec<u8>>::try_from(decimal).map_err(|e| e.to_string())?;
            Json::String(decimal_text(&bytes, schema.scale)?)
        }
        Value::BigDecimal(decimal) => Json::String(decimal.to_plain_string()),
        Value::Duration(duration) => {
            let part = |part: u32| Json::from(part);
            serde_json::json!({
                "months": part(duration.months().into()),
                "days": part(duration.days().into()),
                "millis": part(duration.millis().into())
            })
        }
    })
}

fn number(n: f64) -> Result<Json, String> {
    serde_json::Number::from_f64(n).map(Json::Number).ok_or_else(|| format!("{n} is no JSON number"))
}

/// A decimal as text: two's complement, big-endian, with `scale` decimal places.
fn decimal_text(bytes: &[u8], scale: usize) -> Result<String, String> {
    if bytes.len() > 16 {
        return Err("a decimal of more than 38 digits".into());
    }
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 16];
    all[16 - bytes.len()..].copy_from_slice(bytes);
    let unscaled = i128::from_be_bytes(all);
    let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    let (sign, point) = (if unscaled < 0 { "-" } else { "" }, if scale > 0 { "." } else { "" });
    Ok(format!("{sign}{whole}{point}{part}"))
}

/// What is known of the JSON of a schema's values before any record.
pub(super) fn shape(schema: &Schema, names: &HashMap<Name, Schema>, depth: usize) -> Shape {
    if depth > DEPTH_MAX {
        return Shape::Any;
    }
    let inner = |schema: &Schema| shape(schema, names, depth + 1);
    match real(schema, names) {
        Schema::Boolean => Shape::Boolean,
        Schema::Int | Schema::Long => Shape::Integer,
        Schema::Float | Schema::Double => Shape::Number,
        Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => Shape::Timestamp,
        Schema::Bytes
        | Schema::String
        | Schema::Enum(_)
        | Schema::Fixed(_)
        | Schema::Decimal(_)
        | Schema::BigDecimal
        | Schema::Uuid
        | Schema::Date
        | Schema::TimeMillis
        | Schema::TimeMicros
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Shape::String,
        Schema::Array(array) => Shape::Array(Box::new(inner_field(&array.items, names, depth))),
        Schema::Map(map) => {
            Shape::Object { fields: Vec::new(), rest: Some(Box::new(inner_field(&map.types, names, depth))) }
        }
        Schema::Record(record) => Shape::Object {
            fields: record
                .fields
                .iter()
                .map(|field| (field.name.clone(), inner_field(&field.schema, names, depth)))
                .collect(),
            rest: None,
        },
        Schema::Union(union) => match union.variants() {
            [one] => inner(one),
            _ => Shape::Any,
        },
        Schema::Null | Schema::Duration | Schema::Ref { .. } => Shape::Any,
    }
}

/// A field; a union with null is an optional field of the other type.
fn inner_field(schema: &Schema, names: &HashMap<Name, Schema>, depth: usize) -> Field {
    if let Schema::Union(union) = real(schema, names)
        && let [Schema::Null, other] | [other, Schema::Null] = union.variants()
    {
        return Field { shape: shape(other, names, depth + 1), optional: true };
    }
    Field { shape: shape(schema, names, depth + 1), optional: false }
}
