//! Settings of `aggregate`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::fields::{FieldFunction, FieldsConfig};
use crate::expressions::{Kind, Typing, object};
use crate::model::{Expr, Json, Problem, Types};
use crate::operators::key_by::check_key;
use crate::operators::settings::{Exprs, Sends, Windows};
use crate::operators::shared::describe::Described;
use crate::operators::shared::window::{WindowConfig, WindowKind};
use crate::operators::{
    KeyByConfig, MovedBy, NodeConfig, NodePlan, Operator, OperatorSettings, ReadNode, Reads, RegroupConfig,
    Timing,
};

/// One result per key, or per key and window, from all its records. Give exactly one aggregation. An expression that
/// gives `null` adds nothing; `count`, `reduce` and `fold` see every record.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AggregateConfig {
    /// The key to group by; it becomes the result's key. Default: the record's own key.
    #[serde(default)]
    pub by: Option<Expr>,
    /// Which records belong together in time. Default: all of a key, for ever.
    #[serde(default)]
    pub window: Option<WindowConfig>,
    /// `update` (default): the new result after every record; `final`: one result per window, when it is closed.
    #[serde(default)]
    pub emit: EmitConfig,
    /// How many records.
    #[serde(default)]
    pub count: Option<CountConfig>,
    /// The sum of numbers: whole while all are whole and it fits 64 bits, else a float. A record that would take it beyond
    /// the greatest float is refused.
    #[serde(default)]
    pub sum: Option<Expr>,
    /// The least number or text (numbers come before texts).
    #[serde(default)]
    pub min: Option<Expr>,
    /// The greatest number or text.
    #[serde(default)]
    pub max: Option<Expr>,
    /// The mean of numbers, a float. What holds for a `sum` holds for theirs.
    #[serde(default)]
    pub avg: Option<Expr>,
    /// The first value, in the order of arrival.
    #[serde(default)]
    pub first: Option<Expr>,
    /// The last value, in the order of arrival.
    #[serde(default)]
    pub last: Option<Expr>,
    /// A list of values, in the order of arrival.
    #[serde(default)]
    pub collect: Option<CollectConfig>,
    /// The greatest values, greatest first.
    #[serde(default)]
    pub top: Option<TopConfig>,
    /// How many different values. Exact: it keeps each of them.
    #[serde(default)]
    pub distinct: Option<Expr>,
    /// How many different values, about: 1.6 % standard error, as good as exact up to a few hundred. It keeps at most
    /// 4 KiB (HyperLogLog).
    #[serde(default)]
    pub approx_distinct: Option<Expr>,
    /// The result so far (`acc`) and the record (`.`) to the new result; the first record's value is taken as it is.
    /// Sessions are merged by it too, the later one as `.`.
    #[serde(default)]
    pub reduce: Option<Expr>,
    /// With `reduce` over a table, needed there: the result without a row that is replaced or deleted, from `acc` and the
    /// old row (`.`). `null` removes the key's result.
    #[serde(default)]
    pub subtract: Option<Expr>,
    /// A result of any shape, by expressions of your own.
    #[serde(default)]
    pub fold: Option<FoldConfig>,
    /// Several results as one object: name to `count()`, `sum(.amount)`, `min(..)`, `max(..)`, `avg(..)`, `first(..)`,
    /// `last(..)`, `distinct(..)`, `approx_distinct(..)`, `collect(.x)` or `collect(.x, 50)`, `top(.x, 3)`. Between braces
    /// what has a comma needs quotes: `{ best: 'top(.x, 3)' }`.
    #[serde(default)]
    pub fields: Option<FieldsConfig>,
}

/// When results are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EmitConfig {
    /// The new result after every record.
    #[default]
    Update,
    /// One result per window, when it is closed.
    Final,
}

/// No settings: `count: {}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CountConfig {}

/// A bounded list.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectConfig {
    /// The value of each record.
    pub of: Expr,
    /// Values in one list; further ones are left out and counted (`full`). Default 100.
    #[serde(default = "CollectConfig::default_max")]
    pub max: u32,
}

impl CollectConfig {
    pub(super) fn default_max() -> u32 {
        100
    }
}

/// The greatest `n`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopConfig {
    /// The value of each record: a number or text.
    pub of: Expr,
    /// How many are kept; equal ones count each.
    pub n: u32,
}

/// A result computed by expressions.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FoldConfig {
    /// The result before the first record: JSON.
    pub init: Json,
    /// The new result from `acc` and the record (`.`). `null` removes the key's result.
    pub step: Expr,
    /// For sessions, and needed there: the result of two sessions that became one, from `left` (the earlier) and
    /// `right`.
    #[serde(default)]
    pub merge: Option<Expr>,
    /// The result without a row that is replaced or deleted, from `acc` and the old row (`.`): for an input that is a
    /// table.
    #[serde(default)]
    pub subtract: Option<Expr>,
}

impl AggregateConfig {
    /// Counts records. For the Rust DSL.
    #[must_use]
    pub fn count() -> AggregateConfig {
        AggregateConfig { count: Some(CountConfig {}), ..AggregateConfig::default() }
    }

    /// The same, in windows.
    #[must_use]
    pub fn window(self, window: WindowConfig) -> AggregateConfig {
        AggregateConfig { window: Some(window), ..self }
    }

    pub(super) fn chosen(&self) -> Vec<&'static str> {
        let set = [
            ("count", self.count.is_some()),
            ("sum", self.sum.is_some()),
            ("min", self.min.is_some()),
            ("max", self.max.is_some()),
            ("avg", self.avg.is_some()),
            ("first", self.first.is_some()),
            ("last", self.last.is_some()),
            ("collect", self.collect.is_some()),
            ("top", self.top.is_some()),
            ("distinct", self.distinct.is_some()),
            ("approx_distinct", self.approx_distinct.is_some()),
            ("reduce", self.reduce.is_some()),
            ("fold", self.fold.is_some()),
            ("fields", self.fields.is_some()),
        ];
        set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
    }

    /// The expressions, each with the names it may use besides the record's.
    pub fn exprs_mut(&mut self) -> Vec<(&mut Expr, &'static [&'static str])> {
        let single = [
            &mut self.by,
            &mut self.sum,
            &mut self.min,
            &mut self.max,
            &mut self.avg,
            &mut self.first,
            &mut self.last,
            &mut self.distinct,
            &mut self.approx_distinct,
        ];
        let none: &'static [&'static str] = &[];
        let mut out: Vec<(&mut Expr, _)> = single.into_iter().flatten().map(|e| (e, none)).collect();
        out.extend(self.collect.as_mut().map(|c| (&mut c.of, none)));
        out.extend(self.top.as_mut().map(|t| (&mut t.of, none)));
        out.extend(self.reduce.iter_mut().chain(&mut self.subtract).map(|e| (e, &["acc"] as &[&str])));
        if let Some(fold) = &mut self.fold {
            out.push((&mut fold.step, &["acc"]));
            out.extend(fold.merge.as_mut().map(|e| (e, &["left", "right"] as &[&str])));
            out.extend(fold.subtract.as_mut().map(|e| (e, &["acc"] as &[&str])));
        }
        if let Some(fields) = &mut self.fields {
            out.extend(fields.0.iter_mut().filter_map(|(_, f)| f.of.as_mut()).map(|e| (e, none)));
        }
        out
    }

    /// Compiles the expressions; the kind of the results.
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        // Where sessions are merged, `.` is a result too.
        let session = matches!(self.window.and_then(|w| w.kind()), Some(WindowKind::Session { .. }));
        let merges = session && self.reduce.is_some();
        for (expr, vars) in self.exprs_mut() {
            let of_record = vars.is_empty() || *vars == ["acc"] && !merges;
            let value = if of_record { typing.value.clone() } else { Kind::any() };
            typing.compile_for(expr, vars, &value);
        }
        let number = Types::INTEGER.or(Types::FLOAT);
        let ordered = number.or(Types::STRING);
        let mut demands = vec![
            ("a sum", self.sum.as_ref(), number),
            ("an average", self.avg.as_ref(), number),
            ("a least value", self.min.as_ref(), ordered),
            ("a greatest value", self.max.as_ref(), ordered),
            ("a greatest value", self.top.as_ref().map(|top| &top.of), ordered),
        ];
        demands.extend(self.fields.iter().flat_map(|fields| &fields.0).filter_map(|(_, field)| {
            let (what, types) = match field.function {
                FieldFunction::Sum => ("a sum", number),
                FieldFunction::Avg => ("an average", number),
                FieldFunction::Min => ("a least value", ordered),
                FieldFunction::Max | FieldFunction::Top => ("a greatest value", ordered),
                _ => return None,
            };
            Some((what, field.of.as_ref(), types))
        }));
        for (what, expr, types) in demands {
            if let Some(expr) = expr {
                typing.demand(expr, types, what);
            }
        }
        if self.count.is_some() {
            return Kind::integer();
        }
        let Some(fields) = &self.fields else { return Kind::any() };
        let kind = |function: FieldFunction| match function {
            FieldFunction::Count => Kind::integer(),
            _ => Kind::any(),
        };
        object(fields.0.iter().map(|(name, field)| (name.as_str().into(), kind(field.function))).collect())
    }

    /// For graphs: `count, tumbling 1m + 10s, final`.
    #[must_use]
    pub fn label(&self) -> String {
        let mut parts: Vec<String> = self.chosen().into_iter().map(String::from).collect();
        parts.extend(self.by.as_ref().map(|by| format!("by {}", by.text())));
        parts.extend(self.window.map(|w| w.label()));
        if self.emit == EmitConfig::Final {
            parts.push("final".into());
        }
        parts.join(", ")
    }

    /// What the rows of the state depend on: the functions, and the windows without their grace. Rows do not depend on
    /// the expressions that computed them, except over a table: there the value that is taken back is computed again.
    fn shape(&self, plan: &NodePlan) -> String {
        let mut functions: Vec<String> = self.chosen().into_iter().map(String::from).collect();
        if let Some(fields) = &self.fields {
            functions = fields.0.iter().map(|(name, f)| format!("{name} {}", f.function.name())).collect();
        }
        let window = self.window.map(|w| WindowConfig { grace: None, ..w }.label());
        let over = window.map(|w| format!(" {w}")).unwrap_or_default();
        let what = format!("aggregate{over}: {}", functions.join(", "));
        if !plan.over_tables {
            return what;
        }
        let by = plan.grouped_by.as_deref().or(self.by.as_ref().map(|by| by.text().trim()));
        let own = [&self.sum, &self.avg, &self.reduce, &self.subtract].into_iter().flatten();
        let fold = self.fold.iter().flat_map(|f| std::iter::once(&f.step).chain(&f.subtract));
        let fields = self.fields.iter().flat_map(|f| &f.0).filter_map(|(_, f)| f.of.as_ref());
        let texts: Vec<String> = own
            .chain(fold)
            .chain(fields)
            .map(|e| e.text().split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        format!("{what} over a table by {} ({})", by.unwrap_or("key"), texts.join(", "))
    }
}

impl OperatorSettings for AggregateConfig {
    fn build(&self, plan: &NodePlan) -> Box<dyn Operator> {
        super::build(self, plan.over_tables)
    }
    fn state_kind(&self, kind: &'static str, _: &NodePlan) -> Option<&'static str> {
        Some(kind)
    }
    fn state_shape(&self, plan: &NodePlan) -> Option<String> {
        Some(self.shape(plan))
    }
    fn key_expr(&self) -> Option<String> {
        self.by.as_ref().filter(|by| !by.is_key()).map(|by| by.text().to_owned())
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    fn regroups_mut(&mut self) -> Option<&mut Expr> {
        self.by.as_mut()
    }
    fn regroup(&self, by: Expr, plan: &NodePlan) -> (NodeConfig, &'static str) {
        let node = match plan.over_tables {
            true => NodeConfig::Regroup(RegroupConfig(by)),
            false => NodeConfig::KeyBy(KeyByConfig(by)),
        };
        (node, "key")
    }
    fn takes_changes(&self, plan: &NodePlan) -> bool {
        plan.over_tables
    }
    fn timing(&self, _: &NodePlan) -> Timing {
        let kind = self.window.and_then(|w| w.kind());
        let moved_by = match kind {
            Some(WindowKind::Sliding { .. }) => MovedBy::KeyedValues,
            _ => MovedBy::Keyed,
        };
        Timing { refuses_late: kind.is_some(), moved_by, ..Timing::default() }
    }
    fn holds_records(&self, _: &NodePlan) -> bool {
        self.emit == EmitConfig::Final
    }
    fn sends(&self, _: &NodePlan) -> Sends {
        Sends::Stream
    }
    fn windows(&self) -> Windows {
        self.window.map_or(Windows::Never, |w| Windows::Always { grace: w.suppress_grace() })
    }
    fn describe(&self, key: &[u8], value: &[u8], _: &NodePlan) -> Option<Described> {
        self.describe_row(key, value)
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        AggregateConfig::exprs_mut(self)
    }
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        AggregateConfig::compile(self, typing)
    }
    /// A table's rows are added and taken back, a stream's records only added.
    fn check_reads(&self, reads: &Reads<'_>) -> Vec<Problem> {
        let problem = |field: &str, message: String, help: String| {
            vec![Problem { code: "graph::aggregate", ..Problem::setting(field, message, help) }]
        };
        let of = |tables: bool| reads.from.iter().find(move |read| read.table.is_some() == tables);
        match (of(false), of(true)) {
            (None, None) => Vec::new(),
            (Some(_), None) => {
                let field = match (&self.subtract, &self.fold) {
                    (Some(_), _) => "subtract",
                    (_, Some(fold)) if fold.subtract.is_some() => "fold.subtract",
                    _ => return Vec::new(),
                };
                problem(
                    field,
                    "nothing is ever taken back: what it reads is a stream".into(),
                    "remove it; or read a table: a source with `table: {}`, or an operator `table: {}`"
                        .into(),
                )
            }
            (Some(ReadNode { name: stream, .. }), Some(ReadNode { name: table, .. })) => problem(
                "from",
                format!(
                    "`{table}` is a table and `{stream}` a stream: rows are added and taken back, records only added"
                ),
                format!(
                    "aggregate them apart, or read the table's changes as records through a node such as \
                     `{table}-changes: {{ from: {table}, filter: \"true\" }}`"
                ),
            ),
            (None, Some(_)) => self.check_over_table(),
        }
    }
    fn check(&self) -> Vec<Problem> {
        let mut problems = self.window.map_or_else(Vec::new, |w| w.check("window"));
        problems.extend(self.by.iter().flat_map(|by| check_key("by", by)));
        let mut problem = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        match self.chosen().as_slice() {
            [] => problem(
                "",
                "nothing says what to compute",
                "add one aggregation, for example `count: {}`, `sum: .amount` or `fields: { orders: count() }`",
            ),
            [_] => {}
            [_, second, ..] => problem(
                second,
                "one aggregate has one aggregation",
                "for several results write `fields: { orders: count(), total: sum(.amount) }`",
            ),
        }
        let values = [
            ("sum", &self.sum),
            ("min", &self.min),
            ("max", &self.max),
            ("avg", &self.avg),
            ("first", &self.first),
            ("last", &self.last),
            ("distinct", &self.distinct),
            ("approx_distinct", &self.approx_distinct),
        ];
        for (field, value) in values {
            if value.as_ref().is_some_and(Expr::is_always_null) {
                problem(field, "it is always null, and null adds nothing", "write for example `.amount`");
            }
        }
        if self.emit == EmitConfig::Final && self.window.is_none() {
            problem(
                "emit",
                "without a window there is no final result",
                "add `window: { tumbling: 1m }`, or write `emit: update`",
            );
        }
        if self.collect.as_ref().is_some_and(|c| c.max == 0) {
            problem("collect.max", "a list of at most nothing", "write 1 or more");
        }
        if self.top.as_ref().is_some_and(|t| t.n == 0) {
            problem("top.n", "the greatest none", "write 1 or more");
        }
        if let Some(fields) = &self.fields {
            if fields.0.is_empty() {
                problem("fields", "no field", "write for example `fields: { orders: count() }`");
            }
            for (name, field) in &fields.0 {
                if name.is_empty() {
                    problem(
                        "fields",
                        "a field has no name",
                        "write for example `fields: { orders: count() }`",
                    );
                }
                if field.limit == Some(0) {
                    let field = format!("fields.{name}");
                    problem(&field, "at most nothing", "write 1 or more, such as `top(.amount, 3)`");
                }
            }
        }
        if self.subtract.is_some() && self.reduce.is_none() {
            problem(
                "subtract",
                "it belongs to `reduce`, and there is none",
                "remove it; a `fold` has its own: `fold: { init: .., step: .., subtract: .. }`",
            );
        }
        let session =
            matches!(self.window.and_then(|w| w.kind()), Some(WindowKind::Session { gap }) if gap > 0);
        if session && self.fold.as_ref().is_some_and(|f| f.merge.is_none()) {
            problem(
                "fold",
                "sessions that grow together need a `merge`",
                "add `merge: EXPRESSION`, which gives the result of `left` and `right`",
            );
        }
        let may_be_session = self.window.is_some_and(|w| w.session.is_some());
        if !may_be_session && self.fold.as_ref().is_some_and(|f| f.merge.is_some()) {
            problem(
                "fold.merge",
                "only sessions grow together, and these are none",
                "remove it, or add `window: { session: 30m }`",
            );
        }
        problems
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", AggregateConfig::label(self))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::rig;
    use super::*;
    use crate::model::Millis;

    fn check(json: serde_json::Value, want: &[&str]) -> AggregateConfig {
        let config = rig::config(json).unwrap();
        let got: Vec<_> = config.check().into_iter().map(|p| p.field).collect();
        assert_eq!(got, want, "{config:?}");
        config
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        check(json!({ "count": {} }), &[]);
        check(json!({ "sum": ".a", "window": { "tumbling": "1m" }, "emit": "final" }), &[]);
        check(json!({}), &[""]);
        check(json!({ "sum": ".a", "min": ".a" }), &["min"]);
        check(json!({ "count": {}, "emit": "final" }), &["emit"]);
        check(json!({ "sum": "null" }), &["sum"]);
        check(json!({ "count": {}, "window": { "grace": "1s" } }), &["window.grace"]);
        check(json!({ "count": {}, "window": { "tumbling": "0s" } }), &["window.tumbling"]);
        check(json!({ "collect": { "of": ".a", "max": 0 } }), &["collect.max"]);
        check(json!({ "top": { "of": ".a", "n": 0 } }), &["top.n"]);
        check(json!({ "fields": {} }), &["fields"]);
        check(json!({ "fields": { "a": "top(.a, 0)" } }), &["fields.a"]);
        check(json!({ "fields": { "": "count()" } }), &["fields"]);
        let fold = json!({ "init": 0, "step": ".a" });
        check(json!({ "fold": fold, "window": { "session": "1m" } }), &["fold"]);
        check(json!({ "fold": fold, "window": { "tumbling": "1m" } }), &[]);
        let merged = json!({ "init": 0, "step": ".a", "merge": ".b" });
        check(json!({ "fold": merged }), &["fold.merge"]);
        check(json!({ "fold": merged, "window": { "tumbling": "1m" } }), &["fold.merge"]);
        let fold = json!({ "init": 0, "step": ".a", "merge": ".b", "subtract": ".c" });
        let mut fold = check(json!({ "fold": fold, "window": { "session": "1m" } }), &[]);
        let vars: Vec<_> = fold.exprs_mut().into_iter().map(|(e, v)| (e.text().to_owned(), v)).collect();
        let want: [(String, &[&str]); 3] =
            [(".a".into(), &["acc"]), (".b".into(), &["left", "right"]), (".c".into(), &["acc"])];
        assert_eq!(vars, want);
        for bad in [json!({ "count": 1 }), json!({ "counts": {} }), json!({ "top": { "of": ".a" } })] {
            assert!(rig::config(bad).is_err());
        }
    }

    #[test]
    fn only_another_key_than_the_record_s_is_a_change_of_key() {
        let key = |json: serde_json::Value| check(json, &[]).key_expr();
        assert_eq!(key(json!({ "count": {} })), None);
        assert_eq!(key(json!({ "count": {}, "by": " key" })), None);
        assert_eq!(key(json!({ "count": {}, "by": ".user" })).as_deref(), Some(".user"));
    }

    #[test]
    fn the_shape_of_state_is_what_its_rows_depend_on() {
        let shape = |json: serde_json::Value| check(json, &[]).shape(&NodePlan::default());
        assert_eq!(shape(json!({ "count": {} })), "aggregate: count");
        assert_eq!(shape(json!({ "sum": ".b" })), shape(json!({ "sum": ".a" })), "expressions may change");
        let window = json!({ "hopping": "5m", "every": "1m", "grace": "10s" });
        let fields = json!({ "n": "count()", "most": "top(.a, 3)" });
        assert_eq!(
            shape(json!({ "fields": fields, "window": window, "emit": "final" })),
            "aggregate hopping 5m every 1m: n count, most top"
        );
        let fields = json!({ "n": "count()", "total": "sum(.a)" });
        let over = NodePlan { over_tables: true, grouped_by: Some(".city".into()), ..NodePlan::default() };
        assert_eq!(
            check(json!({ "fields": fields }), &[]).shape(&over),
            "aggregate: n count, total sum over a table by .city (.a)"
        );
    }

    #[test]
    fn labels_are_short() {
        let window = json!({ "hopping": "5m", "every": "1m", "grace": "10s" });
        let config = check(json!({ "count": {}, "by": ".a", "window": window, "emit": "final" }), &[]);
        assert_eq!(config.label(), "count, by .a, hopping 5m every 1m + 10s, final");
        assert_eq!(config.windows(), Windows::Always { grace: Millis::secs(10) });
    }
}
