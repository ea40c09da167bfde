//! Shared by all sinks that write rows of a table: columns, and what writing a row does.

use schemars::JsonSchema;
use serde::Deserialize;

use super::columns::{Column, Columns};
use crate::model::{Cell, EvalError, Expr, Json, Payload, Record, Scope, Timestamp};

/// What writing a row does.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Inserts the row, or updates the written columns of the row with that primary key.
    #[default]
    Upsert,
    /// Inserts the row. A row that exists is refused, also one that was written before a crash: prefer upsert.
    Insert,
    /// Updates the written columns. A row that does not exist is refused.
    Update,
    /// Replaces the row: columns that are not written become NULL.
    Replace,
    /// Inserts the row, unless there is one: that stays as it is.
    #[serde(skip)]
    Keep,
    /// Inserts the row. Another one of its key is refused; the same one, which was written before a crash, is not.
    #[serde(skip)]
    InsertOnce,
}

/// Which records remove the row of their key instead of writing it.
#[derive(Clone, Copy, Debug)]
pub enum Deletes<'a> {
    /// None: rows are never removed.
    Never,
    /// Tombstones.
    Tombstones,
    /// Those for which it is true; where it is null, tombstones.
    When(&'a Expr),
}

impl Deletes<'_> {
    /// Does this record?
    ///
    /// # Errors
    /// The expression fails, or gives neither true nor false.
    pub(super) fn is(self, record: &Record) -> Result<bool, EvalError> {
        match self {
            Deletes::Never => Ok(false),
            Deletes::Tombstones => Ok(record.value.is_null()),
            Deletes::When(expr) => match expr.eval(&Scope::of(record)) {
                Ok(Json::Bool(deletes)) => Ok(deletes),
                Ok(Json::Null) => Ok(record.value.is_null()),
                Ok(other) => {
                    let text = expr.text();
                    Err(EvalError::Failed(format!("`{text}` gave {other}, neither true nor false")))
                }
                // A tombstone has nothing that the expression could read.
                Err(_) if record.value.is_null() => Ok(true),
                Err(e) => Err(e),
            },
        }
    }
}

/// What a sink tells about its table.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The columns that are written.
    pub columns: &'a Columns,
    /// What writing a row does.
    pub operation: Operation,
    /// The key, where the file names it.
    pub key: Option<&'a [String]>,
    /// The column in which a row must be greater than the one that it replaces.
    pub newer_wins: Option<&'a str>,
    /// Which records remove a row.
    pub deletes: Deletes<'a>,
}

impl<'a> Table<'a> {
    /// A table whose rows are written and never removed, with a key that the database knows.
    #[must_use]
    pub fn new(columns: &'a Columns, operation: Operation) -> Table<'a> {
        Table { columns, operation, key: None, newer_wins: None, deletes: Deletes::Never }
    }

    /// What is written of a record.
    ///
    /// # Errors
    /// An expression fails.
    pub fn payload(&self, record: &Record) -> Result<Payload, EvalError> {
        if self.deletes.is(record)? {
            return Ok(Payload::Delete(self.columns.eval_what_is_there(&Scope::of(record))));
        }
        self.columns.eval(&Scope::of(record)).map(Payload::Columns)
    }

    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &'a String> + use<'a> {
        self.columns.0.iter().map(|(name, _)| name)
    }

    /// The columns that are probably the primary key, when no database can be asked and the file does not say: those that
    /// are the record's key, else the first.
    #[must_use]
    pub fn likely_key(&self) -> Vec<String> {
        if let Some(key) = self.key {
            return key.to_vec();
        }
        let is_key = |column: &Column| matches!(column, Column::Expr(expr) if Expr::is_key(expr));
        let keys = self.columns.0.iter().filter(|(_, column)| is_key(column));
        let keys: Vec<String> = keys.map(|(name, _)| name.clone()).collect();
        if keys.is_empty() { self.names().take(1).cloned().collect() } else { keys }
    }

    /// A row that is to be deleted, by its key: `{"delete": {"id": "a"}}`.
    #[must_use]
    pub fn show_delete(&self, cells: &[Cell]) -> Json {
        let key = self.likely_key();
        let of_key = self.names().zip(cells).filter(|(name, _)| key.contains(name));
        let of_key = of_key.filter_map(|(name, cell)| match cell {
            Cell::Json(json) => Some((name.clone(), json.clone())),
            Cell::CommitTimestamp => None,
        });
        serde_json::json!({ "delete": Json::Object(of_key.collect()) })
    }

    /// A row as an object of its columns.
    #[must_use]
    pub fn show(&self, cells: &[Cell], commit: Timestamp) -> Json {
        let cells = cells.iter().map(|cell| match cell {
            Cell::Json(json) => json.clone(),
            Cell::CommitTimestamp => Json::String(commit.rfc3339()),
        });
        Json::Object(self.names().cloned().zip(cells).collect())
    }
}
