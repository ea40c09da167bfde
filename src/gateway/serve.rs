//! From an HTTP request to its handler, and back: the route, the caller, the body, the id, the schema; then the log and the
//! metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::http::request::Parts as Head;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::future::BoxFuture;

use super::answer::{self, Problem, REQUEST_ID};
use super::pace::Pace;
use super::produce::{Accept, Produce};
use super::reads::store::Stores;
use super::reads::{Reading, StandIn};
use super::replies::{Ask, Replies};
use super::request::{Parts, Request};
use super::server::GatewayError;
use super::{auth, body, identity, openapi};
use crate::endpoints::{EndpointConfig, NoRoute, Params, Routes, ServeConfig};
use crate::kafka::Messenger;
use crate::model::{Clock, Json, SystemClock};
use crate::runtime::EngineHandle;
use crate::runtime::metrics::EndpointMetrics;

/// Answers the requests of one endpoint.
pub trait Handler: Send + Sync {
    /// Gets ready for requests; the port is opened when every handler is. It tries for ever where something is missing,
    /// and says what through `waiting`.
    fn prepare<'a>(&'a self, waiting: &'a Waiting) -> BoxFuture<'a, ()> {
        let _ = waiting;
        Box::pin(async {})
    }

    /// Answers a request. The future is dropped when the client goes away; what has to be finished all the same runs in a
    /// task that the handler spawns. A `HEAD` is answered as a `GET`: its body is left out later.
    fn answer<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Response>;
}

/// Where it is said what the endpoints wait for: `/ready` names it.
pub struct Waiting(EngineHandle);

/// Who waits, for `/ready`.
const LOOK: &str = "the endpoints";

impl Waiting {
    pub(super) fn new(engine: &EngineHandle) -> Waiting {
        Waiting(engine.clone())
    }

    /// It waits for this.
    pub fn say(&self, what: &str) {
        self.0.lacks(LOOK, Some(format!("{LOOK}: {what}")));
    }

    /// It waits for nothing any more.
    pub(super) fn over(&self) {
        self.0.lacks(LOOK, None);
    }
}

/// What a handler is made of.
pub struct Given<'a> {
    /// The endpoint's name.
    pub name: &'a str,
    /// Its settings.
    pub endpoint: &'a EndpointConfig,
    /// The engine that runs the topology: its clients, its stores, its metrics.
    pub engine: &'a EngineHandle,
    /// The endpoints' producer, where one of them produces.
    pub messenger: Option<&'a Arc<Messenger>>,
    /// The state of every instance, where one of them reads state.
    pub stores: Option<&'a Stores>,
    /// The replies to what they produce, where one of them waits for replies.
    pub replies: Option<&'a Arc<Replies>>,
    /// What is asked in place of the servers that they look up in, where these are not there.
    pub stand_in: Option<&'a StandIn>,
}

/// The handler of an endpoint, by what is set. An endpoint without any was refused with the file.
fn handler(given: &Given<'_>) -> Result<Option<Arc<dyn Handler>>, GatewayError> {
    if !given.endpoint.read.is_empty() {
        return Ok(Some(Arc::new(Reading::new(given)?)));
    }
    Ok(producing(given))
}

/// The handler of an endpoint that produces.
fn producing(given: &Given<'_>) -> Option<Arc<dyn Handler>> {
    let endpoint = given.endpoint;
    let produce = Produce::new(endpoint.request.as_ref()?, Arc::clone(given.messenger?));
    if let Some(reply) = &endpoint.reply {
        return Some(Arc::new(Ask::new(produce, reply, Arc::clone(given.replies?))));
    }
    let respond = endpoint.respond.clone().unwrap_or_default();
    Some(Arc::new(Accept::new(produce, respond)))
}

/// One endpoint as it is served.
pub(super) struct Endpoint {
    name: String,
    config: EndpointConfig,
    handler: Arc<dyn Handler>,
}

/// All endpoints of a topology.
pub(super) struct App {
    routes: Routes<Arc<Endpoint>>,
    config: ServeConfig,
    metrics: EndpointMetrics,
    /// Their description.
    openapi: Json,
}

/// The connection of a request: where it comes from, and what it is doing.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) pace: Arc<Pace>,
}

/// The name of no endpoint, in metrics and in the log: a request without a route.
const NONE: &str = "(none)";
/// The status of a request whose client went away before it was answered, as nginx writes it.
const CLIENT_GONE: u16 = 499;

impl App {
    /// The endpoints of an engine's topology.
    pub(super) fn new(
        config: &ServeConfig,
        engine: &EngineHandle,
        messenger: Option<&Arc<Messenger>>,
        replies: Option<&Arc<Replies>>,
        stand_in: Option<&StandIn>,
    ) -> Result<App, GatewayError> {
        let stores = Stores::needed(engine).map_err(GatewayError::Stores)?;
        let stores = stores.as_ref();
        let topology = engine.topology();
        let mut app = App {
            openapi: openapi::document(&topology.name, &topology.settings.endpoints),
            routes: Routes::default(),
            config: config.clone(),
            metrics: engine.metrics().endpoints().clone(),
        };
        for (name, endpoint) in &topology.settings.endpoints {
            if let Some(handler) =
                handler(&Given { name, endpoint, engine, messenger, stores, replies, stand_in })?
            {
                app.add(name, endpoint, handler);
            }
        }
        Ok(app)
    }

    /// Adds an endpoint.
    pub(super) fn add(&mut self, name: &str, config: &EndpointConfig, handler: Arc<dyn Handler>) {
        let endpoint = Endpoint { name: name.to_owned(), config: config.clone(), handler };
        if let Err(other) = self.routes.insert(&config.route, Arc::new(endpoint)) {
            // Refused with the file.
            tracing::error!(endpoint = name, other, "two endpoints take the same requests");
        }
    }

    /// Gets every handler ready.
    pub(super) async fn prepare(&self, waiting: &Waiting) {
        for endpoint in self.routes.all() {
            endpoint.handler.prepare(waiting).await;
        }
    }

    /// Answers a request.
    pub(super) async fn answer(&self, http: axum::extract::Request) -> Response {
        let (head, body) = http.into_parts();
        let found = self.routes.find(head.method.as_str(), head.uri.path());
        let found = found.map(|(endpoint, params)| (Arc::clone(endpoint), params));
        let name = found.as_ref().map_or(NONE, |(endpoint, _)| endpoint.name.as_str()).to_owned();
        let mut seen = Seen::begin(self, name, &head);
        let is_head = head.method == axum::http::Method::HEAD;
        let answered = match found {
            Ok((endpoint, params)) => self.ask(&endpoint, params, head, body, &mut seen.id).await,
            Err(NoRoute::Path)
                if head.uri.path() == openapi::PATH && matches!(head.method.as_str(), "GET" | "HEAD") =>
            {
                Ok(answer::json(StatusCode::OK, &self.openapi))
            }
            Err(none) => Err(no_route(none)),
        };
        let mut response = answered.unwrap_or_else(|problem| problem.response(&seen.id));
        if let Ok(id) = HeaderValue::try_from(seen.id.as_str()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        if is_head {
            response = without_body(response);
        }
        seen.status = response.status().as_u16();
        response
    }

    /// Everything up to the handler. `id` becomes the request's own as soon as that is known.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        path: Params,
        head: Head,
        given: Body,
        id: &mut String,
    ) -> Result<Response, Problem> {
        let bad = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
        let Head { uri, mut headers, .. } = head;
        let config = &endpoint.config;
        let caller = match &config.auth {
            Some(allowed) => {
                let caller = auth::caller(allowed, &headers)?;
                headers.remove(header::AUTHORIZATION);
                Some(caller)
            }
            None => None,
        };
        let raw_query = uri.query().unwrap_or_default();
        let query = body::pairs(raw_query).map_err(|e| bad(e.replace("the form", "the query")))?;
        let (mut value, mut hash) = (Json::Null, None);
        if config.reads_body() {
            let key = identity::key(&headers).map_err(bad)?;
            if let Some(key) = &key {
                *id = identity::id_of(key, &config.route.to_string(), caller.as_deref());
            }
            let within = self.config.body_timeout.duration();
            let bytes = body::read(given, &headers, self.config.max_body.bytes(), within).await?;
            value = body::parse(&headers, &bytes)?;
            hash = key.map(|_| identity::hash_of(uri.path(), raw_query, &value));
        }
        let parts = Parts { id: id.clone(), headers, at: SystemClock.now(), body: value, hash, path, query };
        let request = Request::new(parts);
        request.read(|scope| config.accept(&request.body, scope)).map_err(Problem::refused)?;
        Ok(endpoint.handler.answer(&request).await)
    }
}

fn no_route(none: NoRoute) -> Problem {
    match none {
        NoRoute::Path => Problem::new(StatusCode::NOT_FOUND, "there is no such route"),
        NoRoute::Param(message) => Problem::new(StatusCode::BAD_REQUEST, message),
        NoRoute::Method { allow } => {
            let allowed = allow.join(", ");
            let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("this route takes {allowed}"));
            match HeaderValue::try_from(allowed) {
                Ok(value) => problem.header(header::ALLOW, value),
                Err(_) => problem,
            }
        }
    }
}

/// The answer to a `HEAD`: what a `GET` gets, but for the body.
fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    Response::from_parts(parts, Body::empty())
}

/// A request that is being answered; counted and written to the log when it is dropped.
struct Seen<'a> {
    app: &'a App,
    endpoint: String,
    id: String,
    method: String,
    path: String,
    peer: Option<Peer>,
    began: Instant,
    status: u16,
}

impl<'a> Seen<'a> {
    fn begin(app: &'a App, endpoint: String, head: &Head) -> Seen<'a> {
        app.metrics.begin(&endpoint);
        let peer = head.extensions.get::<Peer>().cloned();
        peer.iter().for_each(|peer| peer.pace.serving());
        Seen {
            app,
            endpoint,
            id: identity::new_id(),
            method: head.method.to_string(),
            // Not what follows `?`: that may be a secret.
            path: shortened(head.uri.path()),
            peer,
            began: Instant::now(),
            status: CLIENT_GONE,
        }
    }
}

/// The longest path in the log, bytes.
const PATH_MAX: usize = 512;

/// A path for the log: a key in it may have thousands of letters.
fn shortened(path: &str) -> String {
    match path.char_indices().find(|(at, _)| *at >= PATH_MAX) {
        Some((at, _)) => format!("{}... ({} bytes)", &path[..at], path.len()),
        None => path.to_owned(),
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        let Seen { app, endpoint, id, method, path, peer, began, status } = self;
        let time: Duration = began.elapsed();
        app.metrics.end(endpoint, *status, time);
        peer.iter().for_each(|peer| peer.pace.idle());
        if app.config.access_log {
            let peer = peer.as_ref().map(|peer| peer.address.to_string());
            let ms = time.as_secs_f64() * 1e3;
            tracing::info!(target: "access", %method, %path, status, ms, endpoint, id, peer, "request");
        }
    }
}
