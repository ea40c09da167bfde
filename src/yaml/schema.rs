//! The JSON schema of a topology file, for editors. Made from the config types, so that it cannot lag behind them.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::json;

use super::registry::Registry;
use super::sections;
use super::test_case::TestStep;
use crate::model::{Field, Json};
use crate::operators::{NodeConfig, TableConfig};
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;

/// The schema of the built-in kinds, draft 2020-12.
#[must_use]
pub fn schema() -> Json {
    schema_with(&Registry::default())
}

/// The schema with the kinds of a registry, whose settings it leaves open.
#[must_use]
pub fn schema_with(registry: &Registry) -> Json {
    let mut generator = SchemaGenerator::default();
    let settings: Vec<(&str, Json)> =
        sections::SETTINGS.iter().map(|section| (section.name, (section.schema)(&mut generator))).collect();
    let mut of = |schema: fn(&mut SchemaGenerator) -> schemars::Schema| schema(&mut generator).to_value();
    fn sub<T: JsonSchema>(generator: &mut SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<T>()
    }
    let shape = of(sub::<Field>);
    let step = of(sub::<TestStep>);
    let table = of(sub::<TableConfig>);
    let source = of(<SourceConfig as JsonSchema>::json_schema);
    let source = with_own(source, "A source", registry.sources.names());
    let source = with(source, "table", &table, false);
    let source = with(source, "schema", &shape, false);
    let operator = of(<NodeConfig as JsonSchema>::json_schema);
    let operator = with_from(with_own(operator, "An operator", registry.operators.names()));
    let sink = of(<SinkConfig as JsonSchema>::json_schema);
    let sink = with_from(with_own(sink, "A sink", registry.sinks.names()));
    let defs = generator.take_definitions(true);
    let named = |schema: Json| json!({ "type": "object", "additionalProperties": schema });
    let test = json!({
        "type": "object",
        "required": ["name", "steps"],
        "additionalProperties": false,
        "properties": {
            "name": { "type": "string" },
            "steps": { "type": "array", "items": { "anyOf": [step, { "enum": ["crash", "checkpoint"] }] } }
        }
    });
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "slackwater topology",
        "type": "object",
        "required": ["name"],
        "anyOf": [{ "required": ["sources"] }, { "required": ["endpoints"] }],
        "additionalProperties": false,
        "properties": {
            "sources": named(source),
            "operators": named(operator),
            "sinks": named(sink),
            "tests": { "type": "array", "items": test }
        },
        "$defs": defs
    });
    let name = json!({ "type": "string", "description": "Consumer group and prefix of internal topics." });
    if let Some(nodes) = schema.get_mut("properties").and_then(Json::as_object_mut) {
        let mut properties = serde_json::Map::from_iter([("name".to_owned(), name)]);
        properties.extend(settings.into_iter().map(|(name, schema)| (name.to_owned(), schema)));
        properties.append(nodes);
        *nodes = properties;
    }
    schema
}

/// Kinds of a user's own beside the built-in ones.
fn with_own(mut schema: Json, what: &str, own: impl Iterator<Item = &'static str>) -> Json {
    if let Some(kinds) = schema.get_mut("oneOf").and_then(Json::as_array_mut) {
        kinds.extend(own.map(|kind| {
            json!({
                "type": "object",
                "description": format!("{what} of this program's own."),
                "properties": { kind: {} },
                "additionalProperties": false,
                "required": [kind]
            })
        }));
    }
    schema
}

/// Adds `from`, which nodes that read others have beside their kind.
fn with_from(schema: Json) -> Json {
    let from = json!({
        "description": "What the node reads: a node, or a list of nodes; `node.output` for a branch.",
        "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
    });
    with(schema, "from", &from, true)
}

/// Adds a field beside a node's kind.
fn with(mut schema: Json, name: &str, field: &Json, needed: bool) -> Json {
    if let Some(kinds) = schema.get_mut("oneOf").and_then(Json::as_array_mut) {
        for kind in kinds {
            if let Some(properties) = kind.get_mut("properties").and_then(Json::as_object_mut) {
                properties.insert(name.into(), field.clone());
            }
            if needed && let Some(required) = kind.get_mut("required").and_then(Json::as_array_mut) {
                required.push(name.into());
            }
        }
    }
    schema
}
