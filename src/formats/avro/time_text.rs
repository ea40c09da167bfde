//! Dates and times of day as text, and back.

use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime};

/// Julian day of 1970-01-01.
const EPOCH: i32 = 2_440_588;

/// `2024-01-02` for days since 1970.
pub(super) fn date(days: i32) -> Result<String, String> {
    let day = days.checked_add(EPOCH).and_then(|day| Date::from_julian_day(day).ok());
    day.map(|day| day.to_string()).ok_or_else(|| format!("day {days} is out of range"))
}

/// Days since 1970 of `2024-01-02`.
pub(super) fn days(text: &str) -> Option<i32> {
    let start = OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339).ok()?;
    Some(start.date().to_julian_day() - EPOCH)
}

/// `12:34:56.789` for a time of day in units of a second.
pub(super) fn of_day(units: i64, per_second: i64) -> Result<String, String> {
    if !(0..86_400 * per_second).contains(&units) {
        return Err(format!("{units} is no time of day"));
    }
    let (seconds, rest) = (units / per_second, units % per_second);
    let digits = per_second.ilog10() as usize;
    Ok(format!("{:02}:{:02}:{:02}.{rest:0digits$}", seconds / 3600, seconds / 60 % 60, seconds % 60))
}

/// Units of a second since midnight of `12:34:56.789`.
pub(super) fn units_of_day(text: &str, per_second: i64) -> Option<i64> {
    let at = OffsetDateTime::parse(&format!("1970-01-01T{text}Z"), &Rfc3339).ok()?;
    units(at, per_second)
}

/// RFC 3339 for units of a second since 1970; without a zone where it is a local time.
pub(super) fn stamp(units: i64, per_second: i64, local: bool) -> Result<String, String> {
    let nanos = i128::from(units) * i128::from(1_000_000_000 / per_second);
    let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    let text = at
        .and_then(|at| at.format(&Rfc3339).ok())
        .ok_or_else(|| format!("the time {units} is out of range"))?;
    Ok(if local { text.trim_end_matches('Z').to_owned() } else { text })
}

/// Units of a second since 1970 of RFC 3339 text.
pub(super) fn units_of(text: &str, per_second: i64, local: bool) -> Option<i64> {
    let zoned = if local { format!("{text}Z") } else { text.to_owned() };
    units(OffsetDateTime::parse(&zoned, &Rfc3339).ok()?, per_second)
}

fn units(at: OffsetDateTime, per_second: i64) -> Option<i64> {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(i128::from(1_000_000_000 / per_second))).ok()
}
