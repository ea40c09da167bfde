//! The identity of a request: its id, and a hash of what it asks.
//!
//! With an `Idempotency-Key` the id is made of that key, the route and the caller, and of nothing else, so a request that
//! is sent again has the same id at every instance. Without one it is new.

use axum::http::{HeaderMap, HeaderName};
use uuid::{Builder, Uuid};

use super::auth::digest;
use crate::model::{Json, canonical};

/// The header of the client's key.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key.
const KEY_MAX: usize = 255;
/// Part of every id that is made of a key: such ids are stored by their users, so what they are made of never changes.
const FORMAT: &str = "slackwater-request-1";

/// The client's key, with or without the quotes that a structured field has.
///
/// # Errors
/// It is empty, too long, not printable, or there are several; for people.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, String> {
    let mut all = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err("there are several Idempotency-Keys".into());
    }
    let text = value.to_str().map_err(|_| "the Idempotency-Key is not printable ASCII".to_owned())?.trim();
    let bare = match text.strip_prefix('"') {
        None => text.to_owned(),
        Some(rest) => unquoted(rest).ok_or("the Idempotency-Key has no closing quote")?,
    };
    if bare.is_empty() || bare.len() > KEY_MAX {
        return Err(format!(
            "the Idempotency-Key has {} characters, and 1 to {KEY_MAX} are allowed",
            bare.len()
        ));
    }
    if !bare.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Err("the Idempotency-Key is not printable ASCII".into());
    }
    Ok(Some(bare))
}

/// A structured field's string behind its first quote (RFC 8941, section 3.3.3).
fn unquoted(rest: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(out),
            '\\' => out.push(chars.next().filter(|c| matches!(c, '"' | '\\'))?),
            c => out.push(c),
        }
    }
}

/// A new id: a UUID that begins with the time.
pub(super) fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// The id that a key has on this route, for this caller.
pub(super) fn id_of(key: &str, route: &str, caller: Option<&str>) -> String {
    let parts = [FORMAT, route, key, caller.unwrap_or_default()];
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest(&parts)[..16]);
    Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// A hash of what a request asks: path, query and body, however the body is written.
pub(super) fn hash_of(path: &str, query: &str, body: &Json) -> String {
    let hash = digest(&[path, query, &canonical(body)]);
    hash[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_quoted_or_bare() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(value).expect("a value"));
            }
            key(&headers)
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["8e03"]), some("8e03"));
        assert_eq!(read(&["\"8e03\""]), some("8e03"));
        assert_eq!(read(&["  \"a \\\"b\\\\\" "]), some("a \"b\\"));
        assert_eq!(read(&[&"x".repeat(255)]), some(&"x".repeat(255)));
        for bad in [
            &["\"8e03"][..],
            &["\"a\"b"],
            &["\"\""],
            &[""],
            &[&"x".repeat(256)],
            &["a", "a"],
            &["ä"],
            &["\"\\x\""],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    /// Never edit: such ids are stored by their users.
    #[test]
    fn the_same_key_is_the_same_id() {
        let id = id_of("8e03", "POST /users", None);
        assert_eq!(id, "12808536-54fd-8a2a-aa53-892536f946ed");
        assert_eq!(Uuid::parse_str(&id).map(|id| id.get_version_num()), Ok(8));
        for other in [
            id_of("8e04", "POST /users", None),
            id_of("8e03", "POST /posts", None),
            id_of("8e03", "POST /users", Some("ann")),
        ] {
            assert_ne!(other, id);
        }
        assert_ne!(new_id(), new_id());
    }

    #[test]
    fn the_hash_is_of_what_is_asked() {
        let hash = |body: Json| hash_of("/users", "", &body);
        assert_eq!(hash(json!({"a": 1, "b": 2})), hash(json!({"b": 2, "a": 1})));
        assert_ne!(hash(json!({"a": 1})), hash(json!({"a": 2})));
        assert_ne!(hash(json!({"a": 1})), hash_of("/other", "", &json!({"a": 1})));
        assert_eq!(hash(Json::Null).len(), 32);
    }
}
