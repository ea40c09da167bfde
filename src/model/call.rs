//! A question that an operator asks a server, and the answer.

use std::borrow::Cow;

use bytes::Bytes;

use super::units::Millis;
use super::value::Json;

/// A call that an operator wants made. A retry has the same id; the reply names it.
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
    pub method: Cow<'static, str>,
    /// Full URL, escaped.
    pub url: String,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// User and password to log in with (basic authentication), if any.
    pub login: Option<Box<(String, String)>>,
    /// Body, if any.
    pub body: Option<Bytes>,
    /// Time one attempt may take.
    pub timeout: Millis,
}

/// The answer to a call, or to a row of a sink that is read from. The server's own terms (a status, an error code) have
/// been judged by its client.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// What was asked for.
    Answer(Json),
    /// Failed for now: there was no answer, or one that says so. The same call may be made again.
    Again {
        /// What happened.
        message: String,
        /// How long the server wants no further attempt, if it said so.
        after: Option<Millis>,
    },
    /// Refused for good: the same call would be refused again.
    Refused {
        /// The server's reason.
        message: String,
    },
    /// A sink has the row durably. The value is what the database holds now, if the sink asked for it.
    Delivered(Option<Json>),
}
