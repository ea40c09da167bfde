//! Floor 1: clients of servers other than Kafka. A server that several parts of the program ask (sinks, calls, checks)
//! has its one client here, which also decides what the server's answers mean.

pub mod http;

use self::http::HttpCaller;
use crate::model::{CallRequest, Millis, Reply};

/// Makes the calls of one node.
pub enum Caller {
    /// An HTTP API.
    Http(HttpCaller),
}

/// The outcome of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    /// The answer to the call.
    pub reply: Reply,
    /// What it is counted as: one of [`Caller::outcomes`].
    pub outcome: &'static str,
    /// Whether it shows that the server works, for the circuit breaker.
    pub alive: bool,
    /// For how long the server wants no calls at all.
    pub pause: Option<Millis>,
}

impl Caller {
    /// One attempt. It never fails: errors are outcomes.
    pub async fn call(&self, request: &CallRequest) -> Called {
        match (self, request) {
            (Caller::Http(http), CallRequest::Http(request)) => http.call(request).await,
        }
    }

    /// The possible values of [`Called::outcome`], for the metrics' label `status`.
    #[must_use]
    pub fn outcomes(&self) -> &'static [&'static str] {
        match self {
            Caller::Http(_) => &http::OUTCOMES,
        }
    }
}
