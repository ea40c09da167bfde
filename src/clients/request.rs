//! How a record becomes a request: URLs and headers with expressions in them, for everything that asks an HTTP API.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::http::{escape, server};
use crate::model::{EvalError, Scope, Template};

/// The URL for one record. What an expression gives is percent-encoded, so that it changes nothing around it.
///
/// # Errors
/// An expression fails, or a part of the path is empty or a dot segment: it would call another path.
pub fn url(template: &Template, scope: &Scope<'_>) -> Result<String, EvalError> {
    let empty = Cell::new(false);
    let url = template.render(scope, |part, out| {
        if part.is_empty() && !out.contains('?') {
            empty.set(true);
        }
        out.extend(escape(part));
    })?;
    let path = url.split(['?', '#']).next().unwrap_or_default();
    if empty.get() || path.split('/').any(|s| s == "." || s == "..") {
        return Err(EvalError::Failed(format!(
            "`{url}` would call another path: a part of it is empty, `.` or `..`"
        )));
    }
    Ok(url)
}

/// The headers for one record, by name.
///
/// # Errors
/// An expression fails, or a value has a control character: it could begin another header.
pub fn headers(
    templates: &BTreeMap<String, Template>,
    scope: &Scope<'_>,
) -> Result<Vec<(String, String)>, EvalError> {
    let mut headers = Vec::with_capacity(templates.len() + 3);
    for (name, value) in templates {
        let value = value.render(scope, |part, out| out.push_str(part))?;
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(EvalError::Failed(format!(
                "header `{name}` has a line break or another control character"
            )));
        }
        headers.push((name.clone(), value));
    }
    Ok(headers)
}

/// Adds a header, unless there is one of that name.
pub fn default_header(headers: &mut Vec<(String, String)>, name: &str, value: &str) {
    if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
        headers.push((name.to_owned(), value.to_owned()));
    }
}

/// A header's name, or a method (RFC 9110, 5.6.2).
#[must_use]
pub fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The servers that a URL may name, as `host:port`: with a letter and with a digit in place of what is only known later,
/// its expressions and each `${VARIABLE}` without a value. The two are the same where the server is known already.
fn servers(url: &Template) -> [Option<String>; 2] {
    ["x", "1"].map(|fill| {
        let mut text = url.filled(fill);
        while let Some((before, (_, after))) =
            text.split_once("${").and_then(|(before, rest)| Some((before, rest.split_once('}')?)))
        {
            text = format!("{before}{fill}{after}");
        }
        server(&text)
    })
}

/// Whether a URL can name a server. One that begins with the record's own data or with a variable without a value may
/// turn out as anything.
#[must_use]
pub fn may_be_url(url: &Template) -> bool {
    url.text().starts_with("{{") || url.text().starts_with("${") || servers(url).iter().any(Option::is_some)
}

/// `host:port` of the URL, if it does not depend on the record.
#[must_use]
pub fn host(url: &Template) -> Option<String> {
    let [one, other] = servers(url);
    one.filter(|one| other.as_ref() == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Record, Timestamp, Value};
    use serde_json::json;

    fn check(text: &str, key: &str, expected: Option<&str>) {
        let record = Record::new(key.to_owned(), Value::from(json!({"q": "a&b=c d"})), Timestamp(0));
        let template = Template::new(text, None).expect("is a template");
        assert_eq!(url(&template, &Scope::of(&record)).ok().as_deref(), expected, "{text} with {key}");
    }

    #[test]
    fn what_is_substituted_cannot_change_the_url_around_it() {
        check("http://h/a/{{ key }}", "x1-._~", Some("http://h/a/x1-._~"));
        check("http://h/a/{{ key }}", "../b?c#d", Some("http://h/a/..%2Fb%3Fc%23d"));
        check("http://h/a/{{ key }}", "50% ü", Some("http://h/a/50%25%20%C3%BC"));
        check("http://h/a?q={{ .q }}&k={{ key }}", "", Some("http://h/a?q=a%26b%3Dc%20d&k="));
        check("http://h/a/{{ key }}", "..", None);
        check("http://h/a/{{ key }}/b", ".", None);
        check("http://h/a/{{ key }}", "", None);
        check("http://h/a/{{ .none }}", "x", None);
    }

    #[test]
    fn a_server_is_known_where_the_record_does_not_say_it() {
        let check = |url: &str, may_be: bool, expected: Option<&str>| {
            let url = Template::new(url, None).expect("is a template");
            assert_eq!(may_be_url(&url), may_be, "{}", url.text());
            assert_eq!(host(&url).as_deref(), expected, "{}", url.text());
        };
        check("http://h/a/{{ key }}?b={{ .c }}", true, Some("h:80"));
        check("https://u:p@h:8443?b={{ .c }}", true, Some("h:8443"));
        check("http://{{ .host }}/a", true, None);
        check("http://h:{{ .port }}/a", true, None);
        check("http://api.{{ .zone }}/a", true, None);
        check("{{ .url }}/a", true, None);
        check("${API}/a", true, None);
        check("http://${HOST}:${PORT}/a", true, None);
        check("http://h/${PATH}/a", true, Some("h:80"));
        for url in ["localhost:8080/a", "http://", "http:///a", "http://h:port/a", "ftp://h/a"] {
            check(url, false, None);
        }
    }
}
