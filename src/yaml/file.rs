//! From the text of a topology file to a [`Topology`] and its tests, or to a report of everything wrong with it.
//!
//! The sections are read one node at a time, so that a problem in one node hides none in another. Then the nodes go
//! through the [`TopologyBuilder`], which checks the graph; its problems are given their places in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::decode::decode;
use super::env::{Mode, Sources, substitute};
use super::problem::Report;
use super::registry::Registry;
use super::secret::Secrets;
use super::test_case::TestCase;
use super::tree::{Key, Kind, Node};
use super::types::Draft;
use super::{test_names, tree, types};
use crate::clients::{Connections, Named, Server};
use crate::expressions::{Kind as TypeKind, Typing, VrlCompiler, kind_of};
use crate::model::{Field, Problem, Types, did_you_mean};
use crate::operators::{NodeConfig, TableConfig};
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;
use crate::topology::{Settings, Topology, TopologyBuilder};

/// Sections of a topology file.
pub const SECTIONS: &[&str] = &[
    "name",
    "kafka",
    "schema_registry",
    "postgres",
    "redis",
    "smtp",
    "rate_limits",
    "renamed",
    "sources",
    "operators",
    "sinks",
    "errors",
    "time",
    "state",
    "guarantee",
    "tests",
];

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
    /// The place of a node's field (`from`, `spanner.columns.State`), as deep as the path leads.
    #[must_use]
    pub fn of(&self, node: Option<&str>, field: &str) -> Range<usize> {
        let mut at = &self.root;
        let mut span = at.span.start..at.span.start;
        if let Some(name) = node {
            let mut nodes = self.nodes();
            if let Some((key, node)) = nodes.find(|(key, _)| key.name == name) {
                (at, span) = (node, key.span.clone());
            }
        }
        for part in field.split('.').filter(|p| !p.is_empty()) {
            let Some((_, below)) = at.entries().iter().find(|(key, _)| key.name == part) else { break };
            at = below;
            span = below.span.clone();
        }
        span
    }

    /// Every node with its key, in the file's order of sections.
    fn nodes(&self) -> impl DoubleEndedIterator<Item = &(Key, Node)> {
        let sections = ["sources", "operators", "sinks"];
        sections.into_iter().filter_map(|s| self.root.get(s)).flat_map(Node::entries)
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

impl Loaded {
    /// Where things stand in the file.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
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
    for (key, _) in root.entries() {
        if !SECTIONS.contains(&key.name.as_str()) {
            problems.push(
                Problem::new("unknown-field", format!("unknown section `{}`", key.name))
                    .at(key.span.clone(), "not known here")
                    .help(did_you_mean(&key.name, SECTIONS)),
            );
        }
    }
    let name = name_of(root, &mut problems);
    let settings = Settings {
        kafka: section(root, "kafka", &mut problems),
        schema_registry: section(root, "schema_registry", &mut problems),
        connections: connections(file, root, &mut secrets, &mut problems),
        errors: section(root, "errors", &mut problems).unwrap_or_default(),
        time: section(root, "time", &mut problems).unwrap_or_default(),
        state: section(root, "state", &mut problems).unwrap_or_default(),
        guarantee: section(root, "guarantee", &mut problems).unwrap_or_default(),
        rate_limits: section::<BTreeMap<_, _>>(root, "rate_limits", &mut problems).unwrap_or_default(),
        renamed: section::<BTreeMap<_, _>>(root, "renamed", &mut problems).unwrap_or_default(),
    };
    let compiler = VrlCompiler::with(text, registry.functions());
    let mut builder = TopologyBuilder::new(name).settings(settings);
    // What is known about the values of sources and of the nodes that read them.
    let mut kinds: BTreeMap<String, TypeKind> = BTreeMap::new();
    let mut drafts: Vec<(String, Vec<String>, Draft)> = Vec::new();
    // Nodes of which a part could not be read.
    let mut misread: BTreeSet<&str> = BTreeSet::new();
    let known: Vec<&str> = SourceConfig::KINDS.iter().copied().chain(registry.sources.names()).collect();
    for (key, node) in entries(root, "sources", &mut problems) {
        let Some(config) = one_kind(key, node, &known, &["table", "schema"], &mut problems) else {
            builder = builder.unread(&key.name, Vec::new());
            continue;
        };
        let before = problems.len();
        let table = node.get("table").map(|table| decode::<TableConfig>(table, &mut problems));
        let shape = node.get("schema").and_then(|schema| decode::<Field>(schema, &mut problems));
        let Some(mut config) = registry.sources.read(&config, &mut problems) else {
            builder = builder.unread(&key.name, Vec::new());
            continue;
        };
        if problems.len() > before {
            misread.insert(key.name.as_str());
            builder = builder.misread(&key.name);
        }
        for path in config.files_mut() {
            beside(file, path);
        }
        let read = || config.reader_schema().and_then(crate::formats::shape_of);
        let kind = shape.as_ref().map(|field| field.shape.clone()).or_else(read);
        let kind = kind.map_or_else(TypeKind::any, |shape| kind_of(&shape));
        let mut typing = Typing::new(&compiler, kind, &mut problems);
        for expr in config.exprs_mut() {
            typing.compile(expr, &[]);
        }
        if let Some((expr, _)) = config.timestamp() {
            typing.demand(expr, Types::INTEGER.or(Types::FLOAT).or(Types::STRING), "a timestamp");
        }
        let kind = typing.value;
        if let Some(field) = shape {
            builder = builder.schema(&key.name, field.shape);
        }
        kinds.insert(key.name.clone(), kind);
        builder = match table {
            Some(Some(table)) => builder.table(&key.name, config, table),
            Some(None) => builder.unread(&key.name, Vec::new()),
            None => builder.source(&key.name, config),
        };
    }
    let known: Vec<&str> = NodeConfig::KINDS.iter().copied().chain(registry.operators.names()).collect();
    for (key, node) in entries(root, "operators", &mut problems) {
        let from = from_of(node, &mut problems);
        let Some(config) = one_kind(key, node, &known, &["from"], &mut problems) else {
            builder = builder.unread(&key.name, from);
            continue;
        };
        let before = problems.len();
        let Some(config) = registry.operators.read(&config, &mut problems) else {
            builder = builder.unread(&key.name, from);
            continue;
        };
        if problems.len() > before {
            misread.insert(key.name.as_str());
            builder = builder.misread(&key.name);
        }
        drafts.push((key.name.clone(), from, Draft::Operator(Box::new(config))));
    }
    let known: Vec<&str> = SinkConfig::KINDS.iter().copied().chain(registry.sinks.names()).collect();
    for (key, node) in entries(root, "sinks", &mut problems) {
        let from = from_of(node, &mut problems);
        let Some(config) = one_kind(key, node, &known, &["from"], &mut problems) else {
            builder = builder.unread(&key.name, from);
            continue;
        };
        let before = problems.len();
        let Some(mut config) = registry.sinks.read(&config, &mut problems) else {
            builder = builder.unread(&key.name, from);
            continue;
        };
        if problems.len() > before {
            misread.insert(key.name.as_str());
            builder = builder.misread(&key.name);
        }
        for path in config.files_mut() {
            beside(file, path);
        }
        drafts.push((key.name.clone(), from, Draft::Sink(Box::new(config))));
    }
    // Nodes in a section whose name is misspelt.
    for (_, section) in root.entries().iter().filter(|(key, _)| !SECTIONS.contains(&key.name.as_str())) {
        for (key, _) in section.entries() {
            builder = builder.misread(&key.name);
        }
    }
    types::compile(&mut drafts, kinds, &compiler, &mut problems);
    for (name, from, draft) in drafts {
        builder = match draft {
            Draft::Operator(config) => builder.operator(name, from, *config),
            Draft::Sink(config) => builder.sink(name, from, *config),
        };
    }
    let tests = TestCase::all(root, &mut problems);
    let broken = !problems.is_empty();
    // A setting with an unset variable: whether its value is right is not known yet.
    let unset = |problem: &Problem| {
        let written = text.get(places.of(problem.node.as_deref(), &problem.field));
        problem.code == "graph::setting" && written.is_some_and(|written| written.contains("${"))
    };
    let topology = match builder.build() {
        Ok(topology) => Some(topology),
        Err(found) => {
            problems.extend(
                found
                    .into_iter()
                    .filter(|p| !(broken && (follows(p, &places, &misread) || unset(p))))
                    .map(|p| place(&places, p)),
            );
            None
        }
    };
    if let (Some(topology), Mode::Required) = (&topology, mode)
        && root.get("kafka").is_none()
    {
        problems.extend(topology.missing_kafka().into_iter().map(|p| place(&places, p)));
    }
    if let Some(topology) = &topology {
        test_names::check(root, topology, &mut problems);
    }
    match topology {
        Some(topology) if problems.is_empty() => Ok(Loaded { topology, tests, secrets, places }),
        _ => Err(Box::new(places.reports(problems).redacted(&secrets))),
    }
}

/// Whether a problem of the graph only follows from something that could not be read: the node or setting that it
/// misses is in the file after all, or in a section with a misspelt name.
fn follows(problem: &Problem, places: &Places, misread: &BTreeSet<&str>) -> bool {
    let root = &places.root;
    let unknown_section = || root.entries().iter().any(|(key, _)| !SECTIONS.contains(&key.name.as_str()));
    match problem.code {
        "graph::setting" | "graph::source" => problem.node.as_deref().is_some_and(|n| misread.contains(n)),
        "graph::no_source" => {
            !root.get("sources").is_none_or(|s| s.entries().is_empty()) || unknown_section()
        }
        "graph::rate_limit" => {
            // The limit exists in the file, but could not be read.
            let limit = places.text.get(places.of(problem.node.as_deref(), &problem.field));
            let limit = limit.map(|limit| limit.trim_matches(['"', '\'']));
            root.get("rate_limits").is_some_and(|limits| limit.is_none_or(|l| limits.get(l).is_some()))
        }
        "graph::connection" => {
            // The connection is in the file, and could not be read.
            let name = problem.field.ends_with(".connection");
            let name = name.then(|| places.text.get(places.of(problem.node.as_deref(), &problem.field)));
            let name = name.flatten().map(|name| name.trim_matches(['"', '\'']));
            let sections = Server::ALL.iter().filter_map(|server| root.get(server.section()));
            sections.into_iter().any(|section| name.is_none_or(|name| section.get(name).is_some()))
        }
        _ => false,
    }
}

fn place(places: &Places, problem: Problem) -> Problem {
    let mut span = places.of(problem.node.as_deref(), &problem.field);
    if problem.code == "graph::duplicate"
        && let Some((key, _)) = places.nodes().rev().find(|(key, _)| Some(&key.name) == problem.node.as_ref())
    {
        // The first node of that name is right; the second is the problem.
        span = key.span.clone();
    }
    let message = match &problem.node {
        Some(node) => format!("{node}: {}", problem.message),
        None => problem.message,
    };
    Problem { message, span: Some(span), label: "here".into(), ..problem }
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

/// The servers that nodes share.
fn connections(file: &str, root: &Node, secrets: &mut Secrets, problems: &mut Vec<Problem>) -> Connections {
    for server in Server::ALL {
        root.get(server.section()).into_iter().for_each(|section| learn(section, secrets));
    }
    let mut connections = Connections {
        postgres: named(root, Server::Postgres, problems),
        redis: named(root, Server::Redis, problems),
        smtp: named(root, Server::Smtp, problems),
    };
    for path in connections.files_mut() {
        beside(file, path);
    }
    connections
}

/// Remembers what is secret in a section, also where it cannot be read: passwords, and users in URLs.
fn learn(section: &Node, secrets: &mut Secrets) {
    for (key, value) in section.entries() {
        let name = if key.name == "password" { "PASSWORD" } else { "" };
        value.text().into_iter().for_each(|text| secrets.learn(name, text));
        learn(value, secrets);
    }
}

/// One connection, or several by name: several where everything under the section is a map.
fn named<T: DeserializeOwned>(root: &Node, server: Server, problems: &mut Vec<Problem>) -> Named<T> {
    let Some(node) = root.get(server.section()) else { return Named::default() };
    let entries = node.entries();
    let is_setting = |(key, value): &(Key, Node)| key.name == "tls" || !matches!(value.kind, Kind::Map(_));
    if entries.is_empty() || entries.iter().any(is_setting) {
        return decode(node, problems).map(Named::one).unwrap_or_default();
    }
    let each = entries.iter().filter_map(|(key, node)| Some((key.name.clone(), decode(node, problems)?)));
    Named::several(each.collect::<Vec<_>>())
}

fn section<T: DeserializeOwned>(root: &Node, name: &str, problems: &mut Vec<Problem>) -> Option<T> {
    root.get(name).and_then(|node| decode(node, problems))
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
