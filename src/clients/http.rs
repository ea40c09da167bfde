//! HTTP calls, and what everything that speaks HTTP shares: one way to build a client, to name a server, to escape a
//! part of a URL and to tell why a request failed.
//!
//! An attempt is one request: no redirects, no retries, no proxy, so that limiter and counters see all of them.
//! [`judge`] decides what a status means for a call, since that is a fact of HTTP and not of any one API: [`Reply::Again`]
//! for what may succeed later, [`Reply::Refused`] for what cannot be sent or has an answer larger than allowed;
//! [`HttpAnswer::class`] for something that is sent to be stored.

use std::cell::Cell;
use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use reqwest::header::RETRY_AFTER;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method};
use url::{SyntaxViolation, Url};

use super::{Called, Class, Failure, Tls};
use crate::model::secret::fresh;
use crate::model::{Clock, HttpRequest, Json, Millis, NotJson, Reply, Size, Timestamp, read_json};

/// How much of an answer's body a refusal quotes, characters.
const QUOTE_CHARS_MAX: usize = 200;

/// The outcomes of a call, for counting: `failed` is no answer, `refused` could not be sent or was too large.
pub const OUTCOMES: [&str; 9] = ["1xx", "2xx", "3xx", "4xx", "429", "5xx", "other", "failed", "refused"];

/// The longest `Retry-After` of an answer that is obeyed where nothing else is said.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// The clients could not be made: TLS or DNS settings of this machine, or files that the topology names.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an HTTP client: {0}")]
pub struct ClientError(String);

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> ClientError {
        ClientError(causes(error))
    }
}

/// What every client of ours has in common: no proxy and no retry, so that a request is one attempt at the server that
/// the topology names.
pub fn client() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("slackwater/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .retry(reqwest::retry::never())
        .hickory_dns(true)
        .connect_timeout(Duration::from_secs(2))
}

/// `host:port` of an `http` or `https` URL; `None` if it is no such URL. Stricter than the standard, which takes
/// `http:/a/b` and `http:///a/b` for a call of the host `a`.
#[must_use]
pub fn server(url: &str) -> Option<String> {
    let slashes = Cell::new(true);
    let note = |what| slashes.set(slashes.get() && what != SyntaxViolation::ExpectedDoubleSlash);
    let url = Url::options().syntax_violation_callback(Some(&note)).parse(url).ok()?;
    let is_http = matches!(url.scheme(), "http" | "https") && slashes.get();
    let (host, port) = (url.host_str()?, url.port_or_known_default()?);
    is_http.then(|| format!("{host}:{port}"))
}

/// A text as one part of a URL, in its path or its query: all but RFC 3986's unreserved characters are percent-encoded.
#[must_use]
pub fn escape(part: &str) -> PercentEncode<'_> {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(part, RESERVED)
}

/// The error with what caused it, which `reqwest` leaves out; without the URL, which may hold a secret.
#[must_use]
pub fn causes(error: reqwest::Error) -> String {
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

/// Asks other instances of this program. One attempt per question; connections are kept.
#[derive(Clone)]
pub struct Peers(Client);

/// The largest answer of another instance.
const PEER_BODY_MAX: Size = Size(64 << 20);

impl Peers {
    /// A client that gives up connecting after half a second: another instance is near, or gone.
    ///
    /// # Errors
    /// The machine's TLS or DNS settings cannot be used.
    pub fn new() -> Result<Peers, ClientError> {
        let client = client()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_millis(500))
            .pool_idle_timeout(Duration::from_secs(30))
            .build()?;
        Ok(Peers(client))
    }

    /// Sends JSON to a path of the instance at `address` (`host:port`), and gives status and body of its answer.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub async fn post(
        &self,
        (address, path): (&str, &str),
        token: Option<&str>,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(u16, BytesMut), String> {
        let mut request = self.0.post(format!("http://{address}{path}")).timeout(timeout);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let request = request.header("content-type", "application/json").body(body);
        let mut response = request.send().await.map_err(causes)?;
        let (status, mut answer) = (response.status().as_u16(), BytesMut::new());
        while let Some(chunk) = response.chunk().await.map_err(causes)? {
            if answer.len() + chunk.len() > PEER_BODY_MAX.bytes() {
                return Err(format!("its answer is larger than {PEER_BODY_MAX}"));
            }
            answer.extend_from_slice(&chunk);
        }
        Ok((status, answer))
    }
}

/// An answer as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status.
    pub status: u16,
    /// How long the server wants no further request, if it said so.
    pub retry_after: Option<Millis>,
    /// The body, at most as long as allowed.
    pub body: Bytes,
    /// Whether the body was longer than that.
    pub cut: bool,
}

impl HttpAnswer {
    /// Status and the start of the body, for messages.
    #[must_use]
    pub fn said(&self) -> String {
        format!("status {}: {}", self.status, quote(&self.body))
    }

    /// What its status means for something that was sent to be stored; `None` where that was done.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        class_of(self.status)
    }

    /// How long to wait before the same is sent again, if the server said so; bounded.
    #[must_use]
    pub fn after(&self) -> Option<Duration> {
        self.retry_after.map(|after| after.duration().min(RETRY_AFTER_MAX))
    }
}

/// Clients for one node's calls.
pub struct HttpCaller {
    clients: Vec<Client>,
    next: AtomicUsize,
    max_body: Size,
    clock: Arc<dyn Clock>,
}

impl HttpCaller {
    /// That many clients, taken in turn, with room for `in_flight_max` idle connections each. `clock` reads
    /// `Retry-After` dates; an answer larger than `max_body` is refused.
    ///
    /// # Errors
    /// The machine's TLS or DNS settings cannot be used.
    pub fn new(
        connections: NonZeroUsize,
        max_body: Size,
        in_flight_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<HttpCaller, ClientError> {
        HttpCaller::with_tls(connections, max_body, in_flight_max, clock, None)
    }

    /// The same, with certificates of the topology's own.
    ///
    /// # Errors
    /// As [`HttpCaller::new`], and for a file that cannot be read or holds no certificate.
    pub fn with_tls(
        connections: NonZeroUsize,
        max_body: Size,
        in_flight_max: usize,
        clock: Arc<dyn Clock>,
        tls: Option<&Tls>,
    ) -> Result<HttpCaller, ClientError> {
        let client = || {
            let mut builder = client()
                .redirect(reqwest::redirect::Policy::none())
                .tcp_keepalive(Duration::from_secs(30))
                .pool_idle_timeout(Duration::from_secs(60))
                .pool_max_idle_per_host(in_flight_max)
                .http2_keep_alive_interval(Duration::from_secs(20))
                .http2_keep_alive_while_idle(true);
            if let Some(tls) = tls {
                let pem = tls.pem().map_err(ClientError)?;
                if let Some(ca) = pem.ca {
                    builder = builder.tls_certs_only(Certificate::from_pem_bundle(&ca)?);
                }
                if let Some((certificate, mut key)) = pem.own {
                    key.extend(certificate);
                    builder = builder.identity(Identity::from_pem(&key)?);
                }
            }
            Ok(builder.build()?)
        };
        let clients = (0..connections.get()).map(|_| client()).collect::<Result<_, ClientError>>()?;
        Ok(HttpCaller { clients, next: AtomicUsize::new(0), max_body, clock })
    }

    /// One attempt, which takes at most the request's timeout. It never fails: errors are outcomes.
    pub async fn call(&self, request: &HttpRequest) -> Called {
        match self.ask(request).await {
            Ok(HttpAnswer { status, cut: true, .. }) if (200..300).contains(&status) => {
                refused(format!("status {status}: the body is larger than {}", self.max_body))
            }
            Ok(answer) => answered(answer.status, answer.retry_after, &answer.body),
            Err(Failure { class: Class::Row, message, .. }) => refused(message),
            Err(Failure { message, .. }) => failed(message),
        }
    }

    /// One attempt, which takes at most the request's timeout; any status is an answer.
    ///
    /// # Errors
    /// `Row`: it cannot be sent as it is. `Transient`: the server was not reached, so that nothing was done. `Unknown`: it was
    /// sent, and not answered.
    pub async fn ask(&self, request: &HttpRequest) -> Result<HttpAnswer, Failure> {
        self.attempt(request).await.map_err(|e| match e {
            e if e.is_builder() => Failure::new(Class::Row, format!("cannot be sent: {}", causes(e))),
            e if e.is_connect() => Failure::new(Class::Transient, causes(e)),
            e if e.is_timeout() => {
                Failure::new(Class::Unknown, format!("no answer within {}", request.timeout))
            }
            e => Failure::new(Class::Unknown, causes(e)),
        })
    }

    async fn attempt(&self, request: &HttpRequest) -> Result<HttpAnswer, reqwest::Error> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        // Settings have been checked to be one.
        let method = Method::from_bytes(request.method.as_bytes()).unwrap_or(Method::GET);
        let mut builder =
            self.clients[turn].request(method, &*fresh(&request.url)).timeout(request.timeout.duration());
        for (name, value) in &request.headers {
            builder = builder.header(name, &*fresh(value));
        }
        if let Some((user, password)) = request.login.as_deref() {
            builder = builder.basic_auth(fresh(user), Some(fresh(password)));
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let mut response = builder.send().await?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| read_retry_after(v, self.clock.now()));
        let (mut body, mut cut) = (BytesMut::new(), false);
        while let Some(chunk) = response.chunk().await? {
            let room = self.max_body.bytes() - body.len();
            if chunk.len() > room {
                // The start of an error's body is enough for its message.
                body.extend_from_slice(&chunk[..room]);
                cut = true;
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpAnswer { status, retry_after, body: body.freeze(), cut })
    }
}

fn failed(message: String) -> Called {
    Called { reply: Reply::Again { message, after: None }, outcome: "failed", alive: false, pause: None }
}

/// A refusal that says nothing against the server.
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
    let alive = status < 500 && !matches!(status, 401 | 403);
    Called { reply: judge(status, retry_after, body), outcome, alive, pause }
}

/// The meaning of an answer.
#[must_use]
pub fn judge(status: u16, retry_after: Option<Millis>, body: &[u8]) -> Reply {
    match status {
        200..=299 if body.trim_ascii().is_empty() => Reply::Answer(Json::Null),
        200..=299 => match read_json(body) {
            Ok(json) => Reply::Answer(json),
            Err(NotJson(e)) => Reply::Refused {
                message: format!("status {status}, but the body is no JSON ({e}): {}", quote(body)),
            },
        },
        // No record is to blame for credentials that have expired: every call would be refused until they are mended.
        401 | 403 => Reply::Again {
            message: format!("status {status}, the API does not accept who calls it: {}", quote(body)),
            after: retry_after,
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

/// What a status means for something that was sent to be stored; `None` where that was done.
#[must_use]
pub fn class_of(status: u16) -> Option<Class> {
    match status {
        200..=299 => None,
        429 | 503 => Some(Class::Overload),
        408 | 425 | 500..=599 => Some(Class::Transient),
        401 | 403 => Some(Class::Config),
        _ => Some(Class::Row),
    }
}

/// The start of a body, for messages.
#[must_use]
pub fn quote(body: &[u8]) -> String {
    let start = &body[..body.len().min(QUOTE_CHARS_MAX * 4)];
    String::from_utf8_lossy(start).chars().take(QUOTE_CHARS_MAX).collect()
}

/// `Retry-After` (RFC 9110, 10.2.3) as a delay from `now`: seconds, or a date in any of the three forms of HTTP; a date
/// that has passed is no delay.
fn read_retry_after(text: &str, now: Timestamp) -> Option<Millis> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Millis::secs(text.parse().unwrap_or(i64::MAX)));
    }
    let at = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(Timestamp(i64::try_from(at.as_millis()).unwrap_or(i64::MAX)).since(now))
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
        check("Sunday, 06-Nov-94 08:49:40 GMT", Some(3000));
        check("Sun Nov  6 08:49:40 1994", Some(3000));
        check("Sun, 06 Nov 1994 08:49:30 GMT", Some(0));
        check("Sun, 31 Nov 1994 08:49:30 GMT", None);
        check("99999999999999999999", Some(i64::MAX));
        check("soon", None);
        check("-1", None);
        check("", None);
    }

    #[test]
    fn a_server_is_named_only_by_a_whole_url() {
        let check = |url: &str, expected: Option<&str>| assert_eq!(server(url).as_deref(), expected, "{url}");
        check("http://h/a?b#c", Some("h:80"));
        check("https://user:pw@h.internal/", Some("h.internal:443"));
        check("http://[::1]:8080", Some("[::1]:8080"));
        check("http://h?q=1", Some("h:80"));
        for url in [
            "h:8080/a",
            "localhost:8080",
            "http://",
            "http:///a",
            "http:/a",
            "ftp://h/",
            "http://h:99999/",
            "",
        ] {
            check(url, None);
        }
    }

    #[test]
    fn a_part_of_a_url_changes_nothing_around_it() {
        assert_eq!(escape("orders-value_1.2~").to_string(), "orders-value_1.2~");
        assert_eq!(escape("a/b c:ü?&=#%").to_string(), "a%2Fb%20c%3A%C3%BC%3F%26%3D%23%25");
    }
}
