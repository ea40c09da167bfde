//! Floor 1: clients of servers other than Kafka. What several parts of the program ask (sinks, calls, checks) has one
//! client here, and what its answers mean is decided here, once.

pub mod http;

use self::http::HttpCaller;
use crate::model::{CallRequest, Millis, Reply};

/// Makes the calls of one node, whatever they ask.
pub enum Caller {
    /// An HTTP API.
    Http(HttpCaller),
}

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    /// The answer, for whoever made the call.
    pub reply: Reply,
    /// What it is counted as: one of [`Caller::outcomes`].
    pub outcome: &'static str,
    /// Whether it shows a server that works, for the circuit breaker.
    pub alive: bool,
    /// How long the server wants to be left alone by every caller.
    pub pause: Option<Millis>,
}

impl Caller {
    /// One attempt. Never fails, says what happened.
    pub async fn call(&self, request: &CallRequest) -> Called {
        match (self, request) {
            (Caller::Http(http), CallRequest::Http(request)) => http.call(request).await,
        }
    }

    /// What its calls may come to, for counting: values of the label `status`.
    #[must_use]
    pub fn outcomes(&self) -> &'static [&'static str] {
        match self {
            Caller::Http(_) => &http::OUTCOMES,
        }
    }
}
