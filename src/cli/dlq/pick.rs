//! Which dead letters a command is about.

use clap::Args;

use crate::model::{Clock, Millis, Reason, SystemClock, Timestamp, TimestampFormat};
use crate::runtime::DeadLetter;

/// All of these have to fit.
#[derive(Debug, Args)]
pub(super) struct Pick {
    /// Only those of this reason: `not_json`, `sink_refused`, ...
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Option<Reason>,
    /// Only those that this node refused.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only records that are not older: `2h` (so long ago), or a time, `2026-11-30T12:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Only records with this key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl Pick {
    pub(super) fn takes(&self, letter: &DeadLetter) -> bool {
        self.reason.is_none_or(|reason| letter.reason == reason)
            && self.node.as_ref().is_none_or(|node| letter.node == *node)
            && self.since.is_none_or(|since| letter.record.ts >= since)
            && self.key.as_ref().is_none_or(|key| letter.record.key.as_deref() == Some(key.as_bytes()))
    }
}

fn reason(text: &str) -> Result<Reason, String> {
    Reason::named(text).ok_or_else(|| {
        let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("there is no such reason: {}", names.join(", "))
    })
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(Millis(ago)) = text.parse::<Millis>() {
        return Ok(Timestamp(SystemClock.now().0.saturating_sub(ago)));
    }
    let at = TimestampFormat::Rfc3339.read(&text.into());
    at.ok_or_else(|| "neither a duration like `2h` nor a time like `2026-11-30T12:00:00Z`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Record, Value};

    #[test]
    fn what_is_asked_for_has_to_fit() {
        let letter = DeadLetter {
            reason: Reason::NotJson,
            error: String::new(),
            node: "orders".into(),
            attempts: 1,
            from: None,
            record: Record::new("k", Value::Null, Timestamp(1000)),
        };
        let check =
            |reason: Option<&str>, node: Option<&str>, at: Option<&str>, key: Option<&str>, takes: bool| {
                let pick = Pick {
                    reason: reason.map(|text| super::reason(text).expect("a reason")),
                    node: node.map(str::to_owned),
                    since: at.map(|text| since(text).expect("a time")),
                    key: key.map(str::to_owned),
                };
                assert_eq!(pick.takes(&letter), takes, "{pick:?}");
            };
        check(None, None, None, None, true);
        check(Some("not_json"), Some("orders"), Some("1970-01-01T00:00:01Z"), Some("k"), true);
        check(Some("expression"), None, None, None, false);
        check(None, Some("other"), None, None, false);
        check(None, None, Some("1h"), None, false);
        check(None, None, None, Some("K"), false);
        assert!(super::reason("bad").is_err_and(|e| e.contains("sink_refused")));
        assert!(since("yesterday").is_err());
    }
}
