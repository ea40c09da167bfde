//! Floor 2: endpoints, the HTTP routes of a topology: what stands in its sections `http` and `endpoints`. Settings only;
//! `gateway/` serves them.
//!
//! An endpoint is a route, what is asked of a request before anything is done (`auth`, `schema`, `checks`), and what is
//! done: a message is produced ([`RequestConfig`]) and the answer made of the request ([`RespondConfig`]) or of the message
//! that answers it ([`ReplyConfig`]), or something is looked up ([`ReadConfig`]). Each of these is
//! a file here with one settings type, which answers three questions: what is wrong with it (`check`), what its
//! expressions are (`compile`), which servers and topics it needs. A new one is such a file, a field of
//! [`EndpointConfig`], and its line in each of that type's methods; `gateway/serve.rs` picks the handler that runs it.
//!
//! Expressions of an endpoint read `body` (`.` is the same), `path`, `query`, `headers` and `id`: see [`names`].
//!
//! Used by `topology/` (checks), `yaml/` (compiles the expressions) and `gateway/`.

mod auth;
mod endpoint;
mod http;
pub mod names;
mod read;
mod reply;
mod request;
mod respond;
mod route;

pub use auth::Auth;
pub use endpoint::{Check, EndpointConfig, Refusal};
pub use http::{Cors, ServeConfig, ServerTls};
pub use read::{Lookup, Partitioner, PostgresRead, ReadConfig, RedisRead};
pub use reply::ReplyConfig;
pub use request::RequestConfig;
pub use respond::RespondConfig;
pub use route::{METHODS, Method, NoRoute, Params, Route, Routes, decode_percent};
