//! When two values are the same: one rule wherever values are compared, grouped, deduplicated, or become a key.
//!
//! Numbers are the same by value (1, 1.0 and 1e0; 1e16 and 10000000000000000), objects whatever the order of their
//! fields, arrays item by item, text byte by byte. A number and its text are not the same, and null is only null. What
//! is the same has the same canonical text, near to RFC 8785: no white space, fields in the order of their names'
//! bytes, a whole number as its digits. Part of what lies in users' state: sets of `distinct` and keys made from JSON.

use std::cmp::Ordering;

use bytes::Bytes;
use serde_json::Number;

use super::number::Num;
use super::value::Json;

/// The canonical text.
#[must_use]
pub fn canonical(json: &Json) -> String {
    let mut out = String::new();
    append(json, &mut out);
    out
}

fn append(json: &Json, out: &mut String) {
    match json {
        Json::Number(n) => match Num::of(n) {
            Num::Whole(n) => out.push_str(&n.to_string()),
            Num::Float(_) => out.push_str(&n.to_string()),
        },
        Json::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                append(item, out);
            }
            out.push(']');
        }
        Json::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (n, (name, value)) in fields.into_iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                out.push_str(&Json::from(name.as_str()).to_string());
                out.push(':');
                append(value, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// Whether two values are the same.
#[must_use]
pub fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => Num::of(a) == Num::of(b),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Two numbers in order of their values.
#[must_use]
pub fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    Num::of(a).compare(Num::of(b))
}

/// The bytes of a key made from JSON: text as it is, anything else as its canonical text. `null` gives no key.
#[must_use]
pub fn key_text(json: &Json) -> Option<Bytes> {
    match json {
        Json::Null => None,
        Json::String(s) => Some(Bytes::from(s.clone())),
        other => Some(Bytes::from(canonical(other))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_the_same_has_one_text() {
        let check = |a: &str, b: &str, text: &str| {
            let [a, b]: [Json; 2] = [a, b].map(|text| serde_json::from_str(text).expect("is JSON"));
            assert_eq!((canonical(&a).as_str(), canonical(&b).as_str()), (text, text));
            assert!(same(&a, &b) && same(&b, &a), "{a} {b}");
        };
        check("100", "100.0", "100");
        check("1e16", "10000000000000000", "10000000000000000");
        check("1.8e19", "18000000000000000000", "18000000000000000000");
        check("-0.0", "0", "0");
        check("1e300", "1e+300", "1e+300");
        check(
            r#"{"b": 1.0, "a": [true, null, "x"]}"#,
            r#"{"a":[true,null,"x"],"b":1}"#,
            r#"{"a":[true,null,"x"],"b":1}"#,
        );
        check(r#"[{"b":{"d":1,"c":2}}]"#, r#"[{"b":{"c":2,"d":1.0}}]"#, r#"[{"b":{"c":2,"d":1}}]"#);
    }

    #[test]
    fn what_differs_has_two() {
        let values = [
            json!("1"),
            json!(1),
            json!(1.5),
            json!(null),
            json!("null"),
            json!(false),
            json!([]),
            json!({}),
            json!([1]),
            json!({"a": 1}),
            json!({"a": null}),
            json!({"b": 1}),
            json!(9_007_199_254_740_993_i64),
            json!(9_007_199_254_740_992.0),
            json!(u64::MAX),
            json!(u64::MAX as f64),
            json!("a"),
            json!("A"),
            json!("é"),
            json!("e\u{301}"),
        ];
        for (n, a) in values.iter().enumerate() {
            for (m, b) in values.iter().enumerate() {
                assert_eq!((same(a, b), canonical(a) == canonical(b)), (n == m, n == m), "{a} {b}");
            }
        }
    }

    #[test]
    fn a_key_is_text_as_it_is_or_canonical_json() {
        let key = |json: Json| key_text(&json).map(|key| String::from_utf8_lossy(&key).into_owned());
        assert_eq!(key(json!("1.0")).as_deref(), Some("1.0"));
        assert_eq!(key(json!("")).as_deref(), Some(""));
        assert_eq!(key(json!(1.0)).as_deref(), Some("1"));
        assert_eq!(key(json!({"b": 2, "a": 1})).as_deref(), Some(r#"{"a":1,"b":2}"#));
        assert_eq!(key(Json::Null), None);
    }

    proptest! {
        #[test]
        fn the_same_by_text_is_the_same_by_value(a in crate::model::text::tests::json_text(), b in crate::model::text::tests::json_text()) {
            let [a, b]: [Json; 2] = [a, b].map(|text| serde_json::from_str(&text).expect("is JSON"));
            prop_assert_eq!(same(&a, &b), canonical(&a) == canonical(&b));
            let again: Json = serde_json::from_str(&canonical(&a)).expect("is JSON");
            prop_assert!(same(&a, &again));
            prop_assert_eq!(canonical(&again), canonical(&a));
        }
    }
}
