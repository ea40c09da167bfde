//! The `postgres` sink: rows of one PostgreSQL table, many of them written by one `INSERT .. SELECT FROM UNNEST(..)`.
//!
//! When it connects, it reads the table from the catalog and has the server check its statements, so that a topology
//! names only columns, and what does not fit stops it at the start (`schema`). Lanes share the pool of the connection.
//! Rows of a batch that cannot be written are refused one by one (`encode`); the others are reduced to one row for each
//! key (`reduce`) and written by one statement, which is its own transaction.
//!
//! When the server refuses a statement, it does not tell which row is at fault: the driver halves the batch until that
//! row is found. With a second unique index, rows that are right in their order may be refused together, and the other
//! way round, so a batch that violates one is written row by row, in order.
//!
//! Invariants: rows of a batch are applied as if one by one in their order, per key; a row is never acknowledged before
//! its statement is committed. Every statement may be repeated, even one whose answer was lost, unless rows are added
//! without a key.

mod encode;
mod reduce;
mod schema;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

use self::encode::Cell;
use self::reduce::{Round, rounds};
use self::schema::{Encoded, Plan};
use super::columns::{Column, Columns};
use super::table::{Deletes, Operation};
use super::{Answers, Batch, Connected, Lane, Sink, SinkError, SinkSettings, Surroundings, Table};
use crate::clients::postgres::{Postgres, Session, types::ToSql};
use crate::clients::{Class, Failure, Server, Uses};
use crate::model::{Expr, FieldPath, Json, Problem, SinkRow, did_you_mean};

/// Most batches in flight.
const LANES_MAX: usize = 100;

/// Unique violation.
const UNIQUE: &str = "23505";
/// A key twice in one statement: keys that are equal to the server and written differently.
const TWICE: &str = "21000";
/// The statement took longer than it may.
const CANCELED: &str = "57014";
/// NULL in a NOT NULL column.
const NOT_NULL: &str = "23502";

/// Writes rows to a PostgreSQL table.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSinkConfig {
    /// Which of the connections in `postgres` it uses. Default: the only one.
    #[serde(default)]
    pub connection: Option<String>,
    /// The table; `schema.table` where the connection does not see it without. As it is, without quotes.
    pub table: String,
    /// What is written: column name: expression, or `commit_timestamp()` for the time of the write. Types come from the
    /// database.
    pub columns: Columns,
    /// The columns by which a row is known, those of a unique index. Default: the primary key.
    #[serde(default)]
    pub key: Option<Vec<String>>,
    /// What becomes of a row that is there already. Default upsert.
    #[serde(default)]
    pub conflict: Conflict,
    /// A row is replaced only by one with a greater value in this column, whatever the order in which they come. Default:
    /// the last one that comes wins.
    #[serde(default)]
    pub newer_wins: Option<String>,
    /// A record for which this is true deletes the row of its key. Default: a tombstone does (a record whose value is
    /// null), so that only what comes from `key` is needed of it; `false`: none does.
    #[serde(default)]
    pub delete_when: Option<Expr>,
    /// Where in the record to put the row as the table has it afterwards, for nodes that read from this sink: a path
    /// such as `.row`. With `conflict: keep` that is the older row, where there was one. Default: nowhere.
    #[serde(default)]
    pub returning: Option<FieldPath>,
    /// How rows are gathered into a statement.
    #[serde(default)]
    pub batch: Batch,
    /// Statements under way at a time, at most 100; each takes a connection of the pool. Default 4.
    #[serde(default = "PostgresSinkConfig::default_in_flight")]
    pub max_in_flight: usize,
}

/// What becomes of a row of the table that has the key of a row to be written.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// The written columns of the row are updated.
    #[default]
    Upsert,
    /// The row stays as it is, and what was to be written is done with.
    Keep,
    /// The row stays as it is, and what was to be written is refused: unless it is the same, which is what was written
    /// before a crash. Without a key among the columns every row is added, after a crash some of them twice.
    Fail,
}

impl PostgresSinkConfig {
    /// A sink with the defaults.
    #[must_use]
    pub fn new(table: impl Into<String>, columns: Columns) -> PostgresSinkConfig {
        PostgresSinkConfig {
            connection: None,
            table: table.into(),
            columns,
            key: None,
            conflict: Conflict::default(),
            newer_wins: None,
            delete_when: None,
            returning: None,
            batch: Batch::default(),
            max_in_flight: Self::default_in_flight(),
        }
    }

    fn default_in_flight() -> usize {
        4
    }

    /// Can a record delete a row?
    fn deletes(&self) -> bool {
        self.delete_when.as_ref().is_none_or(|expr| expr.text().trim() != "false")
    }

    /// The column of the file that has this name, or what to write instead.
    fn column(&self, name: &str) -> Result<&Column, String> {
        let found = self.columns.0.iter().find(|(column, _)| column == name);
        let names: Vec<&str> = self.columns.0.iter().map(|(name, _)| name.as_str()).collect();
        found.map(|(_, column)| column).ok_or_else(|| did_you_mean(name, &names))
    }
}

impl SinkSettings for PostgresSinkConfig {
    fn label(&self) -> String {
        self.table.clone()
    }

    fn connect<'a>(
        &'a self,
        around: Surroundings<'a>,
    ) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async move {
            let postgres = around.clients.postgres(self.connection.as_deref()).map_err(away)?;
            let sink = Box::pin(PostgresSink::connect(self, &postgres)).await?;
            Ok(Arc::new(sink) as Arc<dyn Connected>)
        })
    }

    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if self.table.is_empty() {
            add("table", "the table has no name", "write `table: name`");
        }
        if self.columns.0.is_empty() {
            add("columns", "the sink has no columns", "write `columns: { id: key, ... }`");
        }
        for name in self.key.iter().flatten() {
            match self.column(name) {
                Ok(Column::Expr(_)) => {}
                Ok(Column::CommitTimestamp) => {
                    let message =
                        format!("`{name}` gets the time of the write: nothing finds that row again");
                    add("key", &message, "name columns that come from the record");
                }
                Err(help) => add("key", &format!("`{name}` is not among the columns"), &help),
            }
        }
        if self.key.as_ref().is_some_and(Vec::is_empty) {
            add("key", "a key of no columns", "remove `key` for the primary key, or write `key: [column]`");
        }
        if let Some(name) = &self.newer_wins {
            match self.column(name) {
                Ok(Column::Expr(_)) => {}
                Ok(Column::CommitTimestamp) => {
                    let message =
                        format!("`{name}` gets the time of the write: the last one is always the newest");
                    add("newer_wins", &message, "name a column that comes from the record");
                }
                Err(help) => add("newer_wins", &format!("`{name}` is not among the columns"), &help),
            }
            if self.conflict != Conflict::Upsert {
                let message = "a row that is there stays as it is, however new another is";
                add("newer_wins", message, "remove it, or write `conflict: upsert`");
            }
        }
        if !(1..=LANES_MAX).contains(&self.max_in_flight) {
            add("max_in_flight", "not from 1 to 100", "the default is 4");
        }
        problems
    }

    fn connection(&self) -> Option<Uses<'_>> {
        Some(Uses { server: Server::Postgres, name: self.connection.as_deref() })
    }

    fn table(&self) -> Option<Table<'_>> {
        let operation = match self.conflict {
            Conflict::Upsert => Operation::Upsert,
            Conflict::Keep => Operation::Keep,
            Conflict::Fail => Operation::InsertOnce,
        };
        let deletes = self.delete_when.as_ref().map_or(Deletes::Tombstones, Deletes::When);
        Some(Table {
            columns: &self.columns,
            operation,
            key: self.key.as_deref(),
            newer_wins: self.newer_wins.as_deref(),
            deletes,
        })
    }

    fn returning(&self) -> Option<&FieldPath> {
        self.returning.as_ref()
    }

    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        self.columns.exprs_mut().chain(&mut self.delete_when).collect()
    }

    fn batch(&self) -> Batch {
        self.batch.clone()
    }
}

/// A connected table. Cheap to clone; lanes share the pool of the connection.
#[derive(Clone)]
pub struct PostgresSink {
    postgres: Postgres,
    plan: Arc<Plan>,
    lanes: usize,
    returning: bool,
}

impl PostgresSink {
    /// Compares the topology's columns with the table.
    ///
    /// # Errors
    /// `Retry`: the server cannot be reached. `Config`: table or columns are not as the topology says.
    pub async fn connect(
        config: &PostgresSinkConfig,
        postgres: &Postgres,
    ) -> Result<PostgresSink, SinkError> {
        if let Some(Problem { field, message, help, .. }) = config.check().into_iter().next() {
            let help = help.unwrap_or_default();
            return Err(SinkError::Config { message: format!("`{field}`: {message}: {help}"), column: None });
        }
        let mut session = postgres.session().await.map_err(away)?;
        let table = Box::pin(schema::read(&mut session, &config.table)).await.map_err(away)?;
        let plan = Plan::new(config, &table)?;
        for statement in plan.statements() {
            session.prepare(statement).await.map_err(|failure| {
                let column = plan.column_in(&failure.message);
                match away(failure) {
                    SinkError::Config { message, .. } => SinkError::Config { message, column },
                    other => other,
                }
            })?;
        }
        Ok(PostgresSink {
            postgres: postgres.clone(),
            plan: Arc::new(plan),
            lanes: config.max_in_flight,
            returning: config.returning.is_some(),
        })
    }

    /// A lane: what one driver lane delivers to.
    #[must_use]
    pub fn lane(&self) -> PostgresLane {
        PostgresLane { sink: self.clone(), rows_max: usize::MAX }
    }
}

impl Connected for PostgresSink {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(PostgresSink::lane(self))
    }

    fn lanes(&self) -> usize {
        self.lanes
    }
}

/// A failure before there are rows that could be to blame.
fn away(failure: Failure) -> SinkError {
    let Failure { class, message, column, .. } = failure;
    match class {
        Class::Config | Class::Row => SinkError::Config { message, column },
        Class::Transient | Class::Contention | Class::Overload | Class::Unknown => {
            SinkError::Retry { message, after: None }
        }
    }
}

/// One lane of a PostgreSQL sink.
pub struct PostgresLane {
    sink: PostgresSink,
    /// Rows in one statement: fewer after one that took too long.
    rows_max: usize,
}

impl Sink for PostgresLane {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        let mut rows = Vec::with_capacity(batch.len());
        for (at, row) in batch.iter().enumerate() {
            match self.sink.plan.encode(at, row) {
                Ok(encoded) => rows.push(encoded),
                Err(why) => out.refused(at, why),
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut session = self.sink.postgres.session().await.map_err(away)?;
        let mut left = rows.as_slice();
        while !left.is_empty() {
            let (part, rest) = left.split_at(left.len().min(self.rows_max));
            match Box::pin(self.sink.write(&mut session, part, out)).await {
                Ok(()) => {
                    self.rows_max = self.rows_max.saturating_mul(2);
                    left = rest;
                }
                Err(failure) => {
                    if failure.is(CANCELED) {
                        self.rows_max = (part.len() / 2).max(1);
                    }
                    return Err(self.sink.judged(failure));
                }
            }
        }
        Ok(())
    }
}

impl PostgresSink {
    /// Writes rows, and answers them.
    async fn write(&self, session: &mut Session, rows: &[Encoded], out: &mut Answers) -> Result<(), Failure> {
        match self.write_together(session, rows, out).await {
            // Other keys than ours, or keys that only the server finds equal.
            Err(failure) if rows.len() > 1 && (failure.is(UNIQUE) || failure.is(TWICE)) => {
                self.write_one_by_one(session, rows, out).await
            }
            result => result,
        }
    }

    async fn write_together(
        &self,
        session: &mut Session,
        rows: &[Encoded],
        out: &mut Answers,
    ) -> Result<(), Failure> {
        let plan = &self.plan;
        let all = rounds(rows, !plan.key.is_empty(), plan.conflict, plan.newer_cell());
        let mut differing = Vec::new();
        for Round { deletes, writes } in &all {
            if let (Some(sql), false) = (&plan.delete, deletes.is_empty()) {
                session.query(sql, &references(&arrays(deletes, &plan.delete_cells()))).await?;
            }
            if writes.is_empty() {
                continue;
            }
            let cells: Vec<usize> = (0..writes[0].cells.len()).collect();
            let arrays = arrays(writes, &cells);
            session.query(&plan.insert, &references(&arrays)).await?;
            if let Some(sql) = &plan.differing {
                let others = session.query(sql, &references(&arrays)).await?;
                differing.extend(others.iter().filter_map(|row| Some(writes.get(place(row.get(0))?)?.at)));
            }
        }
        let stands = match (&plan.select, self.returning) {
            (Some(sql), true) => self.stands(session, sql, rows).await?,
            _ => HashMap::new(),
        };
        for row in rows {
            match stands.get(row.key.as_slice()) {
                _ if differing.contains(&row.at) => {
                    out.refused(
                        row.at,
                        format!("{UNIQUE}: another row has its key, and `conflict` is `fail`"),
                    );
                }
                Some(json) if !row.delete => out.wrote(row.at, json.clone()),
                _ => out.written(row.at),
            }
        }
        Ok(())
    }

    /// Each row by itself, in the order in which they came: a row may free what the next one needs.
    async fn write_one_by_one(
        &self,
        session: &mut Session,
        rows: &[Encoded],
        out: &mut Answers,
    ) -> Result<(), Failure> {
        for row in rows {
            match self.write_together(session, std::slice::from_ref(row), out).await {
                Ok(()) => {}
                Err(failure) if failure.class == Class::Row && !self.is_ours(&failure) => {
                    out.refused(row.at, said(&failure));
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// The rows as they stand in the table, by their keys.
    async fn stands<'a>(
        &self,
        session: &mut Session,
        sql: &str,
        rows: &'a [Encoded],
    ) -> Result<HashMap<&'a [u8], Json>, Failure> {
        let mut asked: Vec<&Encoded> = rows.iter().filter(|row| !row.delete).collect();
        asked.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        asked.dedup_by(|a, b| a.key == b.key);
        let arrays = arrays(&asked, &self.plan.key_cells());
        let mut stands = HashMap::with_capacity(asked.len());
        for row in session.query(sql, &references(&arrays)).await? {
            let Some(asked) = place(row.get(0)).and_then(|at| asked.get(at)) else { continue };
            let json = serde_json::from_str(row.get(1)).map_err(|e| {
                Failure::new(Class::Transient, format!("PostgreSQL gave a row that is no JSON: {e}"))
            })?;
            stands.insert(asked.key.as_slice(), json);
        }
        Ok(stands)
    }

    /// NULL in a column that the topology does not write: the table has changed, and no row is to blame.
    fn is_ours(&self, failure: &Failure) -> bool {
        failure.is(NOT_NULL) && failure.column.as_deref().is_some_and(|column| !self.plan.writes(column))
    }

    fn judged(&self, failure: Failure) -> SinkError {
        match failure.class {
            Class::Row if self.is_ours(&failure) => {
                SinkError::Config { message: failure.message, column: None }
            }
            Class::Row => SinkError::Refused { message: said(&failure) },
            Class::Config => {
                let column = failure.column.clone().filter(|column| self.plan.writes(column));
                let column = column.or_else(|| self.plan.column_in(&failure.message));
                SinkError::Config { message: failure.message, column }
            }
            // Spread, so that those who met do not meet again.
            Class::Contention => {
                let after = Some(Duration::from_millis(rand::random_range(10..100)));
                SinkError::Retry { message: failure.message, after }
            }
            Class::Transient | Class::Overload | Class::Unknown => {
                SinkError::Retry { message: failure.message, after: None }
            }
        }
    }
}

/// What the server said of a row, with the column where it names one.
fn said(failure: &Failure) -> String {
    match &failure.column {
        Some(column) => format!("column `{column}`: {}", failure.message),
        None => failure.message.clone(),
    }
}

/// One array for each of these cells.
fn arrays<'a>(rows: &[&'a Encoded], cells: &[usize]) -> Vec<Vec<&'a Cell>> {
    cells.iter().map(|&cell| rows.iter().map(|row| &row.cells[cell]).collect()).collect()
}

fn references<'a>(arrays: &'a [Vec<&'a Cell>]) -> Vec<&'a (dyn ToSql + Sync)> {
    arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect()
}

/// The place of a row in the arrays, which the server counts from 1.
fn place(n: i64) -> Option<usize> {
    usize::try_from(n - 1).ok()
}
