//! The `spanner` sink: rows of one Cloud Spanner table, one `Commit` for many of them.
//!
//! [`Spanner::connect`] reads the table from the information schema, so that a topology names only columns, and a wrong
//! name stops it at the start (`schema`). Each lane of the driver owns a [`SpannerLane`]. Lanes share the client, and a
//! semaphore allows `max_in_flight` commits of one sink, however many lanes there are. A batch is one mutation with
//! many rows (`encode`), applied at least once, or several commits in order if `max_cells` requires it. `failure`
//! decides what a failure means.
//!
//! Invariants: rows of a batch are applied in the batch's order per primary key; a row is never acknowledged before its
//! commit. Not supported: newer-wins guards, deletes, PostgreSQL-dialect databases, multiplexed sessions
//! (`gcloud-spanner` has none).
//!
//! `gcloud-spanner` panics on TLS unless `rustls::crypto::aws_lc_rs::default_provider().install_default()` ran: `main`
//! does it first.

mod admin;
mod encode;
mod failure;
mod schema;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gcloud_gax::conn::Environment;
use gcloud_gax::grpc::Code;
use gcloud_gax::retry::RetrySetting;
use gcloud_googleapis::spanner::v1::Mutation;
use gcloud_spanner::client::google_cloud_auth::credentials::CredentialsFile;
use gcloud_spanner::client::google_cloud_auth::error::Error as AuthError;
use gcloud_spanner::client::{ChannelConfig, Client, ClientConfig, Error, ReadWriteTransactionOption};
use gcloud_spanner::session::SessionConfig;
use gcloud_spanner::transaction::CallOptions;
use gcloud_spanner::transaction_rw::CommitOptions;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore};

pub use admin::{create_database, statements};

use self::failure::{Failure, judge};
use self::schema::Plan;
use super::columns::Columns;
use super::{Answers, Batch, Connected, Lane, Operation, Sink, SinkError, SinkSettings, Surroundings, Table};
use crate::model::{Expr, Problem, SinkRow};

/// The variable that every Spanner client reads.
const EMULATOR_HOST: &str = "SPANNER_EMULATOR_HOST";

/// Limits for connecting, for creating the sessions and for reading the schema, each. The client's own retries would
/// take minutes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a call may wait for a session. With the client's default of 1 s, calls that only had to queue would fail.
const SESSION_TIMEOUT: Duration = Duration::from_secs(30);

/// How often one delivery is repeated at once after the server lost its session: first with another session of the
/// pool, then with a new pool.
const SESSIONS_LOST_MAX: u32 = 3;

/// Logins refused in a row before the sink gives up: the first may be due to an expired token.
const LOGINS_REFUSED_MAX: u32 = 3;

/// Most commits in flight.
const COMMITS_MAX: usize = 100;

/// Whether a column can have this name.
fn is_column(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.len() <= 128
        && name.chars().all(word)
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// gRPC channels, 100 sessions each.
const CHANNELS: usize = 4;

/// Writes rows to a Cloud Spanner table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpannerConfig {
    /// The database, `projects/P/instances/I/databases/D`.
    pub database: String,
    /// The table; `schema.table` in a named schema.
    pub table: String,
    /// What is written: column name: expression, or `commit_timestamp()`. Types come from the database.
    pub columns: Columns,
    /// What a row does. Default upsert.
    #[serde(default)]
    pub operation: Operation,
    /// How rows are gathered into a commit.
    #[serde(default)]
    pub batch: Batch,
    /// Commits under way at a time, at most 100. Default 4; always 1 on the emulator, which runs one transaction at a time.
    #[serde(default = "SpannerConfig::default_in_flight")]
    pub max_in_flight: usize,
    /// Cells (rows x columns and index entries) of one commit. Default 20000; Spanner's own limit is 80000.
    #[serde(default = "SpannerConfig::default_cells")]
    pub max_cells: usize,
    /// How to log in. Default `adc`, Google's application default credentials; not used on the emulator.
    #[serde(default)]
    pub credentials: Credentials,
    /// Another endpoint than the public one, `https://...` (Private Service Connect). Default none.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// `host:port` of an emulator. Default: the environment variable SPANNER_EMULATOR_HOST, if it is set.
    #[serde(default)]
    pub emulator: Option<String>,
}

/// How to log in to Google Cloud.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    /// Application default credentials: GOOGLE_APPLICATION_CREDENTIALS, gcloud's login, or the machine's own account.
    #[default]
    Adc,
    /// A file with a service account's key.
    File(PathBuf),
}

impl SpannerConfig {
    /// A sink with the defaults.
    #[must_use]
    pub fn new(database: impl Into<String>, table: impl Into<String>, columns: Columns) -> SpannerConfig {
        SpannerConfig {
            database: database.into(),
            table: table.into(),
            columns,
            operation: Operation::default(),
            batch: Batch::default(),
            max_in_flight: Self::default_in_flight(),
            max_cells: Self::default_cells(),
            credentials: Credentials::default(),
            endpoint: None,
            emulator: None,
        }
    }

    fn default_in_flight() -> usize {
        4
    }
    fn default_cells() -> usize {
        20_000
    }

    /// What is wrong with the settings: field, message, help. The database's name is checked when connecting; where
    /// nothing is connected, it may be unset.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if self.table.is_empty() {
            add("table", "the table has no name", "write `table: Name`");
        }
        if self.columns.0.is_empty() {
            add("columns", "the sink has no columns", "write `columns: { Id: key, ... }`");
        }
        if let Some((name, _)) = self.columns.0.iter().find(|(name, _)| !is_column(name)) {
            let message = format!("`{name}` is no name of a column");
            add("columns", &message, "a column's name has letters, digits and `_`, and begins with no digit");
        }
        if !(1..=COMMITS_MAX).contains(&self.max_in_flight) {
            add("max_in_flight", "not from 1 to 100", "the default is 4");
        }
        if matches!(self.operation, Operation::Keep | Operation::InsertOnce) {
            add("operation", "not for this database", "write `upsert`, `insert`, `update` or `replace`");
        }
        if self.max_cells == 0 {
            add("max_cells", "a commit of no cells writes nothing", "the default is 20000");
        }
        problems
    }

    /// The emulator to use, if any: the setting, then the environment.
    pub fn emulator(&self, env: &(dyn Fn(&str) -> Option<String> + Sync)) -> Option<String> {
        self.emulator.clone().or_else(|| env(EMULATOR_HOST)).filter(|host| !host.is_empty())
    }
}

impl SinkSettings for SpannerConfig {
    fn label(&self) -> String {
        self.table.clone()
    }

    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async move {
            let spanner = Box::pin(Spanner::connect(self, around.env)).await?;
            Ok(Arc::new(spanner) as Arc<dyn Connected>)
        })
    }

    fn check(&self) -> Vec<Problem> {
        SpannerConfig::check(self)
    }

    fn table(&self) -> Option<Table<'_>> {
        Some(Table::new(&self.columns, self.operation))
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        self.columns.exprs_mut().collect()
    }

    fn batch(&self) -> Batch {
        self.batch.clone()
    }
}

impl Connected for Spanner {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(Spanner::lane(self))
    }

    fn lanes(&self) -> usize {
        Spanner::lanes(self)
    }
}

/// A connected table. Cheap to clone; every clone and every lane shares one client.
#[derive(Clone)]
pub struct Spanner {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    plan: Plan,
    operation: Operation,
    max_in_flight: usize,
    /// Held while a client is taken or replaced, never during a commit. All lanes of the sink hold it.
    live: Mutex<Live>,
    commits: Semaphore,
}

/// The client, and how often it was replaced.
struct Live {
    generation: u64,
    client: Client,
}

impl Spanner {
    /// Connects, and compares the topology's columns with the table. `env` reads an environment variable.
    ///
    /// # Errors
    /// `Retry`: the server cannot be reached. `Config`: database, table or columns do not fit the topology.
    pub async fn connect(
        config: &SpannerConfig,
        env: &(dyn Fn(&str) -> Option<String> + Sync),
    ) -> Result<Spanner, SinkError> {
        let emulator = config.emulator(env);
        let max_in_flight = if emulator.is_some() { 1 } else { config.max_in_flight };
        if let Some(Problem { field, message, help, .. }) = config.check().into_iter().next() {
            let help = help.unwrap_or_default();
            return Err(SinkError::Config { message: format!("`{field}`: {message}: {help}"), column: None });
        }
        if emulator.is_some() && config.max_in_flight > 1 {
            tracing::info!(table = config.table, "one commit at a time: the Spanner emulator runs no more");
        }
        admin::parts(&config.database)?;
        let target = Target {
            database: config.database.clone(),
            emulator,
            endpoint: config.endpoint.clone(),
            credentials: config.credentials.clone(),
            sessions: max_in_flight + 2,
        };
        let client = target.connect().await?;
        let read = tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(schema::read(&client, &config.table)));
        let table = match read.await {
            Ok(Ok(table)) => table,
            Ok(Err(e)) => return Err(target.fatal(&e)),
            Err(_) => return Err(target.silent()),
        };
        let plan = Plan::new(config, &table)?;
        let shared = Shared {
            target,
            plan,
            operation: config.operation,
            max_in_flight,
            live: Mutex::new(Live { generation: 0, client }),
            commits: Semaphore::new(max_in_flight),
        };
        Ok(Spanner { shared: Arc::new(shared) })
    }

    /// A lane, for one lane of the driver.
    #[must_use]
    pub fn lane(&self) -> SpannerLane {
        SpannerLane { shared: Arc::clone(&self.shared), suspect: None, logins_refused: 0 }
    }

    /// Most batches in flight: `max_in_flight`, 1 on the emulator.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.shared.max_in_flight
    }
}

impl Shared {
    /// The current client. If it is of generation `suspect`, which the caller found unresponsive, it is replaced first;
    /// another caller may have done that already.
    async fn client(&self, suspect: Option<u64>) -> Result<(u64, Client), SinkError> {
        let mut live = self.live.lock().await;
        if suspect == Some(live.generation) {
            live.client = self.target.connect().await?;
            live.generation += 1;
            tracing::info!(database = self.target.database, "connected to Spanner again");
        }
        Ok((live.generation, live.client.clone()))
    }
}

/// Where and how to connect.
struct Target {
    database: String,
    emulator: Option<String>,
    endpoint: Option<String>,
    credentials: Credentials,
    /// Sessions made at the start, so that no commit of ours ever waits for one.
    sessions: usize,
}

impl Target {
    async fn connect(&self) -> Result<Client, SinkError> {
        let connecting = Box::pin(async {
            let config = self.client_config().await?;
            Client::new(self.database.clone(), config).await.map_err(|e| self.fatal(&e))
        });
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(self.silent()))
    }

    async fn client_config(&self) -> Result<ClientConfig, SinkError> {
        let defaults = ClientConfig::default();
        let mut config = ClientConfig {
            session_config: SessionConfig::default(),
            channel_config: ChannelConfig {
                num_channels: CHANNELS,
                connect_timeout: CONNECT_TIMEOUT,
                ..ChannelConfig::default()
            },
            endpoint: self.endpoint.clone().unwrap_or_else(|| defaults.endpoint.clone()),
            ..defaults
        };
        config.session_config.min_opened = self.sessions;
        config.session_config.max_opened = CHANNELS * 100;
        config.session_config.session_get_timeout = SESSION_TIMEOUT;
        match (&self.emulator, &self.credentials) {
            (Some(host), _) => {
                config.environment = Environment::Emulator(host.clone());
                Ok(config)
            }
            (None, Credentials::Adc) => config.with_auth().await.map_err(|e| login(&e)),
            (None, Credentials::File(path)) => {
                let file = CredentialsFile::new_from_file(path.display().to_string())
                    .await
                    .map_err(|e| login(&e))?;
                config.with_credentials(file).await.map_err(|e| login(&e))
            }
        }
    }

    /// An error while connecting, when no row can be its cause.
    fn fatal(&self, error: &Error) -> SinkError {
        match judge(error) {
            Failure::Other(SinkError::Refused { message }) | Failure::Unauthenticated(message) => {
                SinkError::Config { message, column: None }
            }
            Failure::Other(other) => other,
            Failure::SessionLost(message) | Failure::Unresponsive(message) => {
                SinkError::Retry { message: format!("{message} ({})", self.place()), after: None }
            }
        }
    }

    fn silent(&self) -> SinkError {
        let message = format!("Spanner gave no answer in {} s ({})", CONNECT_TIMEOUT.as_secs(), self.place());
        SinkError::Retry { message, after: None }
    }

    fn place(&self) -> &str {
        self.emulator.as_deref().or(self.endpoint.as_deref()).unwrap_or("spanner.googleapis.com")
    }
}

/// An error of the login.
fn login(error: &AuthError) -> SinkError {
    match error {
        AuthError::HttpError(e) => SinkError::Retry {
            message: format!("Google's login does not answer: {}", failure::chain(e)),
            after: None,
        },
        other => SinkError::Config {
            message: format!(
                "no login for Spanner: {other}: set GOOGLE_APPLICATION_CREDENTIALS or `credentials: {{ file: path }}`, \
                 or {EMULATOR_HOST} for an emulator"
            ),
            column: None,
        },
    }
}

/// Retries of a single RPC inside the client: 20, 40, 80 and 160 ms, and only where nothing was sent. The client's
/// default blocks for minutes; longer waits are the driver's, who can be asked to stop.
fn retry() -> RetrySetting {
    RetrySetting {
        from_millis: 2,
        factor: 10,
        max_delay: Some(Duration::from_secs(1)),
        take: 4,
        codes: vec![Code::Unavailable],
    }
}

/// One lane of a Spanner sink.
pub struct SpannerLane {
    shared: Arc<Shared>,
    /// The generation of a client that did not answer: it is replaced before the next attempt.
    suspect: Option<u64>,
    logins_refused: u32,
}

impl Sink for SpannerLane {
    async fn deliver(&mut self, batch: &[SinkRow], _: &mut Answers) -> Result<(), SinkError> {
        let mut rows = self.shared.plan.rows(batch)?;
        let shared = Arc::clone(&self.shared);
        let _commit = shared.commits.acquire().await.expect("the semaphore is never closed");
        while !rows.is_empty() {
            let rest = rows.split_off(shared.plan.rows_per_commit.min(rows.len()));
            Box::pin(self.commit(shared.plan.mutation(rows))).await?;
            rows = rest;
        }
        Ok(())
    }
}

impl SpannerLane {
    async fn commit(&mut self, mutation: Mutation) -> Result<(), SinkError> {
        let mut lost = 0;
        loop {
            let (generation, client) = self.shared.client(self.suspect).await?;
            let Err(error) = apply(&client, self.shared.operation, mutation.clone()).await else {
                self.suspect = None;
                self.logins_refused = 0;
                return Ok(());
            };
            let message = match judge(&error) {
                Failure::SessionLost(message) => {
                    lost += 1;
                    // A single lost session is replaced; a second one means that all are lost (the server has
                    // restarted).
                    self.suspect = (lost > 1).then_some(generation);
                    if lost < SESSIONS_LOST_MAX {
                        continue;
                    }
                    message
                }
                Failure::Unresponsive(message) => {
                    self.suspect = Some(generation);
                    message
                }
                Failure::Unauthenticated(message) => {
                    self.logins_refused += 1;
                    if self.logins_refused >= LOGINS_REFUSED_MAX {
                        return Err(SinkError::Config { message, column: None });
                    }
                    message
                }
                Failure::Other(SinkError::Config { message, .. }) => {
                    let column = self.shared.plan.column_in(&message);
                    return Err(SinkError::Config { message, column });
                }
                Failure::Other(error) => return Err(error),
            };
            return Err(SinkError::Retry { message, after: None });
        }
    }
}

/// One commit. `insert` takes a second round trip, for the server's protection against replays: otherwise a retry
/// inside the client would find its own row.
async fn apply(client: &Client, operation: Operation, mutation: Mutation) -> Result<(), Error> {
    let call_options = || CallOptions { retry: Some(retry()), ..CallOptions::default() };
    let commit_options = CommitOptions { call_options: call_options(), ..CommitOptions::default() };
    if operation == Operation::Insert {
        let options = ReadWriteTransactionOption {
            begin_options: call_options(),
            commit_options,
            ..ReadWriteTransactionOption::default()
        };
        client.apply_with_option(vec![mutation], options).await.map(drop)
    } else {
        client.apply_at_least_once_with_option(vec![mutation], commit_options).await.map(drop)
    }
}
