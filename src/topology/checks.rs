//! Checks of settings that do not need the graph: names, the nodes' own settings, those of the topology.
//!
//! Called by the builder, which checks the graph itself.

use std::collections::BTreeSet;

use super::builder::{Given, problem};
use super::{Changelog, Guarantee, NodeKind, OnFailure, Settings, limits};
use crate::kafka::{KafkaConfig, topic_problem};
use crate::model::kinds::placed;
use crate::model::{Millis, Problem, did_you_mean};
use crate::operators::TableConfig;

/// Names become topic names, file names and metric labels: letters, digits, `-`, `_`, at most 100.
pub(super) fn check_name(name: &str, node: Option<&str>, problems: &mut Vec<Problem>) {
    let good = !name.is_empty()
        && name.len() <= 100
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if !good {
        problems.push(Problem {
            code: "graph::name",
            node: node.map(Into::into),
            field: if node.is_none() { "name".into() } else { String::new() },
            message: format!("`{name}` is no name"),
            help: Some("names have 1 to 100 letters, digits, `-` or `_`".into()),
            ..Problem::default()
        });
    }
}

pub(super) fn check_settings(name: &str, kind: &NodeKind, settings: &Settings, problems: &mut Vec<Problem>) {
    let found = match kind {
        NodeKind::Source(source) => source.check(),
        NodeKind::Operator(config) => config.check(),
        NodeKind::Sink(config) => config.check(),
    };
    problems.extend(found.into_iter().map(|p| p.of(name)));
    if let NodeKind::Sink(config) = kind
        && let Some(uses) = config.connection()
        && let Err((message, help)) = settings.connections.find(uses)
    {
        let kind = config.kind_name();
        let field = if uses.name.is_some() { format!("{kind}.connection") } else { kind.to_owned() };
        problems.push(problem("graph::connection", name, &field, &message, Some(help)));
    }
}

/// The rate limit that a node names has to be there. `named`: those that are, even if they could not be read.
pub(super) fn check_limit(
    name: &str,
    kind: &NodeKind,
    settings: &Settings,
    named: &BTreeSet<String>,
    problems: &mut Vec<Problem>,
) {
    if let Some((limit, kind)) = limits::of(kind)
        && !settings.rate_limits.contains_key(limit)
        && !named.contains(limit)
    {
        let known: BTreeSet<&str> = settings.rate_limits.keys().chain(named).map(String::as_str).collect();
        let known: Vec<&str> = known.into_iter().collect();
        problems.push(problem(
            "graph::rate_limit",
            name,
            &format!("{kind}.rate_limit"),
            &format!("there is no rate limit `{limit}`"),
            Some(if known.is_empty() {
                format!("add `rate_limits: {{ {limit}: {{ limit: 100/s }} }}`")
            } else {
                did_you_mean(limit, &known)
            }),
        ));
    }
}

/// `renamed` names nodes as they are called now, and names that no node has any more.
pub(super) fn check_renamed(settings: &Settings, nodes: &[Given], problems: &mut Vec<Problem>) {
    let is_node = |name: &str| nodes.iter().any(|(node, _, _)| node == name);
    for (new, old) in &settings.renamed {
        let mut wrong = |message: String, help: String| {
            let problem = Problem::new("graph::renamed", message).field(format!("renamed.{new}"));
            problems.push(problem.help(help));
        };
        if !is_node(new) {
            let known: Vec<&str> = nodes.iter().map(|(name, _, _)| name.as_str()).collect();
            wrong(format!("there is no node `{new}`"), did_you_mean(new, &known));
        }
        if is_node(old) {
            let help = "write `NEW: OLD`, where OLD is the name that the node had before".to_owned();
            wrong(format!("`{old}` is a node of this topology: it keeps its state"), help);
        } else if settings.renamed.iter().any(|(other, name)| name == old && other < new) {
            let help = "only one node can have it".to_owned();
            wrong(format!("the state of `{old}` is given to another node already"), help);
        }
    }
}

/// Properties of librdkafka that must stay as they are, or records would be lost and equal keys would not meet.
const PROPERTIES_KEPT: [&str; 10] = [
    "acks",
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "isolation.level",
    "partitioner",
    "transactional.id",
];

/// Checks the settings of the topology itself.
pub(super) fn check_topology(settings: &Settings, problems: &mut Vec<Problem>) {
    let mut wrong = |field: &str, message: String, help: &str| {
        let (field, help) = (field.into(), Some(help.into()));
        problems.push(Problem {
            code: "graph::setting",
            node: None,
            field,
            message,
            help,
            ..Problem::default()
        });
    };
    if settings.state.checkpoint <= Millis::ZERO {
        let help = "write how far apart checkpoints are, for example `checkpoint: 1s`";
        wrong("state.checkpoint", "no time at all between two checkpoints".into(), help);
    }
    for Problem { field, message, help, .. } in settings.kafka.iter().flat_map(KafkaConfig::check) {
        wrong(&format!("kafka.{field}"), message, &help.unwrap_or_default());
    }
    for Problem { field, message, help, .. } in settings.connections.check() {
        wrong(&field, message, &help.unwrap_or_default());
    }
    let kept = settings.kafka.iter().flat_map(|kafka| kafka.properties.keys());
    for name in kept.filter(|name| PROPERTIES_KEPT.contains(&name.as_str())) {
        let help = "remove it: what a checkpoint promises depends on it";
        wrong("kafka.properties", format!("`{name}` is not to be set"), help);
    }
    if settings.state.replication.is_some_and(|replicas| !(1..=i32::from(i16::MAX)).contains(&replicas)) {
        wrong(
            "state.replication",
            "no number of replicas".into(),
            "write 1 or more, usually 3, or remove it",
        );
    }
    let errors = &settings.errors;
    if let Some((message, help)) = errors.dead_letter.as_ref().and_then(|d| topic_problem(&d.topic)) {
        wrong("errors.dead_letter.topic", message, help);
    }
    match (errors.on_failure, &errors.dead_letter) {
        (Some(OnFailure::DeadLetter), None) => wrong(
            "errors.on_failure",
            "nothing says where dead letters go".into(),
            "add `dead_letter: { topic: NAME }` beside it",
        ),
        (Some(OnFailure::Stop | OnFailure::Skip), Some(_)) => wrong(
            "errors.dead_letter",
            "nothing goes there: `on_failure` says otherwise".into(),
            "remove it, or remove `on_failure`",
        ),
        _ => {}
    }
}

/// Reports sources that read what only one of them can read (standard input), and a dead-letter topic that is also
/// read.
pub(super) fn check_topics(
    settings: &Settings,
    nodes: &[Given],
    misread: &BTreeSet<String>,
    problems: &mut Vec<Problem>,
) {
    let mut alone: Vec<(&str, &str)> = Vec::new();
    for (name, kind, _) in nodes {
        let NodeKind::Source(source) = kind else { continue };
        if let Some(dead) = &settings.errors.dead_letter
            && source.topics().contains(&dead.topic.as_str())
        {
            problems.push(Problem {
                code: "graph::setting",
                node: None,
                field: "errors.dead_letter.topic".into(),
                message: format!("`{name}` reads this topic: a dead letter would come in again, for ever"),
                help: Some("write another topic, for example one that ends in `.dlq`".into()),
                ..Problem::default()
            });
        }
        let Some(what) = source.reads_alone().filter(|_| !misread.contains(name)) else { continue };
        if let Some((_, first)) = alone.iter().find(|(read, _)| *read == what) {
            let message = format!("`{first}` reads {what} already, and a record comes once");
            let help = format!("let what reads `{name}` read `{first}`");
            problems.push(problem("graph::source", name, source.kind_name(), &message, Some(help)));
        }
        alone.push((what, name));
    }
}

/// Reports settings that promise more than the nodes can keep.
pub(super) fn check_promises(settings: &Settings, nodes: &[Given], problems: &mut Vec<Problem>) {
    for (name, kind, _) in nodes {
        if let NodeKind::Sink(sink) = kind
            && sink.returning().is_some()
            && !nodes.iter().any(|(_, _, from)| from.iter().any(|f| f == name))
        {
            let field = format!("{}.returning", sink.kind_name());
            let help = format!("remove it, or let a node read the sink: `from: {name}`");
            problems.push(problem("graph::setting", name, &field, "nothing reads this sink", Some(help)));
        }
    }
    if settings.guarantee == Guarantee::ExactlyOnce {
        for (name, kind, _) in nodes {
            let reads_from = |from: &Vec<String>| from.iter().any(|f| f == name);
            if let NodeKind::Sink(sink) = kind
                && sink.topic().is_some()
                && nodes.iter().any(|(_, _, from)| reads_from(from))
            {
                problems.push(problem(
                    "graph::exactly_once",
                    name,
                    "",
                    "with `guarantee: exactly_once` a kafka sink cannot be read from: its records are there only when \
                     the checkpoint is",
                    Some("let the next node read what the sink reads, or the sink's topic".into()),
                ));
            }
        }
    }
    if settings.state.changelog == Changelog::Off {
        for (name, kind, _) in nodes {
            if let NodeKind::Operator(config) = kind
                && let Some(help) = config.unbounded()
            {
                problems.push(problem(
                    "graph::changelog",
                    name,
                    config.kind_name(),
                    "its state has no bounded life, and `state: { changelog: off }` rebuilds state by reading again",
                    Some(help.into()),
                ));
            }
        }
    }
}

pub(super) fn check_table(
    name: &str,
    kind: &NodeKind,
    table: Option<&TableConfig>,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) {
    let Some(table) = table else { return };
    if matches!(kind, NodeKind::Source(_)) {
        problems.extend(placed("table", table.check(false)).into_iter().map(|p| p.of(name)));
    }
    if table.global && matches!(kind, NodeKind::Source(source) if !source.reads_kafka()) {
        problems.push(problem(
            "graph::setting",
            name,
            "table.global",
            "a global table is read from Kafka",
            Some("read it from a topic: `kafka: { topic: NAME }`; or remove `global`".into()),
        ));
    }
    // A global table is read again from its own topic, so it needs no changelog.
    if settings.state.changelog == Changelog::Off && !table.global {
        problems.push(problem(
            "graph::changelog",
            name,
            "table",
            "a table needs the changelog, and `state: { changelog: off }` leaves it out",
            Some(
                "remove `changelog: off`: what a table holds cannot be found by reading a few records again"
                    .into(),
            ),
        ));
    }
}
