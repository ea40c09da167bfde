//! The kinds of operators: one variant each. The compiler lists every place that must change with a new one.

use schemars::JsonSchema;
use serde::Deserialize;

/// An operator's settings; its kind is the key that holds them in YAML.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeConfig {}
