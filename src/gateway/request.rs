//! A request as a handler gets it: with everything that the endpoint's expressions read.

use std::sync::Arc;

use axum::http::HeaderMap;

use crate::model::{Headers, Json, Origin, Scope, Timestamp, Value};

/// A request whose route, caller and body are good.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its id, the same on every instance for the same `Idempotency-Key`.
    pub id: String,
    /// Its HTTP headers.
    pub headers: HeaderMap,
    /// When it came.
    pub at: Timestamp,
    /// The body.
    pub body: Arc<Json>,
    /// A hash of path, query and body, where the client gave an `Idempotency-Key`: another request under the same key has
    /// another one.
    pub hash: Option<String>,
    /// What expressions read besides the body: names and values.
    names: Vec<(String, Json)>,
    /// The HTTP headers as expressions read them.
    texts: Headers,
    value: Value,
}

/// The parts of a request.
pub(super) struct Parts {
    pub(super) id: String,
    pub(super) headers: HeaderMap,
    pub(super) at: Timestamp,
    pub(super) body: Json,
    pub(super) hash: Option<String>,
    /// The parameters of the path.
    pub(super) path: Vec<(String, String)>,
    /// Those behind `?`.
    pub(super) query: Vec<(String, String)>,
}

impl Request {
    pub(super) fn new(parts: Parts) -> Request {
        let Parts { id, headers, at, body, hash, path, query } = parts;
        let object = |pairs: &[(String, String)]| {
            Json::Object(
                pairs.iter().map(|(name, value)| (name.clone(), Json::from(value.as_str()))).collect(),
            )
        };
        let mut names = vec![
            ("path".to_owned(), object(&path)),
            ("query".to_owned(), object(&query)),
            ("id".to_owned(), Json::from(id.as_str())),
        ];
        names.extend(path.into_iter().map(|(name, value)| (name, Json::from(value))));
        let body = Arc::new(body);
        let value = Value::Json(Arc::clone(&body));
        Request { texts: texts(&headers), id, headers, at, body, hash, names, value }
    }

    /// What the endpoint's expressions read, for one look.
    pub fn read<T>(&self, look: impl FnOnce(&Scope<'_>) -> T) -> T {
        let mut vars: Vec<(&str, &Json)> = Vec::with_capacity(self.names.len() + 1);
        vars.push(("body", &self.body));
        vars.extend(self.names.iter().map(|(name, value)| (name.as_str(), value)));
        look(&Scope {
            key: None,
            value: &self.value,
            ts: self.at,
            window: None,
            headers: &self.texts,
            origin: Origin::default(),
            topics: &[],
            vars: &vars,
        })
    }
}

/// HTTP headers as text, those of one name joined by commas (RFC 9110, section 5.3).
fn texts(headers: &HeaderMap) -> Headers {
    let list = headers.keys().map(|name| {
        let values: Vec<String> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        (name.as_str().to_owned(), Some(values.join(", ").into()))
    });
    Headers::new::<Option<axum::body::Bytes>>(list)
}
