//! Time: milliseconds since the epoch, and the only place where a clock is read.

use std::sync::atomic::{AtomicI64, Ordering};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Number;

use super::number::Num;
use super::units::Millis;
use super::value::Json;

/// Milliseconds since 1970-01-01T00:00:00Z, the unit of Kafka record timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Before every record: the value of a node clock that has seen nothing.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
    /// What Kafka hands over for a record without a timestamp. No time: a source refuses it unless it takes another.
    pub const NONE: Timestamp = Timestamp(-1);
    /// After every record.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// This time plus `by` milliseconds, saturating.
    #[must_use]
    pub fn plus(self, by: Millis) -> Timestamp {
        Timestamp(self.0.saturating_add(by.0))
    }

    /// This time minus `by` milliseconds, saturating.
    #[must_use]
    pub fn minus(self, by: Millis) -> Timestamp {
        Timestamp(self.0.saturating_sub(by.0))
    }

    /// Milliseconds from `earlier` to this time, never negative.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Millis {
        Millis(self.0.saturating_sub(earlier.0).max(0))
    }

    /// RFC 3339 in UTC with milliseconds, as Spanner and PostgreSQL read it. Years outside 0..=9999 are clamped.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let ms = self.0.clamp(-62_167_219_200_000, 253_402_300_799_999);
        let nanos = i128::from(ms) * 1_000_000;
        time::OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .and_then(|t| t.format(&time::format_description::well_known::Rfc3339).ok())
            .unwrap_or_default()
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a time is written as, where an expression gives one.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum TimestampFormat {
    /// RFC 3339 text, or milliseconds since 1970.
    #[default]
    Auto,
    /// RFC 3339 text.
    Rfc3339,
    /// Seconds since 1970. What is behind the point is kept to the millisecond.
    Seconds,
    /// Milliseconds since 1970.
    Milliseconds,
    /// Microseconds since 1970.
    Microseconds,
}

impl TimestampFormat {
    /// The time, to the millisecond before it. Numbers are read by their value (5.0 is 5), and from text too.
    #[must_use]
    pub fn read(self, json: &Json) -> Option<Timestamp> {
        let text = json.as_str();
        if matches!(self, TimestampFormat::Auto | TimestampFormat::Rfc3339)
            && let Some(time) = text.and_then(rfc3339)
        {
            return Some(time);
        }
        let number: Number = match text {
            Some(text) => serde_json::from_str(text).ok()?,
            None => json.as_number()?.clone(),
        };
        let number = Num::of(&number);
        let ms = match (self, number) {
            (TimestampFormat::Rfc3339, _) => None,
            (TimestampFormat::Seconds, Num::Float(seconds)) => thousandths(seconds),
            (TimestampFormat::Seconds, whole) => whole.whole()?.checked_mul(1000),
            (TimestampFormat::Microseconds, number) => number.whole().map(|us| us.div_euclid(1000)),
            (TimestampFormat::Auto | TimestampFormat::Milliseconds, number) => number.whole(),
        };
        ms.map(Timestamp)
    }

    /// What it reads, for people.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            TimestampFormat::Auto => "milliseconds nor RFC 3339 text",
            TimestampFormat::Rfc3339 => "RFC 3339 text",
            TimestampFormat::Seconds => "seconds since 1970",
            TimestampFormat::Milliseconds => "milliseconds since 1970",
            TimestampFormat::Microseconds => "microseconds since 1970",
        }
    }
}

fn rfc3339(text: &str) -> Option<Timestamp> {
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(Timestamp)
}

/// The first three digits behind the point of a double as it is written, as a whole number of thousandths.
fn thousandths(double: f64) -> Option<i64> {
    let text = double.to_string();
    let (whole, behind) = text.split_once('.').unwrap_or((&text, ""));
    let behind: String = behind.chars().chain("000".chars()).take(3).collect();
    format!("{whole}{behind}").parse().ok()
}

/// Where a driver reads the wall clock. Tasks never do: they get the time as an argument.
pub trait Clock: Send + Sync {
    /// The wall clock now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that moves only when told to: for `test`, `simulate` and the crash model.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Moves the clock to `to`; it never goes back.
    pub fn advance_to(&self, to: Timestamp) {
        self.0.fetch_max(to.0, Ordering::SeqCst);
    }

    /// Advances the clock by `by` milliseconds.
    pub fn advance(&self, by: Millis) {
        self.0.fetch_add(by.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rfc3339_is_utc_with_milliseconds() {
        assert_eq!(Timestamp(1_500).rfc3339(), "1970-01-01T00:00:01.5Z");
        assert_eq!(Timestamp(i64::MAX).rfc3339(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_time_is_read_by_its_value() {
        use TimestampFormat::{Auto, Microseconds, Milliseconds, Rfc3339, Seconds};
        let check = |format: TimestampFormat, json: Json, ms: Option<i64>| {
            assert_eq!(format.read(&json), ms.map(Timestamp), "{format:?} {json}");
        };
        const AT: i64 = 1_700_000_000_123;
        for format in [Auto, Milliseconds] {
            check(format, json!(AT), Some(AT));
            check(format, json!(1_700_000_000_123.0), Some(AT));
            check(format, json!("1700000000123"), Some(AT));
            check(format, json!("1700000000123.0"), Some(AT));
            check(format, json!(0), Some(0));
            for none in [
                json!(1.5),
                json!(1e30),
                json!(u64::MAX),
                json!(""),
                json!("none"),
                json!(null),
                json!(true),
                json!([1]),
            ] {
                check(format, none, None);
            }
        }
        let text = json!("2023-11-14T22:13:20.123456Z");
        for (format, ms) in [(Auto, Some(AT)), (Rfc3339, Some(AT)), (Milliseconds, None), (Seconds, None)] {
            check(format, text.clone(), ms);
        }
        check(Auto, json!("2023-11-14T23:13:20.123+01:00"), Some(AT));
        check(Auto, json!("1969-12-31T23:59:59.9995Z"), Some(-1));
        check(Rfc3339, json!(AT), None);
        check(Rfc3339, json!("1700000000123"), None);
        check(Seconds, json!(1_700_000_000), Some(1_700_000_000_000));
        check(Seconds, json!(1_700_000_000.0), Some(1_700_000_000_000));
        check(Seconds, json!(1_700_000_000.123), Some(AT));
        check(Seconds, json!("1700000000.1239"), Some(AT));
        check(Seconds, json!(0.5), Some(500));
        check(Seconds, json!(i64::MAX), None);
        check(Seconds, json!(1e300), None);
        check(Microseconds, json!(1_700_000_000_123_999_i64), Some(AT));
        check(Microseconds, json!("1700000000123999"), Some(AT));
        check(Microseconds, json!(1.5), None);
    }

    #[test]
    fn a_manual_clock_never_goes_back() {
        let clock = ManualClock::default();
        clock.advance_to(Timestamp(10));
        clock.advance_to(Timestamp(5));
        clock.advance(Millis(1));
        assert_eq!(clock.now(), Timestamp(11));
    }
}
