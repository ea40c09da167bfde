//! Operators of a user's own crate that need stores, timers or punctuations.
//!
//! Every kind, of this crate or another, is a type that implements [`OperatorSettings`] and builds an [`Operator`]. A
//! user's crate adds its key to a [`crate::yaml::Registry`], or passes it to [`super::NodeConfig::own`] in the Rust
//! DSL. This module is a thin layer over these two that hides rows, seals and watermarks: settings that implement
//! [`CustomOperator`] make a [`Processor`] for each task, which gets records, punctuations and timers, and keeps state
//! in named stores. All of that is in the checkpoint and the changelog, and is restored, simulated and inspected like
//! the state of built-in kinds.
//!
//! The rules of every operator hold here too, and cannot be enforced: no awaiting, no clock but the one in the context,
//! no random numbers, nothing kept in memory that is not also in a store. The same records must give the same results.

mod node;
mod processor;
mod schedule;

use std::fmt;

use super::settings::{Exprs, Sends, Windows};
use super::shared::describe::Described;
use super::{NodePlan, Operator, OperatorSettings, Timing};
use crate::model::{Expr, Problem};

pub use processor::{NamedStore, Processor, ProcessorCx};
pub use schedule::{Clock, Punctuator};

/// The settings of an operator that is a [`Processor`]. A type that implements this implements [`OperatorSettings`]
/// too.
///
/// The kind's name and the stores' names are identity, as names are everywhere: to change how rows are written, give
/// the store a new name.
pub trait CustomOperator: fmt::Debug + Send + Sync {
    /// The type that does the work.
    type Processor: Processor + 'static;

    /// A new one, for one task.
    fn processor(&self) -> Self::Processor;

    /// Whether it uses stores, timers or wall-clock punctuations. Default true: the topology has a changelog then.
    fn is_stateful(&self) -> bool {
        true
    }

    /// Whether all records of a key must come to the same task. Below a `key_by` such a node reads from a repartition
    /// topic. Default: true for what is stateful.
    fn needs_key_together(&self) -> bool {
        self.is_stateful()
    }

    /// Whether it gives records other keys. Nodes below that depend on the key then read from a repartition topic.
    fn changes_key(&self) -> bool {
        false
    }

    /// Names of its outputs, read as `from: NODE.OUTPUT`; empty for a single output without a name.
    fn ports(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is wrong with the settings. Fields are paths such as `limits.low`, or empty.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The expressions in the settings; they are compiled when the file is loaded.
    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        Vec::new()
    }

    /// For graphs: the kind and its most important setting.
    fn label(&self, kind: &'static str) -> String {
        kind.into()
    }
}

impl<C: CustomOperator> OperatorSettings for C {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(node::ProcessorNode::new(self.processor()))
    }
    fn state_kind(&self, kind: &'static str, _: &NodePlan) -> Option<&'static str> {
        CustomOperator::is_stateful(self).then_some(kind)
    }
    fn changes_key(&self, _: &NodePlan) -> bool {
        CustomOperator::changes_key(self)
    }
    fn needs_key_together(&self) -> bool {
        CustomOperator::needs_key_together(self)
    }
    fn timing(&self, _: &NodePlan) -> Timing {
        Timing { time_first: self.processor().time_first(), ..Timing::default() }
    }
    /// Timers and punctuations send records whenever they like.
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
        node::describe_row(key, value)
    }
    fn ports(&self) -> Vec<String> {
        CustomOperator::ports(self)
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        CustomOperator::exprs_mut(self).into_iter().map(|e| (e, &[] as &[&str])).collect()
    }
    fn check(&self) -> Vec<Problem> {
        CustomOperator::check(self)
    }
    fn label(&self, kind: &'static str) -> String {
        CustomOperator::label(self, kind)
    }
}
