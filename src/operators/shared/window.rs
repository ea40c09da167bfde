//! Windows as a topology writes them, and their arithmetic: which windows a timestamp falls into, when they are closed.
//!
//! Called by `aggregate`, and by the builder for a `suppress` below it. Everything is in milliseconds; sums saturate.
//! Windows start at 0 or later, as in Kafka Streams.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Millis, Problem};

/// Most windows that one record may be in: each is a row of state and a result of its own.
const PANES_MAX: i64 = 10_000;

/// Which records belong together in time: one of `tumbling`, `hopping` (with `every`), `sliding` and `session`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// Windows of this length, one after the other: `[0, length)`, `[length, 2 * length)` and so on.
    #[serde(default)]
    pub tumbling: Option<Millis>,
    /// Windows of this length that overlap: a new one starts `every` so often.
    #[serde(default)]
    pub hopping: Option<Millis>,
    /// With `hopping`: the time from the start of one window to the start of the next. No default. A record is in
    /// `hopping / every` windows, of which there may be 10000.
    #[serde(default)]
    pub every: Option<Millis>,
    /// A window for every set of records that lie at most this far apart: `[t - length, t]` for each record at `t`, and
    /// `[t + 1, t + 1 + length]` where records follow. Both ends belong to it.
    #[serde(default)]
    pub sliding: Option<Millis>,
    /// Records of a key with no gap longer than this between them. Both ends belong to the session.
    #[serde(default)]
    pub session: Option<Millis>,
    /// How long after its end a window still takes late records. Default 0s.
    #[serde(default)]
    pub grace: Option<Millis>,
}

/// A window, with what its kind needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// `[start, start + size)`, `start` a multiple of `advance` (tumbling: the same as `size`).
    Time {
        /// Length.
        size: i64,
        /// From one start to the next.
        advance: i64,
    },
    /// `[start, start + difference]`.
    Sliding {
        /// Length.
        difference: i64,
    },
    /// `[start, end]` around records that are at most `gap` apart.
    Session {
        /// Longest silence.
        gap: i64,
    },
}

impl WindowConfig {
    /// Tumbling windows without grace. For the Rust DSL.
    #[must_use]
    pub fn tumbling(length: Millis) -> WindowConfig {
        WindowConfig { tumbling: Some(length), ..WindowConfig::default() }
    }

    /// Hopping windows without grace. For the Rust DSL.
    #[must_use]
    pub fn hopping(length: Millis, every: Millis) -> WindowConfig {
        WindowConfig { hopping: Some(length), every: Some(every), ..WindowConfig::default() }
    }

    /// Sliding windows without grace. For the Rust DSL.
    #[must_use]
    pub fn sliding(length: Millis) -> WindowConfig {
        WindowConfig { sliding: Some(length), ..WindowConfig::default() }
    }

    /// Session windows without grace. For the Rust DSL.
    #[must_use]
    pub fn session(gap: Millis) -> WindowConfig {
        WindowConfig { session: Some(gap), ..WindowConfig::default() }
    }

    /// The same windows, open for late records this much longer.
    #[must_use]
    pub fn with_grace(self, grace: Millis) -> WindowConfig {
        WindowConfig { grace: Some(grace), ..self }
    }

    /// The kind; `None` where the settings do not say.
    #[must_use]
    pub fn kind(&self) -> Option<WindowKind> {
        match (self.tumbling, self.hopping, self.every, self.sliding, self.session) {
            (Some(size), None, None, None, None) => Some(WindowKind::Time { size: size.0, advance: size.0 }),
            (None, Some(size), Some(every), None, None) => {
                Some(WindowKind::Time { size: size.0, advance: every.0 })
            }
            (None, None, None, Some(length), None) => Some(WindowKind::Sliding { difference: length.0 }),
            (None, None, None, None, Some(gap)) => Some(WindowKind::Session { gap: gap.0 }),
            _ => None,
        }
    }

    /// How long after its end a window takes late records.
    #[must_use]
    pub fn grace(&self) -> Millis {
        self.grace.unwrap_or_default()
    }

    /// How long after a window's end `suppress` holds its result: the grace, and for sessions the gap too.
    #[must_use]
    pub fn suppress_grace(&self) -> Millis {
        Millis(self.grace().0.saturating_add(self.session.unwrap_or_default().0))
    }

    /// What is wrong: the field below `at`, the message, the help.
    #[must_use]
    pub fn check(&self, at: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut problem = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(format!("{at}{field}"), message, help));
        };
        let kinds = [
            (".tumbling", self.tumbling),
            (".hopping", self.hopping),
            (".sliding", self.sliding),
            (".session", self.session),
        ];
        let mut set = kinds.iter().filter(|(_, span)| span.is_some());
        match (set.next(), set.next()) {
            (None, _) => {
                let all = "`tumbling: 1m`, `hopping: 5m, every: 1m`, `sliding: 5m` or `session: 30m`";
                if self.grace.is_some() {
                    problem(".grace", "grace without a window", &format!("add one of {all}, or remove it"));
                } else {
                    problem("", "nothing says what a window is", &format!("write one of {all}"));
                }
            }
            (Some(_), Some((second, _))) => {
                problem(second, "a window is of one kind", "keep one kind; make a second node for the other");
            }
            _ => {}
        }
        for (field, span) in kinds.into_iter().chain([(".every", self.every)]) {
            if span.is_some_and(|span| span <= Millis::ZERO) {
                problem(field, "it must be longer than nothing", "write a time such as `30s`");
            }
        }
        if self.grace.is_some_and(|grace| grace < Millis::ZERO) {
            problem(".grace", "it is negative", "write a time such as `10s`, or leave it out");
        }
        match (self.hopping, self.every) {
            (Some(length), Some(every)) if every > length => problem(
                ".every",
                "it is longer than the window: records between two windows would be in none",
                &format!("write {length} or less"),
            ),
            (Some(Millis(length)), Some(Millis(every))) if every > 0 && (length - 1) / every >= PANES_MAX => {
                let panes = (length - 1) / every + 1;
                let least = Millis((length - 1) / PANES_MAX + 1);
                problem(
                    ".every",
                    &format!("each record would be in {panes} windows: {PANES_MAX} are possible"),
                    &format!("write {least} or more; `sliding` has a window for each record instead"),
                );
            }
            (Some(_), None) => problem(
                ".hopping",
                "nothing says how often a window starts",
                "add `every: 1m`, or write `tumbling` if the windows should not overlap",
            ),
            (None, Some(_)) => {
                problem(".every", "only `hopping` windows have it", "remove it, or write `hopping: 5m`");
            }
            _ => {}
        }
        problems
    }

    /// For graphs: `tumbling 1m`.
    #[must_use]
    pub fn label(&self) -> String {
        let kind = match (self.tumbling, self.hopping, self.every, self.sliding, self.session) {
            (Some(t), ..) => format!("tumbling {t}"),
            (_, Some(h), Some(every), ..) => format!("hopping {h} every {every}"),
            (_, Some(h), None, ..) => format!("hopping {h}"),
            (_, _, _, Some(s), _) => format!("sliding {s}"),
            (_, _, _, _, Some(s)) => format!("session {s}"),
            _ => String::new(),
        };
        match self.grace.filter(|grace| *grace > Millis::ZERO) {
            Some(grace) => format!("{kind} + {grace}"),
            None => kind,
        }
    }
}

/// The starts of the time windows that hold `ts`, ascending.
pub(in crate::operators) fn starts(ts: i64, size: i64, advance: i64) -> impl Iterator<Item = i64> {
    // The first multiple of `advance` that is greater than `ts - size`.
    let first = ts.saturating_sub(size).saturating_add(advance).max(0) / advance * advance;
    std::iter::successors(Some(first), move |start| start.checked_add(advance)).take_while(move |s| *s <= ts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_in_every_window_that_starts_at_most_its_size_before() {
        let all = |ts, size, advance| starts(ts, size, advance).collect::<Vec<_>>();
        // Tumbling: the end is not part of the window.
        assert_eq!(all(0, 10, 10), [0]);
        assert_eq!(all(9, 10, 10), [0]);
        assert_eq!(all(10, 10, 10), [10]);
        assert_eq!(all(11, 10, 10), [10]);
        // Hopping; none starts before 0.
        assert_eq!(all(0, 10, 5), [0]);
        assert_eq!(all(4, 10, 5), [0]);
        assert_eq!(all(5, 10, 5), [0, 5]);
        assert_eq!(all(9, 10, 5), [0, 5]);
        assert_eq!(all(10, 10, 5), [5, 10]);
        // A size that is no multiple of the advance.
        assert_eq!(all(6, 7, 3), [0, 3, 6]);
        assert_eq!(all(7, 7, 3), [3, 6]);
        assert_eq!(all(9, 7, 3), [3, 6, 9]);
        for ts in 0..60 {
            for (size, advance) in [(1, 1), (7, 3), (9, 3), (10, 4), (10, 10)] {
                let naive: Vec<i64> =
                    (0..=ts).filter(|s| s % advance == 0 && *s <= ts && ts < s + size).collect();
                assert_eq!(all(ts, size, advance), naive, "{ts} {size} {advance}");
            }
        }
        assert_eq!(all(i64::MAX, 10, 10).len(), 1);
    }

    fn check(json: serde_json::Value, want: &[&str]) {
        let config: WindowConfig = serde_json::from_value(json).unwrap();
        let got: Vec<_> = config.check("w").into_iter().map(|p| p.field).collect();
        assert_eq!(got, want, "{config:?}");
        assert_eq!(want.is_empty(), config.kind().is_some() && want.is_empty());
    }

    #[test]
    fn windows_that_cannot_be_are_refused() {
        check(json!({ "tumbling": "1m", "grace": "10s" }), &[]);
        check(json!({ "tumbling": "1ms", "grace": "0s" }), &[]);
        check(json!({ "hopping": "5m", "every": "1m" }), &[]);
        check(json!({ "hopping": "5m", "every": "5m" }), &[]);
        check(json!({ "sliding": "5m" }), &[]);
        check(json!({ "session": "30m" }), &[]);
        check(json!({}), &["w"]);
        check(json!({ "grace": "1s" }), &["w.grace"]);
        check(json!({ "tumbling": "1m", "session": "1m" }), &["w.session"]);
        check(json!({ "tumbling": "0s" }), &["w.tumbling"]);
        check(json!({ "session": "0s" }), &["w.session"]);
        check(json!({ "sliding": "0s" }), &["w.sliding"]);
        check(json!({ "hopping": "0s", "every": "0s" }), &["w.hopping", "w.every"]);
        check(json!({ "hopping": "5m", "every": "5m1ms" }), &["w.every"]);
        check(json!({ "hopping": "5m", "every": "0s" }), &["w.every"]);
        check(json!({ "hopping": "5m" }), &["w.hopping"]);
        check(json!({ "hopping": "10s", "every": "1ms" }), &[]);
        check(json!({ "hopping": "10001ms", "every": "1ms" }), &["w.every"]);
        check(json!({ "hopping": "30000ms", "every": "3ms" }), &[]);
        check(json!({ "hopping": "30001ms", "every": "3ms" }), &["w.every"]);
        check(json!({ "hopping": "30d", "every": "1ms" }), &["w.every"]);
        let help =
            WindowConfig::hopping(Millis(30_001), Millis(3)).check("").remove(0).help.expect("says how");
        assert!(help.contains("write 4ms or more") && 30_001 / 4 < PANES_MAX, "{help}");
        check(json!({ "tumbling": "5m", "every": "1m" }), &["w.every"]);
        let negative = WindowConfig::tumbling(Millis(-1)).with_grace(Millis(-1));
        assert_eq!(negative.check("").len(), 2);
        assert!(serde_json::from_value::<WindowConfig>(json!({ "tumble": "1m" })).is_err());
    }

    #[test]
    fn suppress_waits_for_the_grace_and_for_sessions_the_gap_too() {
        let grace = Millis::secs(5);
        assert_eq!(WindowConfig::tumbling(grace).with_grace(grace).suppress_grace(), grace);
        assert_eq!(WindowConfig::sliding(grace).suppress_grace(), Millis::ZERO);
        assert_eq!(WindowConfig::session(grace).with_grace(grace).suppress_grace(), Millis::secs(10));
        assert_eq!(WindowConfig::hopping(grace, grace).with_grace(grace).label(), "hopping 5s every 5s + 5s");
    }
}
