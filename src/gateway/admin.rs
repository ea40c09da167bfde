//! The admin server, for Prometheus, orchestrators and browsers. It has no access control, and `/state` and `/tap` show
//! keys and values of records.
//!
//! One serves every topology of the process. Where there are several, answers are by name, and `?topology=NAME` says
//! which one is asked.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::reads::peer::{self, Question};
use crate::model::Millis;
use crate::model::secret::masked;
use crate::operators::shared::describe;
use crate::runtime::metrics::Metrics;
use crate::runtime::{AskError, AtGate, EngineHandle};

/// The admin port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for the admin server: {source}. Give another address with --admin (port 0 takes a free one)"
)]
pub struct AdminError {
    /// The address that was asked for.
    pub address: String,
    /// Why it cannot be used.
    pub source: std::io::Error,
}

/// A running admin server.
pub struct AdminServer {
    /// Where it listens.
    pub address: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

/// How long answers in progress may take when the server ends.
const ENDING: Duration = Duration::from_secs(1);

impl AdminServer {
    /// Listens on `address` until `stop`, for the topologies of these engines.
    ///
    /// # Errors
    /// The address cannot be used.
    pub async fn start(
        address: &str,
        engines: Vec<EngineHandle>,
        stop: CancellationToken,
    ) -> Result<AdminServer, AdminError> {
        let failed = |source| AdminError { address: address.into(), source };
        let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let app = Router::new()
            .route("/", get(page))
            .route("/metrics", get(metrics))
            .route("/live", get(|| async { "ok\n" }))
            .route("/ready", get(ready))
            .route("/topology", get(describe))
            .route("/state/{node}/{*key}", get(state))
            .route("/tap/{node}", get(tap))
            .layer(map_response(mask))
            // Behind the layer: for other instances, which want values as they are.
            .route(peer::PATH, post(read))
            .with_state(Engines(engines.into()));
        let until = stop.clone();
        let ended = tokio::spawn(async move {
            let server = axum::serve(listener, app).with_graceful_shutdown(until.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "the admin server ended");
            }
        });
        Ok(AdminServer { address: local, stop, ended })
    }

    /// Ends the server, after the answers in progress.
    pub async fn stop(self) {
        self.stop.cancel();
        // A panic there has been reported by the hook and ends the process.
        drop(tokio::time::timeout(ENDING, self.ended).await);
    }
}

/// No answer for people shows a secret, whatever it came through.
async fn mask(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let mask = |bytes: Bytes| match std::str::from_utf8(&bytes) {
        Ok(text) => match masked(text) {
            Cow::Borrowed(_) => bytes,
            Cow::Owned(text) => text.into(),
        },
        Err(_) => bytes,
    };
    // Its length may be another one now.
    parts.headers.remove(header::CONTENT_LENGTH);
    if body.size_hint().exact().is_some() {
        // It is whole already.
        return match to_bytes(body, usize::MAX).await {
            Ok(bytes) => Response::from_parts(parts, Body::from(mask(bytes))),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        };
    }
    let body = body.into_data_stream().map(move |chunk| chunk.map(mask));
    Response::from_parts(parts, Body::from_stream(body))
}

/// The engines of the process, one for each topology.
#[derive(Clone)]
struct Engines(Arc<[EngineHandle]>);

/// Which topology is asked.
#[derive(Default, Deserialize)]
struct Which {
    topology: Option<String>,
}

impl Engines {
    /// The engine of the topology that is named; without a name the only one that fits.
    fn find(
        &self,
        which: &Which,
        fits: impl Fn(&EngineHandle) -> bool,
    ) -> Result<&EngineHandle, Box<Response>> {
        let refuse = |code: StatusCode, text: String| Err(Box::new((code, text).into_response()));
        let names = |engines: &[&EngineHandle]| {
            let names: Vec<&str> = engines.iter().map(|engine| engine.topology().name.as_str()).collect();
            names.join(", ")
        };
        let all: Vec<&EngineHandle> = self.0.iter().collect();
        if let Some(name) = &which.topology {
            return match self.0.iter().find(|engine| engine.topology().name == *name) {
                Some(engine) => Ok(engine),
                None => refuse(
                    StatusCode::NOT_FOUND,
                    format!("there is no topology `{name}`; there are {}\n", names(&all)),
                ),
            };
        }
        let mut fitting = all.clone();
        fitting.retain(|engine| fits(engine));
        match (fitting.as_slice(), all.as_slice()) {
            // The engine itself says best what it lacks.
            ([one], _) | ([], [one]) => Ok(one),
            ([], _) => refuse(StatusCode::NOT_FOUND, format!("it is in none of {}\n", names(&all))),
            (several, _) => {
                refuse(StatusCode::BAD_REQUEST, format!("say which with ?topology=: {}\n", names(several)))
            }
        }
    }

    /// The engine whose topology has that node.
    fn with_node(&self, which: &Which, node: &str) -> Result<&EngineHandle, Box<Response>> {
        self.find(which, |engine| engine.topology().node(node).is_some())
    }
}

/// What another instance asks; only this instance's own tasks answer.
async fn read(State(engines): State<Engines>, question: Result<Json<Question>, JsonRejection>) -> Response {
    let question = match question {
        Ok(Json(question)) => question,
        Err(e) => return (e.status(), e.body_text() + "\n").into_response(),
    };
    match engines.0.iter().find(|engine| engine.topology().name == question.topology) {
        Some(engine) => peer::answer(engine, &question).await,
        None => {
            let text = format!("`{}` does not run here\n", question.topology);
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
    }
}

async fn metrics(State(engines): State<Engines>) -> Response {
    let text = Metrics::text_of(engines.0.iter().map(EngineHandle::metrics));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Ready is who has all topologies ready. Several are shown by name.
async fn ready(State(engines): State<Engines>) -> Response {
    let ready = engines.0.iter().all(|engine| engine.status().is_ready());
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = match &*engines.0 {
        [engine] => readiness(engine),
        several => {
            let by_name = |engine: &EngineHandle| (engine.topology().name.clone(), readiness(engine));
            let all: serde_json::Map<String, serde_json::Value> = several.iter().map(by_name).collect();
            serde_json::json!({ "ready": ready, "topologies": all })
        }
    };
    (code, Json(body)).into_response()
}

fn readiness(engine: &EngineHandle) -> serde_json::Value {
    let status = engine.status();
    let tasks: serde_json::Map<String, serde_json::Value> =
        status.tasks.iter().map(|(id, state)| (id.name(engine.topology()), state.name().into())).collect();
    let mut body = serde_json::json!({
        "ready": status.is_ready(),
        "waiting_for": status.reasons(),
        "joined": status.joined,
        "tasks": tasks,
    });
    if engine.topology().has_gates() {
        body["gates"] = engine.at_gates().iter().map(AtGate::json).collect();
    }
    body
}

/// The picture of a topology; of several, one after the other below a comment with the name.
async fn describe(State(engines): State<Engines>, Query(which): Query<Which>) -> Response {
    if which.topology.is_some() || engines.0.len() == 1 {
        return match engines.find(&which, |_| true) {
            Ok(engine) => engine.topology().mermaid().into_response(),
            Err(response) => *response,
        };
    }
    let picture =
        |engine: &EngineHandle| format!("%% {}\n{}", engine.topology().name, engine.topology().mermaid());
    engines.0.iter().map(picture).collect::<Vec<_>>().join("\n").into_response()
}

/// The rows that this instance has under a key, one JSON object per line: as `slackwater state get` shows them.
async fn state(
    State(engines): State<Engines>,
    Path((node, key)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> Response {
    let engine = match engines.with_node(&which, &node) {
        Ok(engine) => engine,
        Err(response) => return *response,
    };
    let (found, owner) =
        match (engine.query(&node, key.as_bytes()).await, engine.owner_of(&node, key.as_bytes())) {
            (Ok(found), Ok(owner)) => (found, owner),
            (Err(e), _) | (Ok(_), Err(e)) => return refused(&e),
        };
    if found.rows.is_empty() {
        let problem = if !found.restoring.is_empty() {
            (StatusCode::SERVICE_UNAVAILABLE, format!("being restored: {}", found.restoring.join(", ")))
        } else {
            let whose = match owner {
                Some(owner) if owner.here.is_none() => format!(": its task {} is not here", owner.task),
                _ => String::new(),
            };
            (StatusCode::NOT_FOUND, format!("`{node}` has no key `{key}` in this instance{whose}"))
        };
        return (problem.0, problem.1 + "\n").into_response();
    }
    let mut lines: String =
        found.rows.iter().map(|(task, row)| format!("{}\n", row.json(task, &node))).collect();
    if found.cut {
        lines += "{\"more\":true}\n";
    }
    json_lines(lines)
}

/// What is asked of `/tap`.
#[derive(Deserialize)]
struct Look {
    /// How many records.
    n: Option<usize>,
    /// How long they are waited for.
    wait: Option<Millis>,
}

/// Records shown of one look.
const LOOK_MAX: usize = 1000;
/// The longest time that one look waits.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(60);

/// The next records that a node sends on, one JSON object per line: as many as are asked for, or as come in the time.
async fn tap(
    State(engines): State<Engines>,
    Path(node): Path<String>,
    Query(look): Query<Look>,
    Query(which): Query<Which>,
) -> Response {
    let engine = match engines.with_node(&which, &node) {
        Ok(engine) => engine,
        Err(response) => return *response,
    };
    let records = look.n.unwrap_or(10).clamp(1, LOOK_MAX);
    let wait = look.wait.unwrap_or(Millis::secs(5)).duration().min(LOOK_WAIT_MAX);
    let mut taps = match engine.tap(&node, records) {
        Ok(taps) => taps,
        Err(e) => return refused(&e),
    };
    let until = tokio::time::Instant::now() + wait;
    let mut lines = String::new();
    // Cancel-safe: a record that is not taken in time is not shown.
    while let Ok(Some((task, tapped))) = tokio::time::timeout_at(until, taps.next()).await {
        let mut line = describe::record(&tapped.record);
        line["task"] = task.into();
        if tapped.port > 0 {
            line["port"] = tapped.port.into();
        }
        lines += &format!("{line}\n");
    }
    json_lines(lines)
}

fn json_lines(lines: String) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}

fn refused(error: &AskError) -> Response {
    let code = match error {
        AskError::NoNode { .. } | AskError::NoState(_) => StatusCode::NOT_FOUND,
        AskError::NoPosition { .. } => StatusCode::BAD_REQUEST,
        AskError::NotRunning | AskError::Silent => StatusCode::SERVICE_UNAVAILABLE,
        AskError::State(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, format!("{error}\n")).into_response()
}

async fn page(State(engines): State<Engines>) -> Html<String> {
    let names: Vec<&str> = engines.0.iter().map(|engine| engine.topology().name.as_str()).collect();
    let sections: String = engines.0.iter().map(section).collect();
    Html(format!(
        "<!doctype html><title>{title}</title>{sections}\
         <p><a href=/metrics>metrics</a> <a href=/ready>ready</a> <a href=/live>live</a></p>",
        title = escape(&names.join(", ")),
    ))
}

/// A topology on the page.
fn section(engine: &EngineHandle) -> String {
    let status = engine.status();
    let rows: String = status
        .tasks
        .iter()
        .map(|(id, state)| {
            let name = escape(&id.name(engine.topology()));
            format!("<tr><td>{name}</td><td>{}</td></tr>", state.name())
        })
        .collect();
    format!(
        "<h1>{name}</h1><p>{state}</p><table>{rows}</table><pre>{graph}</pre>",
        name = escape(&engine.topology().name),
        state = if status.is_ready() {
            "ready".into()
        } else {
            escape(&format!("not ready: {:?}", status.reasons()))
        },
        graph = escape(&engine.topology().mermaid()),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
