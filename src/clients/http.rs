//! Makes HTTP calls. Called by the call driver, one attempt at a time; the one home of `reqwest`.
//!
//! Every attempt is one request: no redirects, no retries, no proxy, so that limiter and counters see all of them.
//! What can be tried again is [`Reply::Failed`]; what cannot be sent at all, or answers with more than is allowed, is
//! [`Reply::Refused`]. Not here: what a status means (`operators/enrich`).

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Method};

use crate::model::{Clock, Millis, Size, Timestamp};
use crate::model::{HttpRequest, Reply};

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
    pub async fn call(&self, request: &HttpRequest) -> Reply {
        match self.attempt(request).await {
            Ok(reply) => reply,
            Err(e) if e.is_builder() => Reply::Refused { message: format!("cannot be sent: {}", causes(e)) },
            Err(e) if e.is_timeout() && !e.is_connect() => {
                Reply::Failed { message: format!("no answer within {}", request.timeout) }
            }
            Err(e) => Reply::Failed { message: causes(e) },
        }
    }

    async fn attempt(&self, request: &HttpRequest) -> Result<Reply, reqwest::Error> {
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
                    return Ok(Reply::Refused {
                        message: format!(
                            "status {}: the body is larger than {}",
                            status.as_u16(),
                            self.max_body
                        ),
                    });
                }
                // Of an error only the start is of use.
                body.extend_from_slice(&chunk[..room]);
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply::Http { status: status.as_u16(), retry_after, body: Bytes::from(body) })
    }
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
