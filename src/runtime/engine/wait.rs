//! Waits for servers while an engine starts: calls that block run on a thread for blocking work, and every wait ends
//! when the engine is stopped or something fails.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{EngineError, Shared};

/// Time between two requests to a server that does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Waits before a server is asked again.
pub(super) async fn pause(stop: &CancellationToken, shared: &Shared) -> Result<(), EngineError> {
    tokio::select! {
        () = stop.cancelled() => Err(EngineError::Stopped),
        () = shared.failed.cancelled() => Err(EngineError::Stopped),
        () = tokio::time::sleep(AGAIN) => Ok(()),
    }
}

/// Runs a blocking call on a thread of its own; a panic is an error like any other.
pub(super) async fn blocking<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    f: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

/// Waits for an answer, unless the engine is stopped.
pub(super) async fn unless_stopped<T>(
    stop: &CancellationToken,
    answer: impl Future<Output = T>,
) -> Result<T, EngineError> {
    tokio::select! {
        () = stop.cancelled() => Err(EngineError::Stopped),
        answer = answer => Ok(answer),
    }
}
