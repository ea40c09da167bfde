//! The topics that a topology writes but does not create: they must exist.

use super::{NodeKind, Topology};

/// A topic that a sink or an endpoint writes, and where the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenTopic {
    /// The topic.
    pub topic: String,
    /// The sink; `None` for an endpoint.
    pub node: Option<String>,
    /// The field with its name: of the sink, or counted from the file's root.
    pub field: String,
}

impl Topology {
    /// The topics of Kafka sinks, then those of endpoints, in declared order. Not those that the topology creates:
    /// repartition topics, changelogs, the dead letter.
    #[must_use]
    pub fn written_topics(&self) -> Vec<WrittenTopic> {
        let declared = self.nodes.iter().filter(|node| node.is_declared());
        let sinks = declared.filter_map(|node| match &node.kind {
            NodeKind::Sink(sink) => Some(WrittenTopic {
                topic: sink.topic()?.to_owned(),
                node: Some(node.name.clone()),
                field: "kafka.topic".into(),
            }),
            NodeKind::Source(_) | NodeKind::Operator(_) => None,
        });
        let endpoints = self.settings.endpoints.iter().flat_map(|(name, endpoint)| {
            endpoint.written_topics().into_iter().map(move |(topic, field)| WrittenTopic {
                topic: topic.to_owned(),
                node: None,
                field: format!("endpoints.{name}.{field}"),
            })
        });
        sinks.chain(endpoints).collect()
    }
}
