//! What a kind of operators answers about its settings, before there is a node: to the topology, the loader of files
//! and the commands.

use std::fmt;
use std::ops::RangeInclusive;

use super::shared::describe::Described;
use super::{KeyByConfig, NodeConfig, Operator, OwnMetrics, TableConfig};
use crate::model::{Expr, Problem};

/// Expressions, each with the names it may use besides the record's.
pub type Exprs<'a> = Vec<(&'a mut Expr, &'static [&'static str])>;

/// What an operator sends on, as readers below see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    /// What it reads: a stream, or the changes of a table.
    AsRead,
    /// Records that stand for themselves.
    Stream,
    /// Changes of a table's rows.
    Changes,
}

/// Do the records that leave an operator have a window?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// As those that it reads, of a join those of both sides.
    AsRead,
    /// Every one.
    Always,
    /// None.
    Never,
    /// Some may.
    Unknown,
}

/// The settings of one kind. Each kind's file implements it; a kind that answers nothing here is a stateless operator
/// with one output that passes keys on as they are. `kind` is the key in YAML, which only the list of kinds knows.
pub trait OperatorSettings: fmt::Debug + Send + Sync {
    /// A new operator with these settings, without state.
    fn build(&self) -> Box<dyn Operator>;

    /// The key in YAML, where the list of kinds does not know it: an operator of the user's own.
    fn own_kind(&self) -> Option<&'static str> {
        None
    }

    /// What its state is made of; `None` where it keeps none. State of another kind cannot be read.
    fn state_kind(&self, _kind: &'static str) -> Option<&'static str> {
        None
    }

    /// What the rows of its state depend on besides their kind. See `docs/changing-a-topology.md`.
    fn state_shape(&self) -> Option<String> {
        None
    }

    /// The expression that gives records another key, as it was written.
    fn key_expr(&self) -> Option<String> {
        None
    }

    /// Does it give records another key?
    fn changes_key(&self) -> bool {
        false
    }

    /// Does it give records the key again that they had before the node that the topology put in front of it?
    fn restores_key(&self) -> bool {
        false
    }

    /// Must all records of a key come to the same task for its result to be right? After a change of the key such a
    /// node reads from a topic in between.
    fn needs_key_together(&self) -> bool {
        false
    }

    /// The expression by which the node itself groups the records of its inputs, where that need not be their key (the
    /// `by` of an aggregate or a dedupe). The topology changes the key in front of the node and leaves `key` here.
    fn regroups_mut(&mut self) -> Option<&mut Expr> {
        None
    }

    /// The node that the topology puts in front of one that groups by `by`, and the end of that node's name. Told once,
    /// after [`OperatorSettings::regroups_mut`].
    fn regroup(&mut self, by: Expr) -> (NodeConfig, &'static str) {
        (NodeConfig::KeyBy(KeyByConfig(by)), "key")
    }

    /// Why its state cannot be rebuilt by reading the input again from the low watermark, and what to write instead.
    /// Asked only where it keeps state.
    fn unbounded(&self) -> Option<&'static str> {
        Some("remove `changelog: off`: this node needs the changelog")
    }

    /// Does it ask for the changes of tables ([`crate::model::Change`])? To others a table is a stream of new values.
    fn takes_changes(&self) -> bool {
        false
    }

    /// May a record of it leave later than the records that cause it were committed (timers, calls)? What comes after that,
    /// by its timestamp, only the node itself can say.
    fn holds_records(&self) -> bool {
        false
    }

    /// Stream or changes.
    fn sends(&self) -> Sends {
        Sends::AsRead
    }

    /// Windows on what it sends.
    fn windows(&self) -> Windows {
        Windows::AsRead
    }

    /// Are the values that leave it those that came? Then their types are known below it.
    fn keeps_values(&self) -> bool {
        false
    }

    /// The settings of the table that its records make.
    fn table(&self) -> Option<&TableConfig> {
        None
    }

    /// The other node that a join names.
    fn with(&self) -> Option<&str> {
        None
    }

    /// A row of its store for people: key (without the store's prefix) and value, as they are on disk. `None`: shown as
    /// bytes.
    fn describe(&self, _key: &[u8], _value: &[u8]) -> Option<Described> {
        None
    }

    /// The metrics that only nodes of this kind have.
    fn metrics(&self) -> OwnMetrics {
        OwnMetrics::default()
    }

    /// Does it call an API?
    fn makes_calls(&self) -> bool {
        false
    }

    /// Names of its outputs; empty where it has just one, without a name.
    fn ports(&self) -> Vec<String> {
        Vec::new()
    }

    /// How many inputs it takes, and what to write otherwise; `None` is any number.
    fn input_count(&self) -> Option<(RangeInclusive<usize>, &'static str)> {
        None
    }

    /// The rate limit it names.
    fn rate_limit(&self) -> Option<&str> {
        None
    }

    /// The expressions inside, to be compiled.
    fn exprs_mut(&mut self) -> Exprs<'_> {
        Vec::new()
    }

    /// What is wrong with the settings themselves.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// For graphs: `debounce 30s`.
    fn label(&self, kind: &'static str) -> String {
        kind.to_owned()
    }
}
