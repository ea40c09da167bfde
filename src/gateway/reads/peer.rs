//! Questions between instances: `POST /read` on the admin port, which answers from this instance's own tasks and never
//! passes a question on, so that no question goes in a circle, however old the maps of owners are.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clients::http::Peers;
use crate::runtime::{AskError, EngineHandle, Position, Said};

/// Where instances ask each other.
pub const PATH: &str = "/read";

/// What is asked of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The topology: addresses are used again, and another one's state is no answer.
    pub topology: String,
    /// The node whose rows are asked for.
    pub node: String,
    /// The key.
    pub key: String,
    /// The partitions that it may be in.
    pub partitions: Vec<i32>,
    /// A record that has to be in the rows.
    pub at: Option<Position>,
}

/// What one instance says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answers {
    /// By partition.
    pub answers: BTreeMap<i32, Said>,
}

/// Answers from this instance alone: 200 the rows, 404 there are none, 421 the task is not here, 503 it cannot be known
/// now. Where several partitions were asked for, 200 and what holds for each.
pub async fn answer(engine: &EngineHandle, question: &Question) -> Response {
    match from_here(engine, question).await {
        Ok(answers) => {
            let status = match answers.values().collect::<Vec<_>>()[..] {
                [Said::Absent] => StatusCode::NOT_FOUND,
                [Said::NotHere] => StatusCode::MISDIRECTED_REQUEST,
                [Said::Behind { .. } | Said::Restoring | Said::Failed { .. }] => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                _ => StatusCode::OK,
            };
            (status, Json(Answers { answers })).into_response()
        }
        Err(e) => {
            let status = match e {
                AskError::NoNode { .. } | AskError::NoState(_) | AskError::NoPosition { .. } => {
                    StatusCode::BAD_REQUEST
                }
                AskError::NotRunning | AskError::Silent | AskError::State(_) => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            };
            (status, format!("{e}\n")).into_response()
        }
    }
}

/// What this instance itself says.
///
/// # Errors
/// See [`AskError`].
pub async fn from_here(engine: &EngineHandle, question: &Question) -> Result<BTreeMap<i32, Said>, AskError> {
    let store = engine.store(&question.node)?;
    let key = Bytes::copy_from_slice(question.key.as_bytes());
    engine.read(&store, &key, &question.partitions, question.at.as_ref()).await
}

/// Asks the instance at `address`, once.
///
/// # Errors
/// Why it says nothing, in words.
pub async fn from_there(
    peers: &Peers,
    (address, token): (&str, Option<&str>),
    question: &Question,
    timeout: Duration,
) -> Result<BTreeMap<i32, Said>, String> {
    let body = serde_json::to_vec(question).map_err(|e| e.to_string())?;
    let (status, body) = peers.post((address, PATH), token, body.into(), timeout).await?;
    match serde_json::from_slice::<Answers>(&body) {
        Ok(Answers { answers }) => Ok(answers),
        Err(_) => {
            let text = String::from_utf8_lossy(&body);
            Err(format!("it answered {status}: {}", text.trim().chars().take(200).collect::<String>()))
        }
    }
}
