//! Keys of formats that are no text: a key is text in a topology, and a sink has to find out again what it was.
//!
//! JSON: a string is its text, anything else its canonical JSON. A string that would be read as something else that way
//! ("123", "null") keeps its quotes, so that every key goes out as it came in.

use bytes::Bytes;

use crate::model::{Json, NotJson, canonical, check_json, key_text, read_json};

/// The text of a key that is this JSON; `null` is no key.
#[must_use]
pub fn json_key(json: &Json) -> Option<Bytes> {
    match json {
        Json::String(text) if meant(text).is_some_and(|meant| meant != *json) => {
            Some(Bytes::from(json.to_string()))
        }
        json => key_text(json),
    }
}

/// The JSON that a key's text stands for; `None` where it is JSON with a number that nothing here holds.
fn meant(text: &str) -> Option<Json> {
    let own = || Json::String(text.to_owned());
    match read_json(text.as_bytes()) {
        Ok(Json::String(inner)) => {
            let inside = Json::String(inner);
            let quoted = inside.as_str().and_then(meant).is_none_or(|meant| meant != inside);
            Some(if quoted { inside } else { own() })
        }
        Ok(json) => Some(json),
        Err(_) if check_json(text.as_bytes()).is_ok() => None,
        Err(_) => Some(own()),
    }
}

/// Decodes a key in JSON.
pub(super) fn decode(bytes: &[u8]) -> Result<Option<Bytes>, String> {
    read_json(bytes).map(|json| json_key(&json)).map_err(|NotJson(e)| format!("it is not JSON: {e}"))
}

/// Encodes a key in JSON.
pub(super) fn encode(text: &str) -> Result<Bytes, String> {
    let json = meant(text).ok_or_else(|| format!("{text} has a number that does not fit into 64 bits"))?;
    Ok(Bytes::from(canonical(&json)))
}

/// What a key's text may stand for where a schema says what it is, the likeliest first: the JSON that it is, and a string.
pub(super) fn candidates(text: &str) -> impl Iterator<Item = Json> {
    let json = read_json(text.as_bytes()).ok().filter(|json| !json.is_null() && !json.is_string());
    json.into_iter().chain([Json::String(text.to_owned())])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(bytes: &str, text: Option<&str>) {
        let decoded = decode(bytes.as_bytes()).expect(bytes);
        assert_eq!(decoded.as_deref(), text.map(str::as_bytes), "{bytes}");
        if let Some(text) = text {
            assert_eq!(encode(text).as_deref(), Ok(bytes.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_json_key_goes_out_as_it_came_in() {
        check(r#""abc""#, Some("abc"));
        check(r#""""#, Some(""));
        check("123", Some("123"));
        check(r#""123""#, Some(r#""123""#));
        check("true", Some("true"));
        check(r#""true""#, Some(r#""true""#));
        check(r#""null""#, Some(r#""null""#));
        check("{}", Some("{}"));
        check(r#""{}""#, Some(r#""{}""#));
        check(r#""\"q\"""#, Some(r#""q""#));
        check(r#""\"1\"""#, Some(r#""\"1\"""#));
        check(r#"{"a":1,"b":[2]}"#, Some(r#"{"a":1,"b":[2]}"#));
        check("null", None);
        assert_eq!(
            decode(br#" { "b": 2.0, "a": 1 } "#),
            Ok(Some(r#"{"a":1,"b":2}"#.into())),
            "one text for one value"
        );
        assert_eq!(encode("1.0").as_deref(), Ok(&b"1"[..]));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for bad in [&b"abc"[..], b"", b"\xff", b"{", b"18446744073709551616", b"1e400"] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        assert!(encode("18446744073709551616").is_err());
        assert_eq!(encode("abc").as_deref(), Ok(&br#""abc""#[..]));
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text in prop_oneof![any::<String>(), "[\"\\\\1a{}]{0,6}"]) {
            let bytes = Json::from(text.as_str()).to_string();
            let key = decode(bytes.as_bytes()).expect("is JSON").expect("a key");
            let key = String::from_utf8(key.to_vec()).expect("is text");
            prop_assert_eq!(encode(&key).expect("fits"), bytes.as_bytes());
            // And a key that is text goes out as something that comes in as that text.
            if let Ok(bytes) = encode(&text) {
                let again = decode(&bytes).expect("is JSON");
                if meant(&text) == Some(Json::from(text.as_str())) {
                    prop_assert_eq!(again.as_deref(), Some(text.as_bytes()));
                }
            }
        }
    }
}
