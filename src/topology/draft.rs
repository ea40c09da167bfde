//! A graph whose names are resolved: what stands between a [`TopologyBuilder`](super::TopologyBuilder) and its
//! [`Topology`]. What each node reads is known, so whatever follows the records from the sources down (the types of
//! expressions) goes along it, and then it becomes the topology.
//!
//! It may have gaps: names that were not found, nodes that were not read whole. Then no topology comes of it, but every
//! problem that does not only follow from a gap is found.

use std::collections::{BTreeMap, BTreeSet};

use super::builder::{of_nth, problem};
use super::checks::{check_settings, check_table};
use super::names::Read;
use super::{
    Changelog, Made, Node, Settings, Topology, dead_letter, endpoints, foreign, formats, gates, joins,
    limits, origins, repartition, sub, windowed,
};
use crate::endpoints::EndpointConfig;
use crate::formats::NamedSchemas;
use crate::kafka::KafkaConfig;
use crate::model::{Problem, Shape};

/// A graph whose names are resolved.
pub(crate) struct Draft {
    pub(super) name: String,
    pub(super) settings: Settings,
    pub(super) nodes: Vec<Node>,
    pub(super) reads: Vec<Read>,
    /// By node: were its settings read whole?
    pub(super) whole: Vec<bool>,
    /// By node: of several with its name, which is it?
    pub(super) nth: Vec<usize>,
    /// Some nodes are not there at all, or what is there was not read.
    pub(super) has_gaps: bool,
    pub(super) schemas: BTreeMap<String, Shape>,
    pub(super) named_schemas: NamedSchemas,
    /// What was found so far.
    pub(super) problems: Vec<Problem>,
}

impl Draft {
    /// The nodes in declared order.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Everything that is no node.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The endpoints, whose expressions are to be compiled.
    pub(crate) fn endpoints_mut(&mut self) -> impl Iterator<Item = &mut EndpointConfig> {
        self.settings.endpoints.values_mut()
    }

    /// The names of the nodes whose settings were read whole.
    pub(crate) fn whole(&self) -> BTreeSet<&str> {
        let nodes = self.nodes.iter().zip(&self.whole);
        nodes.filter(|(_, whole)| **whole).map(|(node, _)| node.name.as_str()).collect()
    }

    /// What the values of a source have to be, where that was said.
    pub(crate) fn schema(&self, source: &str) -> Option<&Shape> {
        self.schemas.get(source)
    }

    /// See [`Topology::missing_kafka`].
    pub(crate) fn missing_kafka(&self) -> Vec<Problem> {
        super::missing_kafka(&self.settings, &self.nodes)
    }

    /// What librdkafka refuses of the cluster's settings.
    pub(crate) fn refused_kafka(&self) -> Vec<Problem> {
        let refused = self.settings.kafka.iter().flat_map(KafkaConfig::refused);
        let place = |problem: Problem| {
            let field = format!("kafka.{}", problem.field);
            problem.field(field.trim_end_matches('.'))
        };
        refused.map(place).collect()
    }

    /// Visits every node behind those that it reads, with what was found at them: one for each name in its `from` and one
    /// for its `with`. `None` for a name that was not found, for a node that was not read whole, and in a circle for one
    /// that comes later.
    pub(crate) fn follow<T>(
        &mut self,
        mut visit: impl FnMut(&mut Node, &[Option<&T>], Option<Option<&T>>) -> T,
    ) {
        let mut found: Vec<Option<T>> = self.nodes.iter().map(|_| None).collect();
        for n in self.order() {
            let Read { from, with } = &self.reads[n];
            let at = |input: &Option<super::Input>| found[(*input)?.node].as_ref();
            let from: Vec<Option<&T>> = from.iter().map(at).collect();
            let with = with.as_ref().map(at);
            let result = visit(&mut self.nodes[n], &from, with);
            found[n] = Some(result).filter(|_| self.whole[n]);
        }
    }

    /// The nodes, each behind those that it reads; at the end those of circles and below them.
    fn order(&self) -> Vec<usize> {
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        let mut waits_for: Vec<usize> = vec![0; self.nodes.len()];
        for (n, read) in self.reads.iter().enumerate() {
            for above in read.nodes() {
                readers[above].push(n);
                waits_for[n] += 1;
            }
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).filter(|n| waits_for[*n] == 0).collect();
        let mut next = 0;
        while let Some(&n) = order.get(next) {
            next += 1;
            for &reader in &readers[n] {
                waits_for[reader] -= 1;
                if waits_for[reader] == 0 {
                    order.push(reader);
                }
            }
        }
        order.extend((0..self.nodes.len()).filter(|n| waits_for[*n] > 0));
        order
    }

    /// By node: is everything known of it and of all that is above it?
    fn known(&self, order: &[usize]) -> Vec<bool> {
        let mut known = vec![false; self.nodes.len()];
        for &n in order {
            let read = &self.reads[n];
            known[n] = self.whole[n] && read.is_whole() && read.nodes().all(|above| known[above]);
        }
        known
    }

    /// The nodes of the first circle, against the direction of the records.
    fn circle(&self, order: &[usize]) -> Option<Vec<usize>> {
        let mut settled = vec![false; self.nodes.len()];
        for &n in order {
            settled[n] = self.reads[n].nodes().all(|above| settled[above]);
        }
        let mut path = vec![settled.iter().position(|settled| !settled)?];
        loop {
            let next = self.reads[*path.last()?].nodes().find(|above| !settled[*above])?;
            if let Some(from) = path.iter().position(|n| *n == next) {
                return Some(path.split_off(from));
            }
            path.push(next);
        }
    }

    /// The topology.
    ///
    /// # Errors
    /// Every problem found, from the builder's on; none where all that is wrong is that there are gaps.
    pub(crate) fn finish(self) -> Result<Topology, Vec<Problem>> {
        let order = self.order();
        let known = self.known(&order);
        let circle = self.circle(&order);
        let Draft {
            name,
            settings,
            mut nodes,
            reads,
            whole,
            nth,
            has_gaps,
            schemas,
            named_schemas,
            mut problems,
        } = self;
        // What else is wrong with settings that were not read whole may only follow from that.
        for (n, node) in nodes.iter().enumerate().filter(|(n, _)| whole[*n]) {
            let before = problems.len();
            check_settings(&node.name, &node.kind, &settings, &mut problems);
            check_table(&node.name, &node.kind, node.table.as_ref(), &settings, &mut problems);
            of_nth(&mut problems[before..], nth[n]);
        }
        let withs: Vec<_> = reads.iter().map(|read| read.with.flatten()).collect();
        let certain: Vec<bool> = (0..nodes.len())
            .map(|n| whole[n] && reads[n].is_whole() && reads[n].nodes().all(|above| whole[above]))
            .collect();
        joins::settle(&mut nodes, &withs, &order, &certain, &mut problems);
        gates::check(&name, &settings, &nodes, &mut problems);
        let gaps = has_gaps || whole.contains(&false) || known.contains(&false);
        windowed::settle_grace(&mut nodes, &order, &known, &mut problems);
        if let Some(circle) = &circle {
            problems.push(in_a_circle(&nodes, circle));
        } else {
            let taken = [
                repartition::insert(&name, &mut nodes),
                foreign::insert(&name, &mut nodes),
                dead_letter::insert(&settings.errors, &mut nodes),
            ];
            // What has gaps may need no topic in between.
            problems.extend(taken.into_iter().filter_map(Result::err).filter(|_| !gaps).flatten());
        }
        let subs = sub::cut(&nodes);
        let of_known = |n: usize| match nodes[n].made {
            Made::For(owner) => known[owner],
            Made::Declared | Made::DeadLetter => known.get(n).copied().unwrap_or(true),
        };
        let known_subs: Vec<_> =
            subs.iter().filter(|sub| sub.nodes.iter().all(|n| of_known(*n))).cloned().collect();
        let found = [
            sub::check_lines(&nodes, &known_subs),
            limits::check(&settings, &nodes, &known_subs),
            formats::check_keys(&nodes, &known_subs),
            if gaps || circle.is_some() { Ok(()) } else { origins::settle(&mut nodes, &subs) },
        ];
        problems.extend(found.into_iter().filter_map(Result::err).flatten());
        if gaps || !problems.is_empty() {
            return Err(problems);
        }
        let replayed = settings.state.changelog == Changelog::Off;
        nodes.iter_mut().for_each(|node| node.plan.replayed = replayed);
        let topology = Topology { name, settings, nodes, subs, schemas, named_schemas };
        match endpoints::check_stores(&topology) {
            problems if problems.is_empty() => Ok(topology),
            problems => Err(problems),
        }
    }
}

fn in_a_circle(nodes: &[Node], circle: &[usize]) -> Problem {
    let first = &nodes[circle[0]].name;
    let mut ring = vec![first.as_str()];
    ring.extend(circle.iter().rev().map(|n| nodes[*n].name.as_str()));
    problem(
        "graph::cycle",
        first,
        "from",
        &format!("the nodes read each other in a circle: {}", ring.join(" -> ")),
        Some("let one of them read from somewhere else, or put a topic between them".into()),
    )
}
