//! The names of a graph: what a `from` and a `with` mean.
//!
//! Called by the builder, once for each node.

use std::collections::{BTreeMap, BTreeSet};

use super::builder::{Given, problem};
use super::{Input, NodeKind};
use crate::model::{Problem, did_you_mean};

/// What a node reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Read {
    /// One for each name in `from`; `None` where it could not be found.
    pub(super) from: Vec<Option<Input>>,
    /// The node that it joins them with, in the same way; absent where it joins nothing.
    pub(super) with: Option<Option<Input>>,
}

impl Read {
    /// The nodes that it reads, those of `from` first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = usize> + '_ {
        self.from.iter().chain(&self.with).flatten().map(|input| input.node)
    }

    /// Was everything found?
    pub(super) fn is_whole(&self) -> bool {
        self.from.iter().chain(&self.with).all(Option::is_some)
    }
}

/// The nodes of a graph by name.
pub(super) struct Names<'a> {
    nodes: &'a [Given],
    /// Of several with one name the first.
    by_name: BTreeMap<&'a str, usize>,
    /// Nodes that were not read whole: what their outputs are is not known.
    misread: &'a BTreeSet<String>,
}

impl<'a> Names<'a> {
    /// Reports every node whose name another one has already. `nth`: by node, how many before it have its name.
    pub(super) fn new(
        nodes: &'a [Given],
        nth: &[usize],
        misread: &'a BTreeSet<String>,
        problems: &mut Vec<Problem>,
    ) -> Names<'a> {
        let mut by_name = BTreeMap::new();
        for (n, ((name, ..), &nth)) in nodes.iter().zip(nth).enumerate() {
            by_name.entry(name.as_str()).or_insert(n);
            if nth > 0 {
                let help = "a name is what `from`, topics and state know a node by: give one of them another";
                let message = "another node has this name already";
                let problem = problem("graph::duplicate", name, "", message, Some(help.into()));
                problems.push(Problem { nth, ..problem });
            }
        }
        Names { nodes, by_name, misread }
    }

    /// What a node reads.
    pub(super) fn read(&self, (name, kind, from): &Given, problems: &mut Vec<Problem>) -> Read {
        if matches!(kind, NodeKind::Source(_)) {
            return Read::default();
        }
        if from.is_empty() {
            let help = Some("add `from: NODE`".into());
            problems.push(problem("graph::from", name, "", "the node reads nothing", help));
        }
        if let Some((_, twice)) = from.iter().enumerate().find(|(n, text)| from[..*n].contains(*text)) {
            problems.push(problem(
                "graph::from",
                name,
                "from",
                &format!("it reads `{twice}` twice: each record would come twice"),
                Some("name each node once".into()),
            ));
        }
        let found: Vec<_> = from.iter().map(|text| self.look_up(text, name, "from", problems)).collect();
        let NodeKind::Operator(config) = kind else { return Read { from: found, with: None } };
        let with = config.with().map(|text| self.look_up(text, name, &config.meeting_field(), problems));
        if let Some((count, help)) = config.input_count()
            && !from.is_empty()
            && !count.contains(&from.len())
        {
            problems.push(problem("graph::from", name, "from", "wrong number of inputs", Some(help.into())));
        }
        Read { from: found, with }
    }

    /// The output that a name in a node's `from` or `with` means. One of a node that was not read whole is not known, and
    /// that is no problem of the node that reads it.
    pub(super) fn look_up(
        &self,
        text: &str,
        reader: &str,
        field: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Input> {
        match self.find(text, reader) {
            Ok(input) => Some(input),
            Err((message, help)) => {
                let node = text.split('.').next().unwrap_or(text);
                if !self.misread.contains(node) {
                    problems.push(problem("graph::from", reader, field, &message, Some(help)));
                }
                None
            }
        }
    }

    /// The node, or the node's output, of that name; else message and help.
    fn find(&self, text: &str, reader: &str) -> Result<Input, (String, String)> {
        let node = |name: &str| self.by_name.get(name).copied();
        let found = match (node(text), text.rsplit_once('.')) {
            (Some(n), _) => Some((n, "")),
            (None, Some((name, port))) => node(name).map(|n| (n, port)),
            (None, None) => None,
        };
        let Some((node, port)) = found else {
            let known: Vec<&str> =
                self.nodes.iter().map(|(n, _, _)| n.as_str()).filter(|n| *n != reader).collect();
            let help = match known.is_empty() {
                true => "there is nothing else to read from".into(),
                false => did_you_mean(text, &known),
            };
            return Err((format!("there is no node `{text}`"), help));
        };
        let ports = match &self.nodes[node].1 {
            NodeKind::Operator(config) => config.ports(),
            NodeKind::Source(_) | NodeKind::Sink(_) => Vec::new(),
        };
        let at = match (ports.as_slice(), port) {
            ([], "") => Some(0),
            ([], _) => None,
            (ports, port) => ports.iter().position(|p| p == port),
        };
        if let Some(port) = at.and_then(|p| u16::try_from(p).ok()) {
            return Ok(Input { node, port });
        }
        let base = &self.nodes[node].0;
        let known: Vec<String> = ports.iter().map(|p| format!("{base}.{p}")).collect();
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        if ports.is_empty() {
            Err((format!("`{base}` has no outputs of its own"), format!("write `from: {base}`")))
        } else if text == base {
            let all: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
            Err((format!("`{base}` has several outputs"), format!("name one: {}", all.join(", "))))
        } else {
            Err((format!("`{base}` has no output `{text}`"), did_you_mean(text, &known)))
        }
    }
}
