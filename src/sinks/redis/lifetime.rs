//! How long a key lives.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer};

use crate::model::{EvalError, Expr, Json, Millis, Scope};

/// How long a key is kept: as the file says, or as each record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Lifetime {
    /// So long.
    Fixed(Millis),
    /// What the expression gives: a duration as text, or a number of seconds; null is for ever.
    By(Expr),
}

impl Lifetime {
    /// The expression inside, to be compiled.
    pub fn expr_mut(&mut self) -> Option<&mut Expr> {
        match self {
            Lifetime::Fixed(_) => None,
            Lifetime::By(expr) => Some(expr),
        }
    }

    /// How long a record's key is kept; `None` is for ever.
    ///
    /// # Errors
    /// The expression fails, or gives no time.
    pub(super) fn of(&self, scope: &Scope<'_>) -> Result<Option<Millis>, EvalError> {
        let expr = match self {
            Lifetime::Fixed(time) => return Ok(Some(*time)),
            Lifetime::By(expr) => expr,
        };
        let given = expr.eval(scope)?;
        let time = match &given {
            Json::Null => return Ok(None),
            Json::String(text) => text.parse::<Millis>().ok(),
            Json::Number(seconds) => {
                let seconds = seconds.as_f64().and_then(|n| Duration::try_from_secs_f64(n).ok());
                seconds.map(Millis::from)
            }
            Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
        };
        match time {
            Some(time) if time > Millis::ZERO => Ok(Some(time)),
            _ => {
                let text = expr.text();
                let message =
                    format!("ttl: `{text}` gave {given}: write `30m`, or a number of seconds above 0");
                Err(EvalError::Failed(message))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let whole = Expr::deserialize(d)?;
        // As `yaml/` hands expressions over. None of them is a number with a unit.
        Ok(whole.text().parse().map_or(Lifetime::By(whole), Lifetime::Fixed))
    }
}

/// Steps between the whole time and the shortest.
const STEPS: u32 = 1000;

/// `time` shortened by up to `part` of it, by the key: the same key always lives equally long.
pub(super) fn shortened(time: Millis, part: f64, key: &str) -> Millis {
    let mut hasher = ahash::RandomState::with_seeds(1, 2, 3, 4).build_hasher();
    hasher.write(key.as_bytes());
    let step = u32::try_from(hasher.finish() % u64::from(STEPS + 1)).unwrap_or(0);
    let left = 1.0 - part * f64::from(step) / f64::from(STEPS);
    Millis::from(time.duration().mul_f64(left)).max(Millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Record, Timestamp, Value};
    use serde_json::json;

    #[test]
    fn a_lifetime_is_the_files_or_the_records() {
        let read = |text: &str| serde_json::from_value::<Lifetime>(json!([0, 3, text])).expect("is read");
        assert_eq!(read("24h"), Lifetime::Fixed(Millis::secs(86_400)));
        let check = |text: &str, value: Json, expected: Result<Option<i64>, &str>| {
            let record = Record::new("k", Value::from(value), Timestamp(0));
            let got = read(text).of(&Scope::of(&record)).map(|time| time.map(|time| time.0));
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{text}"),
                (Err(got), Err(expected)) => assert!(got.to_string().contains(expected), "{got}"),
                other => panic!("{text}: {other:?}"),
            }
        };
        check("1m", json!({}), Ok(Some(60_000)));
        check(".t", json!({"t": "1h30m"}), Ok(Some(5_400_000)));
        check(".t", json!({"t": 1.5}), Ok(Some(1500)));
        check(".t", json!({}), Ok(None));
        check("30", json!({}), Ok(Some(30_000)));
        for bad in [json!(0), json!(-1), json!("soon"), json!(true), json!(1e300)] {
            check(".t", json!({ "t": bad }), Err("ttl: `.t` gave"));
        }
    }

    #[test]
    fn keys_written_together_do_not_end_together() {
        let day = Millis::secs(86_400);
        let times: Vec<i64> = (0..1000).map(|n| shortened(day, 0.1, &format!("post:{n}")).0).collect();
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(*least >= 77_760_000 && *least < 78_500_000, "{least}");
        assert!(*most <= day.0 && *most > 85_500_000, "{most}");
        assert_eq!(shortened(day, 0.1, "post:1"), shortened(day, 0.1, "post:1"));
        assert_eq!((shortened(day, 0.0, "k"), shortened(Millis(1), 0.9, "k")), (day, Millis(1)));
    }
}
