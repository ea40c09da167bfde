//! The topics that a topology writes but does not create: they must exist.

use super::{NodeKind, Topology};

/// A topic that a sink writes, and where the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenTopic {
    /// The topic.
    pub topic: String,
    /// The sink.
    pub node: String,
}

impl WrittenTopic {
    /// The sink's field with its name.
    pub const FIELD: &'static str = "kafka.topic";
}

impl Topology {
    /// The topics of Kafka sinks, once each, in declared order. Not those that the topology creates: repartition
    /// topics, changelogs, the dead letter.
    #[must_use]
    pub fn written_topics(&self) -> Vec<WrittenTopic> {
        let declared = self.nodes.iter().filter(|node| node.is_declared());
        let written = declared.filter_map(|node| match &node.kind {
            NodeKind::Sink(sink) => {
                Some(WrittenTopic { topic: sink.topic()?.to_owned(), node: node.name.clone() })
            }
            NodeKind::Source(_) | NodeKind::Operator(_) => None,
        });
        written.collect()
    }
}
