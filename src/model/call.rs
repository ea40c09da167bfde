//! What an operator asks the outside world, and what comes back.

use bytes::Bytes;

use super::units::Millis;
use super::value::Json;

/// A call an operator wants made. The same id may be called again (a retry); the reply names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Unique within the node and task.
    pub id: u64,
    /// From 1.
    pub attempt: u32,
    /// Record key, for logs and tests.
    pub key: Option<Bytes>,
    /// What to do.
    pub request: CallRequest,
}

/// A request to be made by the driver.
#[derive(Clone, Debug, PartialEq)]
pub enum CallRequest {
    /// An HTTP request.
    Http(HttpRequest),
}

/// One HTTP request, ready to send.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRequest {
    /// `GET`, `POST`, ...
    pub method: &'static str,
    /// Full URL, escaped.
    pub url: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// Body, if any.
    pub body: Option<Bytes>,
    /// Time one attempt may take.
    pub timeout: Millis,
}

/// The answer to a call, or to a row of a sink that is read from. What a server's own words for it were (a status, an error
/// code) was judged by its client.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// What was asked for.
    Answer(Json),
    /// Not this time: no answer, or one that says so. The same call may be made again.
    Again {
        /// What happened.
        message: String,
        /// Not before this has passed, where the server said so.
        after: Option<Millis>,
    },
    /// Refused for good: the same again would be refused again.
    Refused {
        /// What was said.
        message: String,
    },
    /// A sink has the row durably; what stands there now, where the sink was asked for it.
    Delivered(Option<Json>),
}
