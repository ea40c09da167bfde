//! The section `http`: where the endpoints are served, and what a client may take of this process.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Millis, Problem, Size};

/// Where the endpoints are served, and the limits that every request has.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// Address of the endpoints, `host:port`; port 0 takes a free one and says which.
    pub listen: String,
    /// Largest body of a request; above it the answer is 413. Default 1MiB.
    #[serde(default = "ServeConfig::default_max_body")]
    pub max_body: Size,
    /// How long a client may take to send the head of a request. Default 10s.
    #[serde(default = "ServeConfig::default_header_timeout")]
    pub header_timeout: Millis,
    /// How long a connection may be idle; it should be longer than a load balancer keeps one. Default 75s.
    #[serde(default = "ServeConfig::default_idle_timeout")]
    pub idle_timeout: Millis,
    /// How long a client may take to send the body of a request; then the answer is 408. Default 10s.
    #[serde(default = "ServeConfig::default_body_timeout")]
    pub body_timeout: Millis,
    /// How long the broker may take to acknowledge a message; then the answer is 503 if it was not sent, and 504 if that is
    /// not known. At most 7s. Default 4s.
    #[serde(default = "ServeConfig::default_produce_timeout")]
    pub produce_timeout: Millis,
    /// Connections open at once; more wait in the system's queue. Default 10000.
    #[serde(default = "ServeConfig::default_max_connections")]
    pub max_connections: usize,
    /// How long a stop waits for the answers that are owed. Default 10s.
    #[serde(default = "ServeConfig::default_drain")]
    pub drain: Millis,
    /// Whether every request is a line of the log. Default true.
    #[serde(default = "ServeConfig::default_access_log")]
    pub access_log: bool,
    /// Certificate and key; then HTTPS alone is spoken. Default: none.
    #[serde(default)]
    pub tls: Option<ServerTls>,
    /// Pages of other origins that may ask. Default: none.
    #[serde(default)]
    pub cors: Option<Cors>,
}

/// The server's certificate. Both files are read again when they change, without a restart.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// File with the certificate and those that it was signed with, PEM.
    pub certificate: PathBuf,
    /// File with its private key, PEM.
    pub key: PathBuf,
}

/// Which pages of other origins may read the answers, in a browser.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// The origins, for example `https://app.example.com`; `"*"` is all of them.
    pub origins: Vec<String>,
    /// Headers that such a page may send besides the simple ones. Default: `Content-Type`, `Authorization` and
    /// `Idempotency-Key`.
    #[serde(default = "Cors::default_headers")]
    pub headers: Vec<String>,
    /// Whether such a page may send cookies and credentials; not with the origin `"*"`. Default false.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may remember this. Default 1h.
    #[serde(default = "Cors::default_max_age")]
    pub max_age: Millis,
}

impl Cors {
    fn default_headers() -> Vec<String> {
        ["content-type", "authorization", "idempotency-key"].map(str::to_owned).to_vec()
    }
    fn default_max_age() -> Millis {
        Millis::secs(3600)
    }

    /// Whether every origin is meant.
    #[must_use]
    pub fn any_origin(&self) -> bool {
        self.origins.iter().any(|origin| origin == "*")
    }
}

/// The longest `produce_timeout`: a request is answered within 8 s even where no broker is there.
const PRODUCE_MAX: Millis = Millis::secs(7);
/// The longest of the other times.
const TIME_MAX: Millis = Millis::secs(3600);

impl ServeConfig {
    /// A server at that address, with every default.
    #[must_use]
    pub fn new(listen: impl Into<String>) -> ServeConfig {
        ServeConfig {
            listen: listen.into(),
            max_body: Self::default_max_body(),
            header_timeout: Self::default_header_timeout(),
            idle_timeout: Self::default_idle_timeout(),
            body_timeout: Self::default_body_timeout(),
            produce_timeout: Self::default_produce_timeout(),
            max_connections: Self::default_max_connections(),
            drain: Self::default_drain(),
            access_log: Self::default_access_log(),
            tls: None,
            cors: None,
        }
    }

    /// The files that it names.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        self.tls.iter_mut().flat_map(|tls| [&mut tls.certificate, &mut tls.key])
    }

    fn default_max_body() -> Size {
        Size(1 << 20)
    }
    fn default_header_timeout() -> Millis {
        Millis::secs(10)
    }
    fn default_idle_timeout() -> Millis {
        Millis::secs(75)
    }
    fn default_body_timeout() -> Millis {
        Millis::secs(10)
    }
    fn default_produce_timeout() -> Millis {
        Millis::secs(4)
    }
    fn default_max_connections() -> usize {
        10_000
    }
    fn default_drain() -> Millis {
        Millis::secs(10)
    }
    fn default_access_log() -> bool {
        true
    }

    /// What is wrong, with fields counted from the section. A `${VAR}` is accepted: its value is filled in only where the
    /// endpoints are served.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |field: &str, message: String, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if !self.listen.contains("${") && !is_address(&self.listen) {
            let help =
                "write `listen: \"127.0.0.1:8080\"`, or `0.0.0.0:8080` for every address of the machine";
            wrong("listen", format!("`{}` is no address", self.listen), help);
        }
        if self.max_body.bytes() == 0 {
            wrong("max_body", "no body at all".into(), "write the largest one, for example `max_body: 1MiB`");
        }
        let times = [
            ("header_timeout", self.header_timeout),
            ("idle_timeout", self.idle_timeout),
            ("body_timeout", self.body_timeout),
            ("drain", self.drain),
        ];
        for (field, time) in times {
            if !(Millis(1)..=TIME_MAX).contains(&time) {
                wrong(field, format!("{time} is no time to wait"), "write a time from 1ms to 1h");
            }
        }
        if !(Millis(100)..=PRODUCE_MAX).contains(&self.produce_timeout) {
            let message = format!("{} is no time to wait for a broker", self.produce_timeout);
            wrong(
                "produce_timeout",
                message,
                "write a time from 100ms to 7s: a client is answered within 8s",
            );
        }
        if self.max_connections == 0 {
            wrong("max_connections", "no connection at all".into(), "write how many there may be, 1 or more");
        }
        if let Some(cors) = &self.cors {
            if cors.origins.is_empty() {
                let help = "write `origins: [\"https://app.example.com\"]`, or remove `cors`";
                wrong("cors.origins", "no origin".into(), help);
            }
            if cors.any_origin() && cors.credentials {
                let help = "name the origins: browsers refuse credentials where every origin may ask";
                wrong("cors.credentials", "every page of the web could use them".into(), help);
            }
            if let Some(bad) = cors.headers.iter().find(|name| !is_token(name)) {
                wrong("cors.headers", format!("`{bad}` is no header"), "write names such as `content-type`");
            }
        }
        problems
    }
}

/// `host:port`, an IPv6 host in brackets.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or_else(|| if host.contains(':') { "" } else { host });
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_' | '%');
    !host.is_empty() && host.chars().all(good) && port.parse::<u16>().is_ok()
}

/// A name as HTTP's headers have it (RFC 9110, token).
pub(super) fn is_token(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.len() <= 100 && text.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["127.0.0.1:8080", "localhost:0", "[::1]:80", "0.0.0.0:65535", "${HTTP_LISTEN}"] {
            assert_eq!(ServeConfig::new(good).check(), [], "{good}");
        }
        for bad in ["8080", ":8080", "::1:80", "localhost:70000", "http://localhost:80", ""] {
            assert_eq!(ServeConfig::new(bad).check().len(), 1, "{bad}");
        }
    }

    #[test]
    fn credentials_are_not_for_every_page() {
        let mut config = ServeConfig::new("localhost:0");
        config.cors = Some(Cors {
            origins: vec!["*".into()],
            headers: Vec::new(),
            credentials: true,
            max_age: Millis::ZERO,
        });
        assert_eq!(config.check()[0].field, "cors.credentials");
        config.produce_timeout = Millis::secs(8);
        config.cors = None;
        assert_eq!(config.check()[0].field, "produce_timeout");
    }
}
