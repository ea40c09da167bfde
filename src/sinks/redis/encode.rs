//! Rows as commands of Redis.

use std::borrow::Cow;
use std::collections::HashMap;

use super::lifetime::shortened;
use super::row::Cells;
use super::script::{HASH, Lua, UNLESS_NEWER, WITH_TTL};
use super::{Command, OnDelete, RedisSinkConfig};
use crate::clients::redis::{GONE, Pipeline, cmd, pipe, slot};
use crate::model::{Json, Millis, SinkRow};

/// One command: a plain one (`words` is its name and what follows the key), or a script on the key.
pub(super) struct Encoded<'a> {
    /// The row's place in the batch.
    pub(super) at: usize,
    /// Older rows, which it makes needless: they have its answer.
    also: Vec<usize>,
    pub(super) key: Cow<'a, str>,
    script: Option<&'static Lua>,
    words: Vec<Cow<'a, str>>,
}

impl Encoded<'_> {
    /// The rows that it is the command of.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> + '_ {
        self.also.iter().copied().chain([self.at])
    }
}

impl RedisSinkConfig {
    /// The commands of a batch, in its order; `refuse` takes rows that have none.
    pub(super) fn encode<'a>(
        &self,
        batch: &'a [SinkRow],
        mut refuse: impl FnMut(usize, &'static str),
    ) -> Vec<Encoded<'a>> {
        let last_wins = self.command.replaces() && self.newer_wins.is_none();
        let mut rows: Vec<Encoded<'a>> = Vec::with_capacity(batch.len());
        let mut of_key: HashMap<&str, usize> = HashMap::new();
        for (at, row) in batch.iter().enumerate() {
            let Some(cells) = self.cells(row) else {
                refuse(at, "was given a row without its cells");
                continue;
            };
            let mut encoded = self.command_of(at, &cells);
            if last_wins {
                let place = *of_key.entry(cells.key).or_insert(rows.len());
                if let Some(older) = rows.get_mut(place) {
                    encoded.also = std::mem::take(&mut older.also);
                    encoded.also.push(older.at);
                    *older = encoded;
                    continue;
                }
            }
            rows.push(encoded);
        }
        rows
    }

    fn command_of<'a>(&self, at: usize, cells: &Cells<'a>) -> Encoded<'a> {
        let time = |ms: i64| shortened(Millis(ms), self.jitter, cells.key).0.to_string();
        let ttl = cells.ttl_ms.map(time);
        let (script, words) = match (self.command, cells.delete) {
            (Command::Hset, false) => self.hash(cells, ttl),
            (Command::Set | Command::Hset, _) => self.whole(cells, ttl),
            (Command::Del, _) => (None, vec!["UNLINK".into()]),
            (Command::Expire, _) => (None, vec!["PEXPIRE".into(), ttl.unwrap_or_default().into()]),
            (Command::Srem, _) | (Command::Sadd, true) => (None, vec!["SREM".into(), text(cells.value)]),
            (Command::Zadd, true) => (None, vec!["ZREM".into(), text(cells.value)]),
            (Command::Sadd, false) => kept(vec!["SADD".into(), text(cells.value)], ttl),
            (Command::Zadd, false) => kept(vec!["ZADD".into(), text(cells.score), text(cells.value)], ttl),
            (Command::Xadd, _) => kept(self.entry(cells.value), ttl),
            (Command::Publish, _) => (None, vec!["PUBLISH".into(), text(cells.value)]),
        };
        Encoded { at, also: Vec::new(), key: cells.key.into(), script, words }
    }

    /// The key's whole value is written, or goes.
    fn whole<'a>(&self, cells: &Cells<'a>, ttl: Option<String>) -> (Option<&'static Lua>, Vec<Cow<'a, str>>) {
        let mut words: Vec<Cow<'a, str>> = match (cells.delete, self.on_delete) {
            (false, _) => vec!["SET".into(), text(cells.value)],
            (true, OnDelete::Delete) => vec!["UNLINK".into()],
            (true, OnDelete::Marker(_)) => vec!["SET".into(), GONE.into()],
        };
        let ttl = match self.on_delete {
            _ if !cells.delete => ttl,
            OnDelete::Marker(time) => Some(time.0.to_string()),
            OnDelete::Delete => None,
        };
        if let Some(ttl) = ttl {
            words.extend(["PX".into(), ttl.into()]);
        }
        match &self.newer_wins {
            Some(field) if !cells.version.is_null() => {
                let what = if self.command == Command::Hset { "hash" } else { "string" };
                let equal_will_do = if cells.delete { "1" } else { "0" };
                let mut all: Vec<Cow<'a, str>> = vec![what.into(), Cow::Owned(field.clone())];
                all.extend([text(cells.version), kind(cells.version).into(), equal_will_do.into()]);
                all.append(&mut words);
                (Some(&UNLESS_NEWER), all)
            }
            _ => (None, words),
        }
    }

    /// Fields of the key's hash are set and removed.
    fn hash<'a>(&self, cells: &Cells<'a>, ttl: Option<String>) -> (Option<&'static Lua>, Vec<Cow<'a, str>>) {
        let fields = cells.value.as_object().into_iter().flatten();
        let (gone, set): (Vec<_>, Vec<_>) = fields.partition(|(_, value)| value.is_null());
        let pairs = set.into_iter().flat_map(|(name, value)| [name.as_str().into(), text(value)]);
        if gone.is_empty() && ttl.is_none() && self.newer_wins.is_none() {
            return (None, std::iter::once("HSET".into()).chain(pairs).collect());
        }
        let mut words: Vec<Cow<'a, str>> = vec![ttl.map_or("0".into(), Cow::Owned)];
        words.push(Cow::Owned(self.newer_wins.clone().unwrap_or_default()));
        words.extend([text(cells.version), kind(cells.version).into()]);
        words.push(gone.len().to_string().into());
        words.extend(gone.into_iter().map(|(name, _)| name.as_str().into()));
        words.extend(pairs);
        (Some(&HASH), words)
    }

    /// An entry of a stream; Redis gives it its number.
    fn entry<'a>(&self, value: &'a Json) -> Vec<Cow<'a, str>> {
        let mut words: Vec<Cow<'a, str>> = vec!["XADD".into()];
        if let Some(length) = self.max_len {
            words.extend(["MAXLEN".into(), "~".into(), length.to_string().into()]);
        }
        words.push("*".into());
        match value {
            Json::Object(fields) => {
                words.extend(fields.iter().flat_map(|(name, value)| [name.as_str().into(), text(value)]));
            }
            other => words.extend(["value".into(), text(other)]),
        }
        words
    }
}

/// A command that leaves a key, with the key's time to live.
fn kept(mut words: Vec<Cow<'_, str>>, ttl: Option<String>) -> (Option<&'static Lua>, Vec<Cow<'_, str>>) {
    match ttl {
        None => (None, words),
        Some(ttl) => {
            words.insert(0, ttl.into());
            (Some(&WITH_TTL), words)
        }
    }
}

/// Text as it is, anything else as JSON.
fn text(json: &Json) -> Cow<'_, str> {
    match json {
        Json::String(text) => text.as_str().into(),
        Json::Null => "".into(),
        other => other.to_string().into(),
    }
}

/// How scripts compare a version.
fn kind(version: &Json) -> &'static str {
    if version.is_number() { "n" } else { "s" }
}

/// The rows that may be sent in one pipeline, in their order: in a cluster those of one slot.
pub(super) fn groups(rows: Vec<Encoded<'_>>, cluster: bool) -> Vec<Vec<Encoded<'_>>> {
    if !cluster {
        return vec![rows];
    }
    let mut groups: Vec<Vec<Encoded<'_>>> = Vec::new();
    let mut of_slot = HashMap::new();
    for row in rows {
        let place = *of_slot.entry(slot(&row.key)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// The commands as one pipeline; `whole`: Redis does all of them or none. A script is sent with its text once, and by its
/// name behind that.
pub(super) fn pipeline(rows: &[Encoded<'_>], whole: bool) -> Pipeline {
    let mut pipeline = pipe();
    if whole {
        pipeline.atomic();
    }
    let mut known: Vec<&str> = Vec::new();
    for row in rows {
        let command = match row.script {
            Some(script) => {
                let is_known = known.contains(&script.hash.as_str());
                let (name, what) = match is_known {
                    true => ("EVALSHA", &script.hash),
                    false => ("EVAL", &script.text),
                };
                if !is_known {
                    known.push(&script.hash);
                }
                let mut command = cmd(name);
                command.arg(what.as_str()).arg(1).arg(&*row.key);
                row.words.iter().for_each(|word| {
                    command.arg(&**word);
                });
                command
            }
            None => {
                let mut words = row.words.iter();
                let mut command = cmd(words.next().map_or("", |name| name));
                command.arg(&*row.key);
                words.for_each(|word| {
                    command.arg(&**word);
                });
                command
            }
        };
        pipeline.add_command(command);
    }
    pipeline
}

#[cfg(test)]
impl Encoded<'_> {
    /// A command of that key, for tests of what is answered.
    pub(super) fn of(at: usize, key: char) -> Encoded<'static> {
        let key = key.to_string().into();
        Encoded { at, also: Vec::new(), key, script: None, words: vec!["SET".into()] }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lifetime;
    use super::*;
    use crate::model::{Expr, Record, Template, Timestamp, Value};
    use crate::sinks::SinkSettings;
    use serde_json::json;

    fn config(command: Command) -> RedisSinkConfig {
        let key = Template::new("k:{{ key }}", None).expect("a template");
        RedisSinkConfig { jitter: 0.0, ..RedisSinkConfig::new(command, key) }
    }

    fn batch(config: &RedisSinkConfig, rows: &[(&str, Json)]) -> Vec<SinkRow> {
        let row = |(key, value): &(&str, Json)| {
            let value = if value.is_null() { Value::Null } else { Value::from(value.clone()) };
            let record = Record::new((*key).to_owned(), value, Timestamp(0));
            SinkRow { reply_to: None, payload: config.payload(&record).expect("is evaluated"), record }
        };
        rows.iter().map(row).collect()
    }

    /// The commands of rows, as text.
    #[track_caller]
    fn check(config: &RedisSinkConfig, rows: &[(&str, Json)], expected: &[&str]) {
        let batch = batch(config, rows);
        let encoded = config.encode(&batch, |at, why| panic!("{at}: {why}"));
        let said: Vec<String> = encoded
            .iter()
            .map(|row| {
                let name = match row.script {
                    Some(script) if script.hash == UNLESS_NEWER.hash => "newer: ",
                    Some(script) if script.hash == HASH.hash => "hash: ",
                    Some(_) => "ttl: ",
                    None => "",
                };
                let places: Vec<String> = row.all().map(|at| at.to_string()).collect();
                format!("{} {}{} {}", places.join(","), name, row.key, row.words.join(" "))
            })
            .collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn every_command_is_made() {
        let ttl = |config| RedisSinkConfig { ttl: Some(Lifetime::Fixed(Millis::secs(1))), ..config };
        let row = [("a", json!({"f": 1, "g": "x"}))];
        check(&config(Command::Set), &row, &[r#"0 k:a SET {"f":1,"g":"x"}"#]);
        check(&ttl(config(Command::Set)), &[("a", json!("x"))], &["0 k:a SET x PX 1000"]);
        check(&config(Command::Set), &[("a", json!(null))], &["0 k:a UNLINK"]);
        let marker = RedisSinkConfig { on_delete: OnDelete::Marker(Millis(5)), ..ttl(config(Command::Set)) };
        check(&marker, &[("a", json!(null))], &["0 k:a SET null PX 5"]);
        check(&config(Command::Hset), &row, &["0 k:a HSET f 1 g x"]);
        check(&ttl(config(Command::Hset)), &row, &["0 hash: k:a 1000   s 0 f 1 g x"]);
        let gone = [("a", json!({"f": 1, "g": null}))];
        check(&config(Command::Hset), &gone, &["0 hash: k:a 0   s 1 g f 1"]);
        check(&config(Command::Hset), &[("a", json!(null))], &["0 k:a UNLINK"]);
        check(&config(Command::Del), &row, &["0 k:a UNLINK"]);
        check(&ttl(config(Command::Expire)), &row, &["0 k:a PEXPIRE 1000"]);
        let member = |command| RedisSinkConfig { value: Some(Expr::new(".g", None)), ..config(command) };
        check(&member(Command::Sadd), &row, &["0 k:a SADD x"]);
        check(&ttl(member(Command::Sadd)), &row, &["0 ttl: k:a 1000 SADD x"]);
        check(&member(Command::Srem), &row, &["0 k:a SREM x"]);
        let zadd = RedisSinkConfig { score: Some(Expr::new(".f", None)), ..member(Command::Zadd) };
        check(&zadd, &row, &["0 k:a ZADD 1 x"]);
        let zrem = RedisSinkConfig { delete_when: Some(Expr::new(".gone", None)), ..zadd };
        check(&zrem, &[("a", json!({"g": "x", "gone": true}))], &["0 k:a ZREM x"]);
        check(&config(Command::Xadd), &row, &["0 k:a XADD * f 1 g x"]);
        let short = RedisSinkConfig { max_len: Some(9), ..config(Command::Xadd) };
        check(&short, &[("a", json!(1))], &["0 k:a XADD MAXLEN ~ 9 * value 1"]);
        check(&config(Command::Publish), &[("a", json!("x"))], &["0 k:a PUBLISH x"]);
    }

    #[test]
    fn the_newer_one_wins_by_script() {
        let newer = |command| RedisSinkConfig { newer_wins: Some("v".into()), ..config(command) };
        let row = [("a", json!({"v": 3}))];
        check(&newer(Command::Set), &row, &[r#"0 newer: k:a string v 3 n 0 SET {"v":3}"#]);
        check(&newer(Command::Hset), &row, &["0 hash: k:a 0 v 3 n 0 v 3"]);
        let text = [("a", json!({"v": "2025-01-01"}))];
        check(&newer(Command::Hset), &text, &["0 hash: k:a 0 v 2025-01-01 s 0 v 2025-01-01"]);
        let delete_when = Some(Expr::new(".gone", None));
        let deletes = RedisSinkConfig { delete_when, ..newer(Command::Hset) };
        check(&deletes, &[("a", json!({"v": 3, "gone": true}))], &["0 newer: k:a hash v 3 n 1 UNLINK"]);
        // A tombstone has no version.
        check(&newer(Command::Set), &[("a", json!(null))], &["0 k:a UNLINK"]);
        // Each is asked for: which is newer only Redis knows.
        check(
            &newer(Command::Hset),
            &[("a", json!({"v": 3})), ("a", json!({"v": 2}))],
            &["0 hash: k:a 0 v 3 n 0 v 3", "1 hash: k:a 0 v 2 n 0 v 2"],
        );
    }

    #[test]
    fn of_equal_keys_the_last_one_is_sent_where_it_replaces_the_others() {
        let rows = [("a", json!(1)), ("b", json!(2)), ("a", json!(3)), ("a", json!(null))];
        check(&config(Command::Set), &rows[..3], &["0,2 k:a SET 3", "1 k:b SET 2"]);
        check(&config(Command::Set), &rows, &["0,2,3 k:a UNLINK", "1 k:b SET 2"]);
        let all = ["0 k:a SADD 1", "1 k:b SADD 2", "2 k:a SADD 3"];
        check(&config(Command::Sadd), &rows[..3], &all);
    }

    #[test]
    fn in_a_cluster_a_pipeline_has_one_slot() {
        let config = config(Command::Sadd);
        let rows = [("{x}1", json!(1)), ("y", json!(2)), ("{x}2", json!(3)), ("{x}1", json!(4))];
        let batch = batch(&config, &rows);
        let sizes = |cluster| -> Vec<usize> {
            groups(config.encode(&batch, |_, _| {}), cluster).iter().map(Vec::len).collect()
        };
        assert_eq!((sizes(true), sizes(false)), (vec![3, 1], vec![4]));
    }

    #[test]
    fn a_script_is_sent_once() {
        let config = RedisSinkConfig { newer_wins: Some("v".into()), ..config(Command::Hset) };
        let batch = batch(&config, &[("a", json!({"v": 1})), ("b", json!({"v": 2}))]);
        let rows = config.encode(&batch, |_, _| {});
        let sent = String::from_utf8_lossy(&pipeline(&rows, false).get_packed_pipeline()).into_owned();
        assert_eq!((sent.matches("\r\nEVAL\r\n").count(), sent.matches("EVALSHA").count()), (1, 1));
        assert!(!sent.contains("MULTI"));
        let whole = pipeline(&rows, true).get_packed_pipeline();
        assert!(String::from_utf8_lossy(&whole).contains("MULTI"));
    }
}
