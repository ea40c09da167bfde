//! A pending entry's row for people.

use super::row::Row;
use super::{DebounceConfig, KeepConfig, headers};
use crate::model::{Headers, Json};
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;

impl DebounceConfig {
    /// What a key waits with: its events, and when they are due at the latest. `None` if the bytes are no such row.
    #[must_use]
    pub fn describe_row(&self, key: &[u8], value: &[u8]) -> Option<Described> {
        let row = Row::decode(value).ok()?;
        let held = match (row.value, &self.keep) {
            (None, _) => Json::Null,
            // The list is kept without its brackets.
            (Some(items), KeepConfig::All) => describe::bytes(&[b"[", items, b"]"].concat()),
            (Some(value), _) => describe::bytes(value),
        };
        let after = |from: i64, by: Option<crate::model::Millis>| by.map(|by| from.saturating_add(by.0));
        let due =
            [after(row.last, self.quiet), after(row.first, self.settle), after(row.first, self.max_wait)];
        let mut out = serde_json::json!({
            "count": row.count,
            "first": row.first_ts,
            "last": row.last_ts,
            "due": due.into_iter().flatten().min(),
            "value": held,
        });
        let sent = Headers::new(headers::decode(row.extra).unwrap_or_default());
        if !sent.is_empty() {
            out["headers"] = describe::headers(&sent);
        }
        Some(Described::of_key(key, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Millis;
    use serde_json::json;

    #[test]
    fn an_entry_is_shown_with_its_list_and_when_it_is_due() {
        let row =
            Row { count: 2, first: 10, last: 20, first_ts: 1, last_ts: 2, extra: b"", value: Some(b"1,2") };
        let mut bytes = Vec::new();
        row.encode(&mut bytes);
        let mut config = DebounceConfig::quiet(Millis(100));
        config.keep = KeepConfig::All;
        let shown = config.describe_row(b"k", &bytes).expect("is a row");
        assert_eq!(shown.key, json!("k"));
        assert_eq!(shown.value, json!({"count": 2, "first": 1, "last": 2, "due": 120, "value": [1, 2]}));
        config.max_wait = Some(Millis(50));
        assert_eq!(config.describe_row(b"k", &bytes).expect("is a row").value["due"], json!(60));
        assert_eq!(config.describe_row(b"k", b"?"), None);
    }
}
