//! Operators of a user's own, written in Rust outside of this crate.
//!
//! A [`CustomOperator`] is what stands in the topology: the settings, under a kind of its own. It makes a [`Processor`]
//! for each task, which does the work: records come in, punctuations and timers fire, state is in named stores. YAML
//! learns of the kind through [`crate::yaml::Registry`], the Rust DSL through [`NodeConfig::custom`]. From there on it
//! is a node like any other: its stores, timers and schedules are in the checkpoint and in the changelog, it is
//! restored, simulated and looked into as the built-in ones are.
//!
//! The rules of every operator hold here too, and nothing can enforce them: no awaiting, no clock but the one in the
//! context, no chance, nothing kept in memory that is not also in a store. The same records give the same results.

mod node;
mod processor;
mod schedule;

use std::fmt;

use super::settings::{Exprs, Sends, Windows};
use super::shared::describe::Described;
use super::{NodeConfig, Operator, OperatorSettings};
use crate::model::{Expr, Problem};

pub use processor::{NamedStore, Processor, ProcessorCx};
pub use schedule::{Clock, Punctuator};

/// Settings of an operator of the user's own. To stand in YAML it must also be `serde::Deserialize` (without `flatten`,
/// `untagged` and internal tags: they lose places); every mistake in its settings is shown in its place.
///
/// What a kind is called and which stores it has is identity, as with every node: to change how rows are written, give
/// the store a new name.
pub trait CustomOperator: Clone + fmt::Debug + Send + Sync + 'static {
    /// The key in YAML: letters, digits, `-` and `_`; none of slackwater's own kinds.
    const KIND: &'static str;

    /// What does the work.
    type Processor: Processor;

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

    /// What is wrong with the settings: field (a path such as `limits.low`, or empty), message, help.
    fn check(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// The expressions among the settings: they are compiled when the file is loaded.
    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        Vec::new()
    }

    /// For graphs: the kind and what matters most.
    fn label(&self) -> String {
        Self::KIND.into()
    }
}

/// A [`CustomOperator`] as a node of a topology.
pub struct CustomConfig(Box<dyn Erased>);

impl CustomConfig {
    /// These settings.
    #[must_use]
    pub fn new(config: impl CustomOperator) -> CustomConfig {
        CustomConfig(Box::new(config))
    }
}

impl OperatorSettings for CustomConfig {
    fn build(&self) -> Box<dyn Operator> {
        self.0.build()
    }
    fn own_kind(&self) -> Option<&'static str> {
        Some(self.0.kind())
    }
    fn state_kind(&self, kind: &'static str) -> Option<&'static str> {
        self.0.is_stateful().then_some(kind)
    }
    fn changes_key(&self) -> bool {
        self.0.changes_key()
    }
    fn needs_key_together(&self) -> bool {
        self.0.needs_key_together()
    }
    fn holds_records(&self) -> bool {
        true
    }
    fn sends(&self) -> Sends {
        Sends::Stream
    }
    fn windows(&self) -> Windows {
        Windows::Unknown
    }
    fn describe(&self, key: &[u8], value: &[u8]) -> Option<Described> {
        node::describe_row(key, value)
    }
    fn ports(&self) -> Vec<String> {
        self.0.ports()
    }
    fn exprs_mut(&mut self) -> Exprs<'_> {
        self.0.exprs_mut().into_iter().map(|e| (e, &[] as &[&str])).collect()
    }
    /// What is wrong, with fields as seen from the node.
    fn check(&self) -> Vec<Problem> {
        let kind = self.0.kind();
        let mut problems = self.0.check();
        for Problem { field, .. } in &mut problems {
            *field = if field.is_empty() { kind.into() } else { format!("{kind}.{field}") };
        }
        problems
    }
    fn label(&self, _kind: &'static str) -> String {
        self.0.label()
    }
}

impl Clone for CustomConfig {
    fn clone(&self) -> Self {
        CustomConfig(self.0.boxed())
    }
}

impl fmt::Debug for CustomConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl NodeConfig {
    /// An operator of the user's own, for the Rust DSL.
    #[must_use]
    pub fn custom(config: impl CustomOperator) -> NodeConfig {
        NodeConfig::Custom(CustomConfig::new(config))
    }
}

/// [`CustomOperator`] without its types.
trait Erased: fmt::Debug + Send + Sync {
    fn boxed(&self) -> Box<dyn Erased>;
    fn kind(&self) -> &'static str;
    fn build(&self) -> Box<dyn Operator>;
    fn is_stateful(&self) -> bool;
    fn needs_key_together(&self) -> bool;
    fn changes_key(&self) -> bool;
    fn ports(&self) -> Vec<String>;
    fn check(&self) -> Vec<Problem>;
    fn exprs_mut(&mut self) -> Vec<&mut Expr>;
    fn label(&self) -> String;
}

impl<C: CustomOperator> Erased for C {
    fn boxed(&self) -> Box<dyn Erased> {
        Box::new(self.clone())
    }
    fn kind(&self) -> &'static str {
        C::KIND
    }
    fn build(&self) -> Box<dyn Operator> {
        Box::new(node::ProcessorNode::new(self.processor()))
    }
    fn is_stateful(&self) -> bool {
        CustomOperator::is_stateful(self)
    }
    fn needs_key_together(&self) -> bool {
        CustomOperator::needs_key_together(self)
    }
    fn changes_key(&self) -> bool {
        CustomOperator::changes_key(self)
    }
    fn ports(&self) -> Vec<String> {
        CustomOperator::ports(self)
    }
    fn check(&self) -> Vec<Problem> {
        CustomOperator::check(self)
    }
    fn exprs_mut(&mut self) -> Vec<&mut Expr> {
        CustomOperator::exprs_mut(self)
    }
    fn label(&self) -> String {
        CustomOperator::label(self)
    }
}
