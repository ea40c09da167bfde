//! A fast scanner for JSON text in the form in which programs usually write it.
//!
//! Sources, expressions and joins scan the text of every value, mostly to skip over it; this takes less than half the
//! time that `serde_json` needs. For anything unusual (names with escapes, deep nesting, text that is not JSON) the
//! scanner gives no answer, and the caller asks `serde_json`. If it does answer, the text is JSON (RFC 8259), except
//! that half of an escaped surrogate pair is accepted, which `serde_json` accepts as well in text that it skips.

use std::ops::Range;

/// Accept any JSON.
const LOOSE: bool = false;
/// Accept only text as `serde_json` writes a value that it has read: no white space, no escapes, numbers in one form,
/// no name twice. Not all such text is recognised.
const TIGHT: bool = true;

/// Deepest nesting of objects and lists that is scanned.
const NESTED: usize = 16;
/// Most fields of an object whose names can be checked for duplicates.
const NAMES: usize = 16;
/// A number with at most so many digits is certainly written as it is read.
const DIGITS: usize = 18;
/// A number with at most so many digits, and an exponent of at most two, is certainly no greater than a double can be.
const FINITE_DIGITS: usize = 200;
const FINITE_EXPONENT: usize = 2;

/// Whether this is certainly JSON: UTF-8, and one value with white space around it, without a number beyond the greatest
/// double.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    let end = std::str::from_utf8(bytes).ok().and_then(|_| value::<LOOSE>(bytes, space(bytes, 0), NESTED));
    end.is_some_and(|end| space(bytes, end) == bytes.len())
}

/// Whether this is certainly written as `serde_json` writes what it has read.
pub(super) fn is_tight(piece: &str) -> bool {
    value::<TIGHT>(piece.as_bytes(), 0, NESTED) == Some(piece.len())
}

/// Finds the texts of an object's fields, in `found` at the positions of their names. `None`: no answer; ignore `found`
/// then.
pub(super) fn fields<'t>(bytes: &'t [u8], names: &[String], found: &mut [Option<&'t str>]) -> Option<()> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut once = true;
    let end = object::<LOOSE>(bytes, space(bytes, 0), NESTED, &mut |name, value| {
        if let Some(n) = names.iter().position(|n| n.as_bytes() == name) {
            once &= found[n].is_none();
            found[n] = text.get(value);
        }
    })?;
    (once && space(bytes, end) == bytes.len()).then_some(())
}

/// Where the white space at `at` ends.
fn space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The next byte that is not white space, and its position.
fn next<const FORM: bool>(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let byte = *bytes.get(at)?;
    if FORM == LOOSE && byte <= b' ' {
        let at = space(bytes, at);
        return Some((*bytes.get(at)?, at));
    }
    Some((byte, at))
}

/// Where the value at `at` ends.
fn value<const FORM: bool>(bytes: &[u8], at: usize, nested: usize) -> Option<usize> {
    let word = |word: &[u8]| bytes[at..].starts_with(word).then_some(at + word.len());
    match *bytes.get(at)? {
        b'"' => string::<FORM>(bytes, at),
        b'-' | b'0'..=b'9' => number::<FORM>(bytes, at),
        b't' => word(b"true"),
        b'f' => word(b"false"),
        b'n' => word(b"null"),
        b'{' => object::<FORM>(bytes, at, nested, &mut |_, _| ()),
        b'[' => array::<FORM>(bytes, at, nested),
        _ => None,
    }
}

/// Where the text at `at` ends, after its closing quotation mark.
fn string<const FORM: bool>(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = plain(bytes, at + 1);
    loop {
        match *bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' if FORM == LOOSE => {
                at += match *bytes.get(at + 1)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                    b'u' if bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => 6,
                    _ => return None,
                };
                at = plain(bytes, at);
            }
            // A control character, or an escape sequence.
            _ => return None,
        }
    }
}

/// The first quotation mark, backslash or control character from `at` on; eight bytes at a time.
fn plain(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHEST: u64 = ONES << 7;
    // Only the lowest marked byte is exact, and only that one is used.
    let below = |x: u64, n: u8| x.wrapping_sub(ONES * u64::from(n)) & !x & HIGHEST;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let x = u64::from_le_bytes(*chunk);
        let is = |byte: u8| below(x ^ (ONES * u64::from(byte)), 1);
        let found = is(b'"') | is(b'\\') | below(x, b' ');
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..b' ')) {
        at += 1;
    }
    at
}

fn number<const FORM: bool>(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = |from: usize| {
        let mut end = from;
        while bytes.get(end).is_some_and(u8::is_ascii_digit) {
            end += 1;
        }
        (end > from).then_some(end)
    };
    let minus = bytes.get(at) == Some(&b'-');
    let from = at + usize::from(minus);
    let mut end = digits(from)?;
    let zero = bytes[from] == b'0';
    if zero && end > from + 1 {
        return None;
    }
    if FORM == TIGHT {
        let whole = !matches!(bytes.get(end), Some(b'.' | b'e' | b'E'));
        return (whole && end - from <= DIGITS && !(minus && zero)).then_some(end);
    }
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1)?;
    }
    if end - from > FINITE_DIGITS {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let exponent = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = digits(exponent)?;
        if end - exponent > FINITE_EXPONENT {
            return None;
        }
    }
    Some(end)
}

/// Where the object at `at` ends. `see` is called with each name and the range of its value.
fn object<'t, const FORM: bool>(
    bytes: &'t [u8],
    at: usize,
    nested: usize,
    see: &mut impl FnMut(&'t [u8], Range<usize>),
) -> Option<usize> {
    let nested = nested.checked_sub(1)?;
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let (mut byte, mut at) = next::<FORM>(bytes, at + 1)?;
    if byte == b'}' {
        return Some(at + 1);
    }
    let mut names: [&[u8]; NAMES] = [&[]; NAMES];
    let mut n = 0;
    loop {
        // A name with an escape may stand for another name, so there is no answer then.
        let end = (byte == b'"').then(|| string::<TIGHT>(bytes, at)).flatten()?;
        let name = &bytes[at + 1..end - 1];
        if FORM == TIGHT {
            if n == NAMES || names[..n].contains(&name) {
                return None;
            }
            names[n] = name;
            n += 1;
        }
        let (colon, at_colon) = next::<FORM>(bytes, end)?;
        let (_, from) = next::<FORM>(bytes, at_colon + 1).filter(|_| colon == b':')?;
        let to = value::<FORM>(bytes, from, nested)?;
        see(name, from..to);
        let (after, at_after) = next::<FORM>(bytes, to)?;
        match after {
            b',' => (byte, at) = next::<FORM>(bytes, at_after + 1)?,
            b'}' => return Some(at_after + 1),
            _ => return None,
        }
    }
}

/// Where the list at `at` ends.
fn array<const FORM: bool>(bytes: &[u8], at: usize, nested: usize) -> Option<usize> {
    let nested = nested.checked_sub(1)?;
    let (byte, mut at) = next::<FORM>(bytes, at + 1)?;
    if byte == b']' {
        return Some(at + 1);
    }
    loop {
        let to = value::<FORM>(bytes, at, nested)?;
        let (after, at_after) = next::<FORM>(bytes, to)?;
        match after {
            b',' => at = next::<FORM>(bytes, at_after + 1)?.1,
            b']' => return Some(at_after + 1),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::value::RawValue;

    use super::*;
    use crate::model::Json;

    /// If the scanner answers, `serde_json` must say the same.
    fn check(text: &[u8]) {
        let shown = String::from_utf8_lossy(text);
        let valid = std::str::from_utf8(text).is_ok() && serde_json::from_slice::<IgnoredAny>(text).is_ok();
        assert!(valid || !is_json(text), "{shown} is no JSON");
        let names = ["a", "b", "ä"].map(String::from);
        let mut found = [None; 3];
        if fields(text, &names, &mut found).is_some() {
            let want: std::collections::BTreeMap<String, &RawValue> =
                serde_json::from_slice(text).expect(&shown);
            for (name, text) in names.iter().zip(found) {
                assert_eq!(text, want.get(name).map(|raw| raw.get()), "{shown}: {name}");
            }
        }
        let Ok(text) = std::str::from_utf8(text) else { return };
        if is_tight(text) {
            assert_eq!(serde_json::from_str::<Json>(text).expect(&shown).to_string(), text);
        }
    }

    #[test]
    fn what_is_usual_gets_an_answer() {
        for text in [
            "null",
            " true ",
            "false\n",
            "0",
            "-0",
            "10",
            "-12.50e+3",
            "1E9",
            "\"\"",
            r#""a\n\u00e4\"""#,
            "[ ]",
            "[1 , [ ] ]",
            "{}",
            r#"{ "a" : 1 , "b" : { "c" : [ null ] } }"#,
            "{\"ä\":\"ä€\"}",
            "123456789012345678901234567890",
        ] {
            assert!(is_json(text.as_bytes()), "{text}");
            check(text.as_bytes());
        }
        for text in ["7", "-120", "\"ä\"", "true", r#"{"name":"pro","n":[1,{"a":null}]}"#] {
            assert!(is_tight(text), "{text}");
        }
        let mut found = [None; 2];
        fields(br#" {"x": {"b": 1}, "b": [1, 2] } "#, &["a", "b"].map(String::from), &mut found)
            .expect("an answer");
        assert_eq!(found, [None, Some("[1, 2]")]);
    }

    #[test]
    fn what_is_not_json_gets_none() {
        for text in [
            "",
            " ",
            "nul",
            "tru",
            "nulll",
            "01",
            "-",
            "-a",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "\"",
            "\"a",
            "\"\\",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "\"\t\"",
            "\"aaaaaaaaaaaa\n\"",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\":1,",
            "{\"a\":1,}",
            "{\"a\" 1}",
            "{a:1}",
            "{1:1}",
            "{\"a\":1}x",
            "{\"a\":1}{}",
            "1e400",
            "[-1e309]",
            "1 2",
            "]",
            "\u{feff}1",
        ] {
            assert!(!is_json(text.as_bytes()), "{text}");
            check(text.as_bytes());
        }
        assert!(!is_json(b"\"\xff\""));
    }

    #[test]
    fn what_is_unusual_gets_none() {
        let names = ["a".to_owned()];
        for text in [r#"{"a":1,"a":2}"#, r#"{"\u0061":1}"#, "[]", "7"] {
            assert_eq!(fields(text.as_bytes(), &names, &mut [None]), None, "{text}");
        }
        for text in [
            "-0",
            "1.0",
            "1e3",
            "1234567890123456789",
            "[ ]",
            r#""\n""#,
            r#"{"a":1,"a":2}"#,
            r#"{"\u0061":1}"#,
        ] {
            assert!(!is_tight(text), "{text}");
        }
        let wide: Vec<String> = (0..20).map(|n| format!("\"f{n}\":{n}")).collect();
        check(format!("{{{}}}", wide.join(",")).as_bytes());
        for depth in [15, 16, 17, 127, 128, 200, 100_000] {
            check(format!("{}1{}", "[".repeat(depth), "]".repeat(depth)).as_bytes());
            check(format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)).as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn so_is_any_text(parts in prop::collection::vec(prop_oneof![
            Just("{".to_owned()), Just("}".to_owned()), Just("[".to_owned()), Just("]".to_owned()), Just(",".to_owned()), Just(":".to_owned()),
            Just("\"a\":".to_owned()), Just("\"b\": ".to_owned()), Just("{\"a\":".to_owned()), Just("1".to_owned()), Just("-0.5e1".to_owned()),
            Just("null".to_owned()), Just(" ".to_owned()), Just("\"".to_owned()), Just("\\".to_owned()), Just("\\u00".to_owned()),
            any::<String>().prop_map(|s| Json::from(s).to_string()), any::<char>().prop_map(String::from),
        ], 0..14)) {
            check(parts.concat().as_bytes());
        }

        #[test]
        fn so_is_any_json_with_a_byte_changed(text in crate::model::text::tests::json_text(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            check(text.as_bytes());
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            check(&bytes);
            bytes.remove(at);
            check(&bytes);
        }
    }
}
