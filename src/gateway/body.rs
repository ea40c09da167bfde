//! The body of a request: bounded in size and time, JSON or a form.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;

use super::answer::Problem;
use crate::model::{Json, read_json};

/// What of a body that is too large is still read, so that its client reads the answer instead of a broken connection.
const SURPLUS: usize = 8 << 20;

/// Reads a body.
///
/// # Errors
/// 413: it is larger than `max`. 408: it did not come in time. 400: the connection broke.
pub(super) async fn read(
    body: Body,
    headers: &HeaderMap,
    max: usize,
    within: Duration,
) -> Result<Bytes, Problem> {
    let too_large = || {
        let message = format!("the body is larger than {max} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let mut surplus =
        announced.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > max));
    // A client that waits for `100 Continue` has sent nothing yet.
    if surplus && headers.contains_key(header::EXPECT) {
        return Err(too_large());
    }
    let all = async {
        let mut parts = body.into_data_stream();
        let (mut found, mut seen) = (Vec::new(), 0usize);
        while let Some(part) = parts.next().await {
            let part =
                part.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, format!("the body broke off: {e}")))?;
            seen = seen.saturating_add(part.len());
            surplus |= seen > max;
            if surplus {
                found = Vec::new();
                if seen > max.saturating_add(SURPLUS) {
                    break;
                }
            } else {
                found.extend_from_slice(&part);
            }
        }
        if surplus { Err(too_large()) } else { Ok(Bytes::from(found)) }
    };
    let late = |_| {
        let message = format!("the body did not come within {} s", within.as_secs_f64());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, message))
    };
    tokio::time::timeout(within, all).await.unwrap_or_else(late)
}

/// The value of a body: JSON, the fields of a form, or null where there is none.
///
/// # Errors
/// 415: it is of another type. 400: it is none of its type.
pub(super) fn parse(headers: &HeaderMap, bytes: &Bytes) -> Result<Json, Problem> {
    let unsupported = |what: String| {
        let message = format!("{what}: send `application/json` or `application/x-www-form-urlencoded`");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    };
    let bad = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(unsupported("the body is compressed".into()));
    }
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let kind = given.map(|given| given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match kind.as_deref() {
        None if bytes.is_empty() => Ok(Json::Null),
        None => Err(unsupported("the body has no Content-Type".into())),
        Some("application/x-www-form-urlencoded") => form(bytes).map_err(bad),
        Some(kind)
            if kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json") =>
        {
            read_json(bytes).map_err(|e| bad(e.to_string().replacen("the value", "the body", 1)))
        }
        Some(other) => Err(unsupported(format!("the body is {other}"))),
    }
}

/// The fields of a form as an object of text; a name that comes several times has a list.
fn form(bytes: &[u8]) -> Result<Json, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("the form is no text: {e}"))?;
    let mut fields = serde_json::Map::new();
    for (name, value) in pairs(text)? {
        let value = Json::String(value);
        match fields.get_mut(&name) {
            None => drop(fields.insert(name, value)),
            Some(Json::Array(list)) => list.push(value),
            Some(first) => *first = Json::Array(vec![first.take(), value]),
        }
    }
    Ok(Json::Object(fields))
}

/// Names and values of a form or of a query, decoded.
///
/// # Errors
/// One is no UTF-8 text when it is decoded; for people.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    // The parser replaces what is no text, and a replacement would be stored as if it had been sent.
    let decoded = crate::endpoints::decode_percent(&text.replace('+', " "));
    if decoded.is_none() {
        return Err("the form is no UTF-8 text".into());
    }
    let pairs = url::form_urlencoded::parse(text.as_bytes());
    Ok(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn parsed(kind: &str, body: &'static [u8]) -> Result<Json, u16> {
        let mut headers = HeaderMap::new();
        if !kind.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(kind).expect("a value"));
        }
        parse(&headers, &Bytes::from_static(body)).map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn a_body_is_json_or_a_form() {
        let form = "application/x-www-form-urlencoded";
        assert_eq!(parsed("application/json; charset=utf-8", b"{\"a\": 1}"), Ok(json!({"a": 1})));
        assert_eq!(parsed("application/problem+json", b"[]"), Ok(json!([])));
        assert_eq!(
            parsed(form, b"a=1&b=x+y%C3%A4&a=2&c"),
            Ok(json!({"a": ["1", "2"], "b": "x yä", "c": ""}))
        );
        assert_eq!(parsed("", b""), Ok(Json::Null));
        assert_eq!(parsed("", b"{}"), Err(415));
        assert_eq!(parsed("text/plain", b"{}"), Err(415));
        assert_eq!(parsed("application/json", b"{\"a\": "), Err(400));
        assert_eq!(parsed("application/json", b""), Err(400));
        assert_eq!(parsed("application/json", b"\xff"), Err(400));
        assert_eq!(parsed(form, b"a=%FF"), Err(400));
        assert_eq!(parsed(form, b"\xff"), Err(400));
    }

    #[test]
    fn bad_json_is_named_by_line_and_column() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let error = parse(&headers, &Bytes::from_static(b"{\n  \"a\": nope\n}")).expect_err("bad").error;
        assert!(error.starts_with("the body is not JSON") && error.contains("line 2 column"), "{error}");
    }
}
