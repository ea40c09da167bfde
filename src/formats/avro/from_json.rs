//! From JSON to an Avro value. Strict: nothing is dropped, truncated or guessed.

use std::collections::HashMap;
use std::fmt::Write as _;

use apache_avro::schema::{Name, RecordSchema};
use apache_avro::types::Value;
use apache_avro::{Days, Decimal, Duration, Millis, Months, Schema};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::time_text;
use super::to_json::real;
use crate::model::Json;
use crate::model::number::{double, float, holds, whole};

/// The value that the schema makes of this JSON.
pub(super) fn value(json: &Json, schema: &Schema, names: &HashMap<Name, Schema>) -> Result<Value, String> {
    Maker { names, path: String::new(), default: false }.value(json, schema)
}

/// The value of a field's default, in the form in which schemas write it.
pub(super) fn default(json: &Json, schema: &Schema, names: &HashMap<Name, Schema>) -> Result<Value, String> {
    Maker { names, path: String::new(), default: true }.value(json, schema)
}

struct Maker<'a> {
    names: &'a HashMap<Name, Schema>,
    /// The path of the current value, for messages: `lines[0].sku`.
    path: String,
    /// Whether this is a schema's default, where bytes are text with one character per byte.
    default: bool,
}

impl Maker<'_> {
    fn value(&mut self, json: &Json, schema: &Schema) -> Result<Value, String> {
        let names = self.names;
        match real(schema, names) {
            Schema::Union(union) => return self.union(json, union.variants()),
            Schema::Record(record) => return self.record(json, record),
            Schema::Array(array) => {
                let Json::Array(items) = json else { return Err(self.wrong(json, "array")) };
                let mut out = Vec::with_capacity(items.len());
                for (n, item) in items.iter().enumerate() {
                    out.push(self.at(&format!("[{n}]"), |maker| maker.value(item, &array.items))?);
                }
                return Ok(Value::Array(out));
            }
            Schema::Map(map) => {
                let Json::Object(fields) = json else { return Err(self.wrong(json, "map")) };
                let mut out = HashMap::with_capacity(fields.len());
                for (name, value) in fields {
                    let value = self.at(&dotted(&self.path, name), |maker| maker.value(value, &map.types))?;
                    out.insert(name.clone(), value);
                }
                return Ok(Value::Map(out));
            }
            _ => {}
        }
        let schema = real(schema, names);
        self.scalar(json, schema).ok_or_else(|| self.wrong(json, &name(schema)))
    }

    fn scalar(&self, json: &Json, schema: &Schema) -> Option<Value> {
        let text = json.as_str();
        let stamp = |per_second: i64, local: bool| {
            whole(json).or_else(|| time_text::units_of(text?, per_second, local))
        };
        Some(match schema {
            Schema::Null => json.as_null().map(|()| Value::Null)?,
            Schema::Boolean => Value::Boolean(json.as_bool()?),
            Schema::Int => Value::Int(i32::try_from(whole(json)?).ok()?),
            Schema::Long => Value::Long(whole(json)?),
            Schema::Float => Value::Float(float(json)?),
            Schema::Double => Value::Double(double(json)?),
            Schema::String => Value::String(text?.to_owned()),
            Schema::Bytes => Value::Bytes(self.bytes(text?)?),
            Schema::Fixed(fixed) => {
                Value::Fixed(fixed.size, self.bytes(text?).filter(|bytes| bytes.len() == fixed.size)?)
            }
            Schema::Enum(symbols) => {
                let at = symbols.symbols.iter().position(|symbol| Some(symbol.as_str()) == text)?;
                Value::Enum(u32::try_from(at).ok()?, text?.to_owned())
            }
            Schema::Uuid => Value::String(text?.to_owned()).resolve(&Schema::Uuid).ok()?,
            Schema::Date => {
                let given = whole(json).map(i32::try_from);
                Value::Date(given.map_or_else(|| time_text::days(text?), Result::ok)?)
            }
            Schema::TimeMillis => Value::TimeMillis(i32::try_from(self.of_day(json, 1_000)?).ok()?),
            Schema::TimeMicros => Value::TimeMicros(self.of_day(json, 1_000_000)?),
            Schema::TimestampMillis => Value::TimestampMillis(stamp(1_000, false)?),
            Schema::TimestampMicros => Value::TimestampMicros(stamp(1_000_000, false)?),
            Schema::TimestampNanos => Value::TimestampNanos(stamp(1_000_000_000, false)?),
            Schema::LocalTimestampMillis => Value::LocalTimestampMillis(stamp(1_000, true)?),
            Schema::LocalTimestampMicros => Value::LocalTimestampMicros(stamp(1_000_000, true)?),
            Schema::LocalTimestampNanos => Value::LocalTimestampNanos(stamp(1_000_000_000, true)?),
            Schema::Decimal(decimal) => {
                let bytes = if self.default {
                    self.bytes(text?)?
                } else {
                    decimal_bytes(&number_text(json)?, decimal.scale, decimal.precision)?
                };
                Value::Decimal(Decimal::from(bytes))
            }
            Schema::Duration => {
                let part = |name: &str| u32::try_from(whole(json.get(name)?)?).ok();
                let (months, days, millis) = (part("months")?, part("days")?, part("millis")?);
                Value::Duration(Duration::new(Months::new(months), Days::new(days), Millis::new(millis)))
            }
            // Union, record, array and map are handled above; a big decimal cannot be made without its own crate.
            _ => return None,
        })
    }

    fn of_day(&self, json: &Json, per_second: i64) -> Option<i64> {
        whole(json).or_else(|| time_text::units_of_day(json.as_str()?, per_second))
    }

    fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        if self.default {
            return text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        }
        BASE64.decode(text).ok()
    }

    /// The first branch that holds the value as it is, else the first that accepts it; for null, a `null` branch comes
    /// before all others. So a double does not become a float, nor 5.0 the long 5, where a branch holds it.
    fn union(&mut self, json: &Json, branches: &[Schema]) -> Result<Value, String> {
        // A default must fit the first branch.
        let tried = if self.default { &branches[..branches.len().min(1)] } else { branches };
        let mut errors = Vec::new();
        let own = |branch: &Schema| is_own(json, real(branch, self.names));
        let branches_of = |own_ones: bool| tried.iter().enumerate().filter(move |(_, b)| own(b) == own_ones);
        let in_order: Vec<_> = branches_of(true).chain(branches_of(false)).collect();
        for (at, branch) in in_order {
            if json.is_null() != matches!(branch, Schema::Null) {
                continue;
            }
            match self.value(json, branch) {
                Ok(value) => return Ok(Value::Union(u32::try_from(at).unwrap_or(0), Box::new(value))),
                Err(e) => errors.push(e),
            }
        }
        match (errors.pop(), errors.is_empty()) {
            // If only one branch was possible, its own error says more.
            (Some(error), true) => Err(error),
            _ => {
                let names: Vec<String> =
                    branches.iter().map(|branch| name(real(branch, self.names))).collect();
                Err(self.wrong(json, &names.join(" or ")))
            }
        }
    }

    fn record(&mut self, json: &Json, record: &RecordSchema) -> Result<Value, String> {
        let Json::Object(given) = json else {
            return Err(self.wrong(json, &format!("record {}", record.name.name)));
        };
        let mut fields = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let path = dotted(&self.path, &field.name);
            let value = match (given.get(&field.name), &field.default) {
                (Some(value), _) => self.at(&path, |maker| maker.value(value, &field.schema))?,
                (None, Some(default)) => {
                    let before = std::mem::replace(&mut self.default, true);
                    let value = self.at(&path, |maker| maker.value(default, &field.schema));
                    self.default = before;
                    value?
                }
                (None, None) if takes_null(&field.schema) => self.value(&Json::Null, &field.schema)?,
                (None, None) => return Err(format!("`{}{path}` is missing", self.path)),
            };
            fields.push((field.name.clone(), value));
        }
        if let Some(name) = given.keys().find(|name| !record.lookup.contains_key(*name)) {
            return Err(format!("`{}{}` is not in the schema", self.path, dotted(&self.path, name)));
        }
        Ok(Value::Record(fields))
    }

    /// Runs `f` for a value one step further down the path.
    fn at<T>(&mut self, step: &str, f: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        let before = self.path.len();
        self.path.push_str(step);
        let result = f(self);
        self.path.truncate(before);
        result
    }

    fn wrong(&self, json: &Json, what: &str) -> String {
        let mut shown = json.to_string();
        if shown.chars().count() > 60 {
            shown = shown.chars().take(60).collect();
            shown.push_str("...");
        }
        let mut out = String::new();
        if !self.path.is_empty() {
            // Writing to a string cannot fail.
            write!(out, "`{}`: ", self.path).unwrap_or_default();
        }
        out + &format!("{shown} is no {what}")
    }
}

fn dotted(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!(".{name}") }
}

fn takes_null(schema: &Schema) -> bool {
    match schema {
        Schema::Null => true,
        Schema::Union(union) => union.variants().iter().any(|v| matches!(v, Schema::Null)),
        _ => false,
    }
}

/// The schema's type in plain words, for messages.
fn name(schema: &Schema) -> String {
    let logical = match schema {
        Schema::Null => "null",
        Schema::Boolean => "boolean",
        Schema::Int => "int",
        Schema::Long => "long",
        Schema::Float => "float",
        Schema::Double => "double",
        Schema::Bytes => "bytes in base64",
        Schema::String => "string",
        Schema::Uuid => "UUID",
        Schema::Date => "date (`2024-01-02`)",
        Schema::TimeMillis | Schema::TimeMicros => "time of day (`12:34:56.789`)",
        Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => {
            "timestamp (RFC 3339 text or a number)"
        }
        Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
            "local timestamp (`2024-01-02T03:04:05`)"
        }
        Schema::Array(_) => "array",
        Schema::Map(_) => "map",
        Schema::Union(_) => "branch of the union",
        Schema::Duration => "duration (`{ months, days, millis }`)",
        Schema::BigDecimal => "value that can be written: big-decimal cannot",
        Schema::Decimal(d) => {
            return format!("decimal with {} digits, {} behind the point", d.precision, d.scale);
        }
        Schema::Record(r) => return format!("record {}", r.name.name),
        Schema::Enum(e) => return format!("symbol of {} ({})", e.name.name, e.symbols.join(", ")),
        Schema::Fixed(f) => return format!("{} bytes in base64", f.size),
        Schema::Ref { name } => return name.name.clone(),
    };
    logical.to_owned()
}

/// Whether a branch of a union holds this value as it is: read again, it would be the same JSON.
fn is_own(json: &Json, branch: &Schema) -> bool {
    match (branch, json) {
        (Schema::Float, Json::Number(n)) => {
            n.is_f64() && float(json).zip(n.as_f64()).is_some_and(|(float, n)| holds(float, n))
        }
        (Schema::Double, Json::Number(n)) => n.is_f64(),
        (Schema::Int | Schema::Long, Json::Number(n)) => n.is_i64(),
        (_, Json::Number(_)) => false,
        _ => true,
    }
}

/// The digits of a number, or of text that is a number.
fn number_text(json: &Json) -> Option<String> {
    match json {
        Json::String(text) => Some(text.clone()),
        Json::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Two's complement of a decimal's unscaled value. More decimal places than the scale allows are refused.
fn decimal_bytes(text: &str, scale: usize, precision: usize) -> Option<Vec<u8>> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let part = part.trim_end_matches('0');
    let bad = |text: &str| !text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || bad(whole) || bad(part) || part.len() > scale {
        return None;
    }
    let unscaled: i128 = format!("{whole}{part:0<scale$}").parse().ok()?;
    if unscaled.to_string().len() > precision {
        return None;
    }
    let bytes = (sign * unscaled).to_be_bytes();
    // The shortest form that keeps the sign.
    let lead = if sign < 0 && unscaled != 0 { 0xff } else { 0 };
    let mut start = 0;
    while start < 15 && bytes[start] == lead && (bytes[start + 1] & 0x80 != 0) == (lead == 0xff) {
        start += 1;
    }
    Some(bytes[start..].to_vec())
}
