//! What the task makes of a record: one row of cells, `key`, `value`, `ttl_ms`, `score` and `version`, as far as the sink
//! has them. Pure; what Redis would never take is an error of its record here already, so that `tests:` see it.

use std::sync::Arc;

use super::{Command, RedisSinkConfig};
use crate::model::{Cell, Clock, EvalError, Json, Payload, Record, Scope, SinkRow};
use crate::sinks::TableSink;

/// The greatest whole number that a script of Redis, which has doubles, tells from the next.
const VERSION_MAX: u64 = 1 << 53;

/// The cells of a row. What the sink does not have is null.
pub(super) struct Cells<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a Json,
    pub(super) ttl_ms: Option<i64>,
    pub(super) score: &'a Json,
    pub(super) version: &'a Json,
    pub(super) delete: bool,
}

fn failed(message: impl Into<String>) -> EvalError {
    EvalError::Failed(message.into())
}

impl RedisSinkConfig {
    /// The cells that its rows have, in their order.
    fn names(&self) -> Vec<String> {
        let has = [
            ("key", true),
            ("value", self.command.takes_value()),
            ("ttl_ms", self.ttl.is_some()),
            ("score", self.score.is_some()),
            ("version", self.newer_wins.is_some()),
        ];
        has.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
    }

    /// The row of a record.
    pub(super) fn row(&self, record: &Record) -> Result<Payload, EvalError> {
        let scope = Scope::of(record);
        let command = self.command;
        let delete = command.deletes() || self.deletes().is(record)?;
        // Of a key that goes nothing else is needed, and a tombstone has nothing else.
        let lenient = delete && command.owns_its_key();
        let key = self.key.render(&scope, |text, out| out.push_str(text));
        let key = key.map_err(|e| e.context(|e| format!("key: {e}")))?;
        let mut cells = vec![Json::String(key)];
        if command.takes_value() {
            let value = match self.value(record).and_then(|value| self.checked(value)) {
                Err(_) if lenient => Json::Null,
                value => value?,
            };
            if let Some(field) = &self.newer_wins {
                // Before the value is moved.
                let version = match version(&value, field) {
                    Err(_) if lenient => Json::Null,
                    version => version?,
                };
                cells.push(value);
                cells.extend(self.lifetime(&scope, delete)?);
                cells.push(version);
                return Ok(payload(cells, delete));
            }
            cells.push(value);
        }
        cells.extend(self.lifetime(&scope, delete)?);
        if let Some(score) = &self.score {
            cells.push(match score.eval(&scope) {
                Ok(score @ Json::Number(_)) => score,
                _ if delete => Json::Null,
                Ok(other) => {
                    return Err(failed(format!("score: `{}` gave {other}, no number", score.text())));
                }
                Err(e) => return Err(e.context(|e| format!("score: {e}"))),
            });
        }
        Ok(payload(cells, delete))
    }

    /// The milliseconds that the key lives, if the sink has a time to live.
    fn lifetime(&self, scope: &Scope<'_>, delete: bool) -> Result<Option<Json>, EvalError> {
        let Some(ttl) = &self.ttl else { return Ok(None) };
        Ok(Some(match ttl.of(scope) {
            Err(_) if delete => Json::Null,
            time => time?.map_or(Json::Null, |time| Json::from(time.0)),
        }))
    }

    /// What is written: the expression's result, or the record's value; text that is no JSON as text.
    fn value(&self, record: &Record) -> Result<Json, EvalError> {
        if let Some(expr) = &self.value {
            return expr.eval(&Scope::of(record)).map_err(|e| e.context(|e| format!("value: {e}")));
        }
        match record.value.json() {
            Ok(json) => Ok(Arc::unwrap_or_clone(json)),
            Err(not_json) => {
                let bytes = record.value.bytes().unwrap_or_default();
                let text = std::str::from_utf8(&bytes).map_err(|_| EvalError::NotJson(not_json))?;
                Ok(Json::String(text.to_owned()))
            }
        }
    }

    /// Refuses what the command cannot write.
    fn checked(&self, value: Json) -> Result<Json, EvalError> {
        let versioned = self.newer_wins.is_some();
        match (&value, self.command) {
            (Json::Null, _) => Err(failed("value: it is null, and there is nothing to write")),
            (Json::Object(fields), Command::Hset | Command::Xadd) if fields.is_empty() => {
                Err(failed("value: an object without fields"))
            }
            (Json::Object(_), _) => Ok(value),
            (other, Command::Hset) => Err(failed(format!("value: {other} is no object of fields"))),
            (other, _) if versioned => {
                Err(failed(format!("value: {other} is no object, and has no version (`newer_wins`)")))
            }
            _ => Ok(value),
        }
    }

    /// The cells of a row again.
    pub(super) fn cells<'a>(&self, row: &'a SinkRow) -> Option<Cells<'a>> {
        static NULL: Json = Json::Null;
        let (cells, delete) = match &row.payload {
            Payload::Columns(cells) => (cells, false),
            Payload::Delete(cells) => (cells, true),
            Payload::Record | Payload::Message(_) => return None,
        };
        let mut cells = cells.iter();
        let mut next = |has: bool| match has.then(|| cells.next()).flatten() {
            Some(Cell::Json(json)) => json,
            Some(Cell::CommitTimestamp) | None => &NULL,
        };
        Some(Cells {
            key: next(true).as_str()?,
            value: next(self.command.takes_value()),
            ttl_ms: next(self.ttl.is_some()).as_i64(),
            score: next(self.score.is_some()),
            version: next(self.newer_wins.is_some()),
            delete,
        })
    }

    /// Key and row, as `simulate` shows them.
    pub(super) fn show_row(&self, row: &SinkRow) -> (Json, Json) {
        let (cells, delete) = match &row.payload {
            Payload::Columns(cells) => (cells, false),
            Payload::Delete(cells) => (cells, true),
            Payload::Record | Payload::Message(_) => return (Json::Null, row.record.value.show()),
        };
        let all = self.names().into_iter().zip(cells).filter_map(|(name, cell)| match cell {
            Cell::Json(Json::Null) | Cell::CommitTimestamp => None,
            // It stands in the value.
            Cell::Json(_) if name == "version" => None,
            // Of a deletion, what goes: the key, or a member of it.
            Cell::Json(_) if delete && name != "key" && (name != "value" || self.command.owns_its_key()) => {
                None
            }
            Cell::Json(json) => Some((name, json.clone())),
        });
        let all: serde_json::Map<String, Json> = all.collect();
        let key = all.get("key").cloned().unwrap_or_default();
        let all = Json::Object(all);
        (key, if delete { serde_json::json!({ "delete": all }) } else { all })
    }

    /// A table with a row for each key, or for each entry of one where a key has several.
    pub(super) fn table_in_memory(&self, clock: Arc<dyn Clock>) -> TableSink {
        let one = self.command.owns_its_key() || !self.command.takes_value();
        let key: &[&str] = if one { &["key"] } else { &["key", "value"] };
        let newer = self.newer_wins.as_ref().map(|_| "version");
        let merged = (self.command == Command::Hset).then_some("value");
        TableSink::of_cells(&self.names(), key, newer, merged, clock)
    }
}

fn payload(cells: Vec<Json>, delete: bool) -> Payload {
    let cells = cells.into_iter().map(Cell::Json).collect();
    if delete { Payload::Delete(cells) } else { Payload::Columns(cells) }
}

/// The version in a value.
fn version(value: &Json, field: &str) -> Result<Json, EvalError> {
    let found = value.get(field).unwrap_or(&Json::Null);
    match found {
        Json::String(_) => Ok(found.clone()),
        Json::Number(n) => {
            let whole = n.as_u64().or_else(|| n.as_i64().map(i64::unsigned_abs));
            match whole {
                Some(n) if n > VERSION_MAX => {
                    Err(failed(format!("newer_wins: {found} is further than 2^53 from 0: write it as text")))
                }
                _ => Ok(found.clone()),
            }
        }
        _ => Err(failed(format!("newer_wins: `{field}` is {found}, neither a number nor text"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Expr, ManualClock, Millis, Template, Timestamp, Value};
    use crate::sinks::SinkSettings;
    use crate::sinks::redis::Lifetime;
    use serde_json::json;

    fn config(command: Command) -> RedisSinkConfig {
        RedisSinkConfig::new(command, Template::new("k:{{ key }}", None).expect("a template"))
    }

    /// What a record of key `a` shows as, or why it has no row.
    fn shown(config: &RedisSinkConfig, value: Json) -> Json {
        let value = if value.is_null() { Value::Null } else { Value::from(value) };
        let record = Record::new("a", value, Timestamp(0));
        match config.payload(&record) {
            Ok(payload) => config.show(&SinkRow { reply_to: None, record, payload }, Timestamp(0)).1,
            Err(e) => json!(e.to_string()),
        }
    }

    #[test]
    fn a_row_shows_what_is_written() {
        let set = RedisSinkConfig { ttl: Some(Lifetime::Fixed(Millis::secs(1))), ..config(Command::Set) };
        assert_eq!(shown(&set, json!({"n": 1})), json!({"key": "k:a", "value": {"n": 1}, "ttl_ms": 1000}));
        assert_eq!(shown(&set, json!(null)), json!({"delete": {"key": "k:a"}}));
        let del = config(Command::Del);
        assert_eq!(shown(&del, json!({"n": 1})), json!({"delete": {"key": "k:a"}}));
        let member = |command| RedisSinkConfig { value: Some(Expr::new(".m", None)), ..config(command) };
        assert_eq!(shown(&member(Command::Sadd), json!({"m": "x"})), json!({"key": "k:a", "value": "x"}));
        assert_eq!(
            shown(&member(Command::Srem), json!({"m": "x"})),
            json!({"delete": {"key": "k:a", "value": "x"}})
        );
        let zadd = RedisSinkConfig { score: Some(Expr::new(".s", None)), ..member(Command::Zadd) };
        assert_eq!(
            shown(&zadd, json!({"m": "x", "s": 1.5})),
            json!({"key": "k:a", "value": "x", "score": 1.5})
        );
        let zrem = RedisSinkConfig { delete_when: Some(Expr::new(".gone", None)), ..zadd };
        assert_eq!(
            shown(&zrem, json!({"m": "x", "gone": true})),
            json!({"delete": {"key": "k:a", "value": "x"}})
        );
    }

    #[test]
    fn what_redis_would_never_take_is_an_error_of_its_record() {
        let check = |config: &RedisSinkConfig, value: Json, part: &str| {
            let said = shown(config, value);
            assert!(said.as_str().is_some_and(|said| said.contains(part)), "{said}");
        };
        let of = |value: &str, config| RedisSinkConfig { value: Some(Expr::new(value, None)), ..config };
        check(&of(".v", config(Command::Set)), json!({}), "it is null");
        check(&config(Command::Hset), json!({}), "without fields");
        check(&config(Command::Hset), json!([1]), "no object of fields");
        check(&config(Command::Sadd), json!(null), "it is null");
        let newer = RedisSinkConfig { newer_wins: Some("v".into()), ..config(Command::Set) };
        check(&newer, json!("text"), "has no version");
        check(&newer, json!({"v": null}), "`v` is null");
        check(&newer, json!({"v": 9_007_199_254_740_993_i64}), "write it as text");
        let zadd = RedisSinkConfig { score: Some(Expr::new(".s", None)), ..config(Command::Zadd) };
        check(&zadd, json!({"s": "1"}), "no number");
        let path = Template::new("k:{{ .slug }}", None).expect("a template");
        check(&RedisSinkConfig { key: path, ..config(Command::Set) }, json!(null), "key: ");
    }

    #[test]
    fn a_table_in_memory_does_as_redis() {
        // Values for key `a`, one after the other; what stands under the key then.
        let check = |config: &RedisSinkConfig, values: &[Json], expected: Json| {
            let table = config.table_in_memory(Arc::new(ManualClock::default()));
            for value in values {
                let value = if value.is_null() { Value::Null } else { Value::from(value.clone()) };
                let record = Record::new("a", value, Timestamp(0));
                let payload = config.payload(&record).expect("is evaluated");
                table.put(&SinkRow { reply_to: None, record, payload }).expect("is written");
            }
            let rows: Vec<Json> = table.rows().into_iter().map(|row| row["value"].clone()).collect();
            assert_eq!(Json::from(rows), expected, "{values:?}");
        };
        let (one, two) = (json!({"v": 1, "a": "x"}), json!({"v": 2, "b": "y"}));
        check(&config(Command::Set), &[two.clone(), one.clone()], json!([one]));
        check(&config(Command::Set), &[one.clone(), json!(null)], json!([]));
        check(&config(Command::Hset), &[one.clone(), two.clone()], json!([{"v": 2, "a": "x", "b": "y"}]));
        check(&config(Command::Hset), &[one.clone(), json!({"a": null})], json!([{"v": 1}]));
        let newer = |command| RedisSinkConfig { newer_wins: Some("v".into()), ..config(command) };
        check(&newer(Command::Set), &[two.clone(), one.clone()], json!([two]));
        check(&newer(Command::Hset), &[two.clone(), one.clone()], json!([two]));
        check(&config(Command::Sadd), &[json!("x"), json!("y"), json!("x")], json!(["x", "y"]));
    }
}
