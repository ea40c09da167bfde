//! PostgreSQL: a pool of connections per server and process, and what its errors mean. The one home of `tokio_postgres`,
//! `tokio_postgres_rustls` and `deadpool_postgres`.
//!
//! A [`Session`] is a connection of the pool, held by one caller. Every statement is prepared once per connection and
//! has a time limit. If a statement is not answered in time or is dropped half way, its connection is closed, since the
//! next statement would wait behind it. Sessions use UTC, so that timestamps are the same from everywhere.
//!
//! A statement that was given up may still be on a server that was frozen or cut off. When the server is back it would
//! carry the statement out, after newer rows of the same keys, which it would overwrite. So before the next session is
//! given out, the sessions that were given up are ended on the server, and their end is waited for.
//!
//! Not supported: transaction poolers that keep no prepared statements (pgbouncer before 1.21).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{
    Manager, ManagerConfig, Object, ObjectId, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Config, Error, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use tokio_postgres::Row;
/// How values travel.
pub use tokio_postgres::types;

use super::connections::ConnectionSettings;
use super::failure::{Class, Failure, causes};
use super::tls::Tls;
use crate::model::secret::Secret;
use crate::model::{Millis, Problem};

/// How much longer than the server's own limit an answer is waited for: the server says it itself if it can.
const GRACE: Duration = Duration::from_secs(2);

/// A PostgreSQL server.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`; several hosts separated by commas are tried in turn. Parameters as
    /// libpq's may follow, for example `?target_session_attrs=read-write`.
    pub url: Secret,
    /// User, in place of the URL's. Default: the URL's.
    #[serde(default)]
    pub user: Option<String>,
    /// Password, in place of the URL's; write it as `${POSTGRES_PASSWORD}`. Default: the URL's.
    #[serde(default)]
    pub password: Option<Secret>,
    /// TLS. Default: none, unless the URL says `sslmode=require`.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Connections of this process to the server, at most. Default 10.
    #[serde(default = "PostgresConfig::default_pool")]
    pub pool: usize,
    /// How long connecting may take. Default 5s.
    #[serde(default = "PostgresConfig::default_connect_timeout")]
    pub connect_timeout: Millis,
    /// How long a statement may take, waiting for a free connection apart: `statement_timeout`. Default 30s.
    #[serde(default = "PostgresConfig::default_timeout")]
    pub timeout: Millis,
}

impl PostgresConfig {
    /// A server with the defaults.
    #[must_use]
    pub fn new(url: impl Into<Secret>) -> PostgresConfig {
        PostgresConfig {
            url: url.into(),
            user: None,
            password: None,
            tls: None,
            pool: Self::default_pool(),
            connect_timeout: Self::default_connect_timeout(),
            timeout: Self::default_timeout(),
        }
    }

    fn default_pool() -> usize {
        10
    }
    fn default_connect_timeout() -> Millis {
        Millis::secs(5)
    }
    fn default_timeout() -> Millis {
        Millis::secs(30)
    }

    /// What the driver makes of it: where to, who, how long.
    fn parsed(&self) -> Result<Config, String> {
        // Every certificate is verified here, so these are no more than `require`.
        let url = self.url.replace("sslmode=verify-full", "sslmode=require");
        let url = url.replace("sslmode=verify-ca", "sslmode=require");
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("it does not begin with `postgres://`".to_owned());
        }
        let mut config: Config = url.parse().map_err(|e: Error| causes(&e))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("it has no host".to_owned());
        }
        if let Some(user) = &self.user {
            config.user(user);
        }
        if let Some(password) = &self.password {
            config.password(&**password);
        }
        if self.tls.is_some() {
            config.ssl_mode(SslMode::Require);
        } else if !url.contains("sslmode=") {
            config.ssl_mode(SslMode::Disable);
        }
        if config.get_application_name().is_none() {
            config.application_name("slackwater");
        }
        let own = config.get_options().unwrap_or_default();
        let options = format!("-c TimeZone=UTC -c statement_timeout={} {own}", self.timeout.0.max(1));
        config.options(options.trim());
        config.connect_timeout(self.connect_timeout.duration());
        // Finds out that the peer is gone, also while nothing is sent.
        config.keepalives_idle(Duration::from_secs(30));
        config.tcp_user_timeout(self.timeout.duration() + GRACE);
        Ok(config)
    }
}

impl ConnectionSettings for PostgresConfig {
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if !self.url.contains("${")
            && let Err(e) = self.parsed()
        {
            let help = "write `url: \"postgres://host:5432/database\"`";
            add("url", &format!("no address of a PostgreSQL server: {e}"), help);
        }
        if self.pool == 0 {
            add("pool", "no connection at all", "the default is 10");
        }
        if self.connect_timeout <= Millis::ZERO {
            add("connect_timeout", "no time at all to connect", "the default is 5s");
        }
        if self.timeout <= Millis::ZERO {
            add("timeout", "no time at all for a statement", "the default is 30s");
        }
        problems.extend(self.tls.iter().filter_map(Tls::check));
        problems
    }

    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        self.tls.iter_mut().flat_map(Tls::files_mut).collect()
    }
}

/// Ends sessions, and counts those that are still there.
const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE (pid, backend_start::text) IN (SELECT * FROM unnest($1::int4[], $2::text[])) AND pid <> pg_backend_pid()";

/// Between two looks at whether sessions have ended.
const ENDING: Duration = Duration::from_millis(20);

/// A session as the server knows it: its process and when that began, since another may have its number later.
type Backend = (i32, String);

/// The connections to one server. Cheap to clone; every clone shares them.
#[derive(Clone)]
pub struct Postgres {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool,
    /// `host:port`, for messages.
    address: String,
    connect_timeout: Millis,
    /// After so long a statement without an answer has none.
    patience: Duration,
    /// The server's ids of the pool's connections. Locked for moments, when a connection is taken or dropped.
    backends: Mutex<HashMap<ObjectId, Backend>>,
    /// Sessions that were dropped with a statement under way, until they are known to have ended.
    given_up: Mutex<Vec<Backend>>,
}

impl Postgres {
    /// Connections to the server, none of them made yet.
    ///
    /// # Errors
    /// `Config`: the URL is none, or a certificate cannot be read.
    pub fn new(config: &PostgresConfig) -> Result<Postgres, Failure> {
        let wrong = |what: String| Failure::new(Class::Config, what);
        let driver = config.parsed().map_err(|e| wrong(format!("no address of a PostgreSQL server: {e}")))?;
        let address = address(&driver);
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = if driver.get_ssl_mode() == SslMode::Disable {
            Manager::from_config(driver, NoTls, recycling)
        } else {
            let tls = config.tls.clone().unwrap_or_default().rustls();
            let tls = tls.map_err(|e| wrong(format!("PostgreSQL at {address}: TLS: {e}")))?;
            Manager::from_config(driver, MakeRustlsConnect::new(tls), recycling)
        };
        let pool = Pool::builder(manager)
            .max_size(config.pool.max(1))
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(config.connect_timeout.duration()))
            .build()
            .map_err(|e| wrong(e.to_string()))?;
        let patience = config.timeout.duration() + GRACE;
        let shared = Shared {
            pool,
            address,
            connect_timeout: config.connect_timeout,
            patience,
            backends: Mutex::default(),
            given_up: Mutex::default(),
        };
        Ok(Postgres { shared: Arc::new(shared) })
    }

    /// `host:port` of the server, for people.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// A connection, for as long as it is held; waits while all are.
    ///
    /// # Errors
    /// Nothing answers, or it does not let us in.
    pub async fn session(&self) -> Result<Session, Failure> {
        let object = Box::pin(self.shared.pool.get()).await.map_err(|e| self.shared.not_connected(e))?;
        let mut session = Session { object: Some(object), busy: false, shared: Arc::clone(&self.shared) };
        session.introduce().await?;
        session.end_given_up().await?;
        Ok(session)
    }

    /// Asks the server something that costs nothing.
    ///
    /// # Errors
    /// Its address, and why it does not answer.
    pub async fn ping(&self) -> Result<(), Failure> {
        let mut session = self.session().await?;
        session.query("SELECT 1", &[]).await.map(drop)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn not_connected(&self, error: PoolError) -> Failure {
        let address = &self.address;
        match error {
            PoolError::Backend(e) => {
                let failure = judge_connecting(&e);
                Failure { message: format!("PostgreSQL at {address}: {}", failure.message), ..failure }
            }
            PoolError::Timeout(TimeoutType::Create) => {
                let message = format!("PostgreSQL at {address}: no answer within {}", self.connect_timeout);
                Failure::new(Class::Transient, message)
            }
            other => Failure::new(Class::Transient, format!("PostgreSQL at {address}: {other}")),
        }
    }
}

/// One connection of the pool.
pub struct Session {
    /// `Some` until it is dropped.
    object: Option<Object>,
    /// A statement is under way, or what became of it is not known.
    busy: bool,
    shared: Arc<Shared>,
}

impl Session {
    /// Asks a connection that is new what the server knows it by.
    async fn introduce(&mut self) -> Result<(), Failure> {
        let Some(id) = self.object.as_ref().map(Object::id) else { return Ok(()) };
        if locked(&self.shared.backends).contains_key(&id) {
            return Ok(());
        }
        let sql = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let rows = self.query(sql, &[]).await?;
        let mut backends = locked(&self.shared.backends);
        // Of connections that the pool has dropped by itself nothing is said: those that are left ask again.
        if backends.len() > 2 * self.shared.pool.status().max_size {
            backends.clear();
        }
        if let Some(row) = rows.first() {
            backends.insert(id, (row.get(0), row.get(1)));
        }
        Ok(())
    }

    /// Waits until no statement that was given up can be carried out any more.
    async fn end_given_up(&mut self) -> Result<(), Failure> {
        let given_up = locked(&self.shared.given_up).clone();
        if given_up.is_empty() {
            return Ok(());
        }
        let (pids, began): (Vec<i32>, Vec<String>) = given_up.iter().cloned().unzip();
        let end = tokio::time::Instant::now() + self.shared.patience;
        loop {
            let rows = self.query(END, &[&pids, &began]).await?;
            if rows.first().is_none_or(|row| row.get::<_, i64>(0) == 0) {
                break;
            }
            if tokio::time::Instant::now() > end {
                let address = &self.shared.address;
                let message = format!("PostgreSQL at {address}: a statement that was given up still runs");
                return Err(Failure::new(Class::Transient, message));
            }
            tokio::time::sleep(ENDING).await;
        }
        locked(&self.shared.given_up).retain(|backend| !given_up.contains(backend));
        Ok(())
    }

    /// Has the server look at a statement, without running it: names and types are right, or it is [`Class::Config`].
    ///
    /// # Errors
    /// See [`judge`].
    pub async fn prepare(&mut self, sql: &str) -> Result<(), Failure> {
        self.ask(sql, None).await.map(drop)
    }

    /// Runs a statement and gives its rows.
    ///
    /// # Errors
    /// See [`judge`]. What was sent and not answered in time is [`Class::Unknown`].
    pub async fn query(
        &mut self,
        sql: &str,
        params: &[&(dyn types::ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        self.ask(sql, Some(params)).await
    }

    /// Prepares a statement, and runs it where there are parameters for it.
    async fn ask(
        &mut self,
        sql: &str,
        params: Option<&[&(dyn types::ToSql + Sync)]>,
    ) -> Result<Vec<Row>, Failure> {
        self.busy = true;
        let mut again = true;
        loop {
            let Some(object) = &self.object else {
                return Err(Failure::new(Class::Transient, "the connection is gone"));
            };
            let asked = async {
                let statement = object.prepare_cached(sql).await?;
                match params {
                    Some(params) => object.query(&statement, params).await,
                    None => Ok(Vec::new()),
                }
            };
            let failure = match tokio::time::timeout(self.shared.patience, asked).await {
                Ok(Ok(rows)) => {
                    self.busy = false;
                    return Ok(rows);
                }
                Ok(Err(e)) => {
                    // A statement dies with a change of its tables: prepared again, it is good.
                    if is_stale(&e) && std::mem::take(&mut again) {
                        object.statement_cache.clear();
                        continue;
                    }
                    judge(&e)
                }
                Err(_) => {
                    let seconds = self.shared.patience.as_secs_f64();
                    Failure::new(Class::Unknown, format!("no answer within {seconds:.0} s"))
                }
            };
            // The connection is as good as before where the server said so on it.
            self.busy = matches!(failure.class, Class::Unknown | Class::Transient);
            let address = &self.shared.address;
            return Err(Failure {
                message: format!("PostgreSQL at {address}: {}", failure.message),
                ..failure
            });
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.busy
            && let Some(object) = self.object.take()
        {
            let backend = locked(&self.shared.backends).remove(&Object::id(&object));
            locked(&self.shared.given_up).extend(backend);
            drop(Object::take(object));
        }
    }
}

fn address(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |n: usize| ports.get(n).or_else(|| ports.first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate().map(|(n, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(n)),
        Host::Unix(path) => path.display().to_string(),
    });
    let hosts: Vec<String> = hosts.collect();
    if hosts.is_empty() {
        let addresses = config.get_hostaddrs().iter().enumerate();
        return addresses.map(|(n, ip)| format!("{ip}:{}", port(n))).collect::<Vec<_>>().join(",");
    }
    hosts.join(",")
}

/// A prepared statement that the server no longer takes: its tables have changed, or a pooler gave us another connection.
fn is_stale(error: &Error) -> bool {
    error.as_db_error().is_some_and(|e| match e.code().code() {
        "0A000" => e.message().contains("cached plan"),
        code => code == "26000",
    })
}

/// A statement that gives each row of another one as the text of a JSON object, columns as its fields in their order: the
/// only way in which rows become JSON here, so that the same row is the same text from everywhere.
#[must_use]
pub fn rows_as_json(select: &str) -> String {
    // The other one may end with a comment.
    format!("SELECT row_to_json(r)::text FROM ({select}\n) AS r")
}

/// What an error of a statement means.
#[must_use]
pub fn judge(error: &Error) -> Failure {
    let Some(db) = error.as_db_error() else {
        // The value cannot be written as the type of its parameter: the row, not the connection.
        let class = match error.to_string().starts_with("error serializing") {
            true => Class::Row,
            false => Class::Unknown,
        };
        return Failure::new(class, causes(error));
    };
    let code = db.code().code();
    let mut message = format!("{code}: {}", db.message());
    // Of a duplicate and a missing parent it names the key. That of other errors repeats the whole row.
    if let (Some(detail), "23503" | "23505" | "21000") = (db.detail(), code) {
        message = format!("{message}: {detail}");
    }
    Failure {
        class: class_of(code),
        message,
        code: Some(code.to_owned()),
        column: db.column().map(str::to_owned),
    }
}

/// What an error while connecting means: nothing has been sent that could be done twice.
fn judge_connecting(error: &Error) -> Failure {
    if error.as_db_error().is_some() {
        let failure = judge(error);
        let class = if failure.class == Class::Row { Class::Config } else { failure.class };
        return Failure { class, ..failure };
    }
    // The driver has kinds of errors, but shows them in words only.
    let kind = error.to_string();
    let class = match kind.as_str() {
        "authentication error" | "invalid configuration" | "invalid connection string" => Class::Config,
        // A certificate that is refused, or a server without TLS; not a connection that broke on the way.
        "error performing TLS handshake" if !broke(error) => Class::Config,
        _ => Class::Transient,
    };
    Failure::new(class, causes(error))
}

/// Did the network fail, below the TLS that reports it?
fn broke(error: &Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.kind() != std::io::ErrorKind::InvalidData;
        }
        next = cause.source();
    }
    false
}

/// The meaning of an SQLSTATE for a statement that writes rows. An unknown one is tried again: rather for too long than
/// draining a topic into its dead letter.
fn class_of(code: &str) -> Class {
    match code {
        // Deadlock, serialization failure, a lock that was not given in time.
        "40P01" | "40001" | "55P03" => Class::Contention,
        // Too many connections; canceled, which is the statement's time.
        "53300" | "57014" => Class::Overload,
        // The database is being dropped, or is gone.
        "57P04" => Class::Config,
        // Read only: a failover is under way.
        "25006" => Class::Transient,
        // No such schema or database, no such user or password, no such right.
        "3D000" | "3F000" | "0LP01" | "55000" => Class::Config,
        _ => match &code[..code.len().min(2)] {
            // 21: a key twice; 22: a value; 23: a constraint; 44: a view's check; 54: too large; P0: a trigger's word.
            "21" | "22" | "23" | "44" | "54" | "P0" | "38" | "39" => Class::Row,
            // 0A: not supported; 28: login; 42: names, types, rights; F0, HV: its own configuration, foreign tables.
            "0A" | "28" | "42" | "F0" | "HV" => Class::Config,
            // 08: connection; 53: disk or memory; 57: shut down; 58, XX: the machine below.
            _ => Class::Transient,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sqlstate_has_its_class() {
        let check = |codes: &[&str], class: Class| {
            for code in codes {
                assert_eq!(class_of(code), class, "{code}");
            }
        };
        check(
            &["08006", "57P01", "57P02", "57P03", "53100", "53200", "25006", "58030", "XX000", "26000"],
            Class::Transient,
        );
        check(&["40001", "40P01", "55P03"], Class::Contention);
        check(&["53300", "57014"], Class::Overload);
        check(
            &["22001", "22003", "22P02", "22021", "22P05", "23502", "23503", "23505", "23514", "21000"],
            Class::Row,
        );
        check(&["54000", "P0001", "44000"], Class::Row);
        check(
            &["42P01", "42703", "42501", "42804", "42P10", "28P01", "28000", "3D000", "0A000", "57P04"],
            Class::Config,
        );
        check(&["", "9"], Class::Transient);
    }

    fn parsed(url: &str) -> Result<(String, bool), String> {
        let config = PostgresConfig::new(url).parsed()?;
        Ok((address(&config), config.get_ssl_mode() != SslMode::Disable))
    }

    #[test]
    fn a_url_says_where_and_whether_by_tls() {
        let plain = |address: &str| Ok((address.to_owned(), false));
        assert_eq!(parsed("postgres://u:p@db:5433/x"), plain("db:5433"));
        assert_eq!(parsed("postgresql://u@db/x"), plain("db:5432"));
        assert_eq!(parsed("postgres://u@a:1,b:2/x"), plain("a:1,b:2"));
        for mode in ["require", "verify-ca", "verify-full", "prefer"] {
            assert_eq!(
                parsed(&format!("postgres://u@db/x?sslmode={mode}")),
                Ok(("db:5432".to_owned(), true))
            );
        }
        assert_eq!(parsed("postgres://u@db/x?sslmode=disable"), plain("db:5432"));
        for bad in ["", "db:5432", "http://db/x", "postgres:///x", "postgres://u@db/x?sslmode=maybe"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_named_and_nothing_shows_a_password() {
        let config = PostgresConfig {
            password: Some("geheim".into()),
            pool: 0,
            timeout: Millis::ZERO,
            connect_timeout: Millis::ZERO,
            ..PostgresConfig::new("mysql://u:geheim@db/x")
        };
        let problems = config.check();
        let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["url", "pool", "connect_timeout", "timeout"]);
        assert!(!format!("{config:?} {problems:?}").contains("geheim"));
        assert_eq!(PostgresConfig::new("${POSTGRES_URL}").check(), []);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_its_cause() {
        // A port that nothing listens on.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("has one");
        let postgres =
            Postgres::new(&PostgresConfig::new(format!("postgres://u:geheim@{free}/x"))).expect("a pool");
        let failure = postgres.ping().await.expect_err("nobody is there");
        assert_eq!(failure.class, Class::Transient);
        assert!(
            failure.message.contains(&free.to_string()) && failure.message.contains("refused"),
            "{failure}"
        );
        assert!(!failure.message.contains("geheim"));
    }
}
