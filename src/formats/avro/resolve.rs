//! Schema resolution: a value as a reader's schema sees it (the specification's section "Schema Resolution").
//!
//! The library can do this too (`Value::resolve`), but it refuses decimals with fewer bytes than their precision allows
//! (apache-avro 0.21), which is most of them.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::Name;
use apache_avro::types::Value;

use super::to_json::real;
use super::{AvroSchema, from_json};
use crate::model::{Json, number};

/// Converts a value of the writer's schema to the reader's.
pub(super) fn resolve(value: Value, writer: &AvroSchema, reader: &AvroSchema) -> Result<Value, String> {
    let both = Both { writer: &writer.names, reader: &reader.names };
    both.value(value, &writer.schema, &reader.schema)
}

struct Both<'a> {
    writer: &'a HashMap<Name, Schema>,
    reader: &'a HashMap<Name, Schema>,
}

impl Both<'_> {
    fn value(&self, value: Value, writer: &Schema, reader: &Schema) -> Result<Value, String> {
        let (writer, reader) = (real(writer, self.writer), real(reader, self.reader));
        if let (Value::Union(at, inner), Schema::Union(union)) = (&value, writer) {
            let branch = union.variants().get(*at as usize).ok_or("no such branch of a union")?;
            return self.value((**inner).clone(), branch, reader);
        }
        match (value, reader) {
            (value, Schema::Union(union)) => {
                let branches = || union.variants().iter().enumerate();
                // A branch of the same type is preferred to one that merely accepts the value.
                let same = branches().filter(|(_, branch)| self.is_same(writer, branch));
                for (at, branch) in same.chain(branches()) {
                    if let Ok(found) = self.value(value.clone(), writer, branch) {
                        return Ok(Value::Union(u32::try_from(at).unwrap_or(0), Box::new(found)));
                    }
                }
                Err("no branch of the reader's union takes the value".into())
            }
            (Value::Record(mut given), Schema::Record(record)) => {
                let Schema::Record(written) = writer else {
                    return Err("a record without its schema".into());
                };
                let mut out = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    let is_it = |name: &str| {
                        name == field.name || field.aliases.iter().flatten().any(|alias| alias == name)
                    };
                    let value = match written.fields.iter().position(|w| is_it(&w.name)) {
                        Some(at) => {
                            let value = given.get_mut(at).map(|(_, v)| std::mem::replace(v, Value::Null));
                            let value = value.ok_or_else(|| format!("`{}` is not there", field.name))?;
                            self.value(value, &written.fields[at].schema, &field.schema)
                                .map_err(|e| format!("`{}`: {e}", field.name))?
                        }
                        None => match &field.default {
                            Some(default) => from_json::default(default, &field.schema, self.reader)?,
                            None => return Err(format!("`{}` is missing and has no default", field.name)),
                        },
                    };
                    out.push((field.name.clone(), value));
                }
                Ok(Value::Record(out))
            }
            (Value::Array(items), Schema::Array(array)) => {
                let Schema::Array(written) = writer else { return Err("an array without its schema".into()) };
                let items = items.into_iter().map(|item| self.value(item, &written.items, &array.items));
                Ok(Value::Array(items.collect::<Result<_, _>>()?))
            }
            (Value::Map(fields), Schema::Map(map)) => {
                let Schema::Map(written) = writer else { return Err("a map without its schema".into()) };
                let field = |(name, value)| Ok((name, self.value(value, &written.types, &map.types)?));
                Ok(Value::Map(fields.into_iter().map(field).collect::<Result<_, String>>()?))
            }
            (Value::Enum(_, symbol), Schema::Enum(symbols)) => {
                let symbol = match symbols.symbols.contains(&symbol) {
                    true => symbol,
                    false => {
                        symbols.default.clone().ok_or_else(|| format!("`{symbol}` is no symbol there"))?
                    }
                };
                let at = symbols.symbols.iter().position(|s| *s == symbol).unwrap_or(0);
                Ok(Value::Enum(u32::try_from(at).unwrap_or(0), symbol))
            }
            (Value::Decimal(decimal), Schema::Decimal(reader)) => match writer {
                Schema::Decimal(writer) if writer.scale == reader.scale => Ok(Value::Decimal(decimal)),
                _ => Err("the decimals have different scales".into()),
            },
            (Value::Fixed(size, bytes), Schema::Fixed(fixed)) if fixed.size == size => {
                Ok(Value::Fixed(size, bytes))
            }
            (value, reader) => scalar(&value, reader).ok_or_else(|| {
                format!("a value of another type: {value:?} where {reader:?} is wanted")
                    .chars()
                    .take(200)
                    .collect()
            }),
        }
    }

    fn is_same(&self, writer: &Schema, reader: &Schema) -> bool {
        let reader = real(reader, self.reader);
        match (writer.name(), reader.name()) {
            (Some(a), Some(b)) => a.name == b.name,
            (None, None) => std::mem::discriminant(writer) == std::mem::discriminant(reader),
            _ => false,
        }
    }
}

/// Numbers, text and bytes, with the specification's promotions. A value of a logical type becomes the same logical
/// type or its base type. A whole number that the float or the double would round is refused.
fn scalar(value: &Value, reader: &Schema) -> Option<Value> {
    let whole = match value {
        Value::Int(n) | Value::Date(n) | Value::TimeMillis(n) => Some(i64::from(*n)),
        Value::Long(n)
        | Value::TimeMicros(n)
        | Value::TimestampMillis(n)
        | Value::TimestampMicros(n)
        | Value::TimestampNanos(n)
        | Value::LocalTimestampMillis(n)
        | Value::LocalTimestampMicros(n)
        | Value::LocalTimestampNanos(n) => Some(*n),
        _ => None,
    };
    let plain = matches!(value, Value::Int(_) | Value::Long(_));
    let small = whole.and_then(|n| i32::try_from(n).ok());
    // As another logical type the value would mean something else.
    let long = |own: bool| whole.filter(|_| own || plain);
    Some(match (reader, value) {
        (Schema::Null, Value::Null)
        | (Schema::Boolean, Value::Boolean(_))
        | (Schema::Double, Value::Double(_))
        | (Schema::Float, Value::Float(_))
        | (Schema::String, Value::String(_))
        | (Schema::Bytes, Value::Bytes(_))
        | (Schema::Uuid, Value::Uuid(_))
        | (Schema::BigDecimal, Value::BigDecimal(_))
        | (Schema::Duration, Value::Duration(_)) => value.clone(),
        (Schema::Double, Value::Float(n)) => Value::Double(f64::from(*n)),
        (Schema::Double, _) => Value::Double(number::double(&Json::from(whole?))?),
        (Schema::Float, _) => Value::Float(number::float(&Json::from(whole?))?),
        (Schema::Int, _) => Value::Int(small?),
        (Schema::Long, _) => Value::Long(whole?),
        (Schema::Date, Value::Date(_) | Value::Int(_)) => Value::Date(small?),
        (Schema::TimeMillis, Value::TimeMillis(_) | Value::Int(_)) => Value::TimeMillis(small?),
        (Schema::TimeMicros, v) => Value::TimeMicros(long(matches!(v, Value::TimeMicros(_)))?),
        (Schema::TimestampMillis, v) => Value::TimestampMillis(long(matches!(v, Value::TimestampMillis(_)))?),
        (Schema::TimestampMicros, v) => Value::TimestampMicros(long(matches!(v, Value::TimestampMicros(_)))?),
        (Schema::TimestampNanos, v) => Value::TimestampNanos(long(matches!(v, Value::TimestampNanos(_)))?),
        (Schema::LocalTimestampMillis, v) => {
            Value::LocalTimestampMillis(long(matches!(v, Value::LocalTimestampMillis(_)))?)
        }
        (Schema::LocalTimestampMicros, v) => {
            Value::LocalTimestampMicros(long(matches!(v, Value::LocalTimestampMicros(_)))?)
        }
        (Schema::LocalTimestampNanos, v) => {
            Value::LocalTimestampNanos(long(matches!(v, Value::LocalTimestampNanos(_)))?)
        }
        (Schema::String, Value::Bytes(bytes)) => Value::String(String::from_utf8(bytes.clone()).ok()?),
        (Schema::String, Value::Uuid(id)) => Value::String(id.to_string()),
        (Schema::Bytes, Value::String(text)) => Value::Bytes(text.clone().into_bytes()),
        (Schema::Uuid, Value::String(_)) => value.clone().resolve(&Schema::Uuid).ok()?,
        _ => return None,
    })
}
