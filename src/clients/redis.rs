//! Redis: one connection per server and process that all share, and what its errors mean. The one home of `redis`.
//!
//! A connection is multiplexed: commands of several tasks are sent together, and answers come back in order. A broken
//! connection is made again; commands in flight then fail, and the caller decides about them. In a cluster every
//! command goes to the node that has its slot.

use std::path::PathBuf;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::Slot;
use redis::{
    Client, ClientTlsConfig, ErrorKind, RedisError, RedisFuture, RedisResult, ServerErrorKind,
    TlsCertificates, Value,
};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

pub use redis::{Cmd, FromRedisValue, Pipeline, Script, cmd, pipe};

use super::connections::ConnectionSettings;
use super::failure::{Class, Failure};
use super::tls::Tls;
use crate::model::secret::Secret;
use crate::model::{Millis, Problem};

/// The value of a key whose row was deleted a short while ago, where a sink leaves such a marker. A reader takes it for
/// "there is none", and fills nothing in.
pub const GONE: &str = "null";

/// Times that the client of a cluster looks for a command's node before it gives it back, and milliseconds between them.
/// More of that is left to the caller, which can be stopped.
const CLUSTER_RETRIES: (u32, u64, u64) = (3, 20, 200);

/// A Redis server, or a cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/database`, `rediss://` with TLS. Of a cluster one or more nodes, separated by
    /// commas.
    pub url: Secret,
    /// Is it a cluster? Default false.
    #[serde(default)]
    pub cluster: bool,
    /// User, in place of the URL's. Default: the URL's.
    #[serde(default)]
    pub user: Option<String>,
    /// Password, in place of the URL's; write it as `${REDIS_PASSWORD}`. Default: the URL's.
    #[serde(default)]
    pub password: Option<Secret>,
    /// TLS. Default: none, unless the URL begins with `rediss://`.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// How long connecting may take. Default 5s.
    #[serde(default = "RedisConfig::default_connect_timeout")]
    pub connect_timeout: Millis,
    /// How long an answer may take. Default 10s.
    #[serde(default = "RedisConfig::default_timeout")]
    pub timeout: Millis,
}

impl RedisConfig {
    /// A server with the defaults.
    #[must_use]
    pub fn new(url: impl Into<Secret>) -> RedisConfig {
        RedisConfig {
            url: url.into(),
            cluster: false,
            user: None,
            password: None,
            tls: None,
            connect_timeout: Self::default_connect_timeout(),
            timeout: Self::default_timeout(),
        }
    }

    fn default_connect_timeout() -> Millis {
        Millis::secs(5)
    }
    fn default_timeout() -> Millis {
        Millis::secs(10)
    }

    /// One URL for each node, with user, password and TLS in it.
    fn urls(&self) -> Result<Vec<Url>, String> {
        let mut urls = Vec::new();
        for part in self.url.split(',').map(str::trim) {
            // The nodes of a cluster after the first may leave out what stands in the first.
            let text = if part.contains("://") { part.to_owned() } else { format!("redis://{part}") };
            let mut url = Url::parse(&text).map_err(|e| e.to_string())?;
            if !matches!(url.scheme(), "redis" | "rediss") {
                return Err("it does not begin with `redis://` or `rediss://`".to_owned());
            }
            if url.host_str().is_none_or(str::is_empty) {
                return Err("it has no host".to_owned());
            }
            let refused = |()| "it takes no user".to_owned();
            if let Some(user) = &self.user {
                url.set_username(user).map_err(refused)?;
            }
            if let Some(password) = &self.password {
                url.set_password(Some(password)).map_err(refused)?;
            }
            if self.tls.is_some() {
                url.set_scheme("rediss").map_err(refused)?;
            }
            urls.push(url);
        }
        if urls.len() > 1 && !self.cluster {
            return Err("several servers are a cluster: add `cluster: true`".to_owned());
        }
        Ok(urls)
    }

    /// The nodes, for people.
    fn address(&self) -> String {
        let urls = self.urls().unwrap_or_default();
        let address =
            |url: &Url| format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(6379));
        urls.iter().map(address).collect::<Vec<_>>().join(",")
    }
}

impl ConnectionSettings for RedisConfig {
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if !self.url.contains("${")
            && let Err(e) = self.urls()
        {
            add("url", &format!("no address of a Redis server: {e}"), "write `url: \"redis://host:6379/0\"`");
        }
        if self.connect_timeout <= Millis::ZERO {
            add("connect_timeout", "no time at all to connect", "the default is 5s");
        }
        if self.timeout <= Millis::ZERO {
            add("timeout", "no time at all for an answer", "the default is 10s");
        }
        problems.extend(self.tls.iter().filter_map(Tls::check));
        problems
    }

    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        self.tls.iter_mut().flat_map(Tls::files_mut).collect()
    }
}

/// A connection to a server or a cluster. Cheap to clone; every clone shares it.
#[derive(Clone)]
pub struct Redis {
    link: Link,
    address: String,
}

#[derive(Clone)]
enum Link {
    Server(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Redis {
    /// Connects. A single server that is not there is connected to by the first command.
    ///
    /// # Errors
    /// `Config`: the URL is none, a certificate cannot be read, a cluster's login is refused. `Transient`: no node of a
    /// cluster answers.
    pub async fn connect(config: &RedisConfig) -> Result<Redis, Failure> {
        let wrong = |what: String| Failure::new(Class::Config, what);
        let urls = config.urls().map_err(|e| wrong(format!("no address of a Redis server: {e}")))?;
        let address = config.address();
        let failed = |e: &RedisError| at(&address, judge(e));
        let certificates = match &config.tls {
            None => None,
            Some(tls) => {
                let pem = tls.pem().map_err(|e| wrong(format!("Redis at {address}: TLS: {e}")))?;
                let client_tls =
                    pem.own.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
                Some(TlsCertificates { client_tls, root_cert: pem.ca })
            }
        };
        let (connect, answer) = (config.connect_timeout.duration(), config.timeout.duration());
        let link = if config.cluster {
            let (retries, wait_min, wait_max) = CLUSTER_RETRIES;
            let mut builder: ClusterClientBuilder = ClusterClient::builder(urls)
                .connection_timeout(connect)
                .response_timeout(answer)
                .retries(retries)
                .min_retry_wait(wait_min)
                .max_retry_wait(wait_max);
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            let client = builder.build().map_err(|e| failed(&e))?;
            Link::Cluster(Box::pin(client.get_async_connection()).await.map_err(|e| failed(&e))?)
        } else {
            let url = urls.into_iter().next().ok_or_else(|| wrong("no address of a Redis server".into()))?;
            let client = match certificates {
                Some(certificates) => Client::build_with_tls(url, certificates),
                None => Client::open(url),
            };
            let settings = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(connect))
                .set_response_timeout(Some(answer))
                // Retries are decided by the caller, which can be stopped.
                .set_number_of_retries(1);
            let manager = client.and_then(|client| client.get_connection_manager_lazy(settings));
            Link::Server(manager.map_err(|e| failed(&e))?)
        };
        Ok(Redis { link, address })
    }

    /// `host:port` of the server, or of the nodes that the file names, for people.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// One command.
    ///
    /// # Errors
    /// See [`judge`].
    pub async fn command<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        command.query_async(&mut self.link).await.map_err(|e| at(&self.address, judge(&e)))
    }

    /// Several commands in one go. In a cluster all of them have to be of one slot.
    ///
    /// # Errors
    /// See [`judge`]; the error of the first that failed.
    pub async fn pipeline<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> Result<T, Failure> {
        pipeline.query_async(&mut self.link).await.map_err(|e| at(&self.address, judge(&e)))
    }

    /// Several commands in one go, as [`Redis::pipeline`], with the answer to each. In a cluster whose slot is on its way
    /// to another node they are sent one by one: there each key is asked for where it is.
    ///
    /// # Errors
    /// See [`judge`]; of a connection that failed, or of a transaction that was not begun.
    pub async fn each(&mut self, mut pipeline: Pipeline) -> Result<Vec<Result<(), Failure>>, Failure> {
        let commands = pipeline.len();
        pipeline.ignore_errors();
        let sent: RedisResult<Vec<RedisResult<Value>>> = pipeline.query_async(&mut self.link).await;
        let answers = match sent {
            Ok(answers) => answers,
            Err(e) if self.is_cluster() && is_moving(&e) => {
                let mut answers = Vec::with_capacity(commands);
                for command in pipeline.cmd_iter() {
                    answers.push(command.query_async(&mut self.link).await);
                }
                answers
            }
            Err(e) => return Err(at(&self.address, judge(&e))),
        };
        if answers.len() != commands {
            let message = format!("{} answers to {commands} commands", answers.len());
            return Err(at(&self.address, Failure::new(Class::Unknown, message)));
        }
        let one = |answer: RedisResult<Value>| match answer.and_then(Value::extract_error) {
            Ok(_) => Ok(()),
            Err(e) => Err(at(&self.address, judge(&e))),
        };
        Ok(answers.into_iter().map(one).collect())
    }

    /// Whether it is a cluster, where commands of one pipeline have to be of one slot.
    #[must_use]
    pub fn is_cluster(&self) -> bool {
        matches!(self.link, Link::Cluster(_))
    }

    /// Asks the server something that costs nothing.
    ///
    /// # Errors
    /// Its address, and why it does not answer.
    pub async fn ping(&mut self) -> Result<(), Failure> {
        self.command::<String>(&cmd("PING")).await.map(drop)
    }
}

/// The slot of a cluster that a key is in.
#[must_use]
pub fn slot(key: &str) -> Slot {
    Slot::for_key(key)
}

fn at(address: &str, failure: Failure) -> Failure {
    Failure { message: format!("Redis at {address}: {}", failure.message), ..failure }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Link::Server(link) => link.req_packed_command(cmd),
            Link::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Link::Server(link) => link.req_packed_commands(cmd, offset, count),
            Link::Cluster(link) => link.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Link::Server(link) => link.get_db(),
            Link::Cluster(link) => link.get_db(),
        }
    }
}

/// What an error of a command means.
#[must_use]
pub fn judge(error: &RedisError) -> Failure {
    let code = error.code().map(str::to_owned);
    let class = match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::EmptySentinelList
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::RESP3NotSupported => Class::Config,
        // A transaction was not begun, for what was said of one of its commands.
        ErrorKind::Server(ServerErrorKind::ExecAbort) => inside(error),
        ErrorKind::Server(kind) => class_of(kind, error.detail().unwrap_or_default()),
        ErrorKind::Extension => class_of_code(code.as_deref().unwrap_or_default()),
        // It was sent, and what became of it is not known. A refused connection was not sent.
        ErrorKind::Io if error.is_connection_refusal() => Class::Transient,
        ErrorKind::Io => Class::Unknown,
        _ => Class::Transient,
    };
    Failure { class, message: error.to_string(), code, column: None }
}

/// Whether a slot is on its way to another node, or has just arrived there.
fn is_moving(error: &RedisError) -> bool {
    let moving =
        |kind| matches!(kind, ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain);
    let inside = error.clone().into_server_errors();
    matches!(error.kind(), ErrorKind::Server(kind) if moving(kind))
        || inside.iter().flat_map(|all| all.iter()).any(|(_, e)| e.kind().is_some_and(moving))
}

/// What the first error inside another one means.
fn inside(error: &RedisError) -> Class {
    let errors = error.clone().into_server_errors();
    let first = errors.iter().flat_map(|all| all.iter()).find(|(_, e)| e.code() != "EXECABORT");
    first.map_or(Class::Transient, |(_, e)| judge(&RedisError::from(e.clone())).class)
}

/// Errors that the protocol has a name for.
fn class_of(kind: ServerErrorKind, detail: &str) -> Class {
    match kind {
        ServerErrorKind::NoPerm | ServerErrorKind::CrossSlot => Class::Config,
        // `ERR unknown command` is ours; any other `ERR` is about what was sent.
        ServerErrorKind::ResponseError if detail.starts_with("unknown command") => Class::Config,
        // Said to a new connection.
        ServerErrorKind::ResponseError if detail.starts_with("max number of clients") => Class::Overload,
        ServerErrorKind::ResponseError => Class::Row,
        _ => Class::Transient,
    }
}

/// Errors by the word that they begin with.
fn class_of_code(code: &str) -> Class {
    match code {
        "WRONGTYPE" => Class::Row,
        // Memory is full; a script runs; a write that no replica would take.
        "OOM" | "BUSY" | "NOREPLICAS" => Class::Overload,
        "NOAUTH" | "WRONGPASS" | "NOPROTO" => Class::Config,
        // MISCONF (it cannot save), UNKILLABLE, INPROG ...
        _ => Class::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::ServerError;

    /// As the server says it: `-OOM command not allowed`.
    fn check(said: &str, class: Class) {
        let reply = format!("-{said}\r\n");
        let value = redis::parse_redis_value(reply.as_bytes()).expect("a reply");
        let Value::ServerError(error) = value else { panic!("{said} is an error") };
        let error: ServerError = error;
        assert_eq!(judge(&RedisError::from(error)).class, class, "{said}");
    }

    #[test]
    fn every_error_has_its_class() {
        check("OOM command not allowed when used memory > 'maxmemory'.", Class::Overload);
        check("BUSY Redis is busy running a script.", Class::Overload);
        check("LOADING Redis is loading the dataset in memory", Class::Transient);
        check("READONLY You can't write against a read only replica.", Class::Transient);
        check("MASTERDOWN Link with MASTER is down", Class::Transient);
        check("CLUSTERDOWN The cluster is down", Class::Transient);
        check("TRYAGAIN Multiple keys request during rehashing of slot", Class::Transient);
        check("MISCONF Redis is configured to save RDB snapshots", Class::Transient);
        check("WRONGTYPE Operation against a key holding the wrong kind of value", Class::Row);
        check("ERR value is not an integer or out of range", Class::Row);
        check("ERR max number of clients reached", Class::Overload);
        check("ERR unknown command 'NOPE', with args beginning with: ", Class::Config);
        check("NOAUTH Authentication required.", Class::Config);
        check("WRONGPASS invalid username-password pair or user is disabled.", Class::Config);
        check("NOPERM this user has no permissions", Class::Config);
    }

    #[test]
    fn a_url_says_where() {
        let address = |url: &str, cluster: bool| {
            let config = RedisConfig { cluster, ..RedisConfig::new(url) };
            let problems = config.check();
            if problems.is_empty() { config.address() } else { problems[0].field.clone() }
        };
        assert_eq!(address("redis://localhost:6380/2", false), "localhost:6380");
        assert_eq!(address("rediss://u:p@host", false), "host:6379");
        assert_eq!(address("redis://a:1,b:2", true), "a:1,b:2");
        assert_eq!(address("redis://a:1,b:2", false), "url");
        assert_eq!(address("http://a", false), "url");
        assert_eq!(address("", false), "url");
        let config = RedisConfig {
            password: Some("ge:he@im".into()),
            tls: Some(Tls::default()),
            ..RedisConfig::new("redis://localhost")
        };
        assert_eq!(
            config.urls().map(|urls| urls[0].to_string()),
            Ok("rediss://:ge%3Ahe%40im@localhost".to_owned())
        );
        assert!(!format!("{config:?}").contains("ge:he"));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_its_cause() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("has one");
        let config =
            RedisConfig { connect_timeout: Millis::secs(1), ..RedisConfig::new(format!("redis://{free}")) };
        let mut redis = Redis::connect(&config).await.expect("is connected to by the first command");
        let failure = redis.ping().await.expect_err("nobody is there");
        assert_eq!(failure.class, Class::Transient, "{failure}");
        assert!(failure.message.contains(&free.to_string()), "{failure}");
    }
}
