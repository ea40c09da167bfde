//! The kinds of operators: one variant each. The compiler lists every place that must change with a new one.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Deserialize;

use super::aggregate::{Aggregate, AggregateConfig};
use super::branch::{Branch, BranchConfig};
use super::debounce::{Debounce, DebounceConfig};
use super::enrich::{Enrich, EnrichConfig};
use super::filter::{Filter, FilterConfig};
use super::map::{FlatMap, Map, MapConfig};
use super::merge::{Merge, MergeConfig};
use super::suppress::{Suppress, SuppressConfig};
use super::{Operator, Problem};
use crate::model::Expr;

/// An operator's settings; its kind is the key that holds them in YAML.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeConfig {
    /// Lets a record pass where the condition is true.
    Filter(FilterConfig),
    /// Computes a new value.
    Map(MapConfig),
    /// Computes a list; each element becomes a record.
    FlatMap(MapConfig),
    /// Sends a record to the first output whose condition is true.
    Branch(BranchConfig),
    /// Reads several nodes as one.
    Merge(MergeConfig),
    /// Waits until a key has gone quiet, then sends on what it gathered.
    Debounce(DebounceConfig),
    /// Calls an API for each record and puts the answer into it.
    Enrich(Box<EnrichConfig>),
    /// One result per key, or per key and window.
    Aggregate(Box<AggregateConfig>),
    /// Holds results back until their window is closed, or for a time.
    Suppress(SuppressConfig),
}

impl NodeConfig {
    /// The key in YAML.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self {
            NodeConfig::Filter(_) => "filter",
            NodeConfig::Map(_) => "map",
            NodeConfig::FlatMap(_) => "flat_map",
            NodeConfig::Branch(_) => "branch",
            NodeConfig::Merge(_) => "merge",
            NodeConfig::Debounce(_) => "debounce",
            NodeConfig::Enrich(_) => "enrich",
            NodeConfig::Aggregate(_) => "aggregate",
            NodeConfig::Suppress(_) => "suppress",
        }
    }

    /// All kinds, as written in YAML.
    pub const KINDS: &'static [&'static str] =
        &["filter", "map", "flat_map", "branch", "merge", "debounce", "enrich", "aggregate", "suppress"];

    /// A new operator with these settings, without state.
    #[must_use]
    pub fn build(&self) -> Box<dyn Operator> {
        match self {
            NodeConfig::Filter(c) => Box::new(Filter::new(c)),
            NodeConfig::Map(c) => Box::new(Map::new(c)),
            NodeConfig::FlatMap(c) => Box::new(FlatMap::new(c)),
            NodeConfig::Branch(c) => Box::new(Branch::new(c)),
            NodeConfig::Merge(_) => Box::new(Merge),
            NodeConfig::Debounce(c) => Box::new(Debounce::new(c)),
            NodeConfig::Enrich(c) => {
                Box::new(Enrich::new((**c).clone()).expect("the builder has checked the settings"))
            }
            NodeConfig::Aggregate(c) => Box::new(Aggregate::new(c)),
            NodeConfig::Suppress(c) => Box::new(Suppress::new(c)),
        }
    }

    /// Does it keep state?
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        matches!(
            self,
            NodeConfig::Debounce(_)
                | NodeConfig::Enrich(_)
                | NodeConfig::Aggregate(_)
                | NodeConfig::Suppress(_)
        )
    }

    /// Why its state cannot be rebuilt by reading the input again from the low watermark, and what to write instead.
    #[must_use]
    pub fn unbounded(&self) -> Option<&'static str> {
        match self {
            NodeConfig::Debounce(c) if c.max_wait.is_none() && c.settle.is_none() => Some(
                "add `max_wait`: it bounds how long a key that never goes quiet holds the committed offset back",
            ),
            _ => None,
        }
    }

    /// Does it call an API?
    #[must_use]
    pub fn makes_calls(&self) -> bool {
        matches!(self, NodeConfig::Enrich(_))
    }

    /// Names of its outputs; empty where it has just one, without a name.
    #[must_use]
    pub fn ports(&self) -> Vec<String> {
        match self {
            NodeConfig::Branch(c) => c.0.iter().map(|(name, _)| name.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// How many inputs it takes, and what to write otherwise; `None` is any number.
    #[must_use]
    pub fn input_count(&self) -> Option<(RangeInclusive<usize>, &'static str)> {
        match self {
            NodeConfig::Merge(_) => Some((2..=usize::MAX, "a merge reads at least two: `from: [a, b]`")),
            _ => None,
        }
    }

    /// The rate limit it names.
    #[must_use]
    pub fn rate_limit(&self) -> Option<&str> {
        match self {
            NodeConfig::Enrich(c) => c.rate_limit.as_deref(),
            _ => None,
        }
    }

    /// The expressions inside, each with the names it may use besides the record's, to be compiled.
    pub fn exprs_mut(&mut self) -> Vec<(&mut Expr, &'static [&'static str])> {
        match self {
            NodeConfig::Filter(c) => vec![(&mut c.0, &[])],
            NodeConfig::Map(c) | NodeConfig::FlatMap(c) => vec![(&mut c.0, &[])],
            NodeConfig::Branch(c) => c.0.iter_mut().map(|(_, e)| (e, &[] as &[&str])).collect(),
            NodeConfig::Merge(_) => Vec::new(),
            NodeConfig::Debounce(c) => c.exprs_mut(),
            NodeConfig::Enrich(c) => c.exprs_mut().map(|e| (e, &[] as &[&str])).collect(),
            NodeConfig::Aggregate(c) => c.exprs_mut(),
            NodeConfig::Suppress(_) => Vec::new(),
        }
    }

    /// What is wrong with the settings themselves: field, message, help.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        match self {
            NodeConfig::Debounce(c) => c.check(),
            NodeConfig::Enrich(c) => c.check(),
            NodeConfig::Branch(c) => c.check(),
            NodeConfig::Aggregate(c) => c.check(),
            NodeConfig::Suppress(c) => c.check(),
            NodeConfig::Filter(_) | NodeConfig::Map(_) | NodeConfig::FlatMap(_) | NodeConfig::Merge(_) => {
                Vec::new()
            }
        }
    }

    /// For graphs: `debounce 30s`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            NodeConfig::Filter(c) => format!("filter {}", c.0.text()),
            NodeConfig::Debounce(c) => format!("debounce {}", c.label()),
            NodeConfig::Enrich(c) => format!("enrich {}", c.label()),
            NodeConfig::Aggregate(c) => format!("aggregate {}", c.label()),
            NodeConfig::Suppress(c) => format!("suppress {}", c.label()),
            other => other.kind_name().into(),
        }
    }
}
