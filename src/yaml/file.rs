//! From the text of a topology file to a [`Topology`] and its tests, or to a report of everything wrong with it.
//!
//! The sections are read one node at a time, so that a problem in one node hides none in another. Then the nodes go
//! through the [`TopologyBuilder`], which checks the graph; its problems are given their places in the file.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::decode::decode;
use super::env::{Mode, Sources, substitute};
use super::problem::Report;
use super::registry::Registry;
use super::secret::Secrets;
use super::test_case::TestCase;
use super::tree::{Key, Kind, Node};
use super::{sections, test_names, tree, types};
use crate::clients::Server;
use crate::endpoints::ServeConfig;
use crate::expressions::VrlCompiler;
use crate::model::{Field, Problem, did_you_mean};
use crate::operators::{NodeConfig, TableConfig};
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;
use crate::topology::{Topology, TopologyBuilder};

/// A file that was read without a problem.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The topology.
    pub topology: Topology,
    /// Its tests.
    pub tests: Vec<TestCase>,
    /// Values not to print.
    pub secrets: Secrets,
    /// The tree, for places of later problems.
    places: Places,
}

/// Finds the place of a node and its fields in a file.
#[derive(Clone, Debug)]
pub struct Places {
    file: String,
    text: String,
    root: Node,
}

impl Places {
    /// The place of a problem of the graph.
    fn of_problem(&self, problem: &Problem) -> Range<usize> {
        let named = |name: &&str| self.nodes().filter(|(key, _)| key.name == *name).nth(problem.nth);
        match problem.node.as_deref().filter(|_| problem.nth > 0).and_then(|name| named(&name)) {
            Some((key, node)) => below(node, key.span.clone(), &problem.field),
            None => self.of(problem.node.as_deref(), &problem.field),
        }
    }

    /// The place of a node's field (`from`, `spanner.columns.State`), as deep as the path leads.
    #[must_use]
    pub fn of(&self, node: Option<&str>, field: &str) -> Range<usize> {
        let start = self.root.span.start;
        match node.and_then(|name| self.nodes().find(|(key, _)| key.name == name)) {
            Some((key, node)) => below(node, key.span.clone(), field),
            None => below(&self.root, start..start, field),
        }
    }

    /// Every node with its key, in the file's order of sections.
    fn nodes(&self) -> impl DoubleEndedIterator<Item = &(Key, Node)> {
        sections::NODES.into_iter().filter_map(|s| self.root.get(s)).flat_map(Node::entries)
    }

    /// A report with one problem at a node's field, for problems that show only when a server is asked.
    #[must_use]
    pub fn report(
        &self,
        code: &'static str,
        node: Option<&str>,
        field: &str,
        message: &str,
        help: Option<&str>,
    ) -> Report {
        let mut problem = Problem::new(code, message).at(self.of(node, field), "here");
        problem.help = help.map(Into::into);
        self.reports(vec![problem])
    }

    /// A report of several problems.
    #[must_use]
    pub fn reports(&self, problems: Vec<Problem>) -> Report {
        Report::new(self.file.clone(), self.text.clone(), problems)
    }

    /// Line of a byte offset, from 1.
    #[must_use]
    pub fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }

    /// The file's name.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }
}

/// The place of a field below a node whose own place this is, as deep as the path leads.
fn below(node: &Node, place: Range<usize>, field: &str) -> Range<usize> {
    let (mut at, mut span) = (node, place);
    for part in field.split('.').filter(|p| !p.is_empty()) {
        let Some(found) = at.get(part) else { break };
        (at, span) = (found, found.span.clone());
    }
    span
}

impl Loaded {
    /// Where things stand in the file.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// What is odd about the file, though it runs.
    #[must_use]
    pub fn warnings(&self) -> Report {
        let warnings = self.topology.warnings().into_iter().map(|p| place(&self.places, p)).collect();
        self.places.reports(warnings).redacted(&self.secrets)
    }
}

/// Reads a topology file of built-in kinds.
///
/// # Errors
/// Every problem found, each at its place.
pub fn load(
    file: &str,
    text: &str,
    mode: Mode,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Box<Report>> {
    load_with(&Registry::default(), file, text, mode, variable)
}

/// Reads a topology file that may use the kinds and functions of a registry.
///
/// # Errors
/// Every problem found, each at its place.
pub fn load_with(
    registry: &Registry,
    file: &str,
    text: &str,
    mode: Mode,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Box<Report>> {
    let mut secrets = Secrets::default();
    let mut problems = Vec::new();
    let mut root = match tree::parse(text) {
        Ok(root) => root,
        Err(problem) => return Err(Box::new(Report::new(file, text, vec![problem]))),
    };
    tree::names_once(&mut root, &sections::NODES, &mut problems);
    let read = |path: &str| {
        let mut place = PathBuf::from(path);
        beside(file, &mut place);
        let text = std::fs::read_to_string(&place).map_err(|e| e.to_string());
        (place, text)
    };
    let from = Sources { variable, file: &read };
    substitute(&mut root, mode, &from, &mut secrets, &mut problems);
    let places = Places { file: file.into(), text: text.into(), root };
    let root = &places.root;
    for server in Server::ALL {
        root.get(server.section()).into_iter().for_each(|section| learn(section, &mut secrets));
    }
    // Tokens and passwords of those who may ask.
    let endpoints = root.get(sections::ENDPOINTS).map(Node::entries).unwrap_or_default();
    for auth in endpoints.iter().filter_map(|(_, endpoint)| endpoint.get("auth")) {
        auth.entries().iter().for_each(|(_, by_name)| learn_all(by_name, &mut secrets));
    }
    let mut draft = Reader { file, registry, root, problems: &mut problems }.topology().resolve();
    types::compile(&mut draft, &VrlCompiler::with(text, registry.functions()), &mut problems);
    let tests = TestCase::all(root, &mut problems);
    test_names::check(root, &draft, &mut problems);
    let broken = !problems.is_empty();
    if mode == Mode::Required && root.get("kafka").is_none() {
        problems.extend(draft.missing_kafka().into_iter().map(|p| place(&places, p)));
    }
    if mode == Mode::Required && problems.is_empty() {
        problems.extend(draft.refused_kafka().into_iter().map(|p| place(&places, p)));
    }
    // A setting with an unset variable: whether its value is right is not known yet.
    let unset = |problem: &Problem| {
        let written = text.get(places.of_problem(problem));
        problem.code == "graph::setting" && written.is_some_and(|written| written.contains("${"))
    };
    match draft.finish() {
        Ok(topology) if problems.is_empty() => Ok(Loaded { topology, tests, secrets, places }),
        finished => {
            let found = finished
                .err()
                .into_iter()
                .flatten()
                .filter(|p| !(broken && (unset(p) || is_unread(p, &places))));
            for problem in found.map(|p| place(&places, p)) {
                let twice = |p: &Problem| p.code == "duplicate-name" && p.span == problem.span;
                if !(problem.code == "graph::duplicate" && problems.iter().any(twice)) {
                    problems.push(problem);
                }
            }
            Err(Box::new(places.reports(problems).redacted(&secrets)))
        }
    }
}

/// Is something missed that is in the file, and could not be read: a connection, or one of the sections of endpoints?
fn is_unread(problem: &Problem, places: &Places) -> bool {
    if problem.code == "graph::endpoints" {
        return places.root.get("http").is_some() && places.root.get(sections::ENDPOINTS).is_some();
    }
    if problem.code != "graph::connection" {
        return false;
    }
    let name = problem.field.ends_with(".connection").then(|| places.text.get(places.of_problem(problem)));
    let name = name.flatten().map(|name| name.trim_matches(['"', '\'']));
    let mut sections = Server::ALL.iter().filter_map(|server| places.root.get(server.section()));
    sections.any(|section| name.is_none_or(|name| section.get(name).is_some()))
}

/// Reads the sections of a file, one after the other and one node at a time.
struct Reader<'a> {
    file: &'a str,
    registry: &'a Registry,
    root: &'a Node,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn topology(mut self) -> TopologyBuilder {
        let (root, known) = (self.root, sections::names());
        for (key, _) in sections::unknown(root) {
            self.problems.push(
                Problem::new("unknown-field", format!("unknown section `{}`", key.name))
                    .at(key.span.clone(), "not known here")
                    .help(did_you_mean(&key.name, &known)),
            );
        }
        let name = name_of(root, self.problems);
        let mut settings = sections::settings(root, self.problems);
        let served = settings.http.iter_mut().flat_map(ServeConfig::files_mut);
        for path in settings.connections.files_mut().into_iter().chain(served) {
            beside(self.file, path);
        }
        let endpoints = settings.endpoints.len();
        let mut builder = TopologyBuilder::new(name).settings(settings);
        if root.get(sections::ENDPOINTS).is_some_and(|section| section.entries().len() > endpoints) {
            builder = builder.has_gaps();
        }
        if let Some(limits) = root.get("rate_limits") {
            builder = builder.limits(limits.entries().iter().map(|(key, _)| key.name.clone()));
        }
        // Nodes below a section whose name is wrong.
        for (_, section) in sections::unknown(root) {
            builder = builder.has_gaps();
            for (key, _) in section.entries() {
                builder = builder.misread(&key.name);
            }
        }
        let own = self.registry;
        let known: Vec<&str> = SourceConfig::KINDS.iter().copied().chain(own.sources.names()).collect();
        for (key, node) in entries(root, "sources", self.problems) {
            builder = self.source(builder, key, node, &known);
        }
        let known: Vec<&str> = NodeConfig::KINDS.iter().copied().chain(own.operators.names()).collect();
        for (key, node) in entries(root, "operators", self.problems) {
            builder = self.operator(builder, key, node, &known);
        }
        let known: Vec<&str> = SinkConfig::KINDS.iter().copied().chain(own.sinks.names()).collect();
        for (key, node) in entries(root, "sinks", self.problems) {
            builder = self.sink(builder, key, node, &known);
        }
        builder
    }

    fn source(
        &mut self,
        builder: TopologyBuilder,
        key: &Key,
        node: &Node,
        known: &[&str],
    ) -> TopologyBuilder {
        let name = key.name.as_str();
        let Some(config) = one_kind(key, node, known, &["table", "schema"], self.problems) else {
            return builder.unread(name, Vec::new()).has_gaps();
        };
        let before = self.problems.len();
        let table = node.get("table").map(|table| decode::<TableConfig>(table, self.problems));
        let shape = node.get("schema").and_then(|schema| decode::<Field>(schema, self.problems));
        let (Some(mut config), table) = (self.registry.sources.read(&config, self.problems), table) else {
            return builder.unread(name, Vec::new()).has_gaps();
        };
        for path in config.files_mut() {
            beside(self.file, path);
        }
        let builder = match shape {
            Some(field) => builder.schema(name, field.shape),
            None => builder,
        };
        let builder = match table {
            Some(Some(table)) => builder.table(name, config, table),
            Some(None) | None => builder.source(name, config),
        };
        self.whole_since(before, builder, name)
    }

    fn operator(
        &mut self,
        builder: TopologyBuilder,
        key: &Key,
        node: &Node,
        known: &[&str],
    ) -> TopologyBuilder {
        let (name, from) = (key.name.as_str(), from_of(node, self.problems));
        let config = one_kind(key, node, known, &["from"], self.problems);
        let before = self.problems.len();
        match config.and_then(|config| self.registry.operators.read(&config, self.problems)) {
            Some(config) => self.whole_since(before, builder.operator(name, from, config), name),
            None => builder.unread(name, from),
        }
    }

    fn sink(&mut self, builder: TopologyBuilder, key: &Key, node: &Node, known: &[&str]) -> TopologyBuilder {
        let (name, from) = (key.name.as_str(), from_of(node, self.problems));
        let config = one_kind(key, node, known, &["from"], self.problems);
        let before = self.problems.len();
        let Some(mut config) = config.and_then(|config| self.registry.sinks.read(&config, self.problems))
        else {
            return builder.unread(name, from);
        };
        for path in config.files_mut() {
            beside(self.file, path);
        }
        self.whole_since(before, builder.sink(name, from, config), name)
    }

    /// Notes a node that was not read whole: its reading found problems.
    fn whole_since(&self, before: usize, builder: TopologyBuilder, name: &str) -> TopologyBuilder {
        if self.problems.len() > before { builder.misread(name) } else { builder }
    }
}

fn place(places: &Places, problem: Problem) -> Problem {
    // An expression knows its own.
    let (span, label) = match &problem.span {
        Some(span) => (span.clone(), problem.label.clone()),
        None => (places.of_problem(&problem), "here".into()),
    };
    let message = match &problem.node {
        Some(node) => format!("{node}: {}", problem.message),
        None => problem.message,
    };
    Problem { message, span: Some(span), label, ..problem }
}

fn name_of(root: &Node, problems: &mut Vec<Problem>) -> String {
    match root.get("name") {
        Some(node) => decode::<String>(node, problems).unwrap_or_else(|| "unnamed".into()),
        None => {
            let start = root.span.start;
            problems.push(
                Problem::new("missing-field", "the topology has no `name`")
                    .at(start..start, "missing here")
                    .help("write `name: my-topology` first: it is the consumer group and the prefix of internal topics"),
            );
            "unnamed".into()
        }
    }
}

/// Resolves a path in a topology file, which is relative to that file.
fn beside(file: &str, path: &mut PathBuf) {
    if let Some(folder) = Path::new(file).parent() {
        *path = folder.join(&*path);
    }
}

/// Remembers every text below a node as a secret.
fn learn_all(node: &Node, secrets: &mut Secrets) {
    node.text().into_iter().for_each(|text| secrets.learn("PASSWORD", text));
    node.entries().iter().for_each(|(_, value)| learn_all(value, secrets));
}

/// Remembers what is secret in a section, also where it cannot be read: passwords, and users in URLs.
fn learn(section: &Node, secrets: &mut Secrets) {
    for (key, value) in section.entries() {
        let name = if key.name == "password" { "PASSWORD" } else { "" };
        value.text().into_iter().for_each(|text| secrets.learn(name, text));
        learn(value, secrets);
    }
}

fn entries<'a>(root: &'a Node, section: &str, problems: &mut Vec<Problem>) -> &'a [(Key, Node)] {
    let Some(node) = root.get(section) else { return &[] };
    if !matches!(node.kind, Kind::Map(_) | Kind::Null) {
        problems.push(
            Problem::new("wrong-type", format!("`{section}` is {node}, not a map of nodes"))
                .at(node.span.clone(), "here")
                .help(format!("write `{section}:` and under it one line per node, with its name first")),
        );
    }
    node.entries()
}

fn from_of(node: &Node, problems: &mut Vec<Problem>) -> Vec<String> {
    match node.get("from") {
        None => Vec::new(),
        Some(node @ Node { kind: Kind::List(_), .. }) => decode(node, problems).unwrap_or_default(),
        Some(node) => decode::<String>(node, problems).into_iter().collect(),
    }
}

/// The one key of a node that names its kind, with the settings, as a map of one entry.
fn one_kind(
    key: &Key,
    node: &Node,
    kinds: &[&str],
    others: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<Node> {
    let example = format!(
        "write `{}: {{ {}{}: ... }}`",
        key.name,
        if others.contains(&"from") { "from: NODE, " } else { "" },
        kinds[0]
    );
    if !matches!(node.kind, Kind::Map(_)) {
        problems.push(
            Problem::new("wrong-type", format!("`{}` is {node}, not a node", key.name))
                .at(node.span.clone(), "here")
                .help(example),
        );
        return None;
    }
    let mut found: Vec<&(Key, Node)> = Vec::new();
    let known: Vec<&str> = kinds.iter().chain(others).copied().collect();
    let mut unknown = false;
    for entry in node.entries() {
        let name = entry.0.name.as_str();
        if kinds.contains(&name) {
            found.push(entry);
        } else if !others.contains(&name) {
            unknown = true;
            problems.push(
                Problem::new("unknown-field", format!("`{}` has an unknown field `{name}`", key.name))
                    .at(entry.0.span.clone(), "not known here")
                    .help(did_you_mean(name, &known)),
            );
        }
    }
    match found.as_slice() {
        [one] => Some(Node::new(node.span.clone(), Kind::Map(vec![(*one).clone()]))),
        [] => {
            if !unknown {
                problems.push(
                    Problem::new("missing-field", format!("`{}` does not say what it is", key.name))
                        .at(key.span.clone(), "no kind")
                        .help(format!("give it one of: {}", kinds.join(", "))),
                );
            }
            None
        }
        [_, second, ..] => {
            problems.push(
                Problem::new("two-kinds", format!("`{}` is two things at once", key.name))
                    .at(second.0.span.clone(), "second kind")
                    .help("make two nodes of it, the second with `from` the first"),
            );
            None
        }
    }
}
