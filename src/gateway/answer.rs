//! Answers: JSON, and what a client is told when something is wrong.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::endpoints::{Refusal, RespondConfig};
use crate::model::{EvalError, Json, Scope};

/// The header with the request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What `Retry-After` says, in seconds.
const RETRY_AFTER: u32 = 1;

/// An answer with a JSON body.
#[must_use]
pub fn json(status: StatusCode, body: &Json) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// What a client is told when something is wrong: a status, a sentence, and what else the contract names.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// Status.
    pub status: StatusCode,
    /// What is wrong, for people.
    pub error: String,
    /// Further fields of the body.
    pub more: Vec<(&'static str, Json)>,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A status and a sentence.
    #[must_use]
    pub fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), more: Vec::new(), headers: Vec::new() }
    }

    /// The client should ask again soon: nothing was done (503).
    #[must_use]
    pub fn unavailable(error: impl Into<String>) -> Problem {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, error);
        problem.header(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER))
    }

    /// The request is refused for one of its fields (422).
    #[must_use]
    pub fn refused(refusal: Refusal) -> Problem {
        let Refusal { field, message } = refusal;
        let named = if field.is_empty() { "the body".to_owned() } else { format!("`{field}`") };
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{named} {message}"));
        problem.with("field", Json::String(field))
    }

    /// An expression of the endpoint fails on this request (422).
    #[must_use]
    pub fn expression(what: &str, error: &EvalError) -> Problem {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("{what} cannot be made of this request: {error}"),
        )
    }

    /// The same with a further field in the body.
    #[must_use]
    pub fn with(mut self, field: &'static str, value: Json) -> Problem {
        self.more.push((field, value));
        self
    }

    /// The same with a further header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }

    /// The response: `{"error", ..., "request_id"}`.
    #[must_use]
    pub fn response(self, id: &str) -> Response {
        let mut body = serde_json::Map::new();
        body.insert("error".into(), self.error.into());
        body.extend(self.more.into_iter().map(|(field, value)| (field.to_owned(), value)));
        body.insert("request_id".into(), id.into());
        let mut response = json(self.status, &Json::Object(body));
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// The answer that `respond` describes, for one scope.
///
/// # Errors
/// An expression fails (422), or what it gives cannot be answered (500).
pub fn made(respond: &RespondConfig, scope: &Scope<'_>) -> Result<Response, Problem> {
    let failed = |e: EvalError| Problem::expression("the answer", &e);
    let status = respond.status.eval(scope).map_err(failed)?;
    let code =
        status.as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (200..=599).contains(code));
    let status = code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or_else(|| {
        let message = format!("the answer has no status: `{}` gave {status}", respond.status.text());
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    })?;
    let mut response = json(status, &respond.body.eval(scope).map_err(failed)?);
    for (name, template) in &respond.headers {
        let text = template.render(scope, |text, out| out.push_str(text)).map_err(failed)?;
        let header = (HeaderName::try_from(name.as_str()).ok(), HeaderValue::try_from(text.as_str()).ok());
        let (Some(name), Some(value)) = header else {
            let message = format!("the answer's header `{name}` cannot be sent: {text:?}");
            return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message));
        };
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}
