//! The admin server, for Prometheus, orchestrators and people.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::runtime::Shared;
use crate::topology::Topology;

/// The admin port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for the admin server: {source}. Give another address with --admin (port 0 takes a free one)"
)]
pub struct AdminError {
    /// As asked for.
    pub address: String,
    /// Why not.
    pub source: std::io::Error,
}

struct Served {
    shared: Arc<Shared>,
    topology: Arc<Topology>,
}

/// A running admin server.
pub struct AdminServer {
    /// Where it listens.
    pub address: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<()>,
}

/// How long answers under way may take when the server ends.
const ENDING: Duration = Duration::from_secs(1);

impl AdminServer {
    /// Listens on `address` until `stop`.
    ///
    /// # Errors
    /// The address cannot be used.
    pub async fn start(
        address: &str,
        topology: Arc<Topology>,
        shared: Arc<Shared>,
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
            .with_state(Arc::new(Served { shared, topology }));
        let until = stop.clone();
        let ended = tokio::spawn(async move {
            let server = axum::serve(listener, app).with_graceful_shutdown(until.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "the admin server ended");
            }
        });
        Ok(AdminServer { address: local, stop, ended })
    }

    /// Ends it, after the answers that are under way.
    pub async fn stop(self) {
        self.stop.cancel();
        // A panic there has been reported by the hook and ends the process.
        drop(tokio::time::timeout(ENDING, self.ended).await);
    }
}

async fn metrics(State(served): State<Arc<Served>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], served.shared.metrics.text()).into_response()
}

async fn ready(State(served): State<Arc<Served>>) -> Response {
    let status = served.shared.status();
    let tasks: serde_json::Map<String, serde_json::Value> = status
        .tasks
        .iter()
        .map(|(id, state)| {
            (format!("{}-{}", served.topology.subs[id.sub].name, id.partition), (*state).into())
        })
        .collect();
    let ready = status.is_ready();
    let body = serde_json::json!({ "ready": ready, "waiting_for": status.reasons(), "joined": status.joined, "tasks": tasks });
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

async fn describe(State(served): State<Arc<Served>>) -> String {
    served.topology.mermaid()
}

async fn page(State(served): State<Arc<Served>>) -> Html<String> {
    let status = served.shared.status();
    let escape = |s: &str| s.replace('&', "&amp;").replace('<', "&lt;");
    let rows: String = status
        .tasks
        .iter()
        .map(|(id, s)| {
            format!(
                "<tr><td>{}-{}</td><td>{s}</td></tr>",
                escape(&served.topology.subs[id.sub].name),
                id.partition
            )
        })
        .collect();
    Html(format!(
        "<!doctype html><title>{name}</title><h1>{name}</h1><p>{state}</p><table>{rows}</table><pre>{graph}</pre>\
         <p><a href=/metrics>metrics</a> <a href=/ready>ready</a> <a href=/live>live</a></p>",
        name = escape(&served.topology.name),
        state = if status.is_ready() {
            "ready".into()
        } else {
            escape(&format!("not ready: {:?}", status.reasons()))
        },
        graph = escape(&served.topology.mermaid()),
    ))
}
