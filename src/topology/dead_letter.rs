//! The dead letter: the topic of records that no node can process, as a sink like any other.
//!
//! Called by the builder behind everything else that it puts in. The node reads no other node and is in no
//! sub-topology: every task delivers to it. What is in a dead letter is `runtime/task/dead_letter.rs`'s.

use super::{Errors, Made, Node, NodeKind, Topology};
use crate::model::Problem;
use crate::operators::NodePlan;
use crate::sinks::SinkConfig;

/// The node's name, in logs and metrics.
pub(super) const NAME: &str = "dead_letter";

/// Puts the sink in, where the topology has a dead letter.
///
/// # Errors
/// Its name is taken.
pub(super) fn insert(errors: &Errors, nodes: &mut Vec<Node>) -> Result<(), Vec<Problem>> {
    let Some(dead_letter) = &errors.dead_letter else { return Ok(()) };
    if nodes.iter().any(|node| node.name == NAME) {
        let message = "the topology itself names the sink of its dead letters like this";
        let problem = Problem::new("graph::duplicate", message).of(NAME);
        return Err(vec![problem.help("give this node another name")]);
    }
    let sink = SinkConfig::as_they_are(dead_letter.topic.clone());
    nodes.push(Node {
        name: NAME.to_owned(),
        kind: NodeKind::Sink(Box::new(sink)),
        inputs: Vec::new(),
        table: None,
        lookups: Vec::new(),
        plan: NodePlan::default(),
        made: Made::DeadLetter,
    });
    Ok(())
}

impl Topology {
    /// The sink of records that no node can process, where there is one.
    #[must_use]
    pub fn dead_letter(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.made == Made::DeadLetter)
    }

    /// The topic that it writes. The topology makes it.
    #[must_use]
    pub fn dead_letter_topic(&self) -> Option<&str> {
        match &self.nodes[self.dead_letter()?].kind {
            NodeKind::Sink(sink) => sink.topic(),
            NodeKind::Source(_) | NodeKind::Operator(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::BlackholeConfig;
    use crate::sources::{KafkaSource, SourceConfig};
    use crate::topology::{DeadLetter, Settings, TopologyBuilder};

    fn build(sink: &str, dead_letter: bool) -> Result<Topology, Vec<Problem>> {
        let dead_letter = dead_letter.then(|| DeadLetter { topic: "in.dlq".into() });
        let errors = Errors { dead_letter, on_failure: None };
        let source = KafkaSource { topic: Some("in".into()), ..KafkaSource::default() };
        TopologyBuilder::new("t")
            .settings(Settings { errors, ..Settings::default() })
            .source("in", SourceConfig::Kafka(source))
            .sink(sink, ["in"], SinkConfig::Blackhole(BlackholeConfig::default()))
            .build()
    }

    #[test]
    fn it_is_a_node_of_no_task_and_of_no_picture() {
        let topology = build("out", true).expect("is sound");
        let n = topology.dead_letter().expect("is there");
        assert_eq!((n, topology.nodes[n].name.as_str()), (2, "dead_letter"));
        assert_eq!(topology.dead_letter_topic(), Some("in.dlq"));
        assert_eq!(topology.subs.iter().map(|sub| sub.nodes.clone()).collect::<Vec<_>>(), [[0, 1]]);
        assert_eq!(topology.written_topics(), [], "the topology makes it itself");
        assert!(!topology.mermaid().contains("dlq") && !topology.dot().contains("dlq"));
        assert_eq!(build("out", false).expect("is sound").dead_letter(), None);
    }

    #[test]
    fn its_name_is_free_where_there_is_none() {
        assert!(build("dead_letter", false).is_ok());
        let problems = build("dead_letter", true).expect_err("two of that name");
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!((problem.code, problem.node.as_deref()), ("graph::duplicate", Some("dead_letter")));
    }
}
