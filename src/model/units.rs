//! Units as people write them in a topology: `30s`, `1500/s`, `64MiB`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::problem::Refused;

/// Of text that is not a duration, rate or size.
fn refused(text: &str, fault: &str, example: &str) -> Refused {
    Refused::new(format!("`{text}` {fault}"), format!("write it like {example}"))
}

/// A span of time in milliseconds, written `500ms`, `30s`, `5m`, `2h`, `7d` (or several together: `1m30s`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

impl Millis {
    /// No time at all.
    pub const ZERO: Millis = Millis(0);

    /// `n` seconds.
    #[must_use]
    pub const fn secs(n: i64) -> Millis {
        Millis(n.saturating_mul(1000))
    }

    /// As a `Duration`; a negative span is zero.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<Duration> for Millis {
    fn from(d: Duration) -> Self {
        Millis(i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0;
        for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
            if ms != 0 && ms % size == 0 {
                return write!(f, "{}{unit}", ms / size);
            }
        }
        write!(f, "{ms}ms")
    }
}

impl FromStr for Millis {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let wrong = |fault| refused(text, fault, "`500ms`, `30s`, `5m` or `1h30m`");
        let bad = || wrong("is no duration");
        let long = || wrong("is too long, a duration has at most 106751991167d");
        let mut rest = text.trim();
        let mut total: i64 = 0;
        if rest.is_empty() {
            return Err(bad());
        }
        if rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            return Err(wrong("is negative, a duration is 0 or more"));
        }
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .ok_or_else(|| wrong("is no duration without a unit"))?;
            if digits > 0 && rest[digits..].starts_with(['.', ',']) {
                return Err(wrong("has a fraction, a duration is whole numbers with their units"));
            }
            let letters =
                rest[digits..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len() - digits);
            let size = match &rest[digits..digits + letters] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(bad()),
            };
            if digits == 0 {
                return Err(bad());
            }
            let number: i64 = rest[..digits].parse().map_err(|_| long())?;
            total = number.checked_mul(size).and_then(|n| total.checked_add(n)).ok_or_else(long)?;
            rest = &rest[digits + letters..];
        }
        Ok(Millis(total))
    }
}

/// How often something may happen, written `1500/s`, `90/m` or `10/h`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Events a second.
    pub per_second: f64,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.per_second)
    }
}

impl FromStr for Rate {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let bad = || refused(text, "is no rate", "`1500/s` or `90/m`");
        let (number, unit) = text.trim().split_once('/').ok_or_else(bad)?;
        let number: f64 = number.trim().parse().map_err(|_| bad())?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        if !number.is_finite() || number <= 0.0 {
            return Err(bad());
        }
        Ok(Rate { per_second: number / seconds })
    }
}

/// A number of bytes, written `512B`, `64KiB`, `64MiB`, `2GiB` (or `KB`, `MB`, `GB` for powers of ten).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// As a length in memory, saturating.
    #[must_use]
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Size {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let bad = || refused(text, "is no size", "`64KiB` or `64MiB`");
        let text_ = text.trim();
        let digits = text_.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = text_[..digits].parse().map_err(|_| bad())?;
        let unit = match text_[digits..].trim() {
            "B" => 1,
            "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(bad()),
        };
        number.checked_mul(unit).map(Size).ok_or_else(bad)
    }
}

macro_rules! as_text {
    ($type:ty, $name:literal, $pattern:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a {} such as `{}`", $name.to_lowercase(), $example)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                d.deserialize_str(Text)
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}

as_text!(Millis, "Duration", r"^([0-9]+(ms|s|m|h|d))+$", "30s");
as_text!(Rate, "Rate", r"^[0-9.]+/(s|m|h)$", "1500/s");
as_text!(Size, "Size", r"^[0-9]+ ?(B|KB|MB|GB|KiB|MiB|GiB)$", "64MiB");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_written() {
        let ms = |t: &str| t.parse::<Millis>().map(|m| m.0).ok();
        assert_eq!(ms("500ms"), Some(500));
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("1m30s"), Some(90_000));
        assert_eq!(ms("2d"), Some(172_800_000));
        for bad in ["", "30", "s", "-1s", "1.5s", "1x", "99999999999999999d"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
        let fault = |text: &str, part: &str| {
            let message = text.parse::<Millis>().expect_err(text).to_string();
            assert!(message.contains(part) && message.contains("write it like"), "{message}");
        };
        fault("-5s", "is negative");
        fault("99999999999999999d", "is too long");
        fault("9223372036854775808ms", "is too long");
        fault("106751991167d106751991167d", "is too long");
        fault("5.5s", "has a fraction");
        fault("30", "is no duration without a unit");
        fault("5 minutes", "is no duration");
        assert_eq!("1500/s".parse::<Rate>().map(|r| r.per_second), Ok(1500.0));
        assert_eq!("90/m".parse::<Rate>().map(|r| r.per_second), Ok(1.5));
        assert!("0/s".parse::<Rate>().is_err());
        assert!("1500".parse::<Rate>().is_err());
        assert_eq!("64MiB".parse::<Size>(), Ok(Size(64 << 20)));
        assert!("64 bananas".parse::<Size>().is_err());
    }

    #[test]
    fn units_print_as_they_are_written() {
        assert_eq!(Millis(90_000).to_string(), "90s");
        assert_eq!(Millis(300_000).to_string(), "5m");
        assert_eq!(Millis(1).to_string(), "1ms");
        assert_eq!(Size(64 << 20).to_string(), "64MiB");
    }
}
