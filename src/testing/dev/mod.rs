//! What stands in for the outside in `dev`, so that a topology runs with nothing installed: a broker inside the process,
//! an API that settles slowly, tables in memory, somebody who makes events, and a proof at the end that nothing was
//! lost. The topology itself runs on the production engine.
//!
//! `cli/dev.rs` puts them together. [`accounts`] is the truth that the others share; [`bursts`] and it are pure, the
//! rest talks to a socket or a terminal. Everything here is bounded and ends with the run. What is made for
//! account-sync hangs on the path `/accounts/{id}` alone: other topologies get an API that answers `{}` to everything,
//! and a proof that says that it compared nothing.

pub mod accounts;
mod adapt;
pub mod api;
pub mod bursts;
pub mod feed;
mod proof;
mod settle;
pub mod tables;
mod view;

pub use accounts::Accounts;
pub use adapt::{calls_elsewhere, divide_times, longest_wait, stand_in_tables};
pub use api::Api;
pub use feed::{Feed, FeedEnd, FeedOptions};
pub use proof::{Proof, Subject};
pub use settle::{Left, Watch};
pub use view::{Snapshot, View, count, limit_text};

use std::net::SocketAddr;

use axum::Router;
use tokio_util::sync::CancellationToken;

/// Serves on a free loopback port until `stop`.
async fn serve(app: Router, stop: CancellationToken) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        // Not gracefully: a client that keeps its connection must not keep the command from ending.
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
