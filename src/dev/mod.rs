//! Floor 7: `slackwater dev` runs a topology with nothing installed: a broker inside the process, an API that settles
//! slowly, tables in memory, made-up events, and at the end a proof that nothing was lost. The topology itself runs on
//! the production engine.
//!
//! In order: start (`stage`), feed, settle (`run`), stop, prove (`verdict`). All of them share [`accounts`], which
//! knows what the result must be; that module and [`bursts`] are pure, the rest talks to a socket or a terminal.
//! Everything is bounded and ends with the run. The API and the proof know one path, `/accounts/{id}`, as account-sync
//! calls it: other topologies get an API that answers `{}` to everything, and a proof that says that it compared
//! nothing. Events of a topic with a `schema` are made up as that says.

pub mod accounts;
mod adapt;
pub mod api;
pub mod bursts;
pub mod feed;
mod made_up;
mod proof;
mod run;
mod settle;
mod stage;
mod state_dir;
pub mod tables;
mod verdict;
mod view;

pub use accounts::Accounts;
pub use adapt::{calls_elsewhere, divide_times, longest_wait, stand_in_caches, stand_in_tables};
pub use api::Api;
pub use feed::{Feed, FeedEnd, FeedOptions};
pub use proof::{Proof, Subject};
pub use settle::{Left, Watch};
pub use view::{Snapshot, View, count, limit_text};

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::stage::Stage;
use self::state_dir::StateDir;
use crate::model::Millis;
use crate::runtime::EngineError;
use crate::yaml::{Loaded, Registry, Report};

/// The settings of a run of `dev`.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// Name of the topology file, for reports.
    pub file: String,
    /// Its text.
    pub text: String,
    /// Time runs so many times faster.
    pub speed: f64,
    /// How long events are fed.
    pub duration: Millis,
    /// Events a second, on average.
    pub events_per_second: u32,
    /// Keys that the events are about.
    pub accounts: u32,
    /// Where state lives; `None` is a directory that is removed at the end.
    pub state_dir: Option<PathBuf>,
    /// Address of the admin server.
    pub admin: String,
}

/// Why a run of `dev` did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A stand-in or the topology failed.
    #[error("{0}")]
    Failed(String),
    /// The topology file has problems.
    #[error("{0}")]
    File(Box<Report>),
    /// The state directory that was given cannot be used.
    #[error("{0}")]
    StateDir(String),
    /// The engine does not start, or ended; with the file that it ran.
    #[error("{}", .0.1)]
    Engine(Box<(Loaded, EngineError)>),
    /// It ran to its end, but the tables do not hold what they must.
    #[error("not proved")]
    NotProved,
}

/// Runs a topology with everything around it, from start to proof. `stop` ends the feeding.
///
/// # Errors
/// See [`DevError`].
pub async fn play(
    registry: &Registry,
    options: &DevOptions,
    view: &View,
    stop: &CancellationToken,
) -> Result<(), DevError> {
    let began = Instant::now();
    let state = StateDir::new(options.state_dir.as_deref())?;
    let stage = Stage::set(registry, options, view).await?;
    let ended = Box::pin(stage.play(options, view, &state.path, began, stop)).await;
    stage.servers.cancel();
    ended
}

fn failed(error: impl std::fmt::Display) -> DevError {
    DevError::Failed(error.to_string())
}

/// Serves on a free loopback port until `stop`.
async fn serve(app: Router, stop: CancellationToken) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        // At once: a client that keeps its connection open must not keep the command from ending.
        tokio::select! {
            ended = axum::serve(listener, app) => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a stand-in's server ended");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    Ok(address)
}
