//! Checks the names in the `tests:` of a file: sources that records are sent to, nodes that something is expected of,
//! nodes that make calls.
//!
//! Called for the graph as the file has it, so that `test` refuses no name that `check` has accepted.

use std::collections::BTreeSet;
use std::ops::Range;

use super::sections;
use super::test_case::is_status;
use super::tree::{Key, Kind, Node};
use crate::model::{Problem, Reason, did_you_mean};
use crate::topology::{Draft, Node as TopologyNode, NodeKind, Settings, Topology};

/// What may be expected of a node besides a list of records.
pub const COUNTS: &[&str] = &["calls", "records", "dropped"];

/// The names that a test may use in `expect`: nodes, the topics of Kafka sinks, the dead-letter topic.
#[must_use]
pub fn expectable(topology: &Topology) -> BTreeSet<&str> {
    expectable_of(&topology.nodes, &topology.settings)
}

fn expectable_of<'a>(nodes: &'a [TopologyNode], settings: &'a Settings) -> BTreeSet<&'a str> {
    let declared = || nodes.iter().filter(|n| n.is_declared());
    let sinks = declared().filter_map(|n| match &n.kind {
        NodeKind::Sink(s) => s.topic(),
        _ => None,
    });
    let dead_letter = settings.errors.dead_letter.iter().map(|d| d.topic.as_str());
    declared().map(|n| n.name.as_str()).chain(sinks).chain(dead_letter).collect()
}

/// The names that the tests of a file may use. Of nodes that were not read whole it is not known what they write, read
/// and call: what may be one of that is no wrong name.
struct Names<'a> {
    /// Sources, and the topics that they read.
    sendable: Option<BTreeSet<&'a str>>,
    /// Nodes that call an API.
    calling: BTreeSet<&'a str>,
    /// See [`expectable`].
    expectable: Option<BTreeSet<&'a str>>,
}

impl<'a> Names<'a> {
    fn new(root: &'a Node, draft: &'a Draft) -> Names<'a> {
        let section = |name: &str| root.get(name).map_or(&[][..], Node::entries).iter();
        let whole = draft.whole();
        let unknown = |section: &(Key, Node)| !whole.contains(section.0.name.as_str());
        let sources = draft.nodes().iter().filter_map(|n| match &n.kind {
            NodeKind::Source(source) => Some((n.name.as_str(), source.topics())),
            _ => None,
        });
        let sendable = sources.flat_map(|(name, topics)| std::iter::once(name).chain(topics)).collect();
        let calls = |kind: &NodeKind| matches!(kind, NodeKind::Operator(c) if c.calls().is_some());
        let calling = draft.nodes().iter().filter(|n| calls(&n.kind)).map(|n| n.name.as_str());
        let unread = section("operators").filter(|entry| unknown(entry)).map(|(key, _)| key.name.as_str());
        let mut expectable = expectable_of(draft.nodes(), draft.settings());
        expectable.extend(sections::NODES.into_iter().flat_map(section).map(|(key, _)| key.name.as_str()));
        let whole = |name: &str| sections::unknown(root).next().is_none() && !section(name).any(unknown);
        Names {
            sendable: Some(sendable).filter(|_| whole("sources")),
            calling: calling.chain(unread).collect(),
            expectable: Some(expectable).filter(|_| whole("sinks")),
        }
    }
}

/// Reports every unknown name in the tests.
pub(super) fn check(root: &Node, draft: &Draft, problems: &mut Vec<Problem>) {
    if root.get("tests").is_none() {
        return;
    }
    let Names { sendable, calling, expectable } = Names::new(root, draft);
    let unknown = |what: &str, name: &str, at: &Range<usize>, known: &BTreeSet<&str>| {
        let known: Vec<&str> = known.iter().copied().collect();
        let help = if known.is_empty() { "the topology has none".into() } else { did_you_mean(name, &known) };
        Problem::new("test-name", format!("there is no {what} `{name}`")).at(at.clone(), "here").help(help)
    };
    let mut names: Vec<&str> = Vec::new();
    for name in list(root.get("tests")).iter().filter_map(|test| test.get("name")) {
        let Kind::Text(text) = &name.kind else { continue };
        let message = match text.trim() {
            "" => "the test has no name",
            text if names.contains(&text) => "another test has this name already",
            text => {
                names.push(text);
                continue;
            }
        };
        let problem = Problem::new("test-name", message).at(name.span.clone(), "here");
        problems.push(problem.help("write what it shows, for example `name: late orders are dropped`"));
    }
    let steps = list(root.get("tests")).iter().flat_map(|test| list(test.get("steps")));
    for step in steps {
        if let Some(to @ Node { kind: Kind::Text(name), .. }) =
            step.get("send").and_then(|send| send.get("to"))
            && let Some(known) = sendable.as_ref().filter(|known| !known.contains(name.as_str()))
        {
            problems.push(unknown("source, or topic that one reads,", name, &to.span, known));
        }
        if let Some(send) = step.get("send") {
            sent(send, problems);
        }
        for (key, answers) in step.get("on_call").map_or(&[][..], Node::entries) {
            list(Some(answers)).iter().for_each(|answer| answered(answer, problems));
            if !calling.contains(key.name.as_str()) {
                problems.push(unknown("node with calls", &key.name, &key.span, &calling));
            }
        }
        for (key, what) in step.get("expect").map_or(&[][..], Node::entries) {
            if let Some(known) = expectable.as_ref().filter(|known| !known.contains(key.name.as_str())) {
                problems.push(unknown("node or topic", &key.name, &key.span, known));
            }
            expectation(&key.name, what, problems);
        }
    }
}

/// Checks an expectation: a list of records, or a map of counts.
fn expectation(name: &str, what: &Node, problems: &mut Vec<Problem>) {
    match &what.kind {
        Kind::List(_) => {}
        Kind::Map(entries) => {
            for (_, reasons) in entries.iter().filter(|(key, _)| key.name == "dropped") {
                let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
                for (key, _) in reasons.entries().iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
                    problems.push(
                        Problem::new("test-name", format!("no record is dropped for the reason `{}`", key.name))
                            .at(key.span.clone(), "here")
                            .help(did_you_mean(&key.name, &known)),
                    );
                }
            }
            for (key, _) in entries.iter().filter(|(key, _)| !COUNTS.contains(&key.name.as_str())) {
                problems.push(
                    Problem::new("test-name", format!("`{}` of `{name}` cannot be expected", key.name))
                        .at(key.span.clone(), "here")
                        .help(did_you_mean(&key.name, COUNTS)),
                );
            }
        }
        _ => problems.push(
            Problem::new("test-name", format!("of `{name}` a list of records is expected, or a map of counts"))
                .at(what.span.clone(), "here")
                .help("write `[ { key: a, value: 1 } ]`, `{ calls: 1 }`, `{ records: 2 }` or `{ dropped: { late: 1 } }`"),
        ),
    }
}

/// Checks a record to send: at most one value, and a possible time.
fn sent(send: &Node, problems: &mut Vec<Problem>) {
    if let (Some(_), Some(raw)) = (send.get("value"), send.get("raw")) {
        let problem =
            Problem::new("test-value", "both `value` and `raw` are set").at(raw.span.clone(), "here");
        problems.push(problem.help("keep `value` for JSON, `raw` for what is none"));
    }
    if let Some(ts @ Node { kind: Kind::Int(..=-1), .. }) = send.get("ts") {
        let problem = Problem::new("test-value", "a time before 1970").at(ts.span.clone(), "here");
        problems.push(problem.help("write milliseconds since 1970, 0 or more; virtual time begins at 0"));
    }
}

/// Checks an answer to a call: a possible status, and at least one call.
fn answered(answer: &Node, problems: &mut Vec<Problem>) {
    if let Some(status @ Node { kind: Kind::Int(n), .. }) = answer.get("status")
        && u16::try_from(*n).is_ok_and(|n| !is_status(n))
    {
        let problem = Problem::new("test-value", format!("{n} is no status of HTTP"));
        let help = "write 100 to 599, or 0 for no answer at all";
        problems.push(problem.at(status.span.clone(), "here").help(help));
    }
    if let Some(times @ Node { kind: Kind::Int(0), .. }) = answer.get("times") {
        let problem = Problem::new("test-value", "no call is answered so").at(times.span.clone(), "here");
        problems.push(problem.help("write 1 or more, or remove the answer"));
    }
}

fn list(node: Option<&Node>) -> &[Node] {
    match node {
        Some(Node { kind: Kind::List(items), .. }) => items,
        _ => &[],
    }
}
