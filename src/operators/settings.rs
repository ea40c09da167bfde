//! What each kind of operator answers about its settings before a node runs: to the topology, the loader of files and
//! the commands.

use std::fmt;
use std::ops::RangeInclusive;

use super::shared::describe::Described;
use super::{
    Calls, KeyByConfig, NodeConfig, NodePlan, Operator, OwnMetrics, Reads, TableConfig, Timing, WindowsAbove,
};
use crate::expressions::{Kind, Typing};
use crate::model::{Expr, Millis, Problem};

/// Expressions, each with the names it may use besides the record's.
pub type Exprs<'a> = Vec<(&'a mut Expr, &'static [&'static str])>;

/// What an operator sends on, as nodes below read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    /// The same as it reads: a stream, or a table's changes.
    AsRead,
    /// A stream: each record stands for itself.
    Stream,
    /// Changes of a table's rows.
    Changes,
}

/// Whether the records that leave an operator have a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Where those that it reads have one (a join: where both sides do).
    AsRead,
    /// Always; for this long after a window's end its result may still change.
    Always {
        /// How long.
        grace: Millis,
    },
    /// Never.
    Never,
    /// It depends on the record.
    Unknown,
}

/// Other consumer groups whose commits an operator waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watches<'a> {
    /// The groups.
    pub groups: &'a [String],
    /// The topic on which they commit, where it is not the one that the operator's source reads.
    pub topic: Option<&'a str>,
    /// How often they are asked for while something waits.
    pub poll: Millis,
    /// Sends records to the dead letter, whatever else goes there.
    pub dead_letter: bool,
}

/// The settings of one kind, implemented in its file. The defaults are a stateless operator with one output that passes
/// keys on. `kind` is the key in YAML, which only the list of kinds knows; `plan` is what the topology has found out
/// about the node.
///
/// The fields of problems start at the kind's key (`window.grace`, empty for the kind as a whole).
pub trait OperatorSettings: fmt::Debug + Send + Sync {
    /// A new operator with these settings, without state.
    fn build(&self, plan: &NodePlan) -> Box<dyn Operator>;

    /// What its state is made of; `None` where it keeps none. State of another kind cannot be read.
    fn state_kind(&self, _kind: &'static str, _plan: &NodePlan) -> Option<&'static str> {
        None
    }

    /// What the rows of its state depend on besides their kind. See `docs/changing-a-topology.md`.
    fn state_shape(&self, _plan: &NodePlan) -> Option<String> {
        None
    }

    /// The expression of the new key, as it was written.
    fn key_expr(&self) -> Option<String> {
        None
    }

    /// Whether it gives records another key.
    fn changes_key(&self, _plan: &NodePlan) -> bool {
        false
    }

    /// Whether it gives records their own key back, which a node that the topology put in front had replaced.
    fn restores_key(&self, _plan: &NodePlan) -> bool {
        false
    }

    /// Whether all records of a key must come to the same task for the result to be right. Below a change of the key,
    /// such a node reads from a repartition topic.
    fn needs_key_together(&self) -> bool {
        false
    }

    /// The expression by which the node groups its records, where that is not their key (the `by` of an aggregate or a
    /// dedupe). The topology takes it out, leaves `key` in its place, and puts a node in front that makes it the key.
    fn regroups_mut(&mut self) -> Option<&mut Expr> {
        None
    }

    /// The node that the topology puts in front of one that groups by `by`, and the suffix of that node's name.
    fn regroup(&self, by: Expr, _plan: &NodePlan) -> (NodeConfig, &'static str) {
        (NodeConfig::KeyBy(KeyByConfig(by)), "key")
    }

    /// Why its state cannot be rebuilt by reading the input again from the low watermark, and what to write instead.
    /// Asked only of kinds that keep state.
    fn unbounded(&self) -> Option<&'static str> {
        Some("remove `changelog: off`: this node needs the changelog")
    }

    /// Whether it reads a table's changes ([`crate::model::Change`]), with old and new value. Others see a table as a
    /// stream of new values.
    fn takes_changes(&self, _plan: &NodePlan) -> bool {
        false
    }

    /// Whether a record may leave it after the records that caused it were committed (timers, calls). Stream time below
    /// such a node is then known to the node alone.
    fn holds_records(&self, _plan: &NodePlan) -> bool {
        false
    }

    /// How a node with these settings and its clock go together.
    fn timing(&self, _plan: &NodePlan) -> Timing {
        Timing::default()
    }

    /// Whether it sends a stream or changes.
    fn sends(&self, _plan: &NodePlan) -> Sends {
        Sends::AsRead
    }

    /// Whether what it sends has windows.
    fn windows(&self) -> Windows {
        Windows::AsRead
    }

    /// Whether values pass unchanged: then their types are known below it too.
    fn keeps_values(&self) -> bool {
        false
    }

    /// Whether each record that it sends comes from one record that it reads, whose origin it keeps, and its expressions
    /// see that record: then `origin` is known in them and below.
    fn keeps_origin(&self) -> bool {
        false
    }

    /// Compiles its expressions for the values that reach it; returns the kind of the values that leave it. Default:
    /// the same as those that come, if it keeps them, else any.
    fn compile(&mut self, typing: &mut Typing<'_>) -> Kind {
        let passes = self.keeps_values();
        let value = if passes { typing.value.clone() } else { Kind::any() };
        for (expr, vars) in self.exprs_mut() {
            typing.compile_for(expr, vars, &value);
        }
        value
    }

    /// The settings of the table that its records make, if they make one.
    fn table(&self) -> Option<&TableConfig> {
        None
    }

    /// The other node, of a join.
    fn with(&self) -> Option<&str> {
        None
    }

    /// Whether records of that other node trigger results: then it becomes the second input; otherwise only its rows
    /// are looked up.
    fn with_triggers(&self, _plan: &NodePlan) -> bool {
        false
    }

    /// The half of this node that runs beside the right table, if it must be cut in two because its two sides are in
    /// different partitions. It reads what this node sends through its port 1, then the right side; its answers come
    /// back as this node's second input.
    fn other_half(&self, _plan: &NodePlan) -> Option<NodeConfig> {
        None
    }

    /// A row of its store in readable form, from key (without the store's prefix) and value as they are on disk.
    /// `None`: it is shown as bytes.
    fn describe(&self, _key: &[u8], _value: &[u8], _plan: &NodePlan) -> Option<Described> {
        None
    }

    /// The metrics that only nodes of this kind have.
    fn metrics(&self) -> OwnMetrics {
        OwnMetrics::default()
    }

    /// The calls of an API that it makes, if it makes any.
    fn calls(&self) -> Option<Calls<'_>> {
        None
    }

    /// The consumer groups that it waits for. Such a node stands directly behind a source that reads Kafka.
    fn watches(&self) -> Option<Watches<'_>> {
        None
    }

    /// Sends its calls to `base` (`http://127.0.0.1:8080`) instead of the server in the settings. False if the server
    /// comes from the record.
    fn call_at(&mut self, _base: &str) -> bool {
        true
    }

    /// Times that it waits before it sends a key's record, by their names: `dev` shortens them.
    fn waits_mut(&mut self) -> Vec<(&'static str, &mut Millis)> {
        Vec::new()
    }

    /// How long a key waits after its last record.
    fn waits(&self) -> Millis {
        Millis::ZERO
    }

    /// Names of its outputs; empty for a single output without a name.
    fn ports(&self) -> Vec<String> {
        Vec::new()
    }

    /// How many inputs it takes, and what to write where there are others; `None` is any number.
    fn input_count(&self) -> Option<(RangeInclusive<usize>, &'static str)> {
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

    /// What is wrong with the nodes that it reads. Here the field `from` is the one beside the kind, which names them.
    fn check_reads(&self, _reads: &Reads<'_>) -> Vec<Problem> {
        Vec::new()
    }

    /// What is wrong with the windows above it.
    fn check_windows(&self, _above: &WindowsAbove) -> Vec<Problem> {
        Vec::new()
    }

    /// For graphs: `debounce 30s`.
    fn label(&self, kind: &'static str) -> String {
        kind.to_owned()
    }
}
