//! Settings of `debounce`.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::Deserialize;

use super::table::Rule;
use crate::expressions::{Kind, Typing};
use crate::model::{Expr, Millis, Problem};
use crate::operators::settings::{Exprs, Sends, Windows};
use crate::operators::shared::describe::Described;
use crate::operators::{NodePlan, Operator, OperatorSettings, OwnMetrics, Timing};

/// Gathers the events of each key and sends one record when the key has gone quiet. Give `quiet` or `settle`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DebounceConfig {
    /// Fires when the key had no event for this long, counted from its last one. No default: this or `settle`.
    #[serde(default)]
    pub quiet: Option<Millis>,
    /// Fires this long after the key's first event, whatever comes after. No default: this or `quiet`.
    #[serde(default)]
    pub settle: Option<Millis>,
    /// With `quiet`: fires at the latest this long after the key's first event. Default: none, a key that never goes
    /// quiet never fires.
    #[serde(default)]
    pub max_wait: Option<Millis>,
    /// With `max_wait`: a key that fires before it is quiet keeps what it has, and fires once more when it has gone
    /// quiet, with a `slackwater-count` of 0; if new events come first, those fire instead. For readers of state that
    /// takes `quiet` to settle. Only with `keep: last` or `first`. Default false.
    #[serde(default)]
    pub trailing: bool,
    /// What becomes of the values: `last` (default), `first`, `all` (a list of them), or `{ merge: EXPRESSION }`,
    /// which gives the new value from `acc`, the value so far, and `.`, the event's; the first event's is taken as it
    /// is.
    #[serde(default)]
    pub keep: KeepConfig,
    /// With `keep: all`: events in one list; at this, further events of the key are refused until it has fired.
    /// Default 1000.
    #[serde(default)]
    pub max_items: Option<NonZeroU32>,
}

/// What becomes of the values of a key's events.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeepConfig {
    /// The last event's value.
    #[default]
    Last,
    /// The first event's value.
    First,
    /// A list of all values, in order. Each must be JSON.
    All,
    /// The result of this expression over `acc`, the value so far, and `.`, the event's value.
    Merge(Expr),
}

impl DebounceConfig {
    /// Events in one list, where `max_items` is not given.
    pub const MAX_ITEMS: u32 = 1000;

    /// What the rows of pending keys depend on: how an event is added to an entry. Times may change.
    #[must_use]
    pub fn state_shape(&self) -> &'static str {
        match self.keep {
            KeepConfig::Last | KeepConfig::First => "debounce",
            KeepConfig::All => "debounce all",
            KeepConfig::Merge(_) => "debounce merge",
        }
    }

    /// `quiet` alone; the rest as by default. For the Rust DSL.
    #[must_use]
    pub fn quiet(quiet: Millis) -> DebounceConfig {
        DebounceConfig {
            quiet: Some(quiet),
            settle: None,
            max_wait: None,
            trailing: false,
            keep: KeepConfig::Last,
            max_items: None,
        }
    }

    /// The expressions, each with the names it may use besides the record's.
    pub fn exprs_mut(&mut self) -> Vec<(&mut Expr, &'static [&'static str])> {
        match &mut self.keep {
            KeepConfig::Merge(expr) => vec![(expr, &["acc"])],
            KeepConfig::Last | KeepConfig::First | KeepConfig::All => Vec::new(),
        }
    }

    /// For graphs: `30s, at most 5m`.
    #[must_use]
    pub fn label(&self) -> String {
        match (self.quiet, self.settle, self.max_wait) {
            (Some(quiet), _, Some(max_wait)) => format!("{quiet}, at most {max_wait}"),
            (Some(quiet), _, None) => quiet.to_string(),
            (None, Some(settle), _) => format!("settle {settle}"),
            (None, None, _) => String::new(),
        }
    }

    pub(super) fn rule(&self) -> Rule {
        match (self.settle, self.quiet) {
            (Some(settle), _) => Rule::Settle { settle: settle.0 },
            (None, quiet) => {
                Rule::Quiet { quiet: quiet.unwrap_or_default().0, max_wait: self.max_wait.map(|wait| wait.0) }
            }
        }
    }
}

impl OperatorSettings for DebounceConfig {
    fn build(&self, plan: &NodePlan) -> Box<dyn Operator> {
        let mut debounce = super::Debounce::new(self);
        if plan.replayed {
            debounce.track_origins();
        }
        Box::new(debounce)
    }
    fn timing(&self, _: &NodePlan) -> Timing {
        Timing { time_first: true, ..Timing::default() }
    }
    fn state_kind(&self, kind: &'static str, _: &NodePlan) -> Option<&'static str> {
        Some(kind)
    }
    fn state_shape(&self, _: &NodePlan) -> Option<String> {
        Some(self.state_shape().to_owned())
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    fn unbounded(&self) -> Option<&'static str> {
        (self.max_wait.is_none() && self.settle.is_none()).then_some(
            "add `max_wait`: it bounds how long a key that never goes quiet holds the committed offset back",
        )
    }
    fn holds_records(&self, _: &NodePlan) -> bool {
        true
    }
    fn sends(&self, _: &NodePlan) -> Sends {
        Sends::Stream
    }
    fn windows(&self) -> Windows {
        Windows::Unknown
    }
    fn describe(&self, key: &[u8], value: &[u8], _: &NodePlan) -> Option<Described> {
        self.describe_row(key, value)
    }
    fn metrics(&self) -> OwnMetrics {
        super::METRICS
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        self.exprs_mut()
    }
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        for (expr, vars) in self.exprs_mut() {
            typing.compile(expr, vars);
        }
        match self.keep {
            KeepConfig::Last | KeepConfig::First => typing.value.clone(),
            KeepConfig::All | KeepConfig::Merge(_) => Kind::any(),
        }
    }
    fn waits_mut(&mut self) -> Vec<(&'static str, &mut Millis)> {
        let times =
            [("quiet", &mut self.quiet), ("settle", &mut self.settle), ("max_wait", &mut self.max_wait)];
        times.into_iter().filter_map(|(name, time)| Some((name, time.as_mut()?))).collect()
    }
    fn waits(&self) -> Millis {
        self.quiet.or(self.settle).unwrap_or_default()
    }
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        match (self.quiet, self.settle) {
            (None, None) => {
                problem(
                    "",
                    "nothing says when it fires",
                    "write `debounce: { quiet: 30s }` or `debounce: { settle: 30s }`",
                );
            }
            (Some(_), Some(_)) => problem(
                "settle",
                "`quiet` and `settle` exclude each other",
                "keep `quiet` to wait until the key has gone quiet, `settle` to wait a fixed time",
            ),
            _ => {}
        }
        for (name, span) in [("quiet", self.quiet), ("settle", self.settle)] {
            if span.is_some_and(|s| s <= Millis::ZERO) {
                let message = format!("`{name}` must be longer than nothing");
                problem(name, &message, "write a time such as `30s`");
            }
        }
        if let Some(max_wait) = self.max_wait {
            if self.settle.is_some() {
                problem(
                    "max_wait",
                    "`settle` has no `max_wait`: it fires at a fixed time",
                    "remove `max_wait`",
                );
            } else if let Some(quiet) = self.quiet.filter(|quiet| max_wait < *quiet) {
                problem(
                    "max_wait",
                    "`max_wait` is shorter than `quiet`",
                    &format!("write {quiet} or more, or `settle: {max_wait}` if that is what you want"),
                );
            }
        }
        if self.trailing && (self.max_wait.is_none() || self.settle.is_some()) {
            problem(
                "trailing",
                "`trailing` follows a firing by `max_wait`, and there is none",
                "add `max_wait`",
            );
        } else if self.trailing && !matches!(self.keep, KeepConfig::Last | KeepConfig::First) {
            problem(
                "trailing",
                "`trailing` would send events of a list or a merge twice",
                "remove it, or write `keep: last`",
            );
        }
        if self.max_items.is_some() && self.keep != KeepConfig::All {
            problem("max_items", "only `keep: all` has items", "remove `max_items`, or write `keep: all`");
        }
        problems
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: serde_json::Value, want: &[&str]) -> DebounceConfig {
        let config: DebounceConfig = serde_json::from_value(json).unwrap();
        let got: Vec<_> = config.check().into_iter().map(|p| p.field).collect();
        assert_eq!(got, want, "{config:?}");
        config
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        use serde_json::json;
        check(json!({ "quiet": "30s" }), &[]);
        check(json!({ "quiet": "30s", "max_wait": "30s", "keep": "all", "max_items": 5 }), &[]);
        let mut merge = check(json!({ "settle": "30s", "keep": "first" }), &[]);
        assert!(merge.exprs_mut().is_empty());
        merge.keep = KeepConfig::Merge(Expr::new(".a", None));
        assert_eq!(merge.exprs_mut()[0].1, ["acc"]);
        check(json!({}), &[""]);
        check(json!({ "quiet": "30s", "settle": "30s" }), &["settle"]);
        check(json!({ "quiet": "0s" }), &["quiet"]);
        check(json!({ "quiet": "30s", "max_wait": "20s" }), &["max_wait"]);
        check(json!({ "settle": "30s", "max_wait": "50s" }), &["max_wait"]);
        check(json!({ "quiet": "30s", "max_items": 5 }), &["max_items"]);
        check(json!({ "quiet": "30s", "max_wait": "5m", "trailing": true }), &[]);
        check(json!({ "quiet": "30s", "trailing": true }), &["trailing"]);
        check(json!({ "quiet": "3s", "max_wait": "5s", "trailing": true, "keep": "all" }), &["trailing"]);
        for bad in [json!({ "quiet": "30s", "wait": 1 }), json!({ "quiet": "30s", "keep": "most" })] {
            assert!(serde_json::from_value::<DebounceConfig>(bad).is_err());
        }
    }

    #[test]
    fn labels_are_short() {
        use serde_json::json;
        assert_eq!(check(json!({ "quiet": "30s", "max_wait": "5m" }), &[]).label(), "30s, at most 5m");
        assert_eq!(check(json!({ "settle": "90s" }), &[]).label(), "settle 90s");
        assert_eq!(DebounceConfig::quiet(Millis::secs(1)).label(), "1s");
    }
}
