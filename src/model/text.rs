//! Builds JSON text from pieces of JSON text, without parsing them into values.
//!
//! Used where an expression only copies fields. The output is, byte for byte, what would be written if each piece were
//! parsed first: no white space, one form for numbers and escapes, and the last value of a name that occurs twice.

use super::number::read_json;
use super::scan;
use super::value::{Json, NotJson};

/// Appends a piece of valid JSON in that form.
///
/// # Errors
/// The piece is not valid after all: an escape that stands for nothing, nesting too deep for a value, or a number that
/// no value holds.
pub fn append(piece: &str, out: &mut Vec<u8>) -> Result<(), NotJson> {
    if scan::is_tight(piece) {
        out.extend_from_slice(piece.as_bytes());
        return Ok(());
    }
    let json = read_json(piece.as_bytes())?;
    append_json(&json, out);
    Ok(())
}

/// Valid JSON without the white space around its values; each value as it is written.
#[must_use]
pub fn compact(json: &str) -> String {
    let (mut out, mut in_text, mut escaped) = (String::with_capacity(json.len()), false, false);
    for c in json.chars() {
        if in_text || !matches!(c, ' ' | '\n' | '\r' | '\t') {
            out.push(c);
        }
        match c {
            '"' if !escaped => in_text = !in_text,
            _ => {}
        }
        escaped = in_text && c == '\\' && !escaped;
    }
    out
}

/// Appends a value.
pub fn append_json(json: &Json, out: &mut Vec<u8>) {
    serde_json::to_writer(out, json).expect("a value is written to memory");
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(piece: &str) {
        let want = read_json(piece.as_bytes()).map(|json| json.to_string());
        let mut out = b"x".to_vec();
        let got = append(piece, &mut out).map(|()| String::from_utf8(out).unwrap());
        assert_eq!(got.ok(), want.map(|text| format!("x{text}")).ok(), "{piece}");
    }

    #[test]
    fn a_piece_is_written_as_its_value_would_be() {
        for piece in [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "7",
            "-12",
            "1.0",
            "1.50",
            "1e3",
            "1e400",
            "-1E-2",
            "100000000000000000",
            "1234567890123456789",
            "12345678901234567890",
            "123456789012345678901234567890",
            "\"\"",
            "\"ä€\"",
            r#""a\nb""#,
            r#""\u0041""#,
            r#""\ud800""#,
            r#""a/b\/c""#,
            "[]",
            "[ ]",
            "[1,2]",
            "[1, 2]",
            "[[],{}]",
            "{}",
            r#"{"a":1}"#,
            r#"{"a": 1}"#,
            r#"{"a":1 }"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"b":{"a":2}}"#,
            r#"{"b":1,"a":[true,null,{"x":"y"}]}"#,
            r#"{"\u0061":1,"a":2}"#,
            r#"{"a":[1.0]}"#,
            r#"{"a":"\t"}"#,
        ] {
            check(piece);
        }
        let wide: Vec<String> = (0..20).map(|n| format!("\"f{n}\":{n}")).collect();
        check(&format!("{{{}}}", wide.join(",")));
        for depth in [15, 16, 17, 100, 127, 128, 200] {
            check(&format!("{}1{}", "[".repeat(depth), "]".repeat(depth)));
            check(&format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)));
        }
    }

    /// Any JSON, in any form.
    pub(in crate::model) fn json_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_filter("a number", |n| n.is_finite()).prop_map(|n| format!("{n:e}")),
            any::<String>().prop_map(|s| Json::from(s).to_string()),
            (0..1000u32).prop_map(|n| format!("{n}.50")),
        ];
        let space = prop_oneof![Just(""), Just(""), Just(" "), Just("\n\t")];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            let item = (space.clone(), inner, space.clone()).prop_map(|(a, text, b)| format!("{a}{text}{b}"));
            let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("\\u0061")];
            let field = (name, item.clone()).prop_map(|(name, item)| format!("\"{name}\":{item}"));
            prop_oneof![
                prop::collection::vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec(field, 0..4).prop_map(|fields| format!("{{{}}}", fields.join(","))),
            ]
        })
    }

    #[test]
    fn white_space_goes_and_all_else_stays() {
        let text = "{ \"a b\" : [ 1.50 , 18446744073709551616, \"\\\" x \\\\\" ] ,\n\t\"c\": null }";
        assert_eq!(compact(text), r#"{"a b":[1.50,18446744073709551616,"\" x \\"],"c":null}"#);
    }

    proptest! {
        #[test]
        fn compacted_it_is_the_same_value(piece in json_text()) {
            let json = |text: &str| serde_json::from_str::<Json>(text).expect("is JSON");
            prop_assert_eq!(json(&compact(&piece)), json(&piece));
        }

        #[test]
        fn so_is_any_piece(piece in json_text()) {
            check(&piece);
        }
    }
}
