//! What an aggregation remembers between two records, and how it is written to disk.
//!
//! A part belongs to one function; an [`Acc`] is the parts of one key, or of one key and window. Values keep the order
//! of arrival. Nothing here evaluates an expression.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use bincode::{Decode, Encode};

use super::sketch::Sketch;
use crate::model::{Json, Value, canonical, compare_numbers};
use crate::state::{Cell, StateError, codec};

/// Version of the rows.
const VERSION: u8 = 1;
/// Most bytes of a list, a set or a value in one part: a row has to fit a Kafka record and memory.
pub(super) const PART_BYTES_MAX: usize = 4 << 20;

/// A sum: a whole number as long as possible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Whole(i64),
    Float(f64),
}

impl Number {
    /// `None` if the value is no number, or a whole one that does not fit into 64 bits with a sign.
    pub(super) fn of(json: &Json) -> Option<Number> {
        let number = json.as_number()?;
        let float = || number.as_f64().filter(|_| number.is_f64());
        number.as_i64().map(Number::Whole).or_else(|| float().map(Number::Float))
    }

    fn float(self) -> f64 {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "a mean or a mixed sum is a float")]
            Number::Whole(n) => n as f64,
            Number::Float(n) => n,
        }
    }

    /// The sum; a float where one of the two is. [`Number::fits`] says beforehand whether it is a number.
    pub(super) fn plus(self, other: Number) -> Number {
        if let (Number::Whole(a), Number::Whole(b)) = (self, other)
            && let Some(sum) = a.checked_add(b)
        {
            return Number::Whole(sum);
        }
        Number::Float((self.float() + other.float()).clamp(f64::MIN, f64::MAX))
    }

    /// Whether the sum is a number: beyond 64 bits and beyond the greatest float there is none.
    pub(super) fn fits(self, other: Number) -> bool {
        match (self, other) {
            (Number::Whole(a), Number::Whole(b)) => a.checked_add(b).is_some(),
            (a, b) => (a.float() + b.float()).is_finite(),
        }
    }

    /// Is the difference a number?
    pub(super) fn fits_without(self, other: Number) -> bool {
        match (self, other) {
            (Number::Whole(a), Number::Whole(b)) => a.checked_sub(b).is_some(),
            (a, b) => (a.float() - b.float()).is_finite(),
        }
    }

    /// The difference, by the same rules.
    pub(super) fn minus(self, other: Number) -> Number {
        if let (Number::Whole(a), Number::Whole(b)) = (self, other)
            && let Some(difference) = a.checked_sub(b)
        {
            return Number::Whole(difference);
        }
        Number::Float((self.float() - other.float()).clamp(f64::MIN, f64::MAX))
    }

    fn json(self) -> Json {
        match self {
            Number::Whole(n) => Json::from(n),
            Number::Float(n) => Json::from(n),
        }
    }
}

/// What one function remembers.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Count(i64),
    Sum(Number),
    Mean {
        sum: Number,
        count: i64,
    },
    /// min, max, first, last, reduce, fold.
    Value(Option<Arc<Json>>),
    /// collect, top.
    List {
        items: Vec<Json>,
        bytes: usize,
    },
    /// distinct: each value as text.
    Set {
        items: BTreeSet<String>,
        bytes: usize,
    },
    /// approx_distinct. Boxed: most parts are small.
    Sketch(Box<Sketch>),
}

impl Part {
    pub(super) fn list() -> Part {
        Part::List { items: Vec::new(), bytes: 0 }
    }

    pub(super) fn set() -> Part {
        Part::Set { items: BTreeSet::new(), bytes: 0 }
    }

    /// Bytes of what can grow.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Part::List { bytes, .. } | Part::Set { bytes, .. } => *bytes,
            Part::Count(_) | Part::Sum(_) | Part::Mean { .. } | Part::Value(_) | Part::Sketch(_) => 0,
        }
    }

    /// The result so far; `null` where there is none.
    pub(super) fn result(&self) -> Json {
        match self {
            Part::Count(n) => Json::from(*n),
            Part::Sum(sum) => sum.json(),
            Part::Mean { count: 0, .. } => Json::Null,
            #[expect(clippy::cast_precision_loss, reason = "a mean is a float")]
            Part::Mean { sum, count } => Json::from(sum.float() / *count as f64),
            Part::Value(value) => value.as_ref().map_or(Json::Null, |v| (**v).clone()),
            Part::List { items, .. } => Json::Array(items.clone()),
            Part::Set { items, .. } => Json::from(items.len()),
            Part::Sketch(sketch) => Json::from(sketch.count()),
        }
    }

    fn stored(&self) -> Stored {
        match self {
            Part::Count(n) => Stored::Count(*n),
            Part::Sum(Number::Whole(n)) => Stored::Whole(*n),
            Part::Sum(Number::Float(n)) => Stored::Float(*n),
            Part::Mean { sum: Number::Whole(n), count } => Stored::MeanWhole(*n, *count),
            Part::Mean { sum: Number::Float(n), count } => Stored::MeanFloat(*n, *count),
            Part::Value(None) => Stored::Nothing,
            Part::Value(Some(json)) => Stored::Value(json.to_string()),
            Part::List { items, .. } => Stored::List(items.iter().map(Json::to_string).collect()),
            Part::Set { items, .. } => Stored::Set(items.iter().cloned().collect()),
            Part::Sketch(sketch) => Stored::Sketch(sketch.to_bytes()),
        }
    }
}

#[derive(Encode, Decode)]
enum Stored {
    Count(i64),
    Whole(i64),
    Float(f64),
    MeanWhole(i64, i64),
    MeanFloat(f64, i64),
    Nothing,
    Value(String),
    List(Vec<String>),
    Set(Vec<String>),
    Sketch(Vec<u8>),
}

impl Stored {
    fn part(self) -> Result<Part, StateError> {
        let json = |text: &str| {
            serde_json::from_str::<Json>(text).map_err(|e| StateError(format!("an aggregate's value: {e}")))
        };
        Ok(match self {
            Stored::Count(n) => Part::Count(n),
            Stored::Whole(n) => Part::Sum(Number::Whole(n)),
            Stored::Float(n) => Part::Sum(Number::Float(n)),
            Stored::MeanWhole(n, count) => Part::Mean { sum: Number::Whole(n), count },
            Stored::MeanFloat(n, count) => Part::Mean { sum: Number::Float(n), count },
            Stored::Nothing => Part::Value(None),
            Stored::Value(text) => Part::Value(Some(Arc::new(json(&text)?))),
            Stored::List(texts) => {
                let items = texts.iter().map(|t| json(t)).collect::<Result<Vec<_>, _>>()?;
                let bytes = items.iter().map(size).sum();
                Part::List { items, bytes }
            }
            Stored::Set(items) => {
                let items: BTreeSet<String> = items.into_iter().map(present).collect();
                let bytes = items.iter().map(|i| i.len() + SET_ITEM_BYTES).sum();
                Part::Set { items, bytes }
            }
            Stored::Sketch(bytes) => Part::Sketch(Box::new(Sketch::from_bytes(&bytes)?)),
        })
    }
}

/// The text of a set's member as it would be written now: earlier versions wrote great whole doubles as 1e16, and -0.0.
fn present(text: String) -> String {
    let other = !text.starts_with('"') && text.contains(['e', '-']);
    let json = other.then(|| serde_json::from_str(&text).ok()).flatten();
    json.map_or(text, |json: Json| canonical(&json))
}

/// Memory of one member of a set besides its text, about.
pub(super) const SET_ITEM_BYTES: usize = 32;

/// Bytes of a value, about.
pub(super) fn size(json: &Json) -> usize {
    match json {
        Json::Null | Json::Bool(_) | Json::Number(_) => 8,
        Json::String(s) => s.len() + 24,
        Json::Array(items) => items.iter().map(size).sum::<usize>() + 24,
        Json::Object(fields) => fields.iter().map(|(k, v)| k.len() + 24 + size(v)).sum::<usize>() + 24,
    }
}

/// Numbers before texts; a number like 1.0 is equal to 1.
pub(super) fn compare(a: &Json, b: &Json) -> Ordering {
    match (a, b) {
        (Json::Number(x), Json::Number(y)) => compare_numbers(x, y),
        (Json::String(x), Json::String(y)) => x.cmp(y),
        (Json::Number(_), _) => Ordering::Less,
        (_, Json::Number(_)) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

/// The parts of one key, or of one key and window.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Acc {
    One(Part),
    Many(Vec<Part>),
}

impl Acc {
    pub(super) fn parts(&self) -> &[Part] {
        match self {
            Acc::One(part) => std::slice::from_ref(part),
            Acc::Many(parts) => parts,
        }
    }

    pub(super) fn parts_mut(&mut self) -> &mut [Part] {
        match self {
            Acc::One(part) => std::slice::from_mut(part),
            Acc::Many(parts) => parts,
        }
    }

    /// Whether the only result is `null`: then there is no row.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Acc::One(Part::Value(None)))
    }

    /// The record value of a result with one part.
    pub(super) fn single(&self) -> Option<Value> {
        match self {
            Acc::One(Part::Value(value)) => Some(value.clone().map_or(Value::Null, Value::Json)),
            Acc::One(part) => Some(Value::from(part.result())),
            Acc::Many(_) => None,
        }
    }
}

/// One row: an aggregate with the timestamp of its result (of a session: its end).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) ts: i64,
    pub(super) acc: Acc,
}

impl Cell for Row {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), StateError> {
        match &self.acc {
            // Encoded as a list of one: its length, then the part.
            Acc::One(part) => codec::encode_into(VERSION, &(self.ts, true, 1u64, part.stored()), out),
            Acc::Many(parts) => {
                let parts: Vec<Stored> = parts.iter().map(Part::stored).collect();
                codec::encode_into(VERSION, &(self.ts, false, parts), out)
            }
        }
    }

    fn decode(bytes: &[u8]) -> Result<Row, StateError> {
        let (ts, one, stored): (i64, bool, Vec<Stored>) = codec::decode(VERSION, bytes)?;
        let mut parts = stored.into_iter().map(Stored::part).collect::<Result<Vec<_>, _>>()?;
        let acc = match (one, parts.pop()) {
            (true, Some(part)) if parts.is_empty() => Acc::One(part),
            (false, last) => {
                parts.extend(last);
                Acc::Many(parts)
            }
            (true, _) => return Err(StateError("an aggregate of one part has several".into())),
        };
        Ok(Row { ts, acc })
    }
}

/// The timestamp of a row, without the rest.
pub(super) fn row_ts(bytes: &[u8]) -> Result<i64, StateError> {
    let ts = bytes.get(1..9).and_then(|b| <[u8; 8]>::try_from(b).ok());
    match (bytes.first(), ts) {
        (Some(&VERSION), Some(ts)) => Ok(i64::from_le_bytes(ts)),
        _ => Err(StateError("an aggregate's row has another format".into())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn every_part() -> Vec<Part> {
        vec![
            Part::Count(3),
            Part::Sum(Number::Whole(-7)),
            Part::Sum(Number::Float(0.5)),
            Part::Mean { sum: Number::Whole(5), count: 2 },
            Part::Mean { sum: Number::Float(5.5), count: 2 },
            Part::Value(None),
            Part::Value(Some(Arc::new(json!({"b": 1, "a": [null]})))),
            Part::List { items: vec![json!(1), json!("x")], bytes: 33 },
            Part::Set { items: ["1".into()].into(), bytes: 33 },
            Part::Sketch(Box::new(Sketch::new())),
        ]
    }

    fn encoded(row: &Row) -> Vec<u8> {
        let mut bytes = Vec::new();
        row.encode(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_row_comes_back_whole() {
        let check = |acc: Acc| {
            let row = Row { ts: 5, acc };
            let bytes = encoded(&row);
            assert_eq!(Row::decode(&bytes).unwrap(), row);
            assert_eq!(row_ts(&bytes).unwrap(), 5);
            assert!(Row::decode(&bytes[..bytes.len() - 1]).is_err());
            assert!(row_ts(&bytes[..8]).is_err());
        };
        every_part().into_iter().for_each(|part| check(Acc::One(part)));
        check(Acc::Many(every_part()));
        check(Acc::Many(vec![Part::Count(1)]));
    }

    #[test]
    fn a_set_of_an_earlier_version_holds_what_is_the_same_once() {
        let set = |items: &[&str]| Stored::Set(items.iter().map(|i| (*i).to_owned()).collect());
        let old = ["1e16", "10000000000000000", "-0.0", "0", "\"1e16\"", "[1e+16]", "true", "1e300"];
        let Ok(Part::Set { items, bytes }) = set(&old).part() else { panic!("a set") };
        let now = ["10000000000000000", "0", "\"1e16\"", "[10000000000000000]", "true", "1e+300"];
        assert_eq!(items, now.map(str::to_owned).into());
        assert_eq!(bytes, now.iter().map(|i| i.len() + SET_ITEM_BYTES).sum::<usize>());
    }

    /// Never edit: rows on users' disks have this format.
    #[test]
    fn version_1_is_written_and_read_as_on_users_disks() {
        let row = Row { ts: 258, acc: Acc::One(Part::Count(3)) };
        let bytes: &[u8] = &[
            1, // version
            2, 1, 0, 0, 0, 0, 0, 0, // ts
            1, // one part
            1, 0, 0, 0, 0, 0, 0, 0, // how many
            0, 0, 0, 0, // count
            3, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(encoded(&row), bytes);
        assert_eq!(Row::decode(bytes).unwrap(), row);
        assert!(row_ts(&[2, 0, 0, 0, 0, 0, 0, 0, 0]).is_err(), "another version");
    }

    #[test]
    fn sums_stay_whole_while_they_can() {
        let plus = |a: Number, b: Number| a.plus(b);
        assert_eq!(plus(Number::Whole(1), Number::Whole(2)), Number::Whole(3));
        assert_eq!(plus(Number::Whole(1), Number::Float(0.5)), Number::Float(1.5));
        assert_eq!(plus(Number::Whole(i64::MAX), Number::Whole(0)), Number::Whole(i64::MAX));
        assert_eq!(
            plus(Number::Whole(i64::MAX), Number::Whole(1)),
            Number::Float(9_223_372_036_854_775_808.0)
        );
        assert_eq!(plus(Number::Float(f64::MAX), Number::Float(f64::MAX)), Number::Float(f64::MAX));
        assert_eq!(
            [json!(18_446_744_073_709_551_615_u64), json!(2.5), json!(-7)].map(|n| Number::of(&n)),
            [None, Some(Number::Float(2.5)), Some(Number::Whole(-7))]
        );
        let fits = |a: Number, b: Number| (a.fits(b), a.fits_without(b));
        assert_eq!(fits(Number::Whole(i64::MAX), Number::Whole(1)), (false, true));
        assert_eq!(fits(Number::Whole(i64::MIN), Number::Whole(1)), (true, false));
        assert_eq!(fits(Number::Float(f64::MAX), Number::Float(f64::MAX)), (false, true));
        assert_eq!(Number::of(&json!("1")), None);
    }

    #[test]
    fn values_compare_and_are_told_apart_by_what_they_mean() {
        assert_eq!(compare(&json!(2), &json!(10)), Ordering::Less);
        assert_eq!(compare(&json!(1), &json!(1.0)), Ordering::Equal);
        assert_eq!(compare(&json!(1.5), &json!(1)), Ordering::Greater);
        assert_eq!(compare(&json!("b"), &json!("a")), Ordering::Greater);
        assert_eq!(compare(&json!("1"), &json!(2)), Ordering::Greater);
        assert_eq!(
            compare(&json!(9_007_199_254_740_993_i64), &json!(9_007_199_254_740_992.0)),
            Ordering::Greater
        );
        assert_eq!(compare(&json!(u64::MAX), &json!(u64::MAX - 1)), Ordering::Greater);
    }
}
