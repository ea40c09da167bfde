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

/// The answer to a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The API answered.
    Http {
        /// Status code.
        status: u16,
        /// `Retry-After`, already turned into a delay.
        retry_after: Option<Millis>,
        /// Body.
        body: Bytes,
    },
    /// No answer: timeout, refused connection, broken body.
    Failed {
        /// What happened.
        message: String,
    },
    /// A sink has the row durably; what stands there now, where the sink was asked for it.
    Delivered(Option<Json>),
    /// A sink refused the row for good.
    Refused {
        /// What it said.
        message: String,
    },
}
