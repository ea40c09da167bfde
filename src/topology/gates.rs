//! Nodes that wait for what other consumer groups have committed: where they may stand, and whom they may wait for.
//!
//! A gate compares offsets, so it stands where records still have those of the topic that the groups read: directly behind
//! a source that reads Kafka.

use super::builder::problem;
use super::{Node, NodeKind, Settings, Topology};
use crate::model::Problem;

pub(super) fn check(name: &str, settings: &Settings, nodes: &[Node], problems: &mut Vec<Problem>) {
    for node in nodes {
        let NodeKind::Operator(config) = &node.kind else { continue };
        let Some(watches) = config.watches() else { continue };
        let kind = config.kind_name();
        let mut wrong = |field: &str, message: &str, help: &str| {
            let field = if field == "from" { field.to_owned() } else { format!("{kind}.{field}") };
            problems.push(problem("graph::gate", &node.name, &field, message, Some(help.into())));
        };
        for input in &node.inputs {
            let above = &nodes[input.node];
            let topics = match &above.kind {
                NodeKind::Source(source) => source.topics(),
                NodeKind::Operator(_) | NodeKind::Sink(_) => Vec::new(),
            };
            if topics.is_empty() {
                let message = format!(
                    "`{}` is no source that reads Kafka: its records have no offsets there",
                    above.name
                );
                wrong(
                    "from",
                    &message,
                    "let the gate read the source itself, and the other node read the gate",
                );
            } else if above.is_global() {
                let message =
                    format!("`{}` is a global table, which is read whole before anything runs", above.name);
                wrong("from", &message, "remove `global: true`");
            } else if let (Some(topic), [_, _, ..]) = (watches.topic, topics.as_slice()) {
                let message = format!(
                    "the source reads several topics, whose offsets cannot all be those of `{topic}`"
                );
                wrong("topic", &message, "write a source and a gate for each topic");
            }
        }
        if watches.groups.iter().any(|group| group == name) {
            let message = format!("`{name}` is this topology's own group: it would wait for itself for ever");
            wrong("groups", &message, "name the groups of other consumers");
        }
        if watches.dead_letter && settings.errors.dead_letter.is_none() {
            let help = "add `errors: { dead_letter: { topic: NAME } }`";
            wrong("on_timeout", "nothing says where dead letters go", help);
        }
    }
}

impl Topology {
    /// Does any node wait for what other consumer groups have committed?
    #[must_use]
    pub fn has_gates(&self) -> bool {
        let waits = |node: &Node| match &node.kind {
            NodeKind::Operator(config) => config.watches().is_some(),
            NodeKind::Source(_) | NodeKind::Sink(_) => false,
        };
        self.nodes.iter().any(waits)
    }
}
