//! The kinds of sinks: one variant each.

use schemars::JsonSchema;
use serde::Deserialize;

/// A sink's settings; its kind is the key that holds them in YAML.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkConfig {}
