//! Weak ETags by content: the same JSON has the same one, whichever instance and whichever place it came from, and however
//! its fields are ordered and spaced there.

use sha2::{Digest, Sha256};

use crate::model::{Json, canonical};

/// The ETag of a value: `W/"..."`.
#[must_use]
pub fn of(json: &Json) -> String {
    let hash = Sha256::digest(canonical(json).as_bytes());
    let hex = hash[..16].iter().fold(String::with_capacity(32), |text, byte| text + &format!("{byte:02x}"));
    format!("W/\"{hex}\"")
}

/// Whether one of the values of `If-None-Match` names this ETag, compared weakly (RFC 9110, 13.1.2).
pub fn is_known<'a>(if_none_match: impl IntoIterator<Item = &'a str>, etag: &str) -> bool {
    let bare = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let ours = bare(etag);
    if_none_match.into_iter().any(|value| {
        // Ours has no comma in it, so one that has cannot be it, however it is cut.
        value.trim() == "*" || value.split(',').any(|tag| bare(tag.trim()) == ours)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_content_has_the_same_etag() {
        let text = |text: &str| of(&serde_json::from_str(text).expect("JSON"));
        assert_eq!(text(r#"{"a":1,"b":[true]}"#), text(r#"{ "b": [true], "a": 1.0 }"#));
        assert_ne!(of(&json!({"a": 1})), of(&json!({"a": "1"})));
        assert!(of(&json!(null)).starts_with("W/\"") && of(&json!(null)).len() == 36);
    }

    #[test]
    fn a_list_a_star_and_a_strong_one_are_compared() {
        let etag = of(&json!({"a": 1}));
        let strong = etag.trim_start_matches("W/").to_owned();
        for (given, known) in [
            (etag.as_str(), true),
            (&strong, true),
            ("*", true),
            (" * ", true),
            (&format!("\"x\", W/\"y,z\" ,{etag}"), true),
            ("\"x\"", false),
            ("", false),
            (strong.trim_matches('"'), false),
        ] {
            assert_eq!(is_known([given], &etag), known, "{given}");
        }
        assert!(is_known(["\"x\"", etag.as_str()], &etag), "the header may come twice");
        assert!(!is_known([], &etag));
    }
}
