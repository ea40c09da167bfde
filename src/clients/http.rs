//! Makes HTTP calls. Called by the call driver, one attempt at a time; the one home of `reqwest`.
//!
//! Every attempt is one request: no redirects, no retries, no proxy, so that limiter and counters see all of them.
//! What can be tried again is [`Reply::Again`]; what cannot be sent at all, or answers with more than is allowed, is
//! [`Reply::Refused`]. What a status means is decided here ([`judge`]): a fact of HTTP, not of any one API.

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method};

use super::Called;
use crate::model::{Clock, HttpRequest, Json, Millis, Reply, Size, Timestamp};

/// How much of an answer's body a refusal quotes, characters.
const QUOTE_CHARS_MAX: usize = 200;

/// What a call may come to, as it is counted: `failed` is no answer, `refused` could not be sent or was too large.
pub const OUTCOMES: [&str; 9] = ["1xx", "2xx", "3xx", "4xx", "429", "5xx", "other", "failed", "refused"];

/// The clients could not be made: TLS or DNS settings of this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an HTTP client: {0}")]
pub struct ClientError(#[from] reqwest::Error);

/// Clients for one node's calls.
pub struct HttpCaller {
    clients: Vec<Client>,
    next: AtomicUsize,
    max_body: Size,
    clock: Arc<dyn Clock>,
}

impl HttpCaller {
    /// So many clients, taken in turn, with room for `in_flight_max` idle connections each. `clock` reads `Retry-After`
    /// dates; an answer larger than `max_body` is refused.
    ///
    /// # Errors
    /// The machine's TLS or DNS settings cannot be used.
    pub fn new(
        connections: NonZeroUsize,
        max_body: Size,
        in_flight_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<HttpCaller, ClientError> {
        let client = || {
            Client::builder()
                .user_agent(concat!("slackwater/", env!("CARGO_PKG_VERSION")))
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .hickory_dns(true)
                .connect_timeout(Duration::from_secs(2))
                .tcp_keepalive(Duration::from_secs(30))
                .pool_idle_timeout(Duration::from_secs(60))
                .pool_max_idle_per_host(in_flight_max)
                .http2_keep_alive_interval(Duration::from_secs(20))
                .http2_keep_alive_while_idle(true)
                .build()
        };
        let clients = (0..connections.get()).map(|_| client()).collect::<Result<_, _>>()?;
        Ok(HttpCaller { clients, next: AtomicUsize::new(0), max_body, clock })
    }

    /// One attempt. Takes at most the request's timeout; never fails, says what happened.
    pub async fn call(&self, request: &HttpRequest) -> Called {
        match self.attempt(request).await {
            Ok(called) => called,
            Err(e) if e.is_builder() => refused(format!("cannot be sent: {}", causes(e))),
            Err(e) if e.is_timeout() && !e.is_connect() => {
                failed(format!("no answer within {}", request.timeout))
            }
            Err(e) => failed(causes(e)),
        }
    }

    async fn attempt(&self, request: &HttpRequest) -> Result<Called, reqwest::Error> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        let method = match request.method {
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            "DELETE" => Method::DELETE,
            _ => Method::GET,
        };
        let mut builder =
            self.clients[turn].request(method, &request.url).timeout(request.timeout.duration());
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let mut response = builder.send().await?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| read_retry_after(v, self.clock.now()));
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await? {
            let room = self.max_body.bytes() - body.len();
            if chunk.len() > room {
                if status.is_success() {
                    let (status, max) = (status.as_u16(), self.max_body);
                    return Ok(refused(format!("status {status}: the body is larger than {max}")));
                }
                // Of an error only the start is of use.
                body.extend_from_slice(&chunk[..room]);
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(answered(status.as_u16(), retry_after, &body))
    }
}

fn failed(message: String) -> Called {
    Called { reply: Reply::Again { message, after: None }, outcome: "failed", alive: false, pause: None }
}

/// The server is not to blame.
fn refused(message: String) -> Called {
    Called { reply: Reply::Refused { message }, outcome: "refused", alive: true, pause: None }
}

fn answered(status: u16, retry_after: Option<Millis>, body: &[u8]) -> Called {
    let outcome = match status {
        429 => "429",
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "other",
    };
    let pause = retry_after.filter(|_| matches!(status, 429 | 503));
    Called { reply: judge(status, retry_after, body), outcome, alive: status < 500, pause }
}

/// What an answer means.
#[must_use]
pub fn judge(status: u16, retry_after: Option<Millis>, body: &[u8]) -> Reply {
    match status {
        200..=299 if body.is_empty() => Reply::Answer(Json::Null),
        200..=299 => match serde_json::from_slice(body) {
            Ok(json) => Reply::Answer(json),
            Err(e) => Reply::Refused {
                message: format!("status {status}, but the body is no JSON ({e}): {}", quote(body)),
            },
        },
        408 | 425 | 429 | 500..=599 => {
            Reply::Again { message: format!("status {status}: {}", quote(body)), after: retry_after }
        }
        300..=399 => Reply::Refused {
            message: format!("status {status}: redirects are not followed: {}", quote(body)),
        },
        _ => Reply::Refused { message: format!("status {status}: {}", quote(body)) },
    }
}

/// The start of a body, for people.
fn quote(body: &[u8]) -> String {
    let start = &body[..body.len().min(QUOTE_CHARS_MAX * 4)];
    String::from_utf8_lossy(start).chars().take(QUOTE_CHARS_MAX).collect()
}

/// The error and what caused it, without the URL (it may hold a secret).
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = e.source();
    }
    text
}

/// `Retry-After` (RFC 9110, 10.2.3) as a delay from `now`: seconds or a date; a date that has passed is no delay.
fn read_retry_after(text: &str, now: Timestamp) -> Option<Millis> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Millis::secs(text.parse().unwrap_or(i64::MAX)));
    }
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc2822).ok()?;
    Some(Timestamp(at.unix_timestamp().saturating_mul(1000)).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT
        let check = |text: &str, expected: Option<i64>| {
            assert_eq!(read_retry_after(text, now).map(|m| m.0), expected, "{text}");
        };
        check("2", Some(2000));
        check(" 0 ", Some(0));
        check("Sun, 06 Nov 1994 08:49:40 GMT", Some(3000));
        check("Sun, 06 Nov 1994 08:49:30 GMT", Some(0));
        check("99999999999999999999", Some(i64::MAX));
        check("soon", None);
        check("-1", None);
        check("", None);
    }
}
