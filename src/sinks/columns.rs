//! Columns of table sinks: a name and an expression, evaluated inside the task.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::model::{Cell, EvalError, Expr, Scope};

/// What a column is set to.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// The result of an expression.
    Expr(Expr),
    /// `commit_timestamp()`: the time of the write, set by the database.
    CommitTimestamp,
}

/// Columns in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns(pub Vec<(String, Column)>);

impl Columns {
    /// Columns from pairs; the text `commit_timestamp()` is the commit timestamp.
    #[must_use]
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, Expr)>) -> Columns {
        Columns(pairs.into_iter().map(|(name, expr)| (name.to_owned(), Column::from(expr))).collect())
    }

    /// One cell per column.
    ///
    /// # Errors
    /// An expression fails.
    pub fn eval(&self, scope: &Scope<'_>) -> Result<Vec<Cell>, EvalError> {
        self.0
            .iter()
            .map(|(name, column)| match column {
                Column::CommitTimestamp => Ok(Cell::CommitTimestamp),
                Column::Expr(expr) => {
                    expr.eval(scope).map(Cell::Json).map_err(|e| e.context(|e| format!("column {name}: {e}")))
                }
            })
            .collect()
    }

    /// One cell per column, null where an expression fails: what can be known of a row that is to be deleted, whose record
    /// may have a key and nothing else.
    #[must_use]
    pub fn eval_what_is_there(&self, scope: &Scope<'_>) -> Vec<Cell> {
        let cell = |(_, column): &(String, Column)| match column {
            Column::CommitTimestamp => Cell::CommitTimestamp,
            Column::Expr(expr) => Cell::Json(expr.eval(scope).unwrap_or_default()),
        };
        self.0.iter().map(cell).collect()
    }

    /// The expressions inside, to be compiled.
    pub fn exprs_mut(&mut self) -> impl Iterator<Item = &mut Expr> {
        self.0.iter_mut().filter_map(|(_, c)| match c {
            Column::Expr(e) => Some(e),
            Column::CommitTimestamp => None,
        })
    }
}

impl From<Expr> for Column {
    fn from(expr: Expr) -> Self {
        if expr.text().trim() == "commit_timestamp()" { Column::CommitTimestamp } else { Column::Expr(expr) }
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Columns;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("columns, each with an expression")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
                let mut out = Vec::new();
                while let Some((name, expr)) = map.next_entry::<String, Expr>()? {
                    out.push((name, Column::from(expr)));
                }
                Ok(Columns(out))
            }
        }
        d.deserialize_map(Pairs)
    }
}

impl JsonSchema for Columns {
    fn schema_name() -> Cow<'static, str> {
        "Columns".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let expr = generator.subschema_for::<Expr>();
        json_schema!({
            "description": "Column name: expression, or `commit_timestamp()`.",
            "type": "object", "additionalProperties": expr, "minProperties": 1
        })
    }
}
