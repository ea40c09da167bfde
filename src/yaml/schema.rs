//! The JSON schema of a topology file, for editors. Made from the config types, so that it cannot lag behind them.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::json;

use super::registry::Registry;
use super::test_case::TestStep;
use crate::clients::postgres::PostgresConfig;
use crate::clients::redis::RedisConfig;
use crate::clients::smtp::SmtpConfig;
use crate::formats::RegistryConfig;
use crate::kafka::KafkaConfig;
use crate::model::{Field, Json};
use crate::operators::{NodeConfig, RateLimitConfig, TableConfig};
use crate::sinks::SinkConfig;
use crate::sources::SourceConfig;
use crate::topology::{Errors, Guarantee, State, Time};

/// The schema of the built-in kinds, draft 2020-12.
#[must_use]
pub fn schema() -> Json {
    schema_with(&Registry::default())
}

/// The schema with the kinds of a registry, whose settings it leaves open.
#[must_use]
pub fn schema_with(registry: &Registry) -> Json {
    let mut generator = SchemaGenerator::default();
    let mut of = |schema: fn(&mut SchemaGenerator) -> schemars::Schema| schema(&mut generator).to_value();
    fn sub<T: JsonSchema>(generator: &mut SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<T>()
    }
    let kafka = of(sub::<KafkaConfig>);
    let schema_registry = of(sub::<RegistryConfig>);
    let postgres = connection("PostgreSQL", of(sub::<PostgresConfig>));
    let redis = connection("Redis", of(sub::<RedisConfig>));
    let smtp = connection("Mail", of(sub::<SmtpConfig>));
    let shape = of(sub::<Field>);
    let errors = of(sub::<Errors>);
    let time = of(sub::<Time>);
    let state = of(sub::<State>);
    let guarantee = of(sub::<Guarantee>);
    let limit = of(sub::<RateLimitConfig>);
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
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "slackwater topology",
        "type": "object",
        "required": ["name", "sources"],
        "additionalProperties": false,
        "properties": {
            "name": { "type": "string", "description": "Consumer group and prefix of internal topics." },
            "kafka": kafka,
            "schema_registry": schema_registry,
            "postgres": postgres,
            "redis": redis,
            "smtp": smtp,
            "rate_limits": named(limit),
            "renamed": {
                "type": "object",
                "description": "Nodes that had another name before: `NEW: OLD`. The state of OLD moves to NEW at the next start.",
                "additionalProperties": { "type": "string" }
            },
            "sources": named(source),
            "operators": named(operator),
            "sinks": named(sink),
            "errors": errors,
            "time": time,
            "state": state,
            "guarantee": guarantee,
            "tests": { "type": "array", "items": test }
        },
        "$defs": defs
    })
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

/// One connection, or several by name.
fn connection(what: &str, of: Json) -> Json {
    json!({
        "description": format!(
            "{what} servers: one, or several by name (`main: {{ url: .. }}`). Nodes that use one share its connections, and \
             say which with `connection: NAME` where there are several."
        ),
        "anyOf": [of, { "type": "object", "minProperties": 1, "additionalProperties": of }]
    })
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
