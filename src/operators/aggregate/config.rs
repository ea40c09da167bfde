//! Settings of `aggregate`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::fields::FieldsConfig;
use crate::model::{Expr, Json, Millis, Problem};
use crate::operators::key_by::check_key;
use crate::operators::settings::{Exprs, Sends, Windows};
use crate::operators::shared::describe::Described;
use crate::operators::shared::window::{WindowConfig, WindowKind};
use crate::operators::{KeyByConfig, NodeConfig, Operator, OperatorSettings, RegroupConfig};

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
    /// Does it read a table? Set by the topology.
    #[serde(skip)]
    pub over_table: bool,
    /// Over a table: the text of `by`, which the topology evaluates in front of this node. Set by the topology.
    #[serde(skip)]
    pub groups: String,
}

/// When results leave.
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

/// A result by expressions.
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

    /// The same in windows.
    #[must_use]
    pub fn window(self, window: WindowConfig) -> AggregateConfig {
        AggregateConfig { window: Some(window), ..self }
    }

    /// The same, one result per window.
    #[must_use]
    pub fn emit_final(self) -> AggregateConfig {
        AggregateConfig { emit: EmitConfig::Final, ..self }
    }

    /// Is the result's key another one than the record's? Then records of one key may lie in several partitions, and
    /// have to be brought together first.
    #[must_use]
    pub fn changes_key(&self) -> bool {
        self.by.as_ref().is_some_and(|by| !by.is_key())
    }

    /// Does its state grow for ever? Then it needs a changelog.
    #[must_use]
    pub fn is_unbounded(&self) -> bool {
        self.window.is_none()
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

    /// What is wrong with the settings: field, message, help.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.window.map_or_else(Vec::new, |w| w.check("aggregate.window"));
        problems.extend(self.by.iter().flat_map(|by| check_key("aggregate.by", by)));
        let mut problem = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(format!("aggregate{field}"), message, help));
        };
        match self.chosen().as_slice() {
            [] => problem(
                "",
                "nothing says what to compute",
                "add one aggregation, for example `count: {}`, `sum: .amount` or `fields: { orders: count() }`",
            ),
            [_] => {}
            [_, second, ..] => problem(
                &format!(".{second}"),
                "one aggregate has one aggregation",
                "for several results write `fields: { orders: count(), total: sum(.amount) }`",
            ),
        }
        let values = [
            (".sum", &self.sum),
            (".min", &self.min),
            (".max", &self.max),
            (".avg", &self.avg),
            (".first", &self.first),
            (".last", &self.last),
            (".distinct", &self.distinct),
            (".approx_distinct", &self.approx_distinct),
        ];
        for (field, value) in values {
            if value.as_ref().is_some_and(Expr::is_always_null) {
                problem(field, "it is always null, and null adds nothing", "write for example `.amount`");
            }
        }
        if self.emit == EmitConfig::Final && self.window.is_none() {
            problem(
                ".emit",
                "without a window there is no final result",
                "add `window: { tumbling: 1m }`, or write `emit: update`",
            );
        }
        if self.collect.as_ref().is_some_and(|c| c.max == 0) {
            problem(".collect.max", "a list of at most nothing", "write 1 or more");
        }
        if self.top.as_ref().is_some_and(|t| t.n == 0) {
            problem(".top.n", "the greatest none", "write 1 or more");
        }
        if let Some(fields) = &self.fields {
            if fields.0.is_empty() {
                problem(".fields", "no field", "write for example `fields: { orders: count() }`");
            }
            for (name, field) in &fields.0 {
                if name.is_empty() {
                    problem(
                        ".fields",
                        "a field has no name",
                        "write for example `fields: { orders: count() }`",
                    );
                }
                if field.limit == Some(0) {
                    let field = format!(".fields.{name}");
                    problem(&field, "at most nothing", "write 1 or more, such as `top(.amount, 3)`");
                }
            }
        }
        if self.subtract.is_some() && self.reduce.is_none() {
            problem(
                ".subtract",
                "it belongs to `reduce`, and there is none",
                "remove it; a `fold` has its own: `fold: { init: .., step: .., subtract: .. }`",
            );
        }
        let session =
            matches!(self.window.and_then(|w| w.kind()), Some(WindowKind::Session { gap }) if gap > 0);
        if session && self.fold.as_ref().is_some_and(|f| f.merge.is_none()) {
            problem(
                ".fold",
                "sessions that grow together need a `merge`",
                "add `merge: EXPRESSION`, which gives the result of `left` and `right`",
            );
        }
        let may_be_session = self.window.is_some_and(|w| w.session.is_some());
        if !may_be_session && self.fold.as_ref().is_some_and(|f| f.merge.is_some()) {
            problem(
                ".fold.merge",
                "only sessions grow together, and these are none",
                "remove it, or add `window: { session: 30m }`",
            );
        }
        problems
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

    /// What the state's rows depend on: the functions, and the windows without their grace. Expressions are not in it:
    /// rows can be read whatever computed them. Except over a table, where what is taken back is computed once more.
    #[must_use]
    pub fn state_shape(&self) -> String {
        let mut functions: Vec<String> = self.chosen().into_iter().map(String::from).collect();
        if let Some(fields) = &self.fields {
            functions = fields.0.iter().map(|(name, f)| format!("{name} {}", f.function.name())).collect();
        }
        let window = self.window.map(|w| WindowConfig { grace: None, ..w }.label());
        let over = window.map(|w| format!(" {w}")).unwrap_or_default();
        let what = format!("aggregate{over}: {}", functions.join(", "));
        if !self.over_table {
            return what;
        }
        let own = [&self.sum, &self.avg, &self.reduce, &self.subtract].into_iter().flatten();
        let fold = self.fold.iter().flat_map(|f| std::iter::once(&f.step).chain(&f.subtract));
        let fields = self.fields.iter().flat_map(|f| &f.0).filter_map(|(_, f)| f.of.as_ref());
        let texts: Vec<String> = own
            .chain(fold)
            .chain(fields)
            .map(|e| e.text().split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        format!("{what} over a table by {} ({})", self.groups, texts.join(", "))
    }

    /// How long after a window's end a `suppress` below holds its result; `None` without windows.
    #[must_use]
    pub fn suppress_grace(&self) -> Option<Millis> {
        self.window.map(|w| w.suppress_grace())
    }
}

impl OperatorSettings for Box<AggregateConfig> {
    fn build(&self) -> Box<dyn Operator> {
        super::build(self)
    }
    fn state_kind(&self, kind: &'static str) -> Option<&'static str> {
        Some(kind)
    }
    fn state_shape(&self) -> Option<String> {
        Some(AggregateConfig::state_shape(self))
    }
    fn key_expr(&self) -> Option<String> {
        let by = self.by.as_ref().filter(|_| AggregateConfig::changes_key(self));
        by.map(|by| by.text().to_owned())
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    fn regroups_mut(&mut self) -> Option<&mut Expr> {
        self.by.as_mut()
    }
    fn regroup(&mut self, by: Expr) -> (NodeConfig, &'static str) {
        let node = match self.over_table {
            true => NodeConfig::Regroup(RegroupConfig(by)),
            false => NodeConfig::KeyBy(KeyByConfig(by)),
        };
        (node, "key")
    }
    fn takes_changes(&self) -> bool {
        self.over_table
    }
    fn holds_records(&self) -> bool {
        self.emit == EmitConfig::Final
    }
    fn sends(&self) -> Sends {
        Sends::Stream
    }
    fn windows(&self) -> Windows {
        if self.window.is_some() { Windows::Always } else { Windows::Never }
    }
    fn describe(&self, key: &[u8], value: &[u8]) -> Option<Described> {
        self.describe_row(key, value)
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        AggregateConfig::exprs_mut(self)
    }
    fn check(&self) -> Vec<Problem> {
        AggregateConfig::check(self)
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
        check(json!({}), &["aggregate"]);
        check(json!({ "sum": ".a", "min": ".a" }), &["aggregate.min"]);
        check(json!({ "count": {}, "emit": "final" }), &["aggregate.emit"]);
        check(json!({ "sum": "null" }), &["aggregate.sum"]);
        check(json!({ "count": {}, "window": { "grace": "1s" } }), &["aggregate.window.grace"]);
        check(json!({ "count": {}, "window": { "tumbling": "0s" } }), &["aggregate.window.tumbling"]);
        check(json!({ "collect": { "of": ".a", "max": 0 } }), &["aggregate.collect.max"]);
        check(json!({ "top": { "of": ".a", "n": 0 } }), &["aggregate.top.n"]);
        check(json!({ "fields": {} }), &["aggregate.fields"]);
        check(json!({ "fields": { "a": "top(.a, 0)" } }), &["aggregate.fields.a"]);
        check(json!({ "fields": { "": "count()" } }), &["aggregate.fields"]);
        let fold = json!({ "init": 0, "step": ".a" });
        check(json!({ "fold": fold, "window": { "session": "1m" } }), &["aggregate.fold"]);
        check(json!({ "fold": fold, "window": { "tumbling": "1m" } }), &[]);
        let merged = json!({ "init": 0, "step": ".a", "merge": ".b" });
        check(json!({ "fold": merged }), &["aggregate.fold.merge"]);
        check(json!({ "fold": merged, "window": { "tumbling": "1m" } }), &["aggregate.fold.merge"]);
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
        assert!(!check(json!({ "count": {} }), &[]).changes_key());
        assert!(!check(json!({ "count": {}, "by": " key" }), &[]).changes_key());
        assert!(check(json!({ "count": {}, "by": ".user" }), &[]).changes_key());
    }

    #[test]
    fn the_shape_of_state_is_what_its_rows_depend_on() {
        let shape = |json: serde_json::Value| check(json, &[]).state_shape();
        assert_eq!(shape(json!({ "count": {} })), "aggregate: count");
        assert_eq!(shape(json!({ "sum": ".b" })), shape(json!({ "sum": ".a" })), "expressions may change");
        let window = json!({ "hopping": "5m", "every": "1m", "grace": "10s" });
        let fields = json!({ "n": "count()", "most": "top(.a, 3)" });
        assert_eq!(
            shape(json!({ "fields": fields, "window": window, "emit": "final" })),
            "aggregate hopping 5m every 1m: n count, most top"
        );
        let fields = json!({ "n": "count()", "total": "sum(.a)" });
        let over = AggregateConfig {
            over_table: true,
            groups: ".city".into(),
            ..check(json!({ "fields": fields }), &[])
        };
        assert_eq!(over.state_shape(), "aggregate: n count, total sum over a table by .city (.a)");
    }

    #[test]
    fn labels_are_short() {
        let window = json!({ "hopping": "5m", "every": "1m", "grace": "10s" });
        let config = check(json!({ "count": {}, "by": ".a", "window": window, "emit": "final" }), &[]);
        assert_eq!(config.label(), "count, by .a, hopping 5m every 1m + 10s, final");
        assert_eq!(config.suppress_grace(), Some(Millis::secs(10)));
    }
}
