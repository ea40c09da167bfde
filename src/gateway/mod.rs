//! Floor 5: HTTP. The admin server ([`AdminServer`]) asks a running [`crate::runtime::EngineHandle`]; the endpoints of a
//! topology are served by a [`Gateway`]. [`reads`] looks things up for endpoints, [`owners`] says which instance has a key,
//! and instances ask each other for keys at the admin server's `/read`.
//!
//! A request's way: `server` accepts its connection and bounds what a client may take; `serve` finds its route, checks the
//! caller, reads the body (`body`), gives it an id (`identity`) and asks the endpoint's schema; a [`Handler`] answers it. A
//! handler gets a [`Request`], which has the names that the endpoint's expressions read, and gives a response; what it says
//! when something is wrong is in `answer`.
//!
//! A handler's future is dropped when its client goes away. What has to be finished all the same runs in a task of its own
//! that the handler spawns; a message that was handed to the producer is sent anyway.
//!
//! | file | what |
//! |---|---|
//! | `reads` | `read`: Redis, PostgreSQL, the state of whichever instance has it |
//! | `produce` | `request` and `respond`: a message, and the answer when the broker has it |
//! | [`replies`] | `request` and `reply`: a message, and the answer of the message that comes back |

mod admin;
pub mod answer;
mod auth;
mod body;
mod identity;
mod openapi;
pub mod owners;
mod pace;
pub mod produce;
pub mod reads;
pub mod replies;
mod request;
mod serve;
#[cfg(test)]
mod serve_tests;
mod server;
mod tls;

pub use admin::{AdminError, AdminServer};
pub use reads::StandIn;
pub use request::Request;
pub use serve::{Given, Handler, Waiting};
pub use server::{Gateway, GatewayError};
