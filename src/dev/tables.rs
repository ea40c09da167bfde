//! The tables of `dev` over HTTP, to be looked at while it runs: `GET /accounts` lists the first rows of the sink
//! `accounts`, `GET /accounts/ID` is one row, `GET /` names the sinks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::sinks::TableSink;

/// Rows in one answer, at most.
const ROWS_MAX: usize = 1000;

type Tables = Arc<BTreeMap<String, TableSink>>;

/// Serves the tables, by the name of their sink, on a free loopback port until `stop`.
///
/// # Errors
/// No port can be had.
pub async fn start(
    tables: BTreeMap<String, TableSink>,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let app = Router::new()
        .route("/", get(names))
        .route("/{table}", get(rows))
        .route("/{table}/{*key}", get(row))
        .with_state(Arc::new(tables));
    super::serve(app, stop).await
}

async fn names(State(tables): State<Tables>) -> Response {
    Json(tables.iter().map(|(name, t)| (name.clone(), t.len())).collect::<BTreeMap<_, _>>()).into_response()
}

async fn rows(State(tables): State<Tables>, Path(table): Path<String>) -> Response {
    match tables.get(&table) {
        Some(table) => {
            let mut rows = table.rows();
            rows.truncate(ROWS_MAX);
            Json(rows).into_response()
        }
        None => (StatusCode::NOT_FOUND, "no such sink\n").into_response(),
    }
}

async fn row(State(tables): State<Tables>, Path((table, key)): Path<(String, String)>) -> Response {
    let key: Vec<&str> = key.split('/').collect();
    match tables.get(&table).and_then(|t| t.get(&key)) {
        Some(row) => Json(row).into_response(),
        None => (StatusCode::NOT_FOUND, "no such row\n").into_response(),
    }
}
