//! Settings of `join`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::plan::JoinPlan;
use crate::model::{Expr, Millis, Problem};
use crate::operators::key_by::check_key;
use crate::operators::settings::{Exprs, Sends};
use crate::operators::shared::describe::Described;
use crate::operators::{JoinKind, Operator, OperatorSettings};

/// Joins a node's records (left) with those of another node (right), by key.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinConfig {
    /// The node on the right: a stream, a table or a global table. The two sides meet by key, and by key and window where
    /// both have windows. Required.
    pub with: String,
    /// The key of the row on the right, as an expression over the left value: for a global table, and, between two
    /// tables, as a foreign key. Default: the left key.
    #[serde(default)]
    pub on: Option<Expr>,
    /// `inner` (default): only what has a partner. `left`: every left record, alone if need be. `outer`: those of both
    /// sides.
    #[serde(default, rename = "type")]
    pub kind: JoinType,
    /// The new value: an expression over `left` and `right`, the two values (null where there is none), and `.`, the left
    /// one. Default: `{ "left": left, "right": right }`.
    #[serde(default)]
    pub value: Option<Expr>,
    /// Two streams: how far apart the timestamps of a pair may be. Required there, and only there.
    #[serde(default)]
    pub within: Option<Within>,
    /// Two streams: how much longer a window stays open for records that come late. Default `0s`. A versioned table: how
    /// long a stream's record waits for late rows. Default: it does not wait.
    #[serde(default)]
    pub grace: Option<Millis>,
    /// What stands on each side; set by the topology.
    #[serde(skip)]
    pub plan: Option<JoinPlan>,
}

/// Which records come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinType {
    /// Only what has a partner.
    #[default]
    Inner,
    /// Every left record, with null for the right value where there is no partner.
    Left,
    /// Every record of both sides, with null for the partner where there is none.
    Outer,
}

/// A pair is in the window when `left - before <= right <= left + after`, by timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Within {
    /// How much earlier than the left record the right one may be. Default `0s`.
    #[serde(default)]
    pub before: Millis,
    /// How much later. Default `0s`.
    #[serde(default)]
    pub after: Millis,
}

impl JoinConfig {
    /// An inner join with that node. For the Rust DSL.
    #[must_use]
    pub fn new(with: impl Into<String>) -> JoinConfig {
        JoinConfig {
            with: with.into(),
            on: None,
            kind: JoinType::Inner,
            value: None,
            within: None,
            grace: None,
            plan: None,
        }
    }

    /// What is wrong with the settings themselves; [`JoinPlan::new`] checks them against what stands on each side.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        self.on.iter().flat_map(|on| check_key("join.on", on)).collect()
    }

    /// The expressions, each with the names it may use besides the record's.
    pub fn exprs_mut(&mut self) -> Vec<(&mut Expr, &'static [&'static str])> {
        let on = self.on.iter_mut().map(|e| (e, &[] as &[&str]));
        on.chain(self.value.iter_mut().map(|e| (e, &["left", "right"] as &[&str]))).collect()
    }

    /// For graphs: `left join payments`.
    #[must_use]
    pub fn label(&self) -> String {
        let kind = match self.kind {
            JoinType::Inner => "",
            JoinType::Left => "left ",
            JoinType::Outer => "outer ",
        };
        format!("{kind}join {}", self.with)
    }
}

impl OperatorSettings for Box<JoinConfig> {
    fn build(&self) -> Box<dyn Operator> {
        super::build(self)
    }
    fn state_kind(&self, _kind: &'static str) -> Option<&'static str> {
        self.plan.and_then(|plan| plan.state_kind(self))
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    fn takes_changes(&self) -> bool {
        true
    }
    fn holds_records(&self) -> bool {
        let unmatched =
            self.kind != JoinType::Inner && self.plan.is_none_or(|plan| plan.kind == JoinKind::StreamStream);
        unmatched || self.grace.is_some() && self.plan.is_none_or(|p| p.kind == JoinKind::StreamTable)
    }
    fn sends(&self) -> Sends {
        match self.plan.map(|plan| plan.kind) {
            Some(JoinKind::TableTable | JoinKind::ForeignKey) => Sends::Changes,
            _ => Sends::Stream,
        }
    }
    fn with(&self) -> Option<&str> {
        Some(&self.with)
    }
    fn input_count(&self) -> Option<(std::ops::RangeInclusive<usize>, &'static str)> {
        Some((1..=1, "a join reads one node, and the other one is in `with`; put a `merge` before it"))
    }
    fn describe(&self, key: &[u8], value: &[u8]) -> Option<Described> {
        super::describe_row(self.plan.as_ref()?, key, value)
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        JoinConfig::exprs_mut(self)
    }
    /// The topology knows what stands on each side, and checks that.
    fn check(&self) -> Vec<Problem> {
        JoinConfig::check(self)
    }
    fn label(&self, _kind: &'static str) -> String {
        JoinConfig::label(self)
    }
}
