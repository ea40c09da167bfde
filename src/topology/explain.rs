//! Describes a topology: what runs together, by which key, with what state and which internal topics.

use serde::Serialize;

use super::{Changelog, ClockMode, Guarantee, Made, NodeKind, OnFailure, Topology};
use crate::operators::Sends;

/// The result of `slackwater explain`; the fields' names are those of its JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Consumer group and prefix of internal topics.
    pub name: String,
    /// The guarantees, one sentence each.
    pub guarantees: Vec<String>,
    /// Sets of nodes that run together: one task of each per partition.
    pub sub_topologies: Vec<SubExplanation>,
    /// What becomes of records that cannot be processed.
    pub errors: String,
    /// Its HTTP routes, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointExplanation>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointExplanation {
    /// Its name.
    pub name: String,
    /// Method and path.
    pub route: String,
    /// What is done with a request, in short.
    pub what: String,
}

/// One sub-topology.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubExplanation {
    /// Named after its first source.
    pub name: String,
    /// The topics of which a task reads one partition each.
    pub reads: Vec<String>,
    /// The changelog, if it has one.
    pub changelog: Option<String>,
    /// Repartition topics that it writes: through them records get to the task of their new key.
    pub repartition_topics: Vec<RepartitionExplanation>,
    /// Its nodes in declared order.
    pub nodes: Vec<NodeExplanation>,
}

/// One internal topic between two sub-topologies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepartitionExplanation {
    /// The topic.
    pub topic: String,
    /// The node whose key it is.
    pub node: String,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeExplanation {
    /// Its name.
    pub name: String,
    /// Source, operator or sink.
    pub role: &'static str,
    /// Its kind and settings in short.
    pub what: String,
    /// What it reads.
    pub from: Vec<String>,
    /// By what its records are keyed from here on.
    pub key: String,
    /// What it sends: `table` (rows, with their changes), `changes` (those of a table, each a record) or `stream`.
    pub sends: &'static str,
    /// Its state, if any.
    pub state: Option<String>,
    /// The guarantee of a sink.
    pub writes: Option<&'static str>,
}

impl Topology {
    /// Describes the topology.
    #[must_use]
    pub fn explain(&self) -> Explanation {
        let (keys, forms) = (self.keys(), self.forms());
        let repartitions = self.repartitions();
        let subs = self.subs.iter().enumerate();
        let sub_topologies = subs
            .map(|(n, sub)| {
                let written = repartitions.iter().filter(|r| sub.nodes.contains(&r.sink));
                let nodes = sub.nodes.iter().filter(|n| self.nodes[**n].is_declared());
                SubExplanation {
                    name: sub.name.clone(),
                    reads: sub.topics.clone(),
                    changelog: self.changelog(n).filter(|_| self.settings.state.changelog == Changelog::On),
                    repartition_topics: written
                        .map(|r| RepartitionExplanation {
                            topic: r.topic.clone(),
                            node: self.nodes[r.node].name.clone(),
                        })
                        .collect(),
                    nodes: nodes.map(|n| self.explain_node(*n, &keys, &forms)).collect(),
                }
            })
            .collect();
        let errors = match (self.settings.errors.policy(), self.dead_letter_topic()) {
            (OnFailure::DeadLetter, Some(topic)) => {
                format!("a record that cannot be processed goes to `{topic}`, with its reason")
            }
            (OnFailure::Skip, _) => "a record that cannot be processed is dropped and counted".to_owned(),
            _ => "a record that cannot be processed stops its task".to_owned(),
        };
        let endpoints = self.settings.endpoints.iter().map(|(name, endpoint)| EndpointExplanation {
            name: name.clone(),
            route: endpoint.route.to_string(),
            what: endpoint.label(),
        });
        Explanation {
            name: self.name.clone(),
            guarantees: self.guarantees(),
            sub_topologies,
            errors,
            endpoints: endpoints.collect(),
        }
    }

    fn guarantees(&self) -> Vec<String> {
        let settings = &self.settings;
        let mut out = Vec::new();
        let stateful = self.subs.iter().any(|sub| sub.stateful);
        match settings.state.changelog {
            Changelog::On if stateful => out.push(format!(
                "state is exactly once: every {} what changed and the source offsets are committed in one transaction",
                settings.state.checkpoint
            )),
            Changelog::Off if stateful => {
                out.push("state is made again from the oldest event without a durable effect".to_owned());
            }
            Changelog::On | Changelog::Off => out.push(format!(
                "source offsets are committed every {}, behind what they caused",
                settings.state.checkpoint
            )),
        }
        out.push(match settings.guarantee {
            Guarantee::ExactlyOnce => {
                "records to Kafka are exactly once for readers with isolation.level=read_committed".to_owned()
            }
            Guarantee::AtLeastOnce => "sinks are at least once, in the order of each key".to_owned(),
        });
        out.push(match settings.time.clock {
            ClockMode::Hybrid => format!(
                "time is that of the records, at most {} ahead of the wall clock, and the wall clock's where a source \
                 is caught up",
                settings.time.max_skew
            ),
            ClockMode::Stream => "time is that of the records alone".to_owned(),
        });
        out
    }

    /// The key of the records that leave each node. A node comes after those that it reads, except nodes that the
    /// topology put in.
    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<Option<String>> = vec![None; self.nodes.len()];
        // Nodes that the topology put in are at the end of the list, so a chain may need one round per node.
        for _ in 0..self.nodes.len() {
            let before = keys.clone();
            for n in 0..self.nodes.len() {
                keys[n] = self.key_of(n, &keys);
            }
            if keys == before {
                break;
            }
        }
        keys.into_iter().map(|key| key.unwrap_or_else(|| "the record's key".into())).collect()
    }

    fn key_of(&self, n: usize, keys: &[Option<String>]) -> Option<String> {
        let node = &self.nodes[n];
        let own = match &node.kind {
            NodeKind::Source(source) => {
                let from = self.repartitions().into_iter().find(|r| r.source == n);
                return match from {
                    Some(r) => keys[self.nodes[r.sink].inputs.first()?.node].clone(),
                    None if source.topics().is_empty() => Some("the record's key".into()),
                    None => Some("the topic's key".into()),
                };
            }
            // The record has its own key again, as before the node above.
            NodeKind::Operator(config) if config.restores_key(&self.nodes[n].plan) => {
                let before =
                    self.nodes.iter().find(|node| node.made == Made::For(n) && !node.inputs.is_empty())?;
                return keys[before.inputs.first()?.node].clone();
            }
            NodeKind::Operator(config) => config.key_expr(),
            NodeKind::Sink(_) => None,
        };
        if own.is_some() {
            return own;
        }
        // A join's result has the left key; several inputs may each have their own.
        let joins = matches!(&node.kind, NodeKind::Operator(config) if config.with().is_some());
        let read = if joins { &node.inputs[..1.min(node.inputs.len())] } else { &node.inputs[..] };
        let mut found: Vec<&str> = Vec::new();
        for key in read.iter().filter_map(|input| keys[input.node].as_deref()) {
            for one in key.split(" or ") {
                if !found.contains(&one) {
                    found.push(one);
                }
            }
        }
        (!found.is_empty()).then(|| found.join(" or "))
    }

    /// What each declared node sends.
    fn forms(&self) -> Vec<&'static str> {
        let edges: Vec<_> = (0..self.nodes.len()).map(|n| self.edges(n)).collect();
        let mut forms = vec!["stream"; self.nodes.len()];
        loop {
            let of_a_table = |n: usize| edges[n].iter().any(|(from, ..)| forms[*from] != "stream");
            let next: Vec<_> = (0..self.nodes.len()).map(|n| self.form(n, || of_a_table(n))).collect();
            if next == forms {
                return forms;
            }
            forms = next;
        }
    }

    /// What a node sends. `of_a_table`: whether it reads a table or its changes.
    fn form(&self, n: usize, of_a_table: impl Fn() -> bool) -> &'static str {
        let node = &self.nodes[n];
        if node.table.is_some() {
            return "table";
        }
        let changes = match &node.kind {
            NodeKind::Source(_) => false,
            NodeKind::Sink(_) => of_a_table(),
            NodeKind::Operator(config) => match config.sends(&node.plan) {
                Sends::Changes => true,
                Sends::Stream => false,
                Sends::AsRead => of_a_table(),
            },
        };
        if changes { "changes" } else { "stream" }
    }

    fn explain_node(&self, n: usize, keys: &[String], forms: &[&'static str]) -> NodeExplanation {
        let node = &self.nodes[n];
        let readers = self.readers(n).next().is_some();
        let (role, state, writes) = match &node.kind {
            NodeKind::Source(_) => ("source", node.table.map(|t| t.state_kind().to_owned()), None),
            NodeKind::Operator(config) => ("operator", config.state_shape(&node.plan), None),
            NodeKind::Sink(sink) => {
                let exactly = sink.topic().is_some() && self.settings.guarantee == Guarantee::ExactlyOnce;
                let state = readers.then(|| "rows on their way".to_owned());
                ("sink", state, Some(if exactly { "exactly once" } else { "at least once" }))
            }
        };
        NodeExplanation {
            name: node.name.clone(),
            role,
            what: self.label(n),
            from: self.edges(n).into_iter().map(|(from, port, _)| self.output_name(from, port)).collect(),
            key: keys[n].clone(),
            sends: forms[n],
            state,
            writes,
        }
    }

    /// A node's name, with that of its output if it has several.
    fn output_name(&self, n: usize, port: u16) -> String {
        let name = &self.nodes[n].name;
        self.port_name(n, port).map_or_else(|| name.clone(), |port| format!("{name}.{port}"))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::Expr;
    use crate::operators::{FilterConfig, KeyByConfig, MergeConfig, NodeConfig, TableConfig};
    use crate::sinks::{BlackholeConfig, SinkConfig};
    use crate::sources::{KafkaSource, SourceConfig};
    use crate::topology::TopologyBuilder;

    #[test]
    fn keys_and_tables_are_followed_through_the_graph() {
        let source = |topic: &str| {
            SourceConfig::Kafka(KafkaSource { topic: Some(topic.into()), ..KafkaSource::default() })
        };
        let expr = |text: &str| Expr::new(text, None);
        let filter = || NodeConfig::Filter(FilterConfig(expr("true")));
        let topology = TopologyBuilder::new("t")
            .source("s", source("s"))
            .table("rows", source("rows"), TableConfig::default())
            .operator("by-a", ["s"], NodeConfig::KeyBy(KeyByConfig(expr(".a"))))
            .operator("by-b", ["s"], NodeConfig::KeyBy(KeyByConfig(expr(".b"))))
            .operator("all", ["by-a", "by-b", "s"], NodeConfig::Merge(MergeConfig::default()))
            .operator("some-a", ["by-a"], filter())
            .operator("same", ["by-a", "some-a"], NodeConfig::Merge(MergeConfig::default()))
            .operator("on", ["rows"], filter())
            .operator("still-on", ["on"], filter())
            .operator("kept", ["still-on"], NodeConfig::Table(TableConfig::default()))
            .sink("out", ["all", "same", "kept"], SinkConfig::Blackhole(BlackholeConfig::default()))
            .build()
            .expect("a sound graph");
        let nodes: Vec<_> = topology.explain().sub_topologies.into_iter().flat_map(|sub| sub.nodes).collect();
        let check = |name: &str, key: &str, sends: &str| {
            let node = nodes.iter().find(|node| node.name == name).expect("is there");
            assert_eq!((node.key.as_str(), node.sends), (key, sends), "{name}");
        };
        let own = "the topic's key";
        check("s", own, "stream");
        check("by-a", ".a", "stream");
        check("all", ".a or .b or the topic's key", "stream");
        check("same", ".a", "stream");
        check("rows", own, "table");
        check("on", own, "changes");
        check("still-on", own, "changes");
        check("kept", own, "table");
    }
}
