//! `peek`: shows records in the log and lets every one pass.
//!
//! A log line is the only effect: results never depend on it. Lines have the level TRACE unless the settings say
//! otherwise, since nothing that is logged for each record should be shown by default. There are never more lines than
//! the rate allows; how many were left out stands in the next one.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Cx, NodePlan, Operator, OperatorError, OperatorSettings};
use crate::model::{Problem, Rate, Record, Timestamp};

/// Shows records in the log. `peek: {}` shows them with `SLACKWATER_LOG=slackwater=trace`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeekConfig {
    /// The lines' level: `trace` (default), `debug` or `info`. By default the log shows `info`.
    #[serde(default)]
    pub level: PeekLevel,
    /// At most so many lines a second, for each task; the next line says how many were left out. Default 10/s.
    #[serde(default = "PeekConfig::default_rate")]
    pub rate: Rate,
}

/// The level of [`PeekConfig::level`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeekLevel {
    /// For looking closely.
    #[default]
    Trace,
    /// For looking.
    Debug,
    /// Shown without asking.
    Info,
}

impl PeekConfig {
    fn default_rate() -> Rate {
        Rate { per_second: 10.0 }
    }
}

impl Default for PeekConfig {
    fn default() -> Self {
        PeekConfig { level: PeekLevel::default(), rate: PeekConfig::default_rate() }
    }
}

/// The operator.
pub struct Peek {
    level: PeekLevel,
    lines: Lines,
}

impl Peek {
    /// A peek with these settings.
    #[must_use]
    pub fn new(config: &PeekConfig) -> Peek {
        Peek { level: config.level, lines: Lines::new(config.rate) }
    }
}

macro_rules! line {
    ($level:ident, $record:expr, $left_out:expr) => {{
        let record = $record;
        let key = record.key.as_ref().map(|k| String::from_utf8_lossy(k));
        let window = record.window.map(|w| (w.start.0, w.end.0));
        tracing::$level!(
            key = key.as_deref(),
            value = %record.value.show(),
            ts = record.ts.0,
            ?window,
            partition = record.origin.partition,
            offset = record.origin.offset,
            left_out = $left_out,
            "peek"
        );
    }};
}

impl Operator for Peek {
    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let shown = match self.level {
            PeekLevel::Trace => tracing::enabled!(tracing::Level::TRACE),
            PeekLevel::Debug => tracing::enabled!(tracing::Level::DEBUG),
            PeekLevel::Info => tracing::enabled!(tracing::Level::INFO),
        };
        if shown && let Some(left_out) = self.lines.take(cx.now) {
            match self.level {
                PeekLevel::Trace => line!(trace, &record, left_out),
                PeekLevel::Debug => line!(debug, &record, left_out),
                PeekLevel::Info => line!(info, &record, left_out),
            }
        }
        cx.forward(record);
        Ok(())
    }
}

/// The rate of lines: a token bucket that holds the lines of one second, at least one.
struct Lines {
    per_second: f64,
    full: f64,
    left: f64,
    at: Option<Timestamp>,
    left_out: u64,
}

impl Lines {
    fn new(rate: Rate) -> Lines {
        let full = rate.per_second.max(1.0);
        Lines { per_second: rate.per_second, full, left: full, at: None, left_out: 0 }
    }

    /// Takes the token of one line, if there is one; the answer is how many lines were left out since the last.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds between two lines")]
    fn take(&mut self, now: Timestamp) -> Option<u64> {
        let ms = self.at.map_or(0, |at| now.0.saturating_sub(at.0).max(0));
        self.at = Some(now);
        self.left = (self.left + ms as f64 / 1000.0 * self.per_second).min(self.full);
        if self.left < 1.0 {
            self.left_out += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl OperatorSettings for PeekConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(Peek::new(self))
    }
    fn keeps_origin(&self) -> bool {
        true
    }
    fn keeps_values(&self) -> bool {
        true
    }
    fn check(&self) -> Vec<Problem> {
        if self.rate.per_second > 0.0 {
            return Vec::new();
        }
        vec![Problem::setting("rate", "no line at all", "write a rate such as `10/s`")]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::harness::{Harness, out};
    use super::*;
    use crate::model::Value;

    /// Times at which records come, and what each line says was left out; `-` where there is no line.
    fn check(rate: &str, times: &[i64], want: &str) {
        let mut lines = Lines::new(rate.parse().expect("a rate"));
        let one = |at: &i64| lines.take(Timestamp(*at)).map_or("-".to_owned(), |n| n.to_string());
        let got: Vec<String> = times.iter().map(one).collect();
        assert_eq!(got.join(" "), want, "{rate} {times:?}");
    }

    #[test]
    fn there_are_no_more_lines_than_the_rate_allows() {
        check("2/s", &[0, 0, 0, 0, 499, 500, 999, 1000], "0 0 - - - 3 - 1");
        check("2/s", &[0, 0, 0, 9000, 9000, 9000], "0 0 - 1 0 -");
        check("6/m", &[0, 1, 9_999, 10_000, 10_001], "0 - - 2 -");
        check("1/s", &[1000, 500, 1000, 2000], "0 - - 2");
    }

    #[test]
    fn every_record_passes_as_it_came() {
        for level in ["trace", "debug", "info"] {
            let config: PeekConfig =
                serde_json::from_value(json!({ "level": level, "rate": "1/s" })).expect("settings");
            assert_eq!(config.check(), []);
            let mut node = Harness::new(move || Box::new(Peek::new(&config)));
            for n in 0..3 {
                let record = Record::new("k", Value::from(json!({ "n": n })), Timestamp(n));
                assert_eq!(node.record(0, record), [out("k", json!({ "n": n }), n)]);
            }
            let tombstone = Record { key: None, ..Record::default() };
            assert_eq!(node.record(0, tombstone).len(), 1);
        }
        assert!(serde_json::from_value::<PeekConfig>(json!({ "level": "error" })).is_err());
        let none = PeekConfig { rate: Rate { per_second: 0.0 }, ..PeekConfig::default() };
        assert_eq!(none.check().len(), 1);
    }
}
