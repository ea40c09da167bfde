//! The `elasticsearch` sink: documents of Elasticsearch or OpenSearch, many of them written by one `_bulk` request.
//!
//! Index, id, version and document of a row are made inside the task. A lane sends the rows of a batch as NDJSON
//! (`lane`); of rows with one id it sends the one that decides, and the others only if that one is refused (`chains`).
//! The server answers each row by itself (`answer`): those that are refused go back alone, those that may be tried again are
//! sent in a new request, without the others.
//!
//! Invariants: rows of a batch have the effect that they would have one by one in their order, per id. Every request may be
//! repeated, even one whose answer was lost: a document is put under its id, never added. Rows of one id that have different
//! keys go through different lanes; only `version` orders those.

mod answer;
mod chains;
mod lane;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::lane::{SearchIndex, SearchLane};
use super::{Batch, Connected, Deletes, Operation, SinkError, SinkSettings, Surroundings, TableSink};
use crate::clients::Tls;
use crate::clients::http::server;
use crate::clients::request::is_token;
use crate::model::secret::Secret;
use crate::model::{
    Cell, Clock, EvalError, Expr, Json, Millis, Payload, Problem, Record, Scope, SinkRow, Size, Template,
    Timestamp,
};

/// Most requests in flight.
const LANES_MAX: usize = 100;
/// The longest id that the server takes, bytes.
const ID_BYTES_MAX: usize = 512;
/// The longest name of an index, bytes.
const INDEX_BYTES_MAX: usize = 255;
/// The parts of a row, in the order of its cells.
const CELLS: [&str; 4] = ["index", "id", "version", "document"];

/// Writes documents of Elasticsearch or OpenSearch.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ElasticsearchConfig {
    /// Where the cluster is: `http://host:9200`, also `https://host/path`. Required.
    pub url: Secret,
    /// User, for basic authentication. Default: the URL's; none: no login.
    #[serde(default)]
    pub user: Option<String>,
    /// Password; write it as `${SEARCH_PASSWORD}`. Default: the URL's.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Headers of every request, by name: `authorization: "ApiKey ${KEY}"`. Default none.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Certificates, where the machine's own do not do. Default: the authorities that this machine trusts.
    #[serde(default)]
    pub tls: Option<Box<Tls>>,
    /// The index (or alias, or data stream): a name, or one of each record: `orders-{{ .region }}`. Required.
    pub index: Template,
    /// The document's id, at most 512 bytes; of several parts a list, so that no two of them run together alike:
    /// `{{ encode_json([.a, .b]) }}`. Default: the record's key.
    #[serde(default)]
    pub id: Option<Template>,
    /// The document, an object. Default: the record's value.
    #[serde(default)]
    pub document: Option<Expr>,
    /// A whole number that grows with each change of a document (`.version`, `timestamp`): one that is not greater than the
    /// document's changes nothing, and its row is done. It is asked of records that delete as well. Default: the last one that
    /// comes wins.
    #[serde(default)]
    pub version: Option<Expr>,
    /// What becomes of a document that is there already. Default `index`.
    #[serde(default)]
    pub action: Action,
    /// A record for which this is true deletes the document of its id. Default: a tombstone does (a record whose value is
    /// null); `false`: none does.
    #[serde(default)]
    pub delete_when: Option<Expr>,
    /// Whether requests are compressed (gzip). Default true.
    #[serde(default = "yes")]
    pub compress: bool,
    /// Time that one request may take. Default `30s`.
    #[serde(default = "ElasticsearchConfig::default_timeout")]
    pub timeout: Millis,
    /// How rows are gathered into a request.
    #[serde(default = "ElasticsearchConfig::default_batch")]
    pub batch: Batch,
    /// Requests under way at a time, at most 100. Default 4.
    #[serde(default = "ElasticsearchConfig::default_in_flight")]
    pub max_in_flight: usize,
}

/// What becomes of a document that is there already.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is replaced.
    #[default]
    Index,
    /// It stays as it is, and what was to be written is done with: it may be the same row, written before a crash. Data
    /// streams take nothing else.
    Create,
}

fn yes() -> bool {
    true
}

impl ElasticsearchConfig {
    /// A sink with the defaults.
    #[must_use]
    pub fn new(url: impl Into<Secret>, index: Template) -> ElasticsearchConfig {
        ElasticsearchConfig {
            url: url.into(),
            user: None,
            password: None,
            headers: BTreeMap::new(),
            tls: None,
            index,
            id: None,
            document: None,
            version: None,
            action: Action::default(),
            delete_when: None,
            compress: true,
            timeout: Self::default_timeout(),
            batch: Self::default_batch(),
            max_in_flight: Self::default_in_flight(),
        }
    }

    fn default_timeout() -> Millis {
        Millis::secs(30)
    }

    fn default_batch() -> Batch {
        Batch { max_rows: 1000, max_bytes: Size(5 << 20), ..Batch::default() }
    }

    fn default_in_flight() -> usize {
        4
    }

    fn deletes(&self) -> Deletes<'_> {
        self.delete_when.as_ref().map_or(Deletes::Tombstones, Deletes::When)
    }

    /// Whether all documents go into one index.
    fn has_one_index(&self) -> bool {
        !self.index.text().contains("{{")
    }

    fn index_of(&self, scope: &Scope<'_>) -> Result<String, EvalError> {
        let index = self.index.render(scope, |part, out| out.push_str(part))?;
        match index_problem(&index) {
            Some(why) => Err(EvalError::Failed(format!("index: `{index}` is no name of one: {why}"))),
            None => Ok(index),
        }
    }

    fn id_of(&self, scope: &Scope<'_>) -> Result<String, EvalError> {
        let id = match &self.id {
            Some(id) => id.render(scope, |part, out| out.push_str(part))?,
            None => scope.key_str()?.unwrap_or_default().to_owned(),
        };
        match id.len() {
            0 => Err(EvalError::Failed(
                "id: the document has none: the record has no key, or `id` is empty".into(),
            )),
            1..=ID_BYTES_MAX => Ok(id),
            bytes => {
                Err(EvalError::Failed(format!("id: {bytes} bytes, and at most {ID_BYTES_MAX} are taken")))
            }
        }
    }

    fn version_of(&self, scope: &Scope<'_>) -> Result<Json, EvalError> {
        let Some(expr) = &self.version else { return Ok(Json::Null) };
        let version = expr.eval(scope)?;
        match version.as_i64() {
            Some(0..) => Ok(version),
            _ => {
                Err(EvalError::Failed(format!("`{}` gave {version}, no whole number from 0 on", expr.text())))
            }
        }
    }

    fn document_of(&self, record: &Record, scope: &Scope<'_>) -> Result<Json, EvalError> {
        let document = match &self.document {
            Some(expr) => expr.eval(scope)?,
            None => Arc::unwrap_or_clone(record.value.json()?),
        };
        if document.is_object() {
            return Ok(document);
        }
        let text = self.document.as_ref().map_or(".", Expr::text);
        Err(EvalError::Failed(format!("`{text}` is no object, and a document is one")))
    }
}

/// Why a text is no name of an index. Date math (`<logs-{now/d}>`) is left to the server.
fn index_problem(name: &str) -> Option<&'static str> {
    const FORBIDDEN: [char; 12] = ['\\', '/', '*', '?', '"', '<', '>', '|', ' ', ',', '#', ':'];
    if name.starts_with('<') && name.ends_with('>') {
        return None;
    }
    match name {
        "" => Some("it is empty"),
        "." | ".." => Some("it is a path"),
        _ if name.len() > INDEX_BYTES_MAX => Some("it is longer than 255 bytes"),
        _ if name.starts_with(['-', '_', '+']) => Some("it begins with `-`, `_` or `+`"),
        _ if name.chars().any(char::is_uppercase) => Some("capitals are not allowed"),
        _ if name.contains(FORBIDDEN) || name.contains(char::is_control) => {
            Some("spaces and \\ / * ? \" < > | , # : are not allowed")
        }
        _ => None,
    }
}

impl SinkSettings for ElasticsearchConfig {
    fn label(&self) -> String {
        self.index.text().to_owned()
    }

    /// The server is not asked: while it is away, only its documents wait.
    fn connect<'a>(&'a self, _: Surroundings<'a>) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        let made = SearchIndex::new(self).map(|sink| Arc::new(sink) as Arc<dyn Connected>);
        Box::pin(async { made })
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: String, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        let known = !self.url.contains("${");
        if known && (server(&self.url).is_none() || self.url.contains(['?', '#'])) {
            let message = format!("`{}` is no address of a server", &*self.url);
            add("url", message, "write it like `http://host:9200`");
        }
        if self.password.is_some() && self.user.is_none() {
            add("password", "nothing says whose it is".into(), "add `user: NAME` beside it");
        }
        if let Some(name) = self.headers.keys().find(|name| !is_token(name)) {
            add("headers", format!("`{name}` is no header name"), "use letters, digits and `-`");
        }
        let index = self.index.text();
        if !index.contains("${")
            && let Some(why) = index_problem(&self.index.filled("x"))
        {
            let message = format!("`{index}` is no name of an index: {why}");
            add("index", message, "write it in small letters, like `users` or `orders-{{ .region }}`");
        }
        if self.version.is_some() && self.action == Action::Create {
            let message = "a document that is there stays, whatever its version".into();
            add("version", message, "remove it, or write `action: index`");
        }
        if self.timeout <= Millis::ZERO {
            add("timeout", "no time at all for an answer".into(), "the default is 30s");
        }
        if !(1..=LANES_MAX).contains(&self.max_in_flight) {
            add("max_in_flight", "not from 1 to 100".into(), "the default is 4");
        }
        problems.extend(self.tls.iter().filter_map(|tls| tls.check()));
        problems
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        let templates = std::iter::once(&mut self.index).chain(&mut self.id).flat_map(Template::exprs_mut);
        templates.chain(&mut self.document).chain(&mut self.version).chain(&mut self.delete_when).collect()
    }

    fn files_mut(&mut self) -> Vec<&mut std::path::PathBuf> {
        self.tls.iter_mut().flat_map(|tls| tls.files_mut()).collect()
    }

    fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        let scope = Scope::of(record);
        let deletes = self.deletes().is(record)?;
        let (index, id, version) = (self.index_of(&scope)?, self.id_of(&scope)?, self.version_of(&scope)?);
        let document = if deletes { Json::Null } else { self.document_of(record, &scope)? };
        let cells = [index.into(), id.into(), version, document].map(Cell::Json).to_vec();
        Ok(if deletes { Payload::Delete(cells) } else { Payload::Columns(cells) })
    }

    fn shows_rows(&self) -> bool {
        true
    }

    fn batch(&self) -> Batch {
        self.batch.clone()
    }

    fn show(&self, row: &SinkRow, _: Timestamp) -> (Json, Json) {
        let (cells, delete) = match &row.payload {
            Payload::Columns(cells) => (&cells[..], false),
            Payload::Delete(cells) => (&cells[..], true),
            Payload::Record | Payload::Message(_) => (&[][..], false),
        };
        let parts = CELLS.iter().zip(cells).filter_map(|(name, cell)| match cell {
            Cell::Json(Json::Null) | Cell::CommitTimestamp => None,
            Cell::Json(json) => Some(((*name).to_owned(), json.clone())),
        });
        let shown = Json::Object(parts.collect());
        let shown = if delete { serde_json::json!({ "delete": shown }) } else { shown };
        (Scope::of(&row.record).key_json(), shown)
    }

    fn stand_in(&self, clock: Arc<dyn Clock>) -> Option<TableSink> {
        let columns = CELLS.map(str::to_owned);
        let newer = self.version.is_some().then_some(CELLS[2]);
        Some(match self.action {
            Action::Index => TableSink::of_cells(&columns, &CELLS[..2], newer, None, clock),
            Action::Create => TableSink::new(&columns, &columns[..2], Operation::Keep, clock),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ManualClock, Value};
    use serde_json::json;

    fn config(index: &str) -> ElasticsearchConfig {
        ElasticsearchConfig::new("http://h:9200", Template::new(index, None).expect("is a template"))
    }

    fn row(config: &ElasticsearchConfig, key: Option<&str>, value: Json) -> Result<SinkRow, String> {
        let key = key.map(|key| key.to_owned().into());
        let record = Record { key, value: Value::from(value), ..Record::default() };
        let payload = config.payload(&record).map_err(|e| e.to_string())?;
        Ok(SinkRow { reply_to: None, record, payload })
    }

    /// What a row shows as; or why it is none.
    fn check(config: &ElasticsearchConfig, key: Option<&str>, value: Json, expected: Result<Json, &str>) {
        let shown = row(config, key, value).map(|row| config.show(&row, Timestamp(0)).1);
        match (shown, expected) {
            (Ok(shown), Ok(expected)) => assert_eq!(shown, expected),
            (Err(said), Err(part)) => assert!(said.contains(part), "{said}"),
            (shown, expected) => panic!("{shown:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_record_is_a_document_under_its_key() {
        let plain = config("users");
        check(
            &plain,
            Some("a"),
            json!({"n": 1}),
            Ok(json!({"index": "users", "id": "a", "document": {"n": 1}})),
        );
        check(&plain, Some("a"), Json::Null, Ok(json!({"delete": {"index": "users", "id": "a"}})));
        check(&plain, None, json!({"n": 1}), Err("the document has none"));
        check(&plain, Some(""), json!({"n": 1}), Err("the document has none"));
        check(&plain, Some(&"x".repeat(513)), json!({"n": 1}), Err("513 bytes"));
        check(&plain, Some("a"), json!([1]), Err("`.` is no object"));

        let mut full = config("orders-{{ .region }}");
        full.id = Template::new("{{ .id }}", None).ok();
        full.document = Some(Expr::new(".doc", None));
        full.version = Some(Expr::new(".v", None));
        let value = json!({"region": "eu", "id": 7, "doc": {"x": 1}, "v": 3});
        let document = json!({"index": "orders-eu", "id": "7", "version": 3, "document": {"x": 1}});
        check(&full, None, value, Ok(document));
        check(&full, None, json!({"region": "EU", "id": 7, "doc": {}, "v": 3}), Err("capitals"));
        check(&full, None, json!({"region": "a b", "id": 7, "doc": {}, "v": 3}), Err("spaces"));
        check(&full, None, json!({"id": 7, "doc": {}, "v": 3}), Err("no text"));
        for version in [json!(-1), json!("3"), json!(1.5), Json::Null] {
            let value = json!({"region": "eu", "id": 7, "doc": {}, "v": version});
            check(&full, None, value, Err("no whole number from 0 on"));
        }
        full.delete_when = Some(Expr::new(".gone", None));
        let value = json!({"region": "eu", "id": 7, "v": 4, "gone": true});
        check(&full, None, value, Ok(json!({"delete": {"index": "orders-eu", "id": "7", "version": 4}})));
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        let check = |config: ElasticsearchConfig, field: Option<&str>| {
            let fields: Vec<String> = config.check().into_iter().map(|p| p.field).collect();
            assert_eq!(fields, field.map(str::to_owned).into_iter().collect::<Vec<_>>());
        };
        check(config("users"), None);
        check(config("<logs-{now/d}>"), None);
        check(config("${INDEX}"), None);
        check(config("Users"), Some("index"));
        check(config("-{{ .x }}"), Some("index"));
        check(ElasticsearchConfig { url: "h:9200".into(), ..config("users") }, Some("url"));
        check(ElasticsearchConfig { url: "http://h/_bulk?x=1".into(), ..config("users") }, Some("url"));
        check(ElasticsearchConfig { url: "${URL}".into(), ..config("users") }, None);
        check(ElasticsearchConfig { password: Some("p".into()), ..config("users") }, Some("password"));
        check(ElasticsearchConfig { timeout: Millis(0), ..config("users") }, Some("timeout"));
        check(ElasticsearchConfig { max_in_flight: 0, ..config("users") }, Some("max_in_flight"));
        let version = Some(Expr::new(".v", None));
        check(ElasticsearchConfig { action: Action::Create, version, ..config("users") }, Some("version"));
    }

    #[test]
    fn its_stand_in_holds_documents() {
        let versioned = ElasticsearchConfig { version: Some(Expr::new(".v", None)), ..config("users") };
        let table = versioned.stand_in(Arc::new(ManualClock::default())).expect("stands in");
        for (value, shown) in [(json!({"v": 2}), 2), (json!({"v": 1}), 2), (json!({"v": 3}), 3)] {
            table.put(&row(&versioned, Some("a"), value).expect("is a row")).expect("is written");
            let document = table.get(&["users", "a"]).expect("is there");
            assert_eq!(document["document"], json!({"v": shown}));
        }
    }
}
