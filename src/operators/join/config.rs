//! Settings of `join`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::RightHalfConfig;
use super::plan::{JoinKind, JoinPlan};
use crate::expressions::{Kind, Typing};
use crate::model::{Expr, Millis, Problem};
use crate::operators::key_by::check_key;
use crate::operators::settings::{Exprs, Sends};
use crate::operators::shared::describe::Described;
use crate::operators::{MovedBy, NodeConfig, NodePlan, Operator, OperatorSettings, Reads, Timing};

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
        }
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

impl OperatorSettings for JoinConfig {
    fn build(&self, plan: &NodePlan) -> Box<dyn Operator> {
        super::build(self, plan)
    }
    fn state_kind(&self, _kind: &'static str, plan: &NodePlan) -> Option<&'static str> {
        let join = JoinPlan::of(self, plan)?;
        if plan.apart { Some("foreign-key join, left half") } else { join.kind.state_kind(self) }
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    fn takes_changes(&self, _: &NodePlan) -> bool {
        true
    }
    fn timing(&self, plan: &NodePlan) -> Timing {
        match JoinPlan::of(self, plan).map(|join| join.kind) {
            Some(JoinKind::StreamStream) => {
                Timing { refuses_late: true, time_first: true, ..Timing::default() }
            }
            // Records wait for late rows.
            Some(JoinKind::StreamTable) if self.grace.is_some() => {
                Timing { refuses_late: true, moved_by: MovedBy::KeyedValues, ..Timing::default() }
            }
            _ => Timing::default(),
        }
    }
    fn holds_records(&self, plan: &NodePlan) -> bool {
        let may_be = |kind: JoinKind| JoinPlan::of(self, plan).is_none_or(|join| join.kind == kind);
        let unmatched = self.kind != JoinType::Inner && may_be(JoinKind::StreamStream);
        unmatched || self.grace.is_some() && may_be(JoinKind::StreamTable)
    }
    fn sends(&self, plan: &NodePlan) -> Sends {
        match JoinPlan::of(self, plan).map(|join| join.kind) {
            Some(JoinKind::TableTable | JoinKind::ForeignKey) => Sends::Changes,
            _ => Sends::Stream,
        }
    }
    fn with_triggers(&self, plan: &NodePlan) -> bool {
        JoinPlan::of(self, plan).is_some_and(|join| join.kind.right_triggers())
    }
    fn other_half(&self, plan: &NodePlan) -> Option<NodeConfig> {
        let join = JoinPlan::of(self, plan).filter(|join| join.kind == JoinKind::ForeignKey)?;
        let on = self.on.as_ref().map_or_else(String::new, |on| on.text().trim().to_owned());
        Some(NodeConfig::RightHalf(RightHalfConfig { right: join.right?, on }))
    }
    fn with(&self) -> Option<&str> {
        Some(&self.with)
    }
    fn input_count(&self) -> Option<(std::ops::RangeInclusive<usize>, &'static str)> {
        Some((1..=1, "a join reads one node, and the other one is in `with`; put a `merge` before it"))
    }
    fn describe(&self, key: &[u8], value: &[u8], plan: &NodePlan) -> Option<Described> {
        super::describe_row(self, plan, key, value)
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        JoinConfig::exprs_mut(self)
    }
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        let side = |kind: &Kind, alone: bool| if alone { kind.clone().or_null() } else { kind.clone() };
        let left = side(&typing.value, self.kind == JoinType::Outer);
        let right = side(&typing.right, self.kind != JoinType::Inner);
        let sides = [("left", left.clone()), ("right", right)];
        for (expr, vars) in JoinConfig::exprs_mut(self) {
            let vars: Vec<_> = sides.iter().filter(|(name, _)| vars.contains(name)).cloned().collect();
            // `on` is over the left record as it comes, and `value` over one that may be missing.
            let value = if vars.is_empty() { typing.value.clone() } else { left.clone() };
            typing.compile_scoped(expr, &vars, &value);
        }
        Kind::any()
    }
    fn check_reads(&self, reads: &Reads<'_>) -> Vec<Problem> {
        // What was not found has been reported.
        match (reads.from.as_slice(), &reads.with) {
            ([left], Some(right)) => self.check_sides(left, right),
            _ => Vec::new(),
        }
    }
    fn check(&self) -> Vec<Problem> {
        self.on.iter().flat_map(|on| check_key("on", on)).collect()
    }
    fn label(&self, _kind: &'static str) -> String {
        JoinConfig::label(self)
    }
}
