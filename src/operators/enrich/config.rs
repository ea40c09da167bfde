//! Settings of `enrich`, and how a record becomes a request.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::clients::request;
use crate::expressions::{Kind, Typing, with_field};
use crate::model::{EvalError, Expr, FieldPath, HttpRequest, Millis, Problem, Scope, Size, Template};
use crate::operators::settings::Exprs;
use crate::operators::shared::describe::Described;
use crate::operators::shared::retry::RetryConfig;
use crate::operators::{NodePlan, Operator, OperatorSettings, OwnMetrics};

/// Calls an HTTP API for each record and puts the answer into the record's value. Calls of different keys run in
/// parallel, those of one key in order; a call under way at a crash is made again.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrichConfig {
    /// What to call.
    pub http: HttpConfig,
    /// Name of a rate limit under `rate_limits`; every attempt pays a token. Default: none.
    #[serde(default)]
    pub rate_limit: Option<String>,
    /// Where the answer goes in the value (`.account`); `.` replaces the value. No default.
    pub into: FieldPath,
    /// How failed calls are retried.
    #[serde(default)]
    pub retry: RetryConfig,
    /// Calls that may be under way at a time, of all tasks of this instance. Default 128.
    #[serde(default = "calls_in_flight_max")]
    pub calls_in_flight_max: NonZeroUsize,
    /// Calls of one task that may wait or be under way; at this the task takes no more input. Default 10000.
    #[serde(default = "calls_pending_max")]
    pub calls_pending_max: NonZeroUsize,
}

/// One HTTP call: exactly one of `get`, `post`, `put`, `patch` and `delete`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// URL to `GET`. What stands between double braces is percent-encoded.
    #[serde(default)]
    pub get: Option<Template>,
    /// URL to `POST` to.
    #[serde(default)]
    pub post: Option<Template>,
    /// URL to `PUT` to.
    #[serde(default)]
    pub put: Option<Template>,
    /// URL to `PATCH`.
    #[serde(default)]
    pub patch: Option<Template>,
    /// URL to `DELETE`.
    #[serde(default)]
    pub delete: Option<Template>,
    /// Headers by name. Default: `accept: application/json`, and `content-type: application/json` with a body.
    #[serde(default)]
    pub headers: BTreeMap<String, Template>,
    /// Expression whose result is sent as a JSON body. Default: no body.
    #[serde(default)]
    pub body: Option<Expr>,
    /// Time one attempt may take, from sending to the end of the body. Default `5s`.
    #[serde(default = "timeout")]
    pub timeout: Millis,
    /// Clients taken in turn. HTTP/2 keeps one connection per client, so more of them lift its limit of streams;
    /// HTTP/1.1 opens connections as needed. Default 1.
    #[serde(default = "connections")]
    pub connections: NonZeroUsize,
    /// Largest answer, after decompression; a larger one is refused. Default `1MiB`.
    #[serde(default = "max_body")]
    pub max_body: Size,
}

fn timeout() -> Millis {
    Millis::secs(5)
}
fn max_body() -> Size {
    Size(1 << 20)
}
fn connections() -> NonZeroUsize {
    NonZeroUsize::MIN
}
fn calls_in_flight_max() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(127)
}
fn calls_pending_max() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(9_999)
}

/// The calls of an API that an operator makes.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a> {
    /// What is called.
    pub http: &'a HttpConfig,
    /// The field that the answer is put into.
    pub into: &'a str,
    /// The rate limit in which every attempt counts.
    pub rate_limit: Option<&'a str>,
    /// Most calls in flight.
    pub in_flight_max: NonZeroUsize,
}

/// Settings that contradict each other, explained.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}: {help}")]
pub struct ConfigError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: &'static str,
}

impl EnrichConfig {
    /// The settings with every default.
    #[must_use]
    pub fn new(http: HttpConfig, into: FieldPath) -> EnrichConfig {
        EnrichConfig {
            http,
            rate_limit: None,
            into,
            retry: RetryConfig::default(),
            calls_in_flight_max: calls_in_flight_max(),
            calls_pending_max: calls_pending_max(),
        }
    }

    /// The expressions in the settings, to be compiled.
    pub fn exprs_mut(&mut self) -> impl Iterator<Item = &mut Expr> {
        let http = &mut self.http;
        let urls = [&mut http.get, &mut http.post, &mut http.put, &mut http.patch, &mut http.delete];
        let templates = urls.into_iter().flatten().chain(http.headers.values_mut());
        templates.flat_map(Template::exprs_mut).chain(http.body.as_mut())
    }
}

/// Most HTTP clients of one node: each has its own pool of connections.
const CONNECTIONS_MAX: usize = 1000;

impl EnrichConfig {
    /// For graphs: `GET /accounts/{{ key }}`.
    #[must_use]
    pub fn label(&self) -> String {
        self.http.checked().map_or_else(|e| e.to_string(), |(method, url)| format!("{method} {}", url.text()))
    }
}

impl HttpConfig {
    /// `host:port` of the URL, if it does not depend on the record. `check --connect` tries to reach it.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        request::host(self.checked().ok()?.1)
    }

    /// Sends the calls to `base` (`http://127.0.0.1:8080`): it replaces scheme and host of the URL, or the
    /// `${VARIABLE}` without a value at its beginning; path and query stay. False if the host comes from the record.
    pub fn call_at(&mut self, base: &str) -> bool {
        let urls = [&mut self.get, &mut self.post, &mut self.put, &mut self.patch, &mut self.delete];
        urls.into_iter().flatten().all(|url| {
            let text = url.text();
            let end = match text.split_once("://") {
                Some((scheme, rest)) => {
                    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                    scheme.len() + "://".len() + authority
                }
                None if text.starts_with("${") => text.find('}').map_or(0, |end| end + 1),
                None => text.find(['/', '?', '#']).unwrap_or(text.len()),
            };
            url.replace_start(end, base)
        })
    }

    /// A `GET` of this URL, with every other default.
    #[must_use]
    pub fn get(url: Template) -> HttpConfig {
        HttpConfig {
            get: Some(url),
            post: None,
            put: None,
            patch: None,
            delete: None,
            headers: BTreeMap::new(),
            body: None,
            timeout: timeout(),
            connections: connections(),
            max_body: max_body(),
        }
    }

    /// The method and its URL.
    ///
    /// # Errors
    /// No method is set or several are, a header's name is invalid, or `timeout` is zero.
    pub fn checked(&self) -> Result<(&'static str, &Template), ConfigError> {
        let fail = |message: &str, help| Err(ConfigError { message: message.to_owned(), help });
        let all = [
            ("GET", &self.get),
            ("POST", &self.post),
            ("PUT", &self.put),
            ("PATCH", &self.patch),
            ("DELETE", &self.delete),
        ];
        let mut set = all.iter().filter_map(|(method, url)| url.as_ref().map(|u| (*method, u)));
        let Some(line) = set.next() else {
            return fail("no URL", "write one of `get`, `post`, `put`, `patch` or `delete`");
        };
        if set.next().is_some() {
            return fail("more than one method", "keep one of `get`, `post`, `put`, `patch` and `delete`");
        }
        if let Some(name) = self.headers.keys().find(|name| !request::is_token(name)) {
            return fail(&format!("`{name}` is no header name"), "use letters, digits and `-`");
        }
        if self.timeout <= Millis::ZERO {
            return fail("`timeout` is zero", "write how long an attempt may take, like `5s`");
        }
        Ok(line)
    }

    /// The request for one record.
    ///
    /// # Errors
    /// An expression fails, a part of the URL is empty or a dot segment (it would call another path), or a header's
    /// value has a control character.
    pub fn request(&self, scope: &Scope<'_>) -> Result<HttpRequest, EvalError> {
        let (method, url) = self.checked().map_err(|e| EvalError::Failed(e.to_string()))?;
        let url = request::url(url, scope)?;
        let mut headers = request::headers(&self.headers, scope)?;
        let body = match &self.body {
            Some(body) => Some(Bytes::from(body.eval(scope)?.to_string())),
            None => None,
        };
        request::default_header(&mut headers, "accept", "application/json");
        if body.is_some() {
            request::default_header(&mut headers, "content-type", "application/json");
        }
        Ok(HttpRequest { method: method.into(), url, headers, login: None, body, timeout: self.timeout })
    }
}

impl OperatorSettings for EnrichConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(super::Enrich::new(self.clone()).expect("the builder has checked the settings"))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn state_kind(&self, kind: &'static str, _: &NodePlan) -> Option<&'static str> {
        Some(kind)
    }
    fn unbounded(&self) -> Option<&'static str> {
        None
    }
    fn holds_records(&self, _: &NodePlan) -> bool {
        true
    }
    fn metrics(&self) -> OwnMetrics {
        super::METRICS
    }
    fn describe(&self, key: &[u8], value: &[u8], _: &NodePlan) -> Option<Described> {
        super::describe_row(key, value)
    }
    fn calls(&self) -> Option<Calls<'_>> {
        Some(Calls {
            http: &self.http,
            into: self.into.text(),
            rate_limit: self.rate_limit.as_deref(),
            in_flight_max: self.calls_in_flight_max,
        })
    }
    fn call_at(&mut self, base: &str) -> bool {
        self.http.call_at(base)
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        EnrichConfig::exprs_mut(self).map(|e| (e, &[] as &[&str])).collect()
    }
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        for expr in EnrichConfig::exprs_mut(self) {
            typing.compile(expr, &[]);
        }
        with_field(&typing.value, self.into.steps(), Kind::any())
    }
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        match self.http.checked() {
            Ok((method, url)) if !request::may_be_url(url) => {
                let field = format!("http.{}", method.to_lowercase());
                let message = format!("`{}` is no address of a server", url.text());
                problems.push(Problem::setting(
                    field,
                    message,
                    "write it like `http://host:8080/path/{{ key }}`",
                ));
            }
            Ok(_) => {}
            Err(ConfigError { message, help }) => problems.push(Problem::setting("http", message, help)),
        }
        if self.http.connections.get() > CONNECTIONS_MAX {
            let message = format!("more than {CONNECTIONS_MAX} clients");
            let help = "the default 1 is enough for most; HTTP/1.1 opens connections as needed".to_owned();
            problems.push(Problem::setting("http.connections", message, help));
        }
        if self.retry.base > self.retry.max {
            let message = format!("the first retry would wait longer than `max`, {}", self.retry.max);
            problems.push(Problem::setting("retry.base", message, "write a shorter time, or a longer `max`"));
        }
        problems
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", EnrichConfig::label(self))
    }
}

/// The `http` settings of a test: expressions reach serde as `yaml/` hands them over, `[start, end, text]`.
#[cfg(test)]
pub(super) fn spelled(mut http: crate::model::Json) -> crate::model::Json {
    use crate::model::Json;
    let expr = |at: &mut Json| *at = serde_json::json!([0, 0, at.as_str().unwrap_or_default()]);
    for (name, at) in http.as_object_mut().into_iter().flatten() {
        match (name.as_str(), at) {
            ("get" | "post" | "put" | "patch" | "delete" | "body", at) => expr(at),
            ("headers", Json::Object(headers)) => headers.values_mut().for_each(expr),
            _ => {}
        }
    }
    http
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Record, Timestamp, Value};
    use serde_json::json;

    #[test]
    fn headers_and_body_are_made_from_the_record() {
        let record = Record::new("k", Value::from(json!({"n": 1, "bad": "a\r\nb"})), Timestamp(0));
        let mut http: HttpConfig = serde_json::from_value(spelled(json!({
            "post": "http://h/", "headers": {"X-Key": "k={{ key }}", "Accept": "text/x"}, "body": "."
        })))
        .expect("is a config");
        let request = http.request(&Scope::of(&record)).expect("renders");
        assert_eq!(request.method, "POST");
        assert_eq!(request.body.as_deref(), Some(&br#"{"n":1,"bad":"a\r\nb"}"#[..]));
        let headers: Vec<_> = request.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        assert_eq!(headers, ["Accept: text/x", "X-Key: k=k", "content-type: application/json"]);
        assert_eq!(request.timeout, Millis(5000));
        http.headers.insert("Bad".into(), Template::new("{{ .bad }}", None).expect("is a template"));
        assert!(http.request(&Scope::of(&record)).is_err());
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let check = |config: serde_json::Value, says: &str| {
            let error = match serde_json::from_value::<HttpConfig>(spelled(config.clone())) {
                Ok(http) => http.checked().map(|_| ()).expect_err("is refused").to_string(),
                Err(e) => e.to_string(),
            };
            assert!(error.contains(says), "{config}: {error}");
        };
        check(json!({}), "no URL");
        check(json!({"get": "a", "put": "b"}), "more than one method");
        check(json!({"get": "a", "headers": {"a b": "c"}}), "no header name");
        check(json!({"get": "a", "timeout": "0s"}), "timeout");
        check(json!({"get": "a", "connections": 0}), "nonzero");
        check(json!({"gets": "a"}), "unknown field");
        for bad in ["account", ".a[0]", "", ".a == 1"] {
            assert!(bad.parse::<FieldPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_expression_is_found_for_compiling() {
        let mut config: EnrichConfig = serde_json::from_value(json!({
            "http": spelled(json!({
                "put": "http://h/{{ .a + 1 }}", "headers": {"x": "{{ .b + 1 }}"}, "body": ".c + 1"
            })),
            "into": ".x"
        }))
        .expect("is a config");
        let texts: Vec<_> = config.exprs_mut().map(|e| e.text().to_owned()).collect();
        assert_eq!(texts, [".a + 1", ".b + 1", ".c + 1"]);
        assert_eq!((config.calls_in_flight_max.get(), config.calls_pending_max.get()), (128, 10_000));
    }
}
