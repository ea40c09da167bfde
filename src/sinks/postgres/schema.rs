//! What the database says of the table, and the plan of a write that follows from it.
//!
//! [`Plan::new`] is pure: it finds every fault that would make all rows fail, and names the column. [`read`] asks the
//! catalog. The statements name the schema, so that no `search_path` can lead them elsewhere later.

use std::fmt::Write as _;

use super::encode::{Cell, ColumnType};
use super::{Conflict, PostgresSinkConfig};
use crate::clients::Failure;
use crate::clients::postgres::{Session, rows_as_json};
use crate::model::{self, Json, Payload, SinkRow, Types, near};
use crate::sinks::SinkError;
use crate::sinks::columns::Column;

/// A table as the catalog describes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// The schema that it is in.
    pub(super) schema: String,
    /// In their order in the table; empty: there is no such table.
    pub(super) columns: Vec<TableColumn>,
    /// The primary key's columns, in order.
    pub(super) key: Vec<String>,
    /// The columns of each unique index that covers all rows; the primary key's is one.
    pub(super) uniques: Vec<Vec<String>>,
    /// Rights that we have not: `INSERT`, `UPDATE` ...
    pub(super) refused: Vec<&'static str>,
    /// Names of all tables that can be seen, for "did you mean".
    pub(super) others: Vec<String>,
    /// The database and the user.
    pub(super) place: String,
}

/// One column of it.
#[derive(Clone, Debug)]
pub(super) struct TableColumn {
    pub(super) name: String,
    /// For people and for casts: `numeric(10,2)`, `text[]`.
    pub(super) full_type: String,
    /// Without its modifier, and of a domain what is below: `numeric`.
    pub(super) bare_type: String,
    pub(super) column_type: ColumnType,
    pub(super) nullable: bool,
    /// The database fills it where it is not written (default value, identity).
    pub(super) filled: bool,
    /// It may not be written (`GENERATED ALWAYS`).
    pub(super) generated: bool,
}

const COLUMNS: &str = "
    SELECT n.nspname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), format_type(b.oid, NULL), b.typname::text,
           CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END,
           CASE WHEN b.typcategory = 'A' THEN e.typname::text END,
           NOT (a.attnotnull OR t.typnotnull), a.atthasdef OR a.attidentity <> '',
           a.attgenerated <> '' OR a.attidentity = 'a',
           has_any_column_privilege(c.oid, 'INSERT'), has_any_column_privilege(c.oid, 'UPDATE'),
           has_any_column_privilege(c.oid, 'SELECT'), has_table_privilege(c.oid, 'DELETE')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         JOIN pg_type t ON t.oid = a.atttypid
         JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
         LEFT JOIN pg_type e ON e.oid = b.typelem
    WHERE c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'f')
      AND CASE WHEN $1 = '' THEN pg_table_is_visible(c.oid) ELSE n.nspname = $1 END
    ORDER BY a.attnum";

const UNIQUES: &str = "
    SELECT i.indisprimary, array_agg(a.attname::text ORDER BY k.n)
    FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
         JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                         AND i.indexprs IS NULL
         CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    WHERE s.nspname = $1 AND c.relname = $2 AND k.n <= i.indnkeyatts
    GROUP BY i.indexrelid, i.indisprimary ORDER BY i.indisprimary DESC, i.indexrelid";

const OTHERS: &str = "
    SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname::text ELSE n.nspname || '.' || c.relname END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
      AND n.nspname NOT LIKE 'pg_toast%'
    ORDER BY 1";

/// Asks for the table.
pub(super) async fn read(session: &mut Session, table: &str) -> Result<Table, Failure> {
    let (schema, name) = table.rsplit_once('.').unwrap_or(("", table));
    let mut out = Table::default();
    for row in session.query(COLUMNS, &[&schema, &name]).await? {
        out.schema = row.get(0);
        let (base, element): (String, Option<String>) = (row.get(4), row.get(6));
        out.columns.push(TableColumn {
            name: row.get(1),
            full_type: row.get(2),
            bare_type: row.get(3),
            column_type: ColumnType::parse(&base, row.get(5), element.as_deref()),
            nullable: row.get(7),
            filled: row.get(8),
            generated: row.get(9),
        });
        let rights = [(10, "INSERT"), (11, "UPDATE"), (12, "SELECT"), (13, "DELETE")];
        out.refused =
            rights.iter().filter(|(at, _)| !row.get::<_, bool>(*at)).map(|(_, name)| *name).collect();
    }
    for row in session.query(UNIQUES, &[&out.schema, &name]).await? {
        let columns: Vec<String> = row.get(1);
        if row.get(0) {
            out.key.clone_from(&columns);
        }
        out.uniques.push(columns);
    }
    if out.columns.is_empty() {
        out.others = session.query(OTHERS, &[]).await?.iter().map(|row| row.get(0)).collect();
    }
    let place = session.query("SELECT current_database()::text, current_user::text", &[]).await?;
    if let Some(row) = place.first() {
        out.place = format!("database `{}`, as `{}`", row.get::<_, String>(0), row.get::<_, String>(1));
    }
    Ok(out)
}

/// How rows become statements: fixed when the sink connects.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    table: String,
    pub(super) conflict: Conflict,
    columns: Vec<Planned>,
    /// Positions of the key's columns; empty: rows are added, none is ever found.
    pub(super) key: Vec<usize>,
    /// The position of the column of `newer_wins`.
    pub(super) newer: Option<usize>,
    /// Writes rows; its parameters are the columns that are written from records.
    pub(super) insert: String,
    /// Removes rows; its parameters are the key's columns, then that of `newer_wins`.
    pub(super) delete: Option<String>,
    /// The rows as they stand, by their place in the arrays: parameters as `delete`, without that of `newer_wins`.
    pub(super) select: Option<String>,
    /// The places of rows that do not stand there as they were to be written: parameters as `insert`. For `fail`.
    pub(super) differing: Option<String>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    full_type: String,
    bare_type: String,
    column_type: ColumnType,
    nullable: bool,
    /// `None` where the database gives the time of the write.
    parameter: Option<usize>,
}

impl Planned {
    /// The column's value in a row of the arrays.
    fn value(&self) -> String {
        match self.parameter {
            None => "now()".to_owned(),
            Some(n) if self.column_type.travels_as().1 => format!("u.c{n}::{}", self.bare_type),
            Some(n) => format!("u.c{n}"),
        }
    }

    /// The same with the column's own type: what an index on it can be asked with.
    fn cast(&self, to: &str) -> String {
        self.parameter.map_or_else(|| "now()".to_owned(), |n| format!("u.c{n}::{to}"))
    }
}

/// What writing a row comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Encoded {
    /// Its place in the batch.
    pub(super) at: usize,
    /// Removes the row of its key; else writes it.
    pub(super) delete: bool,
    /// One for each column that is written from records; of a delete only the key and `newer_wins` count.
    pub(super) cells: Vec<Cell>,
    /// Bytes of its key.
    pub(super) key: Vec<u8>,
}

impl Plan {
    /// Compares the topology's columns with the table's.
    ///
    /// # Errors
    /// `Config`: rows could never be written; names the column if it is about one.
    pub(super) fn new(config: &PostgresSinkConfig, table: &Table) -> Result<Plan, SinkError> {
        let at = &config.table;
        if table.columns.is_empty() {
            let hint = match near(at, &names(&table.others)) {
                Some(name) => format!("did you mean `{name}`?"),
                None if table.others.is_empty() => "the database has no tables: run its DDL first".to_owned(),
                None => format!("it has {}", table.others.join(", ")),
            };
            return Err(fault(None, format!("there is no table `{at}` in {}: {hint}", table.place)));
        }
        let columns = planned(config, table)?;
        let position = |name: &str| columns.iter().position(|c| c.name == name);
        let key = key(config, table, &position)?;
        if key.is_empty() && config.returning.is_some() {
            let message = format!(
                "`returning` finds a row by its key, and no key of table `{at}` is written: add its columns to `columns`"
            );
            return Err(fault(None, message));
        }
        for column in table.columns.iter().filter(|c| position(&c.name).is_none()) {
            let name = &column.name;
            if !column.nullable && !column.filled && !column.generated {
                let message = format!(
                    "column `{name}` of table `{at}` is NOT NULL, has no default and is not written: add it to `columns`"
                );
                return Err(fault(Some(name), message));
            }
        }
        let newer = config.newer_wins.as_ref().and_then(|name| position(name));
        if let Some(column) = newer.map(|at| &columns[at])
            && matches!(
                column.column_type,
                ColumnType::Json | ColumnType::Jsonb | ColumnType::Array(_) | ColumnType::Bool
            )
        {
            let message =
                format!("column `{}` is {}: nothing says which is newer", column.name, column.full_type);
            return Err(fault(Some(&column.name), message));
        }
        let updates = config.conflict == Conflict::Upsert && columns.len() > key.len();
        let needed = [
            ("INSERT", true),
            ("UPDATE", updates),
            ("SELECT", !key.is_empty()),
            ("DELETE", config.deletes() && !key.is_empty()),
        ];
        if let Some((right, _)) =
            needed.iter().find(|(right, needed)| *needed && table.refused.contains(right))
        {
            let message = format!("no right to {right} on table `{at}` in {}", table.place);
            return Err(fault(None, message));
        }
        let name = table.name(at);
        let all: Vec<&Planned> = columns.iter().collect();
        let keyed: Vec<&Planned> = key.iter().map(|&at| &columns[at]).collect();
        let beside = newer.filter(|at| !key.contains(at)).map(|at| &columns[at]);
        let deletable: Vec<&Planned> = keyed.iter().copied().chain(beside).collect();
        if let Some(column) = keyed.iter().find(|column| column.parameter.is_none()) {
            let message = format!(
                "column `{}` is part of the key and gets the time of the write: nothing finds it again",
                column.name
            );
            return Err(fault(Some(&column.name), message));
        }
        let newer_column = newer.map(|at| &columns[at]);
        let keyed_by = if keyed.is_empty() { None } else { Some(matching(&keyed)) };
        let differs = |key: &str| {
            // What the database says itself, the time, may differ.
            let written = columns.iter().filter(|c| c.parameter.is_some());
            let same: Vec<String> = written.map(same_as_stored).collect();
            format!(
                "SELECT u.n FROM {} LEFT JOIN {name} AS t ON {key} WHERE ({}) IS NOT TRUE",
                arrays(&all, true),
                same.join(" AND ")
            )
        };
        Ok(Plan {
            table: at.clone(),
            conflict: config.conflict,
            insert: insert(&name, &columns, &keyed, config.conflict, newer_column),
            delete: keyed_by.as_ref().map(|on| {
                let newer = newer_column.map_or_else(String::new, |column| {
                    let (stored, given) =
                        (format!("t.{}", quoted(&column.name)), column.cast(&column.bare_type));
                    format!(" AND ({given} IS NULL OR {stored} IS NULL OR {stored} < {given})")
                });
                format!("DELETE FROM {name} AS t USING {} WHERE {on}{newer}", arrays(&deletable, false))
            }),
            select: keyed_by.as_ref().map(|on| {
                let row = table.columns.iter().map(shown).collect::<Vec<_>>().join(", ");
                format!(
                    "SELECT u.n, ({}) FROM {} JOIN {name} AS t ON {on}",
                    rows_as_json(&format!("SELECT {row}")),
                    arrays(&keyed, true)
                )
            }),
            differing: keyed_by.as_deref().filter(|_| config.conflict == Conflict::Fail).map(differs),
            columns,
            key,
            newer,
        })
    }

    /// All its statements, to be looked at by the server before the first row.
    pub(super) fn statements(&self) -> impl Iterator<Item = &String> {
        [Some(&self.insert), self.delete.as_ref(), self.select.as_ref(), self.differing.as_ref()]
            .into_iter()
            .flatten()
    }

    /// A row as it travels.
    ///
    /// # Errors
    /// It does not fit, and which column it is.
    pub(super) fn encode(&self, at: usize, row: &SinkRow) -> Result<Encoded, String> {
        let (cells, delete) = match &row.payload {
            Payload::Columns(cells) if cells.len() == self.columns.len() => (cells, false),
            Payload::Delete(cells) if cells.len() == self.columns.len() => (cells, true),
            _ => return Err(format!("table `{}` was given a row without one cell per column", self.table)),
        };
        if delete && self.key.is_empty() {
            return Err(format!("table `{}` has no key that is written: no row can be deleted", self.table));
        }
        let mut encoded = Vec::with_capacity(cells.len());
        for (n, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            let model::Cell::Json(json) = cell else { continue };
            let matters = !delete || self.key.contains(&n) || self.newer == Some(n);
            let cell = match json {
                _ if !matters => Cell::Null,
                Json::Null if delete && self.key.contains(&n) => {
                    return Err(format!("column `{}`: null in the key of a row to be deleted", column.name));
                }
                Json::Null if !delete && !column.nullable => {
                    return Err(format!("column `{}`: null in a NOT NULL column", column.name));
                }
                json => column
                    .column_type
                    .encode(json)
                    .map_err(|what| format!("column `{}`: {what}", column.name))?,
            };
            encoded.push(cell);
        }
        let mut key = Vec::new();
        for &at in &self.key {
            if let Some(n) = self.columns[at].parameter {
                encoded[n].key_bytes(&mut key);
            }
        }
        Ok(Encoded { at, delete, cells: encoded, key })
    }

    /// The cells that are the key's.
    pub(super) fn key_cells(&self) -> Vec<usize> {
        self.key.iter().filter_map(|&at| self.columns[at].parameter).collect()
    }

    /// The cells that a delete needs: the key's, and that of `newer_wins`.
    pub(super) fn delete_cells(&self) -> Vec<usize> {
        let mut cells = self.key_cells();
        cells.extend(self.newer_cell().filter(|cell| !cells.contains(cell)));
        cells
    }

    /// The cell of `newer_wins`.
    pub(super) fn newer_cell(&self) -> Option<usize> {
        self.newer.and_then(|at| self.columns[at].parameter)
    }

    /// Does it write this column?
    pub(super) fn writes(&self, column: &str) -> bool {
        self.columns.iter().any(|c| c.name == column)
    }

    /// The column that a text of the server is about, if it names one that we write.
    pub(super) fn column_in(&self, text: &str) -> Option<String> {
        let words = || text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        self.columns.iter().find(|c| words().any(|w| w == c.name)).map(|c| c.name.clone())
    }
}

impl Table {
    /// `"schema"."table"`.
    fn name(&self, written: &str) -> String {
        let bare = written.rsplit_once('.').map_or(written, |(_, name)| name);
        format!("{}.{}", quoted(&self.schema), quoted(bare))
    }
}

/// The columns that are written, each as the table has it.
fn planned(config: &PostgresSinkConfig, table: &Table) -> Result<Vec<Planned>, SinkError> {
    let at = &config.table;
    let mut columns: Vec<Planned> = Vec::new();
    let mut parameters = 0..;
    for (name, column) in &config.columns.0 {
        let Some(found) = table.columns.iter().find(|c| c.name == *name) else {
            let all: Vec<String> = table.columns.iter().map(|c| c.name.clone()).collect();
            let hint = match near(name, &names(&all)) {
                Some(other) => format!("did you mean `{other}`?"),
                None => format!("it has {}", all.join(", ")),
            };
            return Err(fault(Some(name), format!("table `{at}` has no column `{name}`: {hint}")));
        };
        if found.generated {
            let message =
                format!("column `{name}` of table `{at}` is generated by the database: leave it out");
            return Err(fault(Some(name), message));
        }
        if *column == Column::CommitTimestamp && !found.column_type.is_time() {
            let message = format!(
                "column `{name}` of table `{at}` is {} and takes no commit_timestamp()",
                found.full_type
            );
            return Err(fault(Some(name), message));
        }
        if let Column::Expr(expr) = column {
            let values = expr.types().without(Types::NULL);
            let only_null = found.nullable && expr.types().may_be(Types::NULL);
            if !found.column_type.may_take(values) && !only_null {
                let message = format!(
                    "column `{name}` of table `{at}` is {}, and `{}` is {} by the source's `schema`: {}",
                    found.full_type,
                    expr.text(),
                    expr.types(),
                    found.column_type.wants()
                );
                return Err(fault(Some(name), message));
            }
        }
        columns.push(Planned {
            name: name.clone(),
            full_type: found.full_type.clone(),
            bare_type: found.bare_type.clone(),
            column_type: found.column_type.clone(),
            nullable: found.nullable,
            parameter: if *column == Column::CommitTimestamp { None } else { parameters.next() },
        });
    }
    Ok(columns)
}

/// The positions of the key: that of the file, else the primary key.
fn key(
    config: &PostgresSinkConfig,
    table: &Table,
    position: &dyn Fn(&str) -> Option<usize>,
) -> Result<Vec<usize>, SinkError> {
    let at = &config.table;
    if let Some(wanted) = &config.key {
        let is =
            |unique: &&Vec<String>| unique.len() == wanted.len() && unique.iter().all(|c| wanted.contains(c));
        if !table.uniques.iter().any(|unique| is(&unique)) {
            let all: Vec<String> =
                table.uniques.iter().map(|unique| format!("({})", unique.join(", "))).collect();
            let has =
                if all.is_empty() { "it has none".to_owned() } else { format!("it has {}", all.join(", ")) };
            let message = format!("no unique index of table `{at}` is on ({}): {has}", wanted.join(", "));
            return Err(fault(None, message));
        }
        return Ok(wanted.iter().filter_map(|name| position(name)).collect());
    }
    let missing = table.key.iter().find(|name| position(name).is_none());
    match (missing, config.conflict) {
        (None, _) if !table.key.is_empty() => {
            Ok(table.key.iter().filter_map(|name| position(name)).collect())
        }
        // Rows are added: the database makes their key.
        (_, Conflict::Fail) => Ok(Vec::new()),
        (Some(name), _) => {
            let message = format!(
                "column `{name}` is part of the primary key of table `{at}` and is not written: add it to `columns`, or \
                 name the columns of another unique index with `key: [..]`"
            );
            Err(fault(Some(name), message))
        }
        (None, _) => {
            let message = format!(
                "table `{at}` has no primary key: name the columns of a unique index with `key: [..]`, or write \
                 `conflict: fail` to add every row"
            );
            Err(fault(None, message))
        }
    }
}

/// `UNNEST($1::text[], ..) AS u(c0, ..)`; with the place of each row as `n`, from 1.
fn arrays(columns: &[&Planned], numbered: bool) -> String {
    let (mut parameters, mut names) = (Vec::new(), Vec::new());
    for column in columns {
        if let Some(n) = column.parameter {
            parameters.push(format!("${}::{}[]", parameters.len() + 1, column.column_type.travels_as().0));
            names.push(format!("c{n}"));
        }
    }
    let ordinality = if numbered {
        names.push("n".to_owned());
        " WITH ORDINALITY"
    } else {
        ""
    };
    format!("UNNEST({}){ordinality} AS u({})", parameters.join(", "), names.join(", "))
}

fn insert(
    name: &str,
    columns: &[Planned],
    key: &[&Planned],
    conflict: Conflict,
    newer: Option<&Planned>,
) -> String {
    let listed = |columns: &mut dyn Iterator<Item = &Planned>| {
        columns.map(|c| quoted(&c.name)).collect::<Vec<_>>().join(", ")
    };
    let values: Vec<String> = columns.iter().map(Planned::value).collect();
    let all: Vec<&Planned> = columns.iter().collect();
    let mut sql = format!(
        "INSERT INTO {name} AS t ({}) SELECT {} FROM {}",
        listed(&mut columns.iter()),
        values.join(", "),
        arrays(&all, false)
    );
    if key.is_empty() {
        return sql;
    }
    write!(sql, " ON CONFLICT ({}) DO ", listed(&mut key.iter().copied())).expect("a String takes it");
    let rest = columns.iter().filter(|c| !key.iter().any(|k| k.name == c.name));
    let set: Vec<String> = rest.map(|c| format!("{0} = EXCLUDED.{0}", quoted(&c.name))).collect();
    if conflict != Conflict::Upsert || set.is_empty() {
        sql.push_str("NOTHING");
        return sql;
    }
    write!(sql, "UPDATE SET {}", set.join(", ")).expect("a String takes it");
    if let Some(newer) = newer {
        let column = quoted(&newer.name);
        write!(sql, " WHERE t.{column} IS NULL OR t.{column} < EXCLUDED.{column}")
            .expect("a String takes it");
    }
    sql
}

/// `t."a" = u.c0::text AND ..`.
fn matching(key: &[&Planned]) -> String {
    let equal = |c: &&Planned| format!("t.{} = {}", quoted(&c.name), c.cast(&c.bare_type));
    key.iter().map(equal).collect::<Vec<_>>().join(" AND ")
}

/// Whether a column holds what is to be written, cut and rounded as the column does.
fn same_as_stored(column: &Planned) -> String {
    let (stored, given) = (format!("t.{}", quoted(&column.name)), column.cast(&column.full_type));
    match column.column_type {
        // These have no `=`.
        ColumnType::Json => format!("{stored}::jsonb IS NOT DISTINCT FROM {given}::jsonb"),
        ColumnType::Other | ColumnType::Array(_) => {
            format!("{stored}::text IS NOT DISTINCT FROM {given}::text")
        }
        _ => format!("{stored} IS NOT DISTINCT FROM {given}"),
    }
}

/// A column in the JSON of a row: bytes are base64, as they are written.
fn shown(column: &TableColumn) -> String {
    let name = quoted(&column.name);
    match column.column_type {
        ColumnType::Bytes => format!("translate(encode(t.{name}, 'base64'), E'\\n', '') AS {name}"),
        _ => format!("t.{name}"),
    }
}

/// A name as SQL takes it, whatever is in it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn names(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

fn fault(column: Option<&String>, message: String) -> SinkError {
    SinkError::Config { message, column: column.cloned() }
}
