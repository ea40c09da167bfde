//! An endpoint that reads, as a handler of requests: status, `ETag` and body, made of what was found.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::future::BoxFuture;

use super::store::Stores;
use super::{Found, Reader, etag};
use crate::endpoints::{Lookup, ReadConfig};
use crate::gateway::answer::Problem;
use crate::gateway::{GatewayError, Given, Handler, Request};
use crate::model::{EvalError, Json, Scope, Value};

/// An endpoint that reads.
pub struct Reading {
    settings: Vec<ReadConfig>,
    reader: Reader,
    /// Where one of the places is a store.
    stores: Option<Stores>,
}

impl Reading {
    /// An endpoint with the places of its settings. Nothing is connected before the first request.
    ///
    /// # Errors
    /// The settings of a server cannot be used.
    pub fn new(given: &Given<'_>) -> Result<Reading, GatewayError> {
        let settings = &given.endpoint.read;
        let reader = Reader::new(settings, &given.engine.topology().settings.connections, given.stand_in);
        let reader = reader
            .map_err(|e| GatewayError::Endpoint { endpoint: given.name.to_owned(), message: e.message })?;
        Ok(Reading { settings: settings.clone(), reader, stores: given.stores.cloned() })
    }

    fn lookups(&self, scope: &Scope<'_>) -> Result<Vec<Lookup>, EvalError> {
        self.settings.iter().map(|place| place.lookup(scope)).collect()
    }

    async fn found(&self, request: &Request) -> Result<Response, Problem> {
        let bad = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
        let lookups = request.read(|scope| self.lookups(scope)).map_err(|e| bad(e.to_string()))?;
        let (place, json, text) = match self.reader.look(lookups, self.stores.as_ref()).await {
            Found::Value { place, json, text } => (place, json, text),
            Found::Nothing => return Err(Problem::new(StatusCode::NOT_FOUND, "there is none")),
            Found::Unknown(why) => return Err(Problem::unavailable(format!("it is not known now: {why}"))),
            Found::Refused(why) => return Err(bad(why)),
        };
        let (json, text) = match self.body(place, &json, request) {
            None => (json, text),
            Some(made) => {
                let message = |e: EvalError| format!("the answer cannot be made of what was found: {e}");
                let failed = |e| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message(e));
                (made.map_err(failed)?, None)
            }
        };
        let known = request.headers.get_all(header::IF_NONE_MATCH);
        let known: Vec<&str> = known.iter().filter_map(|value| value.to_str().ok()).collect();
        let etag = etag::of(&json);
        let mut response = match etag::is_known(known, &etag) {
            true => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
            false => {
                let mut response = Response::new(Body::from(text.unwrap_or_else(|| json.to_string())));
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                response
            }
        };
        // It may be kept, and has to be asked for again with its ETag.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(etag) = HeaderValue::try_from(etag) {
            response.headers_mut().insert(header::ETAG, etag);
        }
        Ok(response)
    }

    /// What the place makes of what was found there, if it makes anything of it.
    fn body(&self, place: usize, json: &Json, request: &Request) -> Option<Result<Json, EvalError>> {
        let body = self.settings.get(place)?.body.as_ref()?;
        let value = Value::Json(std::sync::Arc::new(json.clone()));
        Some(request.read(|scope| body.eval(&Scope { value: &value, ..*scope })))
    }
}

impl Handler for Reading {
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response> {
        Box::pin(
            async move { self.found(request).await.unwrap_or_else(|problem| problem.response(&request.id)) },
        )
    }
}
