//! The kinds of operators: one variant each. The compiler lists every place that must change with a new one.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::aggregate::{Aggregate, AggregateConfig, EmitConfig};
use super::branch::{Branch, BranchConfig};
use super::custom::{self, CustomConfig};
use super::debounce::{Debounce, DebounceConfig};
use super::dedupe::{Dedupe, DedupeConfig};
use super::enrich::{self, Enrich, EnrichConfig};
use super::filter::{Filter, FilterConfig};
use super::inserted::by_id::{ById, ByIdConfig};
use super::inserted::regroup::{Regroup, RegroupConfig};
use super::join::{self, JoinConfig, JoinKind, JoinType, RightHalf, RightHalfConfig};
use super::key_by::{KeyBy, KeyByConfig};
use super::map::{FlatMap, Map, MapConfig};
use super::merge::{Merge, MergeConfig};
use super::peek::{Peek, PeekConfig};
use super::shared::describe::Described;
use super::suppress::{Suppress, SuppressConfig};
use super::table::{Table, TableConfig};
use crate::model::Expr;
use crate::model::Problem;

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
    /// Gives records another key.
    KeyBy(KeyByConfig),
    /// Sends a record to the first output whose condition is true.
    Branch(BranchConfig),
    /// Reads several nodes as one.
    Merge(MergeConfig),
    /// Shows records in the log and lets them pass.
    Peek(PeekConfig),
    /// Waits until a key has gone quiet, then sends on what it gathered.
    Debounce(DebounceConfig),
    /// Calls an API for each record and puts the answer into it.
    Enrich(Box<EnrichConfig>),
    /// One result per key, or per key and window.
    Aggregate(Box<AggregateConfig>),
    /// Holds results back until their window is closed, or for a time.
    Suppress(SuppressConfig),
    /// Lets the first record of an id pass and drops the others.
    Dedupe(DedupeConfig),
    /// Reads a stream as a table: the newest value of each key.
    Table(TableConfig),
    /// Joins the node's records with those of another node.
    Join(Box<JoinConfig>),
    /// Sends a table's changes to the groups that its rows belong to. Put in by the topology: never in a file.
    #[serde(skip)]
    Regroup(RegroupConfig),
    /// Sends records to their ids, in front of a dedupe. Put in by the topology: never in a file.
    #[serde(skip)]
    ById(ByIdConfig),
    /// The right half of a foreign-key join. Put in by the topology: never in a file.
    #[serde(skip)]
    RightHalf(RightHalfConfig),
    /// An operator of the user's own: its kind is registered, not known here.
    #[serde(skip)]
    Custom(CustomConfig),
}

impl NodeConfig {
    /// The key in YAML.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self {
            NodeConfig::Filter(_) => "filter",
            NodeConfig::Map(_) => "map",
            NodeConfig::FlatMap(_) => "flat_map",
            NodeConfig::KeyBy(_) => "key_by",
            NodeConfig::Branch(_) => "branch",
            NodeConfig::Merge(_) => "merge",
            NodeConfig::Peek(_) => "peek",
            NodeConfig::Debounce(_) => "debounce",
            NodeConfig::Enrich(_) => "enrich",
            NodeConfig::Aggregate(_) => "aggregate",
            NodeConfig::Suppress(_) => "suppress",
            NodeConfig::Dedupe(_) => "dedupe",
            NodeConfig::Table(_) => "table",
            NodeConfig::Join(_) => "join",
            NodeConfig::Regroup(_) => "regroup",
            NodeConfig::ById(_) => "by_id",
            NodeConfig::RightHalf(_) => "right half of a join",
            NodeConfig::Custom(c) => c.kind(),
        }
    }

    /// All built-in kinds, as written in YAML.
    pub const KINDS: &'static [&'static str] = &[
        "filter",
        "map",
        "flat_map",
        "key_by",
        "branch",
        "merge",
        "peek",
        "debounce",
        "enrich",
        "aggregate",
        "suppress",
        "dedupe",
        "table",
        "join",
    ];

    /// A new operator with these settings, without state.
    #[must_use]
    pub fn build(&self) -> Box<dyn Operator> {
        match self {
            NodeConfig::Filter(c) => Box::new(Filter::new(c)),
            NodeConfig::Map(c) => Box::new(Map::new(c)),
            NodeConfig::FlatMap(c) => Box::new(FlatMap::new(c)),
            NodeConfig::KeyBy(c) => Box::new(KeyBy::new(c)),
            NodeConfig::Branch(c) => Box::new(Branch::new(c)),
            NodeConfig::Merge(_) => Box::new(Merge),
            NodeConfig::Peek(c) => Box::new(Peek::new(c)),
            NodeConfig::Debounce(c) => Box::new(Debounce::new(c)),
            NodeConfig::Enrich(c) => {
                Box::new(Enrich::new((**c).clone()).expect("the builder has checked the settings"))
            }
            NodeConfig::Aggregate(c) => Box::new(Aggregate::new(c)),
            NodeConfig::Suppress(c) => Box::new(Suppress::new(c)),
            NodeConfig::Dedupe(c) => Box::new(Dedupe::new(c)),
            NodeConfig::Table(c) => Box::new(Table::new(c)),
            NodeConfig::Join(c) => join::build(c),
            NodeConfig::Regroup(c) => Box::new(Regroup::new(c)),
            NodeConfig::ById(c) => Box::new(ById::new(c)),
            NodeConfig::RightHalf(c) => Box::new(RightHalf::new(c)),
            NodeConfig::Custom(c) => c.build(),
        }
    }

    /// Does it keep state?
    #[must_use]
    pub fn is_stateful(&self) -> bool {
        self.state_kind().is_some()
    }

    /// What its state is made of; `None` where it keeps none. State of another kind cannot be read.
    #[must_use]
    pub fn state_kind(&self) -> Option<&'static str> {
        match self {
            NodeConfig::Debounce(_)
            | NodeConfig::Enrich(_)
            | NodeConfig::Aggregate(_)
            | NodeConfig::Suppress(_)
            | NodeConfig::Dedupe(_) => Some(self.kind_name()),
            NodeConfig::Table(c) => Some(c.state_kind()),
            NodeConfig::Join(c) => c.plan.and_then(|plan| plan.state_kind(c)),
            NodeConfig::RightHalf(_) => Some("foreign-key join, right half"),
            NodeConfig::Custom(c) => c.is_stateful().then(|| c.kind()),
            NodeConfig::Filter(_)
            | NodeConfig::Map(_)
            | NodeConfig::FlatMap(_)
            | NodeConfig::KeyBy(_)
            | NodeConfig::Branch(_)
            | NodeConfig::Merge(_)
            | NodeConfig::Peek(_)
            | NodeConfig::ById(_)
            | NodeConfig::Regroup(_) => None,
        }
    }

    /// What the rows of its state depend on, for the comparison at a start; `None` where it keeps none. See
    /// `docs/changing-a-topology.md`.
    #[must_use]
    pub fn state_shape(&self) -> Option<String> {
        match self {
            NodeConfig::Aggregate(c) => Some(c.state_shape()),
            NodeConfig::Debounce(c) => Some(c.state_shape().to_owned()),
            NodeConfig::RightHalf(c) => Some(c.state_shape()),
            other => other.state_kind().map(String::from),
        }
    }

    /// The expression that gives records another key, as it was written.
    #[must_use]
    pub fn key_expr(&self) -> Option<String> {
        match self {
            NodeConfig::KeyBy(c) => Some(c.0.text().to_owned()),
            NodeConfig::Aggregate(c) if c.changes_key() => c.by.as_ref().map(|by| by.text().to_owned()),
            _ => None,
        }
    }

    /// Does it give records another key?
    #[must_use]
    pub fn changes_key(&self) -> bool {
        match self {
            NodeConfig::KeyBy(_) | NodeConfig::Regroup(_) | NodeConfig::ById(_) => true,
            // From the id back to the record's own key.
            NodeConfig::Dedupe(c) => c.carried,
            NodeConfig::Custom(c) => c.changes_key(),
            _ => false,
        }
    }

    /// Must all records of a key come to the same task for its result to be right? After a change of the key such a
    /// node reads from a topic in between.
    #[must_use]
    pub fn needs_key_together(&self) -> bool {
        match self {
            NodeConfig::Debounce(_)
            | NodeConfig::Aggregate(_)
            | NodeConfig::Suppress(_)
            | NodeConfig::Dedupe(_)
            | NodeConfig::Join(_)
            | NodeConfig::RightHalf(_)
            | NodeConfig::Table(_) => true,
            NodeConfig::Custom(c) => c.needs_key_together(),
            NodeConfig::Filter(_)
            | NodeConfig::Map(_)
            | NodeConfig::FlatMap(_)
            | NodeConfig::KeyBy(_)
            | NodeConfig::Branch(_)
            | NodeConfig::Merge(_)
            | NodeConfig::Peek(_)
            | NodeConfig::Regroup(_)
            | NodeConfig::ById(_)
            | NodeConfig::Enrich(_) => false,
        }
    }

    /// The expression by which the node itself groups the records of its inputs, where that need not be their key (the
    /// `by` of an aggregate or a dedupe). The topology changes the key in front of the node and leaves `key` here.
    pub fn regroups_mut(&mut self) -> Option<&mut Expr> {
        match self {
            NodeConfig::Aggregate(c) => c.by.as_mut(),
            NodeConfig::Dedupe(c) => c.by.as_mut(),
            _ => None,
        }
    }

    /// Why its state cannot be rebuilt by reading the input again from the low watermark, and what to write instead.
    #[must_use]
    pub fn unbounded(&self) -> Option<&'static str> {
        match self {
            NodeConfig::Debounce(c) if c.max_wait.is_none() && c.settle.is_none() => Some(
                "add `max_wait`: it bounds how long a key that never goes quiet holds the committed offset back",
            ),
            NodeConfig::Debounce(_) | NodeConfig::Enrich(_) => None,
            other => other.state_kind().map(|_| "remove `changelog: off`: this node needs the changelog"),
        }
    }

    /// Does it ask for the changes of tables ([`crate::model::Change`])? To others a table is a stream of new values.
    #[must_use]
    pub fn takes_changes(&self) -> bool {
        match self {
            NodeConfig::Join(_) | NodeConfig::Regroup(_) | NodeConfig::RightHalf(_) => true,
            NodeConfig::Aggregate(c) => c.over_table,
            _ => false,
        }
    }

    /// May a record of it leave later than the records that cause it were committed (timers, calls)? What comes after that,
    /// by its timestamp, only the node itself can say.
    #[must_use]
    pub fn holds_records(&self) -> bool {
        match self {
            NodeConfig::Debounce(_)
            | NodeConfig::Enrich(_)
            | NodeConfig::Suppress(_)
            | NodeConfig::Custom(_) => true,
            NodeConfig::Aggregate(c) => c.emit == EmitConfig::Final,
            NodeConfig::Join(c) => {
                let unmatched = c.kind != JoinType::Inner
                    && c.plan.is_none_or(|plan| plan.kind == JoinKind::StreamStream);
                unmatched || c.grace.is_some() && c.plan.is_none_or(|p| p.kind == JoinKind::StreamTable)
            }
            NodeConfig::Filter(_)
            | NodeConfig::Map(_)
            | NodeConfig::FlatMap(_)
            | NodeConfig::KeyBy(_)
            | NodeConfig::Branch(_)
            | NodeConfig::Merge(_)
            | NodeConfig::Peek(_)
            | NodeConfig::Dedupe(_)
            | NodeConfig::Table(_)
            | NodeConfig::Regroup(_)
            | NodeConfig::ById(_)
            | NodeConfig::RightHalf(_) => false,
        }
    }

    /// The settings of the table that its records make.
    #[must_use]
    pub fn table(&self) -> Option<&TableConfig> {
        match self {
            NodeConfig::Table(c) => Some(c),
            _ => None,
        }
    }

    /// The other node that a join names.
    #[must_use]
    pub fn with(&self) -> Option<&str> {
        match self {
            NodeConfig::Join(c) => Some(&c.with),
            _ => None,
        }
    }

    /// A row of its store for people: key (without the store's prefix) and value, as they are on disk.
    #[must_use]
    pub fn describe_row(&self, key: &[u8], value: &[u8]) -> Described {
        let described = match self {
            NodeConfig::Debounce(c) => c.describe_row(key, value),
            NodeConfig::Enrich(_) => enrich::describe_row(key, value),
            NodeConfig::Custom(_) => custom::describe_row(key, value),
            _ => None,
        };
        described.unwrap_or_else(|| Described::raw(key, value))
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
            NodeConfig::Custom(c) => c.ports(),
            _ => Vec::new(),
        }
    }

    /// How many inputs it takes, and what to write otherwise; `None` is any number.
    #[must_use]
    pub fn input_count(&self) -> Option<(RangeInclusive<usize>, &'static str)> {
        match self {
            NodeConfig::Merge(_) => Some((2..=usize::MAX, "a merge reads at least two: `from: [a, b]`")),
            NodeConfig::Table(_) => Some((1..=1, "a table reads one node; put a `merge` before it")),
            NodeConfig::Join(_) => Some((
                1..=1,
                "a join reads one node, and the other one is in `with`; put a `merge` before it",
            )),
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
            NodeConfig::KeyBy(c) => vec![(&mut c.0, &[])],
            NodeConfig::Branch(c) => c.0.iter_mut().map(|(_, e)| (e, &[] as &[&str])).collect(),
            NodeConfig::Merge(_) | NodeConfig::Peek(_) => Vec::new(),
            NodeConfig::Debounce(c) => c.exprs_mut(),
            NodeConfig::Enrich(c) => c.exprs_mut().map(|e| (e, &[] as &[&str])).collect(),
            NodeConfig::Aggregate(c) => c.exprs_mut(),
            NodeConfig::Suppress(_) | NodeConfig::RightHalf(_) => Vec::new(),
            NodeConfig::Dedupe(c) => c.by.iter_mut().map(|e| (e, &[] as &[&str])).collect(),
            NodeConfig::Table(_) => Vec::new(),
            NodeConfig::Join(c) => c.exprs_mut(),
            NodeConfig::Regroup(c) => vec![(&mut c.0, &[])],
            NodeConfig::ById(c) => vec![(&mut c.0, &[])],
            NodeConfig::Custom(c) => c.exprs_mut().into_iter().map(|e| (e, &[] as &[&str])).collect(),
        }
    }

    /// What is wrong with the settings themselves: field, message, help.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        match self {
            NodeConfig::Debounce(c) => c.check(),
            NodeConfig::Enrich(c) => c.check(),
            NodeConfig::KeyBy(c) => c.check(),
            NodeConfig::Branch(c) => c.check(),
            NodeConfig::Aggregate(c) => c.check(),
            NodeConfig::Suppress(c) => c.check(),
            NodeConfig::Dedupe(c) => c.check(),
            NodeConfig::Table(c) => c.check(true),
            NodeConfig::Custom(c) => c.check(),
            // The topology knows what stands on each side, and checks that.
            NodeConfig::Join(c) => c.check(),
            NodeConfig::Filter(c) => c.check(),
            NodeConfig::Map(c) => c.check(),
            NodeConfig::FlatMap(c) => c.check_list(),
            NodeConfig::Peek(c) => c.check(),
            NodeConfig::Merge(_)
            | NodeConfig::Regroup(_)
            | NodeConfig::ById(_)
            | NodeConfig::RightHalf(_) => Vec::new(),
        }
    }

    /// For graphs: `debounce 30s`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            NodeConfig::Filter(c) => format!("filter {}", c.0.text()),
            NodeConfig::KeyBy(c) => format!("key_by {}", c.0.text()),
            NodeConfig::Debounce(c) => format!("debounce {}", c.label()),
            NodeConfig::Enrich(c) => format!("enrich {}", c.label()),
            NodeConfig::Aggregate(c) => format!("aggregate {}", c.label()),
            NodeConfig::Suppress(c) => format!("suppress {}", c.label()),
            NodeConfig::Dedupe(c) => format!("dedupe {}", c.within),
            NodeConfig::Table(c) => c.label(),
            NodeConfig::Join(c) => c.label(),
            NodeConfig::Regroup(c) => format!("group by {}", c.0.text()),
            NodeConfig::ById(c) => format!("by id {}", c.0.text()),
            NodeConfig::Custom(c) => c.label(),
            other => other.kind_name().into(),
        }
    }
}
