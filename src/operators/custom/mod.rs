//! Operators of a user's own that need stores, timers or punctuations.
//!
//! Every kind, of this crate or another, is a type that implements [`OperatorSettings`] and builds an [`Operator`]; a user's
//! crate adds its key to a [`crate::yaml::Registry`], or hands it to [`super::NodeConfig::own`] in the Rust DSL. What is
//! here is a thin layer over these two, for which nothing needs to be known of rows, seals and watermarks: settings that
//! implement [`CustomOperator`] make a [`Processor`] for each task, which does the work: records come in, punctuations and
//! timers fire, state is in named stores. They are in the checkpoint and in the changelog, and are restored, simulated and
//! looked into as those of the built-in kinds are.
//!
//! The rules of every operator hold here too, and nothing can enforce them: no awaiting, no clock but the one in the
//! context, no chance, nothing kept in memory that is not also in a store. The same records give the same results.

mod node;
mod processor;
mod schedule;

use std::fmt;

use super::settings::{Exprs, Sends, Windows};
use super::shared::describe::Described;
use super::{NodePlan, Operator, OperatorSettings};
use crate::model::{Expr, Problem};

pub use processor::{NamedStore, Processor, ProcessorCx};
pub use schedule::{Clock, Punctuator};

/// Settings of an operator that is a [`Processor`]. Whatever implements it implements [`OperatorSettings`] too.
///
/// What a kind is called and which stores it has is identity, as with every node: to change how rows are written, give
/// the store a new name.
pub trait CustomOperator: fmt::Debug + Send + Sync {
    /// What does the work.
    type Processor: Processor + 'static;

    /// One for each task.
    fn processor(&self) -> Self::Processor;

    /// Does it use stores, timers or wall-clock punctuations? True unless said otherwise; a topology of such nodes has
    /// a changelog.
    fn is_stateful(&self) -> bool {
        true
    }

    /// Must all records of a key come to the same task? After a `key_by` such a node reads from a topic in between.
    /// True for what is stateful, unless said otherwise.
    fn needs_key_together(&self) -> bool {
        self.is_stateful()
    }

    /// Does it give records other keys? Then what depends on the key below reads from a topic in between.
    fn changes_key(&self) -> bool {
        false
    }

    /// Names of its outputs, read as `from: NODE.OUTPUT`; empty where it has just one, without a name.
    fn ports(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is wrong with the settings. Fields are paths such as `limits.low`, or empty.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The expressions among the settings: they are compiled when the file is loaded.
    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        Vec::new()
    }

    /// For graphs: the kind and what matters most.
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
