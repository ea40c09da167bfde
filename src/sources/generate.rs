//! `generate`: made-up records at an even rate, keys in turn.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{OpenError, Reader, SourceSettings};
use crate::model::{Origin, Problem, Rate, Record, Timestamp, Value};

/// Made-up records.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct GenerateSource {
    /// Records a second. Default 10/s.
    #[serde(default = "GenerateSource::default_rate")]
    pub rate: Rate,
    /// Number of different keys, `key-0` and up, in turn. Default 100.
    #[serde(default = "GenerateSource::default_keys")]
    pub keys: u64,
    /// Stop after so many records; without it, never.
    pub count: Option<u64>,
}

impl GenerateSource {
    fn default_rate() -> Rate {
        Rate { per_second: 10.0 }
    }
    fn default_keys() -> u64 {
        100
    }
}

impl SourceSettings for GenerateSource {
    fn label(&self) -> String {
        self.rate.to_string()
    }

    fn check(&self) -> Vec<Problem> {
        let none = || Problem::setting("keys", "records of no keys", "write 1 or more; the default is 100");
        (self.keys == 0).then(none).into_iter().collect()
    }

    fn open(&self, now: Timestamp) -> Result<Option<Box<dyn Reader>>, OpenError> {
        let maker = Maker {
            per_second: self.rate.per_second,
            keys: self.keys.max(1),
            left: self.count,
            made: 0,
            start: now,
        };
        Ok(Some(Box::new(maker)))
    }
}

/// Made-up records: key `key-N` in turn, value `{"n": count}`.
struct Maker {
    per_second: f64,
    keys: u64,
    left: Option<u64>,
    made: u64,
    start: Timestamp,
}

impl Reader for Maker {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a count of records due"
    )]
    fn poll(&mut self, max: usize, now: Timestamp, out: &mut Vec<Record>) -> Result<usize, String> {
        let due = (now.since(self.start).0 as f64 / 1000.0 * self.per_second) as u64;
        let mut n = 0;
        while n < max && self.made < due && self.left != Some(0) {
            let offset = i64::try_from(self.made).unwrap_or(i64::MAX);
            out.push(Record {
                key: Some(Bytes::from(format!("key-{}", self.made % self.keys))),
                value: Value::Bytes(Bytes::from(format!("{{\"n\":{}}}", self.made))),
                ts: now,
                origin: Origin { topic: 0, partition: 0, offset },
                ..Record::default()
            });
            self.made += 1;
            self.left = self.left.map(|l| l - 1);
            n += 1;
        }
        Ok(n)
    }

    /// Always true: the next record does not exist before its time.
    fn caught_up(&self) -> bool {
        true
    }

    fn ended(&self) -> bool {
        self.left == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_at_their_rate_and_end_with_the_count() {
        let source = GenerateSource { rate: Rate { per_second: 10.0 }, keys: 2, count: Some(4) };
        let mut reader = source.open(Timestamp(1000)).unwrap().expect("a reader");
        let mut poll = |max, now| {
            let mut out = Vec::new();
            let n = reader.poll(max, Timestamp(now), &mut out).unwrap();
            assert_eq!(n, out.len());
            let seen = out.iter().map(|r| {
                format!(
                    "{}={}",
                    String::from_utf8_lossy(r.key.as_deref().unwrap_or_default()),
                    r.value.show()
                )
            });
            (seen.collect::<Vec<_>>().join(" "), reader.ended())
        };
        assert_eq!(poll(9, 1000), (String::new(), false));
        assert_eq!(poll(9, 1200), ("key-0={\"n\":0} key-1={\"n\":1}".into(), false));
        assert_eq!(poll(1, 9000), ("key-0={\"n\":2}".into(), false), "no more than asked for");
        assert_eq!(poll(9, 9000), ("key-1={\"n\":3}".into(), true));
        assert_eq!(poll(9, 9900), (String::new(), true));
    }
}
