//! JSON to Spanner: the values that a column of each type accepts, and how they are encoded.
//!
//! Pure. The encodings are those of `google.spanner.v1.TypeCode`'s documentation: whole numbers, dates and decimals as
//! text, timestamps as RFC 3339 that ends in `Z`, JSON as its text. JSON `null` is SQL `NULL` everywhere.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use prost_types::value::Kind;
use prost_types::{ListValue, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::model::number::{double, whole};
use crate::model::{Json, Timestamp, Types, canonical};

/// Spanner replaces this text by the time of the commit.
const COMMIT_TIMESTAMP: &str = "spanner.commit_timestamp()";

/// What a TIMESTAMP holds, in milliseconds since 1970: the years 1 to 9999.
const MILLISECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// The longest part of a value that an error shows, in characters.
const SHOWN_CHARS: usize = 80;

/// Standard base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// A column's type, as far as encoding differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ColumnType {
    Bool,
    Int64,
    Float,
    Numeric,
    String,
    Bytes,
    Date,
    Timestamp,
    Json,
    Array(Box<ColumnType>),
    /// UUID, INTERVAL, PROTO, ENUM and future types: text is passed on as it is, and the server decides.
    Other(String),
}

impl ColumnType {
    /// Reads `SPANNER_TYPE` of the information schema: `STRING(64)`, `ARRAY<INT64>`, `JSON`.
    pub(super) fn parse(text: &str) -> ColumnType {
        let text = text.trim();
        if let Some(inner) = text.strip_prefix("ARRAY<").and_then(|t| t.rsplit_once('>')) {
            return ColumnType::Array(Box::new(ColumnType::parse(inner.0)));
        }
        match text.split('(').next().unwrap_or(text).trim() {
            "BOOL" => ColumnType::Bool,
            "INT64" => ColumnType::Int64,
            "FLOAT64" | "FLOAT32" => ColumnType::Float,
            "NUMERIC" => ColumnType::Numeric,
            "STRING" => ColumnType::String,
            "BYTES" => ColumnType::Bytes,
            "DATE" => ColumnType::Date,
            "TIMESTAMP" => ColumnType::Timestamp,
            "JSON" => ColumnType::Json,
            _ => ColumnType::Other(text.to_owned()),
        }
    }

    /// The value encoded for a column of this type.
    ///
    /// # Errors
    /// What the column would accept instead.
    pub(super) fn encode(&self, json: &Json) -> Result<Kind, String> {
        if json.is_null() {
            return Ok(Kind::NullValue(0));
        }
        let kind = match (self, json) {
            (ColumnType::Json, any) => Some(Kind::StringValue(any.to_string())),
            (ColumnType::Bool, Json::Bool(b)) => Some(Kind::BoolValue(*b)),
            (ColumnType::Int64, Json::Number(_)) => whole(json).map(|n| Kind::StringValue(n.to_string())),
            // Record keys are text, and so are whole numbers beyond 2^53 in JSON from browsers.
            (ColumnType::Int64, Json::String(s)) => {
                s.parse::<i64>().ok().map(|n| Kind::StringValue(n.to_string()))
            }
            (ColumnType::Float, Json::Number(_)) => double(json).map(Kind::NumberValue),
            (ColumnType::Float, Json::String(s)) => {
                matches!(s.as_str(), "NaN" | "Infinity" | "-Infinity").then(|| Kind::StringValue(s.clone()))
            }
            (ColumnType::Numeric, Json::Number(_)) => Some(Kind::StringValue(canonical(json))),
            (
                ColumnType::String | ColumnType::Date | ColumnType::Numeric | ColumnType::Other(_),
                Json::String(s),
            ) => Some(Kind::StringValue(s.clone())),
            (ColumnType::Other(_), Json::Number(n)) => Some(Kind::StringValue(n.to_string())),
            (ColumnType::Bytes, Json::String(s)) => {
                BASE64.decode(s).ok().map(|bytes| Kind::StringValue(BASE64.encode(bytes)))
            }
            (ColumnType::Timestamp, Json::String(s)) => utc(s).map(Kind::StringValue),
            (ColumnType::Timestamp, Json::Number(_)) => whole(json)
                .filter(|ms| MILLISECONDS.contains(ms))
                .map(|ms| Kind::StringValue(Timestamp(ms).rfc3339())),
            (ColumnType::Array(inner), Json::Array(items)) => {
                let values = items
                    .iter()
                    .map(|item| Ok(Value { kind: Some(inner.encode(item)?) }))
                    .collect::<Result<Vec<_>, String>>()?;
                Some(Kind::ListValue(ListValue { values }))
            }
            _ => None,
        };
        kind.ok_or_else(|| format!("{} is no {self}: {}", shown(json), self.wants()))
    }

    /// Whether a value of one of these types can ever be written here. Whether `null` can is up to the column.
    pub(super) fn may_take(&self, types: Types) -> bool {
        let number = Types::INTEGER.or(Types::FLOAT);
        types.may_be(match self {
            ColumnType::Json => Types::ANY,
            ColumnType::Bool => Types::BOOLEAN,
            ColumnType::Int64 | ColumnType::Timestamp => Types::INTEGER.or(Types::STRING),
            ColumnType::Float | ColumnType::Numeric | ColumnType::Other(_) => number.or(Types::STRING),
            ColumnType::String | ColumnType::Bytes | ColumnType::Date => Types::STRING,
            ColumnType::Array(_) => Types::ARRAY,
        })
    }

    /// What may be written to a column of this type.
    pub(super) fn wants(&self) -> &'static str {
        match self {
            ColumnType::Bool => "give true or false",
            ColumnType::Int64 => "give a whole number of at most 64 bits, or its text",
            ColumnType::Float => "give a number, or \"NaN\", \"Infinity\", \"-Infinity\"",
            ColumnType::Numeric => "give a number or a decimal as text",
            ColumnType::String => "give text, for example `to_string(.field)` or `encode_json(.field)`",
            ColumnType::Bytes => "give base64 text",
            ColumnType::Date => "give text like \"2025-01-31\"",
            ColumnType::Timestamp => {
                "give RFC 3339 text like \"2025-01-31T12:00:00Z\", or milliseconds since 1970"
            }
            ColumnType::Json => "give any JSON",
            ColumnType::Array(_) => "give an array",
            ColumnType::Other(_) => "give text",
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ColumnType::Bool => "BOOL",
            ColumnType::Int64 => "INT64",
            ColumnType::Float => "FLOAT64",
            ColumnType::Numeric => "NUMERIC",
            ColumnType::String => "STRING",
            ColumnType::Bytes => "BYTES",
            ColumnType::Date => "DATE",
            ColumnType::Timestamp => "TIMESTAMP",
            ColumnType::Json => "JSON",
            ColumnType::Array(inner) => return write!(f, "ARRAY<{inner}>"),
            ColumnType::Other(text) => text,
        })
    }
}

/// The cell of a `commit_timestamp()` column.
pub(super) fn commit_timestamp() -> Kind {
    Kind::StringValue(COMMIT_TIMESTAMP.to_owned())
}

/// Appends bytes that are equal for equal key cells of one column. Cells that are equal in the database but written
/// differently (`1.0` and `1`) get different bytes: their rows are then written one after the other.
pub(super) fn key_bytes(kind: Option<&Kind>, out: &mut Vec<u8>) {
    match kind {
        Some(Kind::StringValue(s)) => {
            out.push(b's');
            out.extend_from_slice(&s.len().to_be_bytes());
            out.extend_from_slice(s.as_bytes());
        }
        Some(Kind::NumberValue(n)) => {
            out.push(b'n');
            out.extend_from_slice(&n.to_bits().to_be_bytes());
        }
        Some(Kind::BoolValue(b)) => out.extend_from_slice(&[b'b', u8::from(*b)]),
        _ => out.push(b'0'),
    }
}

/// RFC 3339 with any offset as UTC with a `Z`, nanoseconds kept: Spanner accepts no other offset.
fn utc(text: &str) -> Option<String> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    at.to_offset(time::UtcOffset::UTC).format(&Rfc3339).ok()
}

/// A value for an error message, cut to a readable length.
fn shown(json: &Json) -> String {
    let text = json.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(column: &str, json: &Json, expected: Option<Kind>) {
        assert_eq!(ColumnType::parse(column).encode(json).ok(), expected, "{column} <- {json}");
    }

    fn text(s: &str) -> Option<Kind> {
        Some(Kind::StringValue(s.to_owned()))
    }

    #[test]
    fn a_value_travels_as_its_column_wants_it() {
        check("INT64", &json!(7), text("7"));
        check("INT64", &json!(i64::MAX), text("9223372036854775807"));
        check("INT64", &json!("7"), text("7"));
        check("INT64", &json!(7.0), text("7"));
        check("NUMERIC", &json!(1e16), text("10000000000000000"));
        check("FLOAT64", &json!(1.5), Some(Kind::NumberValue(1.5)));
        check("FLOAT32", &json!("NaN"), text("NaN"));
        check("BOOL", &json!(true), Some(Kind::BoolValue(true)));
        check("STRING(64)", &json!("a"), text("a"));
        check("NUMERIC", &json!("1.23"), text("1.23"));
        check("DATE", &json!("2025-01-31"), text("2025-01-31"));
        check(
            "TIMESTAMP",
            &json!("2025-01-31T12:00:00.123456789+02:00"),
            text("2025-01-31T10:00:00.123456789Z"),
        );
        check("TIMESTAMP", &json!(1500), text("1970-01-01T00:00:01.5Z"));
        check("BYTES(MAX)", &json!("aGk"), text("aGk="));
        check("JSON", &json!({"b": 1, "a": null}), text("{\"b\":1,\"a\":null}"));
        check("STRING(MAX)", &Json::Null, Some(Kind::NullValue(0)));
        let values = vec![Value { kind: text("1") }, Value { kind: Some(Kind::NullValue(0)) }];
        check("ARRAY<INT64>", &json!([1, null]), Some(Kind::ListValue(ListValue { values })));
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        check("INT64", &json!(1.5), None);
        check("INT64", &json!(u64::MAX), None);
        check("INT64", &json!("a"), None);
        check("FLOAT64", &json!("1.5"), None);
        check("BOOL", &json!("true"), None);
        check("STRING(64)", &json!(1), None);
        check("INT64", &json!(1e30), None);
        check("FLOAT64", &json!(9_007_199_254_740_993_i64), None);
        check("TIMESTAMP", &json!(i64::MAX), None);
        check("TIMESTAMP", &json!("yesterday"), None);
        check("TIMESTAMP", &json!("spanner.commit_timestamp()"), None);
        check("BYTES(10)", &json!("no base64!"), None);
        check("ARRAY<STRING(MAX)>", &json!(["a", 1]), None);
        check("ARRAY<STRING(MAX)>", &json!("a"), None);
        let said = ColumnType::parse("INT64").encode(&json!("x".repeat(1000))).unwrap_err();
        assert!(said.len() < 250 && said.contains("is no INT64"), "{said}");
    }
}
