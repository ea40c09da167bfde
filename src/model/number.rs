//! What a number is: one rule for every source, expression, store, format and sink (`docs/formats.md`, "Numbers").
//!
//! A number is a whole number of 64 bits, from -2^63 to 2^64 - 1, or a finite double. JSON text can say more than that. A
//! number beyond the greatest double is no JSON here ([`check_finite`]). A whole number of more than 64 bits stays what
//! it is while nothing reads it, and is refused by what does: it would silently become the nearest double
//! ([`read_json`]). Two numbers are equal if they have the same value, whatever they are written as ([`Num`]).

use std::cmp::Ordering;

use serde::de::DeserializeOwned;
use serde_json::Number;

use super::value::{Json, NotJson};

/// 2^63, the first whole number that does not fit into 64 bits with a sign.
const TWO_63: f64 = 9_223_372_036_854_775_808.0;
/// 2^64, the first one that does not fit into 64 bits.
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

/// A number by its value: 1, 1.0 and 1e0 are the same one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Num {
    /// A whole number of at most 64 bits, however it was written.
    Whole(i128),
    /// Any other double.
    Float(f64),
}

impl Num {
    /// A number of JSON.
    #[must_use]
    pub fn of(number: &Number) -> Num {
        match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => Num::Whole(n.into()),
            (None, Some(n)) => Num::Whole(n.into()),
            (None, None) => Num::of_double(number.as_f64().unwrap_or_default()),
        }
    }

    /// A double.
    #[must_use]
    pub fn of_double(n: f64) -> Num {
        #[expect(clippy::cast_possible_truncation, reason = "whole, and of at most 64 bits")]
        if n.fract() == 0.0 && (-TWO_63..TWO_64).contains(&n) { Num::Whole(n as i128) } else { Num::Float(n) }
    }

    /// The whole number, if it is one of 64 bits with a sign.
    #[must_use]
    pub fn whole(self) -> Option<i64> {
        match self {
            Num::Whole(n) => i64::try_from(n).ok(),
            Num::Float(_) => None,
        }
    }

    /// By value, exactly.
    #[must_use]
    pub fn compare(self, other: Num) -> Ordering {
        match (self, other) {
            (Num::Whole(a), Num::Whole(b)) => a.cmp(&b),
            (Num::Float(a), Num::Float(b)) => a.total_cmp(&b),
            (Num::Whole(a), Num::Float(b)) => between(a, b),
            (Num::Float(a), Num::Whole(b)) => between(b, a).reverse(),
        }
    }
}

/// Compares a whole number with a double that is no whole number of 64 bits.
fn between(whole: i128, double: f64) -> Ordering {
    if double.abs() >= TWO_63 {
        return if double > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    #[expect(clippy::cast_possible_truncation, reason = "less than 64 bits")]
    let below = double.floor() as i128;
    if whole <= below { Ordering::Less } else { Ordering::Greater }
}

/// The whole number that a value is, if it is one of 64 bits with a sign: 5 and 5.0 are.
#[must_use]
pub fn whole(json: &Json) -> Option<i64> {
    json.as_number().and_then(|n| Num::of(n).whole())
}

/// The double that a value is. A whole number that no double is, is refused: nothing rounds it.
#[must_use]
pub fn double(json: &Json) -> Option<f64> {
    let number = json.as_number()?;
    let double = number.as_f64()?;
    (number.is_f64() || Num::of_double(double) == Num::of(number)).then_some(double)
}

/// The float that is nearest to a value, as a column of floats asks for: what is behind the point may be rounded. A
/// whole number that no float is, and what is beyond the greatest float, are refused.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "rounding is what a column of floats asks for")]
pub fn float(json: &Json) -> Option<f32> {
    let number = double(json)?;
    let float = number as f32;
    let same = number.fract() != 0.0 || f64::from(float) == number || holds(float, number);
    (float.is_finite() && same).then_some(float)
}

/// Whether a float, read again as the shortest decimal that gives it, is this number.
#[must_use]
pub fn holds(float: f32, number: f64) -> bool {
    shortest(float) == number
}

/// A float as the double whose shortest decimal is the float's: 0.1, and not 0.10000000149011612.
#[must_use]
pub fn shortest(float: f32) -> f64 {
    float.to_string().parse().unwrap_or(f64::from(float))
}

/// The numbers in text that is valid JSON, in order.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut in_text = false;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' if in_text => at += 1,
                b'"' => in_text = !in_text,
                b'-' | b'0'..=b'9' if !in_text => {
                    let start = at;
                    while matches!(bytes.get(at), Some(b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
                        at += 1;
                    }
                    return Some(&text[start..at]);
                }
                _ => {}
            }
            at += 1;
        }
        None
    })
}

/// Checks that every number in valid JSON text is at most the greatest double.
///
/// # Errors
/// The first that is not.
pub(super) fn check_finite(text: &str) -> Result<(), NotJson> {
    let beyond = numbers(text).find(|n| !n.parse::<f64>().is_ok_and(f64::is_finite));
    beyond.map_or(Ok(()), |n| Err(NotJson(format!("the number {} is beyond the greatest double", cut(n)))))
}

/// What a parser makes of JSON text, where it may have made a double of a whole number.
pub trait Parsed: DeserializeOwned {
    /// The greatest whole number that it holds exactly.
    const GREATEST: u64;

    /// Whether there is a double in it as great as a whole number that it cannot hold. Few values have one, so few are
    /// looked at twice.
    fn may_be_rounded(&self) -> bool;
}

impl Parsed for Json {
    const GREATEST: u64 = u64::MAX;

    fn may_be_rounded(&self) -> bool {
        match self {
            Json::Number(n) => n.is_f64() && n.as_f64().is_some_and(is_great),
            Json::Array(items) => items.iter().any(Json::may_be_rounded),
            Json::Object(fields) => fields.values().any(Json::may_be_rounded),
            Json::Null | Json::Bool(_) | Json::String(_) => false,
        }
    }
}

/// Whether a double is so great that it may stand for a whole number of more than 64 bits.
#[must_use]
pub fn is_great(double: f64) -> bool {
    double.abs() >= TWO_63
}

/// Checks that a value that was parsed from this text is what is written there.
///
/// # Errors
/// The first whole number of more bits than the value holds.
pub fn check_exact<T: Parsed>(parsed: &T, text: &str) -> Result<(), NotJson> {
    if parsed.may_be_rounded() { check_whole(text, T::GREATEST) } else { Ok(()) }
}

/// Checks that no whole number in JSON text is less than -2^63 or greater than this.
///
/// # Errors
/// The first that is.
pub fn check_whole(text: &str, greatest: u64) -> Result<(), NotJson> {
    let fits = |n: &str| {
        n.contains(['.', 'e', 'E'])
            || n.parse::<i64>().is_ok()
            || n.parse::<u64>().is_ok_and(|n| n <= greatest)
    };
    numbers(text).find(|n| !fits(n)).map_or(Ok(()), |n| Err(too_great(n, greatest)))
}

/// Says that a whole number is refused.
#[must_use]
pub fn too_great(number: &str, greatest: u64) -> NotJson {
    let bits = if greatest == u64::MAX { "64 bits" } else { "64 bits with its sign" };
    NotJson(format!("the whole number {} does not fit into {bits}, and is not rounded", cut(number)))
}

fn cut(number: &str) -> String {
    if number.len() > 60 { format!("{}...", &number[..60]) } else { number.to_owned() }
}

/// Parses JSON text.
///
/// # Errors
/// It is no JSON, or has a number that cannot be held.
pub fn read_json(bytes: &[u8]) -> Result<Json, NotJson> {
    read(bytes)
}

/// Parses JSON text as another kind of value.
///
/// # Errors
/// It is no JSON, or has a number that cannot be held.
pub fn read<T: Parsed>(bytes: &[u8]) -> Result<T, NotJson> {
    let parsed: T = serde_json::from_slice(bytes).map_err(|e| NotJson(e.to_string()))?;
    check_exact(&parsed, std::str::from_utf8(bytes).unwrap_or_default())?;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_is_64_bits_or_a_finite_double() {
        let read = |text: &str| read_json(text.as_bytes()).map(|json| json.to_string());
        for exact in
            ["18446744073709551615", "-9223372036854775808", "0.1", "1e+16", "5e-324", "-0.0", "100.0"]
        {
            assert_eq!(read(exact).as_deref(), Ok(exact));
        }
        assert_eq!(read("1.50").as_deref(), Ok("1.5"));
        assert_eq!(read("[18446744073709551616.0]").as_deref(), Ok("[1.8446744073709552e+19]"));
        for (beyond, named) in [
            ("18446744073709551616", "18446744073709551616"),
            (r#"{"a": [1e30, -9223372036854775809]}"#, "-9223372036854775809"),
            (
                r#"{"a\"1": "123456789012345678901234567890", "b": 123456789012345678901}"#,
                " 123456789012345678901 ",
            ),
        ] {
            let error = read(beyond).expect_err(beyond).to_string();
            assert!(error.contains(named) && error.contains("64 bits"), "{error}");
        }
        assert!(read("1e400").is_err());
        assert!(check_finite(r#"{"1e400": "1e400", "b": [1e308]}"#).is_ok());
        assert!(check_finite(r#"[1, -1e400]"#).is_err_and(|e| e.to_string().contains("-1e400")));
        assert!(check_finite(&"9".repeat(400)).is_err_and(|e| e.to_string().len() < 200));
    }

    #[test]
    fn numbers_are_compared_by_value() {
        let num = |text: &str| match serde_json::from_str(text).expect(text) {
            Json::Number(n) => Num::of(&n),
            other => panic!("{other}"),
        };
        let rising = [
            "-1e300",
            "-9223372036854775808",
            "-1.5",
            "-1",
            "-0.5",
            "0",
            "1e-300",
            "9007199254740992",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "1e20",
        ];
        for (n, a) in rising.iter().enumerate() {
            for (m, b) in rising.iter().enumerate() {
                assert_eq!(num(a).compare(num(b)), n.cmp(&m), "{a} {b}");
            }
        }
        for (a, b) in [
            ("1", "1.0"),
            ("10000000000000000", "1e16"),
            ("0", "-0.0"),
            ("9223372036854775808", "9223372036854775808.0"),
        ] {
            assert_eq!(num(a), num(b), "{a} {b}");
        }
        assert_ne!(num("9007199254740993"), num("9007199254740992.0"));
    }

    #[test]
    fn a_conversion_never_saturates_and_never_rounds_a_whole_number() {
        assert_eq!(
            [json!(5), json!(5.0), json!(1e18)].map(|n| whole(&n)),
            [Some(5), Some(5), Some(10_i64.pow(18))]
        );
        assert_eq!(
            [json!(5.5), json!(1e30), json!(u64::MAX), json!(TWO_63), json!("5")].map(|n| whole(&n)),
            [None; 5]
        );
        assert_eq!(double(&json!(9_007_199_254_740_992_i64)), Some(9_007_199_254_740_992.0));
        assert_eq!(double(&json!(9_007_199_254_740_993_i64)), None);
        assert_eq!(double(&json!(u64::MAX)), None);
        assert_eq!(
            [json!(0.1), json!(16_777_216), json!(1.5)].map(|n| float(&n)),
            [Some(0.1), Some(16_777_216.0), Some(1.5)]
        );
        assert_eq!([json!(16_777_217), json!(1e39), json!(-1e300)].map(|n| float(&n)), [None; 3]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn every_double_is_read_as_it_is_written(bits in any::<u64>()) {
            let n = f64::from_bits(bits);
            prop_assume!(n.is_finite());
            let text = json!(n).to_string();
            let back = read_json(text.as_bytes()).expect("is a number").as_f64().expect("is a double");
            prop_assert_eq!(back.to_bits(), n.to_bits());
        }

        #[test]
        fn every_whole_number_of_64_bits_is_read_as_it_is_written(n in any::<u64>(), m in any::<i64>()) {
            for text in [n.to_string(), m.to_string()] {
                prop_assert_eq!(read_json(text.as_bytes()).expect("is a number").to_string(), text);
            }
        }

        #[test]
        fn every_float_is_its_shortest_decimal(bits in any::<u32>()) {
            let n = f32::from_bits(bits);
            prop_assume!(n.is_finite());
            prop_assert!(holds(n, shortest(n)));
            prop_assert_eq!(float(&json!(shortest(n))).map(f32::to_bits), Some(n.to_bits()));
        }
    }
}
