//! Settings of formats, as they stand in a topology file.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::clients::http::server;
use crate::model::secret::Secret;
use crate::model::{Millis, Problem};

/// What the bytes of a key or a value are.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// JSON; checked as it comes in, parsed when a field is asked for.
    #[default]
    Json,
    /// Anything, as it is. Also written `raw`.
    #[serde(alias = "raw")]
    Bytes,
    /// UTF-8 text: a JSON string.
    String,
    /// Four bytes, big-endian, as Kafka's integer serializer writes them.
    Integer,
    /// Eight bytes, big-endian, as Kafka's long serializer writes them.
    Long,
    /// Eight bytes, big-endian, as Kafka's double serializer writes them.
    Double,
    /// Avro behind a schema id of the registry.
    Avro,
    /// Protobuf behind a schema id of the registry.
    Protobuf,
}

impl Format {
    /// As written in a file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Bytes => "bytes",
            Format::String => "string",
            Format::Integer => "integer",
            Format::Long => "long",
            Format::Double => "double",
            Format::Avro => "avro",
            Format::Protobuf => "protobuf",
        }
    }

    /// Whether its bytes start with a schema id.
    #[must_use]
    pub fn has_schema(self) -> bool {
        matches!(self, Format::Avro | Format::Protobuf)
    }

    /// Whether a key's bytes are its text. Other keys are turned into text when they are read.
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Format::Bytes | Format::String)
    }
}

/// A schema registry with Confluent's API (Confluent, Apicurio, Karapace, Redpanda).
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Its address, with the path before `/subjects` if there is one: `http://localhost:8081`,
    /// `http://apicurio:8080/apis/ccompat/v7`.
    pub url: Secret,
    /// User of basic authentication. Default: none.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password; write it as `${REGISTRY_PASSWORD}`. Default: none.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Bearer token, instead of a user; write it as `${REGISTRY_TOKEN}`. Default: none.
    #[serde(default)]
    pub token: Option<Secret>,
    /// How long one question may take. Default 5s.
    #[serde(default = "timeout")]
    pub timeout: Millis,
}

fn timeout() -> Millis {
    Millis::secs(5)
}

impl RegistryConfig {
    /// A registry without authentication.
    #[must_use]
    pub fn new(url: impl Into<Secret>) -> RegistryConfig {
        RegistryConfig { url: url.into(), username: None, password: None, token: None, timeout: timeout() }
    }

    /// What is wrong with the settings themselves.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.url.contains("${") && server(&self.url).is_none() {
            problems.push(Problem::setting(
                "url",
                format!("`{}` is no address of a schema registry", &*self.url),
                "write `url: \"http://host:8081\"`",
            ));
        }
        if self.token.is_some() && (self.username.is_some() || self.password.is_some()) {
            problems.push(Problem::setting("token", "both a token and a user are set", "keep one of them"));
        }
        if self.password.is_some() && self.username.is_none() && self.token.is_none() {
            problems.push(Problem::setting(
                "password",
                "there is no user whose password it is",
                "add `username`, or write it as `token`",
            ));
        }
        if self.timeout <= Millis::ZERO {
            problems.push(Problem::setting(
                "timeout",
                "no time at all for an answer",
                "write a time such as `5s`",
            ));
        }
        problems
    }
}

/// The schema with which a source wants to see Avro values, whatever schema they were written with: fields that the
/// writer did not have get their defaults, fields that this schema does not have are left out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ReaderSchema {
    /// File with the schema; relative to the topology file. Either this or `inline`.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// The schema itself, as text.
    #[serde(default)]
    pub inline: Option<String>,
}

/// The schema that a sink writes with. Without `file` and `inline`: the subject's latest when the sink connects.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct WriterSchema {
    /// File with the schema (`.avsc`, `.proto`); relative to the topology file. Either this or `inline`.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// The schema itself, as text.
    #[serde(default)]
    pub inline: Option<String>,
    /// Subject in the registry. Default: the topic's name and `-value` (`-key` for keys).
    #[serde(default)]
    pub subject: Option<String>,
    /// Protobuf: full name of the message. Default: the schema's first.
    #[serde(default)]
    pub message: Option<String>,
    /// Register the schema under the subject if it is not there. Default false: it must be there.
    #[serde(default)]
    pub auto_register: bool,
}
