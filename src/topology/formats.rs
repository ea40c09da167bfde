//! The formats of a topology: the schemas that its nodes name, and keys that must have the same format.
//!
//! Called by the builder. Schema files are read here, so that problems with them are problems of the topology like any
//! other.

use std::collections::BTreeMap;

use super::builder::{Given, problem};
use super::{Node, NodeKind, Settings, SubTopology};
use crate::formats::{Format, NamedSchemas, SchemaProblem, WriterSchema};
use crate::model::{Problem, Shape};
use crate::sinks::KafkaSinkConfig;
use crate::sources::SourceConfig;

/// Reads every schema that is named in the topology.
pub(super) fn load(
    settings: &Settings,
    nodes: &[Given],
    shapes: &BTreeMap<String, Shape>,
    problems: &mut Vec<Problem>,
) -> NamedSchemas {
    let mut formats = NamedSchemas::new(settings.schema_registry.clone());
    if let Some(registry) = &settings.schema_registry {
        problems.extend(registry.check().into_iter().map(|p| {
            let field = format!("schema_registry.{}", p.field);
            p.field(field)
        }));
    }
    for (name, kind, _) in nodes {
        match kind {
            NodeKind::Source(source) => load_source(&mut formats, settings, name, source, problems),
            NodeKind::Sink(sink) => {
                if let Some(kafka) = sink.kafka() {
                    load_sink(&mut formats, settings, name, sink.kind_name(), kafka, problems);
                }
            }
            NodeKind::Operator(_) => {}
        }
        if let (NodeKind::Source(source), Some(_)) = (kind, shapes.get(name))
            && source.format() == Format::Bytes
        {
            problems.push(problem(
                "graph::format",
                name,
                "schema",
                "`format: bytes` means that values are not read, and a `schema` says what is in them",
                Some("remove the schema, or name the format that they have".into()),
            ));
        }
    }
    formats
}

fn load_source(
    formats: &mut NamedSchemas,
    settings: &Settings,
    name: &str,
    source: &SourceConfig,
    problems: &mut Vec<Problem>,
) {
    let (kind, format) = (source.kind_name(), source.format());
    if source.is_text() && !matches!(format, Format::Json | Format::String | Format::Bytes) {
        let message = format!("a line of text is no {}", format.name());
        let help = "a line is `json`, `string` or `bytes`";
        let field = format!("{kind}.format");
        problems.push(problem("graph::format", name, &field, &message, Some(help.into())));
        return;
    }
    if let Some(reader) = source.reader_schema()
        && let Err(SchemaProblem { field, message, help }) = formats.add_reader(name, format, reader)
    {
        problems.push(problem("graph::schema", name, &format!("{kind}.{field}"), &message, Some(help)));
    }
    for (field, format) in [("format", format), ("key_format", source.key_format())] {
        needs_registry(settings, name, &format!("{kind}.{field}"), format, problems);
    }
}

fn load_sink(
    formats: &mut NamedSchemas,
    settings: &Settings,
    name: &str,
    kind: &str,
    sink: &KafkaSinkConfig,
    problems: &mut Vec<Problem>,
) {
    let default = WriterSchema::default();
    let parts = [
        (false, "format", "writer_schema", sink.format, &sink.writer_schema),
        (true, "key_format", "key_writer_schema", sink.key_format, &sink.key_writer_schema),
    ];
    for (is_key, field, schema_field, format, schema) in parts {
        needs_registry(settings, name, &format!("{kind}.{field}"), format, problems);
        if !format.has_schema() {
            if schema.is_some() {
                let message = format!("`{field}: {}` has no schema", format.name());
                let field = format!("{kind}.{schema_field}");
                let help = "remove it, or write `avro` or `protobuf` as the format";
                problems.push(problem("graph::schema", name, &field, &message, Some(help.into())));
            }
            continue;
        }
        let schema = schema.as_deref().unwrap_or(&default);
        if let Err(found) = formats.add_writer(name, &sink.topic, is_key, format, schema) {
            let field = format!("{kind}.{}", found.field);
            problems.push(problem("graph::schema", name, &field, &found.message, Some(found.help)));
        }
    }
}

fn needs_registry(settings: &Settings, node: &str, field: &str, format: Format, problems: &mut Vec<Problem>) {
    if format.has_schema() && settings.schema_registry.is_none() {
        problems.push(problem(
            "graph::registry",
            node,
            field,
            &format!(
                "`{}` needs a schema registry, and the topology does not say where it is",
                format.name()
            ),
            Some("add `schema_registry: { url: \"http://localhost:8081\" }`".into()),
        ));
    }
}

/// Topics that are read together must have the same bytes for the same key, since they were partitioned by these bytes.
pub(super) fn check_keys(nodes: &[Node], subs: &[SubTopology]) -> Result<(), Vec<Problem>> {
    let mut problems = Vec::new();
    for sub in subs.iter().filter(|sub| sub.stateful && sub.topics.len() > 1) {
        let sources: Vec<(&Node, Format)> = sub
            .nodes
            .iter()
            .filter_map(|n| match &nodes[*n].kind {
                NodeKind::Source(source) => Some((&nodes[*n], source.key_format())),
                _ => None,
            })
            .collect();
        let same = |a: Format, b: Format| a == b || (a.is_text() && b.is_text());
        let Some((odd, format)) = sources.iter().find(|(_, format)| !format.is_text()) else { continue };
        let Some((other, theirs)) = sources.iter().find(|(_, f)| !same(*f, *format)) else { continue };
        let other_is = if theirs.is_text() { "text" } else { theirs.name() };
        let kind = match &odd.kind {
            NodeKind::Source(source) => source.kind_name(),
            NodeKind::Operator(_) | NodeKind::Sink(_) => continue,
        };
        problems.push(problem(
            "graph::key_format",
            &odd.name,
            &format!("{kind}.key_format"),
            &format!(
                "its keys are {}, those of `{}` are {other_is}, and both are read together: the same key is in \
                 different partitions",
                format.name(),
                other.name,
            ),
            Some(format!(
                "send them through a topic of the topology's own: `{0}-by-key: {{ from: {0}, key_by: key }}`, and read \
                 that",
                odd.name
            )),
        ));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
