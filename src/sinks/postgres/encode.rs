//! JSON to PostgreSQL: the values that a column of each type accepts, and how they are encoded.
//!
//! Pure. Common types are sent in the server's binary form; numbers without bound, arrays and types not known here are
//! sent as text, which the server casts. JSON `null` is SQL `NULL` everywhere. Whatever can be checked here is, so that
//! the server need not refuse a whole batch for one value.

use std::cmp::Ordering;
use std::error::Error;
use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::{BufMut as _, BytesMut};
use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime};

use crate::clients::postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use crate::model::number::{double, float, whole};
use crate::model::{Json, Types};

/// The longest part of a value that an error shows, in characters.
const SHOWN_CHARS: usize = 80;

/// Standard base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// PostgreSQL counts from here: 2000-01-01.
const EPOCH_SECONDS: i64 = 946_684_800;
const EPOCH_JULIAN_DAY: i32 = 2_451_545;

/// The microseconds since 2000 that a timestamp column takes: 4713 BC to 294276 AD.
const MICROS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// A column's type, as far as encoding differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ColumnType {
    /// With the most characters that it takes.
    Text(Option<usize>),
    /// With its bits.
    Int(u8),
    /// With its bits.
    Float(u8),
    Numeric,
    Bool,
    TimestampTz,
    Timestamp,
    Date,
    Uuid,
    Bytes,
    Json,
    Jsonb,
    Array(Box<ColumnType>),
    /// Enumerations, intervals, addresses and what else there is: text goes through as it is, the server judges it.
    Other,
}

/// A value on its way.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Bytes(Vec<u8>),
    Uuid(Vec<u8>),
    /// Since 2000.
    Micros(i64),
    /// Since 2000.
    Days(i32),
    Jsonb(String),
}

impl ColumnType {
    /// Reads `typname` and `typmod` of the catalog, and of an array those of its elements.
    pub(super) fn parse(name: &str, modifier: i32, element: Option<&str>) -> ColumnType {
        if let Some(element) = element {
            return ColumnType::Array(Box::new(ColumnType::parse(element, modifier, None)));
        }
        match name {
            // The modifier counts its own four bytes.
            "text" | "varchar" | "bpchar" | "name" => {
                ColumnType::Text(usize::try_from(modifier - 4).ok().filter(|_| modifier > 4))
            }
            "int2" => ColumnType::Int(16),
            "int4" => ColumnType::Int(32),
            "int8" => ColumnType::Int(64),
            "float4" => ColumnType::Float(32),
            "float8" => ColumnType::Float(64),
            "numeric" => ColumnType::Numeric,
            "bool" => ColumnType::Bool,
            "timestamptz" => ColumnType::TimestampTz,
            "timestamp" => ColumnType::Timestamp,
            "date" => ColumnType::Date,
            "uuid" => ColumnType::Uuid,
            "bytea" => ColumnType::Bytes,
            "json" => ColumnType::Json,
            "jsonb" => ColumnType::Jsonb,
            _ => ColumnType::Other,
        }
    }

    /// The type in which values travel, and whether the server has to cast them to the column's.
    pub(super) fn travels_as(&self) -> (&'static str, bool) {
        match self {
            ColumnType::Text(_) => ("text", false),
            ColumnType::Int(_) => ("int8", false),
            ColumnType::Float(_) => ("float8", false),
            ColumnType::Bool => ("bool", false),
            ColumnType::TimestampTz => ("timestamptz", false),
            ColumnType::Timestamp => ("timestamp", false),
            ColumnType::Date => ("date", false),
            ColumnType::Uuid => ("uuid", false),
            ColumnType::Bytes => ("bytea", false),
            ColumnType::Json => ("json", false),
            ColumnType::Jsonb => ("jsonb", false),
            ColumnType::Numeric | ColumnType::Array(_) | ColumnType::Other => ("text", true),
        }
    }

    /// The value as a column of this type takes it.
    ///
    /// # Errors
    /// What the column would take instead, for people.
    pub(super) fn encode(&self, json: &Json) -> Result<Cell, String> {
        if json.is_null() {
            return Ok(Cell::Null);
        }
        let cell = match (self, json) {
            (ColumnType::Text(max), Json::String(s)) => return text(s, *max),
            (ColumnType::Int(bits), Json::Number(_)) => {
                whole(json).filter(|n| fits(*n, *bits)).map(Cell::Int)
            }
            // Record keys are text, and so are whole numbers beyond 2^53 in JSON that a browser made.
            (ColumnType::Int(bits), Json::String(s)) => {
                s.parse::<i64>().ok().filter(|n| fits(*n, *bits)).map(Cell::Int)
            }
            (ColumnType::Float(32), Json::Number(_)) => float(json).map(|n| Cell::Float(n.into())),
            (ColumnType::Float(_), Json::Number(_)) => double(json).map(Cell::Float),
            (ColumnType::Float(_), Json::String(s)) => match s.as_str() {
                "NaN" => Some(Cell::Float(f64::NAN)),
                "Infinity" => Some(Cell::Float(f64::INFINITY)),
                "-Infinity" => Some(Cell::Float(f64::NEG_INFINITY)),
                _ => None,
            },
            (ColumnType::Numeric, Json::Number(n)) => Some(Cell::Text(n.to_string())),
            (ColumnType::Numeric, Json::String(s)) => is_decimal(s).then(|| Cell::Text(s.clone())),
            (ColumnType::Bool, Json::Bool(b)) => Some(Cell::Bool(*b)),
            (ColumnType::TimestampTz | ColumnType::Timestamp, Json::String(s)) => match s.as_str() {
                "infinity" => Some(Cell::Micros(i64::MAX)),
                "-infinity" => Some(Cell::Micros(i64::MIN)),
                s => micros(s).map(Cell::Micros),
            },
            (ColumnType::TimestampTz | ColumnType::Timestamp, Json::Number(_)) => whole(json)
                .and_then(|ms| ms.checked_sub(EPOCH_SECONDS * 1000)?.checked_mul(1000))
                .filter(|micros| MICROS.contains(micros))
                .map(Cell::Micros),
            (ColumnType::Date, Json::String(s)) => days(s).map(Cell::Days),
            (ColumnType::Uuid, Json::String(s)) => uuid(s).map(Cell::Uuid),
            (ColumnType::Bytes, Json::String(s)) => BASE64.decode(s).ok().map(Cell::Bytes),
            (ColumnType::Json, any) => Some(Cell::Text(any.to_string())),
            (ColumnType::Jsonb, any) => {
                if has_nul(any) {
                    return Err("text with a NUL character, which jsonb does not take".to_owned());
                }
                Some(Cell::Jsonb(any.to_string()))
            }
            (ColumnType::Array(inner), Json::Array(items)) => {
                let mut literal = String::new();
                inner.array(items, &mut literal)?;
                Some(Cell::Text(literal))
            }
            (ColumnType::Other, Json::String(s)) => return text(s, None),
            (ColumnType::Other, Json::Number(n)) => Some(Cell::Text(n.to_string())),
            (ColumnType::Other, Json::Bool(b)) => Some(Cell::Text(b.to_string())),
            _ => None,
        };
        cell.ok_or_else(|| format!("{} is no {self}: {}", shown(json), self.wants()))
    }

    /// Items of this type as the text of an array: `{1,NULL,"a b"}`.
    fn array(&self, items: &[Json], out: &mut String) -> Result<(), String> {
        out.push('{');
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            match (self, item) {
                (_, Json::Null) => out.push_str("NULL"),
                // Several dimensions; of JSON an array is a value like any other.
                (inner, Json::Array(items)) if !matches!(inner, ColumnType::Json | ColumnType::Jsonb) => {
                    self.array(items, out)?;
                }
                (inner, item) => {
                    out.push('"');
                    for c in inner.encode(item)?.text().chars() {
                        if matches!(c, '"' | '\\') {
                            out.push('\\');
                        }
                        out.push(c);
                    }
                    out.push('"');
                }
            }
        }
        out.push('}');
        Ok(())
    }

    /// Can a value of one of these types ever be written here? `null` is the column's own business.
    pub(super) fn may_take(&self, types: Types) -> bool {
        let number = Types::INTEGER.or(Types::FLOAT);
        types.may_be(match self {
            ColumnType::Json | ColumnType::Jsonb => Types::ANY,
            ColumnType::Bool => Types::BOOLEAN,
            ColumnType::Int(_) | ColumnType::TimestampTz | ColumnType::Timestamp => {
                Types::INTEGER.or(Types::STRING)
            }
            ColumnType::Float(_) | ColumnType::Numeric => number.or(Types::STRING),
            ColumnType::Other => number.or(Types::STRING).or(Types::BOOLEAN),
            ColumnType::Text(_) | ColumnType::Bytes | ColumnType::Date | ColumnType::Uuid => Types::STRING,
            ColumnType::Array(_) => Types::ARRAY,
        })
    }

    /// Is it a time, so that `commit_timestamp()` can be written?
    pub(super) fn is_time(&self) -> bool {
        matches!(self, ColumnType::TimestampTz | ColumnType::Timestamp | ColumnType::Date)
    }

    /// What may be written to a column of this type.
    pub(super) fn wants(&self) -> &'static str {
        match self {
            ColumnType::Text(_) => "give text, for example `to_string(.field)` or `encode_json(.field)`",
            ColumnType::Int(16) => "give a whole number of at most 16 bits, or its text",
            ColumnType::Int(32) => "give a whole number of at most 32 bits, or its text",
            ColumnType::Int(_) => "give a whole number of at most 64 bits, or its text",
            ColumnType::Float(_) => "give a number, or \"NaN\", \"Infinity\", \"-Infinity\"",
            ColumnType::Numeric => "give a number or a decimal as text",
            ColumnType::Bool => "give true or false",
            ColumnType::TimestampTz | ColumnType::Timestamp => {
                "give RFC 3339 text like \"2025-01-31T12:00:00Z\", or milliseconds since 1970"
            }
            ColumnType::Date => "give text like \"2025-01-31\"",
            ColumnType::Uuid => "give text like \"123e4567-e89b-12d3-a456-426614174000\"",
            ColumnType::Bytes => "give base64 text",
            ColumnType::Json | ColumnType::Jsonb => "give any JSON",
            ColumnType::Array(_) => "give an array",
            ColumnType::Other => "give text",
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ColumnType::Text(Some(max)) => return write!(f, "text of at most {max} characters"),
            ColumnType::Text(None) => "text",
            ColumnType::Int(16) => "int2",
            ColumnType::Int(32) => "int4",
            ColumnType::Int(_) => "int8",
            ColumnType::Float(32) => "float4",
            ColumnType::Float(_) => "float8",
            ColumnType::Numeric => "numeric",
            ColumnType::Bool => "bool",
            ColumnType::TimestampTz => "timestamptz",
            ColumnType::Timestamp => "timestamp",
            ColumnType::Date => "date",
            ColumnType::Uuid => "uuid",
            ColumnType::Bytes => "bytea",
            ColumnType::Json => "json",
            ColumnType::Jsonb => "jsonb",
            ColumnType::Array(inner) => return write!(f, "{inner}[]"),
            ColumnType::Other => "value of this type",
        })
    }
}

impl Cell {
    /// As text that the server reads.
    fn text(&self) -> String {
        match self {
            Cell::Null => String::new(),
            Cell::Text(s) | Cell::Jsonb(s) => s.clone(),
            Cell::Int(n) => n.to_string(),
            Cell::Float(n) if n.is_nan() => "NaN".to_owned(),
            Cell::Float(n) if n.is_infinite() => if *n > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
            Cell::Float(n) => n.to_string(),
            Cell::Bool(b) => b.to_string(),
            Cell::Bytes(bytes) => format!("\\x{}", hex(bytes)),
            Cell::Uuid(bytes) => hex(bytes),
            Cell::Micros(i64::MAX) => "infinity".to_owned(),
            Cell::Micros(i64::MIN) => "-infinity".to_owned(),
            Cell::Micros(micros) => {
                let nanos = i128::from(*micros) * 1000 + i128::from(EPOCH_SECONDS) * 1_000_000_000;
                let at = OffsetDateTime::from_unix_timestamp_nanos(nanos);
                at.ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
            }
            Cell::Days(days) => {
                Date::from_julian_day(days + EPOCH_JULIAN_DAY).map(|d| d.to_string()).unwrap_or_default()
            }
        }
    }

    /// Appends bytes that are equal for equal cells of one column, and in the same order everywhere. Cells that are equal
    /// in the database but written differently (`1.0` and `1`) differ here.
    pub(super) fn key_bytes(&self, out: &mut Vec<u8>) {
        let framed = |bytes: &[u8], out: &mut Vec<u8>| {
            out.extend_from_slice(bytes);
            out.extend_from_slice(&bytes.len().to_be_bytes());
        };
        match self {
            Cell::Null => out.push(0),
            Cell::Text(s) | Cell::Jsonb(s) => framed(s.as_bytes(), out),
            Cell::Bytes(bytes) | Cell::Uuid(bytes) => framed(bytes, out),
            Cell::Int(n) | Cell::Micros(n) => out.extend_from_slice(&(n ^ i64::MIN).to_be_bytes()),
            Cell::Float(n) => out.extend_from_slice(&n.to_bits().to_be_bytes()),
            Cell::Bool(b) => out.push(u8::from(*b)),
            Cell::Days(n) => out.extend_from_slice(&(n ^ i32::MIN).to_be_bytes()),
        }
    }

    /// Which is greater, where that is known without the server. `NULL` is less than everything.
    pub(super) fn compare(&self, other: &Cell) -> Option<Ordering> {
        match (self, other) {
            (Cell::Null, Cell::Null) => Some(Ordering::Equal),
            (Cell::Null, _) => Some(Ordering::Less),
            (_, Cell::Null) => Some(Ordering::Greater),
            (Cell::Int(a), Cell::Int(b)) | (Cell::Micros(a), Cell::Micros(b)) => Some(a.cmp(b)),
            (Cell::Days(a), Cell::Days(b)) => Some(a.cmp(b)),
            (Cell::Float(a), Cell::Float(b)) => a.partial_cmp(b),
            _ => None,
        }
    }
}

impl ToSql for Cell {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Cell::Null => return Ok(IsNull::Yes),
            Cell::Text(s) => out.put_slice(s.as_bytes()),
            Cell::Int(n) | Cell::Micros(n) => out.put_i64(*n),
            Cell::Float(n) => out.put_f64(*n),
            Cell::Bool(b) => out.put_u8(u8::from(*b)),
            Cell::Bytes(bytes) | Cell::Uuid(bytes) => out.put_slice(bytes),
            Cell::Days(n) => out.put_i32(*n),
            Cell::Jsonb(s) => {
                // The version of the format.
                out.put_u8(1);
                out.put_slice(s.as_bytes());
            }
        }
        Ok(IsNull::No)
    }

    /// The statement says in which type each column travels, and [`ColumnType::encode`] makes cells of that type.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn fits(n: i64, bits: u8) -> bool {
    match bits {
        16 => i16::try_from(n).is_ok(),
        32 => i32::try_from(n).is_ok(),
        _ => true,
    }
}

/// Text for a column that takes so many characters. As the server does, spaces beyond are let pass (it cuts them off).
fn text(s: &str, max: Option<usize>) -> Result<Cell, String> {
    if s.contains('\0') {
        return Err("text with a NUL character, which PostgreSQL does not take".to_owned());
    }
    if let Some(max) = max
        && let Some((end, _)) = s.char_indices().nth(max)
        && !s[end..].bytes().all(|b| b == b' ')
    {
        return Err(format!("{} characters, and it takes {max}", s.chars().count()));
    }
    Ok(Cell::Text(s.to_owned()))
}

/// `-1.5`, `1e6`, `NaN`.
fn is_decimal(s: &str) -> bool {
    if matches!(s, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let unsigned = s.strip_prefix(['-', '+']).unwrap_or(s);
    let (number, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let exponent = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    !(whole.is_empty() && part.is_empty()) && digits(whole) && digits(part) && exponent
}

/// RFC 3339 with any offset as microseconds since 2000.
fn micros(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let nanos = at.unix_timestamp_nanos() - i128::from(EPOCH_SECONDS) * 1_000_000_000;
    i64::try_from(nanos.div_euclid(1000)).ok().filter(|micros| MICROS.contains(micros))
}

/// `2025-01-31` as days since 2000.
fn days(text: &str) -> Option<i32> {
    let mut parts = text.splitn(3, '-');
    let mut part = |digits: usize| {
        let part = parts.next()?;
        (part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse::<u16>().ok())?
    };
    let (year, month, day) = (part(4)?, part(2)?, part(2)?);
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date = Date::from_calendar_date(i32::from(year), month, u8::try_from(day).ok()?).ok()?;
    Some(date.to_julian_day() - EPOCH_JULIAN_DAY)
}

/// 32 hexadecimal digits, with or without hyphens, as bytes.
fn uuid(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    if digits.len() != 32 || text.len() > 36 {
        return None;
    }
    let value = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    digits.chunks_exact(2).map(|pair| Some(value(pair[0])? << 4 | value(pair[1])?)).collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(out, "{byte:02x}").expect("a String takes it");
    }
    out
}

fn has_nul(json: &Json) -> bool {
    match json {
        Json::String(s) => s.contains('\0'),
        Json::Array(items) => items.iter().any(has_nul),
        Json::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
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

    fn of(name: &str) -> ColumnType {
        match name.strip_suffix("[]") {
            Some(element) => ColumnType::parse("_x", -1, Some(element)),
            None => ColumnType::parse(name, -1, None),
        }
    }

    fn check(column: &str, json: &Json, expected: Option<Cell>) {
        assert_eq!(of(column).encode(json).ok(), expected, "{column} <- {json}");
    }

    fn text(s: &str) -> Option<Cell> {
        Some(Cell::Text(s.to_owned()))
    }

    #[test]
    fn a_value_travels_as_its_column_wants_it() {
        check("text", &json!("ä"), text("ä"));
        check("int2", &json!(-32768), Some(Cell::Int(-32768)));
        check("int4", &json!("7"), Some(Cell::Int(7)));
        check("int8", &json!(i64::MAX), Some(Cell::Int(i64::MAX)));
        check("float8", &json!(1.5), Some(Cell::Float(1.5)));
        check("float4", &json!("Infinity"), Some(Cell::Float(f64::INFINITY)));
        check("numeric", &json!("-12.50"), text("-12.50"));
        check("numeric", &json!(1e21), text("1e+21"));
        check("bool", &json!(true), Some(Cell::Bool(true)));
        check("timestamptz", &json!("2000-01-01T01:00:00.000001+01:00"), Some(Cell::Micros(1)));
        check("timestamptz", &json!("1999-12-31T23:59:59.9999999Z"), Some(Cell::Micros(-1)));
        check("timestamp", &json!(946_684_800_001_i64), Some(Cell::Micros(1000)));
        check("timestamptz", &json!("infinity"), Some(Cell::Micros(i64::MAX)));
        check("date", &json!("2000-03-01"), Some(Cell::Days(60)));
        check("date", &json!("1999-12-31"), Some(Cell::Days(-1)));
        let bytes: Vec<u8> = (0..16).collect();
        check("uuid", &json!("00010203-0405-0607-0809-0A0b0c0d0e0f"), Some(Cell::Uuid(bytes)));
        check("bytea", &json!("aGk"), Some(Cell::Bytes(b"hi".to_vec())));
        check("json", &json!({"b": 1, "a": "\0"}), text("{\"b\":1,\"a\":\"\\u0000\"}"));
        check("jsonb", &json!([1, null]), Some(Cell::Jsonb("[1,null]".into())));
        check("jsonb", &json!("\\u0000"), Some(Cell::Jsonb("\"\\\\u0000\"".into())));
        check("text[]", &json!(["a\"b\\", null, "{,}"]), text(r#"{"a\"b\\",NULL,"{,}"}"#));
        check("int4[]", &json!([[1, 2], [3, 4]]), text(r#"{{"1","2"},{"3","4"}}"#));
        check("timestamptz[]", &json!([0]), text(r#"{"1970-01-01T00:00:00Z"}"#));
        check("date[]", &json!(["1999-12-31"]), text(r#"{"1999-12-31"}"#));
        check("bytea[]", &json!(["aGk="]), text(r#"{"\\x6869"}"#));
        check("jsonb[]", &json!([[1]]), text(r#"{"[1]"}"#));
        check("interval", &json!("1 day"), text("1 day"));
        check("mood", &json!(5), text("5"));
        check("text", &Json::Null, Some(Cell::Null));
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        for (column, json) in [
            ("text", json!(1)),
            ("text", json!("a\0b")),
            ("int2", json!(32768)),
            ("int4", json!(2_147_483_648_i64)),
            ("int8", json!(u64::MAX)),
            ("int8", json!(1.5)),
            ("int8", json!("a")),
            ("float4", json!(1e39)),
            ("float4", json!(16_777_217)),
            ("float8", json!(9_007_199_254_740_993_i64)),
            ("int8", json!(1e30)),
            ("float8", json!("1.5")),
            ("numeric", json!("1.2.3")),
            ("numeric", json!("")),
            ("numeric", json!("e5")),
            ("bool", json!("true")),
            ("timestamptz", json!("now")),
            ("timestamptz", json!("2025-01-31")),
            ("timestamptz", json!(i64::MAX)),
            ("date", json!("2025-02-29")),
            ("date", json!("2025-2-9")),
            ("uuid", json!("0001")),
            ("bytea", json!("no base64!")),
            ("jsonb", json!({"a": ["\0"]})),
            ("int4[]", json!(["a"])),
            ("int4[]", json!(1)),
            ("mood", json!({})),
        ] {
            check(column, &json, None);
        }
        let said = of("int8").encode(&json!("x".repeat(1000))).unwrap_err();
        assert!(said.len() < 250 && said.contains("is no int8"), "{said}");
    }

    #[test]
    fn text_that_is_too_long_is_found_here() {
        let column = ColumnType::parse("varchar", 7, None);
        assert_eq!(column, ColumnType::Text(Some(3)));
        assert_eq!(column.encode(&json!("äöü")).ok(), text("äöü"));
        assert_eq!(column.encode(&json!("abc  ")).ok(), text("abc  "), "the server cuts spaces off");
        assert_eq!(column.encode(&json!("abcd")), Err("4 characters, and it takes 3".to_owned()));
    }

    #[test]
    fn keys_have_one_order_and_versions_compare() {
        let bytes = |cell: Cell| {
            let mut out = Vec::new();
            cell.key_bytes(&mut out);
            out
        };
        assert!(bytes(Cell::Int(-1)) < bytes(Cell::Int(1)));
        let pair = |a: &str, b: &str| {
            let mut out = Vec::new();
            Cell::Text(a.into()).key_bytes(&mut out);
            Cell::Text(b.into()).key_bytes(&mut out);
            out
        };
        assert_ne!(pair("a", "bc"), pair("ab", "c"));
        assert_eq!(Cell::Null.compare(&Cell::Int(i64::MIN)), Some(Ordering::Less));
        assert_eq!(Cell::Micros(2).compare(&Cell::Micros(1)), Some(Ordering::Greater));
        assert_eq!(Cell::Text("2".into()).compare(&Cell::Text("10".into())), None, "the server's business");
    }
}
