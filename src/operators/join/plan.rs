//! Which kind of join the two sides make; and what cannot be joined, with what to write instead.

use super::config::{JoinConfig, JoinType};
use crate::model::Problem;
use crate::operators::table::{TableConfig, TableView};
use crate::operators::{NodePlan, ReadNode, Windowed};

/// The kinds of joins, as in the table of `join/mod.rs`.
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
    /// The join that a left and a right side make, each with its settings as a table if it is one; `None` where they cannot
    /// be joined.
    fn of(config: &JoinConfig, left: Option<&TableConfig>, right: Option<&TableConfig>) -> Option<JoinKind> {
        match (left, right) {
            (None, None) => Some(JoinKind::StreamStream),
            (None, Some(table)) if table.global => Some(JoinKind::StreamGlobal),
            (None, Some(_)) => Some(JoinKind::StreamTable),
            (Some(_), Some(table)) if table.global => None,
            (Some(_), Some(_)) if config.on.is_some() => Some(JoinKind::ForeignKey),
            (Some(_), Some(_)) => Some(JoinKind::TableTable),
            (Some(_), None) => None,
        }
    }

    /// Whether the right side is a second input, whose records trigger results.
    pub(super) fn right_triggers(self) -> bool {
        matches!(self, JoinKind::StreamStream | JoinKind::TableTable | JoinKind::ForeignKey)
    }

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

/// A join whose two sides are known.
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
}

impl JoinPlan {
    /// The join that the two sides make; `None` where they are not known yet, or cannot be joined.
    #[must_use]
    pub fn of(config: &JoinConfig, plan: &NodePlan) -> Option<JoinPlan> {
        let [left, right] = plan.sides?;
        let kind = JoinKind::of(config, left.as_ref(), right.as_ref())?;
        let view = |table: Option<TableConfig>| table.map(|table| table.view());
        Some(JoinPlan { kind, left: view(left), right: view(right), sends_changes: plan.sends_changes })
    }
}

impl JoinConfig {
    /// Everything that does not fit the two sides.
    pub(super) fn check_sides(&self, left: &ReadNode<'_>, right: &ReadNode<'_>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: String, help: String| {
            problems.push(Problem { code: "graph::join", ..Problem::setting(field, message, help) });
        };
        let Some(kind) = JoinKind::of(self, left.table, right.table) else {
            let (left, right_name) = (left.name, right.name);
            if right.table.is_some() {
                let message = format!("a table cannot be joined with the global table `{right_name}`");
                problem("with", message, format!("let `{right_name}` be a table: `table: {{}}`"));
            } else {
                let message = format!("`{left}` is a table and `{right_name}` a stream");
                let help = format!(
                    "turn it round (`from: {right_name}`, `with: {left}`), or read `{right_name}` as a table too"
                );
                problem("with", message, help);
            }
            return problems;
        };
        match (kind, self.within) {
            (JoinKind::StreamStream, None) => problem(
                "",
                "a join of two streams needs a window".into(),
                format!(
                    "add `within: {{ before: 5m, after: 5m }}`; or, if each record is to find what `{}` is now, read it \
                     as a table: `table: {{}}`",
                    right.name
                ),
            ),
            (JoinKind::StreamStream, Some(_)) | (_, None) => {}
            (_, Some(_)) => problem(
                "within",
                format!("only a join of two streams has a window, and `{}` is a table", right.name),
                "remove `within`".into(),
            ),
        }
        match (kind, &self.on) {
            (JoinKind::StreamStream, Some(on)) => problem(
                "on",
                "two streams are joined by their keys".into(),
                format!("remove `on`, and put a node `key_by: {}` before the join", on.text()),
            ),
            (JoinKind::StreamTable, Some(on)) => problem(
                "on",
                format!(
                    "`{}` is read by the stream's key, since each instance holds a part of it",
                    right.name
                ),
                format!(
                    "remove `on`, and put a node `key_by: {}` before the join; or read `{}` whole: `table: {{ global: true }}`",
                    on.text(),
                    right.name
                ),
            ),
            _ => {}
        }
        if self.kind == JoinType::Outer {
            let other = match kind {
                JoinKind::StreamTable | JoinKind::StreamGlobal => {
                    Some("a table's own changes send nothing: only the stream's records do")
                }
                JoinKind::ForeignKey => Some("a right row belongs to any number of left rows"),
                JoinKind::StreamStream | JoinKind::TableTable => None,
            };
            if let Some(why) = other {
                problem("type", format!("there is no such outer join: {why}"), "write `type: left`".into());
            }
        }
        if let Some(grace) = self.grace {
            let history = right.table.and_then(|table| table.versions);
            match (kind, history) {
                (JoinKind::StreamStream, _) => {}
                (JoinKind::StreamTable, Some(history)) if grace <= history => {}
                (JoinKind::StreamTable, Some(history)) => problem(
                    "grace",
                    format!("it is longer than the {history} for which `{}` keeps versions", right.name),
                    format!("write {history} or less, or keep versions for longer"),
                ),
                (JoinKind::StreamTable, None) => problem(
                    "grace",
                    format!("`{}` keeps no versions, so nothing is gained by waiting", right.name),
                    format!("read it with `table: {{ versions: {grace} }}` or more, or remove `grace`"),
                ),
                (JoinKind::StreamGlobal | JoinKind::TableTable | JoinKind::ForeignKey, _) => problem(
                    "grace",
                    "only a join with a window or with a versioned table waits".into(),
                    "remove `grace`".into(),
                ),
            }
        }
        if problems.is_empty()
            && let Some((message, help)) =
                never_meet(kind, [left.windowed, right.windowed], [left.name, right.name])
        {
            problems.push(Problem { code: "graph::join", ..Problem::setting("with", message, help) });
        }
        problems
    }
}

/// Rows and pairs are found by key and window: why two sides can never meet, and what to write instead.
fn never_meet(kind: JoinKind, sides: [Windowed; 2], names: [&str; 2]) -> Option<(String, String)> {
    let [left, right] = sides;
    let (windowed, plain) = match kind {
        // A windowed record finds the row of its plain key, too; a global table is read from a topic, which has no windows.
        JoinKind::StreamTable if right.always() && left.never() => (names[1], names[0]),
        JoinKind::StreamTable | JoinKind::StreamGlobal => return None,
        // A foreign key is a key alone, whatever the left side has.
        JoinKind::ForeignKey if right.always() => (names[1], names[0]),
        JoinKind::ForeignKey => return None,
        JoinKind::StreamStream | JoinKind::TableTable if right.always() && left.never() => {
            (names[1], names[0])
        }
        JoinKind::StreamStream | JoinKind::TableTable if left.always() && right.never() => {
            (names[0], names[1])
        }
        JoinKind::StreamStream | JoinKind::TableTable => return None,
    };
    let message = if kind == JoinKind::ForeignKey {
        format!(
            "the rows of `{windowed}` have a key and a window, and `on` gives a key alone: they never meet"
        )
    } else {
        format!(
            "each record of `{windowed}` has a key and a window, those of `{plain}` have no window: they never meet"
        )
    };
    let help = format!(
        "keep the newest window's result of each key: put `aggregate: {{ last: . }}` behind the windows of `{windowed}`; or \
         give both sides the same windows"
    );
    Some((message, help))
}
