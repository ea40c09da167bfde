//! The sections of a topology file. What is said of one part of a topology's [`Settings`] is one line here: its key, its
//! type, and where it goes; reading it, the known names and the JSON schema follow.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::decode::decode;
use super::tree::{Key, Kind, Node};
use crate::clients::postgres::PostgresConfig;
use crate::clients::redis::RedisConfig;
use crate::clients::smtp::SmtpConfig;
use crate::clients::{Named, Server};
use crate::endpoints::{EndpointConfig, ServeConfig};
use crate::formats::RegistryConfig;
use crate::kafka::KafkaConfig;
use crate::model::{Json, Problem};
use crate::operators::RateLimitConfig;
use crate::topology::{Errors, Guarantee, Settings, State, Time};

/// A section that is a part of the topology's settings.
pub(super) struct Section {
    /// Its key.
    pub(super) name: &'static str,
    /// Reads it.
    pub(super) read: fn(&Node, &mut Settings, &mut Vec<Problem>),
    /// The JSON schema of what stands there.
    pub(super) schema: fn(&mut SchemaGenerator) -> Json,
}

/// `"key": type => where it goes`
macro_rules! part {
    ($name:literal: $type:ty => $set:expr) => {
        Section {
            name: $name,
            read: |node, settings, problems| {
                let set: fn(&mut Settings, $type) = $set;
                if let Some(found) = decode::<$type>(node, problems) {
                    set(settings, found);
                }
            },
            schema: |generator| generator.subschema_for::<$type>().to_value(),
        }
    };
}

/// `server: type => field`: servers that nodes share, one or several by name.
macro_rules! servers {
    ($server:expr, $name:literal: $type:ty => $field:ident) => {
        Section {
            name: $name,
            read: |node, settings, problems| settings.connections.$field = named(node, problems),
            schema: |generator| several($server, generator.subschema_for::<$type>().to_value()),
        }
    };
}

/// The sections that are settings.
pub(super) const SETTINGS: &[Section] = &[
    part!("kafka": KafkaConfig => |settings, kafka| settings.kafka = Some(kafka)),
    part!("schema_registry": RegistryConfig => |settings, registry| settings.schema_registry = Some(registry)),
    servers!(Server::Postgres, "postgres": PostgresConfig => postgres),
    servers!(Server::Redis, "redis": RedisConfig => redis),
    servers!(Server::Smtp, "smtp": SmtpConfig => smtp),
    part!("http": ServeConfig => |settings, http| settings.http = Some(http)),
    Section {
        name: ENDPOINTS,
        read: |node, settings, problems| settings.endpoints = each(node, problems),
        schema: |generator| {
            let of = generator.subschema_for::<EndpointConfig>();
            json!({ "description": "HTTP routes, by name.", "type": "object", "additionalProperties": of })
        },
    },
    part!("rate_limits": BTreeMap<String, RateLimitConfig> => |settings, limits| settings.rate_limits = limits),
    Section {
        schema: |_| {
            json!({
                "type": "object",
                "description": "Nodes that had another name before: `NEW: OLD`. The state of OLD moves to NEW at the next \
                    start.",
                "additionalProperties": { "type": "string" }
            })
        },
        ..part!("renamed": BTreeMap<String, String> => |settings, renamed| settings.renamed = renamed)
    },
    part!("errors": Errors => |settings, errors| settings.errors = errors),
    part!("time": Time => |settings, time| settings.time = time),
    part!("state": State => |settings, state| settings.state = state),
    part!("guarantee": Guarantee => |settings, guarantee| settings.guarantee = guarantee),
];

/// The section of the endpoints.
pub(super) const ENDPOINTS: &str = "endpoints";

/// Things by name, one at a time, so that a problem in one hides none in another.
fn each<T: DeserializeOwned>(node: &Node, problems: &mut Vec<Problem>) -> BTreeMap<String, T> {
    if !matches!(node.kind, Kind::Map(_)) {
        return decode(node, problems).unwrap_or_default();
    }
    let read =
        node.entries().iter().filter_map(|(key, node)| Some((key.name.clone(), decode(node, problems)?)));
    read.collect()
}

/// One connection, or several by name: several where everything under the section is a map.
fn named<T: DeserializeOwned>(node: &Node, problems: &mut Vec<Problem>) -> Named<T> {
    let entries = node.entries();
    let is_setting = |(key, value): &(Key, Node)| key.name == "tls" || !matches!(value.kind, Kind::Map(_));
    if entries.is_empty() || entries.iter().any(is_setting) {
        return decode(node, problems).map(Named::one).unwrap_or_default();
    }
    let each = entries.iter().filter_map(|(key, node)| Some((key.name.clone(), decode(node, problems)?)));
    Named::several(each.collect::<Vec<_>>())
}

/// The schema of one connection, or of several by name.
fn several(server: Server, of: Json) -> Json {
    let what = match server {
        Server::Smtp => "Mail",
        Server::Postgres | Server::Redis => server.title(),
    };
    json!({
        "description": format!(
            "{what} servers: one, or several by name (`main: {{ url: .. }}`). Nodes that use one share its connections, and \
             say which with `connection: NAME` where there are several."
        ),
        "anyOf": [of, { "type": "object", "minProperties": 1, "additionalProperties": of }]
    })
}

/// The sections of nodes, in the order in which records pass them.
pub(super) const NODES: [&str; 3] = ["sources", "operators", "sinks"];

/// The keys of a topology file.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let settings = SETTINGS.iter().map(|section| section.name);
    ["name"].into_iter().chain(settings).chain(NODES).chain(["tests"]).collect()
}

/// Reads the sections that are settings.
pub(super) fn settings(root: &Node, problems: &mut Vec<Problem>) -> Settings {
    let mut settings = Settings::default();
    for section in SETTINGS {
        if let Some(node) = root.get(section.name) {
            (section.read)(node, &mut settings, problems);
        }
    }
    settings
}

/// What stands in the file under a name that no section has.
pub(super) fn unknown(root: &Node) -> impl Iterator<Item = &(Key, Node)> {
    let known = names();
    root.entries().iter().filter(move |(key, _)| !known.contains(&key.name.as_str()))
}
