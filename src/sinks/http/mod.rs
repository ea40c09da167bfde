//! The `http` sink: requests to any HTTP API, one for each record or one for many.
//!
//! Method, URL, headers and body of a row are made inside the task. A lane sends one request at a time (`lane`); what the API
//! says of it, or of each row in it, decides what becomes of the rows (`answer`).
//!
//! A request is sent until it is answered, so that an API may get it more than once: after a time-out, a connection that
//! breaks, a crash. `Idempotency-Key` is the same each time, for an API that takes it; a batch has the same one as long as the
//! process runs.

mod answer;
mod lane;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::lane::{HttpLane, HttpSink};
use super::{Batch, Connected, Operation, SinkError, SinkSettings, Surroundings, TableSink};
use crate::clients::Tls;
use crate::clients::request;
use crate::model::{
    Cell, Clock, EvalError, Expr, FieldPath, Json, Millis, Payload, Problem, Record, Scope, SinkRow, Size,
    Template, Timestamp,
};

/// Most requests in flight.
const LANES_MAX: usize = 1000;
/// The parts of a row, in the order of its cells.
const CELLS: [&str; 4] = ["method", "url", "headers", "body"];
/// The method, unless another is named.
const POST: &str = "POST";

/// Sends requests to an HTTP API.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSinkConfig {
    /// The URL: `https://host/things/{{ key }}`. What stands between double braces is percent-encoded. Required.
    pub url: Template,
    /// The method, or one of each record: `{{ if is_null(.) { "DELETE" } else { "PUT" } }}`. Default `POST`.
    #[serde(default)]
    pub method: Option<Template>,
    /// Headers by name. Default: `content-type` of what is sent, where something is.
    #[serde(default)]
    pub headers: BTreeMap<String, Template>,
    /// What is sent, as JSON. Default: the record's value, as it is. `null`, and a tombstone, is no body.
    #[serde(default)]
    pub body: Option<Expr>,
    /// How many records are in a request. Default `one`.
    #[serde(default)]
    pub send: Sends,
    /// Where a batch's answer has the list of answers to its records, in their order: `.items`, or `.` for the answer itself.
    /// Default: it has none, and the whole batch shares the status of the answer.
    #[serde(default)]
    pub answers: Option<FieldPath>,
    /// Where the status is in each of these, `200` or the like, or true and false. Default `.status`.
    #[serde(default = "HttpSinkConfig::default_status")]
    pub answer_status: FieldPath,
    /// The header by which an API knows a request that it gets again; made of topology, node, and where the first and the last
    /// record were read. Default `Idempotency-Key`; `""`: none.
    #[serde(default = "HttpSinkConfig::default_idempotency_key")]
    pub idempotency_key: String,
    /// What becomes of a request that was sent and not answered (no answer in time, 408, 500, 502, 504, a connection that
    /// breaks): it may have been taken. Default `again`.
    #[serde(default)]
    pub unanswered: Unanswered,
    /// Name of a rate limit under `rate_limits`; every request pays a token. Default: none.
    #[serde(default)]
    pub rate_limit: Option<String>,
    /// Certificates, where the machine's own do not do. Default: the authorities that this machine trusts.
    #[serde(default)]
    pub tls: Option<Box<Tls>>,
    /// Time that one request may take, to the end of the answer. Default `30s`.
    #[serde(default = "HttpSinkConfig::default_timeout")]
    pub timeout: Millis,
    /// How rows are gathered, with `send: ndjson` and `array`. Default as in other sinks.
    #[serde(default)]
    pub batch: Option<Box<Batch>>,
    /// Requests under way at a time, at most 1000; those of one key are sent one after the other. Default 16.
    #[serde(default = "HttpSinkConfig::default_in_flight")]
    pub max_in_flight: usize,
}

/// How many records are in a request.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Sends {
    /// One.
    #[default]
    One,
    /// Many, each in a line of JSON. Records with another URL, method or headers are in another request.
    Ndjson,
    /// Many, in a JSON list. Records with another URL, method or headers are in another request.
    Array,
}

/// What becomes of a request that was sent and not answered.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Unanswered {
    /// It is sent again until it is answered: no record is lost, and an API without `Idempotency-Key` may have it twice.
    #[default]
    Again,
    /// Its records are refused, to be looked at: while the process runs none is sent twice, and some may be there.
    Refuse,
}

impl HttpSinkConfig {
    /// A `POST` of each record's value to this URL.
    #[must_use]
    pub fn new(url: Template) -> HttpSinkConfig {
        HttpSinkConfig {
            url,
            method: None,
            headers: BTreeMap::new(),
            body: None,
            send: Sends::default(),
            answers: None,
            answer_status: Self::default_status(),
            idempotency_key: Self::default_idempotency_key(),
            unanswered: Unanswered::default(),
            rate_limit: None,
            tls: None,
            timeout: Self::default_timeout(),
            batch: None,
            max_in_flight: Self::default_in_flight(),
        }
    }

    fn default_status() -> FieldPath {
        ".status".parse().expect("is a path")
    }

    fn default_idempotency_key() -> String {
        "Idempotency-Key".to_owned()
    }

    fn default_timeout() -> Millis {
        Millis::secs(30)
    }

    fn default_in_flight() -> usize {
        16
    }

    fn method_of(&self, scope: &Scope<'_>) -> Result<String, EvalError> {
        let Some(template) = &self.method else { return Ok(POST.to_owned()) };
        let method = template.render(scope, |part, out| out.push_str(part))?;
        match request::is_token(&method) {
            true => Ok(method),
            false => Err(EvalError::Failed(format!("`{method}` is no method of HTTP"))),
        }
    }

    /// What is sent of a record, as JSON. Bytes that are none are text here, and sent as they are.
    fn body_of(&self, record: &Record, scope: &Scope<'_>) -> Result<Json, EvalError> {
        match (&self.body, self.send) {
            (Some(expr), _) => expr.eval(scope),
            (None, Sends::One) => Ok(record.value.show()),
            (None, Sends::Ndjson | Sends::Array) => Ok(Arc::unwrap_or_clone(record.value.json()?)),
        }
    }
}

impl SinkSettings for HttpSinkConfig {
    fn label(&self) -> String {
        format!("{} {}", self.method.as_ref().map_or(POST, Template::text), self.url.text())
    }

    /// The API is not asked: while it is away, only its requests wait.
    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        let pace = self.rate_limit.as_deref().and_then(|name| (around.limit)(name));
        let origin = format!("{}.{}", around.topology, around.node);
        let made = HttpSink::new(self, &origin, pace).map(|sink| Arc::new(sink) as Arc<dyn Connected>);
        Box::pin(async { made })
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: String, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if !request::may_be_url(&self.url) {
            let message = format!("`{}` is no address of a server", self.url.text());
            add("url", message, "write it like `http://host:8080/path/{{ key }}`");
        }
        if let Some(method) = self.method.as_ref().map(Template::text)
            && !method.contains("{{")
            && !method.contains("${")
            && !request::is_token(method)
        {
            add("method", format!("`{method}` is no method of HTTP"), "write `POST`, `PUT`, `DELETE`, ...");
        }
        if let Some(name) = self.headers.keys().find(|name| !request::is_token(name)) {
            add("headers", format!("`{name}` is no header name"), "use letters, digits and `-`");
        }
        if !self.idempotency_key.is_empty() && !request::is_token(&self.idempotency_key) {
            let message = format!("`{}` is no header name", self.idempotency_key);
            add("idempotency_key", message, "write a header's name, or `\"\"` for none");
        }
        if self.send == Sends::One {
            let help = "remove it, or write `send: ndjson` or `send: array`";
            if self.batch.is_some() {
                add("batch", "each request has one record".into(), help);
            }
            if self.answers.is_some() {
                add("answers", "each request has one record, and one answer".into(), help);
            }
        }
        if self.timeout <= Millis::ZERO {
            add("timeout", "no time at all for an answer".into(), "the default is 30s");
        }
        if !(1..=LANES_MAX).contains(&self.max_in_flight) {
            add("max_in_flight", "not from 1 to 1000".into(), "the default is 16");
        }
        problems.extend(self.tls.iter().filter_map(|tls| tls.check()));
        problems
    }

    fn rate_limit(&self) -> Option<&str> {
        self.rate_limit.as_deref()
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        let templates =
            std::iter::once(&mut self.url).chain(&mut self.method).chain(self.headers.values_mut());
        templates.flat_map(Template::exprs_mut).chain(&mut self.body).collect()
    }

    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        self.tls.iter_mut().flat_map(|tls| tls.files_mut()).collect()
    }

    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        let scope = Scope::of(record);
        let (method, url) = (self.method_of(&scope)?, request::url(&self.url, &scope)?);
        let headers = request::headers(&self.headers, &scope)?;
        let headers = headers.into_iter().map(|(name, value)| (name, Json::String(value))).collect();
        let body = self.body_of(record, &scope)?;
        Ok(Payload::Columns(
            [method.into(), url.into(), Json::Object(headers), body].map(Cell::Json).to_vec(),
        ))
    }

    fn shows_rows(&self) -> bool {
        true
    }

    fn batch(&self) -> Batch {
        match self.send {
            // Nothing is gained by waiting, and what is answered is acknowledged at once.
            Sends::One => Batch { max_rows: 1, linger: Millis::ZERO, ..Batch::default() },
            Sends::Ndjson | Sends::Array => self.batch.as_deref().cloned().unwrap_or_default(),
        }
    }

    fn show(&self, row: &SinkRow, _: Timestamp) -> (Json, Json) {
        let cells = match &row.payload {
            Payload::Columns(cells) => &cells[..],
            Payload::Record | Payload::Delete(_) | Payload::Message(_) => &[],
        };
        let parts = CELLS.iter().zip(cells).filter_map(|(name, cell)| match cell {
            Cell::Json(Json::Null) | Cell::CommitTimestamp => None,
            Cell::Json(Json::Object(empty)) if *name == "headers" && empty.is_empty() => None,
            Cell::Json(json) => Some(((*name).to_owned(), json.clone())),
        });
        (Scope::of(&row.record).key_json(), Json::Object(parts.collect()))
    }

    /// The requests, one after the other.
    fn stand_in(&self, clock: Arc<dyn Clock>) -> Option<TableSink> {
        Some(TableSink::new(&CELLS.map(str::to_owned), &[], Operation::Upsert, clock))
    }
}

/// Most bytes of an answer that are read; of one without answers to single records only its beginning is looked at.
const ANSWER_MAX: Size = Size(16 << 20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ManualClock, Value};
    use serde_json::json;

    fn config(url: &str) -> HttpSinkConfig {
        HttpSinkConfig::new(Template::new(url, None).expect("is a template"))
    }

    fn row(config: &HttpSinkConfig, value: Value) -> Result<SinkRow, String> {
        let record = Record::new("a/b", value, Timestamp(0));
        let payload = config.payload(&record).map_err(|e| e.to_string())?;
        Ok(SinkRow { reply_to: None, record, payload })
    }

    #[test]
    fn a_record_is_a_request() {
        let check = |config: &HttpSinkConfig, value: Value, expected: Result<Json, &str>| {
            let shown = row(config, value).map(|row| config.show(&row, Timestamp(0)).1);
            match (shown, expected) {
                (Ok(shown), Ok(expected)) => assert_eq!(shown, expected),
                (Err(said), Err(part)) => assert!(said.contains(part), "{said}"),
                (shown, expected) => panic!("{shown:?}, not {expected:?}"),
            }
        };
        let mut http = config("http://h/{{ key }}");
        let json = |json: Json| Value::from(json);
        check(
            &http,
            json(json!({"n": 1})),
            Ok(json!({"method": "POST", "url": "http://h/a%2Fb", "body": {"n": 1}})),
        );
        check(&http, Value::Null, Ok(json!({"method": "POST", "url": "http://h/a%2Fb"})));
        check(
            &http,
            Value::Bytes("no json".into()),
            Ok(json!({"method": "POST", "url": "http://h/a%2Fb", "body": "no json"})),
        );
        http.method = Template::new("{{ .m }}", None).ok();
        http.body = Some(Expr::new(".b", None));
        http.headers.insert("x-n".into(), Template::new("n={{ .n }}", None).expect("is a template"));
        let expected = json!({"method": "DELETE", "url": "http://h/a%2Fb", "headers": {"x-n": "n=7"}});
        check(&http, json(json!({"m": "DELETE", "n": 7})), Ok(expected));
        check(&http, json(json!({"m": "G ET", "n": 7})), Err("no method"));
        check(&http, json(json!({"m": "GET", "n": "a\r\nb"})), Err("line break"));
        check(&config("http://h/{{ .none }}"), json(json!({})), Err("no text"));
        check(
            &HttpSinkConfig { send: Sends::Array, ..config("http://h") },
            Value::Bytes("no json".into()),
            Err("not JSON"),
        );
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let check = |config: HttpSinkConfig, field: Option<&str>| {
            let fields: Vec<String> = config.check().into_iter().map(|p| p.field).collect();
            assert_eq!(fields, field.map(str::to_owned).into_iter().collect::<Vec<_>>());
        };
        let ok = || config("http://h/{{ key }}");
        let template = |text: &str| Template::new(text, None).ok();
        check(ok(), None);
        check(config("h:80/x"), Some("url"));
        check(config("${API}/x"), None);
        check(HttpSinkConfig { method: template("P T"), ..ok() }, Some("method"));
        check(HttpSinkConfig { method: template("PUT"), ..ok() }, None);
        check(HttpSinkConfig { idempotency_key: "a b".into(), ..ok() }, Some("idempotency_key"));
        check(HttpSinkConfig { idempotency_key: String::new(), ..ok() }, None);
        check(HttpSinkConfig { batch: Some(Box::default()), ..ok() }, Some("batch"));
        check(HttpSinkConfig { answers: ".items".parse().ok(), ..ok() }, Some("answers"));
        check(HttpSinkConfig { answers: ".".parse().ok(), send: Sends::Array, ..ok() }, None);
        check(HttpSinkConfig { timeout: Millis(0), ..ok() }, Some("timeout"));
        check(HttpSinkConfig { max_in_flight: 0, ..ok() }, Some("max_in_flight"));
        let headers = BTreeMap::from([("a b".to_owned(), template("x").expect("is one"))]);
        check(HttpSinkConfig { headers, ..ok() }, Some("headers"));
    }

    #[test]
    fn its_stand_in_lists_the_requests() {
        let http = config("http://h");
        let table = http.stand_in(Arc::new(ManualClock::default())).expect("stands in");
        for n in [1, 2, 2] {
            table.put(&row(&http, Value::from(json!({ "n": n }))).expect("a row")).expect("is written");
        }
        let bodies: Vec<Json> = table.rows().iter().map(|row| row["body"]["n"].clone()).collect();
        assert_eq!(bodies, [1, 2, 2]);
    }
}
