//! One row of PostgreSQL as JSON.
//!
//! The row is made JSON by the server, as that of a sink's `returning` is: so the same row has the same text, and the same
//! ETag, from either. Values are bound as text, which the server reads as the types that the query wants.
//!
//! Connections of their own, apart from those of sinks, with a time limit of their own; and a bound on the requests that
//! wait for one.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use tokio::sync::Semaphore;

use super::health::Health;
use crate::clients::postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use crate::clients::postgres::{Postgres, PostgresConfig, rows_as_json};
use crate::clients::{Class, Failure};
use crate::endpoints::PostgresRead;
use crate::model::{Json, Millis, read_json};

/// Requests that wait for a connection, for each connection that there is.
const WAITING_MAX: usize = 64;

/// One query of an endpoint.
pub(super) struct Database {
    server: Postgres,
    sql: String,
    timeout: Millis,
    health: Health,
    /// A permit for each connection.
    room: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
}

/// A row that was found.
pub(super) type Row = Option<(Json, String)>;

/// A value as text, of whatever type the query wants.
#[derive(Debug)]
struct Value<'a>(Option<&'a str>);

impl ToSql for Value<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(text) = self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
    to_sql_checked!();
}

impl Database {
    /// The query of these settings, at that server.
    ///
    /// # Errors
    /// The server's settings cannot be used.
    pub(super) fn new(config: &PostgresConfig, read: &PostgresRead) -> Result<Database, Failure> {
        let config = PostgresConfig {
            pool: read.pool,
            timeout: config.timeout.min(read.timeout),
            connect_timeout: config.connect_timeout.min(read.timeout),
            ..config.clone()
        };
        let server = Postgres::new(&config)?;
        let query = read.query.trim().trim_end_matches(';');
        Ok(Database {
            health: Health::new(format!("PostgreSQL at {}", server.address())),
            server,
            // A second row is asked for to see that there is none.
            sql: format!("{} LIMIT 2", rows_as_json(query)),
            timeout: read.timeout,
            room: Semaphore::new(read.pool),
            waiting: AtomicUsize::new(0),
            waiting_max: read.pool * WAITING_MAX,
        })
    }

    /// The row for these values.
    ///
    /// # Errors
    /// The server does not answer, too many requests wait, or the query is wrong.
    pub(super) async fn row(&self, values: &[Option<String>]) -> Result<Row, String> {
        let _waits = Waits::of(self)?;
        let address = self.server.address();
        let permit = tokio::time::timeout(self.timeout.duration(), self.room.acquire()).await;
        let _permit =
            permit.map_err(|_| format!("PostgreSQL at {address}: no connection was free in time"))?;
        // A connection that has died in the pool says so at the first statement: a read may be made again.
        let mut last = String::new();
        for _ in 0..2 {
            let attempt = self.health.attempt()?;
            // Twice: for connecting, and for the query.
            let asked = tokio::time::timeout(self.timeout.duration() * 2, self.ask(values));
            let Ok(answer) = asked.await else {
                attempt.end(false);
                return Err(format!("PostgreSQL at {address}: no answer in time"));
            };
            let class = answer.as_ref().err().map(|failure| failure.class);
            attempt.end(matches!(class, None | Some(Class::Row | Class::Config)));
            match answer {
                Ok(row) => return Ok(row),
                Err(Failure { class: Class::Row, message, .. }) => {
                    // A value that no row can have: too long, not of the column's type, a NUL in text.
                    tracing::debug!(message, "no row can have this");
                    return Ok(None);
                }
                Err(Failure { class: Class::Config, message, .. }) => {
                    tracing::error!(message, "the query of a read cannot be used");
                    return Err(message);
                }
                Err(failure) => last = failure.message,
            }
        }
        Err(last)
    }

    async fn ask(&self, values: &[Option<String>]) -> Result<Row, Failure> {
        let values: Vec<Value<'_>> = values.iter().map(|value| Value(value.as_deref())).collect();
        let params: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let mut session = self.server.session().await?;
        let rows = Box::pin(session.query(&self.sql, &params)).await?;
        if rows.len() > 1 {
            let message = "the query of a read gives more than one row: it has to name one, by its key";
            return Err(Failure::new(Class::Config, message));
        }
        let Some(row) = rows.first() else { return Ok(None) };
        let text: String = row.get(0);
        let json = read_json(text.as_bytes()).map_err(|e| Failure::new(Class::Config, e.to_string()))?;
        Ok(Some((json, text)))
    }
}

/// A request that waits for a connection, or has one.
struct Waits<'a>(&'a Database);

impl Waits<'_> {
    fn of(database: &Database) -> Result<Waits<'_>, String> {
        let waits = Waits(database);
        if database.waiting.fetch_add(1, Ordering::Relaxed) >= database.waiting_max {
            return Err(format!("{} reads wait for PostgreSQL already", database.waiting_max));
        }
        Ok(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
