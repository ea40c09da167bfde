//! The settings of `suppress`, and what can be wrong with them.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use crate::model::{Millis, Problem, Refused, Size};
use crate::operators::shared::describe::Described;
use crate::operators::{NodePlan, Operator, OperatorSettings, Timing, WindowsAbove};

/// Holds results back until their window is closed, or for a time.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuppressConfig {
    /// `window_closes`: one result per window, when it is closed. A time such as `30s`: the newest result of a key, so
    /// long after the first that was held.
    pub until: Until,
    /// With `window_closes`: how long after the window's end its result is held. Default, and at least: what the
    /// aggregate above allows for late records (its grace; for sessions grace and gap).
    #[serde(default)]
    pub grace: Option<Millis>,
    /// Results held at most. Default: no bound.
    #[serde(default)]
    pub max_records: Option<u64>,
    /// Bytes of keys and values held at most. Default: no bound.
    #[serde(default)]
    pub max_bytes: Option<Size>,
    /// When a bound is passed: `emit_early` (the default with a time) sends the oldest on, `stop` (the default with
    /// `window_closes`) stops the task.
    #[serde(default)]
    pub on_full: Option<OnFull>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The end of the result's window.
    WindowCloses,
    /// This long after the first held update of the key.
    Time(Millis),
}

impl<'de> Deserialize<'de> for Until {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text.trim() == "window_closes" {
            return Ok(Until::WindowCloses);
        }
        let time = text.parse().map(Until::Time);
        time.map_err(|_| {
            let help = "write `window_closes`, or a time such as `30s`";
            de::Error::custom(Refused::new(format!("`{text}` is neither of both"), help))
        })
    }
}

impl JsonSchema for Until {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Until".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "pattern": "^(window_closes|([0-9]+(ms|s|m|h|d))+)$", "examples": ["window_closes", "30s"]
        })
    }
}

/// What happens when a bound is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFull {
    /// The oldest are sent early.
    EmitEarly,
    /// The task stops.
    Stop,
}

impl SuppressConfig {
    pub(super) fn policy(&self) -> OnFull {
        let default = if self.until == Until::WindowCloses { OnFull::Stop } else { OnFull::EmitEarly };
        self.on_full.unwrap_or(default)
    }

    /// For graphs: `window_closes`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.until {
            Until::WindowCloses => "window_closes".into(),
            Until::Time(limit) => limit.to_string(),
        }
    }
}

impl OperatorSettings for SuppressConfig {
    fn build(&self, plan: &NodePlan) -> Box<dyn Operator> {
        Box::new(super::Suppress::new(self, plan.grace))
    }
    fn state_kind(&self, kind: &'static str, _: &NodePlan) -> Option<&'static str> {
        Some(kind)
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    /// Where it waits for windows, a late update would be sent as a second result of a window that has already sent its
    /// final one.
    fn timing(&self, _: &NodePlan) -> Timing {
        Timing { refuses_late: self.until == Until::WindowCloses, ..Timing::default() }
    }
    fn holds_records(&self, _: &NodePlan) -> bool {
        true
    }
    fn keeps_values(&self) -> bool {
        true
    }
    fn describe(&self, _key: &[u8], value: &[u8], _: &NodePlan) -> Option<Described> {
        super::describe_row(value)
    }
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if let Until::Time(limit) = self.until {
            if limit < Millis::ZERO {
                problem("until", "it is negative", "write a time such as `30s`");
            }
            if self.grace.is_some() {
                problem("grace", "only `until: window_closes` has a grace", "remove it");
            }
        }
        if self.grace.is_some_and(|grace| grace < Millis::ZERO) {
            problem("grace", "it is negative", "write a time such as `10s`, or leave it out");
        }
        if self.max_records == Some(0) {
            problem("max_records", "it could hold nothing", "write 1 or more");
        }
        if self.max_bytes == Some(Size(0)) {
            problem("max_bytes", "it could hold nothing", "write a size such as `64MiB`");
        }
        if self.on_full.is_some() && self.max_records.is_none() && self.max_bytes.is_none() {
            problem("on_full", "nothing says when it is full", "add `max_records` or `max_bytes`");
        }
        if self.until == Until::WindowCloses && self.on_full == Some(OnFull::EmitEarly) {
            problem(
                "on_full",
                "a result sent early is not the window's final one",
                "write `on_full: stop`, or `until: 30s`",
            );
        }
        problems
    }
    /// A grace of its own that is shorter than that of the windows would let several results of a window go.
    fn check_windows(&self, above: &WindowsAbove) -> Vec<Problem> {
        let problem = |field: &str, message: String, help: String| {
            vec![Problem { code: "graph::window", ..Problem::setting(field, message, help) }]
        };
        match (self.until, self.grace, above.grace) {
            (Until::Time(_), ..) => Vec::new(),
            (Until::WindowCloses, Some(own), Some(found)) if own < found => problem(
                "grace",
                format!("windows still change for {found} after their end: one would send several results"),
                format!("write {found} or more, or remove it"),
            ),
            (Until::WindowCloses, None, found) if above.unwindowed || found.is_none() => problem(
                "until",
                "it waits for windows, and what it reads has none".into(),
                "let it read an `aggregate` with a `window`, or write a time such as `until: 30s`".into(),
            ),
            (Until::WindowCloses, ..) => Vec::new(),
        }
    }
    fn label(&self, kind: &'static str) -> String {
        format!("{kind} {}", self.label())
    }
}
