//! Time: milliseconds since the epoch, and the only place where a clock is read.

use std::sync::atomic::{AtomicI64, Ordering};

use super::units::Millis;

/// Milliseconds since 1970-01-01T00:00:00Z, the unit of Kafka record timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Before every record: the value of a node clock that has seen nothing.
    pub const MIN: Timestamp = Timestamp(i64::MIN);
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
    use super::*;

    #[test]
    fn rfc3339_is_utc_with_milliseconds() {
        assert_eq!(Timestamp(1_500).rfc3339(), "1970-01-01T00:00:01.5Z");
        assert_eq!(Timestamp(i64::MAX).rfc3339(), "9999-12-31T23:59:59.999Z");
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
