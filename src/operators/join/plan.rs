//! Which kind of join the two sides make; and what cannot be joined, with what to write instead.

use super::config::{JoinConfig, JoinType};
use crate::model::Problem;
use crate::operators::table::{TableConfig, TableView};

/// See the table in `join/mod.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// Two streams.
    StreamStream,
    /// A stream and a table.
    StreamTable,
    /// A stream and a global table.
    StreamGlobal,
    /// Two tables, by their keys.
    TableTable,
    /// Two tables, the right one by a foreign key.
    ForeignKey,
}

impl JoinKind {
    /// What the rows of the join's own store depend on; `None` if it has no store.
    #[must_use]
    pub fn state_kind(self, config: &JoinConfig) -> Option<&'static str> {
        match self {
            JoinKind::StreamStream => Some("stream-stream join"),
            JoinKind::StreamTable if config.grace.is_some() => Some("stream-table join"),
            JoinKind::ForeignKey => Some("foreign-key join"),
            JoinKind::StreamTable | JoinKind::StreamGlobal | JoinKind::TableTable => None,
        }
    }
}

/// What the topology found out about a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinPlan {
    /// What it is.
    pub kind: JoinKind,
    /// How to read the left table, if it is one.
    pub left: Option<TableView>,
    /// How to read the right table, if it is one.
    pub right: Option<TableView>,
    /// Whether a node below asks for the previous result.
    pub sends_changes: bool,
    /// For a foreign key: whether the tables are in different partitions, and this is the left half.
    pub apart: bool,
}

impl JoinPlan {
    /// Whether the right side is a second input, whose records trigger results.
    #[must_use]
    pub fn right_triggers(&self) -> bool {
        matches!(self.kind, JoinKind::StreamStream | JoinKind::TableTable | JoinKind::ForeignKey)
    }

    /// What the rows of the join's own store depend on; `None` if it has no store.
    #[must_use]
    pub fn state_kind(&self, config: &JoinConfig) -> Option<&'static str> {
        if self.apart { Some("foreign-key join, left half") } else { self.kind.state_kind(config) }
    }

    /// Plans the join from its settings and its two sides, given by name and, if they are tables, settings.
    ///
    /// # Errors
    /// Everything that does not fit: field, message, help.
    pub fn new(
        config: &JoinConfig,
        left: (&str, Option<&TableConfig>),
        right: (&str, Option<&TableConfig>),
    ) -> Result<JoinPlan, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: String, help: String| {
            problems.push(Problem::setting(format!("join{field}"), message, help));
        };
        let kind = match (left.1, right.1) {
            (None, None) => JoinKind::StreamStream,
            (None, Some(table)) if table.global => JoinKind::StreamGlobal,
            (None, Some(_)) => JoinKind::StreamTable,
            (Some(_), Some(table)) if table.global => {
                let message = format!("a table cannot be joined with the global table `{}`", right.0);
                problem(".with", message, format!("let `{}` be a table: `table: {{}}`", right.0));
                return Err(problems);
            }
            (Some(_), Some(_)) if config.on.is_some() => JoinKind::ForeignKey,
            (Some(_), Some(_)) => JoinKind::TableTable,
            (Some(_), None) => {
                let message = format!("`{}` is a table and `{}` a stream", left.0, right.0);
                let help = format!(
                    "turn it round (`from: {}`, `with: {}`), or read `{}` as a table too",
                    right.0, left.0, right.0
                );
                problem(".with", message, help);
                return Err(problems);
            }
        };
        match (kind, config.within) {
            (JoinKind::StreamStream, None) => problem(
                "",
                "a join of two streams needs a window".into(),
                format!(
                    "add `within: {{ before: 5m, after: 5m }}`; or, if each record is to find what `{}` is now, read it \
                     as a table: `table: {{}}`",
                    right.0
                ),
            ),
            (JoinKind::StreamStream, Some(_)) | (_, None) => {}
            (_, Some(_)) => problem(
                ".within",
                format!("only a join of two streams has a window, and `{}` is a table", right.0),
                "remove `within`".into(),
            ),
        }
        match (kind, &config.on) {
            (JoinKind::StreamStream, Some(on)) => problem(
                ".on",
                "two streams are joined by their keys".into(),
                format!("remove `on`, and put a node `key_by: {}` before the join", on.text()),
            ),
            (JoinKind::StreamTable, Some(on)) => problem(
                ".on",
                format!("`{}` is read by the stream's key, since each instance holds a part of it", right.0),
                format!(
                    "remove `on`, and put a node `key_by: {}` before the join; or read `{}` whole: `table: {{ global: true }}`",
                    on.text(),
                    right.0
                ),
            ),
            _ => {}
        }
        if config.kind == JoinType::Outer {
            let other = match kind {
                JoinKind::StreamTable | JoinKind::StreamGlobal => {
                    Some("a table's own changes send nothing: only the stream's records do")
                }
                JoinKind::ForeignKey => Some("a right row belongs to any number of left rows"),
                JoinKind::StreamStream | JoinKind::TableTable => None,
            };
            if let Some(why) = other {
                problem(".type", format!("there is no such outer join: {why}"), "write `type: left`".into());
            }
        }
        if let Some(grace) = config.grace {
            let history = right.1.and_then(|table| table.versions);
            match (kind, history) {
                (JoinKind::StreamStream, _) => {}
                (JoinKind::StreamTable, Some(history)) if grace <= history => {}
                (JoinKind::StreamTable, Some(history)) => problem(
                    ".grace",
                    format!("it is longer than the {history} for which `{}` keeps versions", right.0),
                    format!("write {history} or less, or keep versions for longer"),
                ),
                (JoinKind::StreamTable, None) => problem(
                    ".grace",
                    format!("`{}` keeps no versions, so nothing is gained by waiting", right.0),
                    format!("read it with `table: {{ versions: {grace} }}` or more, or remove `grace`"),
                ),
                (JoinKind::StreamGlobal | JoinKind::TableTable | JoinKind::ForeignKey, _) => problem(
                    ".grace",
                    "only a join with a window or with a versioned table waits".into(),
                    "remove `grace`".into(),
                ),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let view = |table: Option<&TableConfig>| table.map(TableConfig::view);
        Ok(JoinPlan { kind, left: view(left.1), right: view(right.1), sends_changes: false, apart: false })
    }
}
