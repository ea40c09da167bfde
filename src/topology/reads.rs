//! What can be read of a topology's state from outside: which nodes keep rows, where a key's rows are, and which records
//! a node's rows have taken in.

use super::{NodeKind, Topology};

/// How the rows of a node are found by their key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readable {
    /// The sub-topology whose tasks have them; `None` is a global table, which every instance has whole.
    pub sub: Option<usize>,
    /// Kafka topics that those tasks read.
    pub topics: Vec<String>,
    /// The topics of which a record is in the node's rows as soon as its task has gone past it. A record that comes to
    /// the node through another topic, or through a node that holds records back, is not known to be in them.
    pub positions: Vec<String>,
    /// Others may write one of the topics, with a partitioner of theirs: a key's partition is then a guess.
    pub foreign: bool,
}

impl Topology {
    /// Does a node keep rows that can be shown?
    #[must_use]
    pub fn keeps_rows(&self, node: usize) -> bool {
        match &self.nodes[node].kind {
            NodeKind::Operator(config) => config.is_stateful(&self.nodes[node].plan),
            NodeKind::Sink(_) => self.readers(node).next().is_some(),
            NodeKind::Source(_) => self.nodes[node].table.is_some(),
        }
    }

    /// Does an endpoint read the rows of a node?
    #[must_use]
    pub fn reads_state(&self) -> bool {
        self.settings.endpoints.values().any(|endpoint| endpoint.stores().next().is_some())
    }

    /// How a node's rows are found; `None`: it keeps none.
    #[must_use]
    pub fn readable(&self, node: usize) -> Option<Readable> {
        if !self.keeps_rows(node) {
            return None;
        }
        let Some(sub) = self.subs.iter().position(|sub| sub.nodes.contains(&node)) else {
            return Some(Readable { sub: None, topics: Vec::new(), positions: Vec::new(), foreign: false });
        };
        let topics = self.subs[sub].topics.clone();
        let ours: Vec<String> = self.repartitions().into_iter().map(|r| r.topic).collect();
        let positions = self.taken_in(node).into_iter().filter(|topic| !ours.contains(topic)).collect();
        let foreign = topics.iter().any(|topic| !ours.contains(topic));
        Some(Readable { sub: Some(sub), topics, positions, foreign })
    }

    /// The topics whose records reach a node in the step that reads them, whatever the way: a topic that also comes by way
    /// of a node that holds records back is not among them.
    fn taken_in(&self, node: usize) -> Vec<String> {
        let (mut at_once, mut later) = (Vec::new(), Vec::new());
        let (mut seen, mut next) = (Vec::new(), vec![(node, false)]);
        while let Some((n, held)) = next.pop() {
            if seen.contains(&(n, held)) {
                continue;
            }
            seen.push((n, held));
            let held = held
                || n != node
                    && match &self.nodes[n].kind {
                        NodeKind::Source(_) => false,
                        NodeKind::Operator(config) => config.holds_records(&self.nodes[n].plan),
                        // It waits until its rows are durable.
                        NodeKind::Sink(_) => true,
                    };
            if let NodeKind::Source(source) = &self.nodes[n].kind {
                let topics = if held { &mut later } else { &mut at_once };
                topics.extend(source.topics().into_iter().map(str::to_owned));
            }
            let read = self.nodes[n].inputs.iter().map(|input| input.node);
            next.extend(read.map(|input| (input, held)));
        }
        at_once.retain(|topic| !later.contains(topic));
        at_once.sort();
        at_once.dedup();
        at_once
    }
}
