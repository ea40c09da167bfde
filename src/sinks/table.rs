//! Shared by all sinks that write rows of a table: columns, and what writing a row does.

use schemars::JsonSchema;
use serde::Deserialize;

use super::columns::{Column, Columns};
use crate::model::{Cell, Expr, Json, Timestamp};

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
}

/// What a sink tells about its table.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The columns that are written.
    pub columns: &'a Columns,
    /// What writing a row does.
    pub operation: Operation,
}

impl Table<'_> {
    /// The names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.columns.0.iter().map(|(name, _)| name)
    }

    /// The columns that are probably the primary key, when no database can be asked: those that are the record's key,
    /// else the first.
    #[must_use]
    pub fn likely_key(&self) -> Vec<String> {
        let is_key = |column: &Column| matches!(column, Column::Expr(expr) if Expr::is_key(expr));
        let keys = self.columns.0.iter().filter(|(_, column)| is_key(column));
        let keys: Vec<String> = keys.map(|(name, _)| name.clone()).collect();
        if keys.is_empty() { self.names().take(1).cloned().collect() } else { keys }
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
