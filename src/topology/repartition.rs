//! Repartition topics: an internal topic between a change of the key and a node that needs all records of a key
//! together.
//!
//! Called by the builder when the graph is valid. A task sees one partition, and the records of one *new* key come from
//! all of them. So each edge that leads from a node that changes the key (`key_by`, or the `by` of an aggregate or a
//! dedupe) to one that needs its keys together is cut: records are written to the topic
//! `<topology>-<node>-repartition`, partitioned by the new key as every Kafka client does it, and read again by the
//! tasks below. There is one topic per node that changes the key, however many nodes read it. There is none if no node
//! below needs it, if the key is changed again before that, or if no topic is read at all (then there is only one
//! task). The cut is directly below the node that changes the key, so order per new key holds from there on, also for
//! nodes such as `enrich` that only preserve it.
//!
//! The cut adds nodes like any other: a sink and a source; for `by` also a `key_by`, over a table instead a node that
//! sends both halves of a change to their groups, and before a dedupe one that keeps the record's own key in a header.
//! They are marked with [`Made::For`]; tasks, checkpoints and the test driver need not know about them.

use std::collections::BTreeMap;

use super::{Input, Made, Node, NodeKind, Topology};
use crate::model::{Expr, Problem};
use crate::operators::NodePlan;
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;

/// A repartition topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repartition {
    /// Its name.
    pub topic: String,
    /// The declared node that changes the key.
    pub node: usize,
    /// The internal sink that writes it.
    pub sink: usize,
    /// The internal source that reads it.
    pub source: usize,
}

/// Topics of one sub-topology that have different numbers of partitions.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}: {help}")]
pub struct Uneven {
    /// The node that needs them to be equal.
    pub node: String,
    /// Its field that names one of them.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// Cuts the graph where that is necessary. All nodes have their inputs; new ones are appended.
///
/// # Errors
/// A name or topic that the cut needs is taken.
pub(super) fn insert(topology: &str, nodes: &mut Vec<Node>) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    split_regrouping(nodes, &mut problems);
    let (leads, reading_topics) = (leading(nodes), reading_topics(nodes));
    for n in 0..nodes.len() {
        if !changes_key(&nodes[n]) || !reading_topics[n] {
            continue;
        }
        let readers: Vec<(usize, usize)> = (0..nodes.len())
            .flat_map(|r| (0..nodes[r].inputs.len()).map(move |i| (r, i)))
            .filter(|(r, i)| nodes[*r].inputs[*i].node == n && leads[*r])
            .collect();
        if readers.is_empty() {
            continue;
        }
        let made_for = nodes[n].made_for();
        let owner = made_for.unwrap_or(n);
        // An internal key change is `<node>-key`: the topic is named after the node that wants it. Behind a dedupe there
        // may be a second one: the one in front of it stays `<node>-id`.
        let base = match made_for {
            Some(_) => nodes[n].name.strip_suffix("-key").unwrap_or(&nodes[n].name).to_owned(),
            None => nodes[n].name.clone(),
        };
        let topic = format!("{topology}-{base}-repartition");
        if let Some(taken) = nodes.iter().find(|node| uses_topic(node, &topic)) {
            problems.push(Problem {
                code: "graph::repartition",
                node: Some(taken.name.clone()),
                field: "kafka.topic".into(),
                message: format!(
                    "the topic `{topic}` is the topology's own, between `{base}` and what it feeds"
                ),
                help: Some("give the topic another name".into()),
                ..Problem::default()
            });
        }
        let sink = SinkConfig::repartition(topic.clone());
        let inputs = vec![Input { node: n, port: 0 }];
        add(
            nodes,
            &format!("{base}-repartition"),
            NodeKind::Sink(Box::new(sink)),
            inputs,
            owner,
            &mut problems,
        );
        let source = NodeKind::Source(SourceConfig::repartition(topic));
        let source = add(nodes, &format!("{base}-repartitioned"), source, Vec::new(), owner, &mut problems);
        for (reader, input) in readers {
            nodes[reader].inputs[input] = Input { node: source, port: 0 };
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Puts a `key_by` in front of nodes that group by an expression of their own, and leaves them to group by the key.
fn split_regrouping(nodes: &mut Vec<Node>, problems: &mut Vec<Problem>) {
    for n in 0..nodes.len() {
        let inputs = nodes[n].inputs.clone();
        let NodeKind::Operator(config) = &mut nodes[n].kind else { continue };
        let Some(expr) = config.regroups_mut().filter(|expr| !expr.is_key()) else { continue };
        let by_key = Expr::new("key", expr.span());
        let wanted = std::mem::replace(expr, by_key);
        nodes[n].plan.grouped_by = Some(wanted.text().trim().to_owned());
        let NodeKind::Operator(config) = &nodes[n].kind else { continue };
        let (before, suffix) = config.regroup(wanted, &nodes[n].plan);
        let name = nodes[n].name.clone();
        let key = add(
            nodes,
            &format!("{name}-{suffix}"),
            NodeKind::Operator(Box::new(before)),
            inputs,
            n,
            problems,
        );
        nodes[n].inputs = vec![Input { node: key, port: 0 }];
    }
}

pub(super) fn add(
    nodes: &mut Vec<Node>,
    name: &str,
    kind: NodeKind,
    inputs: Vec<Input>,
    owner: usize,
    problems: &mut Vec<Problem>,
) -> usize {
    if nodes.iter().any(|n| n.name == name) {
        let base = &nodes[owner].name;
        problems.push(Problem {
            code: "graph::repartition",
            node: Some(name.to_owned()),
            field: String::new(),
            message: format!("the topology itself names what it puts around `{base}` like this"),
            help: Some("give this node another name".into()),
            ..Problem::default()
        });
    }
    nodes.push(Node {
        name: name.to_owned(),
        kind,
        inputs,
        table: None,
        lookups: Vec::new(),
        plan: NodePlan::default(),
        made: Made::For(owner),
    });
    nodes.len() - 1
}

fn changes_key(node: &Node) -> bool {
    matches!(&node.kind, NodeKind::Operator(config) if config.changes_key(&node.plan))
}

pub(super) fn uses_topic(node: &Node, topic: &str) -> bool {
    match &node.kind {
        NodeKind::Source(source) => source.topics().contains(&topic),
        NodeKind::Sink(sink) => sink.topic() == Some(topic),
        NodeKind::Operator(_) => false,
    }
}

/// For each node: whether records that come into it reach, with the same key, a node that needs its keys together.
fn leading(nodes: &[Node]) -> Vec<bool> {
    let mut leads: Vec<bool> = nodes
        .iter()
        .map(|n| matches!(&n.kind, NodeKind::Operator(config) if config.needs_key_together()))
        .collect();
    let mut left: Vec<usize> = (0..nodes.len()).filter(|n| leads[*n]).collect();
    while let Some(n) = left.pop() {
        for input in &nodes[n].inputs {
            if !leads[input.node] && !changes_key(&nodes[input.node]) {
                leads[input.node] = true;
                left.push(input.node);
            }
        }
    }
    leads
}

/// By node: does a record of a Kafka topic come to it?
pub(super) fn reading_topics(nodes: &[Node]) -> Vec<bool> {
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (n, node) in nodes.iter().enumerate() {
        node.inputs.iter().for_each(|input| readers[input.node].push(n));
    }
    let reads = |n: &Node| matches!(&n.kind, NodeKind::Source(source) if !source.topics().is_empty());
    let mut found: Vec<bool> = nodes.iter().map(reads).collect();
    let mut left: Vec<usize> = (0..nodes.len()).filter(|n| found[*n]).collect();
    while let Some(n) = left.pop() {
        for &reader in &readers[n] {
            if !std::mem::replace(&mut found[reader], true) {
                left.push(reader);
            }
        }
    }
    found
}

impl Topology {
    /// The topology's repartition topics, in the order of the nodes that change the key.
    #[must_use]
    pub fn repartitions(&self) -> Vec<Repartition> {
        let mut out = Vec::new();
        for (source, node) in self.nodes.iter().enumerate() {
            let (NodeKind::Source(config), Made::For(owner)) = (&node.kind, node.made) else { continue };
            let Some(topic) = config.topics().first().copied() else { continue };
            let writes = |n: &Node| matches!(&n.kind, NodeKind::Sink(s) if s.topic() == Some(topic));
            if let Some(sink) = self.nodes.iter().position(writes) {
                out.push(Repartition { topic: topic.to_owned(), node: owner, sink, source });
            }
        }
        out
    }

    /// The topics that sources read and that must exist: all but repartition topics, including those of global tables.
    #[must_use]
    pub fn external_topics(&self) -> Vec<String> {
        let own: Vec<String> = self.repartitions().into_iter().map(|r| r.topic).collect();
        let mut topics: Vec<String> = self.source_topics().into_iter().filter(|t| !own.contains(t)).collect();
        topics.extend(self.global_topics().into_iter().filter(|t| !self.source_topics().contains(t)));
        topics
    }

    /// Partitions of every topic that the group reads, from those of the external ones. A repartition topic has as
    /// many as the topics that it is read together with, else as many as the largest topic above it.
    ///
    /// # Errors
    /// Topics that are read together have different numbers.
    pub fn partition_counts(&self, found: &BTreeMap<String, i32>) -> Result<BTreeMap<String, i32>, Uneven> {
        let own = self.repartitions();
        let mut by_sub: Vec<i32> = Vec::new();
        let mut fixed: Vec<bool> = Vec::new();
        for (sub, part) in self.subs.iter().enumerate() {
            let counts: Vec<(&String, i32)> =
                part.topics.iter().filter_map(|t| Some((t, *found.get(t)?))).collect();
            if let Some((_, first)) = counts.first()
                && counts.iter().any(|(_, n)| n != first)
            {
                return Err(self.uneven(sub, &counts));
            }
            by_sub.push(counts.first().map_or(0, |(_, n)| *n));
            fixed.push(!counts.is_empty());
        }
        let sub_of = |n: usize| self.subs.iter().position(|s| s.nodes.contains(&n));
        // This ends, since numbers only grow, up to that of the largest external topic.
        loop {
            let mut moved = false;
            for r in &own {
                let (Some(from), Some(to)) = (sub_of(r.sink), sub_of(r.source)) else { continue };
                if !fixed[to] && by_sub[from] > by_sub[to] {
                    by_sub[to] = by_sub[from];
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        let mut counts = found.clone();
        for r in own {
            counts.insert(r.topic, sub_of(r.source).map_or(1, |sub| by_sub[sub].max(1)));
        }
        Ok(counts)
    }

    fn uneven(&self, sub: usize, counts: &[(&String, i32)]) -> Uneven {
        let part = &self.subs[sub];
        let joins = |n: &&usize| {
            matches!(&self.nodes[**n].kind, NodeKind::Operator(c) if c.needs_key_together())
                && self.nodes[**n].inputs.len() + self.nodes[**n].lookups.len() > 1
        };
        let node = part.nodes.iter().find(joins).map(|n| self.declared(*n));
        let field = match node.map(|node| &node.kind) {
            Some(NodeKind::Operator(config)) => config.meeting_field(),
            _ => "from".to_owned(),
        };
        let list: Vec<String> = counts.iter().map(|(t, n)| format!("`{t}` has {n}")).collect();
        let most = counts.iter().map(|(_, n)| *n).max().unwrap_or_default();
        // A stream can be read through another topic; a table could not.
        let through = counts.iter().filter_map(|(topic, n)| {
            let reads = |n: &&Node| matches!(n.kind, NodeKind::Source(_)) && uses_topic(n, topic);
            let source = part.nodes.iter().map(|n| &self.nodes[*n]).find(reads)?;
            (source.table.is_none() && source.is_declared()).then_some((*n, source.name.as_str()))
        });
        let help = match through.max_by_key(|(n, _)| *n) {
            Some((_, source)) => format!(
                "give them all {most}, or read one through a topic of the topology's own: `{source}-by-key: \
                 {{ from: {source}, key_by: key }}`, and `{source}-by-key` where `{source}` stands now"
            ),
            None => format!("give them all {most}"),
        };
        Uneven {
            node: node.map_or_else(|| part.name.clone(), |node| node.name.clone()),
            field,
            message: format!(
                "topics that are read together need the same number of partitions: {}",
                list.join(", ")
            ),
            help,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Millis;
    use crate::operators::aggregate::CountConfig;
    use crate::operators::{
        AggregateConfig, BranchConfig, DebounceConfig, DedupeConfig, FilterConfig, KeyByConfig, MergeConfig,
        NodeConfig,
    };
    use crate::sinks::{BlackholeConfig, KafkaSinkConfig};
    use crate::sources::{GenerateSource, KafkaSource, SourceConfig};
    use crate::topology::TopologyBuilder;

    /// `NAME FROM[,FROM] KIND` lines; `source` reads the topic of its name.
    fn build(lines: &[&str]) -> Result<Topology, Vec<Problem>> {
        let mut builder = TopologyBuilder::new("t");
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let (name, from, kind) = (words[0], words[1].split(','), words[2]);
            let expr = |text: &str| Expr::new(text, None);
            let kafka = |topic: &str| KafkaSource { topic: Some(topic.into()), ..KafkaSource::default() };
            let config = match kind {
                "source" => {
                    builder = builder.source(name, SourceConfig::Kafka(kafka(words.get(3).unwrap_or(&name))));
                    continue;
                }
                "generate" => {
                    let generate =
                        GenerateSource { rate: crate::model::Rate { per_second: 1.0 }, keys: 1, count: None };
                    builder = builder.source(name, SourceConfig::Generate(generate));
                    continue;
                }
                "sink" => {
                    builder = builder.sink(name, from, SinkConfig::Blackhole(BlackholeConfig::default()));
                    continue;
                }
                "to" => {
                    let config = KafkaSinkConfig::new(words[3]);
                    builder = builder.sink(name, from, SinkConfig::Kafka(config));
                    continue;
                }
                "key_by" => NodeConfig::KeyBy(KeyByConfig(expr(words.get(3).unwrap_or(&".k")))),
                "filter" => NodeConfig::Filter(FilterConfig(expr("true"))),
                "branch" => NodeConfig::Branch(BranchConfig(vec![("a".into(), expr("true"))])),
                "dedupe" => NodeConfig::Dedupe(DedupeConfig {
                    by: words.get(3).map(|by| expr(by)),
                    within: Millis::secs(1),
                }),
                "aggregate" => NodeConfig::Aggregate(AggregateConfig {
                    by: words.get(3).map(|by| expr(by)),
                    count: Some(CountConfig {}),
                    ..AggregateConfig::default()
                }),
                "merge" => NodeConfig::Merge(MergeConfig::default()),
                "debounce" => NodeConfig::Debounce(DebounceConfig::quiet(Millis::secs(1))),
                other => panic!("{other}"),
            };
            builder = builder.operator(name, from, config);
        }
        builder.build()
    }

    /// Sub-topologies as `topics: nodes`.
    fn subs(topology: &Topology) -> Vec<String> {
        let names = |nodes: &[usize]| {
            nodes.iter().map(|n| topology.nodes[*n].name.as_str()).collect::<Vec<_>>().join(" ")
        };
        topology.subs.iter().map(|s| format!("{}: {}", s.topics.join(" "), names(&s.nodes))).collect()
    }

    #[track_caller]
    fn check(lines: &[&str], expected: &[&str]) -> Topology {
        let topology = build(lines).expect("a sound graph");
        assert_eq!(subs(&topology), expected);
        topology
    }

    #[test]
    fn a_topic_appears_between_a_change_of_the_key_and_what_needs_it() {
        let topology = check(
            &["s - source", "k s key_by", "d k debounce", "out d sink"],
            &["s: s k k-repartition", "t-k-repartition: d out k-repartitioned"],
        );
        assert_eq!(topology.subs[1].name, "k-repartitioned", "named after its source, not its first node");
        let own = topology.repartitions();
        let expected = Repartition { topic: "t-k-repartition".into(), node: 1, sink: 4, source: 5 };
        assert_eq!(own, [expected]);
        assert_eq!(topology.external_topics(), ["s"]);
        assert_eq!(topology.source_topics(), ["s", "t-k-repartition"]);
        assert_eq!(topology.nodes[2].inputs, [Input { node: 5, port: 0 }]);
        assert!(!topology.subs[0].stateful && topology.subs[1].stateful);
    }

    #[test]
    fn no_topic_without_a_node_that_needs_it() {
        check(&["s - source", "k s key_by", "out k sink"], &["s: s k out"]);
        check(&["s - source", "d s debounce", "k d key_by", "out k sink"], &["s: s d k out"]);
        // One task anyway.
        check(&["s - generate", "k s key_by", "d k debounce", "out d sink"], &[": s k d out"]);
    }

    #[test]
    fn only_the_last_of_two_key_changes_counts_and_each_that_counts_has_its_topic() {
        check(
            &["s - source", "k s key_by", "l k key_by", "d l debounce", "out d sink"],
            &["s: s k l l-repartition", "t-l-repartition: d out l-repartitioned"],
        );
        check(
            &["s - source", "k s key_by", "d k debounce", "l d key_by", "e l debounce", "out e sink"],
            &[
                "s: s k k-repartition",
                "t-k-repartition: d l k-repartitioned l-repartition",
                "t-l-repartition: e out l-repartitioned",
            ],
        );
    }

    #[test]
    fn one_topic_for_all_readers_and_only_the_edges_that_need_it_are_cut() {
        check(
            &[
                "s - source",
                "k s key_by",
                "f k filter",
                "d f debounce",
                "e k debounce",
                "out f,d,e sink",
                "raw k sink",
            ],
            &["s: s k raw k-repartition", "t-k-repartition: f d e out k-repartitioned"],
        );
        check(
            &["s - source", "k s key_by", "b k branch", "m b.a,s merge", "d m debounce", "out d sink"],
            // The merge reads the source too: one sub-topology again, which reads what it wrote.
            &["s t-k-repartition: s k b m d out k-repartition k-repartitioned"],
        );
        check(
            &["s - source", "k s key_by", "l s key_by", "m k,l merge", "d m debounce", "out d sink"],
            &[
                "s: s k l k-repartition l-repartition",
                "t-k-repartition t-l-repartition: m d out k-repartitioned l-repartitioned",
            ],
        );
    }

    #[test]
    fn a_dedupe_reads_by_its_ids_and_what_follows_by_the_records_keys_again() {
        let topology = check(
            &["s - source", "u s dedupe .id", "out u sink"],
            &["s: s u-id u-id-repartition", "t-u-id-repartition: u out u-id-repartitioned"],
        );
        let keys: Vec<(String, String)> = topology
            .explain()
            .sub_topologies
            .into_iter()
            .flat_map(|sub| sub.nodes)
            .map(|node| (node.name, node.key))
            .collect();
        let own = "the topic's key".to_owned();
        assert_eq!(keys, ["s", "u", "out"].map(|name| (name.to_owned(), own.clone())));
        check(
            &["s - source", "u s dedupe .id", "d u debounce", "out d sink"],
            &[
                "s: s u-id u-id-repartition",
                "t-u-id-repartition: u u-repartition u-id-repartitioned",
                "t-u-repartition: d out u-repartitioned",
            ],
        );
        // Two inputs have one id.
        check(
            &["s - source", "r - source", "u s,r dedupe .id", "out u sink"],
            &["s r: s r u-id u-id-repartition", "t-u-id-repartition: u out u-id-repartitioned"],
        );
        let aggregate = check(
            &["s - source", "r - source", "a s,r aggregate .k", "out a sink"],
            &["s r: s r a-key a-repartition", "t-a-repartition: a out a-repartitioned"],
        );
        assert_eq!(
            aggregate.nodes[4].inputs,
            [0, 1].map(|node| Input { node, port: 0 }),
            "both, by the same key"
        );
        // The key is the id, or there is one task.
        check(&["s - source", "u s dedupe", "d u debounce", "out d sink"], &["s: s u d out"]);
        check(&["s - source", "u s dedupe key", "d u debounce", "out d sink"], &["s: s u d out"]);
        check(&["s - generate", "u s dedupe .id", "d u debounce", "out d sink"], &[": s u d out u-id"]);
    }

    #[test]
    fn names_that_the_cut_needs_must_be_free() {
        let code = |lines: &[&str]| {
            let problems = build(lines).expect_err("is refused");
            problems.iter().map(|p| (p.code, p.node.clone().unwrap_or_default())).collect::<Vec<_>>()
        };
        let graph = ["s - source", "k s key_by", "d k debounce", "k-repartition d sink"];
        assert_eq!(code(&graph), [("graph::repartition", "k-repartition".to_owned())]);
        let graph = ["s - source", "k s key_by", "d k debounce", "out d to t-k-repartition"];
        assert_eq!(code(&graph), [("graph::repartition", "out".to_owned())]);
        let graph = ["s - source t-k-repartition", "k s key_by", "d k debounce", "out d sink"];
        assert!(build(&["s - source", "k s key_by", "k-repartition k sink"]).is_ok(), "no topic, no names");
        assert!(code(&graph).iter().all(|(code, node)| *code == "graph::repartition" && node == "s"));
    }

    #[test]
    fn a_repartition_topic_is_as_large_as_its_neighbours() {
        let counts = |topology: &Topology, found: &[(&str, i32)]| {
            let found = found.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
            topology.partition_counts(&found)
        };
        let two = build(&[
            "a - source",
            "b - source",
            "k a key_by",
            "l b key_by",
            "m k,l merge",
            "d m debounce",
            "x d key_by",
            "e x debounce",
            "out e sink",
        ])
        .expect("sound");
        let all = counts(&two, &[("a", 3), ("b", 8)]).expect("different subs");
        let expected =
            [("a", 3), ("b", 8), ("t-k-repartition", 8), ("t-l-repartition", 8), ("t-x-repartition", 8)];
        assert_eq!(all, expected.into_iter().map(|(t, n)| (t.to_owned(), n)).collect());
        let with = build(&[
            "a - source",
            "b - source",
            "k a key_by key",
            "m k,b merge",
            "d m debounce",
            "out d sink",
        ])
        .expect("sound");
        let all = counts(&with, &[("a", 8), ("b", 3)]).expect("the other topic decides");
        assert_eq!(all.get("t-k-repartition"), Some(&3));
        let own =
            build(&["s - source", "k s key_by", "m k,s merge", "d m debounce", "out d sink"]).expect("sound");
        assert_eq!(counts(&own, &[("s", 5)]).expect("even").get("t-k-repartition"), Some(&5));
        let uneven =
            build(&["a - source", "b - source", "m a,b merge", "d m debounce", "out d sink"]).expect("sound");
        let error = counts(&uneven, &[("a", 2), ("b", 4)]).expect_err("uneven");
        assert!(error.message.contains("`a` has 2, `b` has 4"), "{error}");
        assert!(error.help.contains("`b-by-key: { from: b, key_by: key }`"), "{error}");
    }
}
